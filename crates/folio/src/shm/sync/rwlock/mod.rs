//! A lock across processes for many readers or one writer. A count of readers that all share could
//! not be repaired after one of them died; so each process has a word of its own.

mod futures;

use crate::access::View;
use crate::error::{Errno, Error, Result};
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::header::SLOTS;
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock::{LOOKS, Lock, LockOutcome};
use crate::shm::sync::lock_word::Unlocked;
use crate::shm::sync::mutex::guard::{Guard, Guards, Locked, Torn, sealed};
use crate::shm::sync::reader_word::{Entered, MOST, ReaderWord, look_at_readers};
use crate::shm::sync::rwlock::futures::{ReadFuture, WriteLockRequest};
use crate::shm::sync::writing::Writing;
use crate::shm::value::read_ref::ReadRef;
use crate::shm::value::share::{Fingerprint, InPlace, Plain, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::process_notifier::wake_all_kinds;
use crate::shm::wait::{Check, Wait, WaitPhase, low_half};
use crate::sys::identity;
use std::cell::UnsafeCell;
use std::fmt;
use std::marker::PhantomData;
use std::mem::offset_of;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A value that any number of threads of all processes read, or one writes. It starts free, with a
/// value of zeros, and takes two KiB besides the value.
///
/// A writer that waits goes before readers that come later. The rules of
/// [`Mutex`](crate::shm::Mutex) on dead holders, panics, forgotten guards and forks hold for
/// writers. A reader that dies leaves nothing behind, nor does a writer that dies while it still
/// waits for readers.
///
/// A thread (or task) that reads and asks to write waits for itself: there is no way from the one
/// to the other but to drop the guard, and to look at the value anew. One that reads and asks to
/// read again does so too, if a writer has come in between: that one waits for the first guard, and
/// the second guard for that one.
///
/// ```
/// use folio::shm::{ReadLocked, RwLock, Segment};
///
/// let price = Segment::<RwLock<[u32; 2]>>::anonymous()?;
/// price.shared_ref().write()?.clean()?.set([3, 50])?;
/// let ReadLocked::Clean(guard) = price.shared_ref().read()? else { panic!("who wrote the price died at it") };
/// assert_eq!(guard.get()?, [3, 50]);
/// # Ok::<(), folio::Error>(())
/// ```
#[repr(C)]
pub struct RwLock<T> {
    /// The writer's.
    lock: Lock,
    /// Slots from here on have never read: a writer need not look at them.
    end: AtomicU32,
    /// Whether who has the writer's lock has come past the readers.
    writing: Writing,
    /// For each slot: the generation of the participant that reads, and how many of its threads do.
    readers: [ReaderWord; SLOTS],
    value: UnsafeCell<T>,
}

impl<T> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RwLock").field("lock", &self.lock).finish_non_exhaustive()
    }
}

// SAFETY: a lock, words and a value, for each of which all bits are valid; see `Mutex`.
unsafe impl<T: Share> Share for RwLock<T> {
    const FINGERPRINT: Fingerprint<Self> = Fingerprint::of("folio::RwLock").and(
        "value",
        offset_of!(Self, value),
        T::FINGERPRINT.get(),
    );
}

impl<T: Share> Guards<T> for RwLock<T> {}
#[allow(private_interfaces, reason = "see the trait")]
impl<T: Share> sealed::SealedLock<T> for RwLock<T> {
    fn lock(at: SharedRef<'_, Self>) -> &Lock {
        // SAFETY: a place is aligned and mapped; a lock is made of atomics alone.
        unsafe { &(*at.as_ptr()).lock }
    }

