//! The handler of SIGBUS and SIGSEGV: installed on first use, chained to what was there before.
//!
//! It allocates nothing from the heap and locks nothing. A fault in a pager's area may wait for its page; a fault in a checked
//! copy ends the copy; a fault in a guarded range gets a zero page; a page that a pager cannot supply ends the process with a
//! message; every other fault, and every signal that was sent by a process, goes to the handler that was
//! there before folio's, with the same arguments, or to the default action.
//!
//! Source: sigaction(2), signal-safety(7).

use super::{copy, ends, replace};
use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

/// What was installed before folio's handler, for one signal.
struct Previous {
    signal: i32,
    /// What was there when folio first came.
    first: AtomicPtr<libc::sigaction>,
    /// What was there when folio last came: another handler if the program installed one in between. That one may well
    /// call folio's in its turn; then `first` is next.
    last: AtomicPtr<libc::sigaction>,
}

static PREVIOUS: [Previous; 2] = [Previous::of(libc::SIGBUS), Previous::of(libc::SIGSEGV)];
static INSTALLED: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The call of a previous handler that this thread is in: the context that it was given, and the frame that called
    /// it. A handler may leave by siglongjmp(3), and nobody tells; then it is what the last such call was.
    static FORWARDING: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Installs the handler unless it was installed before. Cheap enough for every access.
#[inline]
pub(crate) fn install() {
    if !is_installed() {
        ensure();
    }
}

/// Whether [`install`] has nothing to do.
#[inline]
pub(crate) fn is_installed() -> bool {
    INSTALLED.load(Ordering::Acquire)
}

/// Makes sure that the handler is the one the kernel calls: a program that installs its own handler after folio's is
/// chained to, as one that did before. One query a signal.
#[cold]
pub(crate) fn ensure() {
    // No lock: a child that is forked while another thread holds it would wait for ever. Two threads at once find the
    // same handler before folio's, and both keep it.
    for previous in &PREVIOUS {
        previous.install();
    }
    INSTALLED.store(true, Ordering::Release);
}

fn ours() -> usize {
    on_fault as *const () as usize
}

/// The present disposition of a signal.
fn disposition(signal: i32) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: only asks; `action` has room for the answer, and is zeroed in case there is none.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: the set is valid; a number that is no signal is not in it.
    let has =
        |action: &libc::sigaction, signal| unsafe { libc::sigismember(&raw const action.sa_mask, signal) };
    one.sa_sigaction == other.sa_sigaction
        && one.sa_flags == other.sa_flags
        && (1..=64).all(|signal| has(one, signal) == has(other, signal))
}

impl Previous {
    const fn of(signal: i32) -> Self {
        Self { signal, first: AtomicPtr::new(ptr::null_mut()), last: AtomicPtr::new(ptr::null_mut()) }
    }

    fn install(&self) {
        let before = disposition(self.signal);
        if before.sa_sigaction == ours() {
            return;
        }
        // Known before it can be needed.
        self.keep(before);
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = ours();
        // On the alternate stack where there is one, so that a stack overflow still reaches the previous handler.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // What another thread installed since the query is what is replaced.
        let mut replaced = before;
        // SAFETY: `on_fault` has the signature SA_SIGINFO asks for, and is async-signal-safe; `replaced` has room for the
        // answer.
        unsafe { libc::sigaction(self.signal, &raw const action, &raw mut replaced) };
        if replaced.sa_sigaction != ours() && !is_same(&replaced, &before) {
            self.keep(replaced);
        }
    }

