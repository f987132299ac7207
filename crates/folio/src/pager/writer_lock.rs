//! One writing pager a file, among all processes: a lock that belongs to an open file description.
//!
//! A pager writes whole pages back, so two of them on one file would undo each other's stores. A
//! writable map holds one byte of its file, which lies beyond the end of any file that exists:
//! programs that lock records do not meet it. Shared memory has its locks at 2^62. The lock stops
//! neither write(2) nor the kernel's maps.
//!
//! Source: fcntl(2), F_OFD_SETLK.

use crate::source::LocalFile;
use crate::source::file::reopen;
use crate::sys::fork::{self, OwnFd};
use crate::sys::{Errno, identity, ofd_lock};
use rustix::fs::OFlags;
use std::ops::Range;
use std::os::fd::AsFd;

/// The byte.
const BYTE: Range<u64> = 1 << 61..(1 << 61) + 1;

/// The lock, held until this is dropped or the process ends. A forked child does not keep it.
#[derive(Debug)]
pub(super) struct WriterLock {
    fd: Option<OwnFd>,
    process: u64,
}

/// The result of an attempt to take the lock.
#[derive(Debug)]
pub(super) enum LockAttempt {
    Held(WriterLock),
    /// A pager of another process has it.
    Taken,
    /// A lock on a longer range covers the byte: some program's own.
    Covered,
    /// The file system has no such locks now (ENOLCK), the file cannot be opened once more, or a
    /// record lock of this process is in the way (EAGAIN).
    Refused(Errno),
}

impl WriterLock {
    /// Takes the lock of a file; nothing is waited for.
    pub(super) fn take(file: &LocalFile) -> LockAttempt {
        // Children close the descriptor, and the lock ends with this process. The file system may
        // keep each of these calls waiting: no thread that forks waits for them.
        let fd = match fork::open_own(|| reopen(file.as_fd(), OFlags::RDWR | OFlags::NONBLOCK)) {
            Ok(fd) => fd,
            Err(errno) => return LockAttempt::Refused(errno),
        };
        let locked = ofd_lock::try_lock(fd.as_fd(), &BYTE);
        let attempt = match locked {
            Ok(true) => None,
            Ok(false) => Some(match ofd_lock::is_held_elsewhere(fd.as_fd(), &BYTE) {
                // The program keeps others out itself.
                _ if ofd_lock::is_own_record_lock(fd.as_fd(), &BYTE) => {
                    LockAttempt::Refused(Errno::AGAIN)
                }
                Ok(Some(range)) if range != BYTE => LockAttempt::Covered,
                _ => LockAttempt::Taken,
            }),
            Err(errno) => Some(LockAttempt::Refused(errno)),
        };
        // Dropped, and the descriptor closed, where the lock is not held.
        let lock = Self { fd: Some(fd), process: identity::token() };
        attempt.unwrap_or(LockAttempt::Held(lock))
    }
}

impl Drop for WriterLock {
    fn drop(&mut self) {
        // A child has closed its copy, and the number may be another file's.
        if let Some(fd) = self.fd.take_if(|_| self.process == identity::token()) {
            // Before the children that may inherit the descriptor until it is closed: to close it
            // may take long.
            let _ = ofd_lock::unlock(fd.as_fd(), &BYTE);
            drop(fork::held_off(|forks| forks.release(fd)));
        }
    }
}
