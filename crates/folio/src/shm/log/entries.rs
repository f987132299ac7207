//! The entries of a log in their ring, and nothing else: how they are published, found and
//! overwritten. No system call, no pointer, no waiting.
//!
//! An entry is a [word](super::word), its sequence number, a checksum, and its bytes up to the next
//! multiple of eight. The word *behind* an entry is zero before the entry's own is stored: it ends
//! the chain, also for a writer that takes over from a killed one. The writer waits for nobody.
//! Before it overwrites entries it says up to where, a sixteenth of the log at a time, so that
//! readers share that line and seldom lose it; a reader copies first, and then looks whether what
//! it copied has been given up meanwhile.
//!
//! Nothing that is read is trusted. `tests/models/log_entries.rs` checks the protocol under every
//! order of steps.

use super::atomics::{AtomicU64, Ordering, fence};
use super::message_header::{self, Corrupt, MessageKind, WORD, is_before};

/// Where the log lies: its words, and the positions.
pub(crate) trait LogRing {
    /// The word at a byte offset, a multiple of eight below the capacity.
    fn word(&self, at: usize) -> &AtomicU64;
    /// Where the oldest entry is that may be read.
    fn oldest(&self) -> &AtomicU64;
    /// The position of the last entry, or of one not long before it. A hint for a reader that
    /// begins.
    fn last(&self) -> &AtomicU64;
}

/// Word, sequence number and checksum.
pub(crate) const HEADER: u64 = 3 * WORD;

/// The longest entry that a log of `capacity` bytes takes: a quarter, so that three entries are
/// always there.
pub(crate) fn limit(capacity: u64) -> u64 {
    capacity / 4 - HEADER - WORD
}

fn footprint(len: u64) -> u64 {
    HEADER + len.next_multiple_of(WORD)
}

/// An entry that was found. Its bytes are the caller's to copy, before it asks whether they were
/// still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundEntry {
    /// Where its word is.
    pub(crate) position: u64,
    pub(crate) seq: u64,
    pub(crate) checksum: u64,
    /// The offset of its first byte in the ring.
    pub(crate) at: usize,
    pub(crate) len: usize,
}

impl FoundEntry {
    pub(crate) fn end(&self) -> u64 {
        self.position.wrapping_add(footprint(self.len as u64))
    }
}

/// The contents of a position.
enum Stands {
    Nothing,
    Entry(FoundEntry),
    Skip(u64),
}

/// Reads a position. The result counts only if the position is not before the oldest one
/// afterwards.
fn look(ring: &impl LogRing, capacity: u64, position: u64) -> Result<Stands, Corrupt> {
    let at = (position & (capacity - 1)) as usize;
    let word = ring.word(at).load(Ordering::Acquire);
    if word == 0 {
        return Ok(Stands::Nothing);
    }
    Ok(match message_header::decode(word, position, capacity, HEADER)? {
        (MessageKind::Skip, room) => Stands::Skip(position.wrapping_add(room)),
        (MessageKind::Message, len) => Stands::Entry(FoundEntry {
            position,
            seq: ring.word(at + WORD as usize).load(Ordering::Relaxed),
            checksum: ring.word(at + 2 * WORD as usize).load(Ordering::Relaxed),
            at: at + HEADER as usize,
            len: len as usize,
        }),
    })
}

/// Whether what was read at a position counts: it had not been given up by then.
fn is_still_there(ring: &impl LogRing, position: u64) -> Result<bool, Corrupt> {
    fence(Ordering::Acquire);
    let oldest = ring.oldest().load(Ordering::Relaxed);
    if !oldest.is_multiple_of(WORD) {
        return Err(Corrupt {
            what: "the oldest entry's position is no multiple of eight",
            at: oldest,
        });
    }
    Ok(!is_before(position, oldest))
}

