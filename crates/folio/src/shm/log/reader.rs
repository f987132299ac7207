//! The reading sides of a log.

use super::checksum::checksum;
use super::entries::{self, ReadStep};
use super::link::LogMemory;
use crate::error::{Errno, Error, Result};
use crate::shm::ring::message_header::Corrupt;
use crate::shm::segment::owner::Owner;
use crate::shm::wait::eventcount::{ASLEEP, NOTIFIED};
use crate::shm::wait::poll_handle::{self, PollHandle, Pollable};
use crate::shm::wait::{Check, Wait, WaitPhase};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often a look that finds nothing asks whether the writer still lives.
const ASK: Duration = Duration::from_millis(20);

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the oldest entry that is still there.
    Oldest,
    /// Behind the newest one: the entries that are appended from now on.
    Newest,
    /// At the entry of this sequence number. If it is gone, the reader is told what it missed; if
    /// it is still to come, the entries before it are read too.
    At(u64),
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// An entry, of this sequence number. Its bytes are in the buffer.
    Entry(u64),
    /// Entries that were overwritten before this reader came to them. It goes on behind them.
    Missed {
        /// The first one's sequence number.
        first: u64,
        /// How many they are.
        count: u64,
    },
}

/// Reads a [`Log`](super::Log), from any point, as often as it likes. Nobody knows of it, and it
/// takes nothing away: any number of readers see every entry.
///
/// **Fork:** a child can use its copy as a reader of its own, but for the
/// [`poll_fd`](Self::poll_fd) and futures if the parent used them.
#[derive(Debug)]
pub struct LogReader {
    link: LogMemory,
    chain: entries::EntryReader,
    wait: Wait,
    parks: u64,
    notifier: Option<Box<PollHandle>>,
    asked: Option<Instant>,
    /// When it last asked for the log's name.
    checked: Option<Instant>,
}

impl LogReader {
    pub(super) fn new(link: LogMemory, start: Start) -> Result<Self> {
        link.attachment.check()?;
        let chain = begin(&link, start, "reader")?;
        Ok(Self {
            link,
            chain,
            wait: Wait::new(),
            parks: 0,
            notifier: None,
            asked: None,
            checked: None,
        })
    }

    /// How it waits for entries. [`Wait::new`] at first.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// How often it slept while it waited.
    pub fn parks(&self) -> u64 {
        self.parks
    }

    /// The sequence number of the entry that it comes to next.
    pub fn next_seq(&self) -> u64 {
        self.chain.seq()
    }

    /// Goes on from somewhere else.
    ///
    /// # Errors
    ///
    /// EBADMSG if some process has written over the log; an error that says so if one has truncated
    /// it.
    pub fn seek(&mut self, start: Start) -> Result<()> {
        self.link.attachment.check()?;
        self.chain = begin(&self.link, start, "seek")?;
        // Its notifier was armed for entries behind the other place.
        self.ring();
        Ok(())
    }

    /// The next entry, whose bytes replace the contents of `buffer`; or the entries that were
    /// missed. It waits while there is none, as [`set_wait`](Self::set_wait) says.
    ///
    /// # Errors
    ///
    /// EPIPE when all entries were read and the writer has left or died (not if there has been none
    /// yet); it can be called again when there is a new one. ETIMEDOUT. EBADMSG if some process has
    /// written over the log; an error that says so if one has truncated it.
    #[inline]
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Read> {
        self.link.attachment.check()?;
        match look(&self.link, &mut self.chain, buffer, "next")? {
            Some(read) => Ok(read),
            None => self.wait(buffer),
        }
    }

    /// The next entry, or the entries that were missed, if there is one. It does not report that
    /// the writer has left.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), but for EPIPE and ETIMEDOUT.
    #[inline]
    pub fn try_next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Read>> {
        self.link.attachment.check()?;
        match look(&self.link, &mut self.chain, buffer, "try_next")? {
            None => self.recheck_after_arming(buffer),
            read => Ok(read),
        }
    }

