//! The reading sides of a log.

use super::chain::{self, Next};
use super::checksum::checksum;
use super::link::Link;
use crate::error::{Errno, Error, Result};
use crate::shm::bell::Bell;
use crate::shm::doze::{ASLEEP, BELL};
use crate::shm::future::{self, Waiting};
use crate::shm::owner::Owner;
use crate::shm::wait::{Look, Phase, Wait};
use crate::shm::word::Corrupt;
use crate::sys;
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
    /// Behind the newest one: what is appended from now on.
    Newest,
    /// At the entry of this sequence number. If it is gone, the reader is told what it missed; if it is still to come, the
    /// entries before it are read too.
    At(u64),
}

/// What a reader comes to.
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

/// Reads a [`Log`](super::Log), from any point, as often as it likes. Nobody knows of it, and it takes nothing away: any number of
/// readers see every entry.
///
/// **Fork:** a child can use its copy as a reader of its own, but for the [`bell`](Self::bell) and futures if the parent used them.
#[derive(Debug)]
pub struct Reader {
    link: Link,
    chain: chain::Reader,
    wait: Wait,
    parks: u64,
    bell: Option<Box<Hanging>>,
    asked: Option<Instant>,
    waiting: Waiting,
}

/// A bell on one of the log's cords.
#[derive(Debug)]
struct Hanging {
    bell: Bell,
    cord: usize,
    process: u64,
}

