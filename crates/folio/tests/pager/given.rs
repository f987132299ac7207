//! Parts of most tests of the pager: a pager, bytes that differ from page to page, the way of this
//! run.

use crate::common::effort::is_thorough;
use crate::common::skip;
use folio::Pager;

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that differ from page to page and within each: `n ^ (n >> 8) ^ (n >> 16)` at `n`.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    // By blocks of 256, which the last two terms are the same for: byte by byte takes an
    // unoptimised build a second for 64 MiB.
    let blocks: Vec<[u8; 256]> =
        (0..=255).map(|rest| std::array::from_fn(|n| n as u8 ^ rest)).collect();
    let mut bytes = Vec::with_capacity(len.next_multiple_of(256));
    for block in 0..len.div_ceil(256) {
        bytes.extend_from_slice(&blocks[usize::from((block ^ (block >> 8)) as u8)]);
    }
    bytes.truncate(len);
    bytes
}

/// Whether all bytes are `byte`: by blocks, since byte by byte takes an unoptimised build long.
pub(crate) fn is_all(bytes: &[u8], byte: u8) -> bool {
    let block = [byte; 4096];
    bytes.chunks(block.len()).all(|chunk| *chunk == block[..chunk.len()])
}

pub(crate) fn pager(budget: usize) -> Pager {
    Pager::builder().budget(budget).build().unwrap()
}

/// Whether the case of this number, of many alike, runs: all do with `FOLIO_THOROUGH=1`, else every
/// fifth.
pub(crate) fn includes(case: usize) -> bool {
    is_thorough() || case.is_multiple_of(5)
}

/// Whether the faults of this run come in one way of many: `FOLIO_DELIVERY` or `FOLIO_FEATURES` is
/// set.
pub(crate) fn is_one_way() -> bool {
    let is_set = |variable| std::env::var_os(variable).is_some_and(|value| !value.is_empty());
    is_set("FOLIO_DELIVERY") || is_set("FOLIO_FEATURES")
}

/// As [`skip`], unless this run is one way of many, which may lack a thing that the machine has:
/// the run as the machine is has the test.
#[track_caller]
pub(crate) fn skip_in_first_way(reason: &str) {
    if is_one_way() {
        eprintln!("not in this way: {reason}");
    } else {
        skip(reason);
    }
}