    /// A descriptor for poll(2), select(2) or epoll(7): readable when there is an entry, or when
    /// the writer has gone. It belongs to the reader.
    ///
    /// It can be readable for nothing, and is made unreadable by a [`try_next`](Self::try_next)
    /// that finds nothing: so call that until it does, then wait for the descriptor. A writer in
    /// another network namespace makes it readable as senders do [a
    /// receiver's](crate::shm::Receiver::poll_fd).
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE; EAGAIN when 128 readers of the log have one.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>> {
        Ok(self.poll_handle()?.as_fd())
    }

    /// A future of the next entry, or of the entries that were missed. It needs no runtime: a
    /// thread of its own, one for the process, waits for the notifiers of all readers.
    ///
    /// Errors are those of [`next`](Self::next) and [`poll_fd`](Self::poll_fd).
    pub fn next_async<'a>(&'a mut self, buffer: &'a mut Vec<u8>) -> NextFuture<'a> {
        NextFuture { reader: self, buffer }
    }

    /// There was nothing. Does the notifier have to ring for what comes, and can anything come?
    fn recheck_after_arming(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Read>> {
        if let Some(notifier) = self.notifier.as_ref().filter(|notifier| notifier.is_here()) {
            notifier.clear();
            self.arm();
            if self.chain.is_ready(&self.link) {
                // A descriptor that is readable once too often does no harm.
                self.ring();
                return look(&self.link, &mut self.chain, buffer, "try_next");
            }
        }
        let now = Instant::now();
        if self.notifier.is_some() || self.checked.is_none_or(|checked| now - checked >= ASK) {
            self.checked = Some(now);
            self.link.attachment.check_name()?;
        }
        Ok(None)
    }

    /// The next entry, if there is one, or that none will come.
    fn next_or_end(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Read>> {
        if let Some(read) = self.try_next(buffer)? {
            return Ok(Some(read));
        }
        let now = Instant::now();
        // Of a writer that had died when the notifier was armed no ring will tell.
        let ask = self.asked.is_none_or(|asked| now - asked >= ASK) || self.notifier.is_some();
        if ask {
            self.asked = Some(now);
        }
        let Some(died) = writer_gone(&self.link, ask) else { return Ok(None) };
        // Entries that it appended before it went are there by now.
        let read = look(&self.link, &mut self.chain, buffer, "next")?;
        read.map(Some).ok_or_else(|| disconnected(&self.link, died))
    }

    fn ring(&self) {
        if let Some(notifier) = self.notifier.as_ref().filter(|notifier| notifier.is_here()) {
            notifier.signal();
        }
    }

    /// From here on the next entry rings.
    fn arm(&mut self) {
        let Self { link, chain, notifier, .. } = self;
        let (control, Some(notifier)) = (link.control(), notifier) else { return };
        notifier.arm(&link.attachment, &control.notifiers);
        control.readers.0.prepare_wait_and_settle(NOTIFIED, || chain.is_ready(link));
        let writer = Owner::in_word(control.writer.0.owner.load(Ordering::Acquire));
        notifier.watch(&link.attachment, writer.into_iter());
    }

    #[cold]
    fn wait(&mut self, buffer: &mut Vec<u8>) -> Result<Read> {
        let Self { link, chain, parks, wait, .. } = self;
        let event_count = &link.control().readers.0;
        let mut first = true;
        wait.until_counted(&link.attachment, "next", &event_count.0, parks, |phase| {
            if let Some(read) = look(link, chain, buffer, "next")? {
                return Ok(Check::Done(read));
            }
            let WaitPhase::Park { ask } = phase else { return Ok(Check::Again) };
            // The first time is no slice: a writer that appended lately lives.
            let ask = ask && !std::mem::take(&mut first);
            if let Some(died) = writer_gone(link, ask) {
                // Entries that it appended before it went are there by now.
                let read = look(link, chain, buffer, "next")?;
                return read.map(Check::Done).ok_or_else(|| disconnected(link, died));
            }
            if wait.never_parks() {
                return Ok(Check::Again);
            }
            // Others may sleep on the same word: the announcement stays. A writer that left before
            // it told nobody.
            let is_ready = || chain.is_ready(link) || writer_gone(link, false).is_some();
            let Some(word) = event_count.prepare_wait_and_settle(ASLEEP, is_ready) else {
                return Ok(Check::Again);
            };
            Ok(Check::Sleep(word))
        })
    }
}

#[inline]
fn look(
    link: &LogMemory,
    chain: &mut entries::EntryReader,
    buffer: &mut Vec<u8>,
    call: &'static str,
) -> Result<Option<Read>> {
    let corrupt = |corrupt| link.corrupt(call, corrupt);
    let step = chain.read(link, corrupt, |found| link.copy_to(found.at, found.len, buffer))?;
    match step {
        Some(ReadStep::Entry(found)) if checksum(found.seq, buffer) != found.checksum => {
            let what = "an entry's bytes do not agree with its checksum";
            Err(corrupt(Corrupt { what, at: found.position }))
        }
        Some(ReadStep::Entry(found)) => Ok(Some(Read::Entry(found.seq))),
        Some(ReadStep::Missed(first, count)) => Ok(Some(Read::Missed { first, count })),
        None => Ok(None),
    }
}

/// Whether there was a writer and is none, and it died. Asking the kernel takes a system call.
fn writer_gone(link: &LogMemory, ask: bool) -> Option<bool> {
    let owner = Owner::in_word(link.control().writer.0.owner.load(Ordering::Acquire))?;
    if owner == Owner::NOBODY {
        return Some(false);
    }
    (ask && !link.attachment.is_alive(owner)).then_some(true)
}

#[cold]
fn disconnected(link: &LogMemory, died: bool) -> Error {
    let remedy = "the log stays as it is; go on when there is a new writer".to_owned();
    link.alone("next", "all entries were read, and the writer", died, remedy)
}

fn begin(link: &LogMemory, start: Start, call: &'static str) -> Result<entries::EntryReader> {
    let capacity = link.capacity();
    match start {
        Start::Oldest => entries::EntryReader::at_oldest(link, capacity),
        Start::Newest => entries::EntryReader::at_newest(link, capacity),
        Start::At(seq) => entries::EntryReader::at_seq(link, capacity, seq),
    }
    .map_err(|corrupt| link.corrupt(call, corrupt))
}

impl Pollable for LogReader {
    fn poll_handle(&mut self) -> Result<&mut PollHandle> {
        self.link.attachment.check()?;
        if self.notifier.as_ref().is_some_and(|notifier| !notifier.is_here()) {
            return Err(Error::rule_as(
                Errno::PERM,
                "poll_fd",
                self.link.subject(),
                "a notifier stays with the process that made it, and this is a forked child",
                "make a reader in the child, from the `Log`",
            ));
        }
        if self.notifier.is_none() {
            let Some(notifier) =
                PollHandle::with_any_slot(&self.link.attachment, &self.link.control().notifiers)?
            else {
                return Err(Error::rule_as(
                    Errno::AGAIN,
                    "poll_fd",
                    self.link.subject(),
                    format!(
                        "at most {} readers of a log can have a notifier",
                        super::link::NOTIFIERS
                    ),
                    "wait with `next`, or have one reader's notifier tell several",
                ));
            };
            self.notifier = Some(Box::new(notifier));
            self.arm();
            // Whatever there is or not: the first look is the caller's.
            self.ring();
        }
        // It was just made, if there was none.
        Ok(self.notifier.as_mut().expect("a notifier that was just made"))
    }
}

impl Drop for LogReader {
    fn drop(&mut self) {
        // Before the attachment: its files in the directory go before the segment's name.
        if let Some(mut notifier) = self.notifier.take_if(|notifier| notifier.is_here()) {
            notifier.end(&self.link.attachment, &self.link.control().notifiers);
        }
    }
}

/// The next entry, when it comes; see [`LogReader::next_async`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct NextFuture<'a> {
    reader: &'a mut LogReader,
    buffer: &'a mut Vec<u8>,
}

impl Future for NextFuture<'_> {
    type Output = Result<Read>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Read>> {
        let Self { reader, buffer } = self.get_mut();
        poll_handle::poll(*reader, context, |reader| reader.next_or_end(buffer))
    }
}
