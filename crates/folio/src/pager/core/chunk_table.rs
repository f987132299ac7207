//! An object's pages: which extent each is in, which were spilled, and which could not be supplied.
//! Nothing is kept of pages that were never touched.

use super::PageRun;
use super::extents::ExtentId;
use super::int_hash::IntMap;

/// log2 of the pages of a chunk.
const SHIFT: u32 = 9;
/// Pages a chunk: 2 MiB of 4 KiB pages. An extent never crosses from one to the next.
pub(crate) const CHUNK: u64 = 1 << SHIFT;
const NONE: u32 = u32::MAX;

type ChunkBits = [u64; (CHUNK / 64) as usize];

#[derive(Debug)]
struct TableChunk {
    extents: Box<[u32; CHUNK as usize]>,
    used: u32,
}

#[derive(Debug, Default)]
pub(crate) struct ChunkTable {
    chunks: IntMap<u64, TableChunk>,
    marks: [IntMap<u64, Box<ChunkBits>>; 2],
}

/// The record of a page that is not in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// Its bytes are in the spill file.
    Spilled,
    /// It was poisoned: the next attempt has to undo that first.
    Poisoned,
}

impl ChunkTable {
    pub(crate) fn extent_at(&self, page: u64) -> Option<ExtentId> {
        let extent = self.chunks.get(&(page >> SHIFT))?.extents[(page % CHUNK) as usize];
        (extent != NONE).then_some(ExtentId(extent))
    }

    /// `run` is in `extent_at`, or in none.
    pub(crate) fn set(&mut self, run: PageRun, extent: Option<ExtentId>) {
        let key = run.first >> SHIFT;
        let at = (run.first % CHUNK) as usize;
        let value = extent.map_or(NONE, |extent| extent.0);
        let chunk = self
            .chunks
            .entry(key)
            .or_insert_with(|| TableChunk { extents: Box::new([NONE; CHUNK as usize]), used: 0 });
        for entry in &mut chunk.extents[at..at + run.len as usize] {
            chunk.used = chunk.used + u32::from(value != NONE) - u32::from(*entry != NONE);
            *entry = value;
        }
        if chunk.used == 0 {
            self.chunks.remove(&key);
        }
    }

    pub(crate) fn is_marked(&self, mark: Mark, page: u64) -> bool {
        let bits = self.marks[mark as usize].get(&(page >> SHIFT));
        bits.is_some_and(|bits| bits[(page % CHUNK / 64) as usize] >> (page % 64) & 1 == 1)
    }

    pub(crate) fn mark(&mut self, mark: Mark, page: u64, on: bool) {
        let marks = &mut self.marks[mark as usize];
        let key = page >> SHIFT;
        let (word, bit) = ((page % CHUNK / 64) as usize, 1 << (page % 64));
        if on {
            marks.entry(key).or_default()[word] |= bit;
        } else if let Some(bits) = marks.get_mut(&key) {
            bits[word] &= !bit;
            if bits.iter().all(|&word| word == 0) {
                marks.remove(&key);
            }
        }
    }

    /// The pages from `first` to before `end` that are marked, in no order.
    pub(crate) fn marked(&self, mark: Mark, first: u64, end: u64) -> Vec<u64> {
        let mut pages = Vec::new();
        for (key, bits) in &self.marks[mark as usize] {
            let start = key << SHIFT;
            let set = |page: &u64| bits[((page - start) / 64) as usize] >> (page % 64) & 1 == 1;
            pages.extend((first.max(start)..end.min(start + CHUNK)).filter(set));
        }
        pages
    }

    /// Forgets the marks of pages from `first` to before `end`.
    pub(crate) fn forget_marks(&mut self, first: u64, end: u64) {
        for marks in &mut self.marks {
            marks.retain(|key, bits| {
                let start = key << SHIFT;
                for page in (start..start + CHUNK).filter(|page| (first..end).contains(page)) {
                    bits[(page % CHUNK / 64) as usize] &= !(1 << (page % 64));
                }
                bits.iter().any(|&word| word != 0)
            });
        }
    }

    pub(crate) fn has_marks(&self, mark: Mark) -> bool {
        !self.marks[mark as usize].is_empty()
    }

    /// The extents that hold pages of `run` (which may be as long as the object), in order, each
    /// once.
    pub(crate) fn extents_in(&self, first: u64, end: u64) -> Vec<ExtentId> {
        if first >= end {
            return Vec::new();
        }
        let (low, high) = (first >> SHIFT, (end - 1) >> SHIFT);
        let mut keys: Vec<u64> = if high - low < self.chunks.len() as u64 {
            (low..=high).filter(|key| self.chunks.contains_key(key)).collect()
        } else {
            self.chunks.keys().copied().filter(|key| (low..=high).contains(key)).collect()
        };
        keys.sort_unstable();
        let mut found = Vec::new();
        for key in keys {
            let start = key << SHIFT;
            let from = first.saturating_sub(start).min(CHUNK) as usize;
            let to = (end - start).min(CHUNK) as usize;
            for &extent in &self.chunks[&key].extents[from..to] {
                if extent != NONE && found.last() != Some(&ExtentId(extent)) {
                    found.push(ExtentId(extent));
                }
            }
        }
        found
    }

    /// How many pages from `first` to before `end`, which lie in one chunk, are in extents.
    pub(crate) fn count_in(&self, first: u64, end: u64) -> u64 {
        let Some(chunk) = self.chunks.get(&(first >> SHIFT)) else { return 0 };
        let at = (first % CHUNK) as usize;
        let extents = &chunk.extents[at..at + (end - first) as usize];
        extents.iter().filter(|&&extent| extent != NONE).count() as u64
    }

    /// Whether no page is in memory.
    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Bytes that the records themselves take.
    pub(crate) fn bytes(&self) -> usize {
        let marks: usize = self.marks.iter().map(IntMap::len).sum();
        self.chunks.len() * (size_of::<[u32; CHUNK as usize]>() + 48)
            + marks * (size_of::<ChunkBits>() + 32)
    }
}

#[cfg(test)]
mod tests {
    use super::{ChunkTable, Mark};
    use crate::pager::core::{PageRun, extents::ExtentId};

    #[test]
    fn frames_are_found_in_order_and_once() {
        let mut table = ChunkTable::default();
        table.set(PageRun { first: 500, len: 12 }, Some(ExtentId(1)));
        table.set(PageRun { first: 512, len: 512 }, Some(ExtentId(2)));
        table.set(PageRun { first: 9_999, len: 1 }, Some(ExtentId(3)));
        assert_eq!(table.extents_in(0, u64::MAX), [ExtentId(1), ExtentId(2), ExtentId(3)]);
        assert_eq!(table.extents_in(505, 513), [ExtentId(1), ExtentId(2)]);
        assert_eq!(table.extents_in(1_024, 9_999), []);
    }

    #[test]
    fn an_object_that_is_gone_leaves_no_record() {
        let mut table = ChunkTable::default();
        table.set(PageRun { first: 7, len: 3 }, Some(ExtentId(0)));
        table.mark(Mark::Spilled, 8, true);
        table.set(PageRun { first: 7, len: 3 }, None);
        table.mark(Mark::Spilled, 8, false);
        assert_eq!(table.bytes(), 0);
        assert!(table.is_empty() && !table.has_marks(Mark::Spilled));
    }
}
