//! Guarded maps: the wait-free table in which the signal handler looks an address up, and the
//! handler's answer to a fault in a guarded map.
//!
//! A page that cannot be supplied is [replaced](super::shadow) by a zero page. Every guard over
//! such a page fails, as it must. Checked copies read the clones, and so report each page
//! correctly. The handler gets memory only from mmap(2) and takes no lock. Two threads that fault
//! on one page race for a bit; the loser returns, and faults again until the winner has finished.

use super::block_list::Block;
use super::copy::Trap;
use super::fork_mutex::{ForkMutex, ForkMutexGuard};
use super::handler_table::{HandlerSlot, ThreadKey};
use super::identity;
use super::lost_pages;
use super::mm;
use super::shadow::{CloneBy, Shadow};
use super::spare::{Spare, Stores};
use super::vma_reserve;
use rustix::io::Errno;
use std::ops::Range;
use std::ptr;
use std::sync::atomic::{
    AtomicBool, AtomicI32, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering,
};

/// The state that a map needs so that it can be guarded. It lies in the handle itself. While a
/// guard is open, the handle is borrowed and cannot move.
#[derive(Debug, Default)]
pub(crate) struct Guarded {
    /// Even: no page is replaced. Odd: some pages may be. The number grows with every replacement
    /// and when the replacements are undone. So a copy that finds the same even number before and
    /// after saw no zero page.
    epoch: AtomicU64,
    /// The pages that are replaced, or null.
    replaced: AtomicPtr<Shadow>,
    /// The process had no VMAs or addresses left to replace single pages or to put them back, so
    /// the whole map was given up. It shows zeros to open guards, and allows no access afterwards.
    lost: AtomicBool,
    /// The errno for which the map was given up; zero if it was not.
    why: AtomicI32,
    /// The progress of the last resort: zero, [`COVERED`], [`BARE`], or [`COVERING`] with the
    /// number of the process whose thread is working on it.
    cover: AtomicU64,
    /// The memory for the last resort.
    spare: Spare,
    /// The first fault's signal and code; zero if there was none.
    cause: AtomicU64,
    /// The lowest address of a fault, plus one; zero if there was none.
    missing: AtomicUsize,
    /// The guarded addresses, log2 of their page size, and the way in which their pages are cloned.
    /// They are set before the map is entered in the table.
    lo: AtomicUsize,
    hi: AtomicUsize,
    shift: AtomicU32,
    by: AtomicU8,
    /// The number of open guards, and the slot that they share. The handler never takes this lock.
    lock: ForkMutex<OpenGuard>,
}

const COVERED: u64 = 1;
const BARE: u64 = 2;
const COVERING: u64 = 3;

/// The error text for a map that was given up for `errno`. It names the limit that the process has
/// reached now.
#[cold]
pub(crate) fn explain_loss(errno: Errno) -> String {
    use super::process::{limit, passes_address_limit, private_writable, sysctl, vma_count};
    let data = limit(rustix::process::Resource::Data);
    let areas = sysctl("vm/max_map_count").unwrap_or(u64::MAX);
    let reason = if passes_address_limit(0) {
        "the process's addresses pass RLIMIT_AS"
    } else if data.is_some_and(|limit| private_writable().unwrap_or(0) > limit) {
        "the process's private memory passes RLIMIT_DATA"
    } else if vma_count() as u64 + 64 > areas {
        "the process has as many VMAs as vm.max_map_count allows"
    } else {
        "the kernel refused memory, addresses or VMAs"
    };
    let code = errno.raw_os_error();
    format!(
        "the whole map was given up, since no single page could be replaced: {reason}, errno {code}; map the file again"
    )
}

/// The reason why a guard cannot be opened.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NotOpened {
    /// The kernel refused the spare memory of the last resort.
    NoSpare(Errno),
    /// The kernel refused the reserve of VMAs.
    NoAreas(Errno),
    /// The map was given up.
    GivenUp(Trap),
}

#[derive(Debug, Default)]
struct OpenGuard {
    guards: usize,
    slot: Option<&'static HandlerSlot<Guarded>>,
}

/// Replaces the page at `address`, for the signal handler. Returns whether to try the access again.
#[inline(never)]
fn replace(guarded: &Guarded, address: usize, signal: i32, code: i32) -> bool {
    match replace_page(guarded, address, signal, code) {
        Ok(()) => true,
        Err(errno) => guarded.give_up(address, errno),
    }
}

