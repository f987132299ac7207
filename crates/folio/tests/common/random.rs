//! Random choices that follow from a seed.

use super::effort::number;
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::time::{Duration, Instant};

/// The seed that `FOLIO_SEED` gives, for a test that replays one run.
pub(crate) fn given_seed() -> Option<u64> {
    number("FOLIO_SEED")
}

/// The seed that `FOLIO_SEED` gives, else another one each time. A test that fails prints it.
pub(crate) fn seed() -> u64 {
    given_seed().unwrap_or_else(|| RandomState::new().hash_one(0))
}

/// Numbers that follow from a seed (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// From [`seed`], which it prints. The instant of a kill cannot be replayed, all else can.
    pub(crate) fn announced() -> Self {
        let seed = seed();
        eprintln!("FOLIO_SEED={seed}");
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut n = self.0;
        n = (n ^ (n >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        n = (n ^ (n >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        n ^ (n >> 31)
    }

    /// Below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.below_u64(end as u64) as usize
    }

    /// Below `end`, which is not zero.
    pub(crate) fn below_u64(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    pub(crate) fn fill(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.fill(&mut bytes);
        bytes
    }

    /// A range inside `0..len`, of any length.
    pub(crate) fn any_range(&mut self, len: usize) -> Range<usize> {
        let (a, b) = (self.below(len + 1), self.below(len + 1));
        a.min(b)..a.max(b)
    }

    /// A range of at most `most` bytes inside `0..len`. Mostly short: of a few bytes, or a few
    /// pages.
    pub(crate) fn range(&mut self, len: usize, most: usize) -> Range<usize> {
        let most = match self.below(8) {
            0..=3 => most.min(64),
            4..=6 => most.min(20_000),
            _ => most,
        };
        let start = self.below(len + 1);
        start..len.min(start + self.below(most + 1))
    }

    /// A word that damages the one it overwrites: all ones, anything, something small, a lone bit.
    pub(crate) fn garbage(&mut self) -> u64 {
        match self.below(4) {
            0 => u64::MAX,
            1 => self.next(),
            2 => self.below_u64(2048),
            _ => 1 << self.below(64),
        }
    }

    /// Lets up to so many microseconds pass, mostly few.
    pub(crate) fn pass(&mut self, most: u64) {
        let most = 1 + self.below_u64(most);
        let time = Duration::from_nanos(1000 * self.below_u64(most) + self.below_u64(1000));
        let start = Instant::now();
        while start.elapsed() < time {
            std::hint::spin_loop();
        }
    }
}
