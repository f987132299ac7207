//! The suite `kernel`: the cost of folio's kernel engine beside its peers.
//!
//! Both sides of a case do the same work: they map shared and read-only, find out the file's length
//! where the caller would have to, and run the same loop over the bytes, compiled once where both
//! get a slice. The file's bytes, their order and the contents of the page cache and the page
//! tables beforehand are the same.

mod cold;
mod map_small;
mod read;
mod sum;
mod touch;

use crate::Options;
use crate::data::{Data, LARGE};
use crate::measure;
use crate::report::Report;
use crate::suite::Group;
use anyhow::Result;
use std::time::Instant;

/// The parts of a group: the names of its cases, and the function that prepares it.
struct Entry {
    cases: &'static [&'static str],
    make: for<'a> fn(&'a Data) -> Result<Group<'a>>,
    /// Whether the large file must be in the page cache.
    warm: bool,
    /// Of a quick run.
    seconds: f64,
}

/// Seconds that the rounds of a quick run may take with all that is around them.
const QUICK: f64 = 38.0;

const GROUPS: &[Entry] = &[
    Entry { cases: &["touch-seq"], make: touch::in_order, warm: true, seconds: 4.0 },
    Entry { cases: &["touch-rand"], make: touch::at_random, warm: true, seconds: 5.0 },
    Entry { cases: &["map-small"], make: map_small::group, warm: false, seconds: 3.0 },
    Entry { cases: &["guard-sum", "guard-view-sum"], make: sum::group, warm: true, seconds: 6.0 },
    Entry {
        cases: &["read-64", "read-64-copy"],
        make: read::group::<64>,
        warm: true,
        seconds: 4.0,
    },
    Entry {
        cases: &["read-4k", "read-4k-copy"],
        make: read::group::<4096>,
        warm: true,
        seconds: 4.0,
    },
    // Last, since it throws the file out of the cache.
    Entry { cases: &["cold-rand"], make: cold::group, warm: false, seconds: 5.0 },
];

/// Runs the cases that `options` wants.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let wanted = |entry: &&Entry| entry.cases.iter().any(|case| options.wants(case));
    let names =
        || GROUPS.iter().flat_map(|entry| entry.cases).copied().collect::<Vec<_>>().join(", ");
    anyhow::ensure!(
        GROUPS.iter().any(|entry| wanted(&entry)),
        "no such case; there are {}",
        names()
    );
    let start = Instant::now();
    let data = Data::create(options.dir.as_deref(), LARGE)?;
    let groups: Vec<&Entry> = GROUPS.iter().filter(wanted).collect();
    for (done, entry) in groups.iter().enumerate() {
        if entry.warm {
            data.warm()?;
        }
        let mut group = (entry.make)(&data)?;
        // On a machine that is slow or busy, the rest of the time is shared out.
        let planned: f64 = groups[done..].iter().map(|entry| entry.seconds).sum();
        let share = (options.seconds(QUICK) - start.elapsed().as_secs_f64()) / planned;
        let seconds = options.seconds(entry.seconds).min(entry.seconds * share.max(0.0));
        measure::warm_up(&mut group.sides)?;
        let rounds = measure::take_turns(&mut group.sides, seconds)?;
        group.report(&rounds, options, report);
    }
    report.explain(
        "ratio: folio's cost over the peer's, the median of all rounds; ±: half of the rounds lie as near.",
    );
    Ok(())
}

/// A map as memmap2's documentation makes it.
fn memmap2(file: &std::fs::File) -> Result<memmap2::Mmap> {
    // SAFETY: the file has no name, and nobody writes to it after it was made.
    Ok(unsafe { memmap2::Mmap::map(file) }?)
}

/// The same by mmap-rs, which is told the length, and maps privately by default otherwise.
fn mmap_rs(file: &std::fs::File) -> Result<mmap_rs::Mmap> {
    let len = file.metadata()?.len() as usize;
    // SAFETY: as for `memmap2`.
    let options = unsafe { mmap_rs::MmapOptions::new(len)?.with_file(file, 0) };
    Ok(options.with_flags(mmap_rs::MmapFlags::SHARED).map()?)
}
