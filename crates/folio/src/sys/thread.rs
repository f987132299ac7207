//! Starting a thread of folio's own, which none of the program's signals reach.
//!
//! Source: pthread_sigmask(3), signal(7).

use std::cell::Cell;

thread_local! {
    static OWN: Cell<bool> = const { Cell::new(false) };
}

/// Starts a thread of this name, in which no zero byte is.
#[cfg(any(feature = "pager", feature = "shm"))]
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // The thread inherits the mask, so that there is no moment at which a signal of the program's
    // could reach it.
    let _blocked = BlockedSignals::new();
    let work = move || {
        OWN.set(true);
        work();
    };
    std::thread::Builder::new().name(name.into()).spawn(work).map(drop)
}

/// Whether this thread was started here.
pub(crate) fn is_own() -> bool {
    OWN.get()
}

/// No signal reaches this thread while this lives, but for those of its own faults.
#[cfg(any(feature = "pager", feature = "shm"))]
struct BlockedSignals {
    before: libc::sigset_t,
}

#[cfg(any(feature = "pager", feature = "shm"))]
impl BlockedSignals {
    fn new() -> Self {
        // SAFETY: a signal set is plain data, which `sigfillset` fills; the calls get sets that
        // live here.
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
        // SAFETY: the mask that this thread had.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut())
        };
    }
}
