//! Locks on bytes of a file that belong to an open file description: the kernel's own record of the
//! processes that live.
//!
//! Such a lock ends when the last descriptor of its description is closed. The kernel closes the
//! descriptors of a process that is killed. The locked bytes need not exist, so they can lie far
//! beyond the end of the file.
//!
//! Source: fcntl(2), F_OFD_SETLK and F_OFD_GETLK.

use super::check;
use rustix::io::Errno;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

fn request(kind: i32, range: &Range<u64>) -> libc::flock {
    // SAFETY: all zeroes is a valid `struct flock`. OFD locks require `l_pid` to be zero.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as i16;
    lock.l_whence = libc::SEEK_SET as i16;
    lock.l_start = range.start.cast_signed();
    lock.l_len = (range.end - range.start).cast_signed();
    lock
}

fn set(fd: BorrowedFd<'_>, kind: i32, range: &Range<u64>) -> Result<(), Errno> {
    let lock = request(kind, range);
    rustix::io::retry_on_intr(|| {
        // SAFETY: the kernel reads one `struct flock`.
        check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) }).map(drop)
    })
}

/// Locks the bytes for this description alone. `false` if another description holds a lock on one
/// of them. Never waits.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<bool, Errno> {
    match set(fd, libc::F_WRLCK, range) {
        Ok(()) => Ok(true),
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Unlocks the bytes, for every descriptor of the description.
pub(crate) fn unlock(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<(), Errno> {
    set(fd, libc::F_UNLCK, range)
}

/// The bytes of the first lock that another description holds in the range, if there is one.
pub(crate) fn is_held_elsewhere(
    fd: BorrowedFd<'_>,
    range: &Range<u64>,
) -> Result<Option<Range<u64>>, Errno> {
    let mut lock = request(libc::F_WRLCK, range);
    // SAFETY: the kernel reads and writes one `struct flock`.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) })?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = lock.l_start.cast_unsigned();
    // A length of zero means "to the end of all offsets".
    let end =
        if lock.l_len == 0 { u64::MAX } else { start.saturating_add(lock.l_len.cast_unsigned()) };
    Ok(Some(start..end))
}

/// Whether the first lock in the range that another description or owner holds is a record lock of
/// this process (`F_SETLK`).
#[cfg(feature = "pager")]
pub(crate) fn is_own_record_lock(fd: BorrowedFd<'_>, range: &Range<u64>) -> bool {
    let mut lock = request(libc::F_WRLCK, range);
    // SAFETY: the kernel reads and writes one `struct flock`.
    let asked = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) });
    // For locks of descriptions the kernel reports a `l_pid` of -1.
    asked.is_ok() && lock.l_pid == rustix::process::getpid().as_raw_nonzero().get()
}

#[cfg(test)]
mod tests {
    use super::{is_held_elsewhere, try_lock, unlock};
    use std::os::fd::AsFd;

    #[test]
    fn other_descriptions_see_a_lock_beyond_the_end_until_its_own_closes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let other = file.reopen().unwrap();
        let (mine, theirs) = (file.as_file().as_fd(), other.as_fd());
        let far = 1 << 62;
        assert_eq!(try_lock(mine, &(far + 5..far + 6)), Ok(true));
        assert_eq!(is_held_elsewhere(mine, &(far..far + 9)), Ok(None));
        assert_eq!(is_held_elsewhere(theirs, &(far..far + 9)), Ok(Some(far + 5..far + 6)));
        assert_eq!(try_lock(theirs, &(far..far + 9)), Ok(false));
        assert_eq!(try_lock(theirs, &(far + 6..far + 7)), Ok(true));
        unlock(mine, &(far + 5..far + 6)).unwrap();
        assert_eq!(try_lock(theirs, &(far..far + 9)), Ok(true));
        drop(other);
        assert_eq!(is_held_elsewhere(mine, &(far..far + 9)), Ok(None));
    }
}
