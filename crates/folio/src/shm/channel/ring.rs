//! The ring of a channel, and nothing else: how messages lie in it, how one side publishes them and
//! the other gives them back. No system call, no pointer, no waiting.
//!
//! A message is a [word](super::word) and its bytes, up to the next multiple of eight. The word is
//! zero until the message is there: so the receiver looks at the very line that the message comes
//! in, and a short message costs one or two lines between the processors, not a third for a
//! counter.
//!
//! Bytes of older messages lie in the way, so the producer zeroes the word *behind* a message
//! before it publishes the message. A reader of the chain of words finds its end, a producer that
//! takes over from a killed one included. The receiver's position is in shared memory exactly; the
//! producer's is a hint that may lag one publication behind.
//!
//! A message lies in one piece. One that does not fit before the ring's end starts again at its
//! beginning, behind a word that says so.
//!
//! Nothing that is read from the ring is trusted. `tests/models/channel_ring.rs` checks the
//! protocol under every order of steps.

use super::atomics::{AtomicU64, Ordering};
use super::message_header::{self, Corrupt, MessageKind, WORD, is_before};

/// Where the ring lies: its words, and the positions of both sides.
pub(crate) trait ChannelRing {
    /// The word at a byte offset, a multiple of eight below the capacity.
    fn word(&self, at: usize) -> &AtomicU64;
    /// Where the first message is that was not given back. The receiver's.
    fn head(&self) -> &AtomicU64;
    /// Where the next message goes, or an earlier position from which the chain of words leads
    /// there. The producer's.
    fn tail(&self) -> &AtomicU64;
}

/// The longest message that a ring of `capacity` bytes takes.
pub(crate) fn limit(capacity: u64) -> u64 {
    capacity - 2 * WORD
}

/// Bytes that a message takes.
fn footprint(len: u64) -> u64 {
    WORD + len.next_multiple_of(WORD)
}

/// Room for a message in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MessagePlace {
    /// The position of its word.
    position: u64,
    /// Where the ring is left for its beginning, if the message does not fit before the end.
    skip: Option<u64>,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There will be when the receiver's position is this one.
    Until(u64),
    /// There never will be: the messages that are to appear together are too long for the ring.
    Never,
    /// The receiver's position makes no sense.
    Corrupt(Corrupt),
}

/// The side that publishes.
#[derive(Debug, Clone)]
pub(crate) struct Producer {
    capacity: u64,
    tail: u64,
    /// The receiver's position when it was last looked at.
    head: u64,
    /// Messages that are to appear together: where they start, and the first word, which is stored
    /// last.
    batch: Option<ProducerBatch>,
}

#[derive(Debug, Clone, Copy)]
struct ProducerBatch {
    start: u64,
    first: Option<(u64, u64)>,
}

impl Producer {
    /// Takes up the work where the last producer left it, be it in the middle of a message. Nobody
    /// else publishes.
    pub(crate) fn resume(ring: &impl ChannelRing, capacity: u64) -> Result<Self, Corrupt> {
        let (head, hint) =
            (ring.head().load(Ordering::Acquire), ring.tail().load(Ordering::Acquire));
        if !(head | hint).is_multiple_of(WORD) {
            return Err(Corrupt { what: "a position is no multiple of eight", at: head | hint });
        }
        // A message that was published and not yet noted in the hint may have been given back
        // already.
        let mut tail = if hint.wrapping_sub(head) <= capacity {
            hint
        } else if head.wrapping_sub(hint) <= capacity {
            head
        } else {
            return Err(Corrupt {
                what: "the two sides are further apart than the ring is long",
                at: hint,
            });
        };
        loop {
            let word = ring.word((tail & (capacity - 1)) as usize).load(Ordering::Acquire);
            if word == 0 {
                break;
            }
            let (kind, len) = message_header::decode(word, tail, capacity, WORD)?;
            tail = tail.wrapping_add(if kind == MessageKind::Skip { len } else { footprint(len) });
            if tail.wrapping_sub(head) > capacity {
                return Err(Corrupt { what: "the chain of messages has no end", at: tail });
            }
        }
        ring.tail().store(tail, Ordering::Relaxed);
        Ok(Self { capacity, tail, head, batch: None })
    }

    /// One that does not know yet where the ring is.
    pub(crate) fn unknown(capacity: u64) -> Self {
        Self { capacity, tail: 0, head: 0, batch: None }
    }