#[inline(never)]
fn replace_page(guarded: &Guarded, address: usize, signal: i32, code: i32) -> Result<(), Errno> {
    if guarded.lost.load(Ordering::SeqCst) {
        return Err(Errno::NOMEM);
    }
    let record =
        guarded.record_or_make().inspect_err(|_| guarded.announce(address, signal, code))?;
    let page = record.page_of(address);
    if let Some(pages) = record.claim(page) {
        guarded.announce(address, signal, code);
        return record.replace_run(pages);
    }
    if !record.done().get(page) {
        yield_to_winner();
    }
    Ok(())
}

/// The winner may be waiting for this processor.
fn yield_to_winner() {
    // SAFETY: a system call without arguments, which a handler may make.
    unsafe { libc::sched_yield() };
}

impl Guarded {
    /// Opens a guard over the pages of `range`. A [`close`](Self::close) follows every open, before
    /// the map moves or changes its range.
    ///
    /// The memory and the VMAs of the last resort are made here, once for a map: a fault cannot get
    /// either.
    pub(crate) fn open(
        &self,
        range: &Range<usize>,
        shift: u32,
        by: CloneBy,
        stores: Stores,
    ) -> Result<(), NotOpened> {
        let mut open = self.lock.lock();
        let key = this_thread_key();
        if self.lost.load(Ordering::SeqCst) {
            return Err(NotOpened::GivenUp(self.first_missing(range)));
        }
        vma_reserve::hold().map_err(NotOpened::NoAreas)?;
        if let Some(slot) = open.slot.filter(|slot| !slot.is_of(key)) {
            // This process is a child. Of the threads that opened those guards it has at most the
            // one that forked. The guards of that thread go on; no thread closes those of the
            // others. The new entry is made before the old one goes, so that a fault always finds
            // one of them.
            let goes_on = slot.is_visible_to(key);
            open.slot = goes_on.then(|| register(self, key));
            open.guards = if goes_on { open.guards } else { 0 };
            slot.retire(key);
            slot.release();
        }
        if open.guards == 0 {
            self.spare.provide(range.len(), stores).map_err(NotOpened::NoSpare)?;
            self.cause.store(0, Ordering::Relaxed);
            self.missing.store(0, Ordering::Relaxed);
            self.lo.store(range.start, Ordering::Relaxed);
            self.hi.store(range.end, Ordering::Relaxed);
            self.shift.store(shift, Ordering::Relaxed);
            self.by.store(by as u8, Ordering::Relaxed);
            open.slot = Some(register(self, key));
        }
        open.guards += 1;
        Ok(())
    }

    /// Ends a guard. The last one puts the replaced pages back. Returns the first address of
    /// `range` that was replaced while any guard was open, with the signal and the code of the
    /// first fault.
    pub(crate) fn close(&self, range: &Range<usize>) -> Option<Trap> {
        let mut open = self.lock.lock();
        let trap = self.first_replaced(&open, range);
        open.guards = open.guards.saturating_sub(1);
        if open.guards == 0
            && let Some(slot) = open.slot.take()
        {
            slot.retire(this_thread_key());
            let record = self.replaced.load(Ordering::Acquire);
            // SAFETY: the slot is retired, so no handler uses the record any more. Copies use it
            // only under the lock, which this thread holds.
            let replaced = unsafe { record.as_ref() };
            if !self.lost.load(Ordering::SeqCst)
                && let Some(Err(errno)) = replaced.map(Shadow::undo)
            {
                self.note_loss(errno);
            }
            if self.lost.load(Ordering::SeqCst) {
                // The epoch stays odd and every access fails, so no zero page is ever taken for the
                // file's page.
                self.revoke_access();
            } else if replaced.is_some() {
                self.epoch.fetch_add(1, Ordering::SeqCst);
            }
            self.replaced.store(ptr::null_mut(), Ordering::Release);
            if replaced.is_some() {
                // SAFETY: the slot is retired and `replaced` is null, so no thread can find the
                // record any more.
                unsafe { Shadow::free(record) };
            }
            slot.release();
        }
        trap
    }

