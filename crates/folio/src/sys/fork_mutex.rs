//! A lock that a forked child can take although a thread that it does not have held it.
//!
//! A `Mutex` that another thread of the parent holds at fork(2) stays locked in the child for ever.
//! This one is held by a *process*: a holder that is not this process is no holder. What the lock
//! guards must bear that a change was cut short.

use super::identity;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct ForkMutex<T> {
    /// Zero, or the number of the process in which a thread holds the lock.
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached through the lock only, by one thread of the process at a time.
unsafe impl<T: Send> Sync for ForkMutex<T> {}

impl<T> ForkMutex<T> {
    #[cfg(any(feature = "pager", feature = "shm"))]
    pub(crate) const fn with(value: T) -> Self {
        Self { holder: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Ends a hold whose guard was forgotten.
    ///
    /// # Safety
    ///
    /// This thread holds the lock, and uses the value no longer.
    #[cfg(any(feature = "pager", feature = "shm"))]
    pub(super) unsafe fn unlock(&self) {
        self.holder.store(0, Ordering::Release);
    }

    pub(crate) fn lock(&self) -> ForkMutexGuard<'_, T> {
        let me = identity::token();
        let mut holder = 0;
        // What is done under the lock is short, or system calls that all threads would wait for
        // anyway.
        while let Err(other) =
            self.holder.compare_exchange(holder, me, Ordering::Acquire, Ordering::Relaxed)
        {
            holder = if other == me { 0 } else { other };
            if other == me {
                std::thread::yield_now();
            }
        }
        ForkMutexGuard(self)
    }
}

/// The lock, held.
pub(crate) struct ForkMutexGuard<'a, T>(&'a ForkMutex<T>);

impl<T> Deref for ForkMutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the lock is held.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for ForkMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the lock is held, by this alone.
        unsafe { &mut *self.0.value.get() }
    }
}

impl<T> Drop for ForkMutexGuard<'_, T> {
    fn drop(&mut self) {
        self.0.holder.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::ForkMutex;
    use std::sync::atomic::Ordering;

    #[test]
    fn one_thread_at_a_time_holds_it() {
        let gate = ForkMutex::<u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *gate.lock() += 1));
            }
        });
        assert_eq!(*gate.lock(), 40_000);
    }

    #[test]
    fn a_holder_of_another_process_does_not_count() {
        let gate = ForkMutex::<u64>::default();
        gate.holder.store(u64::MAX, Ordering::Relaxed);
        *gate.lock() = 7;
        assert_eq!((gate.holder.load(Ordering::Relaxed), *gate.lock()), (0, 7));
    }
}
