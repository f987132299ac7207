//! What pages were when they left memory: a keyed hash of each, so that a page that is read again is the same, or an error.
//!
//! The key is the pager's secret, drawn from the kernel: no safe [`Source`](crate::source::Source) can make up other bytes
//! with the same hash. The hash is HighwayHash (Alakuijala, Cox, Wassenberg: "Fast keyed hash/pseudo-random function using SIMD
//! multiply and permute", 2016), 64 bits.

use super::core::Run;
use highway::{HighwayHash, HighwayHasher, Key};
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

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
    leaves: HashMap<u64, Box<Leaf>>,
    /// Leaves in memory, the oldest first; entries may be stale.
    order: VecDeque<u64>,
    /// Leaves that are in the file only.
    shed: HashSet<u64>,
    /// Leaves for which there was no memory and no file: of their pages none can be shown again.
    lost: HashSet<u64>,
    file: Option<File>,
    page: usize,
}

type Leaf = [u64; LEAF as usize];

/// Bytes of a leaf with what the map keeps beside it.
const LEAF_BYTES: usize = size_of::<Leaf>() + 64;

impl Records {
    pub(crate) fn new(secret: Secret, page: usize) -> Self {
        let (leaves, order, shed) = (HashMap::new(), VecDeque::new(), HashSet::new());
        Self { secret, leaves, order, shed, lost: HashSet::new(), file: None, page }
    }

    /// The leaf of a page: from memory, from the file, or with `make` a new one.
    fn leaf(&mut self, leaf: u64, make: bool) -> io::Result<Option<&mut Box<Leaf>>> {
        if !self.leaves.contains_key(&leaf) {
            if !make && !self.shed.contains(&leaf) {
                return Ok(None);
            }
            let mut hashes = Box::new([0; LEAF as usize]);
            if self.shed.contains(&leaf) {
                let mut bytes = vec![0; size_of::<Leaf>()];
                let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
                file.read_exact_at(&mut bytes, leaf * size_of::<Leaf>() as u64)?;
                for (hash, bytes) in hashes.iter_mut().zip(bytes.as_chunks::<8>().0) {
                    *hash = u64::from_ne_bytes(*bytes);
                }
                self.shed.remove(&leaf);
            }
            self.leaves.insert(leaf, hashes);
            self.order.push_back(leaf);
        }
        Ok(self.leaves.get_mut(&leaf))
    }

    /// Remembers the pages of a run; zero is kept for "never seen". What cannot be remembered is an error.
    pub(crate) fn keep(&mut self, run: Run, bytes: &[u8]) -> io::Result<()> {
        let (page_bytes, secret) = (self.page, self.secret);
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(page_bytes)) {
            if self.lost.contains(&(page / LEAF)) {
                continue;
            }
            if let Some(leaf) = self.leaf(page / LEAF, true)? {
                leaf[(page % LEAF) as usize] = secret.hash(bytes).max(1);
            }
        }
        Ok(())
    }

    /// Whether the pages of a run are what was remembered, as far as they were seen before.
    pub(crate) fn agree(&mut self, run: Run, bytes: &[u8]) -> io::Result<bool> {
        if self.leaves.is_empty() && self.shed.is_empty() && self.lost.is_empty() {
            return Ok(true);
        }
        let (page_bytes, secret) = (self.page, self.secret);
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(page_bytes)) {
            if self.lost.contains(&(page / LEAF)) {
                let rule = "the budget has no room for the hashes of pages, and the spill directory takes none: whether \
                            this page is as it was shown cannot be known";
                return Err(io::Error::new(io::ErrorKind::StorageFull, rule));
            }
            let known = self.leaf(page / LEAF, false)?.map_or(0, |leaf| leaf[(page % LEAF) as usize]);
            if known != 0 && known != secret.hash(bytes).max(1) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Moves the oldest leaf to a file, which `make` makes. Whether there was one to move.
    pub(crate) fn shed(&mut self, make: impl FnOnce() -> io::Result<File>) -> io::Result<bool> {
        let Some(leaf) = self.order.pop_front() else { return Ok(false) };
        let Some(hashes) = self.leaves.remove(&leaf) else { return Ok(true) };
        let file = match self.file.take() {
            Some(file) => Ok(file),
            None => make(),
        };
        let written = file.and_then(|file| {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.to_ne_bytes()).collect();
            let written = file.write_all_at(&bytes, leaf * size_of::<Leaf>() as u64);
            self.file = Some(file);
            written
        });
        if let Err(error) = written {
            self.leaves.insert(leaf, hashes);
            self.order.push_back(leaf);
            return Err(error);
        }
        self.shed.insert(leaf);
        Ok(true)
    }

    /// Gives up the oldest leaf that is in memory. Whether there was one.
    pub(crate) fn lose(&mut self) -> bool {
        while let Some(leaf) = self.order.pop_front() {
            if self.leaves.remove(&leaf).is_some() {
                self.lost.insert(leaf);
                return true;
            }
        }
        false
    }

    /// Forgets all from a page on.
    pub(crate) fn forget_from(&mut self, first: u64) {
        // The leaf that is forgotten in part has to be in memory.
        if self.leaf(first / LEAF, false).is_err() {
            self.shed.remove(&(first / LEAF));
        }
        self.shed.retain(|&leaf| leaf < first / LEAF);
        self.lost.retain(|&leaf| leaf * LEAF < first);
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
        self.leaves.len() * LEAF_BYTES + (self.shed.len() + self.lost.len()) * 16
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
        assert!(records.agree(run, &bytes).unwrap(), "nothing is known yet");
        records.keep(run, &bytes).unwrap();
        assert!(records.agree(run, &bytes).unwrap());
        bytes[8191] ^= 1;
        assert!(!records.agree(run, &bytes).unwrap());
        assert!(records.agree(Run::one(700), &bytes[..4096]).unwrap(), "the first page is the same");
        records.forget_from(701);
        assert!(records.agree(run, &bytes).unwrap());
    }

    #[test]
    fn what_was_shed_to_a_file_is_known_still() {
        let mut records = Records::new(Secret::draw(), 4096);
        for page in (0..100_000).step_by(100) {
            records.keep(Run::one(page), &[page as u8; 4096]).unwrap();
        }
        let before = records.bytes();
        while records.shed(tempfile::tempfile).unwrap() {}
        assert!(records.bytes() < before / 100, "{} of {before}", records.bytes());
        for page in (0..100_000).step_by(100) {
            assert!(records.agree(Run::one(page), &[page as u8; 4096]).unwrap(), "{page}");
            assert!(!records.agree(Run::one(page), &[!page as u8; 4096]).unwrap(), "{page}");
        }
    }
}
