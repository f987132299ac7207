//! A keyed hash of each page that left memory, so that a page that is read again is the same, or an
//! error.
//!
//! The key is the pager's secret, drawn from the kernel: no safe [`Source`](crate::source::Source)
//! can make up other bytes with the same hash. The hash is HighwayHash (Alakuijala, Cox,
//! Wassenberg: "Fast keyed hash/pseudo-random function using SIMD multiply and permute", 2016), 64
//! bits.
//!
//! Hashes are kept in leaves. A leaf that leaves memory goes to a [file](super::hash_file), which
//! another thread reads and writes: nothing here waits. Zero is no page's hash. In a leaf in memory
//! it says "never seen", or, for a leaf that is in the file as well, "see the file".

use super::core::PageRun;
use highway::{HighwayHash, HighwayHasher, Key};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ops::Range;
use std::sync::Arc;

/// Hashes of one leaf: 4 KiB.
const LEAF: usize = 512;

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
pub(crate) struct PageHashes {
    secret: Secret,
    leaves: HashMap<u64, Box<Leaf>>,
    /// Leaves in memory, the oldest first; entries may be stale.
    order: VecDeque<u64>,
    /// Leaves on their way to the file.
    writing: HashMap<u64, UnwrittenLeaf>,
    /// Leaves in the file, and how many of their hashes are good: those behind were forgotten.
    shed: HashMap<u64, usize>,
    /// Leaves for which there was no memory and no file: of their pages none can be shown again.
    lost: HashSet<u64>,
    /// The number of the last write.
    writes: u64,
    page: usize,
}

type Leaf = [u64; LEAF];

/// A leaf that is being written to the file.
struct UnwrittenLeaf {
    hashes: Arc<Leaf>,
    number: u64,
    /// How many of its hashes were not forgotten since.
    good: usize,
}

/// A leaf for the file.
pub(crate) struct LeafWrite {
    pub(crate) leaf: u64,
    pub(crate) number: u64,
    hashes: Arc<Leaf>,
    /// Of so many hashes the file has those that `hashes` lacks.
    stored: usize,
}

/// Whether pages are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verification {
    /// As far as they were seen before.
    Same,
    Other,
    /// This leaf has to be loaded first.
    Unloaded(u64),
    /// The hashes were given up.
    Lost,
}

/// Bytes of a leaf in memory, with those of the hash map for it.
const LEAF_BYTES: usize = size_of::<Leaf>() + 64;
/// Bytes of a leaf in the file.
pub(crate) const FILE_BYTES: usize = size_of::<Leaf>();

/// The leaf of a page, and the place of its hash there.
fn place(page: u64) -> (u64, usize) {
    (page / LEAF as u64, (page % LEAF as u64) as usize)
}

impl PageHashes {
    pub(crate) fn new(secret: Secret, page: usize) -> Self {
        Self {
            secret,
            leaves: HashMap::new(),
            order: VecDeque::new(),
            writing: HashMap::new(),
            shed: HashMap::new(),
            lost: HashSet::new(),
            writes: 0,
            page,
        }
    }

