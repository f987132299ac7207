//! The suite `kernel`: what folio's kernel engine costs beside its peers.
//!
//! Both sides of a case do the same work: they map shared and read-only, find out the file's length where the caller would
//! have to, and run the same loop over the bytes, compiled once where both get a slice. The file's bytes, their order and
//! what is in the page cache and the page tables beforehand are the same.

mod cold;
mod map_small;
mod read;
mod sum;
mod touch;

use crate::Options;
use crate::data::{Data, LARGE};
use crate::measure::{self, Side};
use crate::report::{Line, Report};
use anyhow::Result;
use std::time::Instant;

/// What the table calls folio's own sides.
const FOLIO: &str = "folio";

/// A result to report: two sides of a group, and the goal.
#[derive(Debug)]
struct Pair {
    case: &'static str,
    folio: &'static str,
    peer: &'static str,
    goal: Option<f64>,
    note: Option<String>,
    /// A side whose own ratio to the peer is told, as what could be reached at best.
    beside: Option<&'static str>,
}

impl Pair {
    const fn new(case: &'static str, peer: &'static str) -> Self {
        Self { case, folio: FOLIO, peer, goal: None, note: None, beside: None }
    }

    const fn goal(mut self, ratio: f64) -> Self {
        self.goal = Some(ratio);
        self
    }

    const fn beside(mut self, side: &'static str) -> Self {
        self.beside = Some(side);
        self
    }
}

/// Sides that take turns, and what is reported of them.
struct Group<'a> {
    sides: Vec<Side<'a>>,
    pairs: Vec<Pair>,
    unit: &'static str,
}

/// What makes a group: the names of its cases, and the function that prepares it.
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
    Entry { cases: &["read-64", "read-64-copy"], make: read::group::<64>, warm: true, seconds: 4.0 },
    Entry { cases: &["read-4k", "read-4k-copy"], make: read::group::<4096>, warm: true, seconds: 4.0 },
    // Last, since it throws the file out of the cache.
    Entry { cases: &["cold-rand"], make: cold::group, warm: false, seconds: 5.0 },
];

/// Runs the cases that `options` wants.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let wanted = |entry: &&Entry| entry.cases.iter().any(|case| options.wants(case));
    let names = || GROUPS.iter().flat_map(|entry| entry.cases).copied().collect::<Vec<_>>().join(", ");
    anyhow::ensure!(GROUPS.iter().any(|entry| wanted(&entry)), "no such case; there are {}", names());
    let start = Instant::now();
    let data = Data::create(options.dir.as_deref(), LARGE)?;
    let groups: Vec<&Entry> = GROUPS.iter().filter(wanted).collect();
    for (done, entry) in groups.iter().enumerate() {
        if entry.warm {
            data.warm()?;
        }
        let mut group = (entry.make)(&data)?;
        // On a machine that is slow or busy, what is left of the time is shared out.
        let planned: f64 = groups[done..].iter().map(|entry| entry.seconds).sum();
        let share = (options.seconds(QUICK) - start.elapsed().as_secs_f64()) / planned;
        let seconds = options.seconds(entry.seconds).min(entry.seconds * share.max(0.0));
        let rounds = measure::take_turns(&mut group.sides, seconds)?;
        for pair in group.pairs.iter().filter(|pair| options.wants(pair.case)) {
            let beside = pair.beside.map(|side| {
                let ratio = rounds.compare(side, pair.peer).ratio;
                format!("a plain {side} is at {ratio:.3} of {}", pair.peer)
            });
            report.line(&Line {
                case: pair.case,
                peer: pair.peer,
                unit: group.unit,
                goal: pair.goal,
                note: pair.note.as_deref().or(beside.as_deref()),
                found: rounds.compare(pair.folio, pair.peer),
            });
        }
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

/// The same by mmap-rs, which is told the length, and maps privately unless told otherwise.
fn mmap_rs(file: &std::fs::File) -> Result<mmap_rs::Mmap> {
    let len = file.metadata()?.len() as usize;
    // SAFETY: as for `memmap2`.
    let options = unsafe { mmap_rs::MmapOptions::new(len)?.with_file(file, 0) };
    Ok(options.with_flags(mmap_rs::MmapFlags::SHARED).map()?)
}
