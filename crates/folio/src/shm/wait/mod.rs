//! The one way in which threads wait for other processes: spin a little, then park on a futex.
//!
//! No park is for ever. After a *slice* a waiter looks at everything anew, and asks whether the one
//! it waits for still lives. So a process that is killed at any instruction (between a change and
//! the wake that belongs to it, or just after it took that wake) can delay others by a slice, and
//! never hang them.

// | file | subject |
// | --- | --- |
// | this one | the policy: how threads wait |
// | `eventcount` | the word by which one side of a ring announces its sleep |
// | `notifier`, `future` | a descriptor to poll, and futures |
// | `poll_handle` | the notifier of a ring's side |
// | `notifier_word`, `process_notifier` | the wake of a process's futures for locks and events |

pub(super) mod eventcount;
pub(super) mod future;
pub(super) mod notifier;
pub(super) mod notifier_word;
pub(super) mod poll_handle;
pub(super) mod process_notifier;

use super::atomics;
use crate::error::{Errno, Error, Result};
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::header::SegmentKind;
use crate::sys::futex;
use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The first park's length, and the longest: each is twice the one before.
const FIRST_SLICE: Duration = Duration::from_millis(20);
const LONGEST_SLICE: Duration = Duration::from_millis(100);
/// Rounds of spinning, at least and at most, by how it went before.
const FEWEST: u32 = 8;
const MOST: u32 = 256;
/// Rounds of a wait that never parks, between two looks at the clock and at the processes that it
/// waits for.
const ROUNDS_A_LOOK: u32 = 4096;

/// Waits of this process that parked.
static PARKS: AtomicU64 = AtomicU64::new(0);

