//! One entry of the table that the signal handler looks through: taken and freed by ordinary code,
//! read by a handler that can come at any instruction and may not wait.
//!
//! `tests/models/handler_table.rs` checks the protocol under every order of steps.

use super::atomics::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence, yield_now};
use std::ptr;

/// Holds a reference for as long as it is entered, and keeps count of who looks at it.
#[derive(Debug)]
pub(crate) struct HandlerSlot<T> {
    /// Null: free. [`busy`]: taken, and not to be looked at.
    pub(crate) entry: AtomicPtr<T>,
    /// Handlers that look at the entry just now, in the lower half; in the upper one the process
    /// that they are of. A child's copy may count handlers of threads that it does not have.
    pub(crate) users: AtomicU64,
    /// The process and the thread that entered it.
    pub(crate) process: AtomicU64,
    pub(crate) thread: AtomicUsize,
}

/// Who takes a slot, or looks at one. After fork(2) a child has copies of its parent's slots: those
/// of the one thread it has are as good as before; the others' threads are gone, and what they
/// entered may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ThreadKey {
    pub(crate) process: u64,
    pub(crate) thread: usize,
}

/// The upper half of [`HandlerSlot::users`] for a process.
fn of(process: u64) -> u64 {
    process << 32
}

fn busy<T>() -> *mut T {
    ptr::without_provenance_mut(1)
}

impl<T> HandlerSlot<T> {
    /// Enters `value` if the slot is free. Whether it was.
    pub(crate) fn insert(&self, value: &T, who: ThreadKey) -> bool {
        let free = self
            .entry
            .compare_exchange(ptr::null_mut(), busy(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if free {
            self.process.store(who.process, Ordering::Relaxed);
            self.thread.store(who.thread, Ordering::Relaxed);
            self.entry.store(ptr::from_ref(value).cast_mut(), Ordering::Release);
        }
        free
    }

    /// Hides the entry, and waits for those that look at it already.
    pub(crate) fn retire(&self, who: ThreadKey) {
        self.entry.store(busy(), Ordering::Relaxed);
        // Hide first, then count; `with_entry` counts first, then reads: one of the two sees the
        // other.
        fence(Ordering::SeqCst);
        // A child waits for no handler of its parent's threads.
        while Self::counts(self.users.load(Ordering::Acquire), who) {
            yield_now();
        }
    }

    /// Whether handlers of this process are counted in `users`.
    fn counts(users: u64, who: ThreadKey) -> bool {
        users >> 32 == of(who.process) >> 32 && users != of(who.process)
    }

    /// Counts a handler. What was counted in another process, of which this one is a child, is
    /// gone.
    fn enter(&self, who: ThreadKey) {
        let mut users = self.users.load(Ordering::Relaxed);
        loop {
            let more =
                if users >> 32 == of(who.process) >> 32 { users + 1 } else { of(who.process) + 1 };
            match self.users.compare_exchange_weak(
                users,
                more,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(now) => users = now,
            }
        }
    }

    /// Frees a slot that was silenced.
    pub(crate) fn release(&self) {
        self.entry.store(ptr::null_mut(), Ordering::Release);
    }

    /// Whether it was entered in this very process, and not in one that this is a child of.
    pub(crate) fn is_of(&self, who: ThreadKey) -> bool {
        self.process.load(Ordering::Relaxed) == who.process
    }

    /// Whether who entered it is in this process.
    pub(crate) fn is_visible_to(&self, who: ThreadKey) -> bool {
        self.is_of(who) || self.thread.load(Ordering::Relaxed) == who.thread
    }

    /// Lets a handler look at the entry, if there is one that concerns `who`: the process and the
    /// thread that run it. Never waits.
    ///
    /// # Safety
    ///
    /// Whoever took the slot keeps the value in place until [`retire`](Self::retire) has returned.
    pub(crate) unsafe fn with_entry<R>(
        &self,
        who: ThreadKey,
        work: impl FnOnce(&T) -> Option<R>,
    ) -> Option<R> {
        // Most slots are free, and a look at one costs a load.
        if self.entry.load(Ordering::Relaxed).is_null() {
            return None;
        }
        self.enter(who);
        fence(Ordering::SeqCst);
        let entry = self.entry.load(Ordering::Acquire);
        let entered = !entry.is_null() && entry != busy();
        let result = if entered && self.is_visible_to(who) {
            // SAFETY: entered, and whoever entered it waits in `retire` until `users` is back.
            work(unsafe { &*entry })
        } else {
            None
        };
        self.users.fetch_sub(1, Ordering::Release);
        result
    }
}
