//! The pages of a guarded map that were replaced by zero pages, and the way back.
//!
//! A page that cannot be supplied is not lost. Its VMA, with file, offset and protection, is first
//! cloned to the same position in a *shadow* (a reservation as long as the map), and moved back at
//! the end. A move leaves a hole in the shadow, and so may a clone that fails; the record notes the
//! pages of the shadow that are no longer its own. VMAs are cloned page by page, because a range
//! that spans several VMAs may be cloned in part before the call fails.
//!
//! Each replaced page that has no replaced neighbour costs four VMAs, and a process may have
//! 65,530. So the first faults replace one page each, and later ones replace ever longer runs. A
//! run may include pages that are not missing.

use super::{lost_pages, mm, vma_reserve};
use rustix::io::Errno;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// The way in which a VMA is cloned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum CloneBy {
    /// mremap(2) with DONTUNMAP, which takes private pages along: since 5.13 for file maps, and not
    /// for huge pages.
    Moving,
    /// mremap(2) from length zero: shared maps only.
    Duplicating,
    /// Not at all: the page ends without access.
    Nothing,
}

impl CloneBy {
    /// The best way that this kernel has for a map of this kind.
    pub(crate) fn best(shared: bool, huge: bool) -> Self {
        // mremap(2) refuses to duplicate huge pages, or to move them with DONTUNMAP: EINVAL.
        if huge {
            Self::Nothing
        } else if moves_files() {
            Self::Moving
        } else if shared {
            Self::Duplicating
        } else {
            Self::Nothing
        }
    }

    pub(super) fn from_number(number: u8) -> Self {
        [Self::Moving, Self::Duplicating]
            .into_iter()
            .find(|&by| by as u8 == number)
            .unwrap_or(Self::Nothing)
    }
}

/// Whether mremap(2) accepts file maps with DONTUNMAP. Two threads may both find it out; a forked
/// child therefore waits for none of them.
fn moves_files() -> bool {
    const NO: u8 = 1;
    const YES: u8 = 2;
    static FOUND: AtomicU8 = AtomicU8::new(0);
    match FOUND.load(Ordering::Relaxed) {
        0 => {
            let moves = super::process::kernel_version() >= (5, 13);
            FOUND.store(if moves { YES } else { NO }, Ordering::Relaxed);
            moves
        }
        found => found == YES,
    }
}

/// The record: a header, then five bits a page, in memory of its own.
#[derive(Debug)]
pub(super) struct Shadow {
    /// Bytes of the record.
    record: usize,
    /// The guarded range, and log2 of its page size.
    lo: usize,
    hi: usize,
    shift: u32,
    by: CloneBy,
    /// The start of the shadow's mapping; zero if there is none.
    mapping: usize,
    /// The number of runs of pages that were replaced.
    runs: AtomicU32,
}

/// After this many runs, the next ones are twice as long.
const RUNS_A_LENGTH: u32 = 16;
/// The longest run, as a power of two: it takes some milliseconds in the handler.
const LONGEST_RUN: u32 = 12;

const ANONYMOUS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

impl Shadow {
    /// The number of bit arrays that follow the header.
    const ARRAYS: usize = 5;

    fn words(lo: usize, hi: usize, shift: u32) -> usize {
        ((hi - lo) >> shift).div_ceil(64)
    }

    /// Bytes of the shadow's mapping. They include room to align the shadow as the range is
    /// aligned, which huge pages need.
    fn shadow_bytes(lo: usize, hi: usize, shift: u32) -> usize {
        hi - lo + (1 << shift)
    }

    /// Makes a record. Without the addresses for a shadow, pages are replaced one by one and end
    /// without access.
    pub(super) fn make(
        range: Range<usize>,
        shift: u32,
        by: CloneBy,
    ) -> Result<NonNull<Self>, Errno> {
        has_room_for_vmas()?;
        let Range { start: lo, end: hi } = range;
        let record = size_of::<Self>() + Self::ARRAYS * 8 * Self::words(lo, hi, shift);
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: the call makes a new anonymous map.
        let start = unsafe { mm::mmap(ptr::null_mut(), record, prot, ANONYMOUS, -1, 0) }?;
        let len = Self::shadow_bytes(lo, hi, shift);
        let shadow = if by == CloneBy::Nothing {
            0
        } else {
            // SAFETY: the call makes a new anonymous map.
            unsafe { mm::mmap(ptr::null_mut(), len, libc::PROT_NONE, ANONYMOUS, -1, 0) }
                .map_or(0, |at| at as usize)
        };
        let by = if shadow == 0 { CloneBy::Nothing } else { by };
        let this = start.cast::<Self>();
        let runs = AtomicU32::new(0);
        // SAFETY: the record is at least as long as the header, writable and page-aligned, and no
        // other thread knows it.
        unsafe { this.write(Self { record, lo, hi, shift, by, mapping: shadow, runs }) };
        NonNull::new(this).ok_or(Errno::NOMEM)
    }

