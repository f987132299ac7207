//! Something that one of all processes does, once.

use crate::error::Result;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock::Lock;
use crate::shm::value::share::{Fingerprint, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::process_notifier::{Sleeper, wake_all_kinds};
use crate::shm::wait::{Check, Wait};
use crate::sys::identity;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

/// Work that the processes of a segment do once among them. When the process that does it dies,
/// fails or panics, the next one that comes does it, and learns that it was begun before. Work that
/// asks for the same once waits for itself.
///
/// Values that must be there from the start are better stored by the maker of the segment; see
/// [`SegmentOptions::create_with`](crate::shm::SegmentOptions::create_with).
///
/// ```
/// use folio::shm::{Once, Segment};
///
/// let once = Segment::<Once>::anonymous()?;
/// once.shared_ref().call(|_begun_before| Ok(()))?;
/// once.shared_ref().call(|_| unreachable!("it is done"))?;
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug)]
#[repr(C)]
pub struct Once {
    lock: Lock,
    done: AtomicU32,
    fill: AtomicU32,
}

// SAFETY: atomics alone; all bits are valid (what is not one is not done).
unsafe impl Share for Once {
    const FINGERPRINT: Fingerprint<Self> = Fingerprint::of("folio::Once");
}

/// The lock, held. An attempt that is dropped unfinished was cut short.
struct OnceAttempt<'a> {
    attachment: &'a Attachment,
    lock: &'a Lock,
    me: Owner,
    process: u64,
}

impl Drop for OnceAttempt<'_> {
    fn drop(&mut self) {
        if self.process == identity::token() {
            self.lock.give_back(self.attachment, self.me);
        }
    }
}

impl<'a> SharedRef<'a, Once> {
    fn parts(&self) -> (&'a Lock, &'a AtomicU32) {
        // SAFETY: a place is aligned and mapped; both are made of atomics alone.
        unsafe { (&(*self.as_ptr()).lock, &(*self.as_ptr()).done) }
    }

    /// Whether it is done. The stores of the process that did it are seen.
    #[inline]
    pub fn is_done(&self) -> bool {
        self.parts().1.load(Ordering::Acquire) == 1
    }

    /// Does it, unless it is done; waits for a process that does it. `work` learns whether it was
    /// begun before, and not finished.
    ///
    /// # Errors
    ///
    /// An error of `work`: then it is not done. EIO if the segment was truncated.
    pub fn call(&self, work: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        self.call_with(Wait::new(), work)
    }

    /// As [`call`](Self::call), waiting for another that is at it in the way that is said.
    ///
    /// # Errors
    ///
    /// Those of [`call`](Self::call); ETIMEDOUT.
    pub fn call_with(&self, wait: Wait, work: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        if self.is_done() {
            return Ok(());
        }
        let (me, process) = self.attachment().enter()?;
        let (lock, done) = self.parts();
        let begun = lock.lock(self.attachment(), wait, me)?;
        let _doing = OnceAttempt { attachment: self.attachment(), lock, me, process };
        if self.is_done() {
            return Ok(());
        }
        // Whatever ends it now, but for its success, is an end before its time.
        lock.tear();
        work(begun)?;
        done.store(1, Ordering::Release);
        lock.mend();
        wake_all_kinds(self.attachment(), done, u32::MAX);
        Ok(())
    }

    /// Waits until someone has done it.
    ///
    /// # Errors
    ///
    /// ETIMEDOUT; EIO if the segment was truncated.
    pub fn wait(&self, wait: Wait) -> Result<()> {
        let done = self.parts().1;
        self.attachment().check()?;
        wait.until(self.attachment(), "wait", done, |_| {
            let seen = done.load(Ordering::Acquire);
            Ok(if seen == 1 { Check::Done(()) } else { Check::Sleep(seen) })
        })
    }

    /// A future that is ready when a process has done it; [`lock_async`](SharedRef::lock_async)
    /// describes the rules of all futures.
    ///
    /// # Errors
    ///
    /// It gives EIO if the segment was truncated; EMFILE, ENFILE or EAGAIN if this process has
    /// nothing left to wait with.
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'a> {
        OnceFuture { at: *self, sleeper: Sleeper::new(self.attachment()) }
    }
}

/// The future of something that is done.
#[derive(Debug)]
struct OnceFuture<'a> {
    at: SharedRef<'a, Once>,
    sleeper: Sleeper<'a>,
}

impl Future for OnceFuture<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { at, sleeper } = self.get_mut();
        at.attachment().check()?;
        if !at.is_done() {
            sleeper.prepare_wait(context.waker(), None)?;
            // The process that does it checks the notifiers whether another waits or not.
            if !at.is_done() {
                return Poll::Pending;
            }
        }
        sleeper.cancel_wait();
        Poll::Ready(Ok(()))
    }
}

impl Shared<Once> {
    /// As [`SharedRef::is_done`].
    pub fn is_done(&self) -> bool {
        self.shared_ref().is_done()
    }

    /// As [`SharedRef::call`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::call`].
    pub fn call(&self, work: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        self.shared_ref().call(work)
    }

    /// As [`SharedRef::call_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::call_with`].
    pub fn call_with(&self, wait: Wait, work: impl FnOnce(bool) -> Result<()>) -> Result<()> {
        self.shared_ref().call_with(wait, work)
    }

    /// As [`SharedRef::wait_async`].
    pub fn wait_async(&self) -> impl Future<Output = Result<()>> + Send + Sync + Unpin + use<'_> {
        self.shared_ref().wait_async()
    }

    /// As [`SharedRef::wait`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::wait`].
    pub fn wait(&self, wait: Wait) -> Result<()> {
        self.shared_ref().wait(wait)
    }
}