    /// The record; the first call makes it. For the signal handler.
    #[inline(never)]
    fn record_or_make(&self) -> Result<&Shadow, Errno> {
        let mut record = self.replaced.load(Ordering::Acquire);
        if record.is_null() {
            let range = self.lo.load(Ordering::Relaxed)..self.hi.load(Ordering::Relaxed);
            let by = CloneBy::from_number(self.by.load(Ordering::Relaxed));
            let fresh = Shadow::make(range, self.shift.load(Ordering::Relaxed), by)?.as_ptr();
            let null = ptr::null_mut();
            record = match self.replaced.compare_exchange(
                null,
                fresh,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => fresh,
                Err(other) => {
                    // SAFETY: the record was not published, so no other thread has seen it.
                    unsafe { Shadow::free(fresh) };
                    other
                }
            };
        }
        // SAFETY: the record is freed only after the slot has no users, and this handler is a user.
        unsafe { record.as_ref() }.ok_or(Errno::NOMEM)
    }

    /// Notes that pages are about to be replaced, and the cause, before any thread can see their
    /// zeros.
    #[inline(never)]
    fn announce(&self, address: usize, signal: i32, code: i32) {
        self.epoch.fetch_or(1, Ordering::SeqCst);
        self.epoch.fetch_add(2, Ordering::SeqCst);
        let cause = u64::from(signal.cast_unsigned()) | (u64::from(code.cast_unsigned()) << 32);
        let _ = self.cause.compare_exchange(0, cause, Ordering::Relaxed, Ordering::Relaxed);
        let mut lowest = self.missing.load(Ordering::Relaxed);
        while lowest == 0 || address < lowest - 1 {
            match self.missing.compare_exchange(
                lowest,
                address + 1,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => lowest = now,
            }
        }
    }

