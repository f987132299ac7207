//! The staging memory of a shard: where bytes are read to before they are in a map, and where pages go that leave one.
//!
//! Two kinds of chunks of 512 pages: of huge pages, for runs of a whole chunk, and of small ones for all others, since a
//! small run in memory that is advised to be huge would cost 2 MiB. A free slot may keep its memory: the next read into it
//! needs none that the kernel zeroes first.

use super::{CHUNK, Place, Slot};
use crate::sys::uffd::{Uffd, watch};
use crate::sys::{Errno, identity, mm};
use std::sync::Arc;

/// One bit a page of a chunk.
type Bits = [u64; CHUNK / 64];

fn get(bits: &Bits, page: usize) -> bool {
    bits[page / 64] >> (page % 64) & 1 == 1
}

fn set(bits: &mut Bits, pages: std::ops::Range<usize>, value: bool) {
    for page in pages {
        let bit = 1 << (page % 64);
        if value { bits[page / 64] |= bit } else { bits[page / 64] &= !bit }
    }
}

#[derive(Debug)]
struct Chunk {
    address: usize,
    huge: bool,
    /// Pages that no slot has.
    free: Bits,
    /// Pages that may hold memory.
    warm: Bits,
    /// How many are free.
    count: usize,
}

impl Chunk {
    fn first_fit(&self, pages: usize) -> Option<usize> {
        if self.count < pages {
            return None;
        }
        let mut run = 0;
        (0..CHUNK).find_map(|page| {
            run = if get(&self.free, page) { run + 1 } else { 0 };
            (run == pages).then(|| page + 1 - pages)
        })
    }