/// How far a writer that takes over trusts what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The memory is as the last writer left it, though it may have been killed at any instruction.
    Memory,
    /// The machine may have gone down since: pages may be of different moments. Every entry is
    /// checked, and the first one that is not whole behind a whole one ends the log.
    Nothing,
}

/// The side that appends.
#[derive(Debug, Clone)]
pub(crate) struct EntryWriter {
    capacity: u64,
    tail: u64,
    oldest: u64,
    seq: u64,
}

/// Room for an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryPlace {
    position: u64,
    skip: Option<u64>,
    /// The offset of its first byte in the ring.
    pub(crate) at: usize,
    /// The sequence number it will have.
    pub(crate) seq: u64,
}

impl EntryWriter {
    /// Takes up the work where the last writer left it, be it in the middle of an entry. `is_whole`
    /// checks an entry's bytes.
    ///
    /// Where nothing is trusted it never fails: all whole entries from the first on are kept, and
    /// if there is none the log begins anew, with numbers that no entry had before. The part that
    /// was cut off must then be [erased](Self::erase).
    pub(crate) fn resume(
        ring: &impl LogRing,
        capacity: u64,
        trust: Trust,
        is_whole: impl Fn(&FoundEntry) -> bool,
    ) -> Result<Self, Corrupt> {
        let oldest = ring.oldest().load(Ordering::Acquire);
        let last = ring.last().load(Ordering::Acquire);
        let chain = match trust {
            Trust::Memory => RecoveredLog::trusted(ring, capacity, oldest, last)?,
            Trust::Nothing => RecoveredLog::whole(ring, capacity, oldest, last, is_whole),
        };
        let RecoveredLog { oldest: first, last, tail, seq } = chain;
        let writer = Self { capacity, tail, oldest: first, seq };
        // Readers must not meet the torn bytes behind the last whole entry.
        writer.word(ring, tail).store(0, Ordering::Release);
        ring.last().store(last, Ordering::Relaxed);
        if first != oldest {
            ring.oldest().store(first, Ordering::Release);
        }
        Ok(writer)
    }

    /// Erases all of the ring that is not in the log. Whether there was anything. It is for a
    /// writer that trusted nothing, in a file that outlives the machine, and has to last before
    /// anything is appended: else an entry that was cut off could follow a new one, after the
    /// machine has gone down again, with the very number that comes next.
    pub(crate) fn erase(&self, ring: &impl LogRing) -> bool {
        // As when entries are given up: they were before anything is stored over them.
        fence(Ordering::Release);
        let mut any = false;
        let mut position = self.tail;
        while position.wrapping_sub(self.oldest) < self.capacity {
            let word = self.word(ring, position);
            // Pages that nobody has written to stay so.
            if word.load(Ordering::Relaxed) != 0 {
                word.store(0, Ordering::Relaxed);
                any = true;
            }
            position = position.wrapping_add(WORD);
        }
        any
    }

