//! Taking turns. In each round every side runs once, the order turning from round to round, so that
//! a machine that speeds up or slows down does so for all of them.
//!
//! The ratio of two sides is the median of the ratios of each round: the two samples of a round are
//! neighbours in time, so what disturbs both cancels, which it does not in the ratio of two
//! medians.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// The cost of a sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) typical: f64,
    /// The least cost of the dearest hundredth of its parts, where each was timed.
    pub(crate) tail: Option<f64>,
}

impl From<f64> for Cost {
    fn from(typical: f64) -> Self {
        Self { typical, tail: None }
    }
}

/// One way of doing the work of a case. It returns the cost of a sample; its untimed work is its
/// own affair.
pub(crate) struct Side<'a> {
    pub(crate) name: &'static str,
    sample: Box<dyn FnMut() -> Result<Cost> + 'a>,
}

impl<'a> Side<'a> {
    pub(crate) fn new<C: Into<Cost>>(
        name: &'static str,
        mut sample: impl FnMut() -> Result<C> + 'a,
    ) -> Self {
        Self { name, sample: Box::new(move || sample().map(Into::into)) }
    }
}

/// Rounds that are run even if they take longer than was planned.
const LEAST: usize = 3;

/// The cost of every side in every round.
#[derive(Debug)]
pub(crate) struct Rounds {
    names: Vec<&'static str>,
    /// By side, then by round.
    costs: Vec<Vec<Cost>>,
}

/// Which part of a cost is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Typical,
    Tail,
}

/// Two sides compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub(crate) folio: f64,
    pub(crate) peer: f64,
    pub(crate) ratio: f64,
    /// Half of the rounds lie as near as this to the ratio.
    pub(crate) spread: f64,
    pub(crate) rounds: usize,
}

