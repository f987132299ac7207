//! folio's own sides: all that this suite asks of the pager.

use super::reads::Mapped;
use crate::data::page;
use anyhow::Result;
use folio::source::{Function, LocalFile, Memory};
use folio::{Advice, Paged, WriteBack};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pages that are requested ahead in one call: the program has a list, so it gives more than one at
/// a time.
const BATCH: usize = 16;

/// A pager with a budget.
#[derive(Debug)]
pub(super) struct Pager(folio::Pager);

/// A read-only map of it. Its pages are gone when it has been dropped.
#[derive(Debug)]
pub(super) struct Map {
    paged: Paged,
    /// How many pages are told ahead.
    ahead: usize,
    // Dropped after the map.
    pager: Settled,
}

/// A pager that has done all that it was asked when this has been dropped: the next side has the
/// machine for itself.
#[derive(Debug)]
struct Settled(folio::Pager);

impl Drop for Settled {
    fn drop(&mut self) {
        // It answers one message after the other, and the end of a map is one.
        drop(self.0.stats());
    }
}

impl Pager {
    pub(super) fn new(budget: usize) -> Result<Self> {
        Ok(Self(folio::Pager::builder().budget(budget).build()?))
    }

    fn shown(&self, map: Paged, ahead: usize) -> Map {
        Map { paged: map, ahead, pager: Settled(self.0.clone()) }
    }

    /// Maps a file that is read from its start to its end.
    pub(super) fn sequential(&self, path: &Path) -> Result<Map> {
        let map = self.0.map(LocalFile::open(path)?)?;
        map.advise(.., Advice::Sequential)?;
        Ok(self.shown(map, 0))
    }

    /// Maps a source that makes `len` bytes and counts those that are read of it; also returns the
    /// count.
    pub(super) fn counted(&self, len: usize) -> Result<(Map, impl Fn() -> u64)> {
        let read = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&read);
        let source = Function::new("counted", len as u64, move |offset, buffer: &mut [u8]| {
            count.fetch_add(buffer.len() as u64, Ordering::Relaxed);
            crate::data::fill(buffer, offset as usize);
            Ok(())
        });
        let map = self.0.map(source)?;
        Ok((self.shown(map, 0), move || read.load(Ordering::Relaxed)))
    }

    /// Maps bytes of this process. Nothing of the map is there yet, whatever other maps of the same
    /// bytes have. Without `sequential` each fault brings one page: else much of its surroundings
    /// would come as well.
    pub(super) fn memory(&self, source: &Arc<[u8]>, sequential: bool) -> Result<Map> {
        let map = self.0.map(Memory::from(Arc::clone(source)))?;
        map.advise(.., if sequential { Advice::Sequential } else { Advice::Random })?;
        Ok(self.shown(map, 0))
    }

    /// Maps a file for writing, lets `write` store to it, and returns when all of it is on the
    /// disk.
    pub(super) fn rewrite(&self, path: &Path, write: impl FnOnce(&mut [u8])) -> Result<()> {
        let _settled = Settled(self.0.clone());
        let mut map = self.0.map_mut(LocalFile::open_writable(path)?)?;
        write(&mut map);
        map.sync(.., WriteBack::Wait)?;
        Ok(())
    }

    pub(super) fn note(&self) -> Option<String> {
        note(&self.0)
    }
}

/// The pager's counts since it was made.
fn note(pager: &folio::Pager) -> Option<String> {
    let stats = pager.stats().ok()?;
    let median = stats.latency_quantile(0.5).map_or(0, |time| time.as_micros());
    Some(format!(
        "{} faults missing, {} soft, {} to write, the median within {} µs; {} reads of {} pages, {} of them ahead \
         ({} unused), {} prefetched; {} evicted; {} writes of {} pages; {} MiB resident, {} KiB of records",
        stats.faults_missing,
        stats.faults_soft,
        stats.faults_write,
        median,
        stats.reads,
        stats.pages_read,
        stats.readahead_pages,
        stats.readahead_wasted,
        stats.pages_prefetched,
        stats.pages_evicted,
        stats.writes,
        stats.pages_written,
        stats.resident_bytes >> 20,
        stats.record_bytes >> 10,
    ))
}

/// Maps a file whose pages are read in no order, without advice. `ahead` pages of the list are told
/// ahead; none if it is 0.
pub(super) fn random(path: &Path, budget: usize, ahead: usize) -> Result<Box<dyn Mapped>> {
    let pager = Pager::new(budget)?;
    let map = pager.0.map(LocalFile::open(path)?)?;
    Ok(Box::new(pager.shown(map, ahead)))
}

impl Mapped for Map {
    fn bytes(&self) -> &[u8] {
        &self.paged
    }

    fn ahead(&self, pages: &[u32], place: usize) -> Result<()> {
        if self.ahead == 0 || !place.is_multiple_of(BATCH) {
            return Ok(());
        }
        // All of the first ones at the start, then as many as were read since.
        let from = if place == 0 { 0 } else { place + self.ahead - BATCH };
        let next = pages.get(from..pages.len().min(place + self.ahead)).unwrap_or(&[]);
        let range = |&number: &u32| -> Range<usize> {
            let start = number as usize * page();
            start..start + page()
        };
        Ok(self.paged.prefetch(&next.iter().map(range).collect::<Vec<_>>())?)
    }

    fn note(&self) -> Option<String> {
        note(&self.pager.0)
    }
}
