//! The handles that have an object mapped: many readers, or one writer, or many shared writers. The
//! work of all handles is here.

pub(super) mod registry;

use super::at_exit::ExitFlush;
use super::command::{Command, NewObject};
use super::core::{
    AccessPattern as Reading, CoreEvent, Failure, FailureReason, ObjectId, PinnedRange,
};
use super::source_facts::{Purpose, SourceFacts};
use super::writer_lock::{LockAttempt, WriterLock};
use super::{Inner, ended, store};
use crate::advice::{Advice, Pattern};
use crate::error::{Errno, Error, Fault, FaultCause, Result, Subject};
use crate::page;
use crate::pager::object::registry::{MapConflict, ObjectEntry, RegistryEntry};
use crate::source::file::stamp::Stamp;
use crate::source::function::caught;
use crate::source::{LocalFile, Source, Version};
use std::io;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An object and its memory, for as long as a handle has it.
pub(crate) struct MappedObject {
    pager: Arc<Inner>,
    object: ObjectId,
    source: Arc<dyn Source>,
    purpose: Purpose,
    start: usize,
    reserve: u64,
    /// When it was opened.
    len: usize,
    name: String,
    /// The claim that lasts until all is written.
    held: ObjectClaim,
}

/// The claims that keep others from an object, and the entry by which it is written at the end of
/// the program.
struct ObjectClaim {
    promise: Option<ExitFlush>,
    lock: Option<WriterLock>,
    place: Option<RegistryEntry>,
}

impl std::fmt::Debug for MappedObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lease")
            .field("name", &self.name)
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// The cause of a page's failure, for the caller.
fn cause_of(reason: &FailureReason) -> (FaultCause, Option<String>) {
    match reason {
        FailureReason::Source { message, .. } => {
            (FaultCause::SourceFailed, Some(message.to_string()))
        }
        FailureReason::Short => {
            (FaultCause::SourceFailed, Some("it gave fewer bytes than its length".to_owned()))
        }
        FailureReason::Changed => (FaultCause::Changed, None),
        FailureReason::Deadline => (FaultCause::Deadline, None),
        FailureReason::NoMemory => (FaultCause::NoMemory, None),
        FailureReason::Unwritten { message, .. } => {
            (FaultCause::NoMemory, Some(format!("the write-back of dirty pages failed: {message}")))
        }
        FailureReason::PastEnd => (FaultCause::PastEnd, None),
        FailureReason::Refused { errno } => {
            (FaultCause::NoBacking, Some(io::Error::from_raw_os_error(*errno).to_string()))
        }
        FailureReason::Busy => {
            (FaultCause::NoBacking, Some("direct I/O holds the page".to_owned()))
        }
    }
}