impl Reader {
    pub(super) fn new(link: Link, start: Start) -> Result<Self> {
        link.attachment.check()?;
        let chain = begin(&link, start, "reader")?;
        Ok(Self {
            link,
            chain,
            wait: Wait::new(),
            parks: 0,
            bell: None,
            asked: None,
            waiting: Waiting::new(),
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
    /// EBADMSG if some process has written over the log; an error that says so if one has truncated it.
    pub fn seek(&mut self, start: Start) -> Result<()> {
        self.link.attachment.check()?;
        self.chain = begin(&self.link, start, "seek")?;
        Ok(())
    }

    /// The next entry, whose bytes replace what `buffer` held; or what was missed. It waits while there is none, as
    /// [`set_wait`](Self::set_wait) says.
    ///
    /// # Errors
    ///
    /// EPIPE when all entries were read and the writer has left or died (not if there has been none yet); it can be called
    /// again when there is a new one. ETIMEDOUT. EBADMSG if some process has written over the log; an error that says so if one has
    /// truncated it.
    #[inline]
    pub fn next(&mut self, buffer: &mut Vec<u8>) -> Result<Read> {
        self.link.attachment.check()?;
        match look(&self.link, &mut self.chain, buffer, "next")? {
            Some(read) => Ok(read),
            None => self.wait(buffer),
        }
    }

    /// The next entry, or what was missed, if there is something. It does not tell that the writer has left.
    ///
    /// # Errors
    ///
    /// As [`next`](Self::next), but for EPIPE and ETIMEDOUT.
    #[inline]
    pub fn try_next(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Read>> {
        self.link.attachment.check()?;
        match look(&self.link, &mut self.chain, buffer, "try_next")? {
            None if self.bell.is_some() => self.look_closely(buffer),
            read => Ok(read),
        }
    }

    /// A descriptor for poll(2), select(2) or epoll(7): readable when there is an entry, or when the writer has gone. It belongs to
    /// the reader.
    ///
    /// It can be readable for nothing, and is made unreadable by a [`try_next`](Self::try_next) that finds nothing: so call that until
    /// it does, then wait for the descriptor. A writer in another network namespace makes it readable as senders do
    /// [a receiver's](crate::shm::Receiver::bell).
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE; EAGAIN when 128 readers of the log have one.
    pub fn bell(&mut self) -> Result<BorrowedFd<'_>> {
        self.link.attachment.check()?;
        let process = sys::identity::token();
        if let Some(hanging) = self.bell.as_ref()
            && hanging.process != process
        {
            return Err(Error::rule_as(
                Errno::PERM,
                "bell",
                self.link.subject(),
                "a bell stays with the process that made it, and this is a forked child",
                "make a reader in the child, from the `Log`",
            ));
        }
        if self.bell.is_none() {
            let bell = Bell::new(&self.link.attachment)?;
            let Some(cord) = tie(&bell, &self.link) else {
                return Err(Error::rule_as(
                    Errno::AGAIN,
                    "bell",
                    self.link.subject(),
                    format!("at most {} readers of a log can have a bell", super::link::BELLS),
                    "wait with `next`, or have one reader's bell tell several",
                ));
            };
            self.bell = Some(Box::new(Hanging { bell, cord, process }));
            self.arm();
            // Whatever there is or not: the first look is the caller's.
            self.ring();
        }
        match &self.bell {
            Some(hanging) => Ok(hanging.bell.as_fd()),
            None => unreachable!("it was just made"),
        }
    }

    /// A future of the next entry, or what was missed. It needs no runtime: a thread of its own, one for the process, waits for the
    /// bells of all readers.
    ///
    /// Errors are those of [`next`](Self::next) and [`bell`](Self::bell).
    pub fn next_async<'a>(&'a mut self, buffer: &'a mut Vec<u8>) -> NextEntry<'a> {
        NextEntry { reader: self, buffer }
    }

    /// There was nothing, and the bell has to ring for what comes.
    fn look_closely(&mut self, buffer: &mut Vec<u8>) -> Result<Option<Read>> {
        if let Some(hanging) = self.bell.as_ref().filter(|bell| bell.process == sys::identity::token()) {
            hanging.bell.hush();
            self.arm();
            if self.chain.is_ready(&self.link) {
                // A descriptor that is readable once too often does no harm.
                self.ring();
                return look(&self.link, &mut self.chain, buffer, "try_next");
            }
        }
        Ok(None)
    }

    fn ring(&self) {
        if let Some(hanging) = &self.bell {
            hanging.bell.ring();
        }
    }

    /// From here on the next entry rings.
    fn arm(&mut self) {
        let control = self.link.control();
        if let Some(hanging) = &mut self.bell {
            hanging.bell.reach(&self.link.attachment);
            if !hanging.bell.is_tied(&control.bells[hanging.cord], &self.link.attachment)
                && let Some(cord) = tie(&hanging.bell, &self.link)
            {
                hanging.cord = cord;
            }
            // Where there is no cord left it rings by itself, every half second.
            if hanging.bell.is_tied(&control.bells[hanging.cord], &self.link.attachment) {
                hanging.bell.arm(&control.bells[hanging.cord]);
            }
        }
        control.readers.0.lie_down(BELL, || self.chain.is_ready(&self.link));
        let attachment = &self.link.attachment;
        let writer = Owner::in_word(control.writer.0.owner.load(Ordering::Acquire));
        let others =
            writer.into_iter().filter(|&owner| owner != attachment.me() && attachment.is_alive(owner));
        if let Some(hanging) = &mut self.bell {
            hanging.bell.watch(attachment, others);
        }
    }

    #[cold]
    fn wait(&mut self, buffer: &mut Vec<u8>) -> Result<Read> {
        let Self { link, chain, parks, wait, .. } = self;
        let doze = &link.control().readers.0;
        let mut first = true;
        wait.until(&link.attachment, "next", &doze.0, |phase| {
            if let Some(read) = look(link, chain, buffer, "next")? {
                return Ok(Look::Done(read));
            }
            let Phase::Park { ask } = phase else { return Ok(Look::Again) };
            // The first time is no slice: a writer that appended lately lives.
            let ask = ask && !std::mem::take(&mut first);
            if let Some(died) = writer_gone(link, ask) {
                // What it appended before it went is there by now.
                let read = look(link, chain, buffer, "next")?;
                return read.map(Look::Done).ok_or_else(|| alone(link, died));
            }
            if wait.never_parks() {
                return Ok(Look::Again);
            }
            // Others may sleep on the same word: the announcement stays. A writer that left before it told nobody.
            let is_ready = || chain.is_ready(link) || writer_gone(link, false).is_some();
            let Some(word) = doze.lie_down(ASLEEP, is_ready) else { return Ok(Look::Again) };
            *parks += 1;
            Ok(Look::Sleep(word))
        })
    }
}

/// Ties a bell to one of the log's cords, if one is free.
fn tie(bell: &Bell, link: &Link) -> Option<usize> {
    link.control().bells.iter().position(|cord| bell.try_tie(cord, &link.attachment))
}

#[inline]
fn look(
    link: &Link,
    chain: &mut chain::Reader,
    buffer: &mut Vec<u8>,
    call: &'static str,
) -> Result<Option<Read>> {
    // Who is overtaken is told what it missed, but where the numbers stay the same: which no writer does for long.
    for _ in 0..1000 {
        let next = chain.next(link).map_err(|corrupt| link.corrupt(call, corrupt))?;
        match next {
            Next::Nothing => return Ok(None),
            Next::Entry(found) => {
                link.copy_out(found.at, found.len, buffer)?;
                let confirmed = chain.confirm(link, &found);
                if !confirmed.map_err(|corrupt| link.corrupt(call, corrupt))? {
                    continue;
                }
                if checksum(found.seq, buffer) != found.checksum {
                    let what = "an entry's bytes do not agree with its checksum";
                    return Err(link.corrupt(call, Corrupt { what, at: found.position }));
                }
                return Ok(Some(Read::Entry(found.seq)));
            }
            Next::Overtaken => {
                let missed = chain.catch_up(link);
                let missed = missed.map_err(|corrupt| link.corrupt(call, corrupt))?;
                if let Some((first, count)) = missed {
                    return Ok(Some(Read::Missed { first, count }));
                }
            }
        }
    }
    let what = "the log changes whenever it is looked at";
    Err(link.corrupt(call, Corrupt { what, at: chain.seq() }))
}

/// Whether there was a writer and is none, and it died. Asking the kernel takes a system call.
fn writer_gone(link: &Link, ask: bool) -> Option<bool> {
    let owner = Owner::in_word(link.control().writer.0.owner.load(Ordering::Acquire))?;
    if owner == Owner::NOBODY {
        return Some(false);
    }
    (ask && !link.attachment.is_alive(owner)).then_some(true)
}

#[cold]
fn alone(link: &Link, died: bool) -> Error {
    let how = if died { "has died" } else { "has left" };
    Error::rule_as(
        Errno::PIPE,
        "next",
        link.subject(),
        format!("all entries were read, and the writer {how}"),
        "the log stays as it is; go on when there is a new writer",
    )
}

fn begin(link: &Link, start: Start, call: &'static str) -> Result<chain::Reader> {
    let capacity = link.capacity();
    match start {
        Start::Oldest => chain::Reader::at_oldest(link, capacity),
        Start::Newest => chain::Reader::at_newest(link, capacity),
        Start::At(seq) => chain::Reader::at_seq(link, capacity, seq),
    }
    .map_err(|corrupt| link.corrupt(call, corrupt))
}

impl Drop for Reader {
    fn drop(&mut self) {
        // Before the attachment: what it has in the directory goes before the segment's name.
        if let Some(hanging) = self.bell.take_if(|bell| bell.process == sys::identity::token()) {
            self.waiting.end(hanging.bell.as_fd());
            hanging.bell.untie(&self.link.control().bells[hanging.cord], &self.link.attachment);
        }
    }
}

/// The next entry, when it comes; see [`Reader::next_async`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct NextEntry<'a> {
    reader: &'a mut Reader,
    buffer: &'a mut Vec<u8>,
}

impl Future for NextEntry<'_> {
    type Output = Result<Read>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<Read>> {
        let Self { reader, buffer } = self.get_mut();
        if let Err(error) = reader.bell() {
            return Poll::Ready(Err(error));
        }
        match reader.try_next(buffer) {
            Ok(None) => {}
            Ok(Some(read)) => return Poll::Ready(Ok(read)),
            Err(error) => return Poll::Ready(Err(error)),
        }
        let now = Instant::now();
        let ask = reader.asked.is_none_or(|asked| now - asked >= ASK);
        if ask {
            reader.asked = Some(now);
        }
        if let Some(died) = writer_gone(&reader.link, ask) {
            // What it appended before it went is there by now.
            return Poll::Ready(match look(&reader.link, &mut reader.chain, buffer, "next") {
                Ok(Some(read)) => Ok(read),
                Ok(None) => Err(alone(&reader.link, died)),
                Err(error) => Err(error),
            });
        }
        let fd = reader.bell.as_ref().map(|hanging| hanging.bell.as_fd());
        match fd.map(|fd| reader.waiting.wake_when_readable(fd, context.waker())) {
            Some(Err(errno)) => Poll::Ready(Err(future::refused(errno))),
            _ => Poll::Pending,
        }
    }
}
