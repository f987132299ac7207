//! A lock as all that lock have it: a word, waiting for it, taking it over from the dead, and whether what it guards is torn.

use super::attachment::Attachment;
use super::lock_word::{LockWord, Unlocked};
use super::owner::Owner;
use super::wait::{Look, Phase, Wait, is_timeout, low_half, wake};
use crate::error::{Errno, Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};

/// A word that one party at a time holds, and what became of the data it guards. Zeros are a free lock over data in order.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Lock {
    pub(super) word: LockWord,
    state: AtomicU32,
    /// Grows whenever a reader leaves while a writer waits (for the locks that have readers).
    pub(super) turn: AtomicU32,
}

/// The states of what a lock guards.
const CLEAN: u32 = 0;
const TORN: u32 = 1;
const POISONED: u32 = 2;

impl Lock {
    /// Takes the lock. `true` if the data may be torn. On an error it is not held.
    #[inline]
    pub(super) fn lock(&self, attachment: &Attachment, wait: Wait, me: Owner) -> Result<bool> {
        if !self.word.try_lock(me.word(), false) {
            self.lock_slowly(attachment, wait, me)?;
        }
        // Where its page has just gone a lock is a private zero, which anyone gets.
        if let Err(error) = attachment.check() {
            self.unlock(me);
            return Err(error);
        }
        // Only who holds the lock stores the state.
        match self.state.load(Ordering::Relaxed) {
            CLEAN => Ok(false),
            POISONED => {
                self.unlock(me);
                Err(poisoned(attachment))
            }
            _ => Ok(true),
        }
    }

    #[cold]
    fn lock_slowly(&self, attachment: &Attachment, wait: Wait, me: Owner) -> Result<()> {
        let mut parked = false;
        let mine = me.word();
        let dead = wait.until(attachment, "lock", low_half(&self.word.0), |phase| {
            let seen = self.word.load();
            let Some(holder) = Owner::in_word(seen) else {
                // A word of nothing but the bit is nobody's, and garbage.
                let got = if seen == 0 {
                    self.word.try_lock(mine, parked)
                } else {
                    self.word.take_over(seen, mine)
                };
                return Ok(if got { Look::Done(seen != 0) } else { Look::Again });
            };
            let Phase::Park { ask } = phase else { return Ok(Look::Again) };
            if ask && !attachment.is_alive(holder) {
                let got = self.word.take_over(seen, mine);
                return Ok(if got { Look::Done(true) } else { Look::Again });
            }
            parked = true;
            Ok(self.word.announce(seen).map_or(Look::Again, |word| Look::Sleep(word as u32)))
        })?;
        if dead {
            self.tear();
        }
        Ok(())
    }

    /// As [`lock`](Self::lock), but does not wait for a holder that lives: `None` then.
    pub(super) fn try_lock(&self, attachment: &Attachment, me: Owner) -> Result<Option<bool>> {
        match self.lock(attachment, Wait::new().spin(0).timeout(std::time::Duration::ZERO), me) {
            Ok(torn) => Ok(Some(torn)),
            Err(error) if is_timeout(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// For the holder: the data may be torn.
    pub(super) fn tear(&self) {
        let _ = self.state.compare_exchange(CLEAN, TORN, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// For the holder: the data is in order again.
    pub(super) fn mend(&self) {
        self.state.store(CLEAN, Ordering::Relaxed);
    }

    /// For the holder: nobody shall have the data.
    pub(super) fn poison(&self) {
        self.state.store(POISONED, Ordering::Relaxed);
    }

    /// Poisoned data is torn data from now on. Whether it was poisoned.
    pub(super) fn clear_poison(&self) -> bool {
        self.state.compare_exchange(POISONED, TORN, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    pub(super) fn is_poisoned(&self) -> bool {
        self.state.load(Ordering::Relaxed) == POISONED
    }

    pub(super) fn is_torn(&self) -> bool {
        self.state.load(Ordering::Relaxed) == TORN
    }

    /// Gives the lock back, and wakes one who waits.
    #[inline]
    pub(super) fn unlock(&self, me: Owner) {
        if self.word.unlock(me.word()) == Unlocked::Wake {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        wake(low_half(&self.word.0), 1);
    }
}

#[cold]
pub(super) fn poisoned(attachment: &Attachment) -> Error {
    Error::rule_as(
        Errno::NOTRECOVERABLE,
        "lock",
        attachment.subject(),
        "a process found the data torn, could not repair it, and poisoned the lock",
        "call clear_poison, and repair the data; or make the segment anew",
    )
}

#[cold]
pub(super) fn torn(attachment: &Attachment) -> Error {
    Error::rule_as(
        Errno::OWNERDEAD,
        "lock",
        attachment.subject(),
        "a process died or panicked while it held the lock, and what it guards may be half changed",
        "match on Locked::Torn, and repair or poison the data",
    )
}
