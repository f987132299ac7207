//! A queue whose one reader sleeps while it is empty. A sender raises the signal, and only if the
//! reader sleeps.
//!
//! `tests/models/command_queue.rs` checks the protocol under every order of steps.

use super::atomics::{AtomicBool, AtomicU64, Mutex, Ordering};
use std::sync::PoisonError;

/// The signal that wakes the reader. A signal that comes before the sleep ends the sleep at once.
pub(crate) trait WakeSignal {
    fn raise(&self);

    /// Takes what was rung, and says how often.
    fn clear(&self) -> u64;
}

/// See the module.
pub(crate) struct WakeQueue<T, B> {
    queue: Mutex<Vec<T>>,
    /// Whether the reader sleeps, or is about to: else it looks by itself.
    asleep: AtomicBool,
    /// How often senders that have seen a sleep have still to ring. Only the reader uses it.
    owed: AtomicU64,
    bell: B,
}

impl<T, B: WakeSignal> WakeQueue<T, B> {
    pub(crate) fn new(bell: B) -> Self {
        let (asleep, owed) = (AtomicBool::new(false), AtomicU64::new(0));
        Self { queue: Mutex::new(Vec::new()), asleep, owed, bell }
    }

    pub(crate) fn signal(&self) -> &B {
        &self.bell
    }

    pub(crate) fn send(&self, message: T) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            self.bell.raise();
        }
    }

    /// Takes what has come.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    /// Says that the reader is about to sleep; whether it may: nothing has come.
    pub(crate) fn may_sleep(&self) -> bool {
        // All that is done to the flag reads what was done before: a sender that comes after this
        // finds it set.
        self.asleep.swap(true, Ordering::SeqCst);
        let empty = self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !empty {
            self.awake();
        }
        empty
    }

    /// The reader is awake.
    pub(crate) fn awake(&self) {
        let rung = u64::from(!self.asleep.swap(false, Ordering::SeqCst));
        // A ring that is left would end every later sleep at once.
        let mut owed = self.owed.load(Ordering::Relaxed) + rung;
        if owed > 0 {
            owed = owed.saturating_sub(self.bell.clear());
        }
        self.owed.store(owed, Ordering::Relaxed);
    }
}
