//! Writes beyond RLIMIT_FSIZE: an error (EFBIG), and no SIGXFSZ.
//!
//! The kernel sends that signal to the calling thread, and by default it ends the process. folio's
//! own threads block it. On a thread of the program, folio blocks it for the call and then removes
//! the pending signal.
//!
//! Source: setrlimit(2), signal(7), sigtimedwait(2).

use super::Errno;
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::ptr;

/// Makes a call that may write to a file or lengthen it, and repeats it while signals interrupt it.
/// Beyond the limit the result is EFBIG.
pub(crate) fn within<R>(call: impl FnMut() -> Result<R, Errno>) -> Result<R, Errno> {
    if super::thread::is_own() {
        return rustix::io::retry_on_intr(call);
    }
    let blocked = BlockedSigxfsz::new();
    let result = rustix::io::retry_on_intr(call);
    if matches!(result, Err(Errno::FBIG)) {
        blocked.remove_pending();
    }
    result
}

/// ftruncate(2): sets the length of a file. EFBIG beyond the limit.
pub(crate) fn set_length(fd: impl AsFd, length: u64) -> Result<(), Errno> {
    within(|| rustix::fs::ftruncate(&fd, length))
}

/// SIGXFSZ does not reach this thread while this value lives.
struct BlockedSigxfsz {
    before: libc::sigset_t,
    /// A SIGXFSZ was pending already, because the program has blocked the signal itself.
    was_pending: bool,
}

impl BlockedSigxfsz {
    fn new() -> Self {
        let mut before = MaybeUninit::zeroed();
        let mut pending = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: the sets are valid (all zeroes is a valid set), and the calls write only to their
        // output sets.
        unsafe {
            libc::pthread_sigmask(libc::SIG_BLOCK, only().as_ptr(), before.as_mut_ptr());
            let before: libc::sigset_t = before.assume_init();
            let was_pending = libc::sigismember(&raw const before, libc::SIGXFSZ) == 1
                && libc::sigpending(pending.as_mut_ptr()) == 0
                && libc::sigismember(pending.as_ptr(), libc::SIGXFSZ) == 1;
            Self { before, was_pending }
        }
    }

    /// Removes the signal that the kernel has sent for a call that ended with EFBIG.
    fn remove_pending(&self) {
        if self.was_pending {
            // The kernel merges the two into one, which the program was_pending for.
            return;
        }
        let mut info = MaybeUninit::<libc::siginfo_t>::zeroed();
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the set and the time are valid. `info` has room for the answer, whose `si_pid`
        // the kernel sets for this signal.
        unsafe {
            let taken = libc::sigtimedwait(only().as_ptr(), info.as_mut_ptr(), &raw const at_once);
            let own = libc::getpid();
            if taken == libc::SIGXFSZ && (*info.as_ptr()).si_pid() != own {
                // The file system's own maximum size gives EFBIG without a signal. So another
                // process sent this signal to the program, and the program gets it again.
                libc::syscall(libc::SYS_rt_sigqueueinfo, own, libc::SIGXFSZ, info.as_mut_ptr());
            }
        }
    }
}

impl Drop for BlockedSigxfsz {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, ptr::null_mut())
        };
    }
}

/// The set of this signal alone.
fn only() -> MaybeUninit<libc::sigset_t> {
    let mut set = MaybeUninit::zeroed();
    // SAFETY: the calls initialize the set.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        libc::sigaddset(set.as_mut_ptr(), libc::SIGXFSZ);
    }
    set
}