impl MappedObject {
    pub(crate) fn open(
        pager: &Arc<Inner>,
        source: Arc<dyn Source>,
        purpose: Purpose,
        pattern: Pattern,
    ) -> Result<(Arc<Self>, usize)> {
        pager.check_owner_process("map")?;
        let (answers, place) = loop {
            let answers = SourceFacts::ask(&*source, purpose)?;
            let Some(identity) = answers.identity else { break (answers, None) };
            match RegistryEntry::enter(
                identity,
                pager.number(),
                purpose,
                (answers.version, answers.shows),
            ) {
                Ok(ObjectEntry::New(place)) => break (answers, Some(place)),
                Ok(ObjectEntry::Shared(lease)) => {
                    let len = lease.len;
                    return Ok((lease, len));
                }
                // That map's stores may have changed the source since it was asked.
                Ok(ObjectEntry::Waited) => {}
                Err(conflict) => return Err(in_use(Subject::named(answers.name), &conflict)),
            }
        };
        let SourceFacts { name, mut len, shows, block, deadline, reach, .. } = answers;
        let subject = || Subject::named(name.clone());
        let failed = |error: io::Error| {
            let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
            Error::rule_as(
                errno,
                "map",
                subject(),
                error.to_string(),
                "see whether the source can be read",
            )
        };
        let file = reach.file().cloned();
        let written = matches!(purpose, Purpose::Write | Purpose::Shared);
        let lock = match file.as_deref().filter(|_| written) {
            Some(file) => lock(pager, file, subject)?,
            None => None,
        };
        if lock.is_some() {
            // The pager of another process may have had the file until now.
            len = caught(|| source.len()).map_err(failed)?;
        }
        if usize::try_from(len).is_err() || len > 1 << 46 {
            let rule = "the source is longer than the addresses of a process";
            return Err(Error::rule_as(
                Errno::OVERFLOW,
                "map",
                subject(),
                rule,
                "map a part of it",
            ));
        }
        // After the lock: pagers of other processes write no more. Shared handles take the first
        // one's.
        let stamp = match &file {
            _ if !written => None,
            Some(file) if file.tells_of_writes() => {
                Some(file.stamp().map(Stamp::content).map_err(failed)?)
            }
            Some(_) => None,
            None => Some(caught(|| source.version()).map_err(failed)?)
                .filter(|&version| version != Version::CONSTANT),
        };
        let attach = |reserve: u64| {
            let new = NewObject {
                source: Arc::clone(&source),
                name: name.clone(),
                reach: reach.clone(),
                len,
                reserve,
                shows,
                stamp,
                block,
                deadline,
                tracked: purpose != Purpose::Read,
                private: purpose == Purpose::Private,
                shared: purpose == Purpose::Shared,
                pattern: reading(pattern),
            };
            pager.inbox.ask(|reply| Command::Attach(Box::new(new), reply)).ok_or_else(ended)
        };
        // Addresses for growth are worth less than the map.
        let wished = if written { (2 * len).max(len + (1 << 30)) } else { len };
        let (reserve, attached) = match attach(wished)? {
            Err(Errno::NOMEM) if wished > len => (len, attach(len)?),
            attached => (wished, attached),
        };
        let (object, start) = attached.map_err(|errno| {
            let asked = store::address_bytes(reserve, purpose == Purpose::Shared);
            Error::kernel("mmap", errno, subject().with_length(asked))
        })?;
        let promise = written.then(|| ExitFlush::new(&pager.inbox, object, &name));
        let lease = Arc::new(Self {
            pager: Arc::clone(pager),
            object,
            source,
            purpose,
            start,
            reserve,
            len: len as usize,
            name,
            held: ObjectClaim { promise, lock, place },
        });
        if let Some(place) = &lease.held.place {
            place.opened(&lease);
        }
        Ok((lease, len as usize))
    }

    pub(crate) fn start(&self) -> *mut u8 {
        self.start as *mut u8
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn purpose(&self) -> Purpose {
        self.purpose
    }

    fn refused(&self, call: &'static str, error: &io::Error) -> Error {
        let errno = error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error);
        let subject = Subject::named(self.name.clone());
        Error::rule_as(errno, call, subject, error.to_string(), "see whether the source allows it")
    }

    fn page() -> usize {
        rustix::param::page_size()
    }

    /// Bytes that a checked copy pins at once: a small part of the budget, so that a long copy
    /// needs no more than other maps' dirty pages and pins leave.
    pub(crate) fn piece(&self) -> usize {
        const MOST: usize = 1 << 20;
        let share = (self.pager.budget() / 32).min(MOST);
        (share - share % Self::page()).max(Self::page())
    }

    /// The bytes that `range` means.
    pub(crate) fn bytes(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
        len: usize,
    ) -> Result<Range<usize>> {
        let asked = (range.start_bound().cloned(), range.end_bound().cloned());
        page::resolve(range, len).ok_or_else(|| {
            let subject = Subject::named(self.name.clone()).with_detail(page::written(&asked));
            let rule = format!("the range is not inside the map's {len} bytes");
            Error::rule(call, subject, rule, format!("ask for a part of 0..{len}"))
        })
    }

    fn pages(range: &Range<usize>) -> (u64, u64) {
        if range.is_empty() {
            let page = (range.start / Self::page()) as u64;
            return (page, page);
        }
        ((range.start / Self::page()) as u64, range.end.div_ceil(Self::page()) as u64)
    }

