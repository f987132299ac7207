//! A list of slots that only grows, in blocks, without a lock. The signal handler walks it.

use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

/// One block of the list, and the link to the next one. A table's first block is a static.
///
/// # Invariants
///
/// - `next` is null, or points to a block that [`Box::into_raw`] leaked. It is set once and never
///   changes again.
/// - A linked block is never freed, and nothing refers to it mutably. References to it and to its
///   slots are valid until the process ends.
#[derive(Debug)]
pub(crate) struct Block<S, const SLOTS: usize> {
    slots: [S; SLOTS],
    next: AtomicPtr<Self>,
}

impl<S: Sync + 'static, const SLOTS: usize> Block<S, SLOTS> {
    pub(crate) const fn new(slots: [S; SLOTS]) -> Self {
        Self { slots, next: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The slots of this block and of all later ones. Async-signal-safe: it neither allocates nor
    /// waits.
    pub(crate) fn slots(&'static self) -> impl Iterator<Item = &'static S> {
        std::iter::successors(Some(self), |block| block.next()).flat_map(|block| &block.slots)
    }

    /// The first slot that `take` accepts. Where no slot is accepted, the list grows by a block of
    /// `fresh` slots.
    pub(crate) fn find_or_grow(
        &'static self,
        mut take: impl FnMut(&S) -> bool,
        fresh: fn() -> [S; SLOTS],
    ) -> &'static S {
        let mut block = self;
        loop {
            if let Some(slot) = block.slots.iter().find(|slot| take(slot)) {
                return slot;
            }
            block = block.next_or_grow(fresh);
        }
    }

    fn next(&self) -> Option<&'static Self> {
        // SAFETY: by the invariants `next` is null or points to a block that is never freed.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    fn next_or_grow(&self, fresh: fn() -> [S; SLOTS]) -> &'static Self {
        self.next().unwrap_or_else(|| {
            let fresh = Box::into_raw(Box::new(Self::new(fresh())));
            match self.next.compare_exchange(
                ptr::null_mut(),
                fresh,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                // SAFETY: the block is linked now, and by the invariants it is never freed.
                Ok(_) => unsafe { &*fresh },
                Err(other) => {
                    // SAFETY: `fresh` was leaked above and not linked, so no other thread has seen
                    // it.
                    drop(unsafe { Box::from_raw(fresh) });
                    // SAFETY: `other` is linked, and by the invariants it is never freed.
                    unsafe { &*other }
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Block;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn threads_that_grow_the_list_each_take_another_slot() {
        static LIST: Block<AtomicBool, 2> = Block::new(fresh());
        const fn fresh() -> [AtomicBool; 2] {
            [const { AtomicBool::new(false) }; 2]
        }
        let take = |slot: &AtomicBool| !slot.swap(true, Ordering::Relaxed);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        LIST.find_or_grow(take, fresh);
                    }
                });
            }
        });
        let taken = LIST.slots().filter(|slot| slot.load(Ordering::Relaxed)).count();
        assert_eq!(taken, 100);
    }
}