    fn value(at: SharedRef<'_, Self>) -> SharedRef<'_, T> {
        // SAFETY: a field of a lock that lies in the reserve.
        unsafe { SharedRef::new(at.attachment(), (&raw mut (*at.as_ptr()).value).cast::<T>()) }
    }

    fn unlock(at: SharedRef<'_, Self>, me: Owner) {
        writing(at).end();
        open_to_all(at.attachment(), Self::lock(at), me);
    }
}

/// Gives the writer's lock back, and wakes all waiters: they may all be readers.
pub(in crate::shm) fn open_to_all(attachment: &Attachment, lock: &Lock, me: Owner) {
    if lock.word.unlock(me.word()) == Unlocked::Wake {
        wake_all_kinds(attachment, low_half(&lock.word.0), u32::MAX);
    }
}

/// Counts a thread out, and wakes a writer that waits for that.
fn leave(attachment: &Attachment, lock: &Lock, word: &ReaderWord, me: Owner) {
    if word.leave(me.generation(), &lock.word) {
        lock.turn.fetch_add(1, Ordering::SeqCst);
        wake_all_kinds(attachment, &lock.turn, u32::MAX);
    }
}

/// The result of locking for reading.
#[derive(Debug)]
#[must_use]
pub enum ReadLocked<'a, T: Share> {
    /// The value is in order, and others may read it too.
    Clean(ReadGuard<'a, T>),
    /// A writer died or panicked: the value is this thread's *alone*, to be repaired.
    Torn(Torn<'a, T, RwLock<T>>),
}

/// The lock, held for reading. Dropping it gives it back. It can be sent to another thread, and
/// dropped there.
#[must_use]
pub struct ReadGuard<'a, T: Share> {
    at: SharedRef<'a, RwLock<T>>,
    me: Owner,
    process: u64,
    value: PhantomData<SharedRef<'a, T>>,
}

impl<T: Share> fmt::Debug for ReadGuard<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadGuard").field("place", &self.at).finish_non_exhaustive()
    }
}

impl<T: Share> ReadGuard<'_, T> {
    fn value(&self) -> SharedRef<'_, T> {
        sealed::SealedLock::value(self.at)
    }

    /// The value's place, as long as the guard is there: for reading.
    #[inline]
    pub fn read_ref(&self) -> ReadRef<'_, T> {
        ReadRef::new(self.value())
    }

    /// A field of the value, as [`SharedRef::field`], for reading. [`field!`](crate::shm::field) is
    /// a shorter way.
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    #[inline]
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> ReadRef<'_, F> {
        self.read_ref().field(pick)
    }

    /// Copies a field of the value out: `guard.get_field(|board| &board.title)`.
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    pub fn get_field<F: Plain>(&self, pick: impl FnOnce(&T) -> &F) -> Result<F> {
        self.value().field(pick).load()
    }
}

impl<T: Plain> ReadGuard<'_, T> {
    /// Copies the value out. Of a large one [`view`](Self::view) and [`field`](Self::field) copy
    /// nothing.
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    pub fn get(&self) -> Result<T> {
        self.value().load()
    }

    /// The value's bytes, for volatile reads, as [`SharedRef::view`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view`].
    pub fn view(&self) -> Result<View<'_>> {
        self.value().view()
    }
}

/// A value made of atomics is used in place.
impl<T: InPlace> Deref for ReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        let at = self.value().as_ptr();
        // SAFETY: as for a place: aligned, mapped while the guard lives, and all accesses are
        // atomic.
        unsafe { &*at }
    }
}

impl<T: Share> Drop for ReadGuard<'_, T> {
    fn drop(&mut self) {
        if self.process == identity::token() {
            let (lock, readers) = parts(self.at);
            if let Some(slot) = self.me.slot() {
                leave(self.at.attachment(), lock, &readers[slot], self.me);
            }
        }
    }
}

pub(in crate::shm) fn parts<T: Share>(
    at: SharedRef<'_, RwLock<T>>,
) -> (&Lock, &[ReaderWord; SLOTS]) {
    // SAFETY: a place is aligned and mapped; both are made of atomics alone.
    unsafe { (&(*at.as_ptr()).lock, &(*at.as_ptr()).readers) }
}

pub(in crate::shm) fn writing<T: Share>(at: SharedRef<'_, RwLock<T>>) -> &Writing {
    // SAFETY: as above.
    unsafe { &(*at.as_ptr()).writing }
}

fn end<T: Share>(at: SharedRef<'_, RwLock<T>>) -> &AtomicU32 {
    // SAFETY: as above.
    unsafe { &(*at.as_ptr()).end }
}

