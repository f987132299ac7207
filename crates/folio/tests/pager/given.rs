//! What tests of the pager begin with: a pager, bytes that tell pages apart, random numbers.

use folio::Pager;

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that differ from page to page and within each.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

pub(crate) fn pager(budget: usize) -> Pager {
    Pager::builder().budget(budget).build().unwrap()
}