    fn note_loss(&self, errno: Errno) {
        let _ = self.why.compare_exchange(
            0,
            errno.raw_os_error(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        self.lost.store(true, Ordering::SeqCst);
    }

    /// The errno for which the map was given up, if it was.
    pub(crate) fn why_given_up(&self) -> Option<Errno> {
        let lost = self.lost.load(Ordering::SeqCst);
        lost.then(|| Errno::from_raw_os_error(self.why.load(Ordering::Relaxed)))
    }

    /// The last resort, for a process at a limit: moves the spare over the whole map. This takes no
    /// further memory, VMA or address. The file loses nothing, but the map is of no use any more.
    /// For the signal handler; returns whether to try the access again.
    #[inline(never)]
    fn give_up(&self, address: usize, errno: Errno) -> bool {
        self.note_loss(errno);
        let mine = COVERING | identity::known_token().unwrap_or(0) << 2;
        let cover = self.cover.load(Ordering::Acquire);
        if cover == COVERED {
            // An earlier fault, or a store to a spare that is not writable.
            return self.spare.is_writable() || self.make_writable(address);
        }
        if cover == BARE {
            return false;
        }
        // A thread that worked on this in the parent process does not exist in this child.
        if cover == mine
            || self
                .cover
                .compare_exchange(cover, mine, Ordering::AcqRel, Ordering::Relaxed)
                .is_err()
        {
            yield_to_winner();
            return true;
        }
        let covered = self.install_spare();
        self.cover.store(if covered { COVERED } else { BARE }, Ordering::Release);
        covered
    }

    #[inline(never)]
    fn install_spare(&self) -> bool {
        let (lo, hi) = (self.lo.load(Ordering::Relaxed), self.hi.load(Ordering::Relaxed));
        // SAFETY: the range is the guarded map's own, and its owner allowed this by opening a
        // guard.
        if let Some(result) = unsafe { self.spare.put_over(lo) } {
            return result.is_ok();
        }
        // This child was forked while a thread of the parent was moving the spare.
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
        // SAFETY: the range is the guarded map's own, and its owner allowed this by opening a
        // guard. In this process nothing in it has been unmapped.
        unsafe { mm::mmap(lo as *mut u8, hi - lo, libc::PROT_READ, flags, -1, 0) }.is_ok()
    }

    /// Lets stores reach a page of a spare that was made without writable memory.
    #[inline(never)]
    fn make_writable(&self, address: usize) -> bool {
        let shift = self.shift.load(Ordering::Relaxed);
        let (at, prot) = (address >> shift << shift, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: the page belongs to the spare, which shows zeros to open guards.
        unsafe { mm::mprotect(at as *mut u8, 1 << shift, prot) }.is_ok()
    }

    /// Ends all access to a map that was given up. It leaves out lost pages: other maps may lie
    /// there now.
    fn revoke_access(&self) {
        let mut rest = self.lo.load(Ordering::Relaxed)..self.hi.load(Ordering::Relaxed);
        while !rest.is_empty() {
            let lost = if lost_pages::any() { lost_pages::first_in(&rest) } else { None };
            let end = lost.as_ref().map_or(rest.end, |lost| lost.start.max(rest.start));
            if rest.start < end {
                // SAFETY: the part is the map's own, and no guard is open.
                let _ = unsafe {
                    mm::mprotect(rest.start as *mut u8, end - rest.start, libc::PROT_NONE)
                };
            }
            rest.start = lost.map_or(rest.end, |lost| lost.end);
        }
    }

    fn holds(&self, address: usize) -> bool {
        (self.lo.load(Ordering::Relaxed)..self.hi.load(Ordering::Relaxed)).contains(&address)
    }

    /// The record. Only the holder of the lock frees it, so `_open` keeps it alive.
    fn record<'a>(&'a self, _open: &'a ForkMutexGuard<'_, OpenGuard>) -> Option<&'a Shadow> {
        // SAFETY: the record is published after its contents are written, and it is freed only
        // under the lock that `_open` holds.
        unsafe { self.replaced.load(Ordering::Acquire).as_ref() }
    }

    fn first_replaced(
        &self,
        open: &ForkMutexGuard<'_, OpenGuard>,
        range: &Range<usize>,
    ) -> Option<Trap> {
        if range.is_empty() {
            return None;
        }
        if self.lost.load(Ordering::SeqCst) {
            return Some(self.first_missing(range));
        }
        let record = self.record(open)?;
        let pages = record.page_of(range.start)..record.page_of(range.end - 1) + 1;
        let first =
            record.faulted().first(pages.clone()).or_else(|| record.claimed().first(pages))?;
        Some(self.trap(record.page_at(first).max(range.start)))
    }

    /// The first missing page, if it lies in `range`; else the start of `range`.
    fn first_missing(&self, range: &Range<usize>) -> Trap {
        let missing = self.missing.load(Ordering::Relaxed).wrapping_sub(1);
        let page = 1 << self.shift.load(Ordering::Relaxed);
        let at = (missing & !(page - 1)).max(range.start);
        self.trap(if at < range.end { at } else { range.start })
    }

    fn trap(&self, address: usize) -> Trap {
        let cause = self.cause.load(Ordering::Relaxed);
        Trap { address, signal: cause as u32 as i32, code: (cause >> 32) as i32 }
    }

    /// The state before an access. Pass it to [`undisturbed`](Self::undisturbed) afterwards.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether no page was replaced when `before` was read, nor since.
    #[inline]
    pub(crate) fn undisturbed(&self, before: u64) -> bool {
        std::sync::atomic::fence(Ordering::Acquire);
        before & 1 == 0 && self.epoch.load(Ordering::Relaxed) == before
    }

    /// Makes an access that meets the map's own bytes and never a zero page's, while other threads
    /// replace pages.
    #[cold]
    pub(crate) fn access(
        &self,
        range: &Range<usize>,
        whole: &Range<usize>,
        mut access: impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<(), Trap> {
        // While this thread holds the lock, no replacement is undone. Pages can still be replaced,
        // each once.
        let open = self.lock.lock();
        loop {
            let before = self.epoch();
            let mut next = range.start;
            while next < range.end {
                next = self.access_piece(&open, next, range, whole, &mut access)?;
            }
            // The store must have completed, not only been issued, before the epoch is read.
            std::sync::atomic::fence(Ordering::SeqCst);
            if self.epoch.load(Ordering::Relaxed) == before && !self.lost.load(Ordering::SeqCst) {
                return Ok(());
            }
        }
    }

    /// Accesses the bytes from `next` that lie together, in the map or in the shadow. Returns their
    /// end.
    fn access_piece(
        &self,
        open: &ForkMutexGuard<'_, OpenGuard>,
        next: usize,
        range: &Range<usize>,
        whole: &Range<usize>,
        access: &mut impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<usize, Trap> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(self.first_missing(&(next..range.end)));
        }
        let skip = next - range.start;
        let Some(record) = self.record(open) else {
            access(Piece { at: next, skip, len: range.end - next, checked: whole.clone() })?;
            return Ok(range.end);
        };
        let page = record.page_of(next);
        let page_at = record.page_at(page);
        let end = (page_at + record.page_bytes()).min(range.end);
        let (len, inside) = (end - next, next - page_at);
        if !record.claimed().get(page) {
            access(Piece { at: next, skip, len, checked: whole.clone() })?;
        } else if !record.done().get(page) {
            // Another thread's handler is replacing the page.
            std::thread::yield_now();
            return Ok(next);
        } else if record.cloned().get(page) {
            let shadow = record.shadow_of(page);
            let checked = shadow..shadow + record.page_bytes();
            access(Piece { at: shadow + inside, skip, len, checked })
                .map_err(|trap| Trap { address: trap.address - shadow + page_at, ..trap })?;
        } else {
            return Err(self.trap(next));
        }
        Ok(end)
    }
}

/// Bytes of an access that lie together.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    /// Their address.
    pub(crate) at: usize,
    /// The number of the access's bytes that come before them.
    pub(crate) skip: usize,
    pub(crate) len: usize,
    /// The mapped memory in which they lie.
    pub(crate) checked: Range<usize>,
}

