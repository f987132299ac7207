//! A lock across processes that survives the death of its holder, and makes the next holder examine
//! the value.

pub(in crate::shm) mod guard;

use crate::error::Result;
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock::Lock;
use crate::shm::sync::mutex::guard::{Guard, Guards, Locked, Torn, sealed};
use crate::shm::value::share::{Fingerprint, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::Wait;
use crate::shm::wait::process_notifier::Sleeper;
use std::cell::UnsafeCell;
use std::fmt;
use std::mem::offset_of;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A value that one thread, of all processes, holds at a time. It starts free, with a value of
/// zeros.
///
/// The lock names the *process* that holds it. When that process dies, however it dies, the next
/// one that locks gets the value together with the fact that it may be half changed
/// ([`Locked::Torn`]), and has to repair or poison it. So does a panic while a guard is held. A
/// process that is merely stopped still holds the lock.
///
/// Not a lock for one thread twice: it waits for itself. A guard that is forgotten (`mem::forget`),
/// or whose thread is ended without unwinding, stays held as long as its process lives. A forked
/// child does not hold its parent's locks: dropping the copy of a guard does nothing there.
///
/// ```
/// use folio::shm::{Locked, Mutex, Segment};
///
/// let account = Segment::<Mutex<[i64; 2]>>::anonymous()?;
/// let mut guard = match account.shared_ref().lock()? {
///     Locked::Clean(guard) => guard,
///     // Someone died between the two halves of a transfer: what belongs to the second account is known from the first.
///     Locked::Torn(torn) => torn.repair(|pair| pair.store([pair.load()?[0], -pair.load()?[0]]))?,
/// };
/// guard.update(|pair| {
///     pair[0] += 10;
///     pair[1] -= 10;
/// })?;
/// # Ok::<(), folio::Error>(())
/// ```
#[repr(C)]
pub struct Mutex<T> {
    lock: Lock,
    value: UnsafeCell<T>,
}

impl<T> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mutex").field("lock", &self.lock).finish_non_exhaustive()
    }
}

// SAFETY: a word, a state and a value, for each of which all bits are valid: a word that names
// nobody alive is a lock whose holder is dead. Only code that may have a reference to such a type
// makes a reference to the value.
unsafe impl<T: Share> Share for Mutex<T> {
    const FINGERPRINT: Fingerprint<Self> =
        Fingerprint::of("folio::Mutex").and("value", offset_of!(Self, value), T::FINGERPRINT.get());
}

impl<T: Share> Guards<T> for Mutex<T> {}
#[allow(private_interfaces, reason = "see the trait")]
impl<T: Share> sealed::SealedLock<T> for Mutex<T> {
    fn lock(at: SharedRef<'_, Self>) -> &Lock {
        // SAFETY: a place is aligned and mapped; a lock is made of atomics alone.
        unsafe { &(*at.as_ptr()).lock }
    }

    fn value(at: SharedRef<'_, Self>) -> SharedRef<'_, T> {
        // SAFETY: a field of a mutex that lies in the reserve.
        unsafe { SharedRef::new(at.attachment(), (&raw mut (*at.as_ptr()).value).cast::<T>()) }
    }

    #[inline]
    fn unlock(at: SharedRef<'_, Self>, me: Owner) {
        Self::lock(at).give_back(at.attachment(), me);
    }
}

fn lock_of<T: Share>(at: SharedRef<'_, Mutex<T>>) -> &Lock {
    <Mutex<T> as sealed::SealedLock<T>>::lock(at)
}

impl<'a, T: Share> SharedRef<'a, Mutex<T>> {
    /// Takes the lock; waits for the holder, as long as that process lives.
    ///
    /// # Errors
    ///
    /// ENOTRECOVERABLE if the value was poisoned; EIO if the segment was truncated.
    #[inline]
    pub fn lock(&self) -> Result<Locked<'a, T>> {
        self.lock_with(Wait::new())
    }

