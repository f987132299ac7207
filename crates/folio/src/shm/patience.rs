//! How long one waits, and how: looking again and again at first, then asleep in slices that grow, after each of which it is asked
//! whether whoever is waited for still lives.

use super::attachment::Attachment;
use super::doze::{ASLEEP, Doze, SETTLE};
use crate::error::{Errno, Error, Result, Subject};
use crate::sys::futex;
use std::time::{Duration, Instant};

/// The first slice of sleep, and the longest.
const SLICE: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(100);
/// Looks between two of the clock.
const LOOKS: u32 = 64;

/// How to wait for another process: for how long it looks before it sleeps, and for how long in all.
///
/// Looking takes a processor, and costs the other side nothing; it sees what comes within about a tenth of a microsecond. Sleeping
/// costs both sides a system call or two, and some microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    spin: Duration,
    limit: Option<Duration>,
}

impl Wait {
    /// Looks for 50 µs, then sleeps; waits as long as the other side lives.
    pub const fn new() -> Self {
        Self { spin: Duration::from_micros(50), limit: None }
    }

    /// Looks for `time` before it sleeps. Zero: sleeps at once. [`Duration::MAX`]: never sleeps.
    #[must_use]
    pub const fn spin(self, time: Duration) -> Self {
        Self { spin: time, ..self }
    }

    /// Ends with ETIMEDOUT after `time`.
    #[must_use]
    pub const fn limit(self, time: Duration) -> Self {
        Self { limit: Some(time), ..self }
    }
}

impl Default for Wait {
    fn default() -> Self {
        Self::new()
    }
}

/// One wait, as it goes on.
#[derive(Debug)]
pub(crate) struct Patience {
    wait: Wait,
    looks: u32,
    started: Option<Instant>,
    slice: Duration,
    /// It is past looking.
    drowsy: bool,
    slept: u64,
    /// When it was last asked whether the other side lives, as time since the start.
    asked: Duration,
}

/// What to do next.
pub(crate) enum Round {
    /// Look again.
    Spin,
    /// Find out whether who is waited for lives, and look again.
    Ask,
    /// Sleep for a slice, then look again; before, if `ask`, find out whether who is waited for lives.
    Sleep { slice: Duration, ask: bool },
}

impl Patience {
    pub(crate) fn new(wait: Wait) -> Self {
        Self { wait, looks: 0, started: None, slice: SLICE, drowsy: false, slept: 0, asked: Duration::ZERO }
    }

    /// How often it slept.
    pub(crate) fn slept(&self) -> u64 {
        self.slept
    }

    /// Counts a sleep.
    pub(crate) fn count(&mut self) {
        self.slept += 1;
    }

    /// Sleeps until the other side rouses this one, or for a slice, unless `is_ready` says that there is no need to. Whether it
    /// slept.
    pub(crate) fn sleep(&mut self, doze: &Doze, slice: Duration, mut is_ready: impl FnMut() -> bool) -> bool {
        let seen = doze.announce(ASLEEP);
        if settle(&mut is_ready) {
            return false;
        }
        self.count();
        futex::wait_shared(&doze.0, seen, slice);
        true
    }

    /// To be called when a look has found nothing.
    #[inline]
    pub(crate) fn next(&mut self, attachment: &Attachment, what: &'static str) -> Result<Round> {
        self.looks = self.looks.wrapping_add(1);
        if !self.looks.is_multiple_of(LOOKS) && !self.drowsy && !self.wait.spin.is_zero() {
            return Ok(Round::Spin);
        }
        self.look_at_the_clock(attachment, what)
    }

    fn look_at_the_clock(&mut self, attachment: &Attachment, what: &'static str) -> Result<Round> {
        attachment.check()?;
        let now = Instant::now();
        let gone = now - *self.started.get_or_insert(now);
        if let Some(limit) = self.wait.limit
            && gone >= limit
        {
            return Err(timed_out(what, limit));
        }
        if gone < self.wait.spin {
            // A side that never sleeps finds out about deaths here.
            let ask = gone > self.asked + SLICE;
            self.asked = if ask { gone } else { self.asked };
            return Ok(if ask { Round::Ask } else { Round::Spin });
        }
        let left = self.wait.limit.map_or(Duration::MAX, |limit| limit.saturating_sub(gone));
        let slice = self.slice.min(left);
        let ask = self.drowsy;
        if ask {
            self.slice = (self.slice * 2).min(LONGEST);
        }
        self.drowsy = true;
        Ok(Round::Sleep { slice, ask })
    }
}

/// Looks until an announcement has surely been seen. Whether `is_ready` said so first.
pub(crate) fn settle(is_ready: &mut impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if is_ready() {
            return true;
        }
        if started.elapsed() >= SETTLE {
            return false;
        }
        std::hint::spin_loop();
    }
}

#[cold]
fn timed_out(what: &'static str, limit: Duration) -> Error {
    Error::rule_as(
        Errno::TIMEDOUT,
        "wait",
        Subject::named(what).with_detail(format!("{limit:?}")),
        "it did not come within the time that was set",
        "wait longer, or look whether the other process still works",
    )
}