impl<'a, T: Share> SharedRef<'a, RwLock<T>> {
    /// Takes the lock for reading; waits for a writer that has it or waits for it, as long as its
    /// process lives.
    ///
    /// # Errors
    ///
    /// ENOTRECOVERABLE if the value was poisoned; EIO if the segment was truncated.
    pub fn read(&self) -> Result<ReadLocked<'a, T>> {
        self.read_with(Wait::new())
    }

    /// As [`read`](Self::read), waiting in the way that is said.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read); ETIMEDOUT.
    pub fn read_with(&self, wait: Wait) -> Result<ReadLocked<'a, T>> {
        let attachment = self.attachment();
        let start = wait.start();
        let lock = parts(*self).0;
        loop {
            let (me, process) = attachment.enter()?;
            match self.enter(me, process)? {
                ReaderWait::In(guard) => return Ok(ReadLocked::Clean(guard)),
                ReaderWait::ToRepair => match self.write_with(wait.since(start))? {
                    Locked::Torn(torn) => return Ok(ReadLocked::Torn(torn)),
                    // Somebody else repaired it meanwhile.
                    Locked::Clean(guard) => {
                        drop(guard);
                        continue;
                    }
                },
                ReaderWait::ToWait => {}
            }
            let wait = wait.since(start);
            wait.until(attachment, "read", low_half(&lock.word.0), |phase| {
                let seen = lock.word.load();
                if seen == 0 {
                    return Ok(Check::Done(()));
                }
                let WaitPhase::Park { ask } = phase else { return Ok(Check::Again) };
                if ask && !Owner::in_word(seen).is_some_and(|holder| attachment.is_alive(holder)) {
                    return Ok(if self.end_of_writer(seen, me) {
                        Check::Done(())
                    } else {
                        Check::Again
                    });
                }
                Ok(lock.word.announce(seen).map_or(Check::Again, |word| Check::Sleep(word as u32)))
            })?;
        }
    }

    /// Counts this thread in, if no writer has the lock.
    pub(in crate::shm) fn enter(&self, me: Owner, process: u64) -> Result<ReaderWait<'a, T>> {
        let (attachment, (lock, readers)) = (self.attachment(), parts(*self));
        let Some(slot) = me.slot() else { return Err(too_many(attachment)) };
        let word = &readers[slot];
        // Seen by each writer that sees the count, which comes later.
        if end(*self).load(Ordering::Relaxed) <= slot as u32 {
            end(*self).fetch_max(slot as u32 + 1, Ordering::SeqCst);
        }
        match word.enter(me.generation(), &lock.word) {
            Entered::Full => return Err(too_many(attachment)),
            Entered::Writer => {
                leave(attachment, lock, word, me);
                return Ok(ReaderWait::ToWait);
            }
            Entered::Reading => {}
        }
        // Where its page has just gone a lock is a private zero, which anyone gets.
        if let Err(error) = attachment.check() {
            leave(attachment, lock, word, me);
            return Err(error);
        }
        if !lock.is_in_order() {
            leave(attachment, lock, word, me);
            return Ok(ReaderWait::ToRepair);
        }
        Ok(ReaderWait::In(ReadGuard { at: *self, me, process, value: PhantomData }))
    }

    /// For a writer, which has looked at the readers: a living one, by its word, and the value of
    /// the word. The counts of dead readers are cleared.
    pub(in crate::shm) fn living_reader(&self) -> Option<(&'a ReaderWord, Owner, u64)> {
        let end = end(*self).load(Ordering::SeqCst) as usize;
        for (slot, word) in parts(*self).1.iter().enumerate().take(end) {
            while let Some((generation, seen)) = word.reader() {
                let reader = Owner::new(slot, generation);
                if self.attachment().is_alive(reader) {
                    return Some((word, reader, seen));
                }
                word.clear(seen);
            }
        }
        None
    }

    /// Frees the lock of a writer that has died, if it is still as that one left it.
    pub(in crate::shm) fn end_of_writer(&self, dead: u64, me: Owner) -> bool {
        let lock = parts(*self).0;
        let mine = lock.word.take_over(dead, me.word());
        if mine {
            if writing(*self).has_begun() {
                lock.tear();
            }
            open_to_all(self.attachment(), lock, me);
        }
        mine
    }

    /// Takes the lock for reading, if no writer that lives has it or waits for it.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn try_read(&self) -> Result<Option<ReadLocked<'a, T>>> {
        let (attachment, lock) = (self.attachment(), parts(*self).0);
        // Each round that goes on, somebody else has changed something.
        for _ in 0..LOOKS {
            let (me, process) = attachment.enter()?;
            let seen = lock.word.load();
            if Owner::in_word(seen).is_some_and(|holder| attachment.is_alive(holder)) {
                break;
            }
            if seen != 0 {
                self.end_of_writer(seen, me);
                continue;
            }
            match self.enter(me, process)? {
                ReaderWait::In(guard) => return Ok(Some(ReadLocked::Clean(guard))),
                ReaderWait::ToRepair => match self.try_write()? {
                    Some(Locked::Torn(torn)) => return Ok(Some(ReadLocked::Torn(torn))),
                    Some(Locked::Clean(guard)) => drop(guard),
                    None => break,
                },
                ReaderWait::ToWait => {}
            }
        }
        Ok(None)
    }

    /// Takes the lock for writing, if no process that lives has it.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn try_write(&self) -> Result<Option<Locked<'a, T, RwLock<T>>>> {
        let (attachment, lock) = (self.attachment(), parts(*self).0);
        let (me, process) = attachment.enter()?;
        let has_begun = || writing(*self).has_begun();
        let LockOutcome::Mine(torn) = lock.attempt(attachment, me, false, has_begun)? else {
            return Ok(None);
        };
        look_at_readers();
        if self.living_reader().is_some() {
            open_to_all(attachment, lock, me);
            return Ok(None);
        }
        Ok(Some(self.begin(me, process, torn)))
    }

    /// A future that takes the lock for reading; [`lock_async`](SharedRef::lock_async) describes
    /// the rules of all futures.
    ///
    /// # Errors
    ///
    /// It gives those of [`read`](Self::read), and EMFILE, ENFILE or EAGAIN if this process has
    /// nothing left to wait with.
    pub fn read_async(
        &self,
    ) -> impl Future<Output = Result<ReadLocked<'a, T>>> + Send + Sync + Unpin + use<'a, T> {
        ReadFuture::new(*self)
    }

    /// A future that takes the lock for writing; [`lock_async`](SharedRef::lock_async) describes
    /// the rules of all futures.
    ///
    /// While it waits for readers, no others come in: poll it when it is woken, or drop it. It
    /// gives that up when it is dropped.
    ///
    /// # Errors
    ///
    /// Those of [`read_async`](Self::read_async).
    pub fn write_async(
        &self,
    ) -> impl Future<Output = Result<Locked<'a, T, RwLock<T>>>> + Send + Sync + Unpin + use<'a, T>
    {
        WriteLockRequest::new(*self)
    }

    /// Takes the lock for writing; waits for the holders, as long as their processes live.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read).
    pub fn write(&self) -> Result<Locked<'a, T, RwLock<T>>> {
        self.write_with(Wait::new())
    }

    /// As [`write`](Self::write), waiting in the way that is said.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read); ETIMEDOUT.
    pub fn write_with(&self, wait: Wait) -> Result<Locked<'a, T, RwLock<T>>> {
        let attachment = self.attachment();
        let (me, process) = attachment.enter()?;
        let start = wait.start();
        let (lock, readers) = parts(*self);
        let torn = lock.lock_unless(attachment, wait, me, || writing(*self).has_begun())?;
        look_at_readers();
        let end = end(*self).load(Ordering::SeqCst) as usize;
        for (slot, word) in readers.iter().enumerate().take(end) {
            if word.reader().is_none() {
                continue;
            }
            let left = wait_for_reader(attachment, wait.since(start), lock, slot, word);
            if let Err(error) = left {
                open_to_all(attachment, lock, me);
                return Err(error);
            }
        }
        Ok(self.begin(me, process, torn))
    }

    /// For a writer: the readers have gone.
    pub(in crate::shm) fn begin(
        &self,
        me: Owner,
        process: u64,
        torn: bool,
    ) -> Locked<'a, T, RwLock<T>> {
        // Those readers' accesses come before the accesses from here on.
        fence(Ordering::Acquire);
        writing(*self).begin();
        let guard = Guard::new(*self, me, process);
        if torn { Locked::Torn(Torn::new(guard)) } else { Locked::Clean(guard) }
    }

    /// Makes a poisoned value a torn one, which the next who locks it has to repair. Whether it was
    /// poisoned.
    pub fn clear_poison(&self) -> bool {
        parts(*self).0.clear_poison()
    }

    /// Whether the value is poisoned.
    pub fn is_poisoned(&self) -> bool {
        parts(*self).0.is_poisoned()
    }
}

