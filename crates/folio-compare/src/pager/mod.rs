//! The suite `pager`: the cost of folio's pager engine beside the kernel's paging, the device, and
//! the bare mechanisms.
//!
//! | file | subject |
//! | --- | --- |
//! | `memory.rs` | `fault-4k`, `fault-4-threads`, `scan-memory`, `resident-rand` |
//! | `reads.rs` | `out-of-core-1`, `out-of-core-4`, `out-of-core-list`, `zipf` |
//! | `cold.rs`, `rewrite.rs`, `untouched.rs` | `scan-cold`, `rewrite-sync`, `map-1t` |
//! | `amplified.rs` | `scan-amplification` |
//! | `folio_side.rs` | all that is asked of folio's pager |
//! | `bare.rs`, `supply.rs`, `device.rs` | bare mechanisms, prototypes, the device |
//! | `worker.rs`, `cgroup.rs` | a side in a process of its own, under a memory limit |
//! | `loops.rs`, `pattern.rs`, `uffd.rs` | the loops over bytes, the order of pages, userfaultfd |
//!
//! Costs of cases with more than one thread, folio's own included, are the time that passes.

mod amplified;
mod bare;
mod cgroup;
mod cold;
mod device;
mod folio_side;
mod loops;
mod memory;
mod pattern;
mod reads;
mod rewrite;
mod supply;
mod uffd;
mod untouched;
pub(crate) mod worker;

use crate::Options;
use crate::data::{self, Data};
use crate::measure::{self, Side};
use crate::report::Report;
use crate::suite::Group;
use anyhow::{Context, Result, ensure};
use std::cell::{OnceCell, RefCell};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use worker::{Work, Worker};

/// The files, each made when a case first asks for it.
#[derive(Debug, Default)]
struct Files<'a> {
    dir: Option<&'a Path>,
    first: OnceCell<Data>,
    second: OnceCell<Data>,
    written: OnceCell<Data>,
}

impl Files<'_> {
    /// The file that most sides read.
    fn first(&self) -> Result<&Data> {
        self.made(&self.first, reads::FILE)
    }

    /// One that shares no page of the page cache with it.
    fn second(&self) -> Result<&Data> {
        self.made(&self.second, reads::FILE)
    }

    /// The file that is written to.
    fn written(&self) -> Result<&Data> {
        self.made(&self.written, rewrite::FILE)
    }

    fn made<'a>(&self, cell: &'a OnceCell<Data>, len: usize) -> Result<&'a Data> {
        if cell.get().is_none() {
            let data = Data::create(self.dir, len)?;
            drop(cell.set(data));
        }
        cell.get().context("just made")
    }

    /// A file without a block, and a path to it for as long as it is open.
    fn sparse(&self, len: u64) -> Result<(File, PathBuf)> {
        let file = tempfile::tempfile_in(data::directory(self.dir, 0)?)?;
        file.set_len(len)?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        Ok((file, path))
    }
}

/// Adds a side that a worker does.
fn worker_side(
    group: &mut Group<'_>,
    name: &'static str,
    work: Work,
    data: &Data,
    limit: Option<usize>,
) -> Result<()> {
    let worker: worker::Shared =
        Rc::new(RefCell::new(Worker::new(work, data.path(), data.len(), limit)?));
    let note = Rc::clone(&worker);
    group.notes.push((name, Box::new(move || note.borrow().note())));
    group.sides.push(Side::new(name, move || worker.borrow_mut().sample()));
    Ok(())
}

/// The parts of a group: the names of its cases, and the function that prepares it.
struct Entry {
    cases: &'static [&'static str],
    make: for<'a> fn(&'a Files<'_>) -> Result<Group<'a>>,
    /// Of a quick run.
    seconds: f64,
    /// Whether it can only be had with a memory limit.
    limited: bool,
    /// Whether samples need one before them. Those that start cold do not.
    warms: bool,
}

const GROUPS: &[Entry] = &[
    Entry { cases: &["fault-4k"], make: memory::fault, seconds: 4.0, limited: false, warms: true },
    Entry {
        cases: &["fault-4-threads"],
        make: memory::fault_threads,
        seconds: 6.0,
        limited: false,
        warms: true,
    },
    Entry {
        cases: &["scan-memory"],
        make: memory::scan,
        seconds: 8.0,
        limited: false,
        warms: true,
    },
    Entry {
        cases: &["resident-rand"],
        make: memory::resident,
        seconds: 4.0,
        limited: false,
        warms: true,
    },
    Entry {
        cases: &["out-of-core-1"],
        make: reads::one,
        seconds: 12.0,
        limited: true,
        warms: true,
    },
    Entry {
        cases: &["out-of-core-4"],
        make: reads::four,
        seconds: 12.0,
        limited: true,
        warms: true,
    },
    Entry {
        cases: &["out-of-core-list"],
        make: reads::list,
        seconds: 10.0,
        limited: true,
        warms: true,
    },
    Entry { cases: &["zipf"], make: reads::zipf, seconds: 12.0, limited: true, warms: true },
    Entry { cases: &["scan-cold"], make: cold::group, seconds: 20.0, limited: true, warms: false },
    Entry {
        cases: &["rewrite-sync"],
        make: rewrite::group,
        seconds: 25.0,
        limited: true,
        warms: false,
    },
    Entry {
        cases: &["scan-amplification"],
        make: amplified::group,
        seconds: 4.0,
        limited: false,
        warms: false,
    },
    Entry {
        cases: &["map-1t"],
        make: untouched::group,
        seconds: 0.2,
        limited: false,
        warms: false,
    },
];

/// Runs the cases that `options` wants.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let wanted = |entry: &&Entry| entry.cases.iter().any(|case| options.wants(case));
    let names =
        || GROUPS.iter().flat_map(|entry| entry.cases).copied().collect::<Vec<_>>().join(", ");
    ensure!(GROUPS.iter().any(|entry| wanted(&entry)), "no such case; there are {}", names());
    ensure!(data::page() == loops::READ, "the cases are made for pages of 4 KiB");
    let files = Files { dir: options.dir.as_deref(), ..Files::default() };
    let limited = worker::probe();
    let mut failed = Vec::new();
    for entry in GROUPS.iter().filter(wanted) {
        let names = entry.cases.join(", ");
        if let (true, Err(error)) = (entry.limited, &limited) {
            report.remark(&format!("{names}: skipped: {error:#}"));
            continue;
        }
        let mut work = || {
            let mut group = (entry.make)(&files)?;
            if entry.warms {
                measure::warm_up(&mut group.sides)?;
            }
            let rounds = measure::take_turns(&mut group.sides, options.seconds(entry.seconds))?;
            group.report(&rounds, options, report);
            Ok::<_, anyhow::Error>(())
        };
        // The other cases say something all the same.
        if let Err(error) = work() {
            report.remark(&format!("{names}: failed: {error:#}"));
            failed.push(names);
        }
    }
    report.explain(
        "ratio: folio's cost over the peer's, the median of all rounds; ±: half of the rounds lie as near.",
    );
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
