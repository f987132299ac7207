//! Pages that are in memory already.
//!
//! * `fault-4k`: one thread touches the pages of a memory source in random order, each for the
//!   first time. `bare` is a thread that reads a fault from the userfaultfd and copies the page
//!   there.
//! * `fault-4-threads`: four threads do the same on one map; the time is that of all faults
//!   together, shared out. The peer is folio with one thread.
//! * `scan-memory`: every word of 1 GiB of a memory source, with a budget of 64 MiB. `bare` copies
//!   2 MiB a fault into a pool of huge pages, and moves them into the map and out again.
//! * `resident-rand`: single bytes at random places of 2 GiB that are there, beside the kernel's
//!   map of a file in its page cache.

use super::bare::Bare;
use super::reads::Mapped;
use super::{Files, folio_side, loops};
use crate::data::{Numbers, fill, page};
use crate::measure::{Side, busy, passing};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, anyhow};
use std::hint::black_box;
use std::rc::Rc;
use std::sync::{Arc, Barrier};

/// The map on which faults are taken.
const FAULTS: usize = 64 << 20;
const SCANNED: usize = 1 << 30;
const BUDGET: usize = 64 << 20;

fn source(len: usize) -> Arc<[u8]> {
    let mut bytes = vec![0; len];
    fill(&mut bytes, 0);
    bytes.into()
}

/// Touches the pages with so many threads, and returns what a fault cost, in microseconds.
fn touch(bytes: &[u8], pages: &[u32], threads: usize) -> Result<f64> {
    let start = Barrier::new(threads + 1);
    let cost = std::thread::scope(|scope| {
        let part = pages.len().div_ceil(threads);
        let threads: Vec<_> = pages
            .chunks(part)
            .map(|pages| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    loops::touch(bytes, pages)
                })
            })
            .collect();
        start.wait();
        passing(pages.len(), || {
            threads.into_iter().try_for_each(|thread| {
                thread.join().map_err(|_| anyhow!("a touching thread panicked"))?
            })
        })
    });
    Ok(cost? / 1e3)
}

/// The pages of the map in random order: other ones in each sample.
fn order(number: &mut u64) -> Vec<u32> {
    *number += 1;
    Numbers(*number).shuffled(FAULTS / page()).into_iter().map(|page| page as u32).collect()
}

fn fault_sides<'a>(sides: &[(&'static str, &'static str, usize)]) -> Result<Group<'a>> {
    let mut group = Group::new("µs/fault");
    let source = source(FAULTS);
    for &(folio, bare, threads) in sides {
        let (memory, mut number) = (Arc::clone(&source), 0);
        let pager = folio_side::Pager::new(4 * FAULTS)?;
        group.sides.push(Side::new(folio, move || {
            let map = pager.memory(&memory, false)?;
            touch(map.bytes(), &order(&mut number), threads)
        }));
        let (map, mut number) = (Bare::pages(Arc::clone(&source))?, 0);
        group.sides.push(Side::new(bare, move || {
            map.clear()?;
            touch(map.bytes(), &order(&mut number), threads)
        }));
    }
    Ok(group)
}

pub(super) fn fault<'a>(_: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = fault_sides(&[(FOLIO, "bare", 1)])?;
    group.pairs = vec![Pair::new("fault-4k", "bare").goal(1.25)];
    Ok(group)
}

pub(super) fn fault_threads<'a>(_: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = fault_sides(&[(FOLIO, "bare-4", 4), ("one-thread", "bare-1", 1)])?;
    group.pairs = vec![
        Pair::new("fault-4-threads", "one-thread")
            .goal(0.7)
            .beside("bare-1", "a bare handler thread with one thread")
            .beside("bare-4", "a bare handler thread with four"),
    ];
    Ok(group)
}

pub(super) fn scan<'a>(_: &'a Files<'_>) -> Result<Group<'a>> {
    let mut group = Group::new("ms/GiB");
    let source = source(SCANNED);
    let (pager, memory) = (folio_side::Pager::new(BUDGET)?, Arc::clone(&source));
    group.sides.push(Side::new(FOLIO, move || {
        // A map anew each time: nothing of it is there.
        let map = pager.memory(&memory, true)?;
        Ok(passing(SCANNED >> 30, || loops::scan(map.bytes(), 0))? / 1e6)
    }));
    group.sides.push(Side::new("bare", move || {
        let map = Bare::units(Arc::clone(&source), BUDGET)?;
        let cost = passing(SCANNED >> 30, || loops::scan(map.bytes(), 0))?;
        map.end()?;
        Ok(cost / 1e6)
    }));
    group.pairs = vec![Pair::new("scan-memory", "bare").goal(1.15)];
    Ok(group)
}

pub(super) fn resident<'a>(files: &'a Files<'_>) -> Result<Group<'a>> {
    const LOADS: usize = 1 << 21;
    let mut group = Group::new("ns/load");
    let file = files.first()?;
    file.warm()?;
    // SAFETY: the file has no name, and nobody writes to it after it was made.
    let peer = Rc::new(unsafe { memmap2::Mmap::map(file.file()) }?);
    peer.advise(memmap2::Advice::PopulateRead)?;
    let want = |number| {
        let peer = Rc::clone(&peer);
        move || loops::load(&peer, number, LOADS)
    };
    let mapped = folio_side::Pager::new(file.len() / 2 * 3)?.sequential(&file.path())?;
    loops::scan(mapped.bytes(), 0)?;
    anyhow::ensure!(loops::load(mapped.bytes(), 1, LOADS) == want(1)(), "the maps differ");
    let mut number = 0;
    group.sides.push(Side::new(FOLIO, move || {
        number += 1;
        busy(LOADS, || Ok(loops::load(black_box(mapped.bytes()), number, LOADS)))
    }));
    let mut number = 0;
    let map = Rc::clone(&peer);
    group.sides.push(Side::new("kernel", move || {
        number += 1;
        busy(LOADS, || Ok(loops::load(black_box(&map), number, LOADS)))
    }));
    group.pairs = vec![Pair::new("resident-rand", "kernel").goal(0.75)];
    Ok(group)
}
