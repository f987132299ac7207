//! The handler of SIGBUS and SIGSEGV. It is installed on first use and chained to the earlier
//! handler.
//!
//! It allocates nothing from the heap and takes no lock. A fault in a pager's area may wait for its
//! page. A fault in a checked copy ends the copy. A fault in a guarded range gets a zero page. A
//! page that a pager cannot supply ends the process with a message. Every other fault, and every
//! signal that a process sent, goes to the handler that was installed before folio's, with the same
//! arguments, or to the default action. That handler runs as its flags say (`SA_RESETHAND`,
//! `SA_NODEFER`, `SA_ONSTACK`, `SA_RESTART`, its mask). If it changes the disposition, folio
//! remembers its choice and puts folio's handler back.
//!
//! Two cases escape the chain. From the moment at which such a handler changes the disposition
//! until it returns, folio does not see the faults of other threads. And if a handler changes the
//! disposition and then leaves by siglongjmp(3), folio notices it only at the next guard.
//!
//! Source: sigaction(2), signal-safety(7).

use super::{copy, guard_table};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// The number of the program's handlers, each installed over folio's, that folio keeps apart.
const LEVELS: usize = 4;

type HandlerEntry = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// The functions that the kernel calls, one for each level. The level shows where a signal has to
/// go next, because the program's handler may call the entry over which it was installed, or put it
/// back.
static ENTRIES: [HandlerEntry; LEVELS] = [enter::<0>, enter::<1>, enter::<2>, enter::<3>];

extern "C" fn enter<const LEVEL: usize>(
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    on_fault(LEVEL, signal, info, context);
}

/// The dispositions behind folio's handler, for one signal.
struct HandlerChain {
    signal: i32,
    /// The disposition to which a level's entry forwards a signal that is not folio's. Levels above
    /// `top` are left from earlier.
    levels: [AtomicPtr<Disposition>; LEVELS],
    /// The level whose entry was installed last.
    top: AtomicUsize,
}

static CHAINS: [HandlerChain; 2] =
    [HandlerChain::of(libc::SIGBUS), HandlerChain::of(libc::SIGSEGV)];
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// The functions by which the handler asks about the pager's areas. A program without a pager has
/// none.
pub(crate) struct AreaFaults {
    /// Waits for a page that is supplied by way of signals. Returns whether to try the access
    /// again.
    pub(crate) supply: AreaFault,
    /// Ends the process if a page of the pager cannot be supplied. Otherwise returns whether to try
    /// the access again.
    pub(crate) report: AreaFault,
}

/// A question about the fault at an address: the context, the address, the signal and its code.
///
/// # Safety
///
/// The context is the `ucontext_t` that the kernel passed to the handler of the signal.
pub(crate) type AreaFault = unsafe fn(*const libc::c_void, usize, i32, i32) -> bool;

static AREA_FAULTS: AtomicPtr<AreaFaults> = AtomicPtr::new(ptr::null_mut());

/// From now on the handler asks `faults`. The pager calls this before its first area exists.
#[cfg(feature = "pager")]
pub(crate) fn set_area_faults(faults: &'static AreaFaults) {
    AREA_FAULTS.store(ptr::from_ref(faults).cast_mut(), Ordering::Release);
}

fn area_faults() -> Option<&'static AreaFaults> {
    // SAFETY: the pointer is null or comes from a `'static` reference, which `set_area_faults`
    // stored.
    unsafe { AREA_FAULTS.load(Ordering::Acquire).as_ref() }
}

/// A disposition that the program chose. It is never freed: a handler on another thread may be
/// reading it.
struct Disposition {
    signal: i32,
    action: libc::sigaction,
    /// The handler was for one signal only (SA_RESETHAND), and has received it.
    spent: AtomicBool,
}

/// A slot for a disposition of the program, so that the handler needs no new memory to keep one.
///
/// # Invariants
///
/// One thread claims a slot by `SLOTS_TAKEN` and writes it once. Then it sets `is_set`, and from
/// then on the slot is only read.
struct DispositionSlot {
    value: UnsafeCell<MaybeUninit<Disposition>>,
    is_set: AtomicBool,
}

