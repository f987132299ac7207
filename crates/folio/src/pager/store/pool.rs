//! The staging memory of the driver: where bytes are read to before they are in a map, and where
//! pages go that leave one.
//!
//! Two kinds of chunks of 512 pages: of huge pages, for runs of a whole chunk, and of small ones
//! for all others, since a small run in memory that is advised to be huge would cost 2 MiB. A free
//! slot may keep its memory: the next read into it needs none that the kernel zeroes first.
//!
//! Chunks are found by their longest run of free pages: a slot comes from the chunk that it fills
//! best, so that the others stay whole.

use super::{BufferSlot, CHUNK};
use crate::pager::sys::uffd::{Uffd, watch};
use crate::sys::{Errno, identity, mm};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// One bit a page of a chunk.
type SlotBits = [u64; CHUNK / 64];

fn get(bits: &SlotBits, page: usize) -> bool {
    bits[page / 64] >> (page % 64) & 1 == 1
}

fn set(bits: &mut SlotBits, pages: impl IntoIterator<Item = usize>, value: bool) {
    for page in pages {
        let bit = 1 << (page % 64);
        if value { bits[page / 64] |= bit } else { bits[page / 64] &= !bit }
    }
}

/// How many bits from `page` on are set, or are clear.
fn length(bits: &SlotBits, page: usize, value: bool) -> usize {
    let mut next = page;
    while next < CHUNK {
        let word = bits[next / 64] >> (next % 64);
        let count = if value { word.trailing_ones() } else { word.trailing_zeros() } as usize;
        let inside = 64 - next % 64;
        next += count.min(inside);
        if count < inside {
            break;
        }
    }
    next - page
}

/// The runs of set bits, in order.
fn runs(bits: &SlotBits) -> impl Iterator<Item = Range<usize>> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let start = next + length(bits, next, false);
        next = start + length(bits, start, true);
        (start < CHUNK).then_some(start..next)
    })
}

fn both(one: &SlotBits, other: &SlotBits) -> SlotBits {
    std::array::from_fn(|word| one[word] & other[word])
}

#[derive(Debug)]
struct PoolChunk {
    address: usize,
    huge: bool,
    /// Pages that no slot has.
    free: SlotBits,
    /// Pages that may hold memory.
    warm: SlotBits,
}

/// Where a chunk stands in the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Standing {
    huge: bool,
    /// Free pages of it may hold memory.
    warm: bool,
    /// Its longest run of free pages.
    longest: usize,
}

impl PoolChunk {
    fn first_fit(&self, pages: usize) -> Option<usize> {
        let first =
            |bits: &SlotBits| runs(bits).find(|run| run.len() >= pages).map(|run| run.start);
        // Best where there is memory already.
        first(&both(&self.free, &self.warm)).or_else(|| first(&self.free))
    }

    fn idle(&self) -> usize {
        both(&self.free, &self.warm).iter().map(|word| word.count_ones() as usize).sum()
    }

    fn standing(&self) -> Standing {
        let longest = runs(&self.free).map(|run| run.len()).max().unwrap_or(0);
        Standing { huge: self.huge, warm: self.idle() > 0, longest }
    }
}

/// The chunks that have free pages, ordered by their longest run of them, and by number.
#[derive(Debug, Default)]
struct Index([BTreeSet<(usize, usize)>; 4]);

impl Index {
    fn set(&mut self, huge: bool, warm: bool) -> &mut BTreeSet<(usize, usize)> {
        &mut self.0[usize::from(huge) << 1 | usize::from(warm)]
    }

    fn changed(&mut self, chunk: usize, before: Standing, now: Standing) {
        if before == now {
            return;
        }
        self.set(before.huge, before.warm).remove(&(before.longest, chunk));
        if now.longest > 0 {
            self.set(now.huge, now.warm).insert((now.longest, chunk));
        }
    }

    /// The chunk in which a slot of so many pages fits best, one with memory if there is one.
    fn find(&mut self, huge: bool, pages: usize) -> Option<usize> {
        [true, false].into_iter().find_map(|warm| {
            let (_, chunk) = self.set(huge, warm).range((pages, 0)..).next()?;
            Some(*chunk)
        })
    }
}

