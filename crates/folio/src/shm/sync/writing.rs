//! Whether the one that has a writer's word has begun to write. A writer takes its word first, and
//! then waits until the readers have gone: one that is killed while it waits has stored nothing.
//! All that changes this is here, so that a model can check it (`tests/models/lock_words.rs`).
//!
//! Whenever the word is free and the value in order, nobody writes. So who takes the word over from
//! the dead learns here what they were at.

use super::atomics::{AtomicU32, Ordering};

/// See the [module](self). Whatever is not zero says that it has begun.
#[derive(Debug)]
#[repr(transparent)]
pub(crate) struct Writing(pub(crate) AtomicU32);

impl Writing {
    /// The readers have gone. The first store comes after this.
    pub(crate) fn begin(&self) {
        self.0.store(1, Ordering::SeqCst);
    }

    /// The last store came before this, and the word is given back after it.
    pub(crate) fn end(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// For who has taken the word over from one that is dead: whether the value may be half
    /// changed.
    pub(crate) fn has_begun(&self) -> bool {
        self.0.load(Ordering::Acquire) != 0
    }
}
