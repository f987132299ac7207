//! A page that could not be supplied: what mmap(2) tells with SIGBUS or SIGSEGV, as a value.

use std::fmt;
use std::ops::Range;

/// Bytes that could not be supplied, or stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Fault {
    pub(crate) call: &'static str,
    pub(crate) object: String,
    pub(crate) range: Range<usize>,
    pub(crate) file_offset: Option<u64>,
    pub(crate) cause: FaultCause,
}

impl Fault {
    /// The bytes of the map, of those that were asked for, that lie on the first page that could not be supplied.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Where [`range`](Self::range) starts in the file, if the map is of one.
    pub fn file_offset(&self) -> Option<u64> {
        self.file_offset
    }

    /// Why.
    pub fn cause(&self) -> FaultCause {
        self.cause
    }

    /// The mapped object.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, object, range, file_offset, cause } = self;
        write!(f, "{call} of {object}: bytes {}..{} of the map", range.start, range.end)?;
        if let Some(offset) = file_offset {
            write!(f, " (file offset {offset})")?;
        }
        write!(f, " could not be supplied: {cause}")
    }
}

/// Why a page could not be supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultCause {
    /// The page lies past the end of the file: it was mapped so, or the file was truncated since.
    PastEnd,
    /// The page is inside the file and has no backing: the disk or the memory cgroup is full, the device failed to
    /// read, or the pool of huge pages is empty.
    NoBacking,
    /// The memory itself failed (hardware poison).
    MemoryFailure,
    /// The page's protection forbids the access.
    Protection,
    /// Nothing is mapped there, in this process.
    NotMapped,
}

impl fmt::Display for FaultCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PastEnd => {
                "past the end of the file, which is shorter than the map (was it truncated?); map it again at its \
                 present length"
            }
            Self::NoBacking => {
                "the page has no backing (a full disk, a read error, or no free huge page); reserve the space when \
                 the map is made (`reserve`), or check the device"
            }
            Self::MemoryFailure => "the memory failed; the page's contents are lost",
            Self::Protection => "the page's protection forbids the access; change it with `protect`",
            Self::NotMapped => "nothing is mapped there; the range was unmapped, or never was this process's",
        })
    }
}
