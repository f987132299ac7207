//! The counts of a pager since it was made.

use super::core::BUCKETS;
use std::time::Duration;

/// Counts since the pager was made, and the pages in memory now. Pages are of the system's page
/// size.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Faults on pages that were not in memory: each waited for the source.
    pub faults_missing: u64,
    /// Faults on pages that were in memory, outside the map: read ahead, or taken out a while ago.
    pub faults_soft: u64,
    /// First stores to clean pages.
    pub faults_write: u64,
    /// Faults whose page had come meanwhile.
    pub faults_spurious: u64,
    /// Reads of sources and of the spill file.
    pub reads: u64,
    /// Pages that they brought.
    pub pages_read: u64,
    /// Pages read ahead of a stream.
    pub readahead_pages: u64,
    /// Of these, pages that were used.
    pub readahead_used: u64,
    /// Of these, pages that were dropped before.
    pub readahead_wasted: u64,
    /// Pages put into a map without a fault: by request, or because much of their surroundings was
    /// accessed.
    pub pages_prefetched: u64,
    /// Pages that left memory.
    pub pages_evicted: u64,
    /// Writes to sources and to the spill file.
    pub writes: u64,
    /// Pages written back to sources.
    pub pages_written: u64,
    /// Private pages written to the spill file.
    pub pages_spilled: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Writes that failed. The pages stay dirty, and are tried again.
    pub write_errors: u64,
    /// Faults that ended in an error.
    pub faults_failed: u64,
    /// Bytes of pages in memory now.
    pub resident_bytes: u64,
    /// Of these, bytes that were stored to and not written yet.
    pub dirty_bytes: u64,
    /// Bytes that are pinned.
    pub pinned_bytes: u64,
    /// Bytes of the pager's own records.
    pub record_bytes: u64,
    /// The budget, in bytes.
    pub budget: u64,
    /// Times that hashes of pages could not be moved to a file of the spill directory, or not
    /// within half a second. They then take up to a quarter of the budget; beyond that the oldest
    /// are given up, and their pages are errors when they are wanted again.
    pub hashes_refused: u64,
    /// The errno of the last such refusal: ENOSPC, EMFILE, ENOENT; ETIMEDOUT of a directory that is
    /// too slow.
    pub hash_refusal: Option<i32>,
    /// Writable maps, since the pager was made, of files that could not be locked against pagers of
    /// other processes.
    pub locks_refused: u64,
    /// The errno of the last such refusal: ENOLCK where the file system has no locks.
    pub lock_refusal: Option<i32>,
    /// How many faults were served within 2^n microseconds (and not within half of that).
    pub latency: [u64; BUCKETS],
}

impl Stats {
    /// All faults.
    pub fn faults(&self) -> u64 {
        self.faults_missing + self.faults_soft + self.faults_write + self.faults_spurious
    }

    /// The time within which `share` (0 to 1) of the faults were served, to a factor of two; `None`
    /// if there was none.
    pub fn latency_quantile(&self, share: f64) -> Option<Duration> {
        let all: u64 = self.latency.iter().sum();
        #[allow(clippy::cast_precision_loss, reason = "counts of faults")]
        let wanted = (share.clamp(0.0, 1.0) * all as f64).ceil() as u64;
        let mut seen = 0;
        let bucket = self.latency.iter().position(|&count| {
            seen += count;
            count > 0 && seen >= wanted
        })?;
        Some(Duration::from_micros(1 << bucket))
    }
}
