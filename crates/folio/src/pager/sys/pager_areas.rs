//! The pagers' areas: the wait-free table in which the signal handler looks an address up, and the
//! handler's answer to a fault in an area. It waits for the page, or ends the process with a
//! message that names the loss.
//!
//! Areas are not inherited across fork (they are DONTFORK). An access of a child finds nothing
//! mapped, and gets a message of its own.

use crate::pager::sys::fault_access::AccessKind;
use crate::pager::sys::sigsegv_faults::{EndReason, FaultStep, WatchedArea};
use crate::sys::block_list::Block;
use crate::sys::handler_table::{HandlerSlot, ThreadKey};
use crate::sys::signal::{self, AreaFaults};
use crate::sys::{identity, into_plain, plain};
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};

const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

/// The number of pages whose messages an area keeps: the last ones.
const MAX_MESSAGES: usize = 8;

/// An area in the table. It is dropped before its memory is unmapped.
///
/// # Invariants
///
/// `entry` comes from `Box::leak`. Only `drop` frees it, after the slot was retired, so no handler
/// uses it then. Its messages come from `Box::into_raw`. Only [`set_message`](Self::set_message)
/// and `drop` replace or free them, for one caller at a time.
#[derive(Debug)]
pub(crate) struct PagerArea {
    entry: NonNull<AreaEntry>,
    area_slot: &'static AreaSlot,
}

// SAFETY: the entry is on the heap, and consists of atomics and of fields that never change.
unsafe impl Send for PagerArea {}
// SAFETY: the entry consists of atomics and of fields that never change.
unsafe impl Sync for PagerArea {}

#[derive(Debug)]
struct AreaEntry {
    range: Range<usize>,
    page_bytes: usize,
    /// The process that owns the memory.
    owner: u64,
    name: Box<str>,
    messages: [AtomicPtr<AreaMessage>; MAX_MESSAGES],
    next_message: AtomicUsize,
    /// The number of handlers that read a message. They end the process, so they are never
    /// subtracted.
    readers: AtomicUsize,
    watched: Option<Arc<WatchedArea>>,
}

#[derive(Debug)]
struct AreaMessage {
    page: usize,
    reason: String,
}

impl PagerArea {
    /// Enters the area of the object `name`, whose faults come by userfaultfd.
    pub(crate) fn new(range: Range<usize>, name: &str) -> Self {
        Self::insert(range, name, None)
    }

    /// Enters an area whose faults come as signals.
    pub(crate) fn watched(range: Range<usize>, name: &str, watched: Arc<WatchedArea>) -> Self {
        // A handler that the program has installed since would end the process at the first access.
        signal::ensure();
        Self::insert(range, name, Some(watched))
    }

    fn insert(range: Range<usize>, name: &str, watched: Option<Arc<WatchedArea>>) -> Self {
        signal::set_area_faults(&FAULTS);
        signal::install();
        let key = ThreadKey { process: identity::token(), thread: 0 };
        let entry = Box::leak(Box::new(AreaEntry {
            range,
            page_bytes: rustix::param::page_size(),
            owner: key.process,
            name: plain(name).into(),
            messages: [const { AtomicPtr::new(ptr::null_mut()) }; MAX_MESSAGES],
            next_message: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            watched,
        }));
        let area_slot = register(entry, key);
        Self { entry: NonNull::from(entry), area_slot }
    }

    fn entry(&self) -> &AreaEntry {
        // SAFETY: by the invariants of `PagerArea` the entry is freed only by `drop`.
        unsafe { self.entry.as_ref() }
    }

    /// Sets the reason why a page, counted from the area's start, cannot be supplied. If the page
    /// is accessed, the process ends with this message. The reasons of the last 8 pages are kept.
    pub(crate) fn set_message(&mut self, page: usize, reason: String) {
        let entry = self.entry();
        // SAFETY: by the invariants only this function and `drop` free messages, for one caller at
        // a time.
        let of_page = |kept: &AtomicPtr<AreaMessage>| unsafe {
            kept.load(Ordering::Acquire).as_ref().is_some_and(|message| message.page == page)
        };
        let index =
            entry.messages.iter().position(of_page).unwrap_or_else(|| {
                entry.next_message.fetch_add(1, Ordering::Relaxed) % MAX_MESSAGES
            });
        let fresh = Box::into_raw(Box::new(AreaMessage {
            page,
            reason: into_plain(reason.into()).into_owned(),
        }));
        let old = entry.messages[index].swap(fresh, Ordering::AcqRel);
        // This thread hides the message, then reads the count. A reader counts, then reads the
        // message. So one of the two sees the other.
        fence(Ordering::SeqCst);
        if !old.is_null() && entry.readers.load(Ordering::Acquire) == 0 {
            // SAFETY: `old` comes from `into_raw`. It is hidden, and no reader is counted, so no
            // thread uses it.
            drop(unsafe { Box::from_raw(old) });
        }
    }
}