    /// # Safety
    ///
    /// `this` came from [`make`](Self::make), and nothing uses it any more.
    pub(super) unsafe fn free(this: *mut Self) {
        // SAFETY: the caller promises that `this` is a record that nothing else uses.
        let it = unsafe { &*this };
        if it.mapping != 0 {
            it.free_shadow();
        }
        let record = it.record;
        // SAFETY: the record's memory belongs to this record alone.
        let _ = unsafe { mm::munmap(this.cast(), record) };
    }

    /// Unmaps the shadow, except for the pages that are no longer its own.
    fn free_shadow(&self) {
        let end = self.mapping + Self::shadow_bytes(self.lo, self.hi, self.shift);
        let (mut start, mut page) = (self.mapping, 0);
        while start < end {
            let gone = self.gone().first(page..self.count());
            let part = start..gone.map_or(end, |gone| self.shadow_of(gone));
            if !part.is_empty() {
                // SAFETY: the part is this record's own, and nothing refers to it.
                unsafe { mm::release(part.start as *mut u8, part.len()) };
            }
            let Some(gone) = gone else { return };
            page = gone + 1;
            start = self.shadow_of(page);
        }
    }

    pub(super) fn page_bytes(&self) -> usize {
        1 << self.shift
    }

    /// The address of page `index` in the shadow, aligned to the page size.
    pub(super) fn shadow_of(&self, index: usize) -> usize {
        let start = (self.mapping + self.page_bytes() - 1) & !(self.page_bytes() - 1);
        start + (index << self.shift)
    }

    pub(super) fn page_at(&self, index: usize) -> usize {
        self.lo + (index << self.shift)
    }

    pub(super) fn page_of(&self, address: usize) -> usize {
        (address - self.lo) >> self.shift
    }

    fn count(&self) -> usize {
        (self.hi - self.lo) >> self.shift
    }

    fn bits(&self, which: usize) -> PageBits<'_> {
        let words = Self::words(self.lo, self.hi, self.shift);
        // SAFETY: behind its header, whose length is a multiple of eight, the record holds five
        // arrays of `words` zero-initialised u64.
        PageBits(unsafe {
            let first = ptr::from_ref(self).add(1).cast::<AtomicU64>();
            std::slice::from_raw_parts(first.add(which * words), words)
        })
    }

    /// Pages that are replaced, or are about to be.
    pub(super) fn claimed(&self) -> PageBits<'_> {
        self.bits(0)
    }

    /// Pages whose VMA lies in the shadow.
    pub(super) fn cloned(&self) -> PageBits<'_> {
        self.bits(1)
    }

    /// Pages that an access found missing. The other claimed pages were replaced along with them.
    pub(super) fn faulted(&self) -> PageBits<'_> {
        self.bits(2)
    }

    /// Pages whose replacement is complete.
    pub(super) fn done(&self) -> PageBits<'_> {
        self.bits(3)
    }

    /// Pages whose address range in the shadow may belong to another map.
    fn gone(&self) -> PageBits<'_> {
        self.bits(4)
    }

    /// Claims `page`, and as many pages behind it as the next run takes, up to the first claimed
    /// one. `None` if `page` is claimed already.
    pub(super) fn claim(&self, page: usize) -> Option<Range<usize>> {
        if !self.claimed().set(page) {
            return None;
        }
        self.faulted().set(page);
        let runs = self.runs.fetch_add(1, Ordering::Relaxed);
        // Without clones, a replaced page that was not missing would be lost.
        let doublings =
            if self.by == CloneBy::Nothing { 0 } else { (runs / RUNS_A_LENGTH).min(LONGEST_RUN) };
        let limit = page.saturating_add(1 << doublings).min(self.count());
        let mut end = page + 1;
        while end < limit && self.claimed().set(end) {
            end += 1;
        }
        Some(page..end)
    }

    /// Maps the contents of page `page` at its position in the shadow: file, offset, protection,
    /// and the page itself if it is private. Both stay mapped.
    fn clone_page(&self, page: usize) -> Result<(), Errno> {
        let fixed = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (old, flags) = match self.by {
            CloneBy::Moving => (self.page_bytes(), fixed | libc::MREMAP_DONTUNMAP),
            CloneBy::Duplicating => (0, fixed),
            CloneBy::Nothing => return Err(Errno::NOMEM),
        };
        let (from, to) = (self.page_at(page) as *mut u8, self.shadow_of(page) as *mut u8);
        // The kernel unmaps the target before it checks limits, and may fail then.
        self.gone().set(page);
        // SAFETY: the target lies in the record's own shadow, in which nothing uses this page yet.
        // With DONTUNMAP, or from length zero, the source stays mapped.
        unsafe { mm::mremap(from, old, self.page_bytes(), flags, to) }?;
        self.gone().clear(page);
        self.cloned().set(page);
        Ok(())
    }

    /// Puts zero pages over `pages`, which this thread has claimed.
    pub(super) fn replace_run(&self, pages: Range<usize>) -> Result<(), Errno> {
        if self.by != CloneBy::Nothing {
            for page in pages.start..pages.end {
                self.clone_page(page)?;
            }
        }
        self.map_zeros(&pages)?;
        for page in pages {
            self.done().set(page);
        }
        Ok(())
    }

    /// Maps zero pages, first without protection bits. Such memory is charged to no limit, so the
    /// kernel has nothing to refuse after it has unmapped the pages.
    fn map_zeros(&self, pages: &Range<usize>) -> Result<(), Errno> {
        let (at, len) = (self.page_at(pages.start) as *mut u8, pages.len() << self.shift);
        // SAFETY: the pages lie in the guarded range, and its owner allowed this by opening a
        // guard.
        unsafe {
            mm::mmap(at, len, libc::PROT_NONE, ANONYMOUS | libc::MAP_FIXED, -1, 0)?;
            mm::mprotect(at, len, libc::PROT_READ | libc::PROT_WRITE)
        }
    }

    /// Puts every clone back over its zero page. A page without a clone ends without access. An
    /// error means that pages were lost; they are [recorded](lost_pages).
    pub(super) fn undo(&self) -> Result<(), Errno> {
        // The kernel refuses to move anything near the limit of VMAs. Each clone that has come back
        // leaves fewer of them.
        if has_room_for_vmas().is_err() {
            vma_reserve::give_up();
        }
        let mut result = Ok(());
        let mut next = 0;
        while let Some(page) = self.claimed().first(next..self.count()) {
            next = page + 1;
            let back = if self.cloned().get(page) {
                self.move_back(page)
            } else {
                // SAFETY: the page is a zero page that the handler mapped, and nothing uses it.
                unsafe {
                    mm::mprotect(self.page_at(page) as *mut u8, self.page_bytes(), libc::PROT_NONE)
                }
            };
            result = result.and(back);
        }
        result
    }

    /// Moves a clone back over its zero page. The kernel unmaps the target first. After that, a
    /// move to the same length without DONTUNMAP is checked against no limit. (It can still fail
    /// for a private page under strict overcommit, or without memory for page tables.)
    fn move_back(&self, page: usize) -> Result<(), Errno> {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, to) = (self.shadow_of(page) as *mut u8, self.page_at(page) as *mut u8);
        let len = self.page_bytes();
        // SAFETY: the clone is the record's own. Its target is the zero page that the handler
        // mapped; the bytes of that page are thrown away with the guard's result.
        let Err(errno) = (unsafe { mm::mremap(from, len, len, flags, to) }) else {
            self.gone().set(page);
            return Ok(());
        };
        // This fails if the zero page still lies there, and if another map lies there by now. The
        // two cases look alike, so the page is given up.
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
        let plug = unsafe {
            mm::mmap(to, len, libc::PROT_NONE, ANONYMOUS | libc::MAP_FIXED_NOREPLACE, -1, 0)
        };
        if plug.is_ok() {
            return Ok(());
        }
        let lost = to as usize..to as usize + len;
        lost_pages::record(&lost);
        Err(errno)
    }
}

