//! The word of a bell: its number, and whether it wants to be rung. How it is armed and how that is
//! taken away is here, so that a model can check it beside a lock's word
//! (`tests/models/notifier.rs`). (The cords of channels and logs are armed in `bell`: there `doze`
//! comes between, with a time in place of fences.)
//!
//! Who waits arms the word first, and then looks at what it waits for, and says there that it waits
//! (`WAITERS` of a lock, `WAITED` of an event); who changes that does so first, and then, if
//! someone waits, looks at the bells. Between the two steps each has a full fence, so one of the
//! two sees the other. Neither fence is on a way that makes no system call. The arming holds for
//! one ring: who takes it away rings. A waker that is killed between the two, or before it looks,
//! leaves a bell silent until it rings by itself.

use super::atomics::{AtomicU64, Ordering, fence};

/// The bell wants to be rung: once. Numbers of bells are without it.
pub(crate) const ARMED: u64 = 1;

/// For who hears the bell: from here on whoever pulls it rings. The looks come after this.
pub(crate) fn arm(word: &AtomicU64, number: u64) {
    word.store(number | ARMED, Ordering::Release);
    fence(Ordering::SeqCst);
}

/// For who has changed what others wait for, before it looks at their bells.
pub(crate) fn check_notifiers() {
    fence(Ordering::SeqCst);
}

/// The number of a bell that is armed. It is not any more, and who is told so rings.
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
