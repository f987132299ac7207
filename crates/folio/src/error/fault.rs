//! A page that could not be supplied, as a value. mmap(2) reports it with SIGBUS or SIGSEGV.

use crate::sys;
use std::fmt;
use std::ops::Range;

/// Bytes that could not be supplied, or stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub(crate) call: &'static str,
    pub(crate) object: String,
    pub(crate) range: Range<usize>,
    pub(crate) file_offset: Option<u64>,
    pub(crate) cause: FaultCause,
    /// The source's own message.
    pub(crate) detail: Option<String>,
}

impl std::error::Error for Fault {}

impl Fault {
    /// The bytes of the map, of those that were asked for, that lie on the first page that could
    /// not be supplied.
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

    /// The message of the source of a [`Paged`](crate::Paged) map, if it gave one.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }

    /// The mapped object, as its maker named it: messages escape control characters, and this does
    /// not.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, object, range, file_offset, cause, detail } = self;
        write!(
            f,
            "{call} of {}: bytes {}..{} of the map",
            sys::plain(object),
            range.start,
            range.end
        )?;
        if let Some(offset) = file_offset {
            write!(f, " (file offset {offset})")?;
        }
        let done = if *cause == FaultCause::NotWritten { "written back" } else { "supplied" };
        write!(f, " could not be {done}: {cause}")?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({})", sys::plain(detail)))
    }
}

/// Why a page could not be supplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FaultCause {
    /// The page lies past the end of the file: it was mapped so, or the file was truncated since.
    PastEnd,
    /// The page is inside the file and has no backing: the disk or the memory cgroup is full, the
    /// device failed to read, or the pool of huge pages is empty.
    NoBacking,
    /// The memory itself failed (hardware poison).
    MemoryFailure,
    /// The page's protection forbids the access.
    Protection,
    /// Nothing is mapped there, in this process.
    NotMapped,
    /// The source of a pager's map failed, or gave fewer bytes than it has.
    SourceFailed,
    /// The source's bytes are not those that the map has shown, or that it was made for.
    Changed,
    /// The source did not answer within its deadline.
    Deadline,
    /// Pinned pages, or dirty pages that cannot be written, use up the pager's budget.
    NoMemory,
    /// The pager could not write stored bytes to the source. The pages stay dirty, and the pager
    /// tries again.
    NotWritten,
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
            Self::SourceFailed => "the source failed; try again, or mend the source",
            Self::Changed => "the source has changed since the map was made; map it again",
            Self::Deadline => "the source did not answer within its deadline; try again, or set a longer one",
            Self::NoMemory => {
                "the pager's budget is used up by pages that are pinned, or dirty and cannot be written; give it more, or pin less"
            }
            Self::NotWritten => "the source refused it; the pages stay dirty: mend the source, and sync again",
            Self::NotMapped => "nothing is mapped there; the range was unmapped, or never was this process's",
        })
    }
}