    fn post(&self, call: &'static str, event: CoreEvent) -> Result<()> {
        self.pager.check_owner_process(call)?;
        self.pager.inbox.send(Command::Tell(event));
        Ok(())
    }

    fn ask(
        &self,
        call: &'static str,
        range: &Range<usize>,
        make: impl FnOnce(super::core::Ticket) -> CoreEvent + Send + 'static,
    ) -> Result<()> {
        self.pager.check_owner_process(call)?;
        let outcome =
            self.pager.inbox.ask(|reply| Command::Ask(Box::new(make), reply)).ok_or_else(ended)?;
        outcome.map_err(|failure| self.fault(call, range, &failure))
    }

    /// A page's failure, as an error about the bytes that were asked for.
    fn fault(&self, call: &'static str, range: &Range<usize>, failure: &Failure) -> Error {
        let page = failure.page as usize * Self::page();
        let start = page.clamp(range.start, range.end.max(range.start));
        let end = (page + Self::page()).clamp(start, range.end.max(start));
        let (cause, detail) = cause_of(&failure.reason);
        let cause = if call == "sync" && cause == FaultCause::SourceFailed {
            FaultCause::NotWritten
        } else {
            cause
        };
        let detail = detail.or_else(|| {
            let foreign = call == "sync" && cause == FaultCause::Changed;
            foreign.then(|| {
                "someone else has written to it, and whole pages would overwrite that; a pager with merge_stores writes the \
                 stored bytes only"
                    .to_owned()
            })
        });
        let object = self.name.clone();
        Fault { call, object, range: start..end, file_offset: Some(start as u64), cause, detail }
            .into()
    }

    pub(crate) fn prefetch(&self, ranges: &[Range<usize>], len: usize) -> Result<()> {
        let mut runs = Vec::with_capacity(ranges.len());
        for range in ranges {
            runs.push(Self::pages(&self.bytes("prefetch", range.clone(), len)?));
        }
        self.post("prefetch", CoreEvent::Prefetch { object: self.object, runs })
    }

    /// Keeps a range in the map; with `stores` it can be stored to without a fault, and stays
    /// dirty.
    pub(crate) fn pin(&self, call: &'static str, range: &Range<usize>, stores: bool) -> Result<()> {
        let object = self.object;
        let (first, end) = Self::pages(range);
        let pin = PinnedRange { first, end, stores };
        self.ask(call, range, move |ticket| CoreEvent::Pin { object, pin, ticket })
    }

    pub(crate) fn unpin(&self, range: &Range<usize>, stores: bool) {
        let (first, end) = Self::pages(range);
        let pin = PinnedRange { first, end, stores };
        // In a child nothing is pinned.
        let _ = self.post("unpin", CoreEvent::Unpin { object: self.object, pin });
    }

    pub(crate) fn advise(&self, range: Range<usize>, advice: Advice) -> Result<()> {
        let object = self.object;
        let pattern = match advice {
            Advice::Normal => Reading::Normal,
            Advice::Random => Reading::Random,
            Advice::Sequential => Reading::Sequential,
            Advice::WillNeed => {
                let runs = vec![Self::pages(&range)];
                return self.post("advise", CoreEvent::Prefetch { object, runs });
            }
            Advice::Cold | Advice::PageOut => return self.evict(&range, false),
            Advice::PopulateRead => {
                self.pin("advise", &range, false)?;
                self.unpin(&range, false);
                return Ok(());
            }
            _ => {
                let subject = Subject::named(self.name.clone()).with_detail(format!("{advice:?}"));
                let rule = "the advice is about the kernel's own pages";
                let remedy =
                    "give Normal, Random, Sequential, WillNeed, PopulateRead, Cold or PageOut";
                return Err(Error::rule("advise", subject, rule, remedy));
            }
        };
        self.post("advise", CoreEvent::Advise { object, pattern })
    }

    pub(crate) fn evict(&self, range: &Range<usize>, discard: bool) -> Result<()> {
        let object = self.object;
        let (first, end) = Self::pages(range);
        self.ask("advise", range, move |ticket| CoreEvent::Evict {
            object,
            first,
            end,
            discard,
            ticket,
        })
    }