/// How a reader came in.
pub(in crate::shm) enum ReaderWait<'a, T: Share> {
    In(ReadGuard<'a, T>),
    /// It did not: the value is torn or poisoned.
    ToRepair,
    /// It did not: a writer has the lock.
    ToWait,
}

/// Waits until no thread of the participant in a slot reads, or the participant is dead.
fn wait_for_reader(
    attachment: &Attachment,
    wait: Wait,
    lock: &Lock,
    slot: usize,
    word: &ReaderWord,
) -> Result<()> {
    wait.until(attachment, "write", &lock.turn, |phase| {
        // First the turn, then the count: a reader that leaves in between has changed the turn.
        let turn = lock.turn.load(Ordering::SeqCst);
        let Some((generation, seen)) = word.reader() else { return Ok(Check::Done(())) };
        if let WaitPhase::Park { ask: true } = phase
            && !attachment.is_alive(Owner::new(slot, generation))
        {
            return Ok(if word.clear(seen) { Check::Done(()) } else { Check::Again });
        }
        Ok(Check::Sleep(turn))
    })
}

#[cold]
fn too_many(attachment: &Attachment) -> Error {
    Error::rule_as(
        Errno::AGAIN,
        "read",
        attachment.subject(),
        format!("at most {MOST} guards of a process can read at a time"),
        "drop some",
    )
}

