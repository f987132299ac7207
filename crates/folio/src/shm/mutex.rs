//! A lock across processes that survives the death of its holder, and makes the next one look at what is left.

use super::lock::{Lock, torn};
use super::owner::Owner;
use super::place::{Place, Shared};
use super::share::{InPlace, Plain, Share, fingerprint};
use super::wait::Wait;
use crate::error::Result;
use crate::sys::identity;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::offset_of;

/// A value that one thread, of all processes, holds at a time. It starts free, with a value of zeros.
///
/// The lock names the *process* that holds it. When that process dies, however it dies, the next one that locks gets the value
/// together with the fact that it may be half changed ([`Locked::Torn`]), and has to repair or poison it. So does a panic
/// while a guard is held. A process that is merely stopped still holds the lock.
///
/// Not a lock for one thread twice: it waits for itself. A guard that is forgotten (`mem::forget`), or whose thread is ended
/// without unwinding, stays held as long as its process lives. A forked child does not hold what its parent holds: dropping
/// the copy of a guard does nothing there.
///
/// ```
/// use folio::shm::{Locked, Mutex, Segment};
///
/// let account = Segment::<Mutex<[i64; 2]>>::anonymous()?;
/// let mut guard = match account.place().lock()? {
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

// SAFETY: a word, a state and a value, for each of which all bits are valid: a word that names nobody alive is a lock whose holder
// is dead. No reference to the value is made but by who may have one of such a type.
unsafe impl<T: Share> Share for Mutex<T> {
    const FINGERPRINT: u64 =
        fingerprint("folio::Mutex", size_of::<Self>(), &[("value", offset_of!(Self, value), T::FINGERPRINT)]);
}

/// What locking gave: a value in order, or one that may be torn. There is no other way to the value.
#[derive(Debug)]
#[must_use]
pub enum Locked<'a, T: Share> {
    /// All who had the lock before gave it back.
    Clean(Guard<'a, T>),
    /// Who had the lock died or panicked, or left what such a one had left.
    Torn(Torn<'a, T>),
}

impl<'a, T: Share> Locked<'a, T> {
    /// The guard of a value in order.
    ///
    /// # Errors
    ///
    /// EOWNERDEAD if it may be torn. It stays so, and the lock is free again.
    pub fn clean(self) -> Result<Guard<'a, T>> {
        match self {
            Self::Clean(guard) => Ok(guard),
            Self::Torn(guard) => Err(torn(guard.0.at.attachment())),
        }
    }

    /// The guard, after `repair` if the value may be torn: see [`Torn::repair`].
    ///
    /// # Errors
    ///
    /// What `repair` returns.
    pub fn or_repair(self, repair: impl FnOnce(Place<'_, T>) -> Result<()>) -> Result<Guard<'a, T>> {
        match self {
            Self::Clean(guard) => Ok(guard),
            Self::Torn(torn) => torn.repair(repair),
        }
    }

    /// Whether the value may be torn.
    pub fn is_torn(&self) -> bool {
        matches!(self, Self::Torn(_))
    }
}

/// The lock, held, over a value in order. Dropping it gives the lock back.
///
/// Plain data is copied in and out: no reference to it exists, for a process that ignores the lock could change it.
#[must_use]
pub struct Guard<'a, T: Share> {
    at: Place<'a, Mutex<T>>,
    me: Owner,
    /// The process that locked: in a forked child this is a copy that holds nothing.
    process: u64,
    was_panicking: bool,
    /// A guard stays with its thread, as those of the standard library do.
    not_send: PhantomData<*const ()>,
}

impl<T: Share> fmt::Debug for Guard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("place", &self.place()).finish_non_exhaustive()
    }
}

impl<'a, T: Share> Guard<'a, T> {
    fn lock(&self) -> &'a Lock {
        lock_of(self.at)
    }

    /// The value's place, as long as the guard is there.
    pub fn place(&self) -> Place<'_, T> {
        value_of(self.at)
    }

    /// A field of the value, as [`Place::field`].
    ///
    /// # Panics
    ///
    /// As [`Place::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> Place<'_, F> {
        self.place().field(pick)
    }

    /// The mutex that it holds.
    pub fn mutex(&self) -> Place<'a, Mutex<T>> {
        self.at
    }
}

impl<T: Plain> Guard<'_, T> {
    /// Copies the value out.
    ///
    /// # Errors
    ///
    /// Those of [`Place::load`].
    pub fn get(&self) -> Result<T> {
        self.place().load()
    }

    /// Stores a value.
    ///
    /// # Errors
    ///
    /// Those of [`Place::store`].
    pub fn set(&mut self, value: T) -> Result<()> {
        self.place().store(value)
    }

    /// Copies the value out, lets `change` change it, and stores it.
    ///
    /// # Errors
    ///
    /// Those of [`Place::load`].
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        let mut value = self.get()?;
        let result = change(&mut value);
        self.set(value)?;
        Ok(result)
    }
}