    fn idle(&self) -> usize {
        self.free.iter().zip(&self.warm).map(|(free, warm)| (free & warm).count_ones() as usize).sum()
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    chunks: Vec<Chunk>,
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
    /// A pool of at most `bytes` of addresses, mapped as they are needed. `mover`: set where UFFDIO_MOVE is used.
    pub(crate) fn new(bytes: usize, mover: Option<Arc<Uffd>>, huge: bool) -> Self {
        let page = rustix::param::page_size();
        let limit = bytes.div_ceil(CHUNK * page).max(2);
        let process = identity::token();
        Self { chunks: Vec::new(), areas: Vec::new(), uffd: mover, huge, page, limit, idle: 0, process }
    }

    /// A free slot of 1 to 512 pages, with memory from its last use if there is such a one. `None`: no addresses left.
    pub(crate) fn take(&mut self, pages: usize) -> Option<Slot> {
        assert!((1..=CHUNK).contains(&pages), "a run of {pages} pages");
        let huge = self.huge && pages == CHUNK;
        let fits = |chunk: &Chunk| if chunk.huge == huge { chunk.first_fit(pages) } else { None };
        let warm = self
            .chunks
            .iter()
            .position(|chunk| chunk.idle() > 0 && fits(chunk).is_some_and(|first| get(&chunk.warm, first)));
        let index = warm
            .or_else(|| self.chunks.iter().position(|chunk| fits(chunk).is_some()))
            .or_else(|| self.grow(huge).ok())?;
        let chunk = &mut self.chunks[index];
        let first = chunk.first_fit(pages)?;
        let before = chunk.idle();
        set(&mut chunk.free, first..first + pages, false);
        chunk.count -= pages;
        self.idle -= before - chunk.idle();
        let address = chunk.address + first * self.page;
        Some(Slot { address, pages, place: Place::Pool { chunk: index, first } })
    }

    /// As [`take`](Self::take), without any memory in it: for pages to be moved to.
    pub(crate) fn take_empty(&mut self, pages: usize) -> Option<Slot> {
        let slot = self.take(pages)?;
        self.empty(&slot);
        Some(slot)
    }

    /// Gives a slot's memory back to the kernel.
    pub(super) fn empty(&mut self, slot: &Slot) {
        let Place::Pool { chunk, first } = slot.place else { return };
        let chunk = &mut self.chunks[chunk];
        if (first..first + slot.pages).any(|page| get(&chunk.warm, page)) {
            discard(slot.address, slot.pages * self.page);
            set(&mut chunk.warm, first..first + slot.pages, false);
        }
    }

    /// Notes whether a slot's pages from `first` hold memory, after they were filled or moved.
    pub(super) fn note(&mut self, slot: &Slot, pages: std::ops::Range<usize>, holds: bool) {
        if let Place::Pool { chunk, first } = slot.place {
            set(&mut self.chunks[chunk].warm, first + pages.start..first + pages.end, holds);
        }
    }

    /// Takes a slot back. Its memory stays until it is used again, or [trimmed](Self::trim).
    // By value: who gives a slot has it no more.
    #[allow(clippy::needless_pass_by_value)]
    pub(crate) fn give(&mut self, slot: Slot) {
        let Slot { pages, place, address: _ } = slot;
        let Place::Pool { chunk, first } = place else { return };
        let chunk = &mut self.chunks[chunk];
        let before = chunk.idle();
        set(&mut chunk.free, first..first + pages, true);
        chunk.count += pages;
        self.idle += chunk.idle() - before;
    }

    /// Bytes that free slots still hold.
    pub(crate) fn resident_idle(&self) -> usize {
        self.idle * self.page
    }

    /// Gives back at least `bytes` of what free slots hold, or all of it. Returns how many bytes.
    pub(crate) fn trim(&mut self, bytes: usize) -> usize {
        let mut trimmed = 0;
        for chunk in &mut self.chunks {
            if trimmed >= bytes {
                break;
            }
            let mut page = 0;
            while page < CHUNK {
                let start = page;
                while page < CHUNK && get(&chunk.free, page) && get(&chunk.warm, page) {
                    page += 1;
                }
                if page == start {
                    page += 1;
                } else {
                    discard(chunk.address + start * self.page, (page - start) * self.page);
                    set(&mut chunk.warm, start..page, false);
                    self.idle -= page - start;
                    trimmed += (page - start) * self.page;
                }
            }
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
        let start = super::reserve(len, chunk_bytes, libc::PROT_READ | libc::PROT_WRITE, None)?;
        self.areas.push((start, len));
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // A kernel without huge pages refuses both kinds of advice, and needs none.
        // SAFETY: new memory; the advice changes no byte.
        let _ = unsafe { mm::madvise(start as *mut u8, len, advice) };
        if let Some(uffd) = &self.uffd {
            // UFFDIO_MOVE wants its target registered; nothing in the pool is ever protected, so no access waits.
            // SAFETY: the pool's own memory.
            unsafe { uffd.register(start, len, watch::WP) }?;
        }
        let first = self.chunks.len();
        self.chunks.extend((0..count).map(|index| Chunk {
            address: start + index * chunk_bytes,
            huge,
            free: [u64::MAX; CHUNK / 64],
            warm: [0; CHUNK / 64],
            count: CHUNK,
        }));
        Ok(first)
    }
}

fn discard(address: usize, len: usize) {
    // SAFETY: memory of the pool that no slot, or the slot's owner, has.
    let _ = unsafe { mm::madvise(address as *mut u8, len, libc::MADV_DONTNEED) };
}

impl Drop for Pool {
    fn drop(&mut self) {
        // A child has not inherited the areas.
        if identity::token() == self.process {
            for &(start, len) in &self.areas {
                // SAFETY: the pool's own; slots end with the shard that owns both.
                let _ = unsafe { mm::munmap(start as *mut u8, len) };
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
        let slots: Vec<_> = [1, 512, 300, 212, 7, 512, 3].map(|pages| pool.take(pages).unwrap()).into();
        let mut ranges: Vec<_> = slots.iter().map(|s| (s.address, s.address + s.pages * page)).collect();
        ranges.sort_unstable();
        assert!(ranges.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{ranges:x?}");
        for slot in slots {
            pool.give(slot);
        }
        let all: Vec<_> = std::iter::from_fn(|| pool.take(CHUNK)).collect();
        assert_eq!(all.len(), 32);
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