/// Fails if the process cannot have some more VMAs. Near the limit mremap(2) refuses to move
/// anything, and at the limit mmap(2) refuses everything. A record that would be of no use must not
/// bring the process to the limit.
#[inline(never)]
fn has_room_for_vmas() -> Result<(), Errno> {
    let page = rustix::param::page_size();
    let len = 8 * page;
    // SAFETY: the call makes a new anonymous map.
    let probe = unsafe { mm::mmap(ptr::null_mut(), len, libc::PROT_NONE, ANONYMOUS, -1, 0) }?;
    // A plain loop: this is the handler's deepest call, and without optimization an iterator has
    // large stack frames.
    let (mut at, mut result) = (1, Ok(()));
    while at < 6 && result.is_ok() {
        // SAFETY: the pages are the probe's own. Each call adds two VMAs.
        result = unsafe { mm::mprotect(probe.add(at * page), page, libc::PROT_READ) };
        at += 2;
    }
    // SAFETY: the probe is this function's own, and nothing refers to it.
    let _ = unsafe { mm::munmap(probe, len) };
    result
}

/// One bit for each page. Any thread may set and read the bits.
#[derive(Clone, Copy)]
pub(super) struct PageBits<'a>(&'a [AtomicU64]);

impl PageBits<'_> {
    /// Sets a bit. Returns whether it was clear.
    fn set(self, page: usize) -> bool {
        let bit = 1 << (page % 64);
        self.0[page / 64].fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    fn clear(self, page: usize) {
        self.0[page / 64].fetch_and(!(1 << (page % 64)), Ordering::AcqRel);
    }

    pub(super) fn get(self, page: usize) -> bool {
        self.0[page / 64].load(Ordering::Acquire) >> (page % 64) & 1 == 1
    }

    /// The first set bit of a range.
    pub(super) fn first(self, range: Range<usize>) -> Option<usize> {
        let mut next = range.start;
        while next < range.end {
            let word = self.0[next / 64].load(Ordering::Acquire) >> (next % 64);
            if word != 0 {
                return Some(next + word.trailing_zeros() as usize)
                    .filter(|&page| page < range.end);
            }
            next = (next / 64 + 1) * 64;
        }
        None
    }
}
