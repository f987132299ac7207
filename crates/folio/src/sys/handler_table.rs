//! One entry of the table that the signal handler reads. Ordinary code takes and frees the entry. A
//! handler reads it; it can interrupt any instruction and must not wait.
//!
//! `tests/models/handler_table.rs` checks the protocol under every order of steps.

use super::atomics::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence, yield_now};
use std::ptr;

/// Holds a reference while a value is entered, and counts the handlers that use it.
///
/// # Invariants
///
/// - The thread that inserts a value keeps it in place until [`retire`](Self::retire) has returned.
/// - `retire` returns only when no handler of this process uses the entry.
#[derive(Debug)]
pub(crate) struct HandlerSlot<T> {
    /// Null: free. [`busy`]: taken, but handlers must not use it.
    pub(crate) entry: AtomicPtr<T>,
    /// The lower half counts the handlers that use the entry now. The upper half is their process.
    /// A child's copy may count handlers of threads that the child does not have.
    pub(crate) users: AtomicU64,
    /// The process and the thread that entered the value.
    pub(crate) process: AtomicU64,
    pub(crate) thread: AtomicUsize,
}

/// The process and thread that take a slot or read it. After fork(2) a child has copies of its
/// parent's slots. The slots of the one thread that the child has are valid. The other threads do
/// not exist in the child, and the memory behind their slots may hold anything.
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
    /// Enters `value` if the slot is free. Returns whether it was free.
    pub(crate) fn insert(&self, value: &T, key: ThreadKey) -> bool {
        let free = self
            .entry
            .compare_exchange(ptr::null_mut(), busy(), Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        if free {
            self.process.store(key.process, Ordering::Relaxed);
            self.thread.store(key.thread, Ordering::Relaxed);
            self.entry.store(ptr::from_ref(value).cast_mut(), Ordering::Release);
        }
        free
    }

    /// Hides the entry, and waits for the handlers that already use it.
    pub(crate) fn retire(&self, key: ThreadKey) {
        self.entry.store(busy(), Ordering::Relaxed);
        // This thread hides the entry, then reads the count. `with_entry` counts, then reads the
        // entry. So one of the two sees the other.
        fence(Ordering::SeqCst);
        // A child does not wait for handlers of its parent's threads.
        while Self::counts(self.users.load(Ordering::Acquire), key) {
            yield_now();
        }
    }

    /// Whether `users` counts handlers of this process.
    fn counts(users: u64, key: ThreadKey) -> bool {
        users >> 32 == of(key.process) >> 32 && users != of(key.process)
    }

    /// Counts a handler. A count that a parent process left is void, and starts again.
    fn enter(&self, key: ThreadKey) {
        let mut users = self.users.load(Ordering::Relaxed);
        loop {
            let more =
                if users >> 32 == of(key.process) >> 32 { users + 1 } else { of(key.process) + 1 };
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

    /// Frees a slot that was retired.
    pub(crate) fn release(&self) {
        self.entry.store(ptr::null_mut(), Ordering::Release);
    }

    /// Whether the value was entered in this process, and not in an ancestor of it.
    pub(crate) fn is_of(&self, key: ThreadKey) -> bool {
        self.process.load(Ordering::Relaxed) == key.process
    }

    /// Whether the thread that entered the value exists in this process.
    pub(crate) fn is_visible_to(&self, key: ThreadKey) -> bool {
        self.is_of(key) || self.thread.load(Ordering::Relaxed) == key.thread
    }

    /// Calls `work` with the entry if there is one that is visible to `key`, the process and the
    /// thread of the handler. Never waits.
    ///
    /// # Safety
    ///
    /// The thread that took the slot keeps the value in place until [`retire`](Self::retire) has
    /// returned.
    pub(crate) unsafe fn with_entry<R>(
        &self,
        key: ThreadKey,
        work: impl FnOnce(&T) -> Option<R>,
    ) -> Option<R> {
        // Most slots are free, and this check costs one load.
        if self.entry.load(Ordering::Relaxed).is_null() {
            return None;
        }
        self.enter(key);
        fence(Ordering::SeqCst);
        let entry = self.entry.load(Ordering::Acquire);
        let entered = !entry.is_null() && entry != busy();
        let result = if entered && self.is_visible_to(key) {
            // SAFETY: the slot counts this handler as a user. By the invariants `retire` waits for
            // it, and the value stays in place until `retire` has returned.
            work(unsafe { &*entry })
        } else {
            None
        };
        self.users.fetch_sub(1, Ordering::Release);
        result
    }
}
