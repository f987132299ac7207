//! The holder of something in a segment, as a word of shared memory: a slot, and the number of its
//! claim.

use crate::shm::segment::header::SLOTS;
use crate::shm::sync::lock_word::WAITERS;

/// A participant of a segment: one process that has it open. Never zero. The generation in the
/// upper half tells the claims of one slot apart, so that a dead owner stays dead when its slot is
/// used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Owner(u64);

impl Owner {
    /// Nobody: no slot, and so never alive.
    pub(crate) const NOBODY: Self = Self(0x7fff_ffff);

    pub(crate) fn new(slot: usize, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | (slot as u64 + 1))
    }

    /// The owner that a word of shared memory names, whatever it holds; `None` for zero.
    pub(crate) fn in_word(word: u64) -> Option<Self> {
        let owner = word & !WAITERS;
        (owner != 0).then_some(Self(owner))
    }

    /// The word that names it.
    pub(crate) fn word(self) -> u64 {
        self.0
    }

    /// Its slot, if that is one.
    pub(crate) fn slot(self) -> Option<usize> {
        let slot = (self.0 & 0x7fff_ffff).checked_sub(1)? as usize;
        (slot < SLOTS).then_some(slot)
    }

    pub(crate) fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::{Owner, WAITERS};

    #[test]
    fn an_owner_is_as_its_word_says() {
        let owner = Owner::new(255, 3);
        assert_eq!(Owner::in_word(owner.word() | WAITERS), Some(owner));
        assert_eq!((owner.slot(), owner.generation()), (Some(255), 3));
        assert_eq!(Owner::in_word(WAITERS), None);
        assert_eq!(Owner::in_word(0), None);
        assert_eq!(Owner::NOBODY.slot(), None);
        assert_eq!(Owner::in_word(u64::MAX).and_then(Owner::slot), None);
        assert_eq!(Owner::in_word(5 << 32).and_then(Owner::slot), None);
    }
}
