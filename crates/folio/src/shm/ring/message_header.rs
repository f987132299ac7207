//! The word in front of a message in a ring: its kind, its length and, as a check, the position
//! that it was written for.
//!
//! Positions are bytes since the ring was made, multiples of eight that only grow; the ring holds
//! the last `capacity` of them, a power of two. Zero is no word: nothing follows yet.

/// Bytes of a word, and the unit of positions.
pub(crate) const WORD: u64 = 8;

/// This protocol cannot have written the contents of the shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Corrupt {
    /// The finding, in a few words.
    pub(crate) what: &'static str,
    /// The position, or the offending number.
    pub(crate) at: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    Message,
    /// The ring is left here for its beginning. The length says how many bytes that are.
    Skip,
}

const KINDS: u32 = 2;
const LENGTHS: u32 = 40;

/// The longest ring whose messages have lengths that a word can say.
pub(crate) const CAPACITY_LIMIT: u64 = 1 << LENGTHS;

/// Bits that depend on all of the position: a word that was written for another place is not taken
/// for one of this.
#[inline]
fn mark(position: u64) -> u64 {
    (position | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (KINDS + LENGTHS) << (KINDS + LENGTHS)
}

#[inline]
pub(crate) fn message(len: u64, position: u64) -> u64 {
    mark(position) | len << KINDS | 1
}

pub(crate) fn skip(position: u64) -> u64 {
    mark(position) | 2
}

/// Kind and length of a word that was found at `position` of a ring of `capacity` bytes, if they
/// are possible there: `header` bytes, the word among them, and the length lie before the ring's
/// end.
#[inline]
pub(crate) fn decode(
    word: u64,
    position: u64,
    capacity: u64,
    header: u64,
) -> Result<(MessageKind, u64), Corrupt> {
    let room = capacity - (position & (capacity - 1));
    let len = word << (64 - KINDS - LENGTHS) >> (64 - LENGTHS);
    if (word ^ mark(position)) >> (KINDS + LENGTHS) != 0 {
        return Err(Corrupt {
            what: "a message's word was not written for its place",
            at: position,
        });
    }
    match word & 3 {
        1 if header + len.next_multiple_of(WORD) <= room => Ok((MessageKind::Message, len)),
        // The beginning is never left: no chain of skips has no end.
        2 if len == 0 && room != capacity => Ok((MessageKind::Skip, room)),
        1 => Err(Corrupt { what: "a message's length goes past the ring's end", at: position }),
        _ => Err(Corrupt { what: "a message's word is of no known kind", at: position }),
    }
}

/// Whether a position lies before another. They are never so far apart that it could be told
/// otherwise.
#[inline]
pub(crate) fn is_before(position: u64, other: u64) -> bool {
    position.wrapping_sub(other).cast_signed() < 0
}
