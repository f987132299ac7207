//! How one side tells the other that it sleeps, so that the other makes no system call while it
//! does not.
//!
//! The sleeper announces itself in a word, checks once more whether it has to sleep, and sleeps on
//! the word. A publisher reads the word after it has published something. If the word announces a
//! sleeper, the publisher clears it and wakes. Each side stores first and looks then, which takes a
//! full fence on both. A fence for each message would cost more than the message: it waits until
//! the message's lines have come from the other processor. So the publisher has none. Its look can
//! come before its store is seen, but not by longer than a processor keeps a store to itself, which
//! is well below a microsecond; the sleeper looks for [`SETTLE`] after it has announced that it
//! will sleep. A wake that is missed against all odds, and one that a killed publisher leaves
//! undone, is made up for when the sleeper's slice ends, at most 100 milliseconds later. A sleeper
//! that waits for a notifier instead learns it when the notifier's timer goes off, every half
//! second, or when a process ends that it watches. The same holds for a publisher that reaches
//! neither the notifier's socket nor its FIFO.
//!
//! Several threads may sleep on one word. Clearing the flags also bumps a wake counter in the upper
//! bits. Without it, a thread about to sleep could mistake a later waiter's flag for its own and
//! miss the wake.
//!
//! (The barrier for this is membarrier(2) on the sleeper's side. It costs 9 µs where the other
//! processor is busy, and takes them from it.)
//!
//! `tests/models/channel_ring.rs` checks the protocol with the fence in place of the time.

use super::atomics::{AtomicU32, Ordering, fence, publisher_fence};
use std::time::{Duration, Instant};

/// How long a sleeper looks after it has announced itself.
const SETTLE: Duration = Duration::from_micros(2);

/// The other side sleeps on the word.
pub(crate) const ASLEEP: u32 = 1;
/// The other side wants its notifier rung.
pub(crate) const NOTIFIED: u32 = 2;
/// The flags that can be announced. The bits above count the wakes.
const HOW: u32 = ASLEEP | NOTIFIED;

/// The word between two sides: how the sleeping side wants to be notified. It lies in shared
/// memory, and may hold any value.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct EventCount(pub(crate) AtomicU32);

impl EventCount {
    /// Announces how this side wants to be notified. It looks once more afterwards. Returns the
    /// word then.
    pub(crate) fn prepare_wait(&self, how: u32) -> u32 {
        let word = self.0.fetch_or(how, Ordering::SeqCst) | how;
        fence(Ordering::SeqCst);
        word
    }

    /// Announces, and then looks for as long as it takes until the announcement is surely seen.
    /// Returns the word then, or `None` if `is_ready` said that there is no need to sleep.
    pub(crate) fn prepare_wait_and_settle(
        &self,
        how: u32,
        mut is_ready: impl FnMut() -> bool,
    ) -> Option<u32> {
        let word = self.prepare_wait(how);
        let started = Instant::now();
        loop {
            if is_ready() {
                return None;
            }
            if started.elapsed() >= SETTLE {
                return Some(word);
            }
            std::hint::spin_loop();
        }
    }

    /// Takes an announcement back.
    pub(crate) fn cancel_wait(&self, how: u32) {
        debug_assert!(how & !HOW == 0, "the count is no announcement");
        self.0.fetch_and(!how, Ordering::Relaxed);
    }

    /// For the side that has published something: how the other side wants to be notified, which
    /// this clears. Mostly nothing.
    #[inline]
    pub(crate) fn notify(&self) -> u32 {
        publisher_fence();
        let seen = self.0.load(Ordering::Relaxed);
        if seen & HOW == 0 { 0 } else { self.clear(seen) }
    }

    #[cold]
    fn clear(&self, seen: u32) -> u32 {
        self.0.swap((seen & !HOW).wrapping_add(HOW + 1), Ordering::AcqRel) & HOW
    }
}
