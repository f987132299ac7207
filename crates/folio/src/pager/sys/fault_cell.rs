//! A cell in which a thread waits, in its signal handler, for the page that it touched.
//!
//! ```text
//! FREE -claim-> CLAIMED -ask-> ASKED -take-> TAKEN -done-> DONE -wait returns-> FREE
//!                                 \----------done---------/
//! ```
//!
//! The thread that faulted makes the first two steps and the last; the driver thread makes those
//! between. Only the thread that faulted frees a cell, so no other fault can use it while the
//! thread still reads it. `tests/models/fault_cell.rs` checks this under every order of steps.

use super::atomics::{AtomicU32, AtomicUsize, Ordering};
use super::futex;
use std::ops::Range;

const FREE: u32 = 0;
const CLAIMED: u32 = 1;
const ASKED: u32 = 2;
const TAKEN: u32 = 3;
const DONE: u32 = 4;

/// A fault that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawFault {
    /// An address of the page.
    pub(crate) address: usize,
    /// The access is a store.
    pub(crate) write: bool,
    /// The page is there, and protected from stores.
    pub(crate) protected: bool,
    /// The thread that faulted (gettid(2)), if it is known.
    pub(crate) thread: Option<u32>,
}

/// A cell for one waiting thread.
#[derive(Debug)]
pub(super) struct FaultCell {
    state: AtomicU32,
    address: AtomicUsize,
    /// Bit 0: a store; bit 1: the page is protected.
    about: AtomicU32,
    /// Zero if the thread is not known.
    thread: AtomicU32,
}

impl FaultCell {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU32::new(FREE),
            address: AtomicUsize::new(0),
            about: AtomicU32::new(0),
            thread: AtomicU32::new(0),
        }
    }

    /// Takes the cell if it is free. Returns whether it was free.
    pub(super) fn claim(&self) -> bool {
        // Most cells that a thread tries are taken, and this check costs one load.
        self.state.load(Ordering::Relaxed) == FREE
            && self
                .state
                .compare_exchange(FREE, CLAIMED, Ordering::Acquire, Ordering::Relaxed)
                .is_ok()
    }

    /// Shows the fault to the driver thread. Only the thread that claimed the cell calls this.
    pub(super) fn ask(&self, fault: RawFault) {
        self.address.store(fault.address, Ordering::Relaxed);
        self.about
            .store(u32::from(fault.write) | u32::from(fault.protected) << 1, Ordering::Relaxed);
        self.thread.store(fault.thread.unwrap_or(0), Ordering::Relaxed);
        self.state.store(ASKED, Ordering::Release);
    }

    /// Waits for the answer, and frees the cell. Only the thread that asked calls this; it does not
    /// use the cell afterwards.
    pub(super) fn wait(&self) {
        loop {
            match self.state.load(Ordering::Acquire) {
                DONE => break,
                state => futex::wait(&self.state, state),
            }
        }
        self.state.store(FREE, Ordering::Release);
    }

    /// For the driver thread: returns the fault, once.
    pub(super) fn take(&self) -> Option<RawFault> {
        if self.state.load(Ordering::Relaxed) != ASKED {
            return None;
        }
        self.state.compare_exchange(ASKED, TAKEN, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let about = self.about.load(Ordering::Relaxed);
        Some(RawFault {
            address: self.address.load(Ordering::Relaxed),
            write: about & 1 != 0,
            protected: about & 2 != 0,
            thread: Some(self.thread.load(Ordering::Relaxed)).filter(|&thread| thread != 0),
        })
    }

    /// Lets the thread try again if its address lies in `range`, whether its fault was taken or
    /// not. Returns whether it did.
    pub(super) fn done(&self, range: &Range<usize>) -> bool {
        let state = self.state.load(Ordering::Acquire);
        if !matches!(state, ASKED | TAKEN) || !range.contains(&self.address.load(Ordering::Relaxed))
        {
            return false;
        }
        // If another thread has the cell by now, that thread faults once more.
        let done =
            self.state.compare_exchange(state, DONE, Ordering::Release, Ordering::Relaxed).is_ok();
        if done {
            futex::wake(&self.state);
        }
        done
    }

    pub(super) fn is_free(&self) -> bool {
        self.state.load(Ordering::Acquire) == FREE
    }
}
