//! The handler of SIGBUS and SIGSEGV: installed on first use, chained to what was there before.
//!
//! It allocates nothing from the heap and locks nothing. A fault in a pager's area may wait for its
//! page; a fault in a checked copy ends the copy; a fault in a guarded range gets a zero page; a
//! page that a pager cannot supply ends the process with a message; every other fault, and every
//! signal that was sent by a process, goes to the handler that was there before folio's, with the
//! same arguments, or to the default action. That handler runs as its flags say (`SA_RESETHAND`,
//! `SA_NODEFER`, `SA_ONSTACK`, `SA_RESTART`, its mask). If it changes the disposition, its choice
//! is remembered, and folio's handler is put back.
//!
//! Two things escape it. From the moment at which such a handler changes the disposition until it
//! returns, another thread's fault is not folio's. And a handler that changes it and then leaves by
//! siglongjmp(3) is noticed at the next guard.
//!
//! Source: sigaction(2), signal-safety(7).

use super::{copy, guard_table};
use std::cell::{Cell, UnsafeCell};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

/// How many handlers of the program, each installed over folio's, folio keeps apart.
const LEVELS: usize = 4;

type HandlerEntry = extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void);

/// The functions that the kernel calls, one a level. A handler that was installed over one of them,
/// and calls it or puts it back, says so where the signal has to go next.
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
    /// Where a level's entry sends a signal that is not folio's. Those above `top` are left over
    /// from before.
    levels: [AtomicPtr<Disposition>; LEVELS],
    /// The level whose entry was installed last.
    top: AtomicUsize,
}

static CHAINS: [HandlerChain; 2] =
    [HandlerChain::of(libc::SIGBUS), HandlerChain::of(libc::SIGSEGV)];
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// What the handler asks of the pager's areas. A program without a pager has none.
pub(crate) struct AreaFaults {
    /// Waits until a page that comes by way of signals is there. Returns whether to try the access
    /// again.
    pub(crate) supply: AreaFault,
    /// Ends the process if a page of the pager cannot be supplied. Else returns whether to try the
    /// access again.
    pub(crate) report: AreaFault,
}

/// A question about the fault at an address: the context, the address, the signal and its code.
///
/// # Safety
///
/// The context is the `ucontext_t` that the kernel passed to the handler of the signal.
pub(crate) type AreaFault = unsafe fn(*const libc::c_void, usize, i32, i32) -> bool;

static AREA_FAULTS: AtomicPtr<AreaFaults> = AtomicPtr::new(ptr::null_mut());

/// The handler asks `faults` from now on. The pager calls this before its first area exists.
#[cfg(feature = "pager")]
pub(crate) fn set_area_faults(faults: &'static AreaFaults) {
    AREA_FAULTS.store(ptr::from_ref(faults).cast_mut(), Ordering::Release);
}

fn area_faults() -> Option<&'static AreaFaults> {
    // SAFETY: `set_area_faults` stores references that live as long as the program.
    unsafe { AREA_FAULTS.load(Ordering::Acquire).as_ref() }
}

/// A disposition that the program chose. It is never freed: a handler on another thread may be
/// reading it.
struct Disposition {
    signal: i32,
    action: libc::sigaction,
    /// Its handler was for one signal only (SA_RESETHAND), and has had it.
    spent: AtomicBool,
}

/// Room for the dispositions of a program, so that the handler needs no memory to remember one.
struct DispositionSlot {
    place: UnsafeCell<MaybeUninit<Disposition>>,
    is_set: AtomicBool,
}

// SAFETY: one thread claims a room by `ROOMS_TAKEN` and writes it once, before `is_set` says so;
// from then on it is only read.
unsafe impl Sync for DispositionSlot {}

static ROOMS: [DispositionSlot; 64] = [const {
    DispositionSlot {
        place: UnsafeCell::new(MaybeUninit::uninit()),
        is_set: AtomicBool::new(false),
    }
}; 64];
static ROOMS_TAKEN: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// The call of a program's handler that this thread is in: the context that it was given, the
    /// frame that called it, and the level. A handler may leave by siglongjmp(3), and nobody tells;
    /// then it is the last such call.
    static FORWARDING: Cell<(usize, usize, usize)> = const { Cell::new((0, 0, 0)) };
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

