//! The result of locking: a guard, or, if the value may be torn, a step to a guard.

use crate::access::{View, ViewMut};
use crate::error::{Error, Result};
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock::{Lock, torn};
use crate::shm::sync::mutex::Mutex;
use crate::shm::value::share::{InPlace, Plain, Share};
use crate::shm::value::shared_ref::SharedRef;
use crate::sys::identity;
use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};

pub(in crate::shm) mod sealed {
    use super::{Lock, Owner, Share, SharedRef};

    #[allow(private_interfaces, reason = "nobody outside can name the trait, let alone call it")]
    pub trait SealedLock<T: Share>: Share {
        fn lock(at: SharedRef<'_, Self>) -> &Lock;
        fn value(at: SharedRef<'_, Self>) -> SharedRef<'_, T>;
        fn unlock(at: SharedRef<'_, Self>, me: Owner);
    }
}

/// A lock around a `T`: [`Mutex`] and [`RwLock`](crate::shm::RwLock).
pub trait Guards<T: Share>: sealed::SealedLock<T> {}

/// The result of locking: a value in order, or one that may be torn. There is no other way to the
/// value.
#[derive(Debug)]
#[must_use]
pub enum Locked<'a, T: Share, L: Guards<T> = Mutex<T>> {
    /// All who had the lock before gave it back.
    Clean(Guard<'a, T, L>),
    /// The holder died or panicked, or left the value as a dead holder had left it.
    Torn(Torn<'a, T, L>),
}

impl<'a, T: Share, L: Guards<T>> Locked<'a, T, L> {
    /// The guard of a value in order.
    ///
    /// # Errors
    ///
    /// EOWNERDEAD if it may be torn. It stays so, and the lock is free again.
    #[inline]
    pub fn clean(self) -> Result<Guard<'a, T, L>> {
        match self {
            Self::Clean(guard) => Ok(guard),
            Self::Torn(torn) => {
                // In parts, so that no address of the guard is taken here: the one that is in order
                // stays in registers.
                let guard = ManuallyDrop::new(torn.0);
                Err(Guard::refuse(guard.at, guard.me, guard.process))
            }
        }
    }

    /// The guard, after `repair` if the value may be torn: see [`Torn::repair`].
    ///
    /// # Errors
    ///
    /// An error of `repair`.
    pub fn or_repair(
        self,
        repair: impl FnOnce(SharedRef<'_, T>) -> Result<()>,
    ) -> Result<Guard<'a, T, L>> {
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

/// Of the word that names a guard's process: which of its threads took it, if it panicked.
const PANICKED: u64 = 0xffff_ffff << 32;

/// The word for this process, and this thread of it.
#[cold]
#[inline(never)]
fn by_this_thread(process: u64) -> u64 {
    static NUMBERS: AtomicU32 = AtomicU32::new(0);
    thread_local! {
        static NUMBER: Cell<u32> = const { Cell::new(0) };
    }
    if NUMBER.get() == 0 {
        // Only those that have panicked have one: it takes four thousand million of them until one
        // is used again.
        NUMBER.set(NUMBERS.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1));
    }
    process & !PANICKED | u64::from(NUMBER.get()) << 32
}

/// Whether a guard of this word is this process's, and was taken in a panic.
#[cold]
#[inline(never)]
fn is_of_a_panic(process: u64) -> bool {
    process & !PANICKED == identity::token()
}

/// The lock, held, over a value in order. Dropping it gives the lock back.
///
/// Plain data is copied in and out: no reference to it exists, for a process that ignores the lock
/// could change it.
///
/// It is the process that holds the lock, and no thread: a guard can be sent to another thread, and
/// dropped there.
#[must_use]
pub struct Guard<'a, T: Share, L: Guards<T> = Mutex<T>> {
    at: SharedRef<'a, L>,
    me: Owner,
    /// The process that locked: in a forked child this is a copy that holds nothing. In the [upper
    /// half](PANICKED) the thread, if it panicked then: that panic has torn nothing here. (One word
    /// for both, and one look at it: a guard in order stays in registers.)
    process: u64,
    value: PhantomData<SharedRef<'a, T>>,
}

impl<T: Share, L: Guards<T>> fmt::Debug for Guard<'_, T, L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("place", &self.shared_ref()).finish_non_exhaustive()
    }
}

impl<'a, T: Share, L: Guards<T>> Guard<'a, T, L> {
    /// For who has just taken the lock.
    #[inline]
    pub(in crate::shm) fn new(at: SharedRef<'a, L>, me: Owner, process: u64) -> Self {
        let process = if std::thread::panicking() { by_this_thread(process) } else { process };
        Self { at, me, process, value: PhantomData }
    }

