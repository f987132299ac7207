//! The objects that the pager can put behind an address: any that can be read in ranges.
//!
//! A [`Source`] knows no pager. It is given requests, each with a buffer of its own, and completes
//! them in any order, at any time, from any thread.
//!
//! | source | what |
//! | --- | --- |
//! | [`LocalFile`] | a local file: direct I/O where the file allows, buffered where not |
//! | [`Memory`], [`WritableMemory`] | bytes at hand |
//! | [`Zeros`] | no bytes at all |
//! | [`Function`] | bytes that a function makes |
//! | [`Blocking`] | a blocking reader, with a pool of threads |

mod arc;
mod blocking;
pub(crate) mod file;
pub(crate) mod function;
mod memory;
pub(crate) mod request;
pub(crate) mod workers;
mod zeros;

pub use blocking::{Blocking, ReadAt, Seekable};
pub use file::{Direct, LocalFile};
pub use function::Function;
pub use memory::{Memory, WritableMemory};
pub use request::{FlushRequest, ReadRequest, WriteRequest};
pub use zeros::Zeros;

use std::fmt;
use std::io;
use std::time::Duration;

/// Bytes that can be read in ranges, and perhaps written.
///
/// Every method but the three that take requests should answer at once. `name`, `len`, `block`,
/// `deadline` and the like are asked on the thread that calls [`Pager::map`](crate::Pager::map),
/// once for a map; a panic there is an error of `map`. The three may block, yet a source that can
/// should start the work and return: the pager calls them, and `version`, on threads of which each
/// source may have so many ([`PagerBuilder::source_threads`](crate::PagerBuilder::source_threads)).
/// So a source may read through a map of the same pager, and one that never answers delays no
/// other.
///
/// **No promise of a source is trusted.** What a source says twice differently, a page that is not
/// the same when it is read again, a read that is short: all become errors, never a changed
/// `&[u8]`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no source of the pager",
    note = "any reader at offsets (`ReadAt`: a `File`, for one) becomes one by `Blocking::new(name, reader)`",
    note = "a reader that has to seek becomes one by `Blocking::seekable(name, reader)`"
)]
pub trait Source: Send + Sync + 'static {
    /// Its name in messages: a path, a URL.
    fn name(&self) -> String;

    /// Its length in bytes, now.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Which version of the bytes a read would give now. It changes when the bytes do; a read-only
    /// or private map shows one version only. It is asked before and after each read, and the bytes
    /// are shown if both answers are the map's version: a version that cannot be told is an error
    /// of the read.
    fn version(&self) -> io::Result<Version> {
        Ok(Version::CONSTANT)
    }

    /// The natural unit of a read in bytes, a power of two: a random read costs no more than this.
    /// 4096 if there is none.
    fn block(&self) -> usize {
        4096
    }

    /// The time that a page may take. A longer wait ends in an error.
    fn deadline(&self) -> Duration {
        Duration::from_secs(30)
    }

    /// Whether [`write`](Self::write) can succeed.
    fn is_writable(&self) -> bool {
        false
    }

    /// Two sources with the same identity are the same bytes: the pager keeps one object for them.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// Starts these reads. A request that is dropped without completion has failed.
    fn read(&self, requests: Vec<ReadRequest>);

    /// Starts these writes: each range is written as a whole, or has failed. No two that are under
    /// way overlap.
    fn write(&self, requests: Vec<WriteRequest>) {
        for request in requests {
            request.complete(Err(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
    }

    /// Makes durable what was written by requests that were complete before this call.
    fn flush(&self, request: FlushRequest) {
        request.complete(Ok(()));
    }

    /// Sets the length in bytes; new bytes are zero. May block.
    fn resize(&self, len: u64) -> io::Result<()> {
        let _ = len;
        Err(io::ErrorKind::Unsupported.into())
    }

    /// How the pager reaches the bytes without asking: for folio's own sources.
    #[doc(hidden)]
    fn fast_path(&self) -> FastPath<'_> {
        FastPath(FastPathKind::No)
    }
}

/// Which version of its bytes a source shows: opaque, compared for equality only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version(pub u64, pub u64);

impl Version {
    /// Of a source whose bytes never change.
    pub const CONSTANT: Self = Self(0, 0);
}

/// Which bytes a source stands for: a device and inode number, or whatever tells them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity(pub u64, pub u64);

/// How folio's own sources let the pager at their bytes; nobody else can make one that says more
/// than "ask".
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct FastPath<'a>(pub(crate) FastPathKind<'a>);

#[derive(Clone, Copy)]
pub(crate) enum FastPathKind<'a> {
    /// Ask, by requests.
    No,
    /// Ask, by requests; the version is the same for ever.
    Constant,
    /// All bytes are zero.
    Zeros,
    /// The bytes are in memory that no pager manages, and never change.
    Bytes(&'a [u8]),
    /// A local file, read and written by the pager's own I/O.
    File(&'a std::sync::Arc<file::LocalFile>),
}

impl fmt::Debug for FastPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            FastPathKind::No => "AtHand(no)",
            FastPathKind::Constant => "AtHand(no, constant)",
            FastPathKind::Zeros => "AtHand(zeros)",
            FastPathKind::Bytes(_) => "AtHand(bytes)",
            FastPathKind::File(_) => "AtHand(file)",
        })
    }
}

/// A source that shows another version than the map.
#[derive(Debug)]
pub(crate) struct ChangedVersion;

impl fmt::Display for ChangedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the source has another version than when it was mapped")
    }
}

impl std::error::Error for ChangedVersion {}
