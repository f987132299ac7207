//! The first bytes of a segment: its kind, its size, and its participants. Nothing in here is
//! trusted: each field is checked when it is read, and fields that can change are bounded by fields
//! that were checked.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0 | magic, 8 bytes |
//! | 8, 12 | layout version, byte order |
//! | 16, 20 | kind, lifetime |
//! | 24 | fingerprint of the type |
//! | 32 | id, drawn at creation |
//! | 40, 48 | where the data starts, how much of it there can ever be |
//! | 56, 60 | how many slots, bytes of the type's name |
//! | 64 | bytes of an element |
//! | 128 | the type's name, up to 256 bytes |
//! | 504 | checksum of all of the above |
//! | 512 | state, 4 bytes; growths, 4 bytes; bytes of data now, 8 bytes; network, 8 bytes; slots that had notifiers, 4 bytes; 4 not used |
//! | 4096 | slots of 16 bytes: generation, pid, notifier |

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Bytes that never change once a segment has its name.
pub(crate) const FIXED: usize = 512;
/// Where the slots lie.
pub(crate) const SLOTS_AT: usize = 4096;
/// How many processes can have a segment open at a time.
pub(crate) const SLOTS: usize = 256;
/// Bytes from the start of the file to the end of the slots.
pub(crate) const HEAD: usize = SLOTS_AT + SLOTS * size_of::<ParticipantSlot>();

const MAGIC: [u8; 8] = *b"folioshm";
/// The layout of this file's table. A segment of another one is refused.
pub(crate) const LAYOUT: u32 = 2;
const ORDER: u32 = 0x0102_0304;
const NAME_AT: usize = 128;
const NAME_ROOM: usize = 256;
const CHECKSUM_AT: usize = 504;

/// The part of a header that changes, at byte 512.
#[repr(C)]
pub(crate) struct MutableHeader {
    /// [`READY`], [`LOST`] or [`GONE`].
    pub(crate) state: AtomicU32,
    /// How often the segment has grown.
    pub(crate) growths: AtomicU32,
    /// Bytes of data now.
    pub(crate) length: AtomicU64,
    /// The number of the network namespace of all participants; zero while there was none yet; or
    /// [`MIXED`].
    pub(crate) network: AtomicU64,
    /// Slots from here on have never had a [notifier](ParticipantSlot::notifier).
    pub(crate) notifiers: AtomicU32,
    _fill: AtomicU32,
}

/// Where `MutableHeader::network` lies in the file.
pub(crate) const NETWORK_AT: usize = FIXED + std::mem::offset_of!(MutableHeader, network);
/// There are, or were, participants of several network namespaces, or of one that could not be
/// told: not all reach each other's sockets.
pub(crate) const MIXED: u64 = u64::MAX;

/// The segment is as it should be.
pub(crate) const READY: u32 = 1;
/// Pages of it went away under a participant's hands: nothing in it is to be believed any more.
pub(crate) const LOST: u32 = 2;
/// Its last participant has left, and could not remove the name: a stale segment, whatever else the
/// header says. A process that recreates it leaves the state so until all of it is made.
pub(crate) const GONE: u32 = 3;
/// Where the state lies.
pub(crate) const STATE_AT: usize = FIXED;

/// One process's slot in a segment. The holder of the lock of its byte owns it.
#[repr(C)]
pub(crate) struct ParticipantSlot {
    /// Drawn anew at every claim.
    pub(crate) generation: AtomicU32,
    /// A label for people; zero when its owner left in good order.
    pub(crate) pid: AtomicU32,
    /// The number of the participant's notifier, and whether that wants to be rung; zero if it has
    /// none.
    pub(crate) notifier: AtomicU64,
}

/// The contents of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SegmentKind {
    /// One value of a type.
    Value,
    /// Elements of a type, as many as there is room for.
    Elements,
    /// A ring of messages.
    Channel,
    /// A queue with history.
    Log,
}

impl SegmentKind {
    const ALL: [Self; 4] = [Self::Value, Self::Elements, Self::Channel, Self::Log];

    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Value => "value",
            Self::Elements => "elements",
            Self::Channel => "channel",
            Self::Log => "log",
        }
    }

    fn number(self) -> u32 {
        self as u32 + 1
    }
}

