//! Files that get their name when they are complete, and opening what has one without being led
//! elsewhere.
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

/// Makes a file in `dir` that nobody else can open by a name worth knowing. Where it must have a
/// name, it is `temporary`.
pub(crate) fn create(dir: &Path, temporary: impl FnOnce() -> PathBuf) -> Result<Unnamed, Errno> {
    let mode = Mode::RUSR | Mode::WUSR;
    match rustix::fs::open(dir, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, mode) {
        Ok(fd) => Ok(Unnamed { fd, temporary: None }),
        // A kernel or a file system that does not know such files opens the directory itself.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL | Errno::NOSYS) => {
            create_named(temporary())
        }
        Err(errno) => Err(errno),
    }
}

fn create_named(temporary: PathBuf) -> Result<Unnamed, Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::open(&temporary, flags, Mode::RUSR | Mode::WUSR)?;
    Ok(Unnamed { fd, temporary: Some(temporary) })
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
    let flags =
        OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    rustix::io::retry_on_intr(|| rustix::fs::open(path, flags, Mode::empty()))
}

/// Opens the file behind a descriptor anew, for reading and writing: a description of its own, with
/// locks of its own.
pub(crate) fn reopen(fd: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::io::retry_on_intr(|| rustix::fs::open(&path, flags, Mode::empty()))
}

#[cfg(test)]
mod tests {
    use super::{Errno, Unnamed, create, create_named, open, reopen};
    use std::os::fd::AsFd;

    #[test]
    fn with_and_without_a_temporary_name_a_file_appears_at_once_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let temporary = || dir.path().join("temporary");
        let unnamed = || create(dir.path(), temporary);
        let named = || create_named(temporary());
        for make in [&unnamed as &dyn Fn() -> Result<Unnamed, Errno>, &named] {
            let file = make().unwrap();
            rustix::io::write(&file.fd, b"whole").unwrap();
            let path = dir.path().join("name");
            file.link(&path).unwrap();
            assert_eq!(file.link(&path), Err(Errno::EXIST));
            drop(file);
            assert_eq!((names(), std::fs::read(&path).unwrap()), (1, b"whole".to_vec()));
            std::fs::remove_file(&path).unwrap();
            drop(make().unwrap());
            assert_eq!(names(), 0);
        }
    }

    #[test]
    fn a_link_is_not_followed_and_a_file_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&path, "bytes").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(open(&link).unwrap_err(), Errno::LOOP);
        let one = open(&path).unwrap();
        let other = reopen(one.as_fd()).unwrap();
        rustix::fs::seek(&one, rustix::fs::SeekFrom::Start(3)).unwrap();
        assert_eq!(rustix::fs::tell(&other), Ok(0));
    }
}