/// Slots of one page that are at hand without a search: random reads take and give nothing else.
const LOOSE: usize = 256;

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    chunks: Vec<PoolChunk>,
    /// Free pages with memory that the index has as taken, by chunk and place.
    loose: Vec<(usize, usize)>,
    index: Index,
    areas: Vec<(usize, usize)>,
    /// Set where pages are moved: the pool is registered with it.
    uffd: Option<Arc<Uffd>>,
    huge: bool,
    page: usize,
    /// Most chunks that it may have.
    limit: usize,
    /// Pages of free slots that may hold memory.
    idle: usize,
    process: u64,
}

impl Pool {
    /// A pool of at most `bytes` of addresses, mapped as they are needed. `mover`: set where
    /// UFFDIO_MOVE is used.
    pub(crate) fn new(bytes: usize, mover: Option<Arc<Uffd>>, huge: bool) -> Self {
        let page = rustix::param::page_size();
        let limit = bytes.div_ceil(CHUNK * page).max(2);
        let process = identity::token();
        Self {
            chunks: Vec::new(),
            loose: Vec::new(),
            index: Index::default(),
            areas: Vec::new(),
            uffd: mover,
            huge,
            page,
            limit,
            idle: 0,
            process,
        }
    }

    /// A free slot of 1 to 512 pages, with memory from its last use if there is such a one. `None`:
    /// no addresses left.
    pub(crate) fn take(&mut self, pages: usize) -> Option<BufferSlot> {
        assert!((1..=CHUNK).contains(&pages), "a run of {pages} pages");
        if pages == 1
            && let Some((chunk, first)) = self.loose.pop()
        {
            let address = self.chunks[chunk].address + first * self.page;
            return Some(BufferSlot::new(address, pages, chunk, first));
        }
        let huge = self.huge && pages == CHUNK;
        let index = self.index.find(huge, pages).or_else(|| {
            // Idle slots may be the missing part of a longer run.
            self.gather();
            self.index.find(huge, pages).or_else(|| self.grow(huge).ok())
        })?;
        let first = self.chunks[index].first_fit(pages)?;
        self.change(index, |chunk| set(&mut chunk.free, first..first + pages, false));
        let chunk = &self.chunks[index];
        let address = chunk.address + first * self.page;
        Some(BufferSlot::new(address, pages, index, first))
    }

    /// Changes what is free of a chunk, or holds memory.
    fn change(&mut self, index: usize, change: impl FnOnce(&mut PoolChunk)) {
        let chunk = &mut self.chunks[index];
        let (before, idle) = (chunk.standing(), chunk.idle());
        change(chunk);
        self.idle = self.idle + chunk.idle() - idle;
        self.index.changed(index, before, chunk.standing());
    }

    /// As [`take`](Self::take), without any memory in it: for pages to be moved to.
    pub(crate) fn take_empty(&mut self, pages: usize) -> Option<BufferSlot> {
        let slot = self.take(pages)?;
        self.empty(&slot);
        Some(slot)
    }

    /// Gives a slot's memory back to the kernel.
    pub(super) fn empty(&mut self, slot: &BufferSlot) {
        let Some((chunk, first)) = slot.in_pool() else { return };
        let chunk = &mut self.chunks[chunk];
        if (first..first + slot.pages()).any(|page| get(&chunk.warm, page)) {
            discard(slot.address, slot.pages() * self.page);
            set(&mut chunk.warm, first..first + slot.pages(), false);
        }
    }

    /// Notes whether a slot's pages from `first` hold memory, after they were filled or moved.
    pub(super) fn note(&mut self, slot: &BufferSlot, pages: Range<usize>, holds: bool) {
        if let Some((chunk, first)) = slot.in_pool() {
            set(&mut self.chunks[chunk].warm, first + pages.start..first + pages.end, holds);
        }
    }