    /// Leaked: a handler on another thread may be reading the one it replaces, and a program changes its handlers a few
    /// times at most.
    fn keep(&self, action: libc::sigaction) {
        let action: *mut libc::sigaction = Box::leak(Box::new(action));
        self.last.store(action, Ordering::Release);
        let _ = self.first.compare_exchange(ptr::null_mut(), action, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Does with a signal what would have been done without folio.
    ///
    /// # Safety
    ///
    /// Called in the handler, with its arguments.
    unsafe fn forward(&self, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // A handler that was called from here and calls folio's in its turn passes the same context on. So does the kernel
        // when it puts the next signal where one was that a handler jumped away from, but then this frame lies where that
        // one did, too.
        let outer = FORWARDING.get();
        let here = (context as usize, (&raw const outer) as usize);
        let nested = outer.0 == here.0 && outer.1 != here.1;
        let chosen = if nested { &self.first } else { &self.last };
        // SAFETY: leaked when it was stored, so never freed.
        let Some(previous) = (unsafe { chosen.load(Ordering::Acquire).as_ref() }) else {
            // SAFETY: in the handler.
            return unsafe { self.default_action(info) };
        };
        match previous.sa_sigaction {
            // SAFETY: in the handler.
            libc::SIG_DFL => unsafe { self.default_action(info) },
            // SAFETY: as above. The kernel never lets a fault of the process's own be ignored.
            libc::SIG_IGN if is_fault(unsafe { &*info }) => unsafe { self.default_action(info) },
            libc::SIG_IGN => {}
            handler => {
                FORWARDING.set(here);
                // SAFETY: the program registered this function for this signal, with the signature that its flags
                // name; it runs with the mask that they name.
                unsafe {
                    let mask = self.mask_as(previous);
                    if previous.sa_flags & libc::SA_SIGINFO != 0 {
                        let handler: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
                            std::mem::transmute(handler);
                        handler(self.signal, info, context);
                    } else {
                        let handler: extern "C" fn(i32) = std::mem::transmute(handler);
                        handler(self.signal);
                    }
                    libc::pthread_sigmask(libc::SIG_SETMASK, &raw const mask, ptr::null_mut());
                }
                FORWARDING.set(outer);
            }
        }
    }

    /// Blocks what the kernel would have blocked for a handler, and returns what was blocked before.
    ///
    /// # Safety
    ///
    /// Called in the handler.
    unsafe fn mask_as(&self, previous: &libc::sigaction) -> libc::sigset_t {
        // SAFETY: the sets are valid, and the calls are async-signal-safe.
        unsafe {
            let mut before = MaybeUninit::zeroed();
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const previous.sa_mask, before.as_mut_ptr());
            let own = libc::sigismember(&raw const previous.sa_mask, self.signal) == 1;
            if previous.sa_flags & libc::SA_NODEFER != 0 && !own {
                let mut only = MaybeUninit::zeroed();
                libc::sigemptyset(only.as_mut_ptr());
                libc::sigaddset(only.as_mut_ptr(), self.signal);
                libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), ptr::null_mut());
            }
            before.assume_init()
        }
    }

    /// Ends the process as the signal would have: a fault happens again as soon as the handler returns, a sent signal
    /// is sent again.
    ///
    /// # Safety
    ///
    /// Called in the handler.
    unsafe fn default_action(&self, info: *mut libc::siginfo_t) {
        // SAFETY: all zeroes is a valid sigaction, and zero is SIG_DFL; the calls are async-signal-safe.
        unsafe {
            let action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            libc::sigaction(self.signal, &raw const action, ptr::null_mut());
            if !is_fault(&*info) {
                libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::syscall(libc::SYS_gettid), self.signal);
            }
        }
    }
}

/// Whether the kernel raised the signal for an access of this thread; else a process sent it.
fn is_fault(info: &libc::siginfo_t) -> bool {
    info.si_code > 0
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the cell is this thread's own; the interrupted code must find its errno as it left it.
    let errno = unsafe { *libc::__errno_location() };
    // SAFETY: the kernel passes a valid siginfo and context to an SA_SIGINFO handler; for these signals, raised for
    // an access, `si_addr` is set.
    unsafe {
        let code = (*info).si_code;
        let address = (*info).si_addr() as usize;
        let handled = is_fault(&*info)
            && (ends::supply(context, address, signal, code)
                || copy::recover(context, address, signal, code)
                || replace::supply(address, copy::program_counter(context), signal, code)
                || ends::report(context, address, signal, code));
        if !handled && let Some(previous) = PREVIOUS.iter().find(|previous| previous.signal == signal) {
            previous.forward(info, context);
        }
        *libc::__errno_location() = errno;
    }
}
