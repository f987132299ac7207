//! Forked children: limits, handlers and other settings of a process change in a child only.

use super::is_root;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

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

/// Forks a child that runs `work`, and waits for it. Process-wide things (limits, handlers,
/// capabilities) are changed in children only. The child ends with `_exit`: it runs no destructors
/// but those of `work`.
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
    let (reader, writer) =
        unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) };
    // SAFETY: the child runs on the calling thread's copy alone; glibc's heap and folio work after
    // a fork, and it ends with `_exit`.
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
                    let text = text
                        .or(panic.downcast_ref::<&str>().copied())
                        .unwrap_or("a panic without a message");
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

/// A process and a child that it made without the C library: that has all that the process has
/// open, and so the locks of its parties.
pub(crate) struct Heir {
    parent: i32,
    child: i32,
}

impl Heir {
    /// A process does `work`, makes such a child, and keeps the result of `work`.
    pub(crate) fn of<R>(work: impl FnOnce() -> R) -> Self {
        let (mut out, mut told) = std::io::pipe().unwrap();
        let parent = spawn_child(|| {
            let _kept = work();
            // SAFETY: as fork(2), but for its handlers; the child makes system calls only.
            let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
            if child > 0 {
                told.write_all(&(child as i32).to_ne_bytes()).unwrap();
            }
            // SAFETY: system calls without memory. Both processes end by the alarm at the latest.
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
        // SAFETY: changes the user of this process, and no memory.
        unsafe {
            assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
            assert_eq!(libc::setresgid(NOBODY, NOBODY, NOBODY), 0);
            assert_eq!(libc::setresuid(NOBODY, NOBODY, NOBODY), 0);
        }
    }
}
