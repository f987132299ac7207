//! One side's notifier, registered in its slot in the memory of a ring, and its use by the side's
//! futures.

use crate::error::Result;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::wait::future::{self, Waiting};
use crate::shm::wait::notifier::{Notifier, NotifierSlot};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

/// Which slot a notifier hangs on.
#[derive(Debug, Clone, Copy)]
enum SlotChoice {
    /// This one, which is its side's alone.
    Own(usize),
    /// This one at present; any that is free will do.
    Any(usize),
}

/// See the [module](self).
#[derive(Debug)]
pub(in crate::shm) struct PollHandle {
    notifier: Notifier,
    on: SlotChoice,
    /// The process that made it.
    process: u64,
    waiting: Waiting,
}

fn tie(
    notifier: &Notifier,
    attachment: &Attachment,
    notifier_slots: &[NotifierSlot],
) -> Option<usize> {
    notifier_slots.iter().position(|notifier_slot| notifier.try_register(notifier_slot, attachment))
}

impl PollHandle {
    fn new(notifier: Notifier, on: SlotChoice) -> Self {
        Self { notifier, on, process: sys::identity::token(), waiting: Waiting::new() }
    }

    /// A notifier on one of these slots, which is this side's alone.
    pub(in crate::shm) fn with_own_slot(
        attachment: &Attachment,
        notifier_slots: &[NotifierSlot],
        notifier_slot: usize,
    ) -> Result<Self> {
        let notifier = Notifier::new(attachment)?;
        notifier.register(&notifier_slots[notifier_slot], attachment);
        Ok(Self::new(notifier, SlotChoice::Own(notifier_slot)))
    }

    /// A notifier on one of these slots, if one is free.
    pub(in crate::shm) fn with_any_slot(
        attachment: &Attachment,
        notifier_slots: &[NotifierSlot],
    ) -> Result<Option<Self>> {
        let notifier = Notifier::new(attachment)?;
        let notifier_slot = tie(&notifier, attachment, notifier_slots);
        Ok(notifier_slot.map(|notifier_slot| Self::new(notifier, SlotChoice::Any(notifier_slot))))
    }

    /// Whether it is this process's, and not a forked child's copy.
    pub(in crate::shm) fn is_here(&self) -> bool {
        self.process == sys::identity::token()
    }

    fn slot(&self) -> usize {
        let (SlotChoice::Own(notifier_slot) | SlotChoice::Any(notifier_slot)) = self.on;
        notifier_slot
    }

    /// Has it ring, once, when its slot is pulled. To be announced afterwards.
    pub(in crate::shm) fn arm(&mut self, attachment: &Attachment, notifier_slots: &[NotifierSlot]) {
        self.notifier.ensure_fifo(attachment);
        // Other processes can write to shared memory.
        if !self.notifier.is_registered(&notifier_slots[self.slot()], attachment) {
            match self.on {
                SlotChoice::Own(notifier_slot) => {
                    self.notifier.register(&notifier_slots[notifier_slot], attachment);
                }
                // Where there is no slot left it rings by itself, every half second.
                SlotChoice::Any(_) => match tie(&self.notifier, attachment, notifier_slots) {
                    Some(notifier_slot) => self.on = SlotChoice::Any(notifier_slot),
                    None => return,
                },
            }
        }
        self.notifier.arm(&notifier_slots[self.slot()]);
    }

    /// Has it ring when one of these participants ends, but for this process's own.
    pub(in crate::shm) fn watch(
        &mut self,
        attachment: &Attachment,
        participants: impl Iterator<Item = Owner>,
    ) {
        // Those that have ended are asked about in another place.
        let others =
            participants.filter(|&owner| owner != attachment.me() && attachment.is_alive(owner));
        self.notifier.watch(attachment, others);
    }

    pub(in crate::shm) fn signal(&self) {
        self.notifier.signal();
    }

    pub(in crate::shm) fn clear(&self) {
        self.notifier.clear();
    }

    pub(in crate::shm) fn as_fd(&self) -> BorrowedFd<'_> {
        self.notifier.as_fd()
    }

    /// Takes it off its slot.
    pub(in crate::shm) fn end(&mut self, attachment: &Attachment, notifier_slots: &[NotifierSlot]) {
        self.waiting.end(self.notifier.as_fd());
        self.notifier.unregister(&notifier_slots[self.slot()], attachment);
    }

    fn wake_when_readable(&mut self, context: &Context<'_>) -> Result<()> {
        let asked = self.waiting.wake_when_readable(self.notifier.as_fd(), context.waker());
        asked.map_err(future::refused)
    }
}

/// A side that can have a notifier.
pub(in crate::shm) trait Pollable {
    /// Its notifier, which is made if there is none yet. A new one is readable.
    fn poll_handle(&mut self) -> Result<&mut PollHandle>;
}

/// The poll of a side's future. The `attempt` makes the notifier unreadable when there is nothing,
/// if there is a notifier.
pub(in crate::shm) fn poll<S: Pollable, T>(
    side: &mut S,
    context: &Context<'_>,
    attempt: impl FnOnce(&mut S) -> Result<Option<T>>,
) -> Poll<Result<T>> {
    let pending = match attempt(side) {
        Ok(Some(done)) => return Poll::Ready(Ok(done)),
        Ok(None) => side.poll_handle().and_then(|hanging| hanging.wake_when_readable(context)),
        Err(error) => Err(error),
    };
    match pending {
        Ok(()) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    }
}
