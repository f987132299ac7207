//! The wrapping sum of 1 GiB as native 64-bit words, from a map whose pages are all there.
//!
//! * `guard-sum`: through the slice of folio's `unsafe guard_slice`, beside memmap2's slice: one
//!   function sums both.
//! * `guard-view-sum`: through the view of folio's safe `guard`, whose loads are volatile, beside
//!   the same slice.

use super::memmap2;
use crate::data::Data;
use crate::measure::{Side, busy};
use crate::suite::{FOLIO, Group, Pair};
use anyhow::{Result, ensure};
use folio::{FileMap, View};

const VIEW: &str = "folio's view";

#[inline(never)]
fn sum_slice(bytes: &[u8]) -> u64 {
    let (words, _) = bytes.as_chunks::<8>();
    words.iter().fold(0, |sum, &word| sum.wrapping_add(u64::from_ne_bytes(word)))
}

#[inline(never)]
fn sum_view(view: &View<'_>) -> u64 {
    view.words().fold(0, u64::wrapping_add)
}

pub(super) fn group(data: &Data) -> Result<Group<'_>> {
    let gib = data.len() >> 30;
    let map = FileMap::map(data.file())?;
    let other = FileMap::map(data.file())?;
    let peer = memmap2(data.file())?;
    // SAFETY: the file has no name, and nobody writes to it after it was made.
    let slice = move || Ok(unsafe { map.guard_slice(sum_slice) }?);
    let view = move || Ok(other.guard(sum_view)?);
    let peers = move || Ok::<_, anyhow::Error>(sum_slice(&peer));
    // This also faults all the pages in.
    let sums: [Result<u64>; 3] = [slice(), view(), peers()];
    let [slice_sum, view_sum, peer_sum] = sums;
    let want = peer_sum?;
    ensure!(slice_sum? == want && view_sum? == want, "the sums differ");

    let in_ms = |cost: f64| cost / 1e6;
    let sides = vec![
        Side::new(FOLIO, move || busy(gib, &slice).map(in_ms)),
        Side::new(VIEW, move || busy(gib, &view).map(in_ms)),
        Side::new("memmap2", move || busy(gib, &peers).map(in_ms)),
    ];
    let pairs = vec![
        Pair::new("guard-sum", "memmap2").goal(1.02),
        Pair { folio: VIEW, ..Pair::new("guard-view-sum", "memmap2").goal(1.3) },
    ];
    Ok(Group::of(sides, pairs, "ms/GiB"))
}
