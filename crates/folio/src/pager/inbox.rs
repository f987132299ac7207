//! What reaches a shard from other threads: commands of handles, and the ends of requests.

use super::core::{Event, Failure, ObjectId, Ticket};
use super::shard::NewObject;
use super::stats::Stats;
use crate::source::request::Sink;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// How an operation ended.
pub(crate) type Outcome = Result<(), Failure>;

/// What a shard is asked.
pub(crate) enum Message {
    Attach(Box<NewObject>, SyncSender<Result<(ObjectId, usize), Errno>>),
    /// An event that nobody waits for.
    Tell(Event),
    /// An event that is answered.
    Ask(Box<dyn FnOnce(Ticket) -> Event + Send>, SyncSender<Outcome>),
    Resized {
        object: ObjectId,
        len: u64,
        done: SyncSender<Outcome>,
    },
    Stats(SyncSender<Stats>),
    SetBudget(usize),
    /// The runs that came into the map since the recording began.
    Recording(ObjectId, SyncSender<Vec<(u64, u64)>>),
    Resident(ObjectId, SyncSender<Vec<(u64, u64)>>),
    /// A request ended.
    Ended {
        id: u64,
        result: io::Result<usize>,
    },
    /// The pager is dropped: end when nothing is left.
    Close,
}

/// A queue with a descriptor to poll.
pub(crate) struct Inbox {
    queue: Mutex<Vec<Message>>,
    /// Whether the shard sleeps, or is about to: else it looks by itself.
    asleep: AtomicBool,
    bell: OwnedFd,
}

impl Inbox {
    pub(crate) fn new() -> Result<Self, Errno> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { queue: Mutex::new(Vec::new()), asleep: AtomicBool::new(false), bell })
    }

    pub(crate) fn send(&self, message: Message) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push(message);
        if self.asleep.swap(false, Ordering::SeqCst) {
            // Full (2^64 - 1 rings) is as good as rung.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Asks, and waits for the answer; `None` if the shard has ended.
    pub(crate) fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Message) -> Option<T> {
        let (sender, receiver): (_, Receiver<T>) = sync_channel(1);
        self.send(message(sender));
        receiver.recv().ok()
    }

    /// Takes what has come.
    pub(super) fn take(&self, into: &mut Vec<Message>) {
        std::mem::swap(&mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner), into);
    }

    /// Says that the shard is about to sleep; whether it may: nothing has come.
    pub(super) fn may_sleep(&self) -> bool {
        self.asleep.store(true, Ordering::SeqCst);
        let empty = self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
        if !empty {
            self.asleep.store(false, Ordering::SeqCst);
        }
        empty
    }

    /// The shard is awake.
    pub(super) fn awake(&self) {
        if !self.asleep.swap(false, Ordering::SeqCst) {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.bell, &mut count);
        }
    }

    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

impl Sink for Inbox {
    fn ended(&self, id: u64, result: io::Result<usize>) {
        self.send(Message::Ended { id, result });
    }
}
