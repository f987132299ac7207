//! Copies of `N` bytes from random places of 1 GiB that is in the page cache, mapped and populated.
//!
//! * `read-64`, `read-4k`: folio's checked `read_at` beside pread(2), the call of a program that
//!   fears SIGBUS uses.
//! * `read-64-copy`, `read-4k-copy`: the same beside a plain copy out of memmap2's slice, which
//!   SIGBUS can kill.
//!
//! The cost of memory itself here, above all the page-table walk for each of so many pages, is in
//! both; the note at the first two gives the cost of a plain copy beside pread, which no checked
//! one can beat by much.
//!
//! Each read goes to another page. Places in a sample come from a list in random order, and no two
//! samples in a row use the same part of it, so that no side finds in the processor's cache what
//! another has just read.

use super::memmap2;
use crate::data::{Data, Numbers, page};
use crate::measure::{Side, busy};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use folio::FileMap;
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::rc::Rc;

/// Reads a sample.
const fn count(len: usize) -> usize {
    if len == 64 { 1 << 18 } else { 1 << 15 }
}

/// The places to read, in parts of a sample's length.
#[derive(Debug, Clone)]
struct Places {
    all: Rc<[usize]>,
    part: usize,
    next: usize,
}

impl Places {
    /// `first` keeps the sides apart.
    fn of(all: &Rc<[usize]>, part: usize, first: usize) -> Self {
        Self { all: Rc::clone(all), part, next: first * part }
    }

    fn next(&mut self) -> &[usize] {
        let start = self.next % self.all.len();
        self.next += self.part;
        &self.all[start..start + self.part]
    }
}

/// Times the reads of one part of the list. Those of another come first, untimed: a program reads
/// in one way, and the processor's caches hold the page tables or the kernel's records that this
/// way needs, not the state that another side left.
fn sample<const N: usize>(
    places: &mut Places,
    mut read: impl FnMut(&mut [u8; N], usize) -> Result<()>,
) -> Result<f64> {
    let mut buffer = [0_u8; N];
    let mut read_all = |places: &[usize]| {
        for &place in places {
            read(&mut buffer, place)?;
            black_box(&buffer);
        }
        Ok(())
    };
    read_all(places.next())?;
    busy(places.part, || read_all(places.next()))
}

pub(super) fn group<const N: usize>(data: &Data) -> Result<Group<'_>> {
    let mut numbers = Numbers(2);
    let lines = page() / N;
    let count = count(N);
    let mut all = Vec::new();
    while all.len() < 8 * count {
        let pages = numbers.shuffled(data.pages());
        all.extend(pages.into_iter().map(|number| number * page() + numbers.below(lines) * N));
    }
    let all: Rc<[usize]> = all.into();

    let map = FileMap::map(data.file())?;
    let peer = memmap2(data.file())?;
    let file = data.file();
    // Also faults in every page on both sides.
    let mut buffers = [[0_u8; N]; 2];
    for &place in &*all {
        map.read_at(&mut buffers[0], place)?;
        buffers[1].copy_from_slice(&peer[place..place + N]);
        ensure!(buffers[0] == buffers[1], "the copies differ at {place}");
    }

    let (mut folio, mut copied, mut pread) =
        (Places::of(&all, count, 0), Places::of(&all, count, 3), Places::of(&all, count, 5));
    let sides = vec![
        Side::new(FOLIO, move || {
            let map = &map;
            sample::<N>(&mut folio, move |buffer, place| Ok(map.read_at(buffer, place)?))
        }),
        Side::new("memcpy", move || {
            let peer = &peer[..];
            sample::<N>(&mut copied, move |buffer, place| {
                buffer.copy_from_slice(&peer[place..place + N]);
                Ok(())
            })
        }),
        Side::new("pread", move || {
            sample::<N>(&mut pread, |buffer, place| Ok(file.read_exact_at(buffer, place as u64)?))
        }),
    ];
    let pairs = if N == 64 {
        vec![
            Pair::new("read-64", "pread").goal(0.12).beside("memcpy", "a plain memcpy"),
            Pair::new("read-64-copy", "memcpy").goal(1.5),
        ]
    } else {
        vec![
            Pair::new("read-4k", "pread").goal(0.65).beside("memcpy", "a plain memcpy"),
            Pair::new("read-4k-copy", "memcpy").goal(1.1),
        ]
    };
    Ok(Group::of(sides, pairs, "ns/read"))
}
