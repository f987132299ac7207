//! A lock as all that lock have it: a word, waiting for it, taking it over from the dead, and
//! whether what it guards is torn.

use crate::error::{Errno, Error, Result};
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock_word::{LockWord, Unlocked};
use crate::shm::wait::process_notifier::{Sleeper, notify_all_processes};
use crate::shm::wait::{Check, Wait, WaitPhase, low_half, wake};
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};

/// A word that one participant at a time holds, and the state of the data that it guards. Zeros are
/// a free lock over data in order.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Lock {
    pub(in crate::shm) word: LockWord,
    state: AtomicU32,
    /// Grows whenever a reader leaves while a writer waits (for the locks that have readers).
    pub(in crate::shm) turn: AtomicU32,
}

/// How often a poll looks at the changing value each time that it wants to wait for it.
pub(in crate::shm) const LOOKS: u32 = 64;

/// The states of the guarded data.
const CLEAN: u32 = 0;
const TORN: u32 = 1;
const POISONED: u32 = 2;

impl Lock {
    /// Takes the lock. `true` if the data may be torn. On an error it is not held.
    #[inline]
    pub(in crate::shm) fn lock(
        &self,
        attachment: &Attachment,
        wait: Wait,
        me: Owner,
    ) -> Result<bool> {
        self.lock_unless(attachment, wait, me, || true)
    }

    /// As [`lock`](Self::lock), where a dead holder has torn the data only if it `has_begun` to
    /// change it: the next holder is asked.
    #[inline]
    pub(in crate::shm) fn lock_unless(
        &self,
        attachment: &Attachment,
        wait: Wait,
        me: Owner,
        has_begun: impl FnOnce() -> bool,
    ) -> Result<bool> {
        // As `settle` has it, for the way that is mostly gone.
        let free = self.word.try_lock(me.word(), false);
        if free && attachment.check().is_ok() && self.state.load(Ordering::Relaxed) == CLEAN {
            return Ok(false);
        }
        self.lock_closely(attachment, wait, me, free, has_begun)
    }

    /// As [`lock_unless`](Self::lock_unless), where it was not `free`, or the data is not in order.
    #[cold]
    fn lock_closely(
        &self,
        attachment: &Attachment,
        wait: Wait,
        me: Owner,
        free: bool,
        has_begun: impl FnOnce() -> bool,
    ) -> Result<bool> {
        if !free && self.lock_slowly(attachment, wait, me)? && has_begun() {
            self.tear();
        }
        self.settle(attachment, me)
    }

    /// For who has just taken the lock: whether the data may be torn. On an error it is not held
    /// any more.
    fn settle(&self, attachment: &Attachment, me: Owner) -> Result<bool> {
        // Where its page has just gone a lock is a private zero, which anyone gets.
        if let Err(error) = attachment.check() {
            self.give_back(attachment, me);
            return Err(error);
        }
        // Only who holds the lock stores the state.
        match self.state.load(Ordering::Relaxed) {
            CLEAN => Ok(false),
            POISONED => {
                self.give_back(attachment, me);
                Err(poisoned(attachment))
            }
            _ => Ok(true),
        }
    }

    /// Whether it was a dead one's.
    #[cold]
    fn lock_slowly(&self, attachment: &Attachment, wait: Wait, me: Owner) -> Result<bool> {
        let mut parked = false;
        let mine = me.word();
        wait.until(attachment, "lock", low_half(&self.word.0), |phase| {
            let seen = self.word.load();
            let Some(holder) = Owner::in_word(seen) else {
                // A word of nothing but the bit is nobody's, and garbage.
                let got = if seen == 0 {
                    self.word.try_lock(mine, parked)
                } else {
                    self.word.take_over(seen, mine)
                };
                return Ok(if got { Check::Done(seen != 0) } else { Check::Again });
            };
            let WaitPhase::Park { ask } = phase else { return Ok(Check::Again) };
            if ask && !attachment.is_alive(holder) {
                let got = self.word.take_over(seen, mine);
                return Ok(if got { Check::Done(true) } else { Check::Again });
            }
            parked = true;
            Ok(self.word.announce(seen).map_or(Check::Again, |word| Check::Sleep(word as u32)))
        })
    }

    /// As [`lock`](Self::lock), but does not wait for a holder that lives: `None` then.
    pub(in crate::shm) fn try_lock(
        &self,
        attachment: &Attachment,
        me: Owner,
    ) -> Result<Option<bool>> {
        Ok(self.attempt(attachment, me, false, || true)?.mine())
    }

