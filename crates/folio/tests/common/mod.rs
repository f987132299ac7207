//! What the tests share: real children, directories on a disk and in memory, small file systems, and saying what was
//! skipped.

#![allow(dead_code, reason = "each test file uses its own part of this")]

pub(crate) mod kill_sweep;
pub(crate) mod segment_dir;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// How a child ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It exited with this status.
    Exited(i32),
    /// A signal killed it.
    Killed(i32),
    /// It panicked: a test in it failed.
    Panicked(String),
}

/// Forks a child that runs `work`, and waits for it. Process-wide things (limits, handlers, capabilities) are changed in
/// children only. The child ends with `_exit`: it runs no destructors but those of `work`.
pub(crate) fn in_child(work: impl FnOnce()) -> End {
    let (pid, mut reader) = spawn_child(work);
    let mut message = String::new();
    reader.read_to_string(&mut message).unwrap();
    match wait(pid) {
        End::Exited(101) => End::Panicked(message),
        end => end,
    }
}

/// Forks a child that must succeed.
#[track_caller]
pub(crate) fn child_succeeds(work: impl FnOnce()) {
    let end = in_child(work);
    assert_eq!(end, End::Exited(0), "the child failed");
}

/// Forks a child and does not wait: its pid, for [`wait`], and a pipe with its panic message.
pub(crate) fn spawn_child(work: impl FnOnce()) -> (i32, File) {
    let mut ends = [0; 2];
    // SAFETY: `ends` has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: just opened, and owned by nobody else.
    let (reader, writer) = unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: the child runs on the calling thread's copy alone; what it uses (glibc's heap, folio) works after a fork,
    // and it ends with `_exit`.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", std::io::Error::last_os_error()),
        0 => {
            drop(reader);
            // A child that hangs is a failure that says so (SIGALRM), not a run without an end.
            // SAFETY: sets a timer.
            unsafe { libc::alarm(120) };
            let status = match catch_unwind(AssertUnwindSafe(work)) {
                Ok(()) => 0,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().map(String::as_str);
                    let text =
                        text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
                    let _ = File::from(writer).write_all(text.as_bytes());
                    101
                }
            };
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(status) }
        }
        pid => (pid, File::from(reader)),
    }
}

/// Waits for a child.
pub(crate) fn wait(pid: i32) -> End {
    let mut status = 0;
    // SAFETY: `status` has room for the answer.
    while unsafe { libc::waitpid(pid, &raw mut status, 0) } != pid {
        assert_eq!(std::io::Error::last_os_error().kind(), std::io::ErrorKind::Interrupted);
    }
    if libc::WIFSIGNALED(status) {
        End::Killed(libc::WTERMSIG(status))
    } else {
        End::Exited(libc::WEXITSTATUS(status))
    }
}

/// A process and a child that it made without the C library: that has all that the process has open, and so the locks of its
/// parties.
pub(crate) struct Heir {
    parent: i32,
    child: i32,
}

impl Heir {
    /// A process does `work`, has such a child, and keeps what `work` returned.
    pub(crate) fn of<R>(work: impl FnOnce() -> R) -> Self {
        let (mut out, mut told) = std::io::pipe().unwrap();
        let parent = spawn_child(|| {
            let _kept = work();
            // SAFETY: as fork(2), but for its handlers; the child makes system calls only.
            let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            if child > 0 {
                told.write_all(&(child as i32).to_ne_bytes()).unwrap();
            }
            // SAFETY: as above. Both end by themselves if nobody ends them.
            unsafe {
                libc::alarm(120);
                loop {
                    libc::pause();
                }
            }
        })
        .0;
        let mut child = [0; 4];
        out.read_exact(&mut child).unwrap();
        Self { parent, child: i32::from_ne_bytes(child) }
    }

    /// The process is killed, and its child stays.
    pub(crate) fn inherits(&mut self) {
        // SAFETY: sends a signal to a child of this process that was not waited for.
        unsafe { libc::kill(self.parent, libc::SIGKILL) };
        assert_eq!(wait(std::mem::take(&mut self.parent)), End::Killed(libc::SIGKILL));
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        // SAFETY: sends a signal to the process, which does not end by itself before.
        unsafe { libc::kill(self.child, libc::SIGKILL) };
        if self.parent != 0 {
            self.inherits();
        }
    }
}

/// Says that a test did not run, and why. Use: `return skip("needs root")`.
pub(crate) fn skip(why: &str) {
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    // Straight to the descriptor: the harness shows captured output of failed tests only.
    let _ = writeln!(std::io::stderr(), "skipped {name}: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

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

/// Runs `work`. If it has not ended after `limit`, the state of each thread is printed, then `state`,
/// and the process aborts: a thread that waits for a page cannot be ended in any other way.
pub(crate) fn within<R>(
    limit: Duration,
    state: impl FnOnce() -> String + Send,
    work: impl FnOnce() -> R,
) -> R {
    let (ended, end) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(limit) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let mut error = std::io::stderr();
            let _ = writeln!(error, "no end after {limit:?}:");
            for task in std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok) {
                let part = |name: &str| std::fs::read_to_string(task.path().join(name)).unwrap_or_default();
                let status = part("status");
                let lines =
                    status.lines().filter(|line| line.starts_with("Name:") || line.starts_with("State:"));
                let lines: Vec<_> = lines.collect();
                let _ = writeln!(error, "{} in {}\n{}", lines.join(" "), part("wchan"), part("stack"));
            }
            let _ = writeln!(error, "{}", state());
            std::process::abort();
        });
        let result = work();
        drop(ended);
        result
    })
}

/// Lowers a soft limit of this process: in children only.
pub(crate) fn lower_limit(resource: libc::__rlimit_resource_t, bytes: u64) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` has room for the answer.
    assert_eq!(unsafe { libc::getrlimit(resource, &raw mut limit) }, 0);
    limit.rlim_cur = bytes;
    // SAFETY: `limit` is one.
    assert_eq!(unsafe { libc::setrlimit(resource, &raw const limit) }, 0);
}

/// Gives root's rights up for good (CAP_IPC_LOCK, CAP_SYS_ADMIN …): in children only.
pub(crate) fn become_nobody() {
    const NOBODY: u32 = 65534;
    if is_root() {
        // SAFETY: changes who this process is, no memory.
        unsafe {
            assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
            assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
            assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
        }
    }
}

/// The machine's page, in bytes.
pub(crate) fn page() -> usize {
    folio::PageSize::system().bytes()
}

/// `count` pages of bytes that differ from page to page and within each.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count * page()).map(|i| (i / page() * 31 + i % 251) as u8 | 1).collect()
}

/// A file system of its own, mounted for one test and unmounted afterwards.
#[derive(Debug)]
pub(crate) struct Mounted {
    dir: tempfile::TempDir,
}

impl Mounted {
    /// Mounts a tmpfs with these options (`size=64k`, `noexec` …); `None` without the right to mount.
    pub(crate) fn tmpfs(options: &str) -> Option<Self> {
        Self::new(&["-t", "tmpfs", "-o", options, "tmpfs"])
    }

    /// Mounts what `mount ARGUMENTS DIR` mounts.
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

/// A block device whose writes fail: a loop device over a memfd that is sealed against writing after it was set up.
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

/// A command that runs one of the examples, which cargo builds beside the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    Command::new(profile.join("examples").join(name))
}
