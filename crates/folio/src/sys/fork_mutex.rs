//! A lock that a forked child can take although a thread of the parent held it.
//!
//! A `Mutex` that another thread of the parent holds at fork(2) stays locked in the child for ever.
//! This lock is held by a *process*: a holder that is not this process does not count. So a change
//! of the value may have been cut short, and the value must allow for that.

use super::identity;
use std::cell::UnsafeCell;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct ForkMutex<T> {
    /// Zero, or the number of the process whose thread holds the lock.
    holder: AtomicU64,
    value: UnsafeCell<T>,
}

// SAFETY: the value is reached only through the lock, which one thread of the process holds at a
// time.
unsafe impl<T: Send> Sync for ForkMutex<T> {}

impl<T> ForkMutex<T> {
    #[cfg(any(feature = "pager", feature = "shm"))]
    pub(crate) const fn with(value: T) -> Self {
        Self { holder: AtomicU64::new(0), value: UnsafeCell::new(value) }
    }

    /// Releases the lock after its guard was forgotten.
    ///
    /// # Safety
    ///
    /// This thread holds the lock, and uses the value no longer.
    #[cfg(any(feature = "pager", feature = "shm"))]
    pub(super) unsafe fn unlock(&self) {
        self.holder.store(0, Ordering::Release);
    }

    pub(crate) fn lock(&self) -> ForkMutexGuard<'_, T> {
        let this_process = identity::token();
        let mut holder = 0;
        // The sections under the lock are short, or make system calls for which all threads would
        // wait anyway.
        while let Err(other) =
            self.holder.compare_exchange(holder, this_process, Ordering::Acquire, Ordering::Relaxed)
        {
            holder = if other == this_process { 0 } else { other };
            if other == this_process {
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
        // SAFETY: this guard holds the lock.
        unsafe { &*self.0.value.get() }
    }
}

impl<T> DerefMut for ForkMutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this guard holds the lock, and is borrowed mutably, so no other reference exists.
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
    fn one_thread_at_a_time_holds_the_lock() {
        let mutex = ForkMutex::<u64>::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..10_000).for_each(|_| *mutex.lock() += 1));
            }
        });
        assert_eq!(*mutex.lock(), 40_000);
    }

    #[test]
    fn a_holder_of_another_process_does_not_count() {
        let mutex = ForkMutex::<u64>::default();
        mutex.holder.store(u64::MAX, Ordering::Relaxed);
        *mutex.lock() = 7;
        assert_eq!((mutex.holder.load(Ordering::Relaxed), *mutex.lock()), (0, 7));
    }
}
