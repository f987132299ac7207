//! `map-small`: map all of a 4 KiB file whose descriptor is open, and unmap it, touching nothing.
//! Every side asks the kernel for the length first, as a program that maps "all of a file" must.

use super::{memmap2, mmap_rs};
use crate::data::{Data, plain};
use crate::measure::{Side, busy};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::Result;
use folio::FileMap;
use std::fs::File;
use std::hint::black_box;
use std::rc::Rc;

const LEN: usize = 4096;
/// Maps a sample.
const COUNT: usize = 1000;

pub(super) fn group(_: &Data) -> Result<Group<'_>> {
    // Beside the programs: so little fits everywhere, and a map of it is never read.
    let file = tempfile::tempfile()?;
    file.set_len(LEN as u64)?;
    let file = Rc::new(file);
    let side = |name, map: fn(&File) -> Result<()>| {
        let file = Rc::clone(&file);
        Side::new(name, move || busy(COUNT, || (0..COUNT).try_for_each(|_| map(black_box(&file)))))
    };
    let sides = vec![
        side(FOLIO, |file| {
            black_box(&FileMap::map(file)?);
            Ok(())
        }),
        side("memmap2", |file| {
            black_box(&memmap2(file)?);
            Ok(())
        }),
        side("mmap-rs", |file| {
            black_box(&mmap_rs(file)?);
            Ok(())
        }),
        side("libc", |file| {
            black_box(&plain::Map::new(file, length(file)?)?);
            Ok(())
        }),
    ];
    let case = "map-small";
    let pairs = vec![
        Pair::new(case, "memmap2").goal(1.05),
        Pair::new(case, "mmap-rs"),
        Pair::new(case, "libc"),
    ];
    Ok(Group::of(sides, pairs, "ns/map"))
}

/// The length by fstat(2), the cheapest way to learn it.
fn length(file: &File) -> Result<usize> {
    use std::os::fd::AsRawFd;
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the descriptor is open, and `stat` has room for the answer.
    let done = unsafe { libc::fstat(file.as_raw_fd(), stat.as_mut_ptr()) };
    anyhow::ensure!(done == 0, "fstat: {}", std::io::Error::last_os_error());
    // SAFETY: the call succeeded, so it filled `stat` in.
    Ok(unsafe { stat.assume_init() }.st_size as usize)
}
