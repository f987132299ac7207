//! `cold-rand`: copies of 4 KiB from random pages of 1 GiB of which nothing is in the page cache,
//! as an index or a large table is read. Each sample evicts the file, opens and maps it anew, and
//! times the copies only.
//!
//! folio maps with `Pattern::Random`. memmap2 maps as its documentation shows, with no advice, so
//! that each fault reads as much around its page as the device's `read_ahead_kb` says; with the
//! same advice (`memmap2-random`) it has the same cost as folio. The copies are few beside the
//! file, as they would be in one that is larger than memory: pages that readahead brings in beside
//! a page is hardly ever hit.

use super::memmap2;
use crate::data::{Data, Numbers, page};
use crate::measure::{Side, passing};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::Result;
use folio::{MapOptions, Pattern};
use std::hint::black_box;

/// Copies a sample.
const COUNT: usize = 32;
const LEN: usize = 4096;
const ADVISED: &str = "memmap2-random";

/// Other pages in each sample, the same for all sides in each round.
fn places(data: &Data) -> impl FnMut() -> Vec<usize> + use<> {
    let (mut numbers, pages) = (Numbers(3), data.pages());
    move || (0..COUNT).map(|_| numbers.below(pages) * page()).collect()
}

fn peer(data: &Data, advice: Option<memmap2::Advice>, places: &[usize]) -> Result<f64> {
    data.evict()?;
    let map = memmap2(&data.reopen()?)?;
    if let Some(advice) = advice {
        map.advise(advice)?;
    }
    passing(COUNT, || {
        let mut buffer = [0_u8; LEN];
        for &place in places {
            buffer.copy_from_slice(&map[place..place + LEN]);
            black_box(&buffer);
        }
        Ok(())
    })
}

pub(super) fn group(data: &Data) -> Result<Group<'_>> {
    // Before anything else: where this fails there is nothing to measure.
    data.evict()?;
    let (mut first, mut second, mut third) = (places(data), places(data), places(data));
    let in_us = |cost: f64| cost / 1e3;
    let sides = vec![
        Side::new(FOLIO, move || {
            let places = first();
            data.evict()?;
            let map = MapOptions::new().pattern(Pattern::Random).map(&data.reopen()?)?;
            let cost = passing(COUNT, || {
                let mut buffer = [0_u8; LEN];
                for &place in &places {
                    map.read_at(&mut buffer, place)?;
                    black_box(&buffer);
                }
                Ok(())
            });
            cost.map(in_us)
        }),
        Side::new("memmap2", move || peer(data, None, &second()).map(in_us)),
        Side::new(ADVISED, move || peer(data, Some(memmap2::Advice::Random), &third()).map(in_us)),
    ];
    let note = data.read_ahead_kb().map_or_else(
        || "the device's read_ahead_kb is not known".to_owned(),
        |kib| format!("the device's read_ahead_kb is {kib}"),
    );
    let pairs = vec![
        Pair { note: Some(note), ..Pair::new("cold-rand", "memmap2").goal(0.05) },
        Pair::new("cold-rand", ADVISED),
    ];
    Ok(Group::of(sides, pairs, "µs/read"))
}
