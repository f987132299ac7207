//! Files that get their name when they are complete, and opening what has one without being led elsewhere.
//!
//! Source: open(2) (O_TMPFILE), linkat(2).

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A new file for reading and writing.
#[derive(Debug)]
pub(crate) struct Unnamed {
    pub(crate) fd: OwnedFd,
    /// The name it has meanwhile, where the file system has no files without one.
    temporary: Option<PathBuf>,
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = rustix::fs::unlink(temporary);
        }
    }
}

/// Makes a file in `dir` that nobody else can open by a name worth knowing. Where it must have a name, it is `temporary`.
pub(crate) fn create(dir: &Path, temporary: impl FnOnce() -> PathBuf) -> Result<Unnamed, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(fd) => Ok(Unnamed { fd, temporary: None }),
        // A kernel or a file system that does not know such files takes the directory for what is to be opened.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            let name = temporary();
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let fd = rustix::fs::open(&name, flags, mode)?;
            Ok(Unnamed { fd, temporary: Some(name) })
        }
        Err(errno) => Err(errno),
    }
}

impl Unnamed {
    /// Gives the file its name, in one step. EEXIST if something has it.
    pub(crate) fn link(&self, path: &Path) -> Result<(), Errno> {
        if let Some(temporary) = &self.temporary {
            return rustix::fs::linkat(CWD, temporary, CWD, path, AtFlags::empty());
        }
        let from = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        rustix::fs::linkat(CWD, from, CWD, path, AtFlags::SYMLINK_FOLLOW)
    }
}

/// Opens a file for reading and writing. ELOOP for a symbolic link; nothing is waited for.
pub(crate) fn open(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
}

/// Opens the file behind a descriptor anew, for reading and writing: a description of its own, with locks of its own.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::io::retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))
}
