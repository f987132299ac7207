//! Map 1 GiB that is in the page cache, load a byte of each page, unmap: the cost of a map, its
//! page faults above all.
//!
//! folio's side opens one guard around the walk and touches the slice that it gets: that costs a
//! few calls, once. Checked single-byte reads need no guard, and cost about 20 ns more a page.

use super::{memmap2, mmap_rs};
use crate::data::{Data, Numbers, page, plain};
use crate::measure::{Side, busy};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use folio::FileMap;
use std::hint::black_box;
use std::rc::Rc;

/// `touch-seq`: the pages in order.
pub(super) fn in_order(data: &Data) -> Result<Group<'_>> {
    group(data, "touch-seq", (0..data.pages()).collect())
}

/// `touch-rand`: the pages in random order, the same on all sides.
pub(super) fn at_random(data: &Data) -> Result<Group<'_>> {
    group(data, "touch-rand", Numbers(1).shuffled(data.pages()))
}

/// The same code for every side, so that no side has the luck of the better loop.
#[inline(never)]
fn touch(bytes: &[u8], pages: &[usize]) -> u64 {
    let size = page();
    pages.iter().fold(0, |sum, page| sum + u64::from(bytes[page * size]))
}

fn group<'a>(data: &'a Data, case: &'static str, pages: Vec<usize>) -> Result<Group<'a>> {
    let pages: Rc<[usize]> = pages.into();
    let count = pages.len();
    let file = data.file();
    let mut sums = Vec::new();
    let mut side = |name, walk: fn(&std::fs::File, &[usize]) -> Result<u64>| {
        let pages = Rc::clone(&pages);
        sums.push(walk(file, &pages)?);
        Ok::<_, anyhow::Error>(Side::new(name, move || {
            busy(count, || walk(file, black_box(&pages)))
        }))
    };
    let sides = vec![
        side(FOLIO, |file, pages| {
            let map = FileMap::map(file)?;
            // SAFETY: the file has no name, and nobody writes to it after it was made.
            Ok(unsafe { map.guard_slice(|bytes| touch(bytes, pages)) }?)
        })?,
        side("memmap2", |file, pages| Ok(touch(&memmap2(file)?, pages)))?,
        side("mmap-rs", |file, pages| Ok(touch(mmap_rs(file)?.as_slice(), pages)))?,
        side("libc", |file, pages| {
            let map = plain::Map::new(file, file.metadata()?.len() as usize)?;
            // SAFETY: as for folio.
            Ok(touch(unsafe { map.slice() }, pages))
        })?,
    ];
    ensure!(sums.iter().all(|sum| *sum == sums[0]), "the sides saw different bytes");
    let pairs = vec![
        Pair::new(case, "memmap2").goal(1.02),
        Pair::new(case, "mmap-rs"),
        Pair::new(case, "libc"),
    ];
    Ok(Group::of(sides, pairs, "ns/page"))
}