/// How to wait.
///
/// A wait in a segment that was made or opened by its name ends with ESTALE within a slice (100
/// milliseconds) after that name was removed, or another file got it: no process that comes by the
/// name can end the wait. The same holds for futures and descriptors to poll, within a second. A
/// wait of no time, and a `try_` call of a lock, do not ask. See
/// [`SegmentOptions::outlive_name`](crate::shm::SegmentOptions::outlive_name).
///
/// ```
/// use folio::shm::{Locked, Mutex, Segment, Wait};
/// use std::time::Duration;
///
/// let number = Segment::<Mutex<u64>>::anonymous()?;
/// let held = number.shared_ref().lock_with(Wait::new().timeout(Duration::from_secs(1)))?;
/// # drop(held);
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Wait {
    spin: Spin,
    timeout: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Spin {
    /// As long as it was worth it lately, in this thread.
    #[default]
    Adaptive,
    Rounds(u32),
    Always,
}

impl Wait {
    /// Spins for a few microseconds at most, and less where that was of no use lately; then parks.
    /// Without a timeout.
    pub const fn new() -> Self {
        Self { spin: Spin::Adaptive, timeout: None }
    }

    /// Gives up after this time, with ETIMEDOUT. Zero is a try.
    pub const fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Spins this many rounds (a `PAUSE` each, some ten nanoseconds) before it parks; zero parks at
    /// once.
    pub const fn spin(mut self, rounds: u32) -> Self {
        self.spin = Spin::Rounds(rounds);
        self
    }

    /// Never parks: the shortest wait there is, at the price of a processor.
    pub const fn always_spin(mut self) -> Self {
        self.spin = Spin::Always;
        self
    }

    /// How often waits of this process have parked, in all segments;
    /// [`Segment::parks`](crate::shm::Segment::parks) counts those in one.
    pub fn parks() -> u64 {
        PARKS.load(Ordering::Relaxed)
    }

    /// The same, for a wait of several steps since `start`.
    pub(crate) fn since(mut self, start: Option<Instant>) -> Self {
        let spent = start.map_or(Duration::ZERO, |start| start.elapsed());
        self.timeout = self.timeout.map(|time| time.saturating_sub(spent));
        self
    }

    /// Whether it never parks: then nobody needs to be told that it might.
    pub(crate) fn never_parks(&self) -> bool {
        self.spin == Spin::Always
    }

    /// Now, if there is a timeout to count from it.
    pub(crate) fn start(&self) -> Option<Instant> {
        self.timeout.map(|_| Instant::now())
    }

    /// Waits until `look` says that it is done. It parks on `word`.
    ///
    /// # Errors
    ///
    /// ETIMEDOUT; an error of `look`; those of [`Attachment::check`].
    pub(crate) fn until<R>(
        &self,
        attachment: &Attachment,
        call: &'static str,
        word: &AtomicU32,
        look: impl FnMut(WaitPhase) -> Result<Check<R>>,
    ) -> Result<R> {
        self.until_counted(attachment, call, word, &mut 0, look)
    }

    /// The same, which counts how often it parked.
    ///
    /// # Errors
    ///
    /// As [`until`](Self::until).
    pub(crate) fn until_counted<R>(
        &self,
        attachment: &Attachment,
        call: &'static str,
        word: &AtomicU32,
        parks: &mut u64,
        mut look: impl FnMut(WaitPhase) -> Result<Check<R>>,
    ) -> Result<R> {
        let deadline = self.timeout.map(|time| Instant::now().checked_add(time));
        let is_over = |now: Instant| matches!(deadline, Some(Some(deadline)) if now >= deadline);
        let over = || Err(timed_out(attachment, call));
        if self.spin == Spin::Always {
            let mut asked = Instant::now();
            loop {
                attachment.check()?;
                for _ in 0..ROUNDS_A_LOOK {
                    if let Check::Done(result) = look(WaitPhase::Spin)? {
                        return Ok(result);
                    }
                    std::hint::spin_loop();
                }
                if let Check::Done(result) = look(WaitPhase::Park { ask: true })? {
                    return Ok(result);
                }
                let now = Instant::now();
                if now - asked >= LONGEST_SLICE {
                    asked = now;
                    attachment.check_name()?;
                }
                if is_over(now) {
                    return over();
                }
            }
        }
        for _ in 0..self.rounds() {
            if let Check::Done(result) = look(WaitPhase::Spin)? {
                self.learn(true);
                return Ok(result);
            }
            std::hint::spin_loop();
        }
        self.learn(false);
        let (mut slice, mut ask, mut again) = (FIRST_SLICE, true, 0_u32);
        // Parks that others end early add up to a slice, too: a waiter among many that come and go
        // still asks.
        let mut asked = Instant::now();
        let (mut has_parked, mut ask_for_name) = (false, false);
        loop {
            attachment.check()?;
            let value = match look(WaitPhase::Park { ask })? {
                Check::Done(result) => return Ok(result),
                Check::Sleep(value) => value,
                Check::Again => {
                    // The word changed just now; a process that changes it all the time does not
                    // get past the deadline.
                    again = again.wrapping_add(1);
                    if again.is_multiple_of(64) {
                        ask |= asked.elapsed() >= slice;
                        if is_over(Instant::now()) {
                            return over();
                        }
                    }
                    std::hint::spin_loop();
                    continue;
                }
            };
            let start = Instant::now();
            let is_over = is_over(start);
            // After the look: nothing that has come already is lost to the error. Those who wait
            // for less than a slice, again and again, ask each time.
            if std::mem::take(&mut ask_for_name) || is_over && has_parked {
                attachment.check_name()?;
            }
            if is_over {
                return over();
            }
            has_parked = true;
            let left = deadline
                .flatten()
                .map_or(slice, |deadline| deadline.saturating_duration_since(start));
            PARKS.fetch_add(1, Ordering::Relaxed);
            attachment.parks.fetch_add(1, Ordering::Relaxed);
            *parks += 1;
            futex::wait_shared(word, value, slice.min(left));
            ask = asked.elapsed() >= slice;
            if ask {
                asked = Instant::now();
                slice = (slice * 2).min(LONGEST_SLICE);
                attachment.check_file()?;
                ask_for_name = true;
            }
        }
    }

    fn rounds(&self) -> u32 {
        match self.spin {
            Spin::Rounds(rounds) => rounds,
            // With one processor a spinning waiter is in the way of the process that it waits for.
            Spin::Adaptive if processors() > 1 => ROUNDS.get(),
            Spin::Adaptive | Spin::Always => 0,
        }
    }

    fn learn(&self, was_worth_it: bool) {
        if self.spin == Spin::Adaptive {
            let rounds = ROUNDS.get();
            ROUNDS.set(if was_worth_it {
                (rounds * 2).min(MOST)
            } else {
                (rounds / 2).max(FEWEST)
            });
        }
    }
}

thread_local! {
    /// How long this thread spins before it parks.
    static ROUNDS: Cell<u32> = const { Cell::new(MOST) };
}

fn processors() -> usize {
    /// Zero until it was asked for. No lock: a child that is forked while another thread holds it
    /// would wait for ever.
    static PROCESSORS: AtomicUsize = AtomicUsize::new(0);
    match PROCESSORS.load(Ordering::Relaxed) {
        0 => {
            let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
            PROCESSORS.store(count, Ordering::Relaxed);
            count
        }
        count => count,
    }
}

/// When a waiter is asked to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitPhase {
    /// Between two rounds of spinning: a load or two.
    Spin,
    /// Before it parks. With `ask`, it has waited a slice, or is about to for the first time: time
    /// to ask whether the one it waits for lives.
    Park { ask: bool },
}

