//! A flag that threads of all processes wait for.

use super::place::{Place, Shared};
use super::share::{Share, fingerprint};
use super::wait::{Look, Phase, Wait, is_timeout, wake};
use crate::error::Result;
use std::sync::atomic::{AtomicU32, Ordering};

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
    const FINGERPRINT: u64 = fingerprint("folio::Event", size_of::<Self>(), &[]);
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
            wake(self.word(), u32::MAX);
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
}
