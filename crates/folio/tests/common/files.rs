//! Files, directories, and file systems that a test mounts for itself.

use super::page;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory on the disk that holds the build.
pub(crate) fn disk_dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A directory in memory (tmpfs), where there is one.
pub(crate) fn memory_dir() -> Option<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").ok()
}

/// A file system that keeps its files in memory alone.
pub(crate) fn is_in_memory(dir: &Path) -> bool {
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    const RAMFS: rustix::fs::FsWord = 0x8584_58f6_u32 as rustix::fs::FsWord;
    [TMPFS, RAMFS].contains(&rustix::fs::statfs(dir).unwrap().f_type)
}

/// A new file with these bytes, and its path.
pub(crate) fn file_with(dir: &Path, bytes: &[u8]) -> PathBuf {
    let path = dir.join("file");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A file system of its own, mounted for one test and unmounted afterwards.
#[derive(Debug)]
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts a tmpfs with these options (`size=64k`, `noexec` …); `None` without the right to
    /// mount.
    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Runs `mount ARGUMENTS DIR`.
    pub(crate) fn new(arguments: &[&str]) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let output = Command::new("mount").args(arguments).arg(dir.path()).output().ok()?;
        output.status.success().then(|| Self { dir })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.dir.path()).status();
    }
}

/// A memfd of so many pages that can be sealed.
pub(crate) fn sealable_memfd(name: &str, pages: usize) -> OwnedFd {
    let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&fd, (pages * page()) as u64).unwrap();
    fd
}

/// A block device whose writes fail: a loop device over a memfd that is sealed against writing
/// after it was set up.
#[derive(Debug)]
pub(crate) struct FailingDisk {
    file: File,
    path: String,
}

impl FailingDisk {
    const SET_FD: libc::Ioctl = 0x4c00;
    const CLEAR_FD: libc::Ioctl = 0x4c01;
    const GET_FREE: libc::Ioctl = 0x4c82;

    pub(crate) fn new(pages: usize) -> Option<Self> {
        let memory = sealable_memfd("folio-errors", pages);
        let control = File::options().read(true).write(true).open("/dev/loop-control").ok()?;
        // Another process may take the free one first.
        for _ in 0..10 {
            // SAFETY: takes no argument.
            let index = unsafe { libc::ioctl(control.as_raw_fd(), Self::GET_FREE) };
            let path = format!("/dev/loop{index}");
            let file = File::options().read(true).write(true).open(&path).ok()?;
            // SAFETY: takes a descriptor.
            if unsafe { libc::ioctl(file.as_raw_fd(), Self::SET_FD, memory.as_raw_fd()) } == 0 {
                rustix::fs::fcntl_add_seals(&memory, rustix::fs::SealFlags::WRITE).unwrap();
                return Some(Self { file, path });
            }
        }
        None
    }

    /// Open for reading and writing.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        // SAFETY: takes no argument.
        assert_eq!(unsafe { libc::ioctl(self.file.as_raw_fd(), Self::CLEAR_FD, 0) }, 0);
    }
}
