//! Times that are short: a reading of the processor's counter costs less than a call of the clock,
//! and the timed work takes no longer than a few of those.
//!
//! The counter may move in steps of 10 ns. Where that is much, several pieces of work are timed as
//! one.

use crate::measure::Cost;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// A point in time, in ticks.
#[inline]
pub(super) fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every x86-64 processor has the instruction, and Linux lets programs use it.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// How long a tick is, measured once.
fn nanoseconds() -> f64 {
    static LENGTH: OnceLock<f64> = OnceLock::new();
    *LENGTH.get_or_init(|| {
        let (clock, ticks) = (Instant::now(), now());
        while clock.elapsed() < Duration::from_millis(20) {}
        let passed = now().saturating_sub(ticks);
        clock.elapsed().as_nanos() as f64 / passed as f64
    })
}

/// Lets so many nanoseconds pass, without sleep.
#[inline]
pub(super) fn pass(time: f64) {
    if time > 0.0 {
        let (start, ticks) = (now(), (time / nanoseconds()) as u64);
        while now().saturating_sub(start) < ticks {
            std::hint::spin_loop();
        }
    }
}

/// How long each of a row of equal pieces of work took.
#[derive(Debug)]
pub(super) struct Times {
    ticks: Vec<u64>,
    last: u64,
}

impl Times {
    /// Room for so many pieces.
    pub(super) fn new(count: usize) -> Self {
        nanoseconds();
        Self { ticks: Vec::with_capacity(count), last: 0 }
    }

    /// Forgets all, and begins the first piece.
    pub(super) fn start(&mut self) {
        self.ticks.clear();
        self.last = now();
    }

    /// Begins the next piece anew: the time since the last one is not counted.
    pub(super) fn skip(&mut self) {
        self.last = now();
    }

    /// Ends a piece, and begins the next.
    #[inline]
    pub(super) fn lap(&mut self) {
        let now = now();
        self.ticks.push(now.saturating_sub(self.last));
        self.last = now;
    }

    /// The median piece and the hundredth that took longest, in nanoseconds for each of a piece's
    /// `parts`.
    pub(super) fn cost(&mut self, parts: f64) -> Cost {
        Cost { typical: self.at(0.5, parts), tail: Some(self.at(0.99, parts)) }
    }

    /// The time that a share of the pieces took at most.
    pub(super) fn at(&mut self, share: f64, parts: f64) -> f64 {
        self.ticks.sort_unstable();
        let place =
            ((self.ticks.len() as f64 * share) as usize).min(self.ticks.len().saturating_sub(1));
        self.ticks.get(place).map_or(f64::NAN, |&ticks| ticks as f64 * nanoseconds() / parts)
    }
}

#[cfg(test)]
mod tests {
    use super::Times;
    use std::time::Duration;

    #[test]
    fn a_lap_is_as_long_as_the_clock_says() {
        let mut times = Times::new(1);
        times.start();
        std::thread::sleep(Duration::from_millis(20));
        times.lap();
        let cost = times.cost(1.0);
        // A sleep is never shorter than asked for.
        assert!(cost.typical >= 19e6 && cost.typical < 60e9, "{cost:?}");
    }

    #[test]
    fn one_of_a_hundred_is_the_tail() {
        let mut times = Times { ticks: (0..200).rev().collect(), last: 0 };
        let cost = times.cost(1.0);
        let ratio = cost.tail.unwrap() / cost.typical;
        assert!((ratio - 198.0 / 100.0).abs() < 1e-9, "{cost:?}");
    }
}
