//! Opening a path that may name a file of any type, without waiting.
//!
//! A FIFO opens only when its other end is opened too (fifo(7)), and some devices wait for a line.
//! `O_NONBLOCK` avoids both. The flag must not stay: reads of some devices and, through io_uring,
//! of files would then fail with EAGAIN.
//!
//! Source: open(2), fcntl(2) (leases).

use super::Errno;
use rustix::fs::{FileType, Mode, OFlags};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Opens `path` with `flags` and `O_CLOEXEC`. The call waits for no other process except the holder
/// of a lease (fcntl(2)) on the file, as open(2) does without `O_NONBLOCK`.
///
/// The caller checks the type: a FIFO is opened like any other file.
pub(crate) fn open(path: &Path, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
    let opened =
        rustix::io::retry_on_intr(|| rustix::fs::open(path, flags | OFlags::NONBLOCK, mode));
    let fd = match opened {
        // The file has a lease. The kernel has already asked the holder to give it up.
        Err(Errno::WOULDBLOCK) => return wait_for_lease(path, flags),
        result => result?,
    };
    // F_SETFL uses only the flags that it can change, and ignores the others.
    rustix::fs::fcntl_setfl(&fd, flags)?;
    Ok(fd)
}

/// Opens a file that has a lease. The kernel waits until the holder gives the lease up, or ends the
/// lease.
fn wait_for_lease(path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    // Only regular files have leases. The path may name a FIFO by now, so the file is looked up and
    // checked before it is opened.
    let follow = flags & OFlags::NOFOLLOW;
    let path_fd = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC | follow, Mode::empty())?;
    if FileType::from_raw_mode(rustix::fs::fstat(&path_fd)?.st_mode) != FileType::RegularFile {
        return Err(Errno::WOULDBLOCK);
    }
    let same_file = format!("/proc/self/fd/{}", path_fd.as_raw_fd());
    let flags = flags - (OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW);
    match rustix::io::retry_on_intr(|| rustix::fs::open(&same_file, flags, Mode::empty())) {
        Err(Errno::NOENT) if !super::process::has_proc() => {
            rustix::io::retry_on_intr(|| rustix::fs::open(path, flags | follow, Mode::empty()))
        }
        result => result,
    }
}
