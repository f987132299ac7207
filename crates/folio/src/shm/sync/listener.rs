//! A descriptor for poll(2) and epoll(7) that is readable when an event may be set.
//!
//! It is an eventfd of its own, which the thread that waits for all notifiers makes readable when
//! the participant's notifier rings: so what one listener or future of the process has heard is not
//! lost to another.

use crate::error::{Errno, Error, Result};
use crate::shm::sync::event::Event;
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::shm::wait::process_notifier::Sleeper;
use crate::sys::identity;
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};

/// Listens to an [`Event`]: its descriptor is readable when the event may be set.
///
/// It can be readable for nothing, and is made unreadable by a `try_` call that finds nothing: so
/// call one of them until it does, then wait for the descriptor. It is readable at first. While it
/// listens, setting the event is a system call or two.
///
/// **Fork:** it stays the parent's. In a child every call is an error, and its drop does nothing.
///
/// ```
/// use folio::shm::{Event, Segment};
/// use std::os::fd::AsFd;
///
/// let segment = Segment::<Event>::anonymous()?;
/// let event = segment.shared_ref();
/// let mut listener = event.listen()?;
/// while listener.try_take()? {}
/// event.set();
/// let mut fds = [rustix::event::PollFd::from_borrowed_fd(listener.as_fd(), rustix::event::PollFlags::IN)];
/// assert_eq!(rustix::event::poll(&mut fds, None)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Listener<'a> {
    at: SharedRef<'a, Event>,
    process: u64,
    flag: Arc<Flag>,
    waker: Waker,
    sleeper: Sleeper<'a>,
}

/// The descriptor that the notifier makes readable.
#[derive(Debug)]
struct Flag(OwnedFd);

impl Flag {
    fn raise(&self) {
        // One that is full of raises is readable.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn lower(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.raise();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.raise();
    }
}

impl<'a> Listener<'a> {
    pub(in crate::shm) fn new(at: SharedRef<'a, Event>) -> Result<Self> {
        at.attachment().check()?;
        // Whatever the event is: the first look is the caller's.
        let fd = eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::kernel("eventfd", errno, at.attachment().subject()))?;
        let flag = Arc::new(Flag(fd));
        let waker = Waker::from(Arc::clone(&flag));
        Ok(Self {
            at,
            process: identity::token(),
            flag,
            waker,
            sleeper: Sleeper::new(at.attachment()),
        })
    }

    /// Whether the event is set; it stays so.
    ///
    /// # Errors
    ///
    /// EIO if the segment was truncated; EMFILE, ENFILE or EAGAIN if this process has nothing left
    /// to wait with; EPERM in a forked child.
    pub fn try_wait(&mut self) -> Result<bool> {
        self.look("try_wait", false)
    }

    /// Whether the event was set, and this has cleared it.
    ///
    /// # Errors
    ///
    /// Those of [`try_wait`](Self::try_wait).
    pub fn try_take(&mut self) -> Result<bool> {
        self.look("try_take", true)
    }

    fn look(&mut self, call: &'static str, takes: bool) -> Result<bool> {
        if self.process != identity::token() {
            return Err(Error::rule_as(
                Errno::PERM,
                call,
                self.at.attachment().subject(),
                "a listener belongs to the process that made it, and this is a forked child",
                "listen anew in the child",
            ));
        }
        if self.at.look(takes) {
            self.at.attachment().check()?;
            return Ok(true);
        }
        self.flag.lower();
        let found = self.at.check_or_prepare_wait(takes, &mut self.sleeper, &self.waker);
        if !matches!(found, Ok(false)) {
            // A descriptor that is readable once too often does no harm.
            self.flag.raise();
        }
        found
    }
}

impl AsFd for Listener<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.flag.0.as_fd()
    }
}

impl<'a> SharedRef<'a, Event> {
    /// A descriptor that is readable when the flag may be set, for poll(2) and epoll(7).
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE; EIO if the segment was truncated.
    pub fn listen(&self) -> Result<Listener<'a>> {
        Listener::new(*self)
    }
}

impl Shared<Event> {
    /// As [`SharedRef::listen`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::listen`].
    pub fn listen(&self) -> Result<Listener<'_>> {
        self.shared_ref().listen()
    }
}