    fn word<'a>(&self, ring: &'a impl LogRing, position: u64) -> &'a AtomicU64 {
        ring.word((position & (self.capacity - 1)) as usize)
    }

    /// The sequence number of the next entry.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Makes room for an entry of `len` bytes, at most [`limit`], giving up the oldest ones if need
    /// be.
    #[inline]
    pub(crate) fn make_room(
        &mut self,
        ring: &impl LogRing,
        len: u64,
    ) -> Result<EntryPlace, Corrupt> {
        let footprint = footprint(len);
        let room = self.capacity - (self.tail & (self.capacity - 1));
        let skip = (footprint > room).then_some(self.tail);
        let position = if skip.is_some() { self.tail.wrapping_add(room) } else { self.tail };
        // The word behind is stored as well.
        let needed = position.wrapping_add(footprint + WORD).wrapping_sub(self.capacity);
        if is_before(self.oldest, needed) {
            self.give_up(ring, needed)?;
        }
        let at = ((position & (self.capacity - 1)) + HEADER) as usize;
        Ok(EntryPlace { position, skip, at, seq: self.seq })
    }

    /// Gives up all entries before `needed`, and some more: a step.
    #[cold]
    fn give_up(&mut self, ring: &impl LogRing, needed: u64) -> Result<(), Corrupt> {
        let needed = needed.wrapping_add(self.capacity / 16);
        let mut oldest = self.oldest;
        while is_before(oldest, needed) {
            match look(ring, self.capacity, oldest)? {
                Stands::Skip(next) => oldest = next,
                Stands::Entry(found) => oldest = found.end(),
                Stands::Nothing => {
                    return Err(Corrupt {
                        what: "the chain of entries ends too early",
                        at: oldest,
                    });
                }
            }
            if is_before(self.tail, oldest) {
                return Err(Corrupt {
                    what: "the chain of entries goes past the last one",
                    at: oldest,
                });
            }
        }
        self.oldest = oldest;
        ring.oldest().store(oldest, Ordering::Relaxed);
        // A reader that sees a byte of a store from here on sees that the entry was given up.
        fence(Ordering::Release);
        Ok(())
    }

    /// Publishes the entry whose `len` bytes are in place.
    #[inline]
    pub(crate) fn publish(
        &mut self,
        ring: &impl LogRing,
        place: EntryPlace,
        len: u64,
        checksum: u64,
    ) {
        let end = place.position.wrapping_add(footprint(len));
        let at = (place.position & (self.capacity - 1)) as usize;
        self.word(ring, end).store(0, Ordering::Relaxed);
        ring.word(at + WORD as usize).store(place.seq, Ordering::Relaxed);
        ring.word(at + 2 * WORD as usize).store(checksum, Ordering::Relaxed);
        ring.word(at).store(message_header::message(len, place.position), Ordering::Release);
        if let Some(skip) = place.skip {
            // The entry is reached by this only.
            self.word(ring, skip).store(message_header::skip(skip), Ordering::Release);
        }
        ring.last().store(place.position, Ordering::Release);
        (self.tail, self.seq) = (end, place.seq.wrapping_add(1));
    }
}

/// The state that a writer finds when it takes over.
struct RecoveredLog {
    oldest: u64,
    last: u64,
    /// Behind the last entry.
    tail: u64,
    /// The next entry's number.
    seq: u64,
}

/// The number of the first entry of a log that begins at this position. It is higher than those of
/// all entries before: none takes less than its header.
fn first_seq(position: u64) -> u64 {
    position.div_ceil(HEADER)
}

/// Whether a log without entries can have these positions.
fn is_beginning(capacity: u64, oldest: u64, last: u64) -> bool {
    oldest == last && oldest.is_multiple_of(capacity)
}

impl RecoveredLog {
    /// From the last entry on, as a writer left it that may have been killed.
    fn trusted(
        ring: &impl LogRing,
        capacity: u64,
        oldest: u64,
        last: u64,
    ) -> Result<Self, Corrupt> {
        if !(oldest | last).is_multiple_of(WORD) {
            return Err(Corrupt { what: "a position is no multiple of eight", at: oldest | last });
        }
        if last.wrapping_sub(oldest) > capacity {
            return Err(Corrupt {
                what: "the last entry is further from the oldest than the log is long",
                at: last,
            });
        }
        let (mut tail, mut newest) = (last, None);
        loop {
            if tail.wrapping_sub(oldest) >= capacity {
                return Err(Corrupt { what: "the chain of entries has no end", at: tail });
            }
            match look(ring, capacity, tail)? {
                Stands::Nothing => break,
                Stands::Skip(next) => tail = next,
                Stands::Entry(found) => {
                    if newest.is_some_and(|(seq, _): (u64, u64)| seq.wrapping_add(1) != found.seq) {
                        let what = "an entry is not the one that should follow";
                        return Err(Corrupt { what, at: tail });
                    }
                    newest = Some((found.seq, tail));
                    tail = found.end();
                }
            }
        }
        match newest {
            Some((seq, last)) => Ok(Self { oldest, last, tail, seq: seq.wrapping_add(1) }),
            None if is_beginning(capacity, oldest, last) && tail == oldest => {
                Ok(Self { oldest, last, tail, seq: first_seq(oldest) })
            }
            None => Err(Corrupt { what: "there is no entry where the last should be", at: last }),
        }
    }

