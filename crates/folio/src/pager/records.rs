//! What pages were when they left memory: a keyed hash of each, so that a page that is read again is the same, or an error.
//!
//! The key is the pager's secret, drawn from the kernel: no safe [`Source`](crate::source::Source) can make up other bytes
//! with the same hash. The hash is HighwayHash (Alakuijala, Cox, Wassenberg: "Fast keyed hash/pseudo-random function using SIMD
//! multiply and permute", 2016), 64 bits.

use super::core::Run;
use highway::{HighwayHash, HighwayHasher, Key};
use std::collections::HashMap;

/// Hashes of one leaf: 4 KiB.
const LEAF: u64 = 512;

/// The pager's secret.
#[derive(Clone, Copy)]
pub(crate) struct Secret([u64; 4]);

impl Secret {
    /// Drawn from getrandom(2); where that fails, from the addresses and times of this moment.
    pub(crate) fn draw() -> Self {
        let mut bytes = [0_u8; 32];
        let drawn = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*bytes);
        }
        if drawn != Ok(32) {
            use std::hash::{BuildHasher, Hasher};
            for word in &mut words {
                // Seeded by the standard library's own secret.
                *word = std::collections::hash_map::RandomState::new().build_hasher().finish();
            }
        }
        Self(words)
    }

    fn hash(&self, bytes: &[u8]) -> u64 {
        HighwayHasher::new(Key(self.0)).hash64(bytes)
    }
}

/// The hashes of one object's pages.
pub(crate) struct Records {
    secret: Secret,
    leaves: HashMap<u64, Box<[u64; LEAF as usize]>>,
    page: usize,
}

impl Records {
    pub(crate) fn new(secret: Secret, page: usize) -> Self {
        Self { secret, leaves: HashMap::new(), page }
    }

    /// Remembers the pages of a run; zero is kept for "never seen".
    pub(crate) fn keep(&mut self, run: Run, bytes: &[u8]) {
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(self.page)) {
            let hash = self.secret.hash(bytes).max(1);
            let leaf = self.leaves.entry(page / LEAF).or_insert_with(|| Box::new([0; LEAF as usize]));
            leaf[(page % LEAF) as usize] = hash;
        }
    }

    /// Whether the pages of a run are what was remembered, as far as they were seen before.
    pub(crate) fn agree(&self, run: Run, bytes: &[u8]) -> bool {
        if self.leaves.is_empty() {
            return true;
        }
        (run.first..).zip(bytes.chunks_exact(self.page)).all(|(page, bytes)| {
            let known = self.leaves.get(&(page / LEAF)).map_or(0, |leaf| leaf[(page % LEAF) as usize]);
            known == 0 || known == self.secret.hash(bytes).max(1)
        })
    }

    /// Forgets all from a page on.
    pub(crate) fn forget_from(&mut self, first: u64) {
        self.leaves.retain(|&leaf, hashes| {
            let start = leaf * LEAF;
            for page in first.max(start)..start + LEAF {
                hashes[(page - start) as usize] = 0;
            }
            start < first
        });
    }

    /// Bytes that the hashes take.
    pub(crate) fn bytes(&self) -> usize {
        self.leaves.len() * (size_of::<[u64; LEAF as usize]>() + 32)
    }
}

#[cfg(test)]
mod tests {
    use super::{Records, Secret};
    use crate::pager::core::Run;

    #[test]
    fn other_bytes_do_not_agree_and_the_same_do() {
        let mut records = Records::new(Secret::draw(), 4096);
        let run = Run { first: 700, len: 2 };
        let mut bytes = vec![7; 8192];
        assert!(records.agree(run, &bytes), "nothing is known yet");
        records.keep(run, &bytes);
        assert!(records.agree(run, &bytes));
        bytes[8191] ^= 1;
        assert!(!records.agree(run, &bytes));
        assert!(records.agree(Run::one(700), &bytes[..4096]), "the first page is the same");
        records.forget_from(701);
        assert!(records.agree(run, &bytes));
    }
}
