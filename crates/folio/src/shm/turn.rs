//! Whose turn it is: a lock word that survives its holder. The holder's death is noticed by whoever waits, who takes the turn over
//! and is told.

use super::attachment::Attachment;
use super::owner::{Owner, WAITERS};
use super::patience::{Patience, Round};
use crate::error::Result;
use crate::sys::futex;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The word, in shared memory: zero, or the holder, and whether someone waits.
#[repr(transparent)]
#[derive(Debug)]
pub(crate) struct Turn(AtomicU64);

/// How a turn was got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// The last holder gave it back.
    Clean,
    /// The last holder died with it.
    Inherited,
}

impl Turn {
    /// Takes the turn if it is free, or its holder dead.
    pub(crate) fn try_take(&self, attachment: &Attachment) -> Option<Got> {
        let me = attachment.me().word();
        match self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed) {
            Ok(_) => Some(Got::Clean),
            Err(held) => self.inherit(attachment, held, me),
        }
    }

    fn inherit(&self, attachment: &Attachment, held: u64, me: u64) -> Option<Got> {
        let holder = Owner::in_word(held)?;
        if attachment.is_alive(holder) {
            return None;
        }
        // Only the one who finds this very word gets it.
        let mine = me | held & WAITERS;
        self.0.compare_exchange(held, mine, Ordering::Acquire, Ordering::Relaxed).ok().map(|_| Got::Inherited)
    }

    /// Waits for the turn.
    pub(crate) fn take(&self, attachment: &Attachment, patience: &mut Patience) -> Result<Got> {
        let me = attachment.me().word();
        if self.0.compare_exchange(0, me, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            return Ok(Got::Clean);
        }
        self.wait(attachment, me, patience)
    }

    #[cold]
    fn wait(&self, attachment: &Attachment, me: u64, patience: &mut Patience) -> Result<Got> {
        // Who has waited cannot know whether others still do.
        let mut mine = me;
        loop {
            let held = self.0.load(Ordering::Relaxed);
            if held & !WAITERS == 0 {
                if self.0.compare_exchange(held, mine | held, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                    return Ok(Got::Clean);
                }
                continue;
            }
            match patience.next(attachment, "the turn to send")? {
                Round::Spin => std::hint::spin_loop(),
                Round::Ask => {
                    if let Some(got) = self.inherit(attachment, held, mine) {
                        return Ok(got);
                    }
                }
                Round::Sleep { slice, ask } => {
                    if ask && let Some(got) = self.inherit(attachment, held, mine) {
                        return Ok(got);
                    }
                    mine = me | WAITERS;
                    let marked = held | WAITERS;
                    if held == marked
                        || self.0.compare_exchange(held, marked, Ordering::Relaxed, Ordering::Relaxed).is_ok()
                    {
                        patience.count();
                        futex::wait_shared(self.low(), marked as u32, slice);
                    }
                }
            }
        }
    }

    /// Gives the turn back. It must be the caller's.
    pub(crate) fn give_back(&self) {
        if self.0.swap(0, Ordering::Release) & WAITERS != 0 {
            futex::wake_shared(self.low(), 1);
        }
    }

    /// The half that futex(2) looks at: the one with slot and waiters.
    fn low(&self) -> &AtomicU32 {
        let halves = self.0.as_ptr().cast::<AtomicU32>();
        // SAFETY: half of an atomic word, aligned for it; all accesses to the word are atomic.
        unsafe { &*halves.add(usize::from(cfg!(target_endian = "big"))) }
    }
}