    /// Remembers the pages of a run.
    pub(crate) fn insert(&mut self, run: PageRun, bytes: &[u8]) {
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(self.page)) {
            let (leaf, at) = place(page);
            if !self.lost.contains(&leaf) {
                self.leaf(leaf)[at] = self.secret.hash(bytes).max(1);
            }
        }
    }

    /// The leaf in memory, made if it is not there.
    fn leaf(&mut self, leaf: u64) -> &mut Leaf {
        self.leaves.entry(leaf).or_insert_with(|| {
            self.order.push_back(leaf);
            Box::new([0; LEAF])
        })
    }

    /// Whether the pages of a run are as they were. A run lies in one leaf.
    pub(crate) fn verify(&self, run: PageRun, bytes: &[u8]) -> Verification {
        if self.leaves.is_empty()
            && self.shed.is_empty()
            && self.writing.is_empty()
            && self.lost.is_empty()
        {
            return Verification::Same;
        }
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(self.page)) {
            let (leaf, at) = place(page);
            if self.lost.contains(&leaf) {
                return Verification::Lost;
            }
            let in_memory = self.leaves.get(&leaf).map_or(0, |hashes| hashes[at]);
            let known = match (in_memory, self.writing.get(&leaf)) {
                (0, Some(writing)) if at < writing.good => writing.hashes[at],
                (known, _) => known,
            };
            if known == 0 && self.shed.get(&leaf).is_some_and(|&good| at < good) {
                return Verification::Unloaded(leaf);
            }
            if known != 0 && known != self.secret.hash(bytes).max(1) {
                return Verification::Other;
            }
        }
        Verification::Same
    }

    /// Takes the oldest leaves out of memory, up to `bytes` of them, to be written. They are known,
    /// and count, until [`written`](Self::written); before that there are none to take.
    pub(crate) fn spill(&mut self, bytes: usize) -> Vec<LeafWrite> {
        let mut writes = Vec::new();
        if !self.writing.is_empty() {
            return writes;
        }
        while writes.len() * LEAF_BYTES < bytes {
            let Some(leaf) = self.order.pop_front() else { break };
            let Some(hashes) = self.leaves.remove(&leaf) else { continue };
            let hashes: Arc<Leaf> = hashes.into();
            let stored = self.shed.get(&leaf).copied().unwrap_or(0);
            self.writes += 1;
            let number = self.writes;
            writes.push(LeafWrite { leaf, number, hashes: Arc::clone(&hashes), stored });
            self.writing.insert(leaf, UnwrittenLeaf { hashes, number, good: LEAF });
        }
        writes
    }

    /// A leaf is in the file now, or could not be written.
    pub(crate) fn written(&mut self, leaf: u64, number: u64, written: bool) {
        // A leaf that was forgotten during its write may be written anew by now.
        if self.writing.get(&leaf).is_none_or(|writing| writing.number != number) {
            return;
        }
        let Some(UnwrittenLeaf { hashes, good, .. }) = self.writing.remove(&leaf) else { return };
        if written {
            self.shed.insert(leaf, good);
        } else if !self.lost.contains(&leaf) {
            fill_up(self.leaf(leaf), &hashes[..good]);
        }
    }

    /// A leaf was read from the file.
    pub(crate) fn loaded(&mut self, leaf: u64, bytes: &[u8; FILE_BYTES]) {
        let Some(good) = self.shed.remove(&leaf) else { return };
        let mut hashes = [0; LEAF];
        for (hash, bytes) in hashes.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *hash = u64::from_ne_bytes(*bytes);
        }
        if self.lost.contains(&leaf) {
            return;
        }
        // A leaf that is being written is newer than the file, which was read before that write.
        let newer =
            self.writing.get(&leaf).map(|writing| (Arc::clone(&writing.hashes), writing.good));
        let known = self.leaf(leaf);
        if let Some((newer, good)) = newer {
            fill_up(known, &newer[..good]);
        }
        fill_up(known, &hashes[..good]);
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
        let (last, at) = place(first);
        // Hashes of the leaf `leaf` that stay.
        let stay = |leaf: u64| if leaf < last { LEAF } else { at };
        self.lost.retain(|&leaf| leaf <= last && stay(leaf) > 0);
        self.leaves.retain(|&leaf, hashes| {
            hashes[stay(leaf)..].fill(0);
            leaf <= last && stay(leaf) > 0
        });
        self.writing.retain(|&leaf, writing| {
            writing.good = writing.good.min(stay(leaf));
            leaf <= last && writing.good > 0
        });
        self.shed.retain(|&leaf, good| {
            *good = (*good).min(stay(leaf));
            leaf <= last && *good > 0
        });
    }

    /// Bytes that the hashes take.
    pub(crate) fn bytes(&self) -> usize {
        (self.leaves.len() + self.writing.len()) * LEAF_BYTES
            + (self.shed.len() + self.lost.len()) * 16
    }
}

/// Hashes that a leaf lacks are taken from older ones.
fn fill_up(hashes: &mut Leaf, older: &[u64]) {
    for (hash, older) in hashes.iter_mut().zip(older).filter(|(hash, _)| **hash == 0) {
        *hash = *older;
    }
}