/// What is made of atomics is used as such.
impl<T: InPlace> std::ops::Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let at = self.place().as_ptr();
        // SAFETY: as for a place of its own: aligned, mapped while the guard lives, and all accesses are atomic.
        unsafe { &*at }
    }
}

impl<T: Share> Drop for Guard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        if self.process != identity::token() {
            return;
        }
        if std::thread::panicking() && !self.was_panicking {
            self.lock().tear();
        }
        self.lock().unlock(self.me);
    }
}

/// The lock, held, over a value that may be half changed. It can be looked at and mended; what uses it as if it were in order
/// needs the guard that [`repair`](Self::repair) gives. Dropped, it leaves the value torn for the next.
#[derive(Debug)]
#[must_use]
pub struct Torn<'a, T: Share>(Guard<'a, T>);

impl<'a, T: Share> Torn<'a, T> {
    /// The value's place, to look at and to mend.
    pub fn place(&self) -> Place<'_, T> {
        self.0.place()
    }

    /// A field of the value, as [`Place::field`].
    ///
    /// # Panics
    ///
    /// As [`Place::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> Place<'_, F> {
        self.0.field(pick)
    }

    /// Mends the value: when `work` succeeds it is in order again, for all. Should this process die at it, the value stays torn.
    ///
    /// # Errors
    ///
    /// What `work` returns: then the value stays torn, and the lock is free.
    pub fn repair(self, work: impl FnOnce(Place<'_, T>) -> Result<()>) -> Result<Guard<'a, T>> {
        work(self.0.place())?;
        self.0.lock().mend();
        Ok(self.0)
    }

    /// Gives the value up: locking is an error for all from now on, until someone calls
    /// [`clear_poison`](Place::clear_poison).
    pub fn poison(self) {
        self.0.lock().poison();
    }
}

fn lock_of<'a, T: Share>(at: Place<'a, Mutex<T>>) -> &'a Lock {
    // SAFETY: a place is aligned and mapped; a lock is made of atomics alone.
    unsafe { &(*at.as_ptr()).lock }
}

fn value_of<T: Share>(at: Place<'_, Mutex<T>>) -> Place<'_, T> {
    // SAFETY: a field of a mutex that lies in the reserve.
    unsafe { Place::new(at.attachment(), (&raw mut (*at.as_ptr()).value).cast::<T>()) }
}

impl<'a, T: Share> Place<'a, Mutex<T>> {
    /// Takes the lock; waits for who has it, as long as that process lives.
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
        self.attachment().check()?;
        let me = self.attachment().me();
        let torn = lock_of(*self).lock(self.attachment(), wait, me)?;
        Ok(self.locked(me, torn))
    }

    /// Takes the lock if no process that lives has it.
    ///
    /// # Errors
    ///
    /// Those of [`lock`](Self::lock).
    pub fn try_lock(&self) -> Result<Option<Locked<'a, T>>> {
        self.attachment().check()?;
        let me = self.attachment().me();
        let torn = lock_of(*self).try_lock(self.attachment(), me)?;
        Ok(torn.map(|torn| self.locked(me, torn)))
    }

    #[inline]
    fn locked(self, me: Owner, torn: bool) -> Locked<'a, T> {
        let guard = Guard {
            at: self,
            me,
            process: identity::token(),
            was_panicking: std::thread::panicking(),
            not_send: PhantomData,
        };
        if torn { Locked::Torn(Torn(guard)) } else { Locked::Clean(guard) }
    }

    /// Makes a poisoned value a torn one, which the next who locks it has to repair. Whether it was poisoned.
    pub fn clear_poison(&self) -> bool {
        lock_of(*self).clear_poison()
    }

    /// Whether the value is poisoned.
    pub fn is_poisoned(&self) -> bool {
        lock_of(*self).is_poisoned()
    }
}

impl<T: Share> Shared<Mutex<T>> {
    /// As [`Place::lock`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::lock`].
    #[inline]
    pub fn lock(&self) -> Result<Locked<'_, T>> {
        self.place().lock()
    }

    /// As [`Place::lock_with`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::lock_with`].
    pub fn lock_with(&self, wait: Wait) -> Result<Locked<'_, T>> {
        self.place().lock_with(wait)
    }

    /// As [`Place::try_lock`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::lock`].
    pub fn try_lock(&self) -> Result<Option<Locked<'_, T>>> {
        self.place().try_lock()
    }
}