/// The result of a waiter's look.
#[derive(Debug)]
pub(crate) enum Check<R> {
    Done(R),
    /// Nothing yet: sleep while the word has this value.
    Sleep(u32),
    /// It changed while it was looked at.
    Again,
}

#[cold]
fn timed_out(attachment: &Attachment, call: &'static str) -> Error {
    let awaited = match (attachment.header_fields().kind, call) {
        (SegmentKind::Channel, call) if call.starts_with("send") => {
            "whether the receiver takes messages"
        }
        (SegmentKind::Channel, _) => "whether a sender sends messages",
        (SegmentKind::Log, call) if call.starts_with("append") => "which process writes the log",
        (SegmentKind::Log, _) => "whether the writer appends entries",
        (_, "lock" | "read" | "write") => "which process holds the lock",
        _ => "whether a process notifies those that wait",
    };
    // The command lists segments that have a name.
    let names =
        if attachment.path().is_some() { " (`folio shm ls` names the processes)" } else { "" };
    Error::rule_as(
        Errno::TIMEDOUT,
        call,
        attachment.subject(),
        "the time that was given for it is over",
        format!("wait longer, or find out {awaited}{names}"),
    )
}

/// Whether an error is that of a wait whose time was over.
pub(crate) fn is_timeout(error: &Error) -> bool {
    error.errno() == Errno::TIMEDOUT
        && error.call_error().is_some_and(|refusal| !refusal.by_kernel())
}

/// The half of a word of 64 bits that holds its low bits: a futex can wait for it.
pub(crate) fn low_half(word: &AtomicU64) -> &AtomicU32 {
    let halves = std::ptr::from_ref(word).cast::<AtomicU32>();
    let low = usize::from(cfg!(target_endian = "big"));
    // SAFETY: inside the word, aligned; nothing loads or stores by it: only its address is used, by
    // the kernel.
    unsafe { &*halves.add(low) }
}

/// Wakes up to `count` threads, of any process, that parked on the word.
pub(crate) fn wake(word: &AtomicU32, count: u32) {
    futex::wake_shared(word, count);
}

#[cfg(test)]
mod tests {
    use super::{Check, Wait, WaitPhase};
    use crate::shm::Segment;
    use std::sync::atomic::AtomicU32;
    use std::time::Duration;

    #[test]
    fn a_waiter_that_is_woken_all_the_time_still_asks_whether_the_holder_lives() {
        let segment = Segment::<u64>::anonymous().unwrap();
        let place = segment.shared_ref();
        let word = AtomicU32::new(0);
        let mut asked = 0;
        let wait = Wait::new().spin(0).timeout(Duration::from_secs(30));
        wait.until(place.attachment(), "wait", &word, |phase| {
            asked += u32::from(phase == WaitPhase::Park { ask: true });
            // The first question is before the first park. No park lasts: the word has another
            // value.
            Ok(if asked == 3 { Check::Done(()) } else { Check::Sleep(1) })
        })
        .unwrap();
    }
}