    /// Gives a lock over a torn value back, and says that it is torn.
    #[cold]
    fn refuse(at: SharedRef<'a, L>, me: Owner, process: u64) -> Error {
        drop(Self::new(at, me, process));
        torn(at.attachment())
    }

    fn lock(&self) -> &'a Lock {
        L::lock(self.at)
    }

    /// The value's place, as long as the guard is there.
    #[inline]
    pub fn shared_ref(&self) -> SharedRef<'_, T> {
        L::value(self.at)
    }

    /// A field of the value, as [`SharedRef::field`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> SharedRef<'_, F> {
        self.shared_ref().field(pick)
    }

    /// The lock that it holds.
    pub fn held(&self) -> SharedRef<'a, L> {
        self.at
    }
}

impl<T: Plain, L: Guards<T>> Guard<'_, T, L> {
    /// The value's bytes, for volatile reads, as [`SharedRef::view`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view`].
    pub fn view(&self) -> Result<View<'_>> {
        self.shared_ref().view()
    }

    /// The value's bytes, for volatile reads and writes, as [`SharedRef::view_mut`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view_mut`].
    pub fn view_mut(&mut self) -> Result<ViewMut<'_>> {
        self.shared_ref().view_mut()
    }

    /// Copies the value out. Of a large one [`view`](Self::view) and [`field`](Self::field) copy
    /// nothing.
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    #[inline]
    pub fn get(&self) -> Result<T> {
        self.shared_ref().load()
    }

    /// Stores a value.
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::store`].
    #[inline]
    pub fn set(&mut self, value: T) -> Result<()> {
        self.shared_ref().store(value)
    }

    /// Copies the value out, lets `change` change it, and stores it.
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    #[inline]
    pub fn update<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.shared_ref().update(change)
    }
}

/// A value made of atomics is used in place.
impl<T: InPlace, L: Guards<T>> Deref for Guard<'_, T, L> {
    type Target = T;

    fn deref(&self) -> &T {
        let at = self.shared_ref().as_ptr();
        // SAFETY: as for a place of its own: aligned, mapped while the guard lives, and all
        // accesses are atomic.
        unsafe { &*at }
    }
}

impl<T: Share, L: Guards<T>> Drop for Guard<'_, T, L> {
    #[inline]
    fn drop(&mut self) {
        if self.process != identity::token() && !is_of_a_panic(self.process) {
            return;
        }
        if std::thread::panicking() && self.process != by_this_thread(self.process) {
            self.lock().tear();
        }
        L::unlock(self.at, self.me);
    }
}

/// The lock, held, over a value that may be half changed. The value can be examined and repaired.
/// Code that uses it as if it were in order needs the guard that [`repair`](Self::repair) gives.
/// Dropped, it leaves the value torn for the next holder.
#[derive(Debug)]
#[must_use]
pub struct Torn<'a, T: Share, L: Guards<T> = Mutex<T>>(Guard<'a, T, L>);

impl<'a, T: Share, L: Guards<T>> Torn<'a, T, L> {
    pub(in crate::shm) fn new(guard: Guard<'a, T, L>) -> Self {
        Self(guard)
    }

    /// The value's place, to look at and to mend.
    pub fn shared_ref(&self) -> SharedRef<'_, T> {
        self.0.shared_ref()
    }

    /// A field of the value, as [`SharedRef::field`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> SharedRef<'_, F> {
        self.0.field(pick)
    }

    /// Mends the value: when `work` succeeds it is in order again, for all. Should this process die
    /// at it, the value stays torn.
    ///
    /// # Errors
    ///
    /// An error of `work`: then the value stays torn, and the lock is free.
    pub fn repair(
        self,
        work: impl FnOnce(SharedRef<'_, T>) -> Result<()>,
    ) -> Result<Guard<'a, T, L>> {
        work(self.0.shared_ref())?;
        self.0.lock().mend();
        Ok(self.0)
    }

    /// Gives the value up: locking is an error for all from now on, until someone calls
    /// `clear_poison`.
    pub fn poison(self) {
        self.0.lock().poison();
    }
}