    /// Goes on where another producer has stopped, which noted it and had nothing unfinished.
    /// Whether the note is possible; if not, [`resume`](Self::resume) finds out more.
    #[inline]
    pub(crate) fn follow(&mut self, ring: &impl ChannelRing) -> bool {
        let tail = ring.tail().load(Ordering::Acquire);
        let possible = tail.is_multiple_of(WORD)
            && tail.wrapping_sub(self.head) <= self.capacity
            && !is_before(tail, self.tail);
        if possible {
            self.tail = tail;
        }
        possible
    }

    /// Whether messages are kept back just now.
    #[inline]
    pub(crate) fn in_batch(&self) -> bool {
        self.batch.is_some()
    }

    /// Finds room for a message of `len` bytes, at most [`limit`].
    #[inline]
    pub(crate) fn find(
        &mut self,
        ring: &impl ChannelRing,
        len: u64,
    ) -> Result<MessagePlace, NoPlace> {
        let footprint = footprint(len);
        let offset = self.tail & (self.capacity - 1);
        let room = self.capacity - offset;
        if footprint <= room {
            self.free_until(ring, self.tail.wrapping_add(footprint))?;
            return Ok(MessagePlace { position: self.tail, skip: None });
        }
        self.find_behind_the_end(ring, footprint, room)
    }

    fn find_behind_the_end(
        &mut self,
        ring: &impl ChannelRing,
        footprint: u64,
        room: u64,
    ) -> Result<MessagePlace, NoPlace> {
        let next_lap = self.tail.wrapping_add(room);
        let staged = self.batch.is_some_and(|batch| batch.first.is_some());
        if staged || room + footprint + WORD <= self.capacity {
            self.free_until(ring, next_lap.wrapping_add(footprint))?;
            return Ok(MessagePlace { position: next_lap, skip: Some(self.tail) });
        }
        // It needs the bytes up to the end as well, once the receiver has passed them.
        self.free_until(ring, next_lap)?;
        self.zero(ring, next_lap);
        ring.word((self.tail & (self.capacity - 1)) as usize)
            .store(message_header::skip(self.tail), Ordering::Release);
        self.tail = next_lap;
        ring.tail().store(next_lap, Ordering::Relaxed);
        if let Some(batch) = &mut self.batch {
            batch.start = next_lap;
        }
        self.free_until(ring, next_lap.wrapping_add(footprint))?;
        Ok(MessagePlace { position: next_lap, skip: None })
    }

    /// Checks that all bytes up to `end`, and the word behind, were given back.
    #[inline]
    fn free_until(&mut self, ring: &impl ChannelRing, end: u64) -> Result<(), NoPlace> {
        let wanted = end.wrapping_add(WORD).wrapping_sub(self.capacity);
        if is_before(self.head, wanted) {
            self.look_at_head(ring).map_err(NoPlace::Corrupt)?;
            if is_before(self.head, wanted) {
                let too_long = self.batch.is_some_and(|batch| is_before(batch.start, wanted));
                return Err(if too_long { NoPlace::Never } else { NoPlace::Until(wanted) });
            }
        }
        Ok(())
    }

    #[cold]
    fn look_at_head(&mut self, ring: &impl ChannelRing) -> Result<(), Corrupt> {
        let head = ring.head().load(Ordering::Acquire);
        // It moves forwards only, and never past what was published.
        let published = self.batch.map_or(self.tail, |batch| batch.start);
        if !head.is_multiple_of(WORD)
            || published.wrapping_sub(head) > published.wrapping_sub(self.head)
        {
            return Err(Corrupt { what: "the receiver's position is none", at: head });
        }
        self.head = head;
        Ok(())
    }

    /// The offset of a message's first byte in the ring.
    #[inline]
    pub(crate) fn bytes_at(&self, place: MessagePlace) -> usize {
        ((place.position & (self.capacity - 1)) + WORD) as usize
    }

    fn zero(&self, ring: &impl ChannelRing, position: u64) {
        ring.word((position & (self.capacity - 1)) as usize).store(0, Ordering::Relaxed);
    }

    /// Publishes the message whose `len` bytes are in place: at most as many as were asked for.
    #[inline]
    pub(crate) fn publish(&mut self, ring: &impl ChannelRing, place: MessagePlace, len: u64) {
        let end = place.position.wrapping_add(footprint(len));
        self.zero(ring, end);
        let word = message_header::message(len, place.position);
        if place.skip.is_none() && self.batch.is_none() {
            ring.word((place.position & (self.capacity - 1)) as usize)
                .store(word, Ordering::Release);
            ring.tail().store(end, Ordering::Relaxed);
        } else {
            self.publish_apart(ring, place, word);
            if self.batch.is_none() {
                ring.tail().store(end, Ordering::Relaxed);
            }
        }
        self.tail = end;
    }

