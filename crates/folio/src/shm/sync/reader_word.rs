//! The word of a process that reads under an `RwLock`: which claim of its slot, and how many of its
//! threads. All that changes it is here, so that a model can check it beside the writer's word
//! (`tests/models/lock_words.rs`).
//!
//! The upper half is the participant's generation, so that the count of a dead one counts for
//! nothing. Only its own process changes it, but for a writer that clears a dead reader's count.

use super::atomics::{AtomicU64, Ordering, fence};
use super::lock_word::LockWord;

/// Readers of one process at a time, at most.
pub(crate) const MOST: u64 = 1 << 30;
const COUNT: u64 = 0xffff_ffff;

/// See the [module](self).
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct ReaderWord(pub(crate) AtomicU64);

/// The result for a reader that counted itself in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entered {
    /// It reads.
    Reading,
    /// A writer has the lock, or waits for it. It is counted in, and has to leave again.
    Writer,
    /// There is no room for one more. It is not counted.
    Full,
}

impl ReaderWord {
    /// Counts one thread of the participant in.
    pub(crate) fn enter(&self, generation: u32, writer: &LockWord) -> Entered {
        let mine = u64::from(generation) << 32;
        let more = |word: u64| {
            // A count of another generation is a dead participant's.
            let count = if word & !COUNT == mine { word & COUNT } else { 0 };
            (count < MOST).then_some(mine | (count + 1))
        };
        if self.0.fetch_update(Ordering::SeqCst, Ordering::Relaxed, more).is_err() {
            return Entered::Full;
        }
        // Count first, then look; a writer takes its word first, then looks at the counts: one of
        // the two sees the other.
        fence(Ordering::SeqCst);
        if writer.0.load(Ordering::Acquire) == 0 { Entered::Reading } else { Entered::Writer }
    }

    /// Counts one thread of the participant out. Whether a writer has to be woken.
    pub(crate) fn leave(&self, generation: u32, writer: &LockWord) -> bool {
        let mine = u64::from(generation) << 32;
        // A word that is not this participant's was overwritten.
        let fewer = |word: u64| (word & !COUNT == mine && word & COUNT != 0).then(|| word - 1);
        let _ = self.0.fetch_update(Ordering::SeqCst, Ordering::Relaxed, fewer);
        fence(Ordering::SeqCst);
        writer.load() != 0
    }

    /// For a writer, which has its word and has [looked](look_at_readers) since: a reader, by its
    /// generation, and the word.
    pub(crate) fn reader(&self) -> Option<(u32, u64)> {
        let word = self.0.load(Ordering::SeqCst);
        (word & COUNT != 0).then_some(((word >> 32) as u32, word))
    }

    /// For a writer: a dead reader's count counts no more. Returns whether it was still there.
    pub(crate) fn clear(&self, dead: u64) -> bool {
        self.0.compare_exchange(dead, 0, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }
}

/// For a writer, between taking its word and looking at the readers'.
pub(crate) fn look_at_readers() {
    fence(Ordering::SeqCst);
}