impl fmt::Display for SegmentKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// When a segment's name goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Lifetime {
    /// With the last process that uses it. If that one was killed the segment is stale: the next
    /// process that asks for the name finds nothing and may create it anew, and
    /// [`remove_stale`](crate::shm::remove_stale) removes it.
    #[default]
    WhileUsed,
    /// When it is [removed](crate::shm::remove), as with shm_open(3). In `/dev/shm` a restart of
    /// the machine ends it too.
    Kept,
}

/// The part of a header that never changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderFields {
    pub(crate) kind: SegmentKind,
    pub(crate) lifetime: Lifetime,
    pub(crate) fingerprint: u64,
    pub(crate) id: u64,
    /// Where the data starts in the file.
    pub(crate) data_at: u64,
    /// Bytes of data that there can ever be.
    pub(crate) reserve: u64,
    /// Bytes of an element.
    pub(crate) element: u64,
    pub(crate) type_name: String,
}

/// A header that is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HeaderError {
    pub(crate) field: &'static str,
    pub(crate) found: String,
    pub(crate) wanted: String,
    /// When the name goes away, if the constant part is a segment's, and only the rest is none.
    pub(crate) lifetime: Option<Lifetime>,
    /// Whether it is that nothing is there any more, or not yet: [`GONE`].
    pub(crate) is_gone: bool,
}

impl HeaderError {
    fn new(field: &'static str, found: impl fmt::Display, wanted: impl fmt::Display) -> Self {
        Self {
            field,
            found: found.to_string(),
            wanted: wanted.to_string(),
            lifetime: None,
            is_gone: false,
        }
    }

    fn gone() -> Self {
        let found = "gone: all processes that had it open have ended";
        Self {
            lifetime: Some(Lifetime::WhileUsed),
            is_gone: true,
            ..Self::new("state", found, "ready")
        }
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, found, wanted, .. } = self;
        write!(f, "its {field} is {found}, and must be {wanted}")
    }
}

/// Where the data starts on this machine: behind the slots, on a page.
pub(crate) fn data_at(page: usize) -> u64 {
    HEAD.next_multiple_of(page) as u64
}

fn checksum(bytes: &[u8]) -> u64 {
    crate::shm::value::share::hash(crate::shm::value::share::SEED, bytes)
}

