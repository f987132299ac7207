//! Writes beyond RLIMIT_FSIZE: an error (EFBIG), and no SIGXFSZ.
//!
//! The kernel sends that signal to the thread that makes the call, and the default is to end the
//! process. folio's own threads block it. On a thread of the program's it is blocked for the call,
//! and taken back.
//!
//! Source: setrlimit(2), signal(7), sigtimedwait(2).

use super::Errno;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr;

/// Makes a call that may write to a file or lengthen it, again for as long as signals interrupt it.
/// Beyond the limit it is EFBIG.
pub(crate) fn within<R>(call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    if super::thread::is_own() {
        return rustix::io::retry_on_intr(call);
    }
    let blocked = BlockedSigxfsz::new();
    let result = rustix::io::retry_on_intr(call);
    if matches!(result, Err(Errno::FBIG)) {
        blocked.take_back();
    }
    result
}

/// ftruncate(2): makes a file so many bytes long. EFBIG beyond the limit.
pub(crate) fn set_length(fd: impl AsFd, length: u64) -> Result<(), Errno> {
    within(|| rustix::fs::ftruncate(&fd, length))
}

/// SIGXFSZ does not reach this thread while this lives.
struct BlockedSigxfsz {
    before: libc::sigset_t,
    /// One waits already, because the program has blocked the signal itself.
    waits: bool,
}

impl BlockedSigxfsz {
    fn new() -> Self {
        let mut before = MaybeUninit::zeroed();
        let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the sets are valid, zeroes among them, and the calls fill those that they are
        // given for that.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, only().as_ptr(), before.as_mut_ptr());
            let before: libc::sigset_t = before.assume_init();
            let waits = libc::sigismember(&raw const before, libc::SIGXFSZ) == 1
                && libc::sigpending(pending.as_mut_ptr()) == 0
                && libc::sigismember(pending.as_ptr(), libc::SIGXFSZ) == 1;
            Self { before, waits }
        }
    }

    /// Takes the signal back that the kernel has sent for a call that ended with EFBIG.
    fn take_back(&self) {
        if self.waits {
            // The two are one.
            return;
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are valid, and `info` has room for the answer, which names a
        // process.
        unsafe {
            let taken = libc::sigtimedwait(only().as_ptr(), info.as_mut_ptr(), &raw const at_once);
            let own = libc::getpid();
            if taken == libc::SIGXFSZ && (*info.as_ptr()).si_pid() != own {
                // The file system's own largest size gives EFBIG without a signal. This one is for
                // the program.
                libc::syscall(libc::SYS_rt_sigqueueinfo, own, libc::SIGXFSZ, info.as_mut_ptr());
            }
        }
    }
}

impl Drop for BlockedSigxfsz {
    fn drop(&mut self) {
        // SAFETY: the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

/// The set of this signal alone.
fn only() -> MaybeUninit<libc::sigset_t> {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: the calls fill the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ);
    }
    set
}
