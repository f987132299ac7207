//! Which pages are read, and in which order.

use crate::data::Numbers;

/// How likely each page is to be read.
#[derive(Debug)]
pub(super) enum Pattern {
    /// All alike.
    Uniform {
        pages: usize,
    },
    Zipf(Zipf),
}

impl Pattern {
    /// The pages of a sample: other ones in each, the same on all sides.
    pub(super) fn pages(&self, sample: u64, count: usize) -> Vec<u32> {
        let mut numbers = Numbers(sample.wrapping_mul(0x1_0001).wrapping_add(17));
        (0..count).map(|_| self.next(&mut numbers)).collect()
    }

    fn next(&self, numbers: &mut Numbers) -> u32 {
        match self {
            Self::Uniform { pages } => numbers.below(*pages) as u32,
            Self::Zipf(zipf) => zipf.next(numbers),
        }
    }
}

/// Zipf's distribution: the page of rank `r` is read in proportion to `r` to the power of minus
/// `exponent`. Ranks lie scattered over the pages, as the hot records of a table do.
#[derive(Debug)]
pub(super) struct Zipf {
    /// By rank: the share of reads that go to this rank or one before it.
    shares: Vec<f64>,
    pages: Vec<u32>,
}

impl Zipf {
    pub(super) fn new(pages: usize, exponent: f64) -> Self {
        let mut sum = 0.0;
        let mut shares: Vec<f64> = (1..=pages)
            .map(|rank| {
                sum += (rank as f64).powf(-exponent);
                sum
            })
            .collect();
        for share in &mut shares {
            *share /= sum;
        }
        Self {
            shares,
            pages: Numbers(11).shuffled(pages).into_iter().map(|page| page as u32).collect(),
        }
    }

    fn next(&self, numbers: &mut Numbers) -> u32 {
        // 53 bits: as many as a float below 1 keeps.
        let place = (numbers.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let rank = self.shares.partition_point(|&share| share <= place);
        self.pages[rank.min(self.pages.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::{Pattern, Zipf};

    #[test]
    fn zipf_reads_the_first_ranks_as_often_as_it_should() {
        let pages = 10_000;
        let zipf = Zipf::new(pages, 0.99);
        let ranked = zipf.pages.clone();
        let mut counts = vec![0_usize; pages];
        let reads = 1_000_000;
        for page in Pattern::Zipf(zipf).pages(1, reads) {
            counts[page as usize] += 1;
        }
        let harmonic: f64 = (1..=pages).map(|rank| (rank as f64).powf(-0.99)).sum();
        for rank in [1, 2, 10, 100] {
            let want = reads as f64 * (rank as f64).powf(-0.99) / harmonic;
            let found = counts[ranked[rank - 1] as usize] as f64;
            assert!(
                (found - want).abs() < 6.0 * want.sqrt(),
                "rank {rank}: {found} reads, not {want}"
            );
        }
        // The hot pages are not neighbours.
        assert!(ranked[..100].windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == 1).count() < 5);
    }

    #[test]
    fn a_sample_repeats_and_no_two_are_the_same() {
        let pattern = Pattern::Uniform { pages: 1000 };
        assert_eq!(pattern.pages(3, 50), pattern.pages(3, 50));
        assert_ne!(pattern.pages(3, 50), pattern.pages(4, 50));
        assert!(pattern.pages(3, 5000).iter().all(|&page| page < 1000));
    }
}
