//! A source as memory of folio's own pager: opened, read ahead of where it is printed, and counted.

use crate::failure::{Failure, Kind};
use crate::name::shown;
use folio::source::{LocalFile, Source as _};
use folio::{Advice, Paged, Pager, PagerStats};
use indicatif::BinaryBytes;
use serde_json::{Value, json};
use std::fs::File;
use std::io;

/// The budget where none is given: printed bytes are needed once, so more would not help.
const BUDGET: u64 = 64 << 20;

/// Bytes that are under way before they are printed: enough to keep a disk busy while the output
/// takes its time.
const AHEAD: usize = 8 << 20;

/// A source that the pager has mapped.
#[derive(Debug)]
pub(crate) struct Paging {
    pager: Pager,
    /// `None` for an empty file: there is no map without a byte.
    map: Option<Paged>,
    ahead: usize,
}

impl Paging {
    /// Starts a pager, and maps the file with it.
    pub(crate) fn open(file: &File, name: &str, budget: Option<u64>) -> Result<Self, Failure> {
        let bytes = usize::try_from(budget.unwrap_or(BUDGET)).unwrap_or(usize::MAX);
        let pager =
            Pager::builder().budget(bytes).build().map_err(|error| match cannot_run(&error) {
                failure if failure.kind() == Kind::Pager => failure.remedy(
                    "`--engine kernel` does without the pager; `folio doctor` says what it lacks",
                ),
                failure => failure,
            })?;
        let failed = |error: io::Error| Failure::io(Kind::Source, name, &error);
        let file =
            LocalFile::from_file(file.try_clone().map_err(failed)?).map_err(failed)?.one_version();
        let refused = |error: folio::Error| Failure::new(Kind::Source, plain(&error));
        let empty = file.is_empty().map_err(failed)?;
        let map = (!empty).then(|| Self::map(&pager, file)).transpose().map_err(refused)?;
        // Readahead must leave room for the bytes that are being printed.
        let ahead = AHEAD.min(bytes / 4);
        Ok(Self { pager, map, ahead })
    }

    fn map(pager: &Pager, file: LocalFile) -> folio::Result<Paged> {
        let map = pager.map(file)?;
        map.advise(.., Advice::Sequential)?;
        Ok(map)
    }

    /// The length of the file when it was mapped.
    pub(crate) fn size(&self) -> u64 {
        self.map.as_ref().map_or(0, |map| map.len() as u64)
    }

    /// Copies from the front of `range`. `started` is up to where was read ahead. An error comes
    /// with the number of bytes before it.
    pub(crate) fn copy(
        &self,
        range: std::ops::Range<usize>,
        started: &mut usize,
        buffer: &mut [u8],
    ) -> Result<usize, (usize, folio::Error)> {
        let Some(map) = &self.map else { return Ok(0) };
        let wanted = (range.start + buffer.len()).saturating_add(self.ahead).min(range.end);
        // A few large reads do better than one for each buffer.
        if *started < wanted && (wanted - *started >= self.ahead / 2 || wanted == range.end) {
            let from = range.start.max(*started);
            map.advise(from..wanted, Advice::WillNeed).map_err(|error| (0, error))?;
            *started = wanted;
        }
        let mut count = buffer.len().min(range.end - range.start);
        let mut lost = None;
        // The bytes before a lost page are requested again, without that page.
        while count > 0 {
            let Err(error) = map.read_at(&mut buffer[..count], range.start) else { break };
            let good =
                error.fault().map_or(0, |fault| fault.range().start.saturating_sub(range.start));
            count = good.min(count - 1);
            lost = Some(error);
        }
        lost.map_or(Ok(count), |error| Err((count, error)))
    }

    /// The pager's counts; `None` if it has ended.
    pub(crate) fn stats(&self) -> Option<PagerStats> {
        self.pager.stats().ok()
    }
}

/// The pager did not start: for the request's own options or environment, or since the machine does
/// not let it.
pub(crate) fn cannot_run(error: &folio::Error) -> Failure {
    let kind = if error.errno() == folio::Errno::INVAL { Kind::Usage } else { Kind::Pager };
    Failure::new(kind, plain(error))
}

/// The error's words, with no control character of a file's name.
fn plain(error: &folio::Error) -> String {
    shown(error.to_string())
}

/// The numbers, one subject a line.
pub(crate) fn words(stats: &PagerStats) -> String {
    // Bytes that `read_at` reads were requested, so that most often nothing faults.
    let latency = match (stats.latency_quantile(0.5), stats.latency_quantile(0.99)) {
        (Some(p50), Some(p99)) => format!("p50 {p50:?}, p99 {p99:?}, to a factor of two"),
        _ => "no fault to time".to_owned(),
    };
    let PagerStats { faults_missing, faults_soft, faults_spurious, faults_failed, .. } = stats;
    let PagerStats { reads, pages_read, read_errors, readahead_pages, pages_prefetched, .. } =
        stats;
    let PagerStats { readahead_used, readahead_wasted, pages_evicted, .. } = stats;
    let (resident, budget) = (BinaryBytes(stats.resident_bytes), BinaryBytes(stats.budget));
    let records = BinaryBytes(stats.record_bytes);
    format!(
        "  faults     {faults_missing} missing, {faults_soft} soft, {faults_spurious} spurious, {faults_failed} failed
  latency    {latency}
  read       {pages_read} pages in {reads} reads, {read_errors} failed
  readahead  {readahead_pages} pages: {readahead_used} used, {readahead_wasted} wasted
  prefetch   {pages_prefetched} pages
  evicted    {pages_evicted} pages
  resident   {resident} and {records} of records, of a budget of {budget}"
    )
}

/// The numbers, for programs. Times are in microseconds.
pub(crate) fn json(stats: &PagerStats) -> Value {
    let within = |share| stats.latency_quantile(share).map(|time| time.as_micros() as u64);
    json!({
        "faults_missing": stats.faults_missing,
        "faults_soft": stats.faults_soft,
        "faults_spurious": stats.faults_spurious,
        "faults_failed": stats.faults_failed,
        "latency_p50_us": within(0.5),
        "latency_p99_us": within(0.99),
        "reads": stats.reads,
        "pages_read": stats.pages_read,
        "read_errors": stats.read_errors,
        "readahead_pages": stats.readahead_pages,
        "readahead_used": stats.readahead_used,
        "readahead_wasted": stats.readahead_wasted,
        "pages_prefetched": stats.pages_prefetched,
        "pages_evicted": stats.pages_evicted,
        "resident_bytes": stats.resident_bytes,
        "record_bytes": stats.record_bytes,
        "budget": stats.budget,
    })
}
