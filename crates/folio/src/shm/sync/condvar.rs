//! Waiting, across processes, for a change of the value that a mutex guards.

use crate::error::Result;
use crate::shm::sync::lock::LOOKS;
use crate::shm::sync::mutex::guard::{Guard, Locked};
use crate::shm::sync::mutex::{LockFuture, Mutex};
use crate::shm::value::share::{Fingerprint, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::process_notifier::{Sleeper, wake_all_kinds};
use crate::shm::wait::{Check, Wait, WaitPhase, is_timeout};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

/// A condition that threads of all processes wait for, with a [`Mutex`](crate::shm::Mutex) around
/// the value that they examine. It starts as zeros.
///
/// Waits may end without a notification: look again, or use [`wait_while`](SharedRef::wait_while).
/// A notification that a process took and did not act upon, since it was killed, reaches the others
/// within a fraction of a second. A notification that nobody waits for makes no system call, if the
/// last ones that were waited for went to [all](SharedRef::notify_all).
///
/// It belongs to no mutex: each wait gives back the mutex of its guard, and takes that again. A
/// thread that changes the value without that mutex can come between a waiter's look and its wait,
/// and then notifies nobody.
#[derive(Debug)]
#[repr(C)]
pub struct Condvar {
    /// How often it was notified, and whether anyone [waits](WAITED).
    notified: AtomicU32,
}

/// A thread waits, or did before it died. A notification of all clears it; a notification of one
/// leaves it to the others.
const WAITED: u32 = 1;
/// One notification.
const ONE: u32 = 2;

// SAFETY: one atomic; all bits are valid.
unsafe impl Share for Condvar {
    const FINGERPRINT: Fingerprint<Self> = Fingerprint::of("folio::Condvar");
}

impl<'a> SharedRef<'a, Condvar> {
    fn notified(&self) -> &'a AtomicU32 {
        // SAFETY: a place is aligned and mapped; the field is atomic.
        unsafe { &(*self.as_ptr()).notified }
    }

    /// Gives the lock back, waits for a notification, and takes the lock again.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](SharedRef::lock): then the lock is not held.
    pub fn wait<'g, T: Share>(&self, guard: Guard<'g, T>) -> Result<Locked<'g, T>> {
        self.wait_with(guard, Wait::new()).map(|(locked, _)| locked)
    }

    /// As [`wait`](Self::wait), waiting in the way that is said; and whether its time was over
    /// before a notification came. (Taking the lock again is not counted.)
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn wait_with<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        wait: Wait,
    ) -> Result<(Locked<'g, T>, bool)> {
        let notified = self.notified();
        let mutex = guard.held();
        let before = notified.load(Ordering::Relaxed);
        drop(guard);
        let waited = wait.until(self.attachment(), "wait", notified, |phase| {
            let now = notified.load(Ordering::Relaxed);
            if is_another(now, before) {
                return Ok(Check::Done(()));
            }
            let WaitPhase::Park { .. } = phase else { return Ok(Check::Again) };
            Ok(announce(notified, now).map_or(Check::Again, Check::Sleep))
        });
        let in_time = match waited {
            Ok(()) => true,
            Err(error) if is_timeout(&error) => false,
            Err(error) => return Err(error),
        };
        Ok((mutex.lock()?, !in_time))
    }

    /// Waits as long as `condition` holds. A value that is torn ends the wait too: its contents
    /// mean nothing.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait), and an error of `condition`.
    pub fn wait_while<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        condition: impl FnMut(SharedRef<'_, T>) -> Result<bool>,
    ) -> Result<Locked<'g, T>> {
        self.wait_while_with(guard, Wait::new(), condition).map(|(locked, _)| locked)
    }

    /// As [`wait_while`](Self::wait_while), waiting in the way that is said; and whether its time
    /// was over while `condition` still held. (Taking the lock again is not counted.)
    ///
    /// # Errors
    ///
    /// Those of [`wait_while`](Self::wait_while).
    pub fn wait_while_with<'g, T: Share>(
        &self,
        mut guard: Guard<'g, T>,
        wait: Wait,
        mut condition: impl FnMut(SharedRef<'_, T>) -> Result<bool>,
    ) -> Result<(Locked<'g, T>, bool)> {
        let start: Option<Instant> = wait.start();
        let mut is_over = false;
        loop {
            let holds = condition(guard.shared_ref())?;
            if !holds || is_over {
                return Ok((Locked::Clean(guard), holds));
            }
            let locked;
            (locked, is_over) = self.wait_with(guard, wait.since(start))?;
            match locked {
                Locked::Clean(again) => guard = again,
                // Nobody can tell whether it still holds.
                torn @ Locked::Torn(_) => return Ok((torn, is_over)),
            }
        }
    }

    /// A future that gives the lock back when it is first polled, waits for a notification, and
    /// takes the lock again; [`lock_async`](SharedRef::lock_async) describes the rules of all
    /// futures.
    ///
    /// A future may be ready without a notification, and one notification makes all futures ready
    /// that wait: look again. One that is dropped keeps no notification from others, and if it was
    /// not polled yet, gives the lock back.
    ///
    /// # Errors
    ///
    /// It gives those of [`lock_async`](SharedRef::lock_async).
    pub fn wait_async<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
    ) -> impl Future<Output = Result<Locked<'g, T>>> + Send + Sync + Unpin + use<'a, 'g, T> {
        NotifiedFuture {
            at: *self,
            sleeper: Sleeper::new(self.attachment()),
            state: CondvarState::Held(guard),
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
        let before = if count == u32::MAX {
            let quiet = |word: u32| (word & !WAITED).wrapping_add(ONE);
            let mut seen = notified.load(Ordering::Relaxed);
            while let Err(other) = notified.compare_exchange_weak(
                seen,
                quiet(seen),
                Ordering::AcqRel,
                Ordering::Relaxed,
            ) {
                seen = other;
            }
            seen
        } else {
            notified.fetch_add(ONE, Ordering::AcqRel)
        };
        if before & WAITED != 0 {
            wake_all_kinds(self.attachment(), notified, count);
        }
    }
}