/// A round that does not count: sides that keep something from sample to sample have it afterwards.
pub(crate) fn warm_up(sides: &mut [Side<'_>]) -> Result<()> {
    sides.iter_mut().try_for_each(|side| (side.sample)().map(drop))
}

/// Runs the sides in turn for so many seconds.
pub(crate) fn take_turns(sides: &mut [Side<'_>], seconds: f64) -> Result<Rounds> {
    let count = sides.len();
    let mut costs = vec![Vec::new(); count];
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut round = 0;
    while round < LEAST || Instant::now() < end {
        for turn in 0..count {
            // Every side gets every place, and every other side before it.
            let turn = if round % 2 == 0 { turn } else { count - 1 - turn };
            let which = (turn + round / 2) % count;
            costs[which].push((sides[which].sample)()?);
        }
        round += 1;
    }
    Ok(Rounds { names: sides.iter().map(|side| side.name).collect(), costs })
}

impl Rounds {
    /// By round. Where no part was timed, the tail is no number.
    fn costs(&self, name: &str, part: Part) -> Vec<f64> {
        let side = self.names.iter().position(|&other| other == name);
        let costs = &self.costs[side.expect("pairs name sides of their own group")];
        let of = |cost: &Cost| match part {
            Part::Typical => cost.typical,
            Part::Tail => cost.tail.unwrap_or(f64::NAN),
        };
        costs.iter().map(of).collect()
    }

    /// The cost of a side.
    pub(crate) fn cost(&self, name: &str) -> f64 {
        median(self.costs(name, Part::Typical).into_iter())
    }

    /// Which of these sides cost least.
    pub(crate) fn cheapest(&self, names: &[&'static str]) -> Option<&'static str> {
        names.iter().copied().min_by(|one, other| self.cost(one).total_cmp(&self.cost(other)))
    }

    /// Compares two sides by name.
    pub(crate) fn compare(&self, folio: &str, peer: &str) -> Comparison {
        self.compare_part(folio, peer, Part::Typical)
    }

    /// Compares one part of the costs of two sides.
    pub(crate) fn compare_part(&self, folio: &str, peer: &str, part: Part) -> Comparison {
        let (folio, peer) = (self.costs(folio, part), self.costs(peer, part));
        let ratios: Vec<f64> = folio.iter().zip(&peer).map(|(folio, peer)| folio / peer).collect();
        let ratio = median(ratios.iter().copied());
        Comparison {
            folio: median(folio.iter().copied()),
            peer: median(peer.iter().copied()),
            ratio,
            spread: median(ratios.iter().map(|other| (other - ratio).abs())),
            rounds: ratios.len(),
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { values[half] } else { f64::midpoint(values[half - 1], values[half]) }
}

/// The processor time that `work` takes, in nanoseconds, for each of `count` equal parts. The
/// kernel's part of it is included; waiting while other programs run is not.
pub(crate) fn busy<R>(count: usize, work: impl FnOnce() -> Result<R>) -> Result<f64> {
    let start = thread_time();
    let result = work()?;
    let time = thread_time().saturating_sub(start);
    std::hint::black_box(result);
    Ok(time.as_nanos() as f64 / count as f64)
}

/// The time that passes while `work` is done, in nanoseconds, for each of `count` equal parts: for
/// work that waits for a disk.
pub(crate) fn passing<R>(count: usize, work: impl FnOnce() -> Result<R>) -> Result<f64> {
    let start = Instant::now();
    let result = work()?;
    let time = start.elapsed();
    std::hint::black_box(result);
    Ok(time.as_nanos() as f64 / count as f64)
}

/// The processor time that this thread has used.
fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` has room for the answer. The clock exists on every Linux, so the call cannot
    // fail.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::{Cost, Part, Rounds, Side, median, take_turns, warm_up};

    #[test]
    fn the_ratio_is_the_median_of_the_rounds() {
        // The machine slows down tenfold after the second round: the ratio of the medians would be
        // 0.1 or 10.
        let rounds = Rounds {
            names: vec!["folio", "peer"],
            costs: [[1.0, 2.0, 20.0, 10.0, 10.0], [2.0, 4.0, 40.0, 20.0, 5.0]]
                .map(|costs| costs.map(Cost::from).to_vec())
                .to_vec(),
        };
        let found = rounds.compare("folio", "peer");
        assert_eq!((found.ratio.to_string(), found.rounds), ("0.5".to_owned(), 5));
        assert_eq!(rounds.cheapest(&["folio", "peer"]), Some("peer"));
        assert_eq!(rounds.cheapest(&[]), None);
        assert_eq!(median([3.0, 1.0, 2.0, 9.0].into_iter()).to_string(), "2.5");
    }

    #[test]
    fn tails_are_compared_with_tails() {
        let cost = |typical, tail| Cost { typical, tail: Some(tail) };
        let costs = vec![vec![cost(1.0, 9.0)], vec![cost(2.0, 3.0)]];
        let rounds = Rounds { names: vec!["folio", "peer"], costs };
        assert_eq!(rounds.compare("folio", "peer").ratio.to_string(), "0.5");
        let tails = rounds.compare_part("folio", "peer", Part::Tail);
        assert_eq!(
            (tails.folio.to_string(), tails.ratio.to_string()),
            ("9".to_owned(), "3".to_owned())
        );
    }

    #[test]
    fn every_side_is_first_in_turn() {
        let order = std::cell::RefCell::new(Vec::new());
        let side = |name: &'static str| {
            let order = &order;
            Side::new(name, move || {
                order.borrow_mut().push(name);
                Ok(1.0)
            })
        };
        let mut sides = [side("a"), side("b"), side("c")];
        warm_up(&mut sides).unwrap();
        take_turns(&mut sides, 0.0).unwrap();
        drop(sides);
        let order = order.into_inner();
        let rounds: Vec<String> = order.chunks(3).map(<[&str]>::concat).collect();
        assert_eq!(rounds, ["abc", "abc", "cba", "bca"]);
    }
}