    /// As [`lock`](Self::lock), waiting in the way that is said.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock); ETIMEDOUT.
    #[inline]
    pub fn lock_with(&self, wait: Wait) -> Result<Locked<'a, T>> {
        let (me, process) = self.attachment().enter()?;
        let torn = lock_of(*self).lock(self.attachment(), wait, me)?;
        Ok(self.locked(me, process, torn))
    }

    /// Takes the lock if no process that lives has it.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<Option<Locked<'a, T>>> {
        let (me, process) = self.attachment().enter()?;
        let torn = lock_of(*self).try_lock(self.attachment(), me)?;
        Ok(torn.map(|torn| self.locked(me, process, torn)))
    }

    /// A future that takes the lock, for event loops. It needs no runtime: a thread of its own, one
    /// for the process, wakes all that wait. A holder that dies meanwhile is found by it as by
    /// [`lock`](Self::lock).
    ///
    /// Nothing happens before it is polled; one that is dropped holds nothing. It may be sent to
    /// other threads, and so may the guard. Which of those that wait gets the lock next is not
    /// said. Once it was ready it is not to be polled again: it would begin anew.
    ///
    /// All wakers of the process are called on that one thread: one that blocks there keeps the
    /// other futures from being woken. No signal of the program reaches it, nor a thread that a
    /// waker starts there, which inherits the mask.
    ///
    /// ```
    /// use folio::shm::{Mutex, Segment};
    /// use std::future::Future;
    /// use std::sync::Arc;
    /// use std::task::{Context, Poll, Wake, Waker};
    /// use std::thread::{Thread, current, park};
    ///
    /// /// An executor of one future, on this thread.
    /// fn block_on<F: Future>(future: F) -> F::Output {
    ///     struct Unpark(Thread);
    ///     impl Wake for Unpark {
    ///         fn wake(self: Arc<Self>) {
    ///             self.0.unpark();
    ///         }
    ///     }
    ///     let waker = Waker::from(Arc::new(Unpark(current())));
    ///     let mut future = std::pin::pin!(future);
    ///     loop {
    ///         match future.as_mut().poll(&mut Context::from_waker(&waker)) {
    ///             Poll::Ready(output) => return output,
    ///             Poll::Pending => park(),
    ///         }
    ///     }
    /// }
    ///
    /// let number = Segment::<Mutex<u64>>::anonymous()?;
    /// let mut guard = block_on(number.shared_ref().lock_async())?.clean()?;
    /// guard.update(|number| *number += 1)?;
    /// # Ok::<(), folio::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// It gives those of [`lock`](Self::lock), and EMFILE, ENFILE or EAGAIN if this process has no
    /// descriptor or thread left to wait with.
    pub fn lock_async(
        &self,
    ) -> impl Future<Output = Result<Locked<'a, T>>> + Send + Sync + Unpin + use<'a, T> {
        LockFuture::new(*self)
    }

    #[inline]
    fn locked(self, me: Owner, process: u64, torn: bool) -> Locked<'a, T> {
        let guard = Guard::new(self, me, process);
        if torn { Locked::Torn(Torn::new(guard)) } else { Locked::Clean(guard) }
    }

    /// Makes a poisoned value a torn one, which the next who locks it has to repair. Whether it was
    /// poisoned.
    pub fn clear_poison(&self) -> bool {
        lock_of(*self).clear_poison()
    }

    /// Whether the value is poisoned.
    pub fn is_poisoned(&self) -> bool {
        lock_of(*self).is_poisoned()
    }
}

/// The future of a lock.
#[derive(Debug)]
pub(in crate::shm) struct LockFuture<'a, T> {
    at: SharedRef<'a, Mutex<T>>,
    sleeper: Sleeper<'a>,
}

impl<'a, T: Share> LockFuture<'a, T> {
    pub(in crate::shm) fn new(at: SharedRef<'a, Mutex<T>>) -> Self {
        Self { at, sleeper: Sleeper::new(at.attachment()) }
    }
}

impl<'a, T: Share> Future for LockFuture<'a, T> {
    type Output = Result<Locked<'a, T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { at, sleeper } = self.get_mut();
        let (me, process) = at.attachment().enter()?;
        let polled = lock_of(*at).poll(sleeper, context, me, || true);
        if polled.is_ready() {
            sleeper.cancel_wait();
        }
        polled.map_ok(|torn| at.locked(me, process, torn))
    }
}

impl<T: Share> Shared<Mutex<T>> {
    /// As [`SharedRef::lock`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::lock`].
    #[inline]
    pub fn lock(&self) -> Result<Locked<'_, T>> {
        self.shared_ref().lock()
    }

    /// As [`SharedRef::lock_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::lock_with`].
    pub fn lock_with(&self, wait: Wait) -> Result<Locked<'_, T>> {
        self.shared_ref().lock_with(wait)
    }

    /// As [`SharedRef::try_lock`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::lock`].
    pub fn try_lock(&self) -> Result<Option<Locked<'_, T>>> {
        self.shared_ref().try_lock()
    }

    /// As [`SharedRef::lock_async`].
    pub fn lock_async(
        &self,
    ) -> impl Future<Output = Result<Locked<'_, T>>> + Send + Sync + Unpin + use<'_, T> {
        self.shared_ref().lock_async()
    }

    /// As [`SharedRef::clear_poison`].
    pub fn clear_poison(&self) -> bool {
        self.shared_ref().clear_poison()
    }

    /// As [`SharedRef::is_poisoned`].
    pub fn is_poisoned(&self) -> bool {
        self.shared_ref().is_poisoned()
    }
}
