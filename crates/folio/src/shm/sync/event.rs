//! A flag that threads of all processes wait for.

use crate::error::Result;
use crate::shm::sync::lock::LOOKS;
use crate::shm::value::share::{Fingerprint, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::process_notifier::{Sleeper, wake_all_kinds};
use crate::shm::wait::{Check, Wait, WaitPhase, is_timeout};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

/// A flag to wait for: it stays set until it is cleared, or taken by one of those who wait for
/// that. It starts clear.
///
/// A thread that finds it set sees all stores before the set.
///
/// ```
/// use folio::shm::{Event, Segment};
///
/// let done = Segment::<Event>::anonymous()?;
/// done.shared_ref().set();
/// done.shared_ref().wait()?;
/// assert!(done.shared_ref().is_set());
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct Event {
    word: AtomicU32,
}

const CLEAR: u32 = 0;
const SET: u32 = 1;
/// Clear, and someone is parked, or was before they died.
const WAITED: u32 = 2;

// SAFETY: one atomic; all bits are valid (what is not `SET` is clear).
unsafe impl Share for Event {
    const FINGERPRINT: Fingerprint<Self> = Fingerprint::of("folio::Event");
}

impl<'a> SharedRef<'a, Event> {
    fn word(&self) -> &'a AtomicU32 {
        // SAFETY: a place is aligned and mapped; the field is atomic.
        unsafe { &(*self.as_ptr()).word }
    }

    /// Sets the flag, and wakes all waiters.
    #[inline]
    pub fn set(&self) {
        if self.word().swap(SET, Ordering::AcqRel) > SET {
            wake_all_kinds(self.attachment(), self.word(), u32::MAX);
        }
    }

    /// Clears the flag. Whether it was set.
    pub fn clear(&self) -> bool {
        self.word().compare_exchange(SET, CLEAR, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Whether it is set.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.word().load(Ordering::Acquire) == SET
    }

    /// Waits until the flag is set, and leaves it so.
    ///
    /// # Errors
    ///
    /// EIO if the segment was truncated.
    pub fn wait(&self) -> Result<()> {
        self.wait_with(Wait::new()).map(drop)
    }

    /// As [`wait`](Self::wait), waiting in the way that is said. Whether it was set before the time
    /// was over.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn wait_with(&self, wait: Wait) -> Result<bool> {
        self.until(wait, Self::is_set)
    }

    /// Waits until the flag is set, and clears it: of all waiters one gets it.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn take(&self) -> Result<()> {
        self.take_with(Wait::new()).map(drop)
    }

    /// As [`take`](Self::take), waiting in the way that is said. Whether this thread got it before
    /// the time was over.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn take_with(&self, wait: Wait) -> Result<bool> {
        self.until(wait, Self::clear)
    }

    /// A future that is ready when the flag is set, and leaves it so;
    /// [`lock_async`](SharedRef::lock_async) describes the rules of all futures.
    ///
    /// # Errors
    ///
    /// It gives EIO if the segment was truncated; EMFILE, ENFILE or EAGAIN if this process has
    /// nothing left to wait with.
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'a> {
        EventFuture { at: *self, takes: false, sleeper: Sleeper::new(self.attachment()) }
    }

    /// A future that clears the flag when it is set: of all waiters one gets it. A dropped future
    /// has taken nothing.
    ///
    /// # Errors
    ///
    /// Those of [`wait_async`](Self::wait_async).
    pub fn take_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'a> {
        EventFuture { at: *self, takes: true, sleeper: Sleeper::new(self.attachment()) }
    }

    /// Whether it is set; with `takes` it is clear afterwards.
    pub(in crate::shm) fn look(&self, takes: bool) -> bool {
        if takes { self.clear() } else { self.is_set() }
    }

    /// As [`look`](Self::look), and if it is not set, has `waker` woken when it may be.
    pub(in crate::shm) fn check_or_prepare_wait(
        &self,
        takes: bool,
        sleeper: &mut Sleeper<'_>,
        waker: &Waker,
    ) -> Result<bool> {
        self.attachment().check()?;
        for _ in 0..LOOKS {
            if self.look(takes) {
                // Where its page has just gone a flag is a private zero, or a value that this
                // process stored there.
                self.attachment().check()?;
                return Ok(true);
            }
            sleeper.prepare_wait(waker, None)?;
            let announced =
                self.word().compare_exchange(CLEAR, WAITED, Ordering::Relaxed, Ordering::Relaxed);
            if announced != Err(SET) {
                return Ok(false);
            }
            // Set just now; others may take it before this one looks again.
        }
        waker.wake_by_ref();
        Ok(false)
    }

    fn until(&self, wait: Wait, is_done: impl Fn(&Self) -> bool) -> Result<bool> {
        let word = self.word();
        self.attachment().check()?;
        let waited = wait.until(self.attachment(), "wait", word, |phase| {
            if is_done(self) {
                return Ok(Check::Done(()));
            }
            if phase == WaitPhase::Spin {
                return Ok(Check::Again);
            }
            Ok(match word.compare_exchange(CLEAR, WAITED, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => Check::Sleep(WAITED),
                Err(SET) => Check::Again,
                Err(other) => Check::Sleep(other),
            })
        });
        match waited {
            Ok(()) => Ok(true),
            Err(error) if is_timeout(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// The future of a flag that is set.
#[derive(Debug)]
struct EventFuture<'a> {
    at: SharedRef<'a, Event>,
    takes: bool,
    sleeper: Sleeper<'a>,
}

impl Future for EventFuture<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { at, takes, sleeper } = self.get_mut();
        let found = at.check_or_prepare_wait(*takes, sleeper, context.waker());
        if let Ok(false) = found {
            return Poll::Pending;
        }
        sleeper.cancel_wait();
        Poll::Ready(found.map(drop))
    }
}

impl Shared<Event> {
    /// As [`SharedRef::set`].
    pub fn set(&self) {
        self.shared_ref().set();
    }

    /// As [`SharedRef::clear`].
    pub fn clear(&self) -> bool {
        self.shared_ref().clear()
    }

    /// As [`SharedRef::is_set`].
    pub fn is_set(&self) -> bool {
        self.shared_ref().is_set()
    }

    /// As [`SharedRef::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn wait(&self) -> Result<()> {
        self.shared_ref().wait()
    }

    /// As [`SharedRef::wait_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn wait_with(&self, wait: Wait) -> Result<bool> {
        self.shared_ref().wait_with(wait)
    }

    /// As [`SharedRef::take`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn take(&self) -> Result<()> {
        self.shared_ref().take()
    }

    /// As [`SharedRef::take_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn take_with(&self, wait: Wait) -> Result<bool> {
        self.shared_ref().take_with(wait)
    }

    /// As [`SharedRef::wait_async`].
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'_> {
        self.shared_ref().wait_async()
    }

    /// As [`SharedRef::take_async`].
    pub fn take_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'_> {
        self.shared_ref().take_async()
    }
}