impl Drop for PagerArea {
    fn drop(&mut self) {
        let owner = self.entry().owner;
        if identity::token() != owner {
            // In a child the entry stays, because it explains why nothing is mapped.
            return;
        }
        self.area_slot.end.store(0, Ordering::Relaxed);
        self.area_slot.slot.retire(ThreadKey { process: owner, thread: 0 });
        self.area_slot.slot.release();
        // SAFETY: the entry comes from `Box::leak`. The slot is retired, so no handler uses the
        // entry any more.
        let entry = unsafe { Box::from_raw(self.entry.as_ptr()) };
        if let Some(watched) = &entry.watched {
            // Wakes the threads that wait for a page of the memory that goes away.
            watched.wake(&entry.range);
        }
        for message in entry.messages {
            let message = message.into_inner();
            if !message.is_null() {
                // SAFETY: the message comes from `into_raw`. A handler that read it would have kept
                // `retire` from returning.
                drop(unsafe { Box::from_raw(message) });
            }
        }
    }
}

/// A slot, and the range of addresses that it concerns, as a hint: a fault need not read the other
/// slots.
#[derive(Debug)]
struct AreaSlot {
    start: AtomicUsize,
    end: AtomicUsize,
    slot: HandlerSlot<AreaEntry>,
}

/// The table of the pagers' areas.
static TABLE: Block<AreaSlot, TABLE_BLOCK> = Block::new(free_slots());

const TABLE_BLOCK: usize = 32;

/// The functions that the signal handler calls.
static FAULTS: AreaFaults = AreaFaults { supply, report };

const fn free_slots() -> [AreaSlot; TABLE_BLOCK] {
    [const {
        AreaSlot {
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            slot: HandlerSlot {
                entry: AtomicPtr::new(ptr::null_mut()),
                users: AtomicU64::new(0),
                process: AtomicU64::new(0),
                thread: AtomicUsize::new(0),
            },
        }
    }; TABLE_BLOCK]
}

/// Hides the areas of a parent process that lay at these addresses: other memory is there now.
fn hide_inherited(range: &Range<usize>, key: ThreadKey) {
    for AreaSlot { start, end, slot } in TABLE.slots() {
        let overlaps =
            end.load(Ordering::Acquire) > range.start && start.load(Ordering::Relaxed) < range.end;
        // A slot's process is stored before its end. So an area that another thread registers at
        // this moment is already known to belong to this process. The areas of a parent process
        // never change.
        if overlaps && !slot.is_of(key) {
            end.store(0, Ordering::Release);
        }
    }
}

fn register(entry: &AreaEntry, key: ThreadKey) -> &'static AreaSlot {
    hide_inherited(&entry.range, key);
    let area = TABLE.find_or_grow(|area| area.slot.insert(entry, key), free_slots);
    // The program uses the memory only after these stores.
    area.start.store(entry.range.start, Ordering::Relaxed);
    area.end.store(entry.range.end, Ordering::Release);
    area
}