    /// Takes the lock if nobody who lives has it. `has_waited`: others may wait too.
    pub(in crate::shm) fn attempt(
        &self,
        attachment: &Attachment,
        me: Owner,
        has_waited: bool,
        has_begun: impl Fn() -> bool,
    ) -> Result<LockOutcome> {
        let mine = me.word();
        let mut tried = LockOutcome::Held { holder: Owner::NOBODY, seen: 0 };
        // Each round that fails, somebody else has changed the word.
        for _ in 0..LOOKS {
            if self.word.try_lock(mine, has_waited) {
                return self.settle(attachment, me).map(LockOutcome::Mine);
            }
            let seen = self.word.load();
            let holder = Owner::in_word(seen);
            tried = LockOutcome::Held { holder: holder.unwrap_or(Owner::NOBODY), seen };
            if holder.is_some_and(|holder| attachment.is_alive(holder)) {
                break;
            }
            // Free by now; or garbage, or a dead one's.
            if seen != 0 && self.word.take_over(seen, mine) {
                if has_begun() {
                    self.tear();
                }
                return self.settle(attachment, me).map(LockOutcome::Mine);
            }
        }
        Ok(tried)
    }

    /// The poll of a future that takes the lock. Whether the data may be torn.
    pub(in crate::shm) fn poll(
        &self,
        sleeper: &mut Sleeper<'_>,
        context: &mut Context<'_>,
        me: Owner,
        has_begun: impl Fn() -> bool,
    ) -> Poll<Result<bool>> {
        for _ in 0..LOOKS {
            let tried = self.attempt(sleeper.attachment(), me, sleeper.has_waited(), &has_begun)?;
            let (holder, seen) = match tried {
                LockOutcome::Mine(torn) => return Poll::Ready(Ok(torn)),
                LockOutcome::Held { holder, seen } => (holder, seen),
            };
            sleeper.prepare_wait(context.waker(), Some(holder))?;
            if self.word.announce_anew(seen) {
                return Poll::Pending;
            }
        }
        // It changed each time: others get on, and this one has had its time.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// For the holder: the data may be torn.
    pub(in crate::shm) fn tear(&self) {
        let _ = self.state.compare_exchange(CLEAN, TORN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For the holder: the data is in order again.
    pub(in crate::shm) fn mend(&self) {
        self.state.store(CLEAN, Ordering::Relaxed);
    }

    /// For the holder: nobody shall have the data.
    pub(in crate::shm) fn poison(&self) {
        self.state.store(POISONED, Ordering::Relaxed);
    }

    /// Poisoned data is torn data from now on. Whether it was poisoned.
    pub(in crate::shm) fn clear_poison(&self) -> bool {
        self.state.compare_exchange(POISONED, TORN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(in crate::shm) fn is_poisoned(&self) -> bool {
        self.state.load(Ordering::Relaxed) == POISONED
    }

    /// Whether the data is neither torn nor poisoned. (An unknown state is torn, as for a thread
    /// that takes the lock.)
    pub(in crate::shm) fn is_in_order(&self) -> bool {
        self.state.load(Ordering::Relaxed) == CLEAN
    }

    /// Gives the lock back, and wakes one thread that waits: for locks that no future waits for.
    #[inline]
    pub(in crate::shm) fn unlock(&self, me: Owner) {
        if self.word.unlock(me.word()) == Unlocked::Wake {
            self.wake();
        }
    }

    /// Gives the lock back, and wakes one thread that waits, and all futures.
    #[inline]
    pub(in crate::shm) fn give_back(&self, attachment: &Attachment, me: Owner) {
        if self.word.unlock(me.word()) == Unlocked::Wake {
            self.wake_and_ring(attachment);
        }
    }

    #[cold]
    fn wake(&self) {
        wake(low_half(&self.word.0), 1);
    }

    #[cold]
    fn wake_and_ring(&self, attachment: &Attachment) {
        self.wake();
        notify_all_processes(attachment);
    }
}

/// The result of a try to take a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shm) enum LockOutcome {
    /// It is held. Whether the data may be torn.
    Mine(bool),
    /// Another has it, by this word.
    Held { holder: Owner, seen: u64 },
}

impl LockOutcome {
    /// Whether the data may be torn, if the lock is held.
    fn mine(self) -> Option<bool> {
        match self {
            Self::Mine(torn) => Some(torn),
            Self::Held { .. } => None,
        }
    }
}

#[cold]
pub(in crate::shm) fn poisoned(attachment: &Attachment) -> Error {
    Error::rule_as(
        Errno::NOTRECOVERABLE,
        "lock",
        attachment.subject(),
        "a process found the data torn, could not repair it, and poisoned the lock",
        "call clear_poison, and repair the data; or make the segment anew",
    )
}

#[cold]
pub(in crate::shm) fn torn(attachment: &Attachment) -> Error {
    Error::rule_as(
        Errno::OWNERDEAD,
        "lock",
        attachment.subject(),
        "a process died or panicked while it held the lock, and what it guards may be half changed",
        "match on Locked::Torn, and repair or poison the data",
    )
}
