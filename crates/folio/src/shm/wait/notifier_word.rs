//! The word of a notifier: its number, and whether it is armed. Arming and disarming are here, so
//! that a model can check them beside a lock's word (`tests/models/notifier.rs`). (The slots of
//! channels and logs are armed in `notifier`: there `eventcount` comes between, with a time in
//! place of fences.)
//!
//! A waiter arms the word first, and then examines the value that it waits for, and announces there
//! that it waits (`WAITERS` of a lock, `WAITED` of an event). A thread that changes the value does
//! so first, and then, if there is a waiter, checks the notifiers. Between the two steps each has a
//! full fence, so one of the two sees the other. Neither fence is on a way that makes no system
//! call. The arming holds for one signal: the thread that clears it signals. A waker that is killed
//! between the two, or before it looks, leaves a notifier silent until its timer goes off.

use super::atomics::{AtomicU64, Ordering, fence};

/// The notifier wants to be rung: once. Numbers of notifiers are without it.
pub(crate) const ARMED: u64 = 1;

/// For the owner of the notifier: from here on every notification signals. The looks come after
/// this.
pub(crate) fn arm(word: &AtomicU64, number: u64) {
    word.store(number | ARMED, Ordering::Release);
    fence(Ordering::SeqCst);
}

/// For who has changed what others wait for, before it looks at their notifiers.
pub(crate) fn check_notifiers() {
    fence(Ordering::SeqCst);
}

/// The number of an armed notifier. It is not armed any more, and the caller signals it.
pub(crate) fn disarm(word: &AtomicU64) -> Option<u64> {
    let armed = word.load(Ordering::Acquire);
    let number = armed & !ARMED;
    let mine = armed != number
        && word.compare_exchange(armed, number, Ordering::AcqRel, Ordering::Relaxed).is_ok();
    mine.then_some(number)
}

/// For who took the arming away, and could not ring: others may.
pub(crate) fn arm_again(word: &AtomicU64, number: u64) {
    let _ = word.compare_exchange(number, number | ARMED, Ordering::AcqRel, Ordering::Relaxed);
}
