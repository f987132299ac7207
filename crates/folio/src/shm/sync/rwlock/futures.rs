//! The futures of a lock for readers and writers.

use crate::error::Result;
use crate::shm::segment::owner::Owner;
use crate::shm::sync::lock::LOOKS;
use crate::shm::sync::mutex::guard::Locked;
use crate::shm::sync::reader_word::look_at_readers;
use crate::shm::sync::rwlock::{ReadLocked, ReaderWait, RwLock, open_to_all, parts, writing};
use crate::shm::value::share::Share;
use crate::shm::value::shared_ref::SharedRef;
use crate::shm::wait::process_notifier::Sleeper;
use crate::sys::identity;
use std::pin::Pin;
use std::task::{Context, Poll};

/// The future of a lock for reading.
#[derive(Debug)]
pub(in crate::shm) struct ReadFuture<'a, T: Share> {
    at: SharedRef<'a, RwLock<T>>,
    sleeper: Sleeper<'a>,
    /// It takes the lock for writing, since the value is torn.
    repairing: Option<WriteLockRequest<'a, T>>,
}

impl<'a, T: Share> ReadFuture<'a, T> {
    pub(in crate::shm) fn new(at: SharedRef<'a, RwLock<T>>) -> Self {
        Self { at, sleeper: Sleeper::new(at.attachment()), repairing: None }
    }
}

impl<'a, T: Share> Future for ReadFuture<'a, T> {
    type Output = Result<ReadLocked<'a, T>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { at, sleeper, repairing } = self.get_mut();
        let attachment = at.attachment();
        let lock = parts(*at).0;
        for _ in 0..LOOKS {
            if let Some(to_write) = repairing {
                let Poll::Ready(locked) = Pin::new(to_write).poll(context) else {
                    return Poll::Pending;
                };
                *repairing = None;
                if let Locked::Torn(torn) = locked? {
                    return Poll::Ready(Ok(ReadLocked::Torn(torn)));
                }
            }
            let (me, process) = attachment.enter()?;
            let seen = lock.word.load();
            // A reader that comes in and goes again notifies a waiting writer, and so this one.
            if seen == 0 {
                match at.enter(me, process)? {
                    ReaderWait::In(guard) => {
                        sleeper.cancel_wait();
                        return Poll::Ready(Ok(ReadLocked::Clean(guard)));
                    }
                    ReaderWait::ToRepair => {
                        sleeper.cancel_wait();
                        *repairing = Some(WriteLockRequest::new(*at));
                    }
                    ReaderWait::ToWait => {}
                }
                continue;
            }
            let holder = Owner::in_word(seen).filter(|&holder| attachment.is_alive(holder));
            if holder.is_none() {
                at.end_of_writer(seen, me);
                continue;
            }
            sleeper.prepare_wait(context.waker(), holder)?;
            if lock.word.announce_anew(seen) {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

/// The future of a lock for writing.
#[derive(Debug)]
pub(in crate::shm) struct WriteLockRequest<'a, T: Share> {
    at: SharedRef<'a, RwLock<T>>,
    sleeper: Sleeper<'a>,
    waits: Option<ReadersDrain>,
}

/// A writer's lock, held while there are readers.
#[derive(Debug, Clone, Copy)]
struct ReadersDrain {
    me: Owner,
    process: u64,
    torn: bool,
}

impl<'a, T: Share> WriteLockRequest<'a, T> {
    pub(in crate::shm) fn new(at: SharedRef<'a, RwLock<T>>) -> Self {
        Self { at, sleeper: Sleeper::new(at.attachment()), waits: None }
    }

    /// Whether a thread of another participant, or of this one, reads: then `context` is woken when
    /// it may have gone.
    fn has_readers(&mut self, context: &mut Context<'_>) -> Result<bool> {
        look_at_readers();
        while let Some((word, reader, seen)) = self.at.living_reader() {
            self.sleeper.prepare_wait(context.waker(), Some(reader))?;
            // It has a fence, as a reader has that leaves: one of the two sees the other.
            if word.reader().is_some_and(|(_, word)| word == seen) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl<'a, T: Share> Future for WriteLockRequest<'a, T> {
    type Output = Result<Locked<'a, T, RwLock<T>>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.go_on(context);
        if polled.is_ready() {
            self.sleeper.cancel_wait();
            self.give_up();
        }
        polled
    }
}

impl<'a, T: Share> WriteLockRequest<'a, T> {
    fn go_on(&mut self, context: &mut Context<'_>) -> Poll<Result<Locked<'a, T, RwLock<T>>>> {
        let at = self.at;
        let attachment = at.attachment();
        let (me, process) = attachment.enter()?;
        // A forked child's copy of a parent's future holds nothing.
        let held = self.waits.filter(|held| held.process == process);
        let held = if let Some(held) = held {
            held
        } else {
            let has_begun = || writing(at).has_begun();
            match parts(at).0.poll(&mut self.sleeper, context, me, has_begun)? {
                Poll::Ready(torn) => ReadersDrain { me, process, torn },
                Poll::Pending => return Poll::Pending,
            }
        };
        self.waits = Some(held);
        if self.has_readers(context)? {
            return Poll::Pending;
        }
        self.waits = None;
        Poll::Ready(Ok(at.begin(held.me, held.process, held.torn)))
    }

    /// Gives back the lock that it has while it waits for readers, if it does.
    fn give_up(&mut self) {
        if let Some(held) = self.waits.take().filter(|held| held.process == identity::token()) {
            open_to_all(self.at.attachment(), parts(self.at).0, held.me);
        }
    }
}

impl<T: Share> Drop for WriteLockRequest<'_, T> {
    fn drop(&mut self) {
        self.give_up();
    }
}
