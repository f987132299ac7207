//! What tests of the pager begin with: a pager, bytes that tell pages apart, random numbers.

use folio::Pager;
use std::ops::Range;

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that differ from page to page and within each.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

pub(crate) fn pager(budget: usize) -> Pager {
    Pager::builder().budget(budget).build().unwrap()
}

/// So many steps of a long test; where `FOLIO_EFFORT` says so, another percentage of them.
pub(crate) fn steps(usual: u64) -> u64 {
    let effort = std::env::var("FOLIO_EFFORT").map_or(100, |percent| percent.parse().expect("a percentage"));
    (usual * effort / 100).max(1)
}

/// Numbers that follow from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        n ^ (n >> 31)
    }

    /// Below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A range of at most `most` bytes inside `0..len`. Mostly short: of a few bytes, or a few pages.
    pub(crate) fn range(&mut self, len: usize, most: usize) -> Range<usize> {
        let most = match self.below(8) {
            0..=3 => most.min(64),
            4..=6 => most.min(20_000),
            _ => most,
        };
        let start = self.below(len + 1);
        start..len.min(start + self.below(most + 1))
    }
}
