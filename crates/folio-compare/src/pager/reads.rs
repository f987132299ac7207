//! Copies of random 4 KiB pages out of a file eight times larger than the memory that each side may
//! use.
//!
//! * `out-of-core-1`, `out-of-core-4`: all pages alike, by one thread and by four.
//! * `out-of-core-list`: the program knows the pages that it will read, and requests 64 ahead. The
//!   kernel's side does so by MADV_WILLNEED, with MADV_RANDOM: without it the costs were the same
//!   or worse, since a page that has left again before it is touched brings others with it. The
//!   `device` side maps nothing: such reads cost that much at least.
//! * `zipf`: some pages are read much more often than others (exponent 0.99).
//!
//! `kernel` maps as mmap(2) does without advice, so that a fault reads as much around its page as
//! the device's `read_ahead_kb` says: a few reads are enough to see the cost of that.
//! `kernel-random` advises MADV_RANDOM. `handler` and `in-thread` are prototypes (see `supply.rs`),
//! reported in notes.
//!
//! Each worker first reads until its memory is full, and keeps its pages from sample to sample:
//! pages leave as others come, on all sides. The two kernel sides read files of their own, or one
//! would find the other's pages in the page cache.

use super::device::Device;
use super::pattern::{Pattern, Zipf};
use super::supply::{Supplied, Who};
use super::worker::{Job, Work};
use super::{Files, folio_side, loops, worker_side};
use crate::data::page;
use crate::measure::{Cost, passing};
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Barrier;

/// The file, and the memory of each side.
pub(super) const FILE: usize = 2 << 30;
pub(super) const LIMIT: usize = FILE / 8;

/// Pages that are told ahead.
const AHEAD: usize = 64;

/// One side.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    FolioList,
    Kernel,
    Random,
    Willneed,
    Handler,
    InThread,
    Device,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Reads {
    how: How,
    zipf: bool,
    threads: usize,
    /// Reads a sample, and before the first one.
    count: usize,
    warm: usize,
}

/// A map of the file, by any supplier of its pages.
pub(super) trait Mapped: Sync {
    fn bytes(&self) -> &[u8];

    /// The loop over these pages has come to `place`.
    fn ahead(&self, pages: &[u32], place: usize) -> Result<()> {
        let _ = (pages, place);
        Ok(())
    }

    /// Called by each thread before it touches the map, and afterwards.
    fn enter_thread(&self) -> Result<()> {
        Ok(())
    }

    fn leave_thread(&self) {}

    fn note(&self) -> Option<String> {
        None
    }
}

/// The kernel's own map.
struct Kernel {
    map: memmap2::Mmap,
    willneed: bool,
}

impl Kernel {
    fn open(path: &Path, advice: memmap2::Advice, willneed: bool) -> Result<Self> {
        let file = std::fs::File::open(path)?;
        // SAFETY: the file has no name, and nobody writes to it after it was made.
        let map = unsafe { memmap2::Mmap::map(&file) }?;
        map.advise(advice)?;
        Ok(Self { map, willneed })
    }
}

impl Mapped for Kernel {
    fn bytes(&self) -> &[u8] {
        &self.map
    }

    fn ahead(&self, pages: &[u32], place: usize) -> Result<()> {
        if self.willneed {
            // All of the first ones at the start, then one for one.
            let from = if place == 0 { 0 } else { place + AHEAD };
            for &number in pages.get(from..pages.len().min(place + AHEAD + 1)).unwrap_or(&[]) {
                let start = number as usize * page();
                self.map.advise_range(memmap2::Advice::WillNeed, start, page())?;
            }
        }
        Ok(())
    }
}

enum Reader {
    Map(Box<dyn Mapped>),
    Device(Box<Device>),
}

struct Reading {
    reader: Reader,
    pattern: Pattern,
    threads: usize,
    count: usize,
}

impl Reads {
    pub(super) fn start(self, job: &Job) -> Result<Box<dyn Sampler>> {
        let supplied = |who| Supplied::open(&job.file, job.len, job.budget, who);
        let kernel = |advice, willneed| Kernel::open(&job.file, advice, willneed);
        let mut reader = match self.how {
            How::Folio => Reader::Map(folio_side::random(&job.file, job.budget, 0)?),
            How::FolioList => Reader::Map(folio_side::random(&job.file, job.budget, AHEAD)?),
            How::Kernel => Reader::Map(Box::new(kernel(memmap2::Advice::Normal, false)?)),
            How::Random => Reader::Map(Box::new(kernel(memmap2::Advice::Random, false)?)),
            // A page that is touched before it has come must not read others around it.
            How::Willneed => Reader::Map(Box::new(kernel(memmap2::Advice::Random, true)?)),
            How::Handler => Reader::Map(Box::new(supplied(Who::Handlers(self.threads))?)),
            How::InThread => Reader::Map(Box::new(supplied(Who::Toucher)?)),
            How::Device => Reader::Device(Box::new(Device::open(&job.file)?)),
        };
        let pages = job.len / page();
        let pattern = if self.zipf {
            Pattern::Zipf(Zipf::new(pages, 0.99))
        } else {
            Pattern::Uniform { pages }
        };
        let warm = pattern.pages(u64::MAX, self.warm);
        // Several threads are quicker, where a single handler does not hold them up.
        let threads = if let How::Handler = self.how { self.threads } else { self.threads.max(4) };
        reader.read(&warm, threads, self.warm)?;
        Ok(Box::new(Reading { reader, pattern, threads: self.threads, count: self.count }))
    }
}