    fn publish_apart(&mut self, ring: &impl ChannelRing, place: MessagePlace, word: u64) {
        let mask = self.capacity - 1;
        let (at, first) = match place.skip {
            Some(skip) => {
                // Not reached before the skip is.
                ring.word((place.position & mask) as usize).store(word, Ordering::Relaxed);
                (skip, message_header::skip(skip))
            }
            None => (place.position, word),
        };
        match &mut self.batch {
            Some(batch @ ProducerBatch { first: None, .. }) => batch.first = Some((at, first)),
            _ => ring.word((at & mask) as usize).store(first, Ordering::Release),
        }
    }

    /// From here on messages are kept back, to be published together.
    pub(crate) fn begin(&mut self) {
        self.batch = Some(ProducerBatch { start: self.tail, first: None });
    }

    /// Publishes all messages since [`begin`](Self::begin) with one store. Whether there were any.
    pub(crate) fn commit(&mut self, ring: &impl ChannelRing) -> bool {
        let Some((at, word)) = self.batch.take().and_then(|batch| batch.first) else {
            return false;
        };
        ring.word((at & (self.capacity - 1)) as usize).store(word, Ordering::Release);
        ring.tail().store(self.tail, Ordering::Relaxed);
        true
    }

    /// Forgets all messages since [`begin`](Self::begin).
    pub(crate) fn abandon(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.tail = batch.start;
        }
    }
}

/// A message in the ring, until it is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FoundMessage {
    /// The offset of its first byte.
    pub(crate) at: usize,
    pub(crate) len: usize,
}

/// The side that reads and gives back.
#[derive(Debug, Clone)]
pub(crate) struct Consumer {
    capacity: u64,
    position: u64,
}

impl Consumer {
    /// Starts at the first message that was not given back. Nobody else receives.
    pub(crate) fn resume(ring: &impl ChannelRing, capacity: u64) -> Result<Self, Corrupt> {
        let (position, hint) =
            (ring.head().load(Ordering::Acquire), ring.tail().load(Ordering::Acquire));
        if !(position | hint).is_multiple_of(WORD) {
            return Err(Corrupt {
                what: "a position is no multiple of eight",
                at: position | hint,
            });
        }
        // The producer may have published more meanwhile, and a killed one may have noted less.
        if hint.wrapping_sub(position) > capacity && position.wrapping_sub(hint) > capacity {
            return Err(Corrupt {
                what: "the two sides are further apart than the ring is long",
                at: position,
            });
        }
        Ok(Self { capacity, position })
    }

    /// Whether a word stands where the next message will be.
    #[inline]
    pub(crate) fn is_ready(&self, ring: &impl ChannelRing) -> bool {
        ring.word((self.position & (self.capacity - 1)) as usize).load(Ordering::Acquire) != 0
    }

    /// The next message, if there is one.
    #[inline]
    pub(crate) fn next(
        &mut self,
        ring: &impl ChannelRing,
    ) -> Result<Option<FoundMessage>, Corrupt> {
        loop {
            let at = (self.position & (self.capacity - 1)) as usize;
            let word = ring.word(at).load(Ordering::Acquire);
            if word == 0 {
                return Ok(None);
            }
            match message_header::decode(word, self.position, self.capacity, WORD)? {
                (MessageKind::Message, len) => {
                    return Ok(Some(FoundMessage { at: at + WORD as usize, len: len as usize }));
                }
                // To the ring's beginning, where no skip is possible: the loop ends there.
                (MessageKind::Skip, room) => self.move_to(ring, self.position.wrapping_add(room)),
            }
        }
    }

    /// Gives the message back that [`next`](Self::next) found: the producer may overwrite it.
    #[inline]
    pub(crate) fn release(&mut self, ring: &impl ChannelRing, found: FoundMessage) {
        self.move_to(ring, self.position.wrapping_add(footprint(found.len as u64)));
    }

    #[inline]
    fn move_to(&mut self, ring: &impl ChannelRing, position: u64) {
        self.position = position;
        ring.head().store(position, Ordering::Release);
    }

    pub(crate) fn position(&self) -> u64 {
        self.position
    }
}
