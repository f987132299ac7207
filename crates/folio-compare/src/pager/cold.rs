//! `scan-cold`: every word of a file of 2 GiB of which nothing is in the page cache, by sides that
//! may use 256 MiB.
//!
//! The kernel's side is the best of several: `sequential` advises MADV_SEQUENTIAL, `populate` has a
//! second thread that maps 2 MiB at a time by MADV_POPULATE_READ, at most 32 MiB ahead (as folio
//! has a thread of its own), and `plain` advises nothing. MADV_WILLNEED 32 MiB ahead was four times
//! slower than no advice, and is left out.

use super::reads::{FILE, LIMIT, Mapped};
use super::worker::{Job, Work};
use super::{Files, folio_side, loops, worker_side};
use crate::data::evict;
use crate::measure::{Cost, passing};
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::Result;
use memmap2::{Advice, Mmap};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    Plain,
    Sequential,
    Populate,
}

const KERNEL: [(&str, How); 3] =
    [("plain", How::Plain), ("sequential", How::Sequential), ("populate", How::Populate)];

struct Scan {
    how: How,
    file: File,
    path: PathBuf,
    len: usize,
    folio: Option<folio_side::Pager>,
}

pub(super) fn start(how: How, job: &Job) -> Result<Box<dyn Sampler>> {
    let file = File::open(&job.file)?;
    let folio = match how {
        How::Folio => Some(folio_side::Pager::new(job.budget)?),
        _ => None,
    };
    Ok(Box::new(Scan { how, file, path: job.file.clone(), len: job.len, folio }))
}

impl Sampler for Scan {
    fn sample(&mut self, _: u64) -> Result<Cost> {
        evict(&self.file, self.len)?;
        let gib = self.len >> 30;
        let cost = passing(gib, || {
            if let Some(pager) = &self.folio {
                return loops::scan(pager.sequential(&self.path)?.bytes(), 0);
            }
            let file = File::open(&self.path)?;
            // SAFETY: the file has no name, and nobody writes to it after it was made.
            let map = unsafe { Mmap::map(&file) }?;
            match self.how {
                How::Sequential => {
                    map.advise(Advice::Sequential)?;
                    loops::scan(&map, 0)
                }
                How::Populate => populate(&map),
                _ => loops::scan(&map, 0),
            }
        });
        // In milliseconds.
        Ok(Cost::from(cost? / 1e6))
    }

    fn note(&self) -> Option<String> {
        self.folio.as_ref().and_then(folio_side::Pager::note)
    }
}

const AHEAD: usize = 32 << 20;

fn populate(map: &Mmap) -> Result<u64> {
    const STEP: usize = 2 << 20;
    let scanned = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            (0..map.len()).step_by(STEP).try_for_each(|start| {
                while start > scanned.load(Ordering::Acquire) + AHEAD {
                    std::thread::park();
                }
                map.advise_range(Advice::PopulateRead, start, STEP.min(map.len() - start))
            })
        });
        let mut sum = 0_u64;
        let mut result = Ok(());
        for (number, part) in map.chunks(STEP).enumerate() {
            match loops::scan(part, number * STEP / crate::data::page()) {
                Ok(part) => sum = sum.wrapping_add(part),
                Err(error) => result = Err(error),
            }
            scanned.fetch_add(STEP, Ordering::Release);
            thread.thread().unpark();
        }
        thread.join().map_err(|_| anyhow::anyhow!("the populating thread panicked"))??;
        result.map(|()| sum)
    })
}

pub(super) fn group<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = Group::new("ms/GiB");
    let file = files.first()?;
    debug_assert_eq!(file.len(), FILE);
    worker_side(&mut group, FOLIO, Work::Cold(How::Folio), file, Some(LIMIT))?;
    for (name, how) in KERNEL {
        worker_side(&mut group, name, Work::Cold(how), file, Some(LIMIT))?;
    }
    let among = &["plain", "sequential", "populate"];
    group.pairs = vec![Pair::new("scan-cold", "kernel").goal(1.0).among(among)];
    Ok(group)
}