/// The key of this process and this thread in the table. The address of a thread-local variable
/// identifies the thread, also in a child.
fn this_thread_key() -> ThreadKey {
    ThreadKey { process: identity::token(), thread: this_thread() }
}

fn this_thread() -> usize {
    thread_local! {
        static MARK: u8 = const { 0 };
    }
    MARK.with(|mark| ptr::from_ref(mark).addr())
}

/// The table of guarded maps.
static TABLE: Block<HandlerSlot<Guarded>, TABLE_BLOCK> = Block::new(free_slots());

const TABLE_BLOCK: usize = 32;

const fn free_slots() -> [HandlerSlot<Guarded>; TABLE_BLOCK] {
    [const {
        HandlerSlot {
            entry: AtomicPtr::new(ptr::null_mut()),
            users: AtomicU64::new(0),
            process: AtomicU64::new(0),
            thread: AtomicUsize::new(0),
        }
    }; TABLE_BLOCK]
}

fn register(guarded: &Guarded, key: ThreadKey) -> &'static HandlerSlot<Guarded> {
    TABLE.find_or_grow(|slot| slot.insert(guarded, key), free_slots)
}

/// Whether the signal reports that a page could not be supplied. Then the access would succeed on a
/// zero page. Any other access is wrong in itself.
fn is_missing_page(signal: i32, code: i32) -> bool {
    const SEGV_MAPERR: i32 = 1;
    const SEGV_ACCERR: i32 = 2;
    const SEGV_PKUERR: i32 = 4;
    match signal {
        libc::SIGBUS => matches!(code, libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR),
        _ => matches!(code, SEGV_MAPERR | SEGV_ACCERR | SEGV_PKUERR),
    }
}

/// For the signal handler: supplies a zero page if `address` is guarded. Returns whether it did, so
/// that the access can be tried again. `pc` is the address of the interrupted instruction: a zero
/// page must not be run as code.
pub(super) fn supply(address: usize, pc: usize, signal: i32, code: i32) -> bool {
    const LONGEST_INSTRUCTION: usize = 16;
    let runs_it = (pc..pc.saturating_add(LONGEST_INSTRUCTION)).contains(&address);
    // No thread opens a guard before the process has a token.
    let Some(process) =
        identity::known_token().filter(|_| !runs_it && is_missing_page(signal, code))
    else {
        return false;
    };
    let key = ThreadKey { process, thread: this_thread() };
    for slot in TABLE.slots() {
        // SAFETY: `close` retires the slot before the guarded map can move or go away.
        let found =
            unsafe { slot.with_entry(key, |guarded| supply_in(guarded, address, signal, code)) };
        if let Some(supplied) = found {
            return supplied;
        }
    }
    false
}

fn supply_in(guarded: &Guarded, address: usize, signal: i32, code: i32) -> Option<bool> {
    if guarded.holds(address) { Some(replace(guarded, address, signal, code)) } else { None }
}

#[cfg(test)]
mod tests {
    use super::{CloneBy, Guarded, Stores, mm};
    use crate::sys::signal;
    use std::fs::File;
    use std::ops::Range;
    use std::os::fd::AsRawFd;

    const PAGE: usize = 4096;