    /// Takes a slot back. Its memory stays until it is used again, or [trimmed](Self::trim).
    // By value: the giver of a slot has it no more.
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn give(&mut self, slot: BufferSlot) {
        let Some((chunk, first)) = slot.in_pool() else { return };
        let pages = slot.pages();
        if pages == 1 && self.loose.len() < LOOSE && get(&self.chunks[chunk].warm, first) {
            self.loose.push((chunk, first));
            return;
        }
        self.change(chunk, |chunk| set(&mut chunk.free, first..first + pages, true));
    }

    /// Puts the pages that were at hand back among the others.
    fn gather(&mut self) {
        for (chunk, first) in std::mem::take(&mut self.loose) {
            self.change(chunk, |chunk| set(&mut chunk.free, first..=first, true));
        }
    }

    /// Bytes that free slots still hold.
    pub(crate) fn resident_idle(&self) -> usize {
        (self.idle + self.loose.len()) * self.page
    }

    /// Gives back at least `bytes` of the memory that free slots hold, or all of it. Returns how
    /// many bytes.
    pub(crate) fn trim(&mut self, bytes: usize) -> usize {
        let mut trimmed = 0;
        self.gather();
        while trimmed < bytes {
            let warm = [false, true]
                .into_iter()
                .find_map(|huge| self.index.set(huge, true).last().copied());
            let Some((_, index)) = warm else { break };
            let chunk = &self.chunks[index];
            let idle = both(&chunk.free, &chunk.warm);
            for run in runs(&idle) {
                discard(chunk.address + run.start * self.page, run.len() * self.page);
                trimmed += run.len() * self.page;
            }
            self.change(index, |chunk| {
                for (warm, idle) in chunk.warm.iter_mut().zip(idle) {
                    *warm &= !idle;
                }
            });
        }
        trimmed
    }

    #[cfg(test)]
    pub(super) fn first_area(&self) -> usize {
        self.areas[0].0
    }

    /// Maps more chunks; the index of the first.
    fn grow(&mut self, huge: bool) -> Result<usize, Errno> {
        const AT_ONCE: usize = 32;
        let count = AT_ONCE.min(self.limit.saturating_sub(self.chunks.len()));
        if count == 0 {
            return Err(Errno::NOMEM);
        }
        let chunk_bytes = CHUNK * self.page;
        let len = count * chunk_bytes;
        let start = super::reserve(len, chunk_bytes, None)?;
        self.areas.push((start, len));
        super::open_up(start, len, libc::PROT_READ | libc::PROT_WRITE)?;
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // A kernel without huge pages refuses both kinds of advice, and needs none.
        // SAFETY: new memory; the advice changes no byte.
        let _ = unsafe { mm::madvise(start as *mut u8, len, advice) };
        if let Some(uffd) = &self.uffd {
            // UFFDIO_MOVE wants its target registered; nothing in the pool is ever protected, so no
            // access waits. SAFETY: the pool's own memory.
            unsafe { uffd.register(start, len, watch::WP) }?;
        }
        let first = self.chunks.len();
        self.chunks.extend((0..count).map(|index| PoolChunk {
            address: start + index * chunk_bytes,
            huge,
            free: [u64::MAX; CHUNK / 64],
            warm: [0; CHUNK / 64],
        }));
        self.index.set(huge, false).extend((first..first + count).map(|index| (CHUNK, index)));
        Ok(first)
    }
}

