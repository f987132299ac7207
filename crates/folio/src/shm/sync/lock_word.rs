//! The word of a lock: its holder, and whether a thread waits. All changes of it are here, so that
//! a model can check them (`tests/models/lock_words.rs`).
//!
//! Zero is free. Else it is an owner (`owner.rs`), and the bit `WAITERS` says that someone waits
//! for it to change. Each step is one atomic operation; after any of them its process may be
//! killed.

use super::atomics::{AtomicU64, Ordering};

/// See the [module](self). No owner has this bit.
pub(crate) const WAITERS: u64 = 1 << 31;

/// See the [module](self).
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct LockWord(pub(crate) AtomicU64);

/// The result of an unlock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlocked {
    /// Nobody waits.
    Quietly,
    /// Someone waits, and is to be woken.
    Wake,
    /// Someone else's word is there: it was overwritten, or taken over. It is left alone.
    NotMine,
}

impl LockWord {
    pub(crate) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes the lock if it is free. `has_waited`: others may wait too, and the unlocking thread
    /// has to wake one.
    #[inline]
    pub(crate) fn try_lock(&self, me: u64, has_waited: bool) -> bool {
        let word = if has_waited { me | WAITERS } else { me };
        self.0.compare_exchange(0, word, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Asks the holder that was `seen` to wake a waiter. Returns the word then, if that holder
    /// still has it.
    pub(crate) fn announce(&self, seen: u64) -> Option<u64> {
        let wanted = seen | WAITERS;
        if seen == wanted {
            return Some(wanted);
        }
        self.0
            .compare_exchange(seen, wanted, Ordering::Relaxed, Ordering::Relaxed)
            .ok()
            .map(|_| wanted)
    }

    /// As [`announce`](Self::announce), for a thread that will not sleep on the word, and so has to
    /// look at it anew: whether that holder still has it. A word that names nobody has nobody to
    /// ask.
    pub(crate) fn announce_anew(&self, seen: u64) -> bool {
        seen & !WAITERS != 0
            && self
                .0
                .compare_exchange(seen, seen | WAITERS, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Takes the lock from a holder that is dead, if the word is still exactly what it left.
    pub(crate) fn take_over(&self, dead: u64, me: u64) -> bool {
        self.0.compare_exchange(dead, me | WAITERS, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Gives the lock back.
    #[inline]
    pub(crate) fn unlock(&self, me: u64) -> Unlocked {
        match self.0.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed) {
            Ok(_) => Unlocked::Quietly,
            Err(_) if self.unlock_waited(me) => Unlocked::Wake,
            Err(_) => Unlocked::NotMine,
        }
    }

    #[cold]
    fn unlock_waited(&self, me: u64) -> bool {
        self.0.compare_exchange(me | WAITERS, 0, Ordering::Release, Ordering::Relaxed).is_ok()
            // The bit was set before, and nobody takes it away: a failure is another holder.
            || self.0.compare_exchange(me, 0, Ordering::Release, Ordering::Relaxed).is_ok()
    }
}