impl HeaderFields {
    /// The header's bytes that never change, and behind them those that do, for a segment with
    /// `length` bytes of data.
    pub(crate) fn to_bytes(&self, length: u64) -> [u8; FIXED + size_of::<MutableHeader>()] {
        let mut bytes = [0; FIXED + size_of::<MutableHeader>()];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &MAGIC);
        put(8, &LAYOUT.to_ne_bytes());
        put(12, &ORDER.to_ne_bytes());
        put(16, &self.kind.number().to_ne_bytes());
        put(20, &u32::from(self.lifetime == Lifetime::Kept).to_ne_bytes());
        put(24, &self.fingerprint.to_ne_bytes());
        put(32, &self.id.to_ne_bytes());
        put(40, &self.data_at.to_ne_bytes());
        put(48, &self.reserve.to_ne_bytes());
        put(56, &(SLOTS as u32).to_ne_bytes());
        let name = short_name(&self.type_name);
        put(60, &(name.len() as u32).to_ne_bytes());
        put(64, &self.element.to_ne_bytes());
        put(NAME_AT, name.as_bytes());
        put(STATE_AT, &READY.to_ne_bytes());
        put(FIXED + 8, &length.to_ne_bytes());
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..FIXED].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    /// Reads and checks a header: its bytes from the start of the file, the file's size, the
    /// machine's page. Returns the facts and how many bytes of data there are.
    pub(crate) fn parse(bytes: &[u8], file: u64, page: usize) -> Result<(Self, u64), HeaderError> {
        let Some(bytes) = bytes.get(..FIXED + size_of::<MutableHeader>()) else {
            return Err(HeaderError::new(
                "size",
                format_args!("{} bytes", bytes.len()),
                format_args!("{HEAD} or more"),
            ));
        };
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        if bytes[..8] != MAGIC {
            return Err(HeaderError::new("magic", bytes[..8].escape_ascii(), MAGIC.escape_ascii()));
        }
        if word(12) != ORDER {
            return Err(HeaderError::new(
                "byte order",
                format_args!("{:#x}", word(12)),
                format_args!("{ORDER:#x}"),
            ));
        }
        // Before the checksum: another layout may have it elsewhere.
        if word(8) != LAYOUT {
            return Err(HeaderError::new("layout version", word(8), LAYOUT));
        }
        // Before all that is written anew while it says so.
        if word(STATE_AT) == GONE {
            return Err(HeaderError::gone());
        }
        if long(CHECKSUM_AT) != checksum(&bytes[..CHECKSUM_AT]) {
            let wanted = checksum(&bytes[..CHECKSUM_AT]);
            let (found, wanted) = (format!("{:#x}", long(CHECKSUM_AT)), format!("{wanted:#x}"));
            return Err(HeaderError::new("checksum", found, wanted));
        }
        let kind = SegmentKind::ALL.into_iter().find(|kind| kind.number() == word(16));
        let kind = kind.ok_or_else(|| HeaderError::new("kind", word(16), "one of 1 to 4"))?;
        let lifetime = match word(20) {
            0 => Lifetime::WhileUsed,
            1 => Lifetime::Kept,
            other => return Err(HeaderError::new("lifetime", other, "0 or 1")),
        };
        Self::parse_rest(bytes, file, page, kind, lifetime)
            .map_err(|flaw| HeaderError { lifetime: Some(lifetime), ..flaw })
    }

    /// The rest of [`parse`](Self::parse), for bytes whose sum is right.
    fn parse_rest(
        bytes: &[u8],
        file: u64,
        page: usize,
        kind: SegmentKind,
        lifetime: Lifetime,
    ) -> Result<(Self, u64), HeaderError> {
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap_or_default());
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap_or_default());
        let (data, reserve) = (long(40), long(48));
        if data != data_at(page) {
            return Err(HeaderError::new("start of data", data, data_at(page)));
        }
        // So that all sums stay far from the largest offset.
        let most = 1 << 56;
        if reserve == 0 || reserve > most {
            return Err(HeaderError::new("reserve", reserve, format_args!("1 to {most}")));
        }
        if word(56) != SLOTS as u32 {
            return Err(HeaderError::new("number of slots", word(56), SLOTS));
        }
        let name = bytes[NAME_AT..NAME_AT + NAME_ROOM].get(..word(60) as usize);
        let name = name.and_then(|name| std::str::from_utf8(name).ok());
        let name = name
            .ok_or_else(|| HeaderError::new("type name", "no text", "text of at most 256 bytes"))?;
        let element = long(64);
        match word(STATE_AT) {
            READY => {}
            LOST => {
                return Err(HeaderError::new(
                    "state",
                    "lost: a process took pages of it away",
                    "ready",
                ));
            }
            other => return Err(HeaderError::new("state", other, READY)),
        }
        let length = long(FIXED + 8);
        if length > reserve {
            return Err(HeaderError::new(
                "length",
                length,
                format_args!("at most its reserve of {reserve}"),
            ));
        }
        if file < data + length {
            let wanted = format!("{} or more, as its header says", data + length);
            return Err(HeaderError::new("size", format_args!("{file} bytes"), wanted));
        }
        let id = long(32);
        let facts = Self {
            kind,
            lifetime,
            fingerprint: long(24),
            id,
            data_at: data,
            reserve,
            element,
            type_name: name.to_owned(),
        };
        Ok((facts, length))
    }
}

/// As much of a type's name as a header has room for: the end, which tells most.
pub(crate) fn short_name(name: &str) -> &str {
    let mut start = name.len().saturating_sub(NAME_ROOM);
    while !name.is_char_boundary(start) {
        start += 1;
    }
    &name[start..]
}