// SAFETY: by the invariants of `DispositionSlot` a slot is written by one thread, and read only
// afterwards.
unsafe impl Sync for DispositionSlot {}

static SLOTS: [DispositionSlot; 64] = [const {
    DispositionSlot {
        value: UnsafeCell::new(MaybeUninit::uninit()),
        is_set: AtomicBool::new(false),
    }
}; 64];
static SLOTS_TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The call of a program's handler that this thread is in: the address of its context, the
    /// stack frame of the caller, and the level. A handler may leave by siglongjmp(3), which folio
    /// cannot notice. Then the value is that of the last such call.
    static FORWARDING: Cell<(usize, usize, usize)> = const { Cell::new((0, 0, 0)) };
}

/// Installs the handler if it is not installed. Cheap enough for every access.
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

/// Makes sure that the kernel calls folio's handler. A handler that the program installed after
/// folio's is chained to, as an earlier one is. One query for each signal.
#[cold]
pub(crate) fn ensure() {
    // There is no lock: a child that is forked while another thread holds it would wait for ever.
    // Two threads at once find the same earlier handler, and both keep it.
    for chain in &CHAINS {
        let before = disposition(chain.signal);
        if !is_ours(&before) {
            let kept = Disposition::find_or_keep(chain.signal, &before);
            chain.install_over(
                &before,
                kept.unwrap_or_else(|| Disposition::leak(chain.signal, before)),
                None,
            );
        }
    }
    INSTALLED.store(true, Ordering::Release);
}

fn is_ours(action: &libc::sigaction) -> bool {
    ENTRIES.iter().any(|&entry| action.sa_sigaction == entry as usize)
}

/// Whether the disposition is a function of the program, and not a default of the kernel.
fn is_handler(action: &libc::sigaction) -> bool {
    !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
}

/// The present disposition of a signal.
fn disposition(signal: i32) -> libc::sigaction {
    let mut action = MaybeUninit::zeroed();
    // SAFETY: the call only queries. `action` has room for the answer; all zeroes is a valid
    // sigaction, in case the call fails.
    unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    }
}

fn is_same(one: &libc::sigaction, other: &libc::sigaction) -> bool {
    // SAFETY: the set is valid; a number that is no signal is not in it.
    let has = |action: &libc::sigaction, signal| unsafe {
        libc::sigismember(&raw const action.sa_mask, signal)
    };
    one.sa_sigaction == other.sa_sigaction
        && one.sa_flags == other.sa_flags
        && (1..=64).all(|signal| has(one, signal) == has(other, signal))
}

impl Disposition {
    fn of(signal: i32, action: libc::sigaction) -> Self {
        Self { signal, action, spent: AtomicBool::new(false) }
    }

    /// The kept copy of a disposition; a new copy is made if there is none. `None` if no slot is
    /// free. It allocates nothing.
    fn find_or_keep(signal: i32, action: &libc::sigaction) -> Option<&'static Self> {
        let set =
            SLOTS.iter().filter(|slot| slot.is_set.load(Ordering::Acquire)).find_map(|slot| {
                // SAFETY: `is_set` is true, so by the invariants the slot is initialized and only
                // read.
                let kept = unsafe { (*slot.value.get()).assume_init_ref() };
                (kept.signal == signal && is_same(&kept.action, action)).then_some(kept)
            });
        if set.is_some() {
            return set;
        }
        let claim = |taken: usize| (taken < SLOTS.len()).then_some(taken + 1);
        let free = SLOTS_TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).ok()?;
        let slot = &SLOTS[free];
        // SAFETY: the count has given this slot to this call alone, and no thread reads it before
        // `is_set`.
        let kept = unsafe { (*slot.value.get()).write(Self::of(signal, *action)) };
        slot.is_set.store(true, Ordering::Release);
        Some(kept)
    }

    /// Keeps a disposition on the heap. Not for the handler.
    fn leak(signal: i32, action: libc::sigaction) -> &'static Self {
        Box::leak(Box::new(Self::of(signal, action)))
    }

    /// The function that the kernel would call now. A handler for one signal only is returned once,
    /// to one thread.
    fn take_handler(&self) -> usize {
        let once = is_handler(&self.action) && self.action.sa_flags & libc::SA_RESETHAND != 0;
        if once && self.spent.swap(true, Ordering::SeqCst) {
            libc::SIG_DFL
        } else {
            self.action.sa_sigaction
        }
    }
}