/// Makes sure that the handler is the one the kernel calls: a program that installs its own handler
/// after folio's is chained to, as one that did before. One query a signal.
#[cold]
pub(crate) fn ensure() {
    // No lock: a child that is forked while another thread holds it would wait for ever. Two
    // threads at once find the same handler before folio's, and both keep it.
    for chain in &CHAINS {
        let before = disposition(chain.signal);
        if !is_ours(&before) {
            let kept = Disposition::find_or_keep(chain.signal, &before);
            chain.put_in_front(
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

/// Whether the program's function is called, and not a default of the kernel's.
fn is_handler(action: &libc::sigaction) -> bool {
    !matches!(action.sa_sigaction, libc::SIG_DFL | libc::SIG_IGN)
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

    /// The kept copy of a disposition, kept now if need be; `None` without room. It allocates
    /// nothing.
    fn find_or_keep(signal: i32, action: &libc::sigaction) -> Option<&'static Self> {
        let set =
            ROOMS.iter().filter(|room| room.is_set.load(Ordering::Acquire)).find_map(|room| {
                // SAFETY: it is set, and nobody writes it any more.
                let kept = unsafe { (*room.place.get()).assume_init_ref() };
                (kept.signal == signal && is_same(&kept.action, action)).then_some(kept)
            });
        if set.is_some() {
            return set;
        }
        let claim = |taken: usize| (taken < ROOMS.len()).then_some(taken + 1);
        let free = ROOMS_TAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, claim).ok()?;
        let room = &ROOMS[free];
        // SAFETY: the count has given this room to this call alone, and nobody reads it before it
        // is set.
        let kept = unsafe { (*room.place.get()).write(Self::of(signal, *action)) };
        room.is_set.store(true, Ordering::Release);
        Some(kept)
    }

    /// Keeps a disposition on the heap: not for the handler.
    fn leak(signal: i32, action: libc::sigaction) -> &'static Self {
        Box::leak(Box::new(Self::of(signal, action)))
    }

    /// The function, as the kernel would find it now: a handler for one signal only is found once,
    /// by one thread.
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
        // SAFETY: never freed.
        unsafe { self.levels[level].load(Ordering::Acquire).as_ref() }
    }

    fn set(&self, level: usize, to: &'static Disposition) {
        // The program has installed it anew.
        to.spent.store(false, Ordering::SeqCst);
        self.levels[level].store(ptr::from_ref(to).cast_mut(), Ordering::Release);
    }

    /// The level of a disposition that was found over folio's: its own if it has one, so that a
    /// program may install the same handler any number of times.
    fn level_for(&self, found: &libc::sigaction) -> usize {
        if self.at(0).is_none() {
            return 0;
        }
        let same = |&level: &usize| self.at(level).is_some_and(|kept| is_same(&kept.action, found));
        (0..LEVELS)
            .find(same)
            .unwrap_or_else(|| (self.top.load(Ordering::Relaxed) + 1).min(LEVELS - 1))
    }

    /// Puts folio's handler in front of the disposition that was found, which is `kept` there.
    fn put_in_front(
        &self,
        found: &libc::sigaction,
        kept: &'static Disposition,
        level: Option<usize>,
    ) {
        let level = level.unwrap_or_else(|| self.level_for(found));
        // Known before it can be needed.
        self.set(level, kept);
        self.top.store(level, Ordering::Relaxed);
        // SAFETY: all zeroes is a valid sigaction.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = ENTRIES[level] as usize;
        // The program's handler gets the stack that it asked for, and calls that it interrupts end
        // as it asked. Without one, the alternate stack is the better one: the other may be full.
        let free = libc::SA_ONSTACK | libc::SA_RESTART;
        action.sa_flags =
            libc::SA_SIGINFO | if is_handler(found) { found.sa_flags & free } else { free };
        // What another thread installed since the query is what is replaced.
        let mut replaced = *found;
        // SAFETY: the entry has the signature SA_SIGINFO asks for, and is async-signal-safe;
        // `replaced` has room for the answer.
        unsafe { libc::sigaction(self.signal, &raw const action, &raw mut replaced) };
        if !is_ours(&replaced)
            && !is_same(&replaced, found)
            && let Some(kept) = Disposition::find_or_keep(self.signal, &replaced)
        {
            self.set(level, kept);
        }
    }

    /// Looks whether the program's handler, which has been called, has changed the disposition. If
    /// so, folio's handler comes back in front of the new one.
    fn follow(&self, level: usize, called: &Disposition) {
        let now = disposition(self.signal);
        if is_ours(&now) {
            // Perhaps a lower level's: then the next signal goes there.
            return;
        }
        // Without room the new one stays in front, so that it is not lost.
        let Some(kept) = Disposition::find_or_keep(self.signal, &now) else { return };
        // A default, or the same handler again, takes this one's place; another may call the entry
        // that it was installed over.
        let in_place = !is_handler(&now) || is_same(&now, &called.action);
        self.put_in_front(&now, kept, in_place.then_some(level));
    }

    /// Does with a signal what would have been done without folio.
    ///
    /// # Safety
    ///
    /// Called in the handler, with its arguments.
    #[cold]
    #[inline(never)]
    unsafe fn forward(&self, entry: usize, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // A handler that was called from here and calls folio's in its turn passes the same context
        // on. So does the kernel when it puts the next signal where one was that a handler jumped
        // away from, but then this frame lies where that one did, too. Levels go down on the way,
        // so that two handlers that call each other come to an end.
        let outer = FORWARDING.get();
        let (context_at, frame) = (context as usize, (&raw const outer) as usize);
        let nested = outer.0 == context_at && outer.1 != frame;
        let level =
            if nested { outer.2.checked_sub(1).map(|below| below.min(entry)) } else { Some(entry) };
        let Some((level, next)) = level.and_then(|level| Some((level, self.at(level)?))) else {
            // SAFETY: in the handler.
            return unsafe { self.default_action(info) };
        };
        match next.take_handler() {
            // SAFETY: in the handler.
            libc::SIG_DFL => unsafe { self.default_action(info) },
            // SAFETY: as above. The kernel never lets a fault of the process's own be ignored.
            libc::SIG_IGN if is_fault(unsafe { &*info }) => unsafe { self.default_action(info) },
            libc::SIG_IGN => {}
            handler => {
                FORWARDING.set((context_at, frame, level));
                // SAFETY: the program registered this function for this signal, with the signature
                // that its flags name; it runs with the mask that they name.
                unsafe {
                    let mask = self.mask_as(&next.action);
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
                self.follow(level, next);
            }
        }
    }

    /// Blocks what the kernel would have blocked for a handler, and returns what was blocked
    /// before.
    ///
    /// # Safety
    ///
    /// Called in the handler.
    unsafe fn mask_as(&self, previous: &libc::sigaction) -> libc::sigset_t {
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

    /// Ends the process as the signal would have: the signal comes again, with the same
    /// information, where it came before.
    ///
    /// # Safety
    ///
    /// Called in the handler.
    unsafe fn default_action(&self, info: *mut libc::siginfo_t) {
        // SAFETY: all zeroes is a valid sigaction, and zero is SIG_DFL; the calls are
        // async-signal-safe, and `info` is the kernel's.
        unsafe {
            let own = libc::getpid();
            if own == 1 && !is_fault(&*info) {
                // The kernel keeps the first process of a namespace from signals that it does not
                // handle.
                return;
            }
            let action: libc::sigaction = MaybeUninit::zeroed().assume_init();
            libc::sigaction(self.signal, &raw const action, ptr::null_mut());
            // It waits until the handler returns. A fault would happen again by itself, unless its
            // page has come meanwhile.
            let thread = libc::syscall(libc::SYS_gettid);
            if libc::syscall(libc::SYS_rt_tgsigqueueinfo, own, thread, self.signal, info) != 0 {
                libc::syscall(libc::SYS_tgkill, own, thread, self.signal);
            }
        }
    }
}

/// Whether the kernel raised the signal for an access of this thread. Else a process sent it, or
/// the kernel did because a page that nobody accesses is damaged.
fn is_fault(info: &libc::siginfo_t) -> bool {
    let damaged = info.si_signo == libc::SIGBUS && info.si_code == libc::BUS_MCEERR_AO;
    info.si_code > 0 && !damaged
}

fn on_fault(entry: usize, signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the cell is this thread's own; the interrupted code must find its errno as it left
    // it.
    let errno = unsafe { *libc::__errno_location() };
    let areas = area_faults();
    // SAFETY: the kernel passes a valid siginfo and context to an SA_SIGINFO handler; for these
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