/// Whether there was a notification between two looks.
fn is_another(now: u32, before: u32) -> bool {
    (now ^ before) & !WAITED != 0
}

/// Announces a waiter. Returns the word then, if it has not changed since it was `seen`.
fn announce(notified: &AtomicU32, seen: u32) -> Option<u32> {
    let wanted = seen | WAITED;
    let is_said = seen == wanted
        || notified.compare_exchange(seen, wanted, Ordering::Relaxed, Ordering::Relaxed).is_ok();
    is_said.then_some(wanted)
}

/// The future of a notification.
#[derive(Debug)]
struct NotifiedFuture<'a, 'g, T: Share> {
    at: SharedRef<'a, Condvar>,
    sleeper: Sleeper<'a>,
    state: CondvarState<'g, T>,
}

#[derive(Debug)]
enum CondvarState<'g, T: Share> {
    /// It was not polled yet.
    Held(Guard<'g, T>),
    /// How often it had been notified when the lock was given back.
    Waiting(SharedRef<'g, Mutex<T>>, u32),
    Locking(LockFuture<'g, T>),
}

impl<'g, T: Share> Future for NotifiedFuture<'_, 'g, T> {
    type Output = Result<Locked<'g, T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { at, sleeper, state } = self.get_mut();
        if let CondvarState::Held(guard) = state {
            let before = at.notified().load(Ordering::Relaxed);
            // The guard goes with the old state.
            *state = CondvarState::Waiting(guard.held(), before);
        }
        if let CondvarState::Waiting(mutex, before) = *state {
            at.attachment().check()?;
            if !check_or_prepare_wait(at.notified(), before, sleeper, context)? {
                return Poll::Pending;
            }
            sleeper.cancel_wait();
            *state = CondvarState::Locking(LockFuture::new(mutex));
        }
        match state {
            CondvarState::Locking(locking) => Pin::new(locking).poll(context),
            CondvarState::Held(_) | CondvarState::Waiting(..) => Poll::Pending,
        }
    }
}

/// Whether there was a notification. If not, there is one who waits for it.
fn check_or_prepare_wait(
    notified: &AtomicU32,
    before: u32,
    sleeper: &mut Sleeper<'_>,
    context: &mut Context<'_>,
) -> Result<bool> {
    if is_another(notified.load(Ordering::Relaxed), before) {
        return Ok(true);
    }
    sleeper.prepare_wait(context.waker(), None)?;
    for _ in 0..LOOKS {
        let now = notified.load(Ordering::Relaxed);
        if is_another(now, before) {
            return Ok(true);
        }
        if announce(notified, now).is_some() {
            return Ok(false);
        }
    }
    context.waker().wake_by_ref();
    Ok(false)
}

impl Shared<Condvar> {
    /// As [`SharedRef::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn wait<'g, T: Share>(&self, guard: Guard<'g, T>) -> Result<Locked<'g, T>> {
        self.shared_ref().wait(guard)
    }

    /// As [`SharedRef::wait_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait_with`].
    pub fn wait_with<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        wait: Wait,
    ) -> Result<(Locked<'g, T>, bool)> {
        self.shared_ref().wait_with(guard, wait)
    }

    /// As [`SharedRef::wait_while`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait_while`].
    pub fn wait_while<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        condition: impl FnMut(SharedRef<'_, T>) -> Result<bool>,
    ) -> Result<Locked<'g, T>> {
        self.shared_ref().wait_while(guard, condition)
    }

    /// As [`SharedRef::wait_while_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait_while`].
    pub fn wait_while_with<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
        wait: Wait,
        condition: impl FnMut(SharedRef<'_, T>) -> Result<bool>,
    ) -> Result<(Locked<'g, T>, bool)> {
        self.shared_ref().wait_while_with(guard, wait, condition)
    }

    /// As [`SharedRef::wait_async`].
    pub fn wait_async<'g, T: Share>(
        &self,
        guard: Guard<'g, T>,
    ) -> impl Future<Output = Result<Locked<'g, T>>> + Send + Sync + Unpin + use<'_, 'g, T> {
        self.shared_ref().wait_async(guard)
    }

    /// As [`SharedRef::notify_one`].
    pub fn notify_one(&self) {
        self.shared_ref().notify_one();
    }

    /// As [`SharedRef::notify_all`].
    pub fn notify_all(&self) {
        self.shared_ref().notify_all();
    }
}
