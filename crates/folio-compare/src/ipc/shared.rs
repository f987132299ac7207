//! Memory that both processes of a side have mapped, as bare words: the floor, the bare ring and
//! the pthread mutexes lie in it.

use super::pair::{MEMORY, Place};
use anyhow::Result;
use memmap2::MmapRaw;
use std::fs::File;
use std::sync::atomic::AtomicU64;

/// A map of the pair's memory.
#[derive(Debug)]
pub(super) struct Shared(MmapRaw);

impl Shared {
    pub(super) fn map(place: &Place) -> Result<Self> {
        let file = File::options().read(true).write(true).open(&place.memory)?;
        let map = MmapRaw::map_raw(&file)?;
        anyhow::ensure!(map.len() == MEMORY, "the memory has another length");
        // So that no sample has the faults in it.
        map.advise(memmap2::Advice::PopulateWrite)?;
        Ok(Self(map))
    }

    /// `len` bytes from `offset` on.
    pub(super) fn at(&self, offset: usize, len: usize) -> *mut u8 {
        assert!(offset.checked_add(len).is_some_and(|end| end <= MEMORY), "past the end");
        // SAFETY: this stays within the map.
        unsafe { self.0.as_mut_ptr().add(offset) }
    }

    /// The word at an offset that is a multiple of its size. Both processes use it as a word only.
    pub(super) fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(size_of::<AtomicU64>()), "not a word's place");
        let word = self.at(offset, size_of::<AtomicU64>()).cast::<AtomicU64>();
        // SAFETY: it is aligned, mapped for as long as `self` lives, and written by atomic
        // operations only.
        unsafe { &*word }
    }
}

/// Two words that are this far apart lie in different lines, and in different pairs of lines, which
/// processors fetch together.
pub(super) const APART: usize = 128;
