//! A flag that threads of all processes wait for.

use crate::error::Result;
use crate::shm::sync::listener::Listener;
use crate::shm::sync::lock::LOOKS;
use crate::shm::value::share::{Fingerprint, Share};
use crate::shm::value::shared_ref::{Place, Shared};
use crate::shm::wait::process_notifier::{Sleeper, wake_all_kinds};
use crate::shm::wait::{Look, Phase, Wait, is_timeout};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker};

/// A flag to wait for: it stays set until it is cleared, or taken by one of those who wait for that. It starts clear.
///
/// What was stored before it is set is seen by who finds it set.
///
/// ```
/// use folio::shm::{Event, Segment};
///
/// let done = Segment::<Event>::anonymous()?;
/// done.place().set();
/// done.place().wait()?;
/// assert!(done.place().is_set());
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

impl<'a> Place<'a, Event> {
    fn word(&self) -> &'a AtomicU32 {
        // SAFETY: a place is aligned and mapped; the field is atomic.
        unsafe { &(*self.as_ptr()).word }
    }

    /// Sets the flag, and wakes all who wait.
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

    /// As [`wait`](Self::wait), waiting in the way that is said. Whether it was set before the time was over.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn wait_with(&self, wait: Wait) -> Result<bool> {
        self.until(wait, Self::is_set)
    }

    /// Waits until the flag is set, and clears it: of all who wait one gets it.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn take(&self) -> Result<()> {
        self.take_with(Wait::new()).map(drop)
    }

    /// As [`take`](Self::take), waiting in the way that is said. Whether this thread got it before the time was over.
    ///
    /// # Errors
    ///
    /// Those of [`wait`](Self::wait).
    pub fn take_with(&self, wait: Wait) -> Result<bool> {
        self.until(wait, Self::clear)
    }

    /// A future that is ready when the flag is set, and leaves it so; see [`lock_async`](Place::lock_async) for what holds for all of them.
    ///
    /// # Errors
    ///
    /// It gives EIO if the segment was truncated; EMFILE, ENFILE or EAGAIN if this process has nothing left to wait with.
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'a> {
        Ringing { at: *self, takes: false, sleeper: Sleeper::new(self.attachment()) }
    }

    /// A future that clears the flag when it is set: of all who wait one gets it. One that is dropped has taken nothing.
    ///
    /// # Errors
    ///
    /// Those of [`wait_async`](Self::wait_async).
    pub fn take_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'a> {
        Ringing { at: *self, takes: true, sleeper: Sleeper::new(self.attachment()) }
    }

    /// A descriptor that is readable when the flag may be set, for poll(2) and epoll(7).
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE; EIO if the segment was truncated.
    pub fn listen(&self) -> Result<Listener<'a>> {
        Listener::new(*self)
    }

    /// Whether it is set; with `takes` it is clear afterwards.
    pub(in crate::shm) fn look(&self, takes: bool) -> bool {
        if takes { self.clear() } else { self.is_set() }
    }

    /// As [`look`](Self::look), and if it is not set, has `waker` woken when it may be.
    pub(in crate::shm) fn look_or_lie_down(
        &self,
        takes: bool,
        sleeper: &mut Sleeper<'_>,
        waker: &Waker,
    ) -> Result<bool> {
        self.attachment().check()?;
        for _ in 0..LOOKS {
            if self.look(takes) {
                // Where its page has just gone a flag is a private zero, or what this process has made of it.
                self.attachment().check()?;
                return Ok(true);
            }
            sleeper.lie_down(waker, None)?;
            let announced = self.word().compare_exchange(CLEAR, WAITED, Ordering::Relaxed, Ordering::Relaxed);
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
                return Ok(Look::Done(()));
            }
            if phase == Phase::Spin {
                return Ok(Look::Again);
            }
            Ok(match word.compare_exchange(CLEAR, WAITED, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => Look::Sleep(WAITED),
                Err(SET) => Look::Again,
                Err(other) => Look::Sleep(other),
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
struct Ringing<'a> {
    at: Place<'a, Event>,
    takes: bool,
    sleeper: Sleeper<'a>,
}

impl Future for Ringing<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { at, takes, sleeper } = self.get_mut();
        let found = at.look_or_lie_down(*takes, sleeper, context.waker());
        if let Ok(false) = found {
            return Poll::Pending;
        }
        sleeper.get_up();
        Poll::Ready(found.map(drop))
    }
}

impl Shared<Event> {
    /// As [`Place::set`].
    pub fn set(&self) {
        self.place().set();
    }

    /// As [`Place::clear`].
    pub fn clear(&self) -> bool {
        self.place().clear()
    }

    /// As [`Place::is_set`].
    pub fn is_set(&self) -> bool {
        self.place().is_set()
    }

    /// As [`Place::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait`].
    pub fn wait(&self) -> Result<()> {
        self.place().wait()
    }

    /// As [`Place::wait_with`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait`].
    pub fn wait_with(&self, wait: Wait) -> Result<bool> {
        self.place().wait_with(wait)
    }

    /// As [`Place::take`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait`].
    pub fn take(&self) -> Result<()> {
        self.place().take()
    }

    /// As [`Place::take_with`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::wait`].
    pub fn take_with(&self, wait: Wait) -> Result<bool> {
        self.place().take_with(wait)
    }

    /// As [`Place::wait_async`].
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'_> {
        self.place().wait_async()
    }

    /// As [`Place::take_async`].
    pub fn take_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'_> {
        self.place().take_async()
    }

    /// As [`Place::listen`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::listen`].
    pub fn listen(&self) -> Result<Listener<'_>> {
        self.place().listen()
    }
}