    pub(crate) fn sync(&self, range: &Range<usize>, wait: bool) -> Result<()> {
        let object = self.object;
        let (first, end) = Self::pages(range);
        let make = move |ticket| CoreEvent::Sync { object, first, end, flush: true, ticket };
        if wait {
            return self.ask("sync", range, make);
        }
        self.pager.check_owner_process("sync")?;
        let (unheard, _) = std::sync::mpsc::sync_channel(1);
        self.pager.inbox.send(Command::Ask(Box::new(make), unheard));
        Ok(())
    }

    /// Sets the source's length, and the map's.
    pub(crate) fn resize(&self, old: usize, new: usize) -> Result<()> {
        self.pager.check_owner_process("resize")?;
        if new as u64 > self.reserve {
            let subject = Subject::named(self.name.clone()).with_length(old).with_new_length(new);
            let rule = format!("the map has addresses for {} bytes", self.reserve);
            return Err(Error::rule_as(
                Errno::NOMEM,
                "resize",
                subject,
                rule,
                "close it and map it again",
            ));
        }
        let page = Self::page();
        if new < old {
            // The last page that stays is written first; the pages behind it are lost.
            let kept = new.div_ceil(page) * page;
            // With it goes all that came in one run with it, so that no run reaches over the new
            // end.
            let last = kept.saturating_sub(page)..kept.min(old);
            self.sync(&last, true)?;
            // Where the source refuses its new length, it has the stored bytes. Pages that cannot
            // be written are no hindrance: they are to be cut off.
            let _ = self.sync(&(kept.min(old)..old), true);
            self.evict(&last, false)?;
            self.evict(&(kept.min(old)..old), true)?;
            // A prefetch may have brought it back before that ended it.
            self.evict(&last, false)?;
        } else {
            let tail = old / page * page..old;
            self.sync(&tail, true)?;
            self.evict(&tail, false)?;
        }
        if self.purpose != Purpose::Private {
            let object = self.object;
            // The version changes by this, and not by someone else.
            self.pager.inbox.send(Command::Resizing { object, on: true });
            if let Err(error) = caught(|| self.source.resize(new as u64)) {
                self.pager.inbox.send(Command::Resizing { object, on: false });
                return Err(self.refused("resize", &error));
            }
        }
        let object = self.object;
        let done = self.pager.inbox.ask(|done| Command::Resized { object, len: new as u64, done });
        done.ok_or_else(ended)?.map_err(|failure| self.fault("resize", &(0..new), &failure))
    }

    /// The ranges of bytes that are in the map now.
    pub(crate) fn resident(&self, len: usize) -> Result<Vec<Range<usize>>> {
        self.pager.check_owner_process("resident")?;
        let runs = self
            .pager
            .inbox
            .ask(|reply| Command::Resident(self.object, reply))
            .ok_or_else(ended)?;
        let page = Self::page();
        Ok(runs
            .into_iter()
            .map(|(first, end)| first as usize * page..(end as usize * page).min(len))
            .collect())
    }

    pub(crate) fn record(&self, on: bool) -> Result<()> {
        self.post("record", CoreEvent::Record { object: self.object, on })?;
        // Answered after the event was taken: the next fault is recorded.
        self.recorded(0).map(drop)
    }

    pub(crate) fn recorded(&self, len: usize) -> Result<Vec<Range<usize>>> {
        self.pager.check_owner_process("recorded")?;
        let runs = self
            .pager
            .inbox
            .ask(|reply| Command::Recording(self.object, reply))
            .ok_or_else(ended)?;
        Ok(Self::byte_ranges(runs, len))
    }

    fn byte_ranges(runs: Vec<(u64, u64)>, len: usize) -> Vec<Range<usize>> {
        let page = Self::page();
        let bytes = |(first, end): (u64, u64)| {
            (first as usize * page).min(len)..(end as usize * page).min(len)
        };
        runs.into_iter().map(bytes).collect()
    }

    pub(crate) fn check_owner_process(&self, call: &'static str) -> Result<()> {
        self.pager.check_owner_process(call)
    }
}

