//! Starting a thread of folio's own, which none of the program's signals reach.
//!
//! Source: pthread_sigmask(3), signal(7).

/// Starts a thread of this name.
pub(crate) fn start(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    // The thread inherits the mask, so that there is no moment at which a signal of the program's could reach it.
    let before = block_signals();
    let started = std::thread::Builder::new().name(name.into()).spawn(work);
    // SAFETY: `before` is the mask that this thread had.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut()) };
    started.map(drop)
}

/// Blocks every signal of this thread but those of its own faults, and says what was blocked before.
fn block_signals() -> libc::sigset_t {
    // SAFETY: a signal set is plain data, which `sigfillset` fills; the calls get sets that live here.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigdelset(&raw mut all, fault);
        }
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}