impl LeafWrite {
    /// The pieces that make the file complete: their offsets in the file, in bytes, and their
    /// bytes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (u64, Vec<u8>)> {
        let wanted = |at: usize| at >= self.stored || self.hashes[at] != 0;
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for at in (0..LEAF).filter(|&at| wanted(at)) {
            match ranges.last_mut() {
                Some(range) if range.end == at => range.end += 1,
                _ => ranges.push(at..at + 1),
            }
        }
        ranges.into_iter().map(|range| {
            let offset = self.leaf * FILE_BYTES as u64 + 8 * range.start as u64;
            (offset, self.hashes[range].iter().flat_map(|hash| hash.to_ne_bytes()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{FILE_BYTES, LeafWrite, PageHashes, Secret, Verification};
    use crate::pager::core::PageRun;

    const PAGE: usize = 4096;

    /// A file as long as it has to be.
    #[derive(Default)]
    struct HashFileModel(Vec<u8>);

    impl HashFileModel {
        fn write(&mut self, write: &LeafWrite) {
            for (offset, bytes) in write.pieces() {
                let (start, end) = (offset as usize, offset as usize + bytes.len());
                self.0.resize(self.0.len().max(end), 0);
                self.0[start..end].copy_from_slice(&bytes);
            }
        }

        fn load(&self, records: &mut PageHashes, leaf: u64) {
            let start = leaf as usize * FILE_BYTES;
            records.loaded(leaf, self.0[start..start + FILE_BYTES].try_into().unwrap());
        }

        fn shed_all(&mut self, records: &mut PageHashes) {
            for write in records.spill(usize::MAX) {
                self.write(&write);
                records.written(write.leaf, write.number, true);
            }
        }

        fn agree(&self, records: &mut PageHashes, page: u64, byte: u8) -> bool {
            let bytes = [byte; PAGE];
            match records.verify(PageRun::one(page), &bytes) {
                Verification::Unloaded(leaf) => {
                    self.load(records, leaf);
                    records.verify(PageRun::one(page), &bytes) == Verification::Same
                }
                agreement => agreement == Verification::Same,
            }
        }
    }

    fn records() -> PageHashes {
        PageHashes::new(Secret::draw(), PAGE)
    }

    #[test]
    fn other_bytes_do_not_agree_and_the_same_do() {
        let mut records = records();
        let run = PageRun { first: 700, len: 2 };
        let mut bytes = vec![7; 8192];
        assert_eq!(records.verify(run, &bytes), Verification::Same, "nothing is known yet");
        records.insert(run, &bytes);
        assert_eq!(records.verify(run, &bytes), Verification::Same);
        bytes[8191] ^= 1;
        assert_eq!(records.verify(run, &bytes), Verification::Other);
        assert_eq!(records.verify(PageRun::one(700), &bytes[..PAGE]), Verification::Same);
        records.forget_from(701);
        assert_eq!(records.verify(run, &bytes), Verification::Same);
    }

    #[test]
    fn hashes_in_the_file_are_known_still() {
        let (mut records, mut file) = (records(), HashFileModel::default());
        for page in (0..100_000).step_by(100) {
            records.insert(PageRun::one(page), &[page as u8; PAGE]);
        }
        let before = records.bytes();
        file.shed_all(&mut records);
        assert!(records.bytes() < before / 100, "{} of {before}", records.bytes());
        for page in (0..100_000).step_by(100) {
            assert!(!file.agree(&mut records, page, !page as u8), "{page}");
            assert!(file.agree(&mut records, page, page as u8), "{page}");
        }
    }

    #[test]
    fn a_leaf_is_known_while_it_is_written_and_after_a_write_that_failed() {
        let mut records = records();
        records.insert(PageRun::one(3), &[3; PAGE]);
        let write = records.spill(usize::MAX).remove(0);
        assert_eq!(records.writing.len(), 1);
        assert_eq!(records.verify(PageRun::one(3), &[4; PAGE]), Verification::Other);
        // A newer hash is the one that counts, whichever way the write ends.
        records.insert(PageRun::one(3), &[5; PAGE]);
        records.written(write.leaf, write.number, false);
        assert_eq!(records.verify(PageRun::one(3), &[5; PAGE]), Verification::Same);
        assert_eq!(records.verify(PageRun::one(3), &[3; PAGE]), Verification::Other);
    }

    #[test]
    fn new_hashes_of_a_leaf_in_the_file_need_no_load() {
        let (mut records, mut file) = (records(), HashFileModel::default());
        records.insert(PageRun { first: 0, len: 2 }, &[1; 2 * PAGE]);
        file.shed_all(&mut records);
        records.insert(PageRun::one(1), &[9; PAGE]);
        assert_eq!(records.verify(PageRun::one(1), &[9; PAGE]), Verification::Same);
        assert_eq!(records.verify(PageRun::one(0), &[1; PAGE]), Verification::Unloaded(0));
        file.shed_all(&mut records);
        assert!(file.agree(&mut records, 0, 1) && file.agree(&mut records, 1, 9));
    }

    #[test]
    fn forgotten_hashes_come_back_by_no_load_and_no_write() {
        let (mut records, mut file) = (records(), HashFileModel::default());
        records.insert(PageRun { first: 0, len: 8 }, &vec![1; 8 * PAGE]);
        file.shed_all(&mut records);
        // While the leaf is in the file.
        records.forget_from(6);
        assert!(file.agree(&mut records, 6, 2) && !file.agree(&mut records, 5, 2));
        // While it is written.
        let write = records.spill(usize::MAX).remove(0);
        records.forget_from(4);
        file.write(&write);
        records.written(write.leaf, write.number, true);
        assert!(file.agree(&mut records, 4, 2) && !file.agree(&mut records, 3, 2));
        // While a new hash is beside those in the file.
        file.shed_all(&mut records);
        records.forget_from(2);
        records.insert(PageRun::one(5), &[7; PAGE]);
        file.shed_all(&mut records);
        assert!(file.agree(&mut records, 2, 2) && file.agree(&mut records, 3, 2));
        assert!(file.agree(&mut records, 5, 7) && file.agree(&mut records, 1, 1));
        // All of it.
        file.shed_all(&mut records);
        records.forget_from(0);
        records.insert(PageRun::one(7), &[8; PAGE]);
        file.shed_all(&mut records);
        assert!(
            (0..7).all(|page| file.agree(&mut records, page, 3)) && !file.agree(&mut records, 7, 3)
        );
    }

    #[test]
    fn the_newer_hash_counts_when_its_leaf_is_written_during_a_load() {
        for succeeds in [true, false] {
            let (mut records, mut file) = (records(), HashFileModel::default());
            records.insert(PageRun { first: 0, len: 2 }, &[1; 2 * PAGE]);
            file.shed_all(&mut records);
            records.insert(PageRun::one(0), &[2; PAGE]);
            assert_eq!(records.verify(PageRun::one(1), &[1; PAGE]), Verification::Unloaded(0));
            // The thread reads the leaf before it writes it.
            let write = records.spill(usize::MAX).remove(0);
            file.load(&mut records, 0);
            assert_eq!(
                records.verify(PageRun::one(0), &[2; PAGE]),
                Verification::Same,
                "during the write"
            );
            if succeeds {
                file.write(&write);
            }
            records.written(write.leaf, write.number, succeeds);
            assert_eq!(
                records.verify(PageRun::one(0), &[2; PAGE]),
                Verification::Same,
                "after the write"
            );
            file.shed_all(&mut records);
            assert!(file.agree(&mut records, 0, 2) && file.agree(&mut records, 1, 1));
            assert!(!file.agree(&mut records, 0, 1));
        }
    }

    #[test]
    fn hashes_that_were_given_up_are_said_to_be() {
        let mut records = records();
        records.insert(PageRun::one(600), &[1; PAGE]);
        assert!(records.lose() && !records.lose());
        assert_eq!(records.verify(PageRun::one(600), &[1; PAGE]), Verification::Lost);
        assert_eq!(records.verify(PageRun::one(0), &[1; PAGE]), Verification::Same);
        records.forget_from(512);
        assert_eq!(records.verify(PageRun::one(600), &[1; PAGE]), Verification::Same);
    }
}