fn reading(pattern: Pattern) -> Reading {
    match pattern {
        Pattern::Normal => Reading::Normal,
        Pattern::Sequential => Reading::Sequential,
        Pattern::Random => Reading::Random,
    }
}

impl Drop for MappedObject {
    fn drop(&mut self) {
        // A child has neither the memory nor the thread. The parent writes the stored bytes.
        if !self.pager.is_owner_process() {
            return;
        }
        // The object is held until all is written: the next map of the source reads the stored
        // bytes.
        let written = if matches!(self.purpose, Purpose::Write | Purpose::Shared) {
            self.sync(&(0..self.reserve as usize), true)
        } else {
            Ok(())
        };
        let nothing = ObjectClaim { promise: None, lock: None, place: None };
        let ObjectClaim { promise, lock, place } = std::mem::replace(&mut self.held, nothing);
        let object = self.object;
        // Last: a thread that waits for the place takes the lock.
        let held = (promise, lock, place);
        let Err(error) = written else {
            self.pager.inbox.send(Command::Detach { object, held: None });
            return drop(held);
        };
        // As the standard library does where a drop cannot fail; `close` returns the error.
        crate::sys::say(format_args!("{}: what was stored is lost: {error}", self.name));
        let (promise, lock, place) = held;
        drop(promise);
        // A write that has begun may reach the source when another map has stored there: the object
        // is not free before it ends.
        if let Some(place) = &place {
            place.late();
        }
        self.pager.inbox.send(Command::Detach { object, held: Some(Box::new((lock, place))) });
    }
}

/// Keeps pagers of other processes from a file. Where the file system has no locks, the refusal is
/// counted and the map is made.
fn lock(
    pager: &Inner,
    file: &LocalFile,
    subject: impl Fn() -> Subject,
) -> Result<Option<WriterLock>> {
    let (rule, remedy) = match WriterLock::take(file) {
        LockAttempt::Held(lock) => return Ok(Some(lock)),
        // The file system may have locks.
        LockAttempt::Refused(errno @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => {
            return Err(Error::kernel("open", errno, subject()));
        }
        LockAttempt::Refused(errno) => {
            pager.locks_refused.fetch_add(1, Ordering::Relaxed);
            pager.lock_errno.store(errno.raw_os_error(), Ordering::Relaxed);
            return Ok(None);
        }
        LockAttempt::Taken => (
            "a pager of another process has the file mapped writable, and pagers write whole pages back",
            "map it with FileMapMut in every process: the kernel shows each the stores of the others",
        ),
        LockAttempt::Covered => (
            "a lock (fcntl(2)) of another process covers byte 2^61, by which pagers keep each other out",
            "lock the bytes of the records only, or map the file with FileMapMut",
        ),
    };
    Err(Error::rule_as(Errno::BUSY, "map", subject(), rule, remedy))
}

/// The error about an object that is mapped already.
fn in_use(subject: Subject, conflict: &MapConflict) -> Error {
    if conflict.late {
        let rule = "its last map was dropped, and a write of that map has not ended yet";
        return Error::rule_as(
            Errno::BUSY,
            "map",
            subject,
            rule,
            "map it when the source has ended the write",
        );
    }
    if conflict.closing {
        let rule = "its last map is being made or dropped, and a thread that serves sources cannot wait for that";
        let remedy = "map it from another thread, or when the write has ended";
        return Error::rule_as(Errno::BUSY, "map", subject, rule, remedy);
    }
    let holder = match conflict.purpose {
        Purpose::Read => "read-only",
        Purpose::Write => "writable, by one handle",
        Purpose::Private | Purpose::Shared => "shared, by handles that may write",
    };
    let pager = if conflict.other_pager { "another pager of this process" } else { "this pager" };
    let rule = format!("it is mapped {holder} in {pager} already");
    let remedy = if conflict.other_pager {
        "drop that map, map it by that pager with map_shared, or use map_private"
    } else {
        "drop that map, map it the same way, or use map_shared or map_private"
    };
    Error::rule_as(Errno::BUSY, "map", subject, rule, remedy)
}
