//! A FIFO that one process reads, and that others make readable by its name. While that process
//! lives somebody reads it, and nobody afterwards: its forked children have no descriptor of it.
//!
//! A file that others may plant under such a name is examined before it is opened, and opened by
//! the examined descriptor.
//!
//! Source: fifo(7), open(2) (`O_PATH`), pipe(7).

use crate::sys::file;
use crate::sys::fork;
use crate::sys::fork::OwnFd;
use crate::sys::{check, identity};
use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// The reading end, with its name.
#[derive(Debug)]
pub(crate) struct Fifo {
    /// `None` only while it is dropped.
    fd: Option<OwnFd>,
    path: PathBuf,
    /// The process that reads it.
    process: u64,
}

impl Fifo {
    /// Makes one, which every process that may write to the file `like` may signal. EEXIST if
    /// anything has the name.
    pub(crate) fn make(path: &Path, like: BorrowedFd<'_>) -> Result<Self, Errno> {
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        let opened = find(path).and_then(|found| {
            if rustix::fs::fstat(&found)?.st_uid != rustix::process::geteuid().as_raw() {
                return Err(Errno::PERM);
            }
            // One that can be written as well: it never ends, and so is readable for bytes only.
            fork::held_off(|forks| {
                open(&found, OFlags::RDWR).map(|fd| forks.keep_from_children(fd))
            })
        });
        match opened {
            Ok(fd) => {
                let fifo = Self { fd: Some(fd), path: path.to_owned(), process: identity::token() };
                give_rights(fifo.as_fd(), like)?;
                Ok(fifo)
            }
            // A process that may write to the directory has put something else in its place.
            Err(errno @ (Errno::PERM | Errno::INVAL | Errno::NOENT)) => Err(errno),
            Err(errno) => {
                let _ = rustix::fs::unlink(path);
                Err(errno)
            }
        }
    }

    /// The descriptor, for the process that made it.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.fd {
            Some(fd) => fd.as_fd(),
            None => unreachable!("it is being dropped"),
        }
    }

    /// Takes all bytes out.
    pub(crate) fn drain(&self) {
        /// As many as a FIFO holds; a process that signals all the time is no reason to stay here.
        const READS: usize = 16;
        let mut bytes = [0; 4096];
        let _ =
            (0..READS).find(|_| !matches!(rustix::io::read(self.as_fd(), &mut bytes), Ok(4096)));
    }
}

impl Drop for Fifo {
    fn drop(&mut self) {
        // In a forked child it is closed, and its number may be anyone's.
        if let Some(fd) = self.fd.take()
            && self.process == identity::token()
        {
            // It takes no descriptor: a process that leaves may have none to spare.
            let (named, read) = (file::status_of(&self.path), file::status(fd.as_fd()));
            let inode = |status: file::Status| (status.device, status.inode);
            if named.is_ok() && named.map(inode) == read.map(inode) {
                let _ = rustix::fs::unlink(&self.path);
            }
            fork::held_off(|forks| forks.close(fd));
        }
    }
}

/// Gives a file the owner, group and mode of another, as far as this process may.
fn give_rights(fd: BorrowedFd<'_>, like: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(like)?;
    let mut mode = Mode::from_raw_mode(stat.st_mode) & Mode::from_raw_mode(0o666);
    // The group first: one of this process's own must not get its rights.
    if rustix::fs::fchown(fd, None, Some(Gid::from_raw(stat.st_gid))).is_err() {
        // That has what all have: to the file it is of the others.
        let others = (mode & Mode::RWXO).as_raw_mode();
        mode = (mode & !Mode::RWXG) | Mode::from_raw_mode(others << 3);
    }
    rustix::fs::fchmod(fd, mode | Mode::RUSR | Mode::WUSR)?;
    if stat.st_uid != rustix::process::geteuid().as_raw() {
        // Only root can, and else the owner has the group's rights, or none.
        let _ = rustix::fs::fchown(fd, Some(Uid::from_raw(stat.st_uid)), None);
    }
    Ok(())
}