/// Looks the address up for the signal handler, and calls `work` with its entry. `work` returns
/// `None` for an entry that does not concern it.
fn find<R>(address: usize, mut work: impl FnMut(&AreaEntry) -> Option<R>) -> Option<R> {
    // An entry of a parent process explains a fault here, so every thread sees every entry: all
    // entries and look-ups have the same thread.
    let key = ThreadKey { process: identity::known_token()?, thread: 0 };
    for AreaSlot { start, end, slot } in TABLE.slots() {
        if address >= end.load(Ordering::Acquire) || address < start.load(Ordering::Relaxed) {
            continue;
        }
        // SAFETY: an area retires its slot before it frees the entry. A child process never frees
        // the entries that it inherits.
        let found = unsafe {
            slot.with_entry(key, |entry| {
                entry.range.contains(&address).then(|| work(entry)).flatten()
            })
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// For the signal handler: if the page at `address` is supplied by way of signals, waits for it.
/// Returns whether to try the access again.
///
/// # Safety
///
/// `context` is the `ucontext_t` that the kernel passed to the handler of `signal`.
unsafe fn supply(context: *const libc::c_void, address: usize, signal: i32, code: i32) -> bool {
    if signal != libc::SIGSEGV || code != SEGV_ACCERR {
        return false;
    }
    let Some(process) = identity::known_token() else { return false };
    // SAFETY: the caller promises that `context` is the kernel's. The signal is a SIGSEGV for an
    // access.
    let access = unsafe { AccessKind::of(context) };
    let step = find(address, |entry| {
        let watched = entry.watched.as_ref().filter(|_| entry.owner == process)?;
        // The cell is claimed and the driver woken while the slot counts this handler, so neither
        // can go away.
        Some(watched.await_page(address, entry.page_of(address), access))
    });
    match step {
        Some(FaultStep::Retry) => true,
        Some(FaultStep::Crowded) => {
            // SAFETY: sched_yield(2) takes no arguments, and a handler may call it.
            unsafe { libc::sched_yield() };
            true
        }
        Some(FaultStep::Wait(cell)) => {
            block_signals();
            // SAFETY: cells are freed only while each is free, and only this thread makes this cell
            // free.
            unsafe { (*cell).wait() };
            true
        }
        Some(FaultStep::End(_) | FaultStep::Wrong) | None => false,
    }
}

/// Blocks other signals on this thread while it waits, as a fault in the kernel does. SIGSEGV is
/// blocked here, so another signal's handler that touched a missing page would end the process. The
/// mask is restored when the handler returns.
fn block_signals() {
    let mut all = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: both calls are async-signal-safe, and `all` has room for the set.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::pthread_sigmask(libc::SIG_BLOCK, all.as_ptr(), ptr::null_mut());
    }
}

/// For the signal handler: if the fault says that a page of a pager cannot be supplied, writes a
/// message and ends the process, as SIGBUS does. Otherwise returns whether to try the access again.
///
/// # Safety
///
/// As for [`supply`].
unsafe fn report(context: *const libc::c_void, address: usize, signal: i32, code: i32) -> bool {
    let Some(process) = identity::known_token() else { return false };
    let again = find(address, |entry| {
        if entry.owner != process {
            if signal == libc::SIGSEGV && code == SEGV_MAPERR {
                write_line(&[
                    b"folio: this memory belongs to the parent process: a pager's memory is not inherited across fork\n",
                ]);
                end_process();
            }
            return None;
        }
        match signal {
            libc::SIGBUS => entry.end(address, EndReason::Poisoned),
            libc::SIGSEGV if code == SEGV_ACCERR => {
                // SAFETY: the caller promises that `context` is the kernel's. The signal is a
                // SIGSEGV for an access.
                let access = unsafe { AccessKind::of(context) };
                let why = match &entry.watched {
                    Some(watched) => match watched.judge(entry.page_of(address), access) {
                        Err(FaultStep::End(why)) => why,
                        Err(FaultStep::Wrong) => return None,
                        // The page was poisoned a moment ago, and no longer is.
                        _ => return Some(()),
                    },
                    None if access == AccessKind::Fetch => return None,
                    // All of the area is readable and writable, except for pages that were given
                    // up.
                    None => EndReason::Poisoned,
                };
                entry.end(address, why)
            }
            _ => None,
        }
    });
    again.is_some()
}

impl AreaEntry {
    fn page_of(&self, address: usize) -> usize {
        (address - self.range.start) / self.page_bytes
    }

    /// Writes the message, and ends the process.
    fn end(&self, address: usize, why: EndReason) -> ! {
        let page = self.page_of(address);
        let mut digits = [0; 20];
        let offset = decimal(page * self.page_bytes, &mut digits);
        self.readers.fetch_add(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let kept = self.messages.iter().find_map(|kept| {
            // SAFETY: this handler is counted as a reader, so a message that it finds is not freed.
            let message = unsafe { kept.load(Ordering::Acquire).as_ref() };
            message.filter(|message| message.page == page)
        });
        let reason = match (why, kept) {
            (EndReason::Poisoned, Some(message)) => message.reason.as_str(),
            (EndReason::Poisoned, None) => "the reason is not known",
            (EndReason::OwnThread, _) => {
                "a pager's own thread, which would have to supply it, touched it"
            }
            (EndReason::Closed, _) => "its pager is gone",
        };
        let parts = [
            "folio: ",
            &self.name,
            ": page at offset ",
            offset,
            " could not be supplied: ",
            reason,
            "\n",
        ];
        write_line(&parts.map(str::as_bytes));
        end_process()
    }
}

/// The decimal digits of a number.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &str {
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return std::str::from_utf8(&digits[first..]).unwrap_or_default();
        }
    }
}

/// Writes the parts to stderr, in one piece if the kernel accepts it.
fn write_line(parts: &[&[u8]]) {
    const MAX_PARTS: usize = 7;
    let mut vector = [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; MAX_PARTS];
    for (to, part) in vector.iter_mut().zip(parts) {
        *to = libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() };
    }
    // A message beyond RLIMIT_FSIZE must not end the process in another way (SIGXFSZ).
    block_signals();
    // SAFETY: writev(2) reads only the parts. An error is ignored: it cannot be reported anywhere.
    unsafe {
        libc::writev(libc::STDERR_FILENO, vector.as_ptr(), parts.len().min(MAX_PARTS) as i32)
    };
}

/// Ends the process as SIGBUS does without a handler.
fn end_process() -> ! {
    // SAFETY: all zeroes is a valid sigaction, and zero is SIG_DFL; the calls are
    // async-signal-safe; the set is valid.
    unsafe {
        let action: libc::sigaction = std::mem::MaybeUninit::zeroed().assume_init();
        libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut());
        libc::syscall(
            libc::SYS_tgkill,
            libc::getpid(),
            libc::syscall(libc::SYS_gettid),
            libc::SIGBUS,
        );
        let mut only = std::mem::MaybeUninit::<libc::sigset_t>::zeroed();
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), libc::SIGBUS);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, only.as_ptr(), ptr::null_mut());
        // The signal is delivered now at the latest. The exception is the first process of a
        // namespace (PID 1), which gets no signal without a handler.
        libc::_exit(128 + libc::SIGBUS)
    }
}