impl Reader {
    /// Reads these pages, so many each thread, and returns what one cost.
    fn read(&mut self, pages: &[u32], threads: usize, count: usize) -> Result<f64> {
        match self {
            Self::Device(device) => passing(count, || device.read(pages)),
            Self::Map(map) => {
                let map = &**map;
                let start = Barrier::new(threads + 1);
                let read = |pages: &[u32]| {
                    let entered = map.enter_thread();
                    start.wait();
                    entered?;
                    let result = loops::read(map.bytes(), pages, |place| map.ahead(pages, place));
                    map.leave_thread();
                    result
                };
                std::thread::scope(|scope| {
                    let part = pages.len().div_ceil(threads).max(1);
                    let threads: Vec<_> =
                        pages.chunks(part).map(|pages| scope.spawn(|| read(pages))).collect();
                    start.wait();
                    passing(count, || {
                        threads.into_iter().try_for_each(|thread| {
                            thread
                                .join()
                                .map_err(|_| anyhow::anyhow!("a reading thread panicked"))?
                        })
                    })
                })
            }
        }
    }
}

impl Sampler for Reading {
    fn sample(&mut self, number: u64) -> Result<Cost> {
        let pages = self.pattern.pages(number, self.count);
        // In microseconds.
        Ok(Cost::from(self.reader.read(&pages, self.threads, self.count)? / 1e3))
    }

    fn note(&self) -> Option<String> {
        match &self.reader {
            Reader::Map(map) => map.note(),
            Reader::Device(_) => None,
        }
    }
}

/// Reads that fill the memory of a side more than once, so that pages leave from the first sample
/// on.
const FULL: usize = LIMIT / 4096 * 9 / 8;

fn group<'a>(
    files: &'a Files<'_>,
    plan: Reads,
    sides: &[(&'static str, How)],
    pairs: Vec<Pair>,
) -> Result<Group<'a>> {
    let mut group = Group::new("µs/read");
    files.first()?.evict()?;
    for &(name, how) in sides {
        // One that reads 8 MiB a page is full soon, and slow.
        let (file, reads) = if let How::Kernel = how {
            (files.second()?, Reads { how, count: 24, warm: LIMIT >> 22, ..plan })
        } else {
            (files.first()?, Reads { how, ..plan })
        };
        file.evict()?;
        worker_side(&mut group, name, Work::Reads(reads), file, Some(LIMIT))?;
    }
    let readahead = files.first()?.read_ahead_kb();
    group.pairs = pairs;
    for pair in group.pairs.iter_mut().filter(|pair| pair.peer == "kernel") {
        let kib = readahead.context("the device's read_ahead_kb is not known")?;
        pair.note = Some(format!("the device's read_ahead_kb is {kib}"));
    }
    Ok(group)
}

const HANDLER: &str = "a bare handler thread";
const IN_THREAD: &str = "in-thread supply";

pub(super) fn one<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let case = "out-of-core-1";
    let plan = Reads { how: How::Folio, zipf: false, threads: 1, count: 8192, warm: FULL };
    let pairs = vec![
        Pair::new(case, "kernel").goal(0.02),
        Pair::new(case, "kernel-random")
            .goal(1.3)
            .beside("handler", HANDLER)
            .beside("in-thread", IN_THREAD),
    ];
    group(files, plan, &SIDES, pairs)
}

pub(super) fn four<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let case = "out-of-core-4";
    let plan = Reads { how: How::Folio, zipf: false, threads: 4, count: 16384, warm: FULL };
    let pairs = vec![
        Pair::new(case, "kernel").goal(0.02),
        Pair::new(case, "kernel-random")
            .goal(1.0)
            .beside("handler", "four bare handler threads")
            .beside("in-thread", IN_THREAD),
    ];
    group(files, plan, &SIDES, pairs)
}

const SIDES: [(&str, How); 5] = [
    (FOLIO, How::Folio),
    ("kernel", How::Kernel),
    ("kernel-random", How::Random),
    ("handler", How::Handler),
    ("in-thread", How::InThread),
];

pub(super) fn list<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let case = "out-of-core-list";
    let plan = Reads { how: How::Folio, zipf: false, threads: 1, count: 16384, warm: FULL };
    let sides =
        [(FOLIO, How::FolioList), ("kernel-willneed", How::Willneed), ("device", How::Device)];
    let pairs =
        vec![Pair::new(case, "kernel-willneed").goal(0.6), Pair::new(case, "device").goal(1.15)];
    group(files, plan, &sides, pairs)
}

pub(super) fn zipf<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let case = "zipf";
    let plan = Reads { how: How::Folio, zipf: true, threads: 1, count: 32768, warm: 300_000 };
    let sides = [(FOLIO, How::Folio), ("kernel-random", How::Random)];
    let pairs = vec![Pair::new(case, "kernel-random").goal(0.8)];
    group(files, plan, &sides, pairs)
}