impl<T: Share> Shared<RwLock<T>> {
    /// As [`SharedRef::read`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::read`].
    pub fn read(&self) -> Result<ReadLocked<'_, T>> {
        self.shared_ref().read()
    }

    /// As [`SharedRef::read_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::read_with`].
    pub fn read_with(&self, wait: Wait) -> Result<ReadLocked<'_, T>> {
        self.shared_ref().read_with(wait)
    }

    /// As [`SharedRef::write`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::write`].
    pub fn write(&self) -> Result<Locked<'_, T, RwLock<T>>> {
        self.shared_ref().write()
    }

    /// As [`SharedRef::write_with`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::write_with`].
    pub fn write_with(&self, wait: Wait) -> Result<Locked<'_, T, RwLock<T>>> {
        self.shared_ref().write_with(wait)
    }

    /// As [`SharedRef::try_read`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::read`].
    pub fn try_read(&self) -> Result<Option<ReadLocked<'_, T>>> {
        self.shared_ref().try_read()
    }

    /// As [`SharedRef::try_write`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::write`].
    pub fn try_write(&self) -> Result<Option<Locked<'_, T, RwLock<T>>>> {
        self.shared_ref().try_write()
    }

    /// As [`SharedRef::read_async`].
    pub fn read_async(
        &self,
    ) -> impl Future<Output = Result<ReadLocked<'_, T>>> + Send + Sync + Unpin + use<'_, T> {
        self.shared_ref().read_async()
    }

    /// As [`SharedRef::write_async`].
    pub fn write_async(
        &self,
    ) -> impl Future<Output = Result<Locked<'_, T, RwLock<T>>>> + Send + Sync + Unpin + use<'_, T>
    {
        self.shared_ref().write_async()
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