    /// Eight pages of sevens. The file has since been truncated to the first page.
    fn truncated(sharing: i32) -> (File, Range<usize>) {
        let file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut &file, &vec![7; 8 * PAGE]).unwrap();
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the call makes a new map.
        let at =
            unsafe { mm::mmap(std::ptr::null_mut(), 8 * PAGE, prot, sharing, file.as_raw_fd(), 0) };
        let start = at.unwrap() as usize;
        file.set_len(PAGE as u64).unwrap();
        (file, start..start + 8 * PAGE)
    }

    fn load(at: usize) -> u8 {
        // SAFETY: the address lies in a map of `truncated`, and a guard is open if its page is
        // missing.
        unsafe { (at as *const u8).read_volatile() }
    }

    fn protection_at(address: usize) -> String {
        crate::sys::process::vma_at(address).unwrap().rights
    }

    #[test]
    fn each_way_of_cloning_brings_a_page_back() {
        signal::install();
        for (by, sharing) in [
            (CloneBy::Moving, libc::MAP_SHARED),
            (CloneBy::Moving, libc::MAP_PRIVATE),
            (CloneBy::Duplicating, libc::MAP_SHARED),
        ] {
            let (file, range) = truncated(sharing);
            let guarded = Guarded::default();
            guarded.open(&range, 12, by, Stores::Shared).unwrap();
            assert_eq!((load(range.start), load(range.start + 5 * PAGE)), (7, 0), "{by:?}");
            let trap = guarded.close(&range).unwrap();
            assert_eq!((trap.address, trap.signal), (range.start + 5 * PAGE, libc::SIGBUS));
            file.set_len(8 * PAGE as u64).unwrap();
            rustix::io::pwrite(&file, &[9], 5 * PAGE as u64).unwrap();
            assert_eq!((load(range.start), load(range.start + 5 * PAGE)), (7, 9), "{by:?}");
        }
    }

    /// Ends a guard in a child whose RLIMIT_AS fell below its use while the guard was open.
    #[test]
    fn each_way_of_cloning_works_beyond_the_address_limit() {
        signal::install();
        let cases = [
            (CloneBy::Moving, libc::MAP_SHARED),
            (CloneBy::Moving, libc::MAP_PRIVATE),
            (CloneBy::Duplicating, libc::MAP_SHARED),
        ];
        for (by, sharing) in cases {
            let (file, range) = truncated(sharing);
            let guarded = Guarded::default();
            // SAFETY: the child makes only calls that work after a fork, and ends with `_exit`.
            let pid = unsafe { libc::fork() };
            if pid == 0 {
                let limit = |resource: &mut libc::rlimit, to: u64| {
                    resource.rlim_cur = to;
                    // SAFETY: `resource` is a valid limit.
                    unsafe { libc::setrlimit(libc::RLIMIT_AS, resource) }
                };
                let mut addresses = libc::rlimit { rlim_cur: 0, rlim_max: libc::RLIM_INFINITY };
                // SAFETY: `addresses` has room for the answer.
                unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut addresses) };
                let opened = guarded.open(&range, 12, by, Stores::Shared).is_ok();
                let mut works = opened && load(range.start + 5 * PAGE) == 0;
                works &= limit(&mut addresses, 1 << 20) == 0;
                works &= guarded.close(&range).is_some();
                let most = addresses.rlim_max;
                works &= limit(&mut addresses, most) == 0 && guarded.why_given_up().is_none();
                works &= file.set_len(8 * PAGE as u64).is_ok();
                works &= rustix::io::pwrite(&file, &[9], 5 * PAGE as u64) == Ok(1);
                works = works && load(range.start + 5 * PAGE) == 9 && load(range.start) == 7;
                // SAFETY: `_exit` ends the child at once.
                unsafe { libc::_exit(i32::from(!works)) };
            }
            let mut status = 0;
            // SAFETY: `status` has room for the answer.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status, 0, "{by:?}");
        }
    }

    #[test]
    fn a_page_that_cannot_be_cloned_ends_without_access_alone() {
        signal::install();
        let (file, range) = truncated(libc::MAP_PRIVATE);
        let guarded = Guarded::default();
        guarded.open(&range, 12, CloneBy::Nothing, Stores::Shared).unwrap();
        for _ in 0..2 {
            assert_eq!(load(range.start + 5 * PAGE), 0);
        }
        assert!(guarded.close(&range).is_some());
        file.set_len(8 * PAGE as u64).unwrap();
        assert_eq!(protection_at(range.start + 5 * PAGE), "---p");
        assert_eq!((load(range.start), load(range.start + 6 * PAGE)), (7, 0));
    }

    #[test]
    fn no_page_is_replaced_when_none_is_missing() {
        signal::install();
        let (_file, range) = truncated(libc::MAP_SHARED);
        let guarded = Guarded::default();
        guarded.open(&range, 12, CloneBy::Moving, Stores::Shared).unwrap();
        assert_eq!(load(range.start + PAGE - 1), 7);
        assert_eq!(guarded.close(&range), None);
        assert_eq!(guarded.epoch(), 0);
    }
}