    /// All that is whole from the first whole entry on.
    fn whole(
        ring: &impl LogRing,
        capacity: u64,
        oldest: u64,
        last: u64,
        is_whole: impl Fn(&FoundEntry) -> bool,
    ) -> Self {
        // A log that is new: nothing to search for.
        if oldest == 0 && last == 0 && matches!(look(ring, capacity, 0), Ok(Stands::Nothing)) {
            return Self { oldest: 0, last: 0, tail: 0, seq: 0 };
        }
        let whole_at = |position| match look(ring, capacity, position) {
            Ok(Stands::Entry(found)) if found.len as u64 <= limit(capacity) && is_whole(&found) => {
                Some(found)
            }
            _ => None,
        };
        // The positions may be of another moment than the entries are: the words say for which
        // position they were written.
        let lap = |start: u64| {
            let start = start & !(WORD - 1);
            (0..capacity / WORD).map(move |step| start.wrapping_add(step * WORD))
        };
        let first = lap(oldest).find_map(whole_at).or_else(|| lap(last).find_map(whole_at));
        let Some(mut newest) = first else {
            // Behind all that there may be, and a lap more.
            let position = (oldest.max(last) & !(capacity - 1)).wrapping_add(2 * capacity);
            let seq = first_seq(position);
            return Self { oldest: position, last: position, tail: position, seq };
        };
        let start = newest.position;
        let mut tail = newest.end();
        loop {
            match look(ring, capacity, tail) {
                Ok(Stands::Skip(next)) if next.wrapping_sub(start) < capacity => tail = next,
                Ok(Stands::Entry(found))
                    if found.seq == newest.seq.wrapping_add(1)
                        && found.end().wrapping_sub(start) < capacity
                        && is_whole(&found) =>
                {
                    (newest, tail) = (found, found.end());
                }
                _ => break,
            }
        }
        Self { oldest: start, last: newest.position, tail, seq: newest.seq.wrapping_add(1) }
    }
}

/// The result of a reader's step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing yet.
    Nothing,
    /// An entry, to be [confirmed](EntryReader::confirm) after its bytes were copied.
    Entry(FoundEntry),
    /// The writer has overtaken this reader; [`catch_up`](EntryReader::catch_up).
    Overtaken,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadStep {
    /// An entry whose bytes were copied.
    Entry(FoundEntry),
    /// Entries that are gone: the first one's number, and how many.
    Missed(u64, u64),
}

/// A side that reads. Nobody knows of it.
#[derive(Debug, Clone)]
pub(crate) struct EntryReader {
    capacity: u64,
    position: u64,
    /// The sequence number that comes next.
    seq: u64,
    /// The position is none: see `catch_up`.
    overtaken: bool,
}

impl EntryReader {
    /// Before the oldest entry.
    pub(crate) fn at_oldest(ring: &impl LogRing, capacity: u64) -> Result<Self, Corrupt> {
        let (position, seq) = oldest(ring, capacity)?;
        Ok(Self { capacity, position, seq, overtaken: false })
    }

