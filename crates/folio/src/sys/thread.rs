//! Starting a thread of folio's own. Signals of the program do not reach it.
//!
//! Source: pthread_sigmask(3), signal(7).

use std::cell::Cell;

thread_local! {
    static IS_OWN: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread with this name, which must contain no zero byte.
#[cfg(any(feature = "pager", feature = "shm"))]
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // The thread inherits the mask, so there is no moment at which a signal of the program could
    // reach it.
    let _blocked = BlockedSignals::new();
    let work = move || {
        IS_OWN.set(true);
        work();
    };
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Whether this thread is one that [`start`] started.
pub(crate) fn is_own() -> bool {
    IS_OWN.get()
}

/// While this value lives, no signal reaches this thread, except those for its own faults.
#[cfg(any(feature = "pager", feature = "shm"))]
struct BlockedSignals {
    before: libc::sigset_t,
}

#[cfg(any(feature = "pager", feature = "shm"))]
impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: a signal set is plain data, for which all zeroes is valid; the calls get sets
        // that live here.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP] {
                libc::sigdelset(&raw mut all, fault);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

#[cfg(any(feature = "pager", feature = "shm"))]
impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: `before` is the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}
