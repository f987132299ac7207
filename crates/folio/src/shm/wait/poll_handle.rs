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

/// Which cord a bell hangs on.
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
    bell: Notifier,
    on: SlotChoice,
    /// The process that made it.
    process: u64,
    waiting: Waiting,
}

fn tie(bell: &Notifier, attachment: &Attachment, cords: &[NotifierSlot]) -> Option<usize> {
    cords.iter().position(|cord| bell.try_register(cord, attachment))
}

impl PollHandle {
    fn new(bell: Notifier, on: SlotChoice) -> Self {
        Self { bell, on, process: sys::identity::token(), waiting: Waiting::new() }
    }

    /// A bell on one of these cords, which is this side's alone.
    pub(in crate::shm) fn with_own_slot(
        attachment: &Attachment,
        cords: &[NotifierSlot],
        cord: usize,
    ) -> Result<Self> {
        let bell = Notifier::new(attachment)?;
        bell.register(&cords[cord], attachment);
        Ok(Self::new(bell, SlotChoice::Own(cord)))
    }

    /// A bell on one of these cords, if one is free.
    pub(in crate::shm) fn with_any_slot(
        attachment: &Attachment,
        cords: &[NotifierSlot],
    ) -> Result<Option<Self>> {
        let bell = Notifier::new(attachment)?;
        let cord = tie(&bell, attachment, cords);
        Ok(cord.map(|cord| Self::new(bell, SlotChoice::Any(cord))))
    }

    /// Whether it is this process's, and not a forked child's copy.
    pub(in crate::shm) fn is_here(&self) -> bool {
        self.process == sys::identity::token()
    }

    fn slot(&self) -> usize {
        let (SlotChoice::Own(cord) | SlotChoice::Any(cord)) = self.on;
        cord
    }

    /// Has it ring, once, when its cord is pulled. To be announced afterwards.
    pub(in crate::shm) fn arm(&mut self, attachment: &Attachment, cords: &[NotifierSlot]) {
        self.bell.ensure_fifo(attachment);
        // Other processes can write to shared memory.
        if !self.bell.is_registered(&cords[self.slot()], attachment) {
            match self.on {
                SlotChoice::Own(cord) => self.bell.register(&cords[cord], attachment),
                // Where there is no cord left it rings by itself, every half second.
                SlotChoice::Any(_) => match tie(&self.bell, attachment, cords) {
                    Some(cord) => self.on = SlotChoice::Any(cord),
                    None => return,
                },
            }
        }
        self.bell.arm(&cords[self.slot()]);
    }

    /// Has it ring when one of these parties ends, but for this process's own.
    pub(in crate::shm) fn watch(
        &mut self,
        attachment: &Attachment,
        parties: impl Iterator<Item = Owner>,
    ) {
        // Those that have ended are asked about in another place.
        let others =
            parties.filter(|&owner| owner != attachment.me() && attachment.is_alive(owner));
        self.bell.watch(attachment, others);
    }

    pub(in crate::shm) fn signal(&self) {
        self.bell.signal();
    }

    pub(in crate::shm) fn clear(&self) {
        self.bell.clear();
    }

    pub(in crate::shm) fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes it off its cord.
    pub(in crate::shm) fn end(&mut self, attachment: &Attachment, cords: &[NotifierSlot]) {
        self.waiting.end(self.bell.as_fd());
        self.bell.unregister(&cords[self.slot()], attachment);
    }

    fn wake_when_readable(&mut self, context: &Context<'_>) -> Result<()> {
        let asked = self.waiting.wake_when_readable(self.bell.as_fd(), context.waker());
        asked.map_err(future::refused)
    }
}

/// A side that can have a bell.
pub(in crate::shm) trait Pollable {
    /// Its bell, which is made if there is none yet. A new one is readable.
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