    /// Behind the newest entry.
    pub(crate) fn at_newest(ring: &impl LogRing, capacity: u64) -> Result<Self, Corrupt> {
        let (mut before, mut steps) = (None, 0_u64);
        for _ in 0..LOOKS {
            let position = ring.last().load(Ordering::Acquire);
            // The last entry is never given up: a reader that finds it gone finds another one named
            // the next time.
            if !position.is_multiple_of(WORD) || before.replace(position) == Some(position) {
                return Err(Corrupt { what: "the last entry's position is none", at: position });
            }
            let mut reader =
                Self { capacity, position, seq: first_seq(position), overtaken: false };
            // The hint names an entry; the chain leads on from there, and a writer that is quicker
            // starts this anew.
            while let Some(found) = reader.glance(ring)? {
                (reader.position, reader.seq) = (found.end(), found.seq.wrapping_add(1));
                steps += 1;
                // A reader that walks a whole log meanwhile is about as new as the writer.
                if steps > capacity / HEADER {
                    break;
                }
            }
            if !reader.overtaken {
                return Ok(reader);
            }
        }
        Err(restless(ring.last()))
    }

    /// Before the entry `seq`; where that is gone, [`next`](Self::next) says so; where it is still
    /// to come, behind the newest.
    pub(crate) fn at_seq(ring: &impl LogRing, capacity: u64, seq: u64) -> Result<Self, Corrupt> {
        // After the machine went down the hint may be wrong, and the chain from the oldest entry on
        // be right.
        if let Ok(newest) = Self::at_newest(ring, capacity)
            && newest.seq <= seq
        {
            return Ok(newest);
        }
        // The entry was there. Each time that this is overtaken a sixteenth of the log has gone, so
        // that before long the entry is reached or gone too.
        for _ in 0..64 {
            let mut reader = Self::at_oldest(ring, capacity)?;
            if seq < reader.seq {
                return Ok(Self { seq, overtaken: true, ..reader });
            }
            let mut steps = 0_u64;
            while reader.seq < seq {
                let Some(found) = reader.glance(ring)? else { break };
                reader.confirm(ring, &found)?;
                steps += 1;
                if steps > capacity / HEADER {
                    return Err(restless(ring.oldest()));
                }
            }
            if !reader.overtaken {
                return Ok(reader);
            }
        }
        Err(restless(ring.oldest()))
    }

    /// The next entry's header, confirmed.
    fn glance(&mut self, ring: &impl LogRing) -> Result<Option<FoundEntry>, Corrupt> {
        match self.next(ring)? {
            Next::Entry(found) if is_still_there(ring, found.position)? => Ok(Some(found)),
            Next::Nothing => Ok(None),
            _ => {
                self.overtaken = true;
                Ok(None)
            }
        }
    }

    /// The sequence number of the next entry.
    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether there may be something: an entry, or the news that entries were missed.
    #[inline]
    pub(crate) fn is_ready(&self, ring: &impl LogRing) -> bool {
        self.overtaken
            || ring.word((self.position & (self.capacity - 1)) as usize).load(Ordering::Acquire)
                != 0
            || !matches!(is_still_there(ring, self.position), Ok(true))
    }

    /// The next entry.
    #[inline]
    pub(crate) fn next(&mut self, ring: &impl LogRing) -> Result<Next, Corrupt> {
        loop {
            if self.overtaken {
                return Ok(Next::Overtaken);
            }
            match look(ring, self.capacity, self.position) {
                // The caller asks again after it has copied the bytes.
                Ok(Stands::Entry(found)) => return Ok(Next::Entry(found)),
                _ if !is_still_there(ring, self.position)? => self.overtaken = true,
                Ok(Stands::Nothing) => return Ok(Next::Nothing),
                // To the ring's beginning, where no skip is possible.
                Ok(Stands::Skip(next)) => self.position = next,
                Err(corrupt) => return Err(corrupt),
            }
        }
    }

