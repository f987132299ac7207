//! Futures without a runtime: one thread of the process waits for all notifiers, and wakes their
//! waiters.
//!
//! The thread starts with the first future that has to wait. A forked child starts its own.

use crate::error::{Errno, Error, Subject};
use crate::sys;
use crate::sys::fork_mutex::ForkMutex;
use crate::sys::identity;
use rustix::event::epoll;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;

/// The thread's side: the waker of each number.
#[derive(Debug)]
struct Reactor {
    process: u64,
    epoll: OwnedFd,
    wakers: Mutex<HashMap<u64, Waker>>,
}

static REACTOR: ForkMutex<Option<Arc<Reactor>>> = ForkMutex::with(None);
static NUMBERS: AtomicU64 = AtomicU64::new(1);

impl Reactor {
    /// This process's. Wakers are the callers' code: they are cloned, woken and dropped while
    /// nothing is held.
    fn get() -> Result<Arc<Self>, Errno> {
        let mut reactor = REACTOR.lock();
        let process = identity::token();
        if let Some(found) = reactor.as_ref().filter(|found| found.process == process) {
            return Ok(Arc::clone(found));
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let fresh = Arc::new(Self { process, epoll, wakers: Mutex::default() });
        let own = Arc::clone(&fresh);
        sys::thread::start("folio-notifiers", move || own.run())
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))?;
        *reactor = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // The descriptor is this thread's own: there is nothing left to wait for.
                Err(_) => return,
            }
            for event in &events {
                let number = event.data.u64();
                let waker = self.wakers().remove(&number);
                if let Some(waker) = waker {
                    wake(waker);
                }
                // A waker forked, and this is the child's only thread: the descriptors are its
                // parent's.
                if identity::token() != self.process {
                    return;
                }
            }
        }
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waker>> {
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes. A waker that panics must not keep the others asleep; the hook has reported it. The
/// payload of the panic is not dropped, since that could panic, too.
pub(in crate::shm) fn wake(waker: Waker) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| waker.wake())) {
        std::mem::forget(panic);
    }
}

/// One descriptor that futures wait for.
#[derive(Debug)]
pub(crate) struct Waiting {
    number: u64,
    reactor: Option<Arc<Reactor>>,
    /// Whether the reactor's epoll has the descriptor.
    known: bool,
}

impl Waiting {
    pub(crate) fn new() -> Self {
        Self { number: 0, reactor: None, known: false }
    }

    /// Wakes `waker` once, when `fd` is readable; an earlier one of this descriptor is forgotten.
    pub(crate) fn wake_when_readable(
        &mut self,
        fd: BorrowedFd<'_>,
        waker: &Waker,
    ) -> Result<(), Errno> {
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
        let reactor = match &mut self.reactor {
            Some(reactor) => reactor,
            none => {
                self.number = NUMBERS.fetch_add(1, Ordering::Relaxed);
                none.insert(Reactor::get()?)
            }
        };
        let waker = waker.clone();
        let before = reactor.wakers().insert(self.number, waker);
        let data = epoll::EventData::new_u64(self.number);
        let asked = if self.known {
            epoll::modify(&reactor.epoll, fd, data, flags)
        } else {
            epoll::add(&reactor.epoll, fd, data, flags)
        };
        self.known |= asked.is_ok();
        let unused = asked.is_err().then(|| reactor.wakers().remove(&self.number));
        drop((before, unused));
        asked
    }

    /// The descriptor is about to be closed. The waker is left to the caller to drop.
    pub(crate) fn end(&mut self, fd: BorrowedFd<'_>) -> Option<Waker> {
        let reactor = self.reactor.take()?;
        if std::mem::take(&mut self.known) {
            let _ = epoll::delete(&reactor.epoll, fd);
        }
        reactor.wakers().remove(&self.number)
    }
}

#[cold]
pub(crate) fn refused(errno: Errno) -> Error {
    // Of all that is asked for, only a thread is refused in this way.
    if errno == Errno::AGAIN {
        return Error::rule_as(
            errno,
            "clone",
            Subject::named("the thread that waits for all notifiers"),
            "this process may start no more threads, or has no memory for the stack of one",
            "end some, or raise the limit (ulimit -u, ulimit -v, a container's pids.max)",
        );
    }
    Error::kernel("epoll_ctl", errno, Subject::named("a notifier"))
}
