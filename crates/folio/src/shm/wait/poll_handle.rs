//! One side's bell, on its cord in the memory of a ring, and what the side's futures do with it.

use crate::error::Result;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::wait::future::{self, Waiting};
use crate::shm::wait::notifier::{Bell, BellCord};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

/// Which cord a bell hangs on.
#[derive(Debug, Clone, Copy)]
enum On {
    /// This one, which is its side's alone.
    Own(usize),
    /// This one at present; any that is free will do.
    Any(usize),
}

/// See the [module](self).
#[derive(Debug)]
pub(in crate::shm) struct Hanging {
    bell: Bell,
    on: On,
    /// The process that made it.
    process: u64,
    waiting: Waiting,
}

fn tie(bell: &Bell, attachment: &Attachment, cords: &[BellCord]) -> Option<usize> {
    cords.iter().position(|cord| bell.try_tie(cord, attachment))
}

impl Hanging {
    fn new(bell: Bell, on: On) -> Self {
        Self { bell, on, process: sys::identity::token(), waiting: Waiting::new() }
    }

    /// A bell on one of these cords, which is this side's alone.
    pub(in crate::shm) fn on_own(attachment: &Attachment, cords: &[BellCord], cord: usize) -> Result<Self> {
        let bell = Bell::new(attachment)?;
        bell.tie(&cords[cord], attachment);
        Ok(Self::new(bell, On::Own(cord)))
    }

    /// A bell on one of these cords, if one is free.
    pub(in crate::shm) fn on_any(attachment: &Attachment, cords: &[BellCord]) -> Result<Option<Self>> {
        let bell = Bell::new(attachment)?;
        let cord = tie(&bell, attachment, cords);
        Ok(cord.map(|cord| Self::new(bell, On::Any(cord))))
    }

    /// Whether it is this process's, and not a forked child's copy.
    pub(in crate::shm) fn is_here(&self) -> bool {
        self.process == sys::identity::token()
    }

    fn cord(&self) -> usize {
        let (On::Own(cord) | On::Any(cord)) = self.on;
        cord
    }

    /// Has it ring, once, when its cord is pulled. To be announced afterwards.
    pub(in crate::shm) fn arm(&mut self, attachment: &Attachment, cords: &[BellCord]) {
        self.bell.reach(attachment);
        // What lies in shared memory others can write to.
        if !self.bell.is_tied(&cords[self.cord()], attachment) {
            match self.on {
                On::Own(cord) => self.bell.tie(&cords[cord], attachment),
                // Where there is no cord left it rings by itself, every half second.
                On::Any(_) => match tie(&self.bell, attachment, cords) {
                    Some(cord) => self.on = On::Any(cord),
                    None => return,
                },
            }
        }
        self.bell.arm(&cords[self.cord()]);
    }

    /// Has it ring when one of these parties ends, but for this process's own.
    pub(in crate::shm) fn watch(&mut self, attachment: &Attachment, parties: impl Iterator<Item = Owner>) {
        // Those that have ended are asked about in another place.
        let others = parties.filter(|&owner| owner != attachment.me() && attachment.is_alive(owner));
        self.bell.watch(attachment, others);
    }

    pub(in crate::shm) fn ring(&self) {
        self.bell.ring();
    }

    pub(in crate::shm) fn hush(&self) {
        self.bell.hush();
    }

    pub(in crate::shm) fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Takes it off its cord.
    pub(in crate::shm) fn end(&mut self, attachment: &Attachment, cords: &[BellCord]) {
        self.waiting.end(self.bell.as_fd());
        self.bell.untie(&cords[self.cord()], attachment);
    }

    fn wake_when_readable(&mut self, context: &Context<'_>) -> Result<()> {
        let asked = self.waiting.wake_when_readable(self.bell.as_fd(), context.waker());
        asked.map_err(future::refused)
    }
}

/// A side that can have a bell.
pub(in crate::shm) trait Hangs {
    /// Its bell, which is made if there is none yet. A new one is readable.
    fn hang(&mut self) -> Result<&mut Hanging>;
}

/// What a future of a side does when it is polled. The `attempt` makes the bell unreadable when there is nothing, if there is a bell.
pub(in crate::shm) fn poll<S: Hangs, T>(
    side: &mut S,
    context: &Context<'_>,
    attempt: impl FnOnce(&mut S) -> Result<Option<T>>,
) -> Poll<Result<T>> {
    let pending = match attempt(side) {
        Ok(Some(done)) => return Poll::Ready(Ok(done)),
        Ok(None) => side.hang().and_then(|hanging| hanging.wake_when_readable(context)),
        Err(error) => Err(error),
    };
    match pending {
        Ok(()) => Poll::Pending,
        Err(error) => Poll::Ready(Err(error)),
    }
}