    /// Reads on, if there is something: `copy` takes the bytes of the possible next entry. This
    /// function checks that they are the entry's, but not that they agree with its checksum.
    #[inline]
    pub(crate) fn read<E>(
        &mut self,
        ring: &impl LogRing,
        corrupt: impl Fn(Corrupt) -> E,
        mut copy: impl FnMut(&FoundEntry) -> Result<(), E>,
    ) -> Result<Option<ReadStep>, E> {
        // An overtaken reader learns the entries that it missed, but where the numbers stay the
        // same: no writer does that for long.
        for _ in 0..LOOKS {
            match self.next(ring).map_err(&corrupt)? {
                Next::Nothing => return Ok(None),
                Next::Entry(found) => {
                    copy(&found)?;
                    if self.confirm(ring, &found).map_err(&corrupt)? {
                        return Ok(Some(ReadStep::Entry(found)));
                    }
                }
                Next::Overtaken => {
                    if let Some((first, count)) = self.catch_up(ring).map_err(&corrupt)? {
                        return Ok(Some(ReadStep::Missed(first, count)));
                    }
                }
            }
        }
        Err(corrupt(restless(ring.oldest())))
    }

    /// Whether the bytes that were copied since [`next`](Self::next) are the entry's. If so the
    /// reader moves on.
    #[inline]
    pub(crate) fn confirm(
        &mut self,
        ring: &impl LogRing,
        found: &FoundEntry,
    ) -> Result<bool, Corrupt> {
        if !is_still_there(ring, found.position)? {
            self.overtaken = true;
            return Ok(false);
        }
        if found.seq != self.seq {
            return Err(Corrupt {
                what: "an entry has another number than the one that comes next",
                at: found.seq,
            });
        }
        (self.position, self.seq) = (found.end(), found.seq.wrapping_add(1));
        Ok(true)
    }

    /// After the writer has overtaken this reader: goes on at the oldest entry. Returns the first
    /// number that was missed and how many were; none, if only the end of a lap was given up.
    pub(crate) fn catch_up(&mut self, ring: &impl LogRing) -> Result<Option<(u64, u64)>, Corrupt> {
        let (position, seq) = oldest(ring, self.capacity)?;
        let missed = (self.seq, seq.wrapping_sub(self.seq));
        if missed.1.cast_signed() < 0 {
            return Err(Corrupt {
                what: "the oldest entry's number is lower than one that was read",
                at: seq,
            });
        }
        (self.position, self.seq, self.overtaken) = (position, seq, false);
        Ok(Some(missed).filter(|&(_, count)| count > 0))
    }
}

/// How often a look is tried again that a writer has overtaken: each time it has given up a
/// sixteenth of the log.
const LOOKS: usize = 1000;

/// Some process changes a position all the time, which no writer does.
#[cold]
fn restless(position: &AtomicU64) -> Corrupt {
    Corrupt {
        what: "the log changes whenever it is looked at",
        at: position.load(Ordering::Relaxed),
    }
}

/// Position and number of the oldest entry; of the first one to come, if the log is empty.
fn oldest(ring: &impl LogRing, capacity: u64) -> Result<(u64, u64), Corrupt> {
    for _ in 0..LOOKS {
        let start = ring.oldest().load(Ordering::Acquire);
        if !start.is_multiple_of(WORD) {
            return Err(Corrupt {
                what: "the oldest entry's position is no multiple of eight",
                at: start,
            });
        }
        // Read before the entry is: a writer that has appended another one had published the first
        // before.
        let last = ring.last().load(Ordering::Acquire);
        let mut position = start;
        let seq = loop {
            match look(ring, capacity, position) {
                Ok(Stands::Entry(found)) => break Ok(found.seq),
                Ok(Stands::Skip(next)) => position = next,
                Ok(Stands::Nothing) if position == start && is_beginning(capacity, start, last) => {
                    break Ok(first_seq(start));
                }
                Ok(Stands::Nothing) => {
                    break Err(Corrupt {
                        what: "there is no entry where the oldest should be",
                        at: position,
                    });
                }
                Err(corrupt) => break Err(corrupt),
            }
        };
        // It may have been given up meanwhile, and then anything may have been read.
        if is_still_there(ring, start)? {
            return Ok((position, seq?));
        }
    }
    Err(restless(ring.oldest()))
}