/// The file with the name, if it is a FIFO. Nobody notices.
fn find(path: &Path) -> Result<OwnedFd, Errno> {
    let found = file::find(path)?;
    let kind = file::status(found.as_fd())?.kind;
    if kind == FileType::Fifo { Ok(found) } else { Err(Errno::INVAL) }
}

/// Opens what was found, and waits for nobody.
fn open(found: &OwnedFd, how: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    rustix::fs::open(path, how | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

/// Whether a process reads the FIFO of this name. EINVAL if it is none.
pub(crate) fn is_read(path: &Path) -> Result<bool, Errno> {
    match open(&find(path)?, OFlags::WRONLY) {
        Ok(_) => Ok(true),
        Err(Errno::NXIO) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Makes the FIFO of this name readable. ENXIO if nobody reads it, EINVAL if it is none.
pub(crate) fn signal(path: &Path) -> Result<(), Errno> {
    let fd = open(&find(path)?, OFlags::WRONLY)?;
    match write_quietly(&fd) {
        // It is full of rings.
        Err(Errno::AGAIN) => Ok(()),
        Err(Errno::PIPE) => Err(Errno::NXIO),
        result => result,
    }
}

/// Writes a byte. A reader that dies meanwhile is EPIPE, and not the signal that would end this
/// process.
fn write_quietly(fd: &OwnedFd) -> Result<(), Errno> {
    let (mut pipe, mut before) = (no_signals(), no_signals());
    // SAFETY: all three are sets of signals, `before` to be stored to.
    unsafe {
        libc::sigaddset(&raw mut pipe, libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const pipe, &raw mut before);
    }
    let waiting = || {
        let mut pending = no_signals();
        // SAFETY: a set of signals to be stored to, and then read.
        unsafe {
            libc::sigpending(&raw mut pending) == 0
                && libc::sigismember(&raw const pending, libc::SIGPIPE) == 1
        }
    };
    let had_one = waiting();
    let written = rustix::io::write(fd, &[1]).map(drop);
    if written == Err(Errno::PIPE) && !had_one && waiting() {
        let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let take = || {
            // SAFETY: the kernel reads the set and the time, and stores nothing.
            check(unsafe {
                libc::sigtimedwait(&raw const pipe, std::ptr::null_mut(), &raw const now)
            })
        };
        while take() == Err(Errno::INTR) {}
    }
    // SAFETY: the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    written
}

fn no_signals() -> libc::sigset_t {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: the call initialises the set that it is given.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    }
}

/// Takes the name of a FIFO away that nobody reads. EBUSY if somebody does, EINVAL if it is none.
pub(crate) fn remove_unread(path: &Path) -> Result<(), Errno> {
    if is_read(path)? { Err(Errno::BUSY) } else { rustix::fs::unlink(path) }
}

#[cfg(test)]
mod tests {
    use super::{Errno, Fifo, is_read, remove_unread, signal};
    use std::os::fd::AsFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn is_readable(fifo: &Fifo) -> bool {
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(fifo.as_fd(), rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }))
            .unwrap()
            == 1
    }

    #[test]
    fn it_rings_until_it_is_drained_and_goes_with_its_reader() {
        let dir = tempfile::tempdir().unwrap();
        let (path, like) = (dir.path().join("fifo"), dir.path().join("like"));
        let file = std::fs::File::create(&like).unwrap();
        file.set_permissions(std::fs::Permissions::from_mode(0o640)).unwrap();
        let fifo = Fifo::make(&path, file.as_fd()).unwrap();
        assert_eq!(Fifo::make(&path, file.as_fd()).unwrap_err(), Errno::EXIST);
        let made = std::fs::metadata(&path).unwrap();
        assert_eq!((made.mode() & 0o7777, made.gid()), (0o640, file.metadata().unwrap().gid()));
        assert!(!is_readable(&fifo) && is_read(&path).unwrap());
        // More than it holds.
        for _ in 0..70_000 {
            signal(&path).unwrap();
        }
        assert!(is_readable(&fifo));
        fifo.drain();
        assert!(!is_readable(&fifo));
        assert_eq!(remove_unread(&path), Err(Errno::BUSY));
        drop(fifo);
        assert!(!path.exists());
        assert_eq!(signal(&path), Err(Errno::NOENT));
    }

    #[test]
    fn a_process_without_a_spare_descriptor_takes_its_name_away_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("fifo"), dir.path().join("other"));
        let file = std::fs::File::create(dir.path().join("like")).unwrap();
        // SAFETY: the child ends by a system call.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let made = Fifo::make(&path, file.as_fd()).and_then(|fifo| {
                std::fs::rename(&path, &other).map_err(|_| Errno::IO)?;
                Ok((fifo, Fifo::make(&path, file.as_fd())?))
            });
            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the kernel reads the limit.
            let is_limited = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) } == 0;
            let is_done = made.is_ok_and(|(moved, fifo)| {
                // The file with its name is another's by now.
                drop(moved);
                let stays = path.exists();
                drop(fifo);
                stays && !path.exists()
            });
            // SAFETY: as above.
            unsafe { libc::_exit(if is_limited && is_done { 7 } else { 8 }) };
        }
        let mut status = 0;
        // SAFETY: `status` has room for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status}");
    }

    #[test]
    fn a_group_that_is_not_the_files_has_the_rights_of_all() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        // Root's, and anyone may write to it.
        let like = std::fs::File::options().write(true).open("/dev/null").unwrap();
        let closed = std::fs::File::create(dir.path().join("closed")).unwrap();
        closed.set_permissions(std::fs::Permissions::from_mode(0o660)).unwrap();
        // SAFETY: the child ends by a system call.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let mode_like = |name: &str, like: &std::fs::File| {
                let path = dir.path().join(name);
                let _fifo = Fifo::make(&path, like.as_fd()).ok()?;
                std::fs::metadata(&path).ok().map(|made| made.mode() & 0o777)
            };
            // SAFETY: as above; they change who this process is, and no memory.
            unsafe {
                if libc::geteuid() == 0 {
                    libc::setgroups(0, std::ptr::null());
                    libc::setgid(65534);
                    libc::setuid(65534);
                }
                let is_open = mode_like("open", &like) == Some(0o666);
                // (Where the test is not root's the file's group is this one's.)
                let is_closed = matches!(mode_like("shut", &closed), Some(0o600 | 0o660));
                libc::_exit(i32::from(is_open) + 2 * i32::from(is_closed));
            }
        }
        let mut status = 0;
        // SAFETY: `status` has room for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 3, "{status}");
    }

    #[test]
    fn what_is_no_fifo_is_not_touched() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("file"), dir.path().join("link"));
        std::fs::write(&path, "bytes").unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let socket = dir.path().join("socket");
        // Opening one is ENXIO, too.
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&path, &link, &socket] {
            assert_eq!(signal(path), Err(Errno::INVAL));
            assert_eq!(remove_unread(path), Err(Errno::INVAL));
        }
        assert_eq!(std::fs::read(&link).unwrap(), b"bytes");
    }

    #[test]
    fn one_without_a_reader_is_no_signal_and_can_be_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(signal(&path), Err(Errno::NXIO));
        // The reader goes between open and write, in a process that the signal would end.
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let writer = writer.into();
        // SAFETY: the child makes system calls only, and ends by one.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                let is_told = super::write_quietly(&writer) == Err(Errno::PIPE);
                libc::_exit(if is_told { 7 } else { 8 });
            }
        }
        let mut status = 0;
        // SAFETY: `status` has room for the answer.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 7, "{status}");
        remove_unread(&path).unwrap();
    }
}