/// For the tests and for a fuzzer: whatever the bytes are, they are no header, or one whose numbers
/// fit its file. The first eight are the file's size; its lowest bit asks for a checksum that is
/// right, as a peer would make it, the next one for the right first words, which a fuzzer would not
/// guess.
#[cfg(any(test, fuzzing))]
pub(crate) fn survive(input: &[u8]) {
    const PAGE: usize = 4096;
    let Some((size, bytes)) = input.split_first_chunk::<8>() else { return };
    let size = u64::from_le_bytes(*size);
    let mut bytes = bytes.to_vec();
    if size & 2 == 2 && bytes.len() >= FIXED {
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&LAYOUT.to_ne_bytes());
        bytes[12..16].copy_from_slice(&ORDER.to_ne_bytes());
    }
    if size & 1 == 1 && bytes.len() >= FIXED {
        let sum = checksum(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..FIXED].copy_from_slice(&sum.to_ne_bytes());
    }
    let parsed = HeaderFields::parse(&bytes, size, PAGE);
    let says_gone = bytes.get(STATE_AT..STATE_AT + 4) == Some(&GONE.to_ne_bytes());
    // A segment that is gone is stale, and the error says so.
    assert!(!says_gone || parsed.is_err());
    if let Err(flaw) = &parsed {
        assert!(!flaw.is_gone || (says_gone && flaw.lifetime == Some(Lifetime::WhileUsed)));
    }
    if let Ok((facts, length)) = parsed {
        assert!(length <= facts.reserve && facts.data_at + length <= size);
        assert!(facts.data_at + facts.reserve < 1 << 60 && facts.type_name.len() <= NAME_ROOM);
        // A parsed header says the same when it is written again.
        let again = facts.to_bytes(length);
        assert_eq!(HeaderFields::parse(&again, size, PAGE), Ok((facts, length)));
        let mut gone = again;
        gone[STATE_AT..STATE_AT + 4].copy_from_slice(&GONE.to_ne_bytes());
        gone[CHECKSUM_AT] ^= 1;
        assert!(HeaderFields::parse(&gone, size, PAGE).is_err_and(|flaw| flaw.is_gone));
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CHECKSUM_AT, FIXED, GONE, HEAD, HeaderFields, Lifetime, STATE_AT, SegmentKind, data_at,
    };

    fn facts() -> HeaderFields {
        HeaderFields {
            kind: SegmentKind::Value,
            lifetime: Lifetime::WhileUsed,
            fingerprint: 7,
            id: 9,
            data_at: data_at(4096),
            reserve: 4096,
            element: 8,
            type_name: "u64".into(),
        }
    }

    #[test]
    fn written_bytes_are_read() {
        for name in ["u64", "", &"ä".repeat(200)] {
            let facts = HeaderFields { type_name: super::short_name(name).into(), ..facts() };
            let bytes = facts.to_bytes(100);
            assert_eq!(HeaderFields::parse(&bytes, HEAD as u64 + 100, 4096), Ok((facts, 100)));
        }
    }

    #[test]
    fn every_single_bit_that_is_wrong_is_noticed() {
        let good = facts().to_bytes(100);
        for at in 0..FIXED {
            for bit in 0..8 {
                let mut bytes = good;
                bytes[at] ^= 1 << bit;
                assert!(
                    HeaderFields::parse(&bytes, 1 << 20, 4096).is_err(),
                    "byte {at}, bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_segment_that_is_gone_is_a_leftover_whatever_else_it_says() {
        let mut bytes = HeaderFields { lifetime: Lifetime::Kept, ..facts() }.to_bytes(100);
        bytes[STATE_AT..STATE_AT + 4].copy_from_slice(&GONE.to_ne_bytes());
        // Words that somebody is about to write anew, and a file that was cut short.
        for at in 16..CHECKSUM_AT {
            bytes[at] = bytes[at].wrapping_mul(31).wrapping_add(7);
            let flaw = HeaderFields::parse(&bytes, 4096, 4096).unwrap_err();
            assert!(
                flaw.is_gone && flaw.lifetime == Some(Lifetime::WhileUsed),
                "byte {at}: {flaw}"
            );
        }
        // A file that is none of folio's is not.
        bytes[0] ^= 1;
        assert_eq!(HeaderFields::parse(&bytes, 4096, 4096).unwrap_err().lifetime, None);
    }

    #[test]
    fn no_bytes_at_all_are_taken_for_a_header_or_panic() {
        let good = facts().to_bytes(100);
        for length in 0..good.len() {
            assert!(HeaderFields::parse(&good[..length], 1 << 20, 4096).is_err(), "{length} bytes");
        }
        proptest::proptest!(|(bytes: Vec<u8>)| super::survive(&bytes));
        // A few bytes of a good one changed, with a sum that is right, and all that can change.
        let good = [(1_u64 << 20 | 1).to_le_bytes().as_slice(), &good].concat();
        proptest::proptest!(|(changes in proptest::collection::vec((0..good.len(), 0_u8..), 0..5))| {
            let mut bytes = good.clone();
            for &(at, value) in &changes {
                bytes[at] = value;
            }
            super::survive(&bytes);
        });
    }
}