fn discard(address: usize, len: usize) {
    // SAFETY: memory of the pool that no slot, or the slot's owner, has.
    unsafe {
        if crate::pager::sys::discard::discard(address, len).is_err() {
            // Locked memory, before 5.18. The pool's own need not be.
            let _ = mm::munlock(address as *mut u8, len);
            let _ = mm::madvise(address as *mut u8, len, libc::MADV_DONTNEED);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A child has not inherited the areas.
        if identity::token() == self.process {
            for &(start, len) in &self.areas {
                // SAFETY: the pool's own; slots end with the driver that owns both.
                unsafe { mm::release(start as *mut u8, len) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK, Pool};

    #[test]
    fn slots_never_overlap_and_come_back() {
        let mut pool = Pool::new(64 << 20, None, false);
        let page = rustix::param::page_size();
        let slots: Vec<_> =
            [1, 512, 300, 212, 7, 512, 3].map(|pages| pool.take(pages).unwrap()).into();
        let mut ranges: Vec<_> =
            slots.iter().map(|s| (s.address, s.address + s.pages() * page)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
        for slot in slots {
            pool.give(slot);
        }
        let all: Vec<_> = std::iter::from_fn(|| pool.take(CHUNK)).collect();
        assert_eq!(all.len(), 32);
    }

    #[test]
    fn every_page_is_found_again_however_slots_came_and_went() {
        let mut pool = Pool::new(64 << 20, None, false);
        let page = rustix::param::page_size();
        let mut taken: Vec<super::BufferSlot> = Vec::new();
        let mut random = 1_u64;
        let mut next = |limit: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random as usize % limit
        };
        for _ in 0..20_000 {
            if next(5) < 3 {
                let most = [1, 16, 64, CHUNK][next(4)];
                let pages = 1 + next(most);
                if let Some(slot) = pool.take(pages) {
                    let held = 0..next(pages + 1);
                    pool.note(&slot, 0..pages, false);
                    pool.note(&slot, held, true);
                    taken.push(slot);
                }
            } else if !taken.is_empty() {
                pool.give(taken.swap_remove(next(taken.len())));
            }
            if next(1000) == 0 {
                pool.trim(next(1 << 24));
            }
            let idle: usize = pool.chunks.iter().map(super::PoolChunk::idle).sum();
            assert_eq!(pool.resident_idle(), (idle + pool.loose.len()) * page);
        }
        let mut ranges: Vec<_> =
            taken.iter().map(|s| (s.address, s.address + s.pages() * page)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0));
        let used: usize = taken.iter().map(super::BufferSlot::pages).sum();
        let left = std::iter::from_fn(|| pool.take(1)).count();
        assert_eq!(used + left, pool.chunks.len() * CHUNK);
        assert_eq!(pool.trim(usize::MAX), 0, "nothing is free");
    }

    #[test]
    fn memory_of_the_last_use_is_used_before_new_memory() {
        let mut pool = Pool::new(64 << 20, None, false);
        let slots: Vec<_> = (0..100).map(|_| pool.take(8).unwrap()).collect();
        let mut given = Vec::new();
        for (number, slot) in slots.into_iter().enumerate() {
            pool.note(&slot, 0..8, number % 3 == 0);
            if number % 3 == 0 {
                given.push(slot.address);
            }
            pool.give(slot);
        }
        let mut again: Vec<_> = (0..given.len()).map(|_| pool.take(8).unwrap().address).collect();
        again.sort_unstable();
        given.sort_unstable();
        assert_eq!(again, given);
    }

    #[test]
    fn slots_of_one_page_leave_the_other_chunks_whole() {
        let mut pool = Pool::new(64 << 20, None, false);
        let slots: Vec<_> = (0..2 * CHUNK).map(|_| pool.take(1).unwrap()).collect();
        for (number, slot) in slots.into_iter().enumerate() {
            if number % 2 == 0 {
                pool.give(slot);
            }
        }
        let again: Vec<_> = (0..CHUNK).map(|_| pool.take(1).unwrap()).collect();
        assert_eq!(again.len(), CHUNK);
        assert_eq!(std::iter::from_fn(|| pool.take(CHUNK)).count(), 30);
    }

    #[test]
    fn what_free_slots_hold_is_counted_and_trimmed() {
        let mut pool = Pool::new(64 << 20, None, false);
        let page = rustix::param::page_size();
        let slot = pool.take(10).unwrap();
        // SAFETY: ten pages of the pool.
        unsafe { (slot.address as *mut u8).write_bytes(7, 10 * page) };
        pool.note(&slot, 0..10, true);
        assert_eq!(pool.resident_idle(), 0);
        pool.give(slot);
        assert_eq!(pool.resident_idle(), 10 * page);
        assert_eq!(pool.trim(1), 10 * page);
        let slot = pool.take(10).unwrap();
        // SAFETY: as above.
        assert_eq!(unsafe { (slot.address as *const u8).read() }, 0, "trimmed memory is new");
        assert_eq!(pool.resident_idle(), 0);
    }
}
