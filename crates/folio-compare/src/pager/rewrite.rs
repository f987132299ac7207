//! `rewrite-sync`: a random tenth of the 4 KiB pages of 1 GiB is rewritten wholly through a map,
//! then brought to the disk. Nothing is in the page cache, nor in folio's, beforehand; all of it
//! fits, so that write-back is measured.
//!
//! The kernel's side writes into a shared map and calls msync(MS_SYNC). Both without advice
//! (`kernel`) and with MADV_RANDOM (`kernel-random`) are told, since either may be the better one,
//! depending on the device.

use super::worker::{Job, Work};
use super::{Files, folio_side, worker_side};
use crate::data::{Numbers, evict, page, stamp};
use crate::measure::{Cost, passing};
use crate::process::Sampler;
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// The file, and the memory of each side.
pub(super) const FILE: usize = 1 << 30;
const LIMIT: usize = 2 << 30;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum How {
    Folio,
    Kernel,
    Random,
}

struct Rewrite {
    how: How,
    file: File,
    path: PathBuf,
    len: usize,
    folio: Option<folio_side::Pager>,
}

pub(super) fn start(how: How, job: &Job) -> Result<Box<dyn Sampler>> {
    let file = File::options().read(true).write(true).open(&job.file)?;
    let folio = match how {
        How::Folio => Some(folio_side::Pager::new(job.budget)?),
        _ => None,
    };
    Ok(Box::new(Rewrite { how, file, path: job.file.clone(), len: job.len, folio }))
}

/// Writes whole pages. Each keeps its stamp; `mark` comes behind it, and throughout.
#[inline(never)]
fn write(bytes: &mut [u8], pages: &[usize], mark: u64) {
    let size = page();
    for &number in pages {
        let page = &mut bytes[number * size..(number + 1) * size];
        let (words, _) = page.as_chunks_mut::<8>();
        words.fill(mark.to_ne_bytes());
        words[0] = stamp(number).to_ne_bytes();
    }
}

impl Sampler for Rewrite {
    fn sample(&mut self, number: u64) -> Result<Cost> {
        evict(&self.file, self.len)?;
        let mut pages = Numbers(number).shuffled(self.len / page());
        pages.truncate(pages.len() / 10);
        // No two samples of any two sides write the same.
        let mark = Numbers(number << 32 | u64::from(std::process::id())).next();
        let cost = passing(pages.len(), || {
            if let Some(pager) = &self.folio {
                return pager.rewrite(&self.path, |bytes| write(bytes, &pages, mark));
            }
            // SAFETY: the file has no name, and the workers write to it in turn.
            let mut map = unsafe { memmap2::MmapMut::map_mut(&self.file) }?;
            if matches!(self.how, How::Random) {
                map.advise(memmap2::Advice::Random)?;
            }
            write(&mut map, &pages, mark);
            // msync(MS_SYNC).
            map.flush()?;
            Ok(())
        })?;
        // The bytes on the disk, not those that the page cache still has.
        evict(&self.file, self.len)?;
        for &number in pages.iter().step_by(16) {
            let mut words = [0; 16];
            self.file.read_exact_at(&mut words, (number * page()) as u64)?;
            let want = [stamp(number).to_ne_bytes(), mark.to_ne_bytes()].concat();
            ensure!(words[..] == want, "page {number} did not reach the file");
        }
        // In microseconds.
        Ok(Cost::from(cost / 1e3))
    }

    fn note(&self) -> Option<String> {
        self.folio.as_ref().and_then(folio_side::Pager::note)
    }
}

pub(super) fn group<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = Group::new("µs/page");
    let sides = [(FOLIO, How::Folio), ("kernel", How::Kernel), ("kernel-random", How::Random)];
    for (name, how) in sides {
        worker_side(&mut group, name, Work::Rewrite(how), files.written()?, Some(LIMIT))?;
    }
    group.pairs = vec![
        Pair::new("rewrite-sync", "kernel").goal(1.1),
        Pair::new("rewrite-sync", "kernel-random").goal(1.1),
    ];
    Ok(group)
}
