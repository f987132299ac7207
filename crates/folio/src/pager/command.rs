//! Commands of handles, and the ends of requests: the driver thread takes them from other threads.

use super::core::{AccessPattern, CoreEvent, Failure, ObjectId, Ticket};
use super::page_hashes::FILE_BYTES;
use super::source_facts::{SourceAccess, VersionRule};
use super::stats::Stats;
use super::wake_queue::{WakeQueue, WakeSignal};
use crate::source::request::Sink;
use crate::source::{LocalFile, Source, Version};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// An object to attach.
pub(crate) struct NewObject {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) name: String,
    pub(crate) reach: SourceAccess,
    pub(crate) len: u64,
    /// Bytes of addresses, for growth.
    pub(crate) reserve: u64,
    pub(crate) shows: VersionRule,
    /// The version of a source that is to be written, if it has one.
    pub(crate) stamp: Option<Version>,
    /// As the source says, in bytes.
    pub(crate) block: usize,
    pub(crate) deadline: Duration,
    pub(crate) tracked: bool,
    pub(crate) private: bool,
    /// Shared by handles: on the memfd store.
    pub(crate) shared: bool,
    pub(crate) pattern: AccessPattern,
}

/// How an operation ended.
pub(crate) type CommandResult = Result<(), Failure>;

/// A command for the driver thread.
pub(crate) enum Command {
    Attach(Box<NewObject>, SyncSender<Result<(ObjectId, usize), Errno>>),
    /// An event that nobody waits for.
    Tell(CoreEvent),
    /// The last handle is gone. `held` is dropped when nothing is under way any more.
    Detach {
        object: ObjectId,
        held: Option<Box<dyn Send>>,
    },
    /// An event that is answered.
    Ask(Box<dyn FnOnce(Ticket) -> CoreEvent + Send>, SyncSender<CommandResult>),
    Resized {
        object: ObjectId,
        len: u64,
        done: SyncSender<CommandResult>,
    },
    /// The source's length is about to be changed, or was not changed after all.
    Resizing {
        object: ObjectId,
        on: bool,
    },
    /// The version of a source that is written.
    Looked {
        object: ObjectId,
        version: io::Result<Version>,
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
    /// The file for an object's private pages was made.
    SpillMade {
        object: ObjectId,
        file: io::Result<LocalFile>,
    },
    /// Leaves of hashes were written, by their numbers, or could not be.
    LeavesWritten {
        object: ObjectId,
        leaves: Vec<(u64, u64)>,
        result: io::Result<()>,
    },
    /// A leaf of hashes was read.
    LeafLoaded {
        object: ObjectId,
        leaf: u64,
        bytes: io::Result<Box<[u8; FILE_BYTES]>>,
    },
    /// The pager is dropped: end when nothing is left.
    Close,
}

/// A descriptor to poll: readable once it was rung.
struct EventFd(OwnedFd);

impl WakeSignal for EventFd {
    fn raise(&self) {
        // Full (2^64 - 1 rings) is as good as rung.
        let _ = rustix::io::write(&self.0, &1_u64.to_ne_bytes());
    }

    fn clear(&self) -> u64 {
        let mut count = [0; 8];
        match rustix::io::read(&self.0, &mut count) {
            Ok(8) => u64::from_ne_bytes(count),
            _ => 0,
        }
    }
}

/// A queue with a descriptor to poll.
pub(crate) struct CommandQueue(WakeQueue<Command, EventFd>);

impl CommandQueue {
    pub(crate) fn new() -> Result<Self, Errno> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(WakeQueue::new(EventFd(bell))))
    }

    pub(crate) fn send(&self, message: Command) {
        self.0.send(message);
    }

    /// Asks, and waits for the answer; `None` if the driver has ended.
    pub(crate) fn ask<T>(&self, message: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (sender, receiver): (_, Receiver<T>) = sync_channel(1);
        self.send(message(sender));
        receiver.recv().ok()
    }

    /// Takes what has come.
    pub(super) fn take(&self, into: &mut Vec<Command>) {
        self.0.take(into);
    }

    /// Says that the driver is about to sleep; whether it may: nothing has come.
    pub(super) fn may_sleep(&self) -> bool {
        self.0.may_sleep()
    }

    /// The driver is awake.
    pub(super) fn awake(&self) {
        self.0.awake();
    }

    pub(super) fn signal(&self) -> BorrowedFd<'_> {
        self.0.signal().0.as_fd()
    }
}

impl Sink for CommandQueue {
    fn ended(&self, id: u64, result: io::Result<usize>) {
        self.send(Command::Ended { id, result });
    }
}
