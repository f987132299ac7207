//! Waiting, across processes, for what a mutex guards to change.

use super::guard::{Guard, Locked};
use super::place::{Place, Shared};
use super::share::{Share, fingerprint};
use super::wait::{Look, Wait, is_timeout, wake};
use crate::error::Result;
use std::sync::atomic::{AtomicU32, Ordering};

/// A condition that threads of all processes wait for, with a [`Mutex`](super::Mutex) around what they look at. It starts as
/// zeros.
///
/// Waits may end without a notification: look again, or use [`wait_while`](Place::wait_while). A notification that a process took
/// and did not act upon, since it was killed, reaches the others within a fraction of a second.
#[derive(Debug)]
#[repr(C)]
pub struct Condvar {
    /// How often it was notified.
    notified: AtomicU32,
}

// SAFETY: one atomic; all bits are valid.
unsafe impl Share for Condvar {
    const FINGERPRINT: u64 = fingerprint("folio::Condvar", size_of::<Self>(), &[]);
}

impl<'a> Place<'a, Condvar> {
    fn notified(&self) -> &'a AtomicU32 {
        // SAFETY: a place is aligned and mapped; the field is atomic.
        unsafe { &(*self.as_ptr()).notified }
    }

    /// Gives the lock back, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Place::lock): then the lock is not held.
    pub fn wait<'g, T: Share>(&self, guard: Guard<'g, T>) -> Result<Locked<'g, T>> {
        self.wait_with(guard, Wait::new()).map(|(locked, _)| locked)
    }

    /// As [`wait`](Self::wait), waiting in the way that is said; and whether its time was over before a notification came.
    /// (Taking the lock again is not counted.)
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn wait_with<'g, T: Share>(&self, guard: Guard<'g, T>, wait: Wait) -> Result<(Locked<'g, T>, bool)> {
        let notified = self.notified();
        let mutex = guard.held();
        let before = notified.load(Ordering::Relaxed);
        drop(guard);
        let waited = wait.until(self.attachment(), "wait", notified, |_| {
            let now = notified.load(Ordering::Relaxed);
            Ok(if now == before { Look::Sleep(before) } else { Look::Done(()) })
        });
        let in_time = match waited {
            Ok(()) => true,
            Err(error) if is_timeout(&error) => false,
            Err(error) => return Err(error),
        };
        Ok((mutex.lock()?, !in_time))
    }

    /// Waits as long as `condition` holds. A value that is torn ends the wait too: nobody can tell what it says.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait), and what `condition` returns.
    pub fn wait_while<'g, T: Share>(
        &self,
        mut guard: Guard<'g, T>,
        mut condition: impl FnMut(Place<'_, T>) -> Result<bool>,
    ) -> Result<Locked<'g, T>> {
        loop {
            if !condition(guard.place())? {
                return Ok(Locked::Clean(guard));
            }
            match self.wait(guard)? {
                Locked::Clean(again) => guard = again,
                torn @ Locked::Torn(_) => return Ok(torn),
            }
        }
    }

    /// Wakes one thread that waits, of any process.
    pub fn notify_one(&self) {
        self.notify(1);
    }

    /// Wakes all threads that wait, of all processes.
    pub fn notify_all(&self) {
        self.notify(u32::MAX);
    }

    fn notify(&self, count: u32) {
        let notified = self.notified();
        notified.fetch_add(1, Ordering::Relaxed);
        wake(notified, count);
    }
}

impl Shared<Condvar> {
    /// As [`Place::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait`].
    pub fn wait<'g, T: Share>(&self, guard: Guard<'g, T>) -> Result<Locked<'g, T>> {
        self.place().wait(guard)
    }

    /// As [`Place::wait_with`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait_with`].
    pub fn wait_with<'g, T: Share>(&self, guard: Guard<'g, T>, wait: Wait) -> Result<(Locked<'g, T>, bool)> {
        self.place().wait_with(guard, wait)
    }

    /// As [`Place::wait_while`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait_while`].
    pub fn wait_while<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        condition: impl FnMut(Place<'_, T>) -> Result<bool>,
    ) -> Result<Locked<'g, T>> {
        self.place().wait_while(guard, condition)
    }

    /// As [`Place::notify_one`].
    pub fn notify_one(&self) {
        self.place().notify_one();
    }

    /// As [`Place::notify_all`].
    pub fn notify_all(&self) {
        self.place().notify_all();
    }
}
