//! Removing the name of a segment that nobody uses.

use crate::error::{Errno, Result};
use crate::shm::segment::file_io::{Inode, read_header};
use crate::shm::segment::header::{GONE, MIXED, NETWORK_AT, STATE_AT};
use crate::shm::segment::participant;
use crate::shm::segment::{dead_fifos, name};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// What to do with an unused name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shm) enum MembershipVerdict {
    Stays,
    Goes,
    /// It goes; and where this process may not take it away, its file is to say that nothing is
    /// there.
    Stale,
}

/// Takes a segment's name away if nobody has it open, and `judge` says, when nobody can come any
/// more, that it is to go. Whether it did.
pub(in crate::shm) fn retire(
    fd: BorrowedFd<'_>,
    path: &Path,
    inode: Inode,
    judge: impl FnOnce() -> Result<MembershipVerdict, Errno>,
) -> Result<bool, Errno> {
    if !participant::lock_all(fd)? {
        return Ok(false);
    }
    // While it is barred nobody else takes the name from this file.
    let result = match has_name(path, inode) {
        Ok(true) => judge().and_then(|verdict| execute(fd, path, verdict)),
        other => other,
    };
    participant::unlock_all(fd);
    result
}

/// The number of a segment that participants of several network namespaces have used, by its file.
pub(super) fn mixed(fd: BorrowedFd<'_>) -> Option<u64> {
    let mut network = [0; 8];
    let count = rustix::io::pread(fd, &mut network, NETWORK_AT as u64).ok()?;
    if count < network.len() || u64::from_ne_bytes(network) != MIXED {
        return None;
    }
    read_header(fd).ok()?.ok().map(|(facts, _)| facts.id)
}

pub(super) fn execute(
    fd: BorrowedFd<'_>,
    path: &Path,
    verdict: MembershipVerdict,
) -> Result<bool, Errno> {
    if verdict == MembershipVerdict::Stays {
        return Ok(false);
    }
    // First: when the name has gone, or the header says so, nobody can tell any more whose they
    // were.
    if let Some(segment) = mixed(fd) {
        dead_fifos::remove(name::parent(path), segment, |_| false);
    }
    match rustix::fs::unlink(path) {
        // In a directory with the sticky bit only its owner may. Others must not find what it
        // holds.
        Err(errno @ (Errno::PERM | Errno::ACCESS)) if verdict == MembershipVerdict::Stale => {
            say_gone(fd)?;
            Err(errno)
        }
        result => result.map(|()| true),
    }
}

/// Whether a path names this file. It takes no descriptor: the caller may have none to spare.
pub(super) fn has_name(path: &Path, inode: Inode) -> Result<bool, Errno> {
    match sys::file::status_of(path) {
        Ok(status) => Ok((status.device, status.inode) == inode),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Writes into the header of a segment, which is barred, that nothing is there.
pub(super) fn say_gone(fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let state = GONE.to_ne_bytes();
    // The kernel would write a part of it.
    if sys::file::size_limit().is_some_and(|limit| limit < (STATE_AT + state.len()) as u64) {
        return Err(Errno::FBIG);
    }
    match sys::size_limit::within(|| rustix::io::pwrite(fd, &state, STATE_AT as u64))? {
        count if count == state.len() => Ok(()),
        _ => Err(Errno::NOSPC),
    }
}
