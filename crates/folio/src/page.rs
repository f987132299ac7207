//! Page geometry: the one place that rounds, clamps and checks ranges.
//!
//! Every range that reaches a system call went through here, with the *mapping's own* page size
//! (huge pages have theirs) and with the mapping's end as the limit, so that no call can reach past
//! the mapping.

use std::fmt;
use std::ops::{Bound, Range, RangeBounds};

/// The size of a page, a power of two, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageSize(u8);

impl PageSize {
    /// The machine's base page size, as `sysconf(_SC_PAGE_SIZE)` tells it: 4096 on x86-64.
    pub fn system() -> Self {
        Self(rustix::param::page_size().trailing_zeros() as u8)
    }

    /// A page size of `bytes`, or `None` if that is no power of two.
    pub const fn new(bytes: usize) -> Option<Self> {
        if bytes.is_power_of_two() { Some(Self(bytes.trailing_zeros() as u8)) } else { None }
    }

    pub(crate) const fn from_shift(shift: u32) -> Self {
        Self(shift as u8)
    }

    /// log2 of the size.
    pub const fn shift(self) -> u32 {
        self.0 as u32
    }

    /// The size in bytes.
    pub const fn bytes(self) -> usize {
        1 << self.0
    }

    /// Whether `n` (an address, an offset or a length) is a multiple of the page size.
    pub const fn divides(self, n: usize) -> bool {
        n & (self.bytes() - 1) == 0
    }

    /// The nearest multiple at or below `n`.
    pub const fn floor(self, n: usize) -> usize {
        n & !(self.bytes() - 1)
    }

    /// The nearest multiple at or above `n`, or `None` if that does not fit in a `usize`.
    pub const fn ceil(self, n: usize) -> Option<usize> {
        match n.checked_add(self.bytes() - 1) {
            Some(n) => Some(self.floor(n)),
            None => None,
        }
    }

    /// All pages that hold a byte of `range`, cut at `limit` (the end of the mapping, itself a
    /// multiple). An empty range touches no page.
    ///
    /// For what does no harm to a neighbouring byte: advice, locking, write-back.
    pub(crate) fn outward(self, range: Range<usize>, limit: usize) -> Range<usize> {
        if range.is_empty() {
            return range.start..range.start;
        }
        self.floor(range.start)..self.ceil(range.end).map_or(limit, |end| end.min(limit))
    }

    /// `range` itself, if both its ends lie on page boundaries.
    ///
    /// For what would destroy or change a neighbouring byte: unmapping, protecting, discarding.
    /// `Err` holds the nearest range inside and the nearest outside, for the message.
    pub(crate) fn exact(
        self,
        range: Range<usize>,
        limit: usize,
    ) -> Result<Range<usize>, Misaligned> {
        if self.divides(range.start) && self.divides(range.end) {
            return Ok(range);
        }
        let start = self.ceil(range.start).unwrap_or(limit).min(limit);
        let inner = start..self.floor(range.end).max(start);
        // An empty range inside a page is held by that page, and so is not `outward`'s.
        let outer =
            self.floor(range.start)..self.ceil(range.end).map_or(limit, |end| end.min(limit));
        Err(Misaligned { page: self, outer, inner })
    }

    /// How to show `len` bytes from `offset` of a file: the page below the offset, the bytes that
    /// lie before it on that page, and how many bytes have to be mapped. `None` if the numbers
    /// overflow.
    pub(crate) fn cover(self, offset: u64, len: usize) -> Option<Cover> {
        let file_offset = offset & !(self.bytes() as u64 - 1);
        let lead = (offset - file_offset) as usize;
        let mapped = self.ceil(lead.checked_add(len)?)?;
        // The kernel counts file positions in a signed 64-bit number.
        i64::try_from(file_offset.checked_add(mapped as u64)?).ok()?;
        Some(Cover { file_offset, lead, mapped })
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({})", self.bytes())
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0..10 => write!(f, "{} bytes", self.bytes()),
            10..20 => write!(f, "{} KiB", self.bytes() >> 10),
            20..30 => write!(f, "{} MiB", self.bytes() >> 20),
            _ => write!(f, "{} GiB", self.bytes() >> 30),
        }
    }
}

/// A range whose ends do not lie on page boundaries, with the two nearest that do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misaligned {
    /// The page size that was missed.
    pub(crate) page: PageSize,
    /// The nearest page range that holds the asked one.
    pub(crate) outer: Range<usize>,
    /// The nearest page range inside the asked one; it may be empty.
    pub(crate) inner: Range<usize>,
}

/// The pages to map for a byte range of a file; see [`PageSize::cover`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cover {
    /// Where the map starts in the file: a multiple of the page size.
    pub(crate) file_offset: u64,
    /// Bytes between the start of the map and the first asked byte: less than a page.
    pub(crate) lead: usize,
    /// Bytes to map: a multiple of the page size.
    pub(crate) mapped: usize,
}

/// The bytes that `range` means in an object of `len` bytes, or `None` if it starts or ends past
/// the end, or ends before it starts.
pub(crate) fn resolve(range: impl RangeBounds<usize>, len: usize) -> Option<Range<usize>> {
    let start = match range.start_bound() {
        Bound::Included(&n) => n,
        Bound::Excluded(&n) => n.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&n) => n.checked_add(1)?,
        Bound::Excluded(&n) => n,
        Bound::Unbounded => len,
    };
    (start <= end && end <= len).then_some(start..end)
}

/// A range as Rust writes it, for a message: `..4096`, `8..=9`.
pub(crate) fn written(range: &impl RangeBounds<usize>) -> String {
    let start = match range.start_bound() {
        Bound::Included(n) => n.to_string(),
        Bound::Excluded(n) => format!("{n}<"),
        Bound::Unbounded => String::new(),
    };
    match range.end_bound() {
        Bound::Included(n) => format!("{start}..={n}"),
        Bound::Excluded(n) => format!("{start}..{n}"),
        Bound::Unbounded => format!("{start}.."),
    }
}

/// `offset .. offset + count` if that lies inside `len` bytes.
#[inline]
pub(crate) fn within(offset: usize, count: usize, len: usize) -> Option<Range<usize>> {
    let end = offset.checked_add(count)?;
    (end <= len).then_some(offset..end)
}