impl HandlerChain {
    const fn of(signal: i32) -> Self {
        let levels = [const { AtomicPtr::new(ptr::null_mut()) }; LEVELS];
        Self { signal, levels, top: AtomicUsize::new(0) }
    }

    fn at(&self, level: usize) -> Option<&'static Disposition> {
        // SAFETY: the pointer is null or comes from a `'static` reference, which `set` stored.
        unsafe { self.levels[level].load(Ordering::Acquire).as_ref() }
    }

    fn set(&self, level: usize, to: &'static Disposition) {
        // The program has installed the handler anew.
        to.spent.store(false, Ordering::SeqCst);
        self.levels[level].store(ptr::from_ref(to).cast_mut(), Ordering::Release);
    }

    /// The level of a disposition that was found over folio's. A disposition that has a level keeps
    /// it, so a program may install the same handler any number of times.
    fn level_for(&self, found: &libc::sigaction) -> usize {
        if self.at(0).is_none() {
            return 0;
        }
        let same = |&level: &usize| self.at(level).is_some_and(|kept| is_same(&kept.action, found));
        (0..LEVELS)
            .find(same)
            .unwrap_or_else(|| (self.top.load(Ordering::Relaxed) + 1).min(LEVELS - 1))
    }

    /// Installs folio's handler in front of the disposition that was found, whose kept copy is
    /// `kept`.
    fn install_over(
        &self,
        found: &libc::sigaction,
        kept: &'static Disposition,
        level: Option<usize>,
    ) {
        let level = level.unwrap_or_else(|| self.level_for(found));
        // The disposition is stored before a signal can need it.
        self.set(level, kept);
        self.top.store(level, Ordering::Relaxed);
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = ENTRIES[level] as usize;
        // The program's handler gets the stack that it asked for, and interrupted calls end as it
        // asked. Without such a handler the alternate stack is the better choice: the other stack
        // may be full.
        let free = libc::SA_ONSTACK | libc::SA_RESTART;
        action.sa_flags =
            libc::SA_SIGINFO | if is_handler(found) { found.sa_flags & free } else { free };
        // Another thread may have installed a disposition since the query. Then the call replaces
        // that one.
        let mut replaced = *found;
        // SAFETY: the entry has the signature that SA_SIGINFO requires, and is async-signal-safe;
        // `replaced` has room for the answer.
        unsafe { libc::sigaction(self.signal, &raw const action, &raw mut replaced) };
        if !is_ours(&replaced)
            && !is_same(&replaced, found)
            && let Some(kept) = Disposition::find_or_keep(self.signal, &replaced)
        {
            self.set(level, kept);
        }
    }

    /// Checks whether the program's handler changed the disposition when it was called. If so,
    /// folio's handler is installed in front of the new one.
    fn check_replaced(&self, level: usize, called: &Disposition) {
        let now = disposition(self.signal);
        if is_ours(&now) {
            // The disposition may be the entry of a lower level: then the next signal goes there.
            return;
        }
        // If no slot is free, the new disposition stays in front, so that it is not lost.
        let Some(kept) = Disposition::find_or_keep(self.signal, &now) else { return };
        // A default, or the same handler again, takes this level's place. Another handler may call
        // the entry over which it was installed, so it gets a level of its own.
        let in_place = !is_handler(&now) || is_same(&now, &called.action);
        self.install_over(&now, kept, in_place.then_some(level));
    }

    /// Handles a signal as it would be handled without folio.
    ///
    /// # Safety
    ///
    /// The caller is the handler, and passes its arguments.
    #[cold]
    #[inline(never)]
    unsafe fn forward(&self, entry: usize, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // A program's handler that folio called, and that calls folio's entry in its turn, passes
        // on the same context. The kernel may also put the next signal's context where an earlier
        // one was, after a handler left by siglongjmp(3); but then this stack frame lies at the
        // earlier frame's address, too. Each nested call goes to a lower level, so two handlers
        // that call each other come to an end.
        let outer = FORWARDING.get();
        let (context_at, frame) = (context as usize, (&raw const outer) as usize);
        let nested = outer.0 == context_at && outer.1 != frame;
        let level =
            if nested { outer.2.checked_sub(1).map(|below| below.min(entry)) } else { Some(entry) };
        let Some((level, next)) = level.and_then(|level| Some((level, self.at(level)?))) else {
            // SAFETY: the caller promises that this is the handler, with its arguments.
            return unsafe { self.default_action(info) };
        };
        match next.take_handler() {
            // SAFETY: the caller promises that this is the handler, with its arguments.
            libc::SIG_DFL => unsafe { self.default_action(info) },
            // SAFETY: the caller promises that `info` is the handler's argument. The kernel never
            // lets a process ignore its own fault.
            libc::SIG_IGN if is_fault(unsafe { &*info }) => unsafe { self.default_action(info) },
            libc::SIG_IGN => {}
            handler => {
                FORWARDING.set((context_at, frame, level));
                // SAFETY: the program registered this function for this signal, with the signature
                // that its flags name; it runs with the mask that they name.
                unsafe {
                    let mask = self.block_mask_of(&next.action);
                    if next.action.sa_flags & libc::SA_SIGINFO != 0 {
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
                self.check_replaced(level, next);
            }
        }
    }

    /// Blocks the signals that the kernel would have blocked for a handler, and returns the mask
    /// from before.
    ///
    /// # Safety
    ///
    /// The caller is the handler.
    unsafe fn block_mask_of(&self, previous: &libc::sigaction) -> libc::sigset_t {
        // SAFETY: the sets are valid, and the calls are async-signal-safe.
        unsafe {
            let mut before = MaybeUninit::zeroed();
            libc::pthread_sigmask(
                libc::SIG_BLOCK,
                &raw const previous.sa_mask,
                before.as_mut_ptr(),
            );
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

    /// Ends the process as the signal would have: queues the signal again for this thread, with the
    /// same information.
    ///
    /// # Safety
    ///
    /// The caller is the handler, and passes its argument.
    unsafe fn default_action(&self, info: *mut libc::siginfo_t) {
        // SAFETY: all zeroes is a valid sigaction, and zero is SIG_DFL. The calls are
        // async-signal-safe, and the caller promises that `info` is the kernel's.
        unsafe {
            let own = libc::getpid();
            if own == 1 && !is_fault(&*info) {
                // The kernel does not deliver signals without a handler to the first process of a
                // namespace.
                return;
            }
            let action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            libc::sigaction(self.signal, &raw const action, ptr::null_mut());
            // The signal stays pending until the handler returns. A fault would happen again by
            // itself, except if its page has come meanwhile.
            let thread = libc::syscall(libc::SYS_gettid);
            if libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, self.signal, info) != 0 {
                libc::syscall(libc::SYS_tgkill, own, thread, self.signal);
            }
        }
    }
}

/// Whether the kernel raised the signal for an access of this thread. Otherwise a process sent it,
/// or the kernel did because a page that no thread accesses is damaged.
fn is_fault(info: &libc::siginfo_t) -> bool {
    let damaged = info.si_signo == libc::SIGBUS && info.si_code == libc::BUS_MCEERR_AO;
    info.si_code > 0 && !damaged
}

fn on_fault(entry: usize, signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the cell is this thread's own. The interrupted code must find its errno unchanged.
    let errno = unsafe { *libc::__errno_location() };
    let areas = area_faults();
    // SAFETY: the kernel passes a valid siginfo and context to an SA_SIGINFO handler. For these
    // signals, raised for an access, `si_addr` is set.
    unsafe {
        let code = (*info).si_code;
        let address = (*info).si_addr() as usize;
        let handled = is_fault(&*info)
            && (areas.is_some_and(|areas| (areas.supply)(context, address, signal, code))
                || copy::recover(context, address, signal, code)
                || guard_table::supply(address, copy::program_counter(context), signal, code)
                || areas.is_some_and(|areas| (areas.report)(context, address, signal, code)));
        if !handled && let Some(chain) = CHAINS.iter().find(|chain| chain.signal == signal) {
            chain.forward(entry, info, context);
        }
        *libc::__errno_location() = errno;
    }
}
