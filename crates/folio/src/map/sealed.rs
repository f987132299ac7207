//! Memory that nobody can ever change again: a memfd sealed against writing, growing and shrinking.
//! It is the one kind of shared memory that is plain slices.

use super::handle::handle_calls;
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::error::Result;
use crate::region::Region;
use crate::residency::Residency;
use std::ops::{Deref, RangeBounds};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

/// Bytes that no process can change, lengthen or shorten, ever: the kernel holds to the seals.
/// Derefs to `&[u8]`, and can be passed to other processes without a copy.
///
/// **Fork:** a child inherits the map and the descriptor, and drops only its own.
///
/// ```
/// use folio::Sealed;
///
/// let table = Sealed::build(1024, |bytes| bytes[..5].copy_from_slice(b"hello"))?;
/// assert_eq!(&table[..5], b"hello");
///
/// // Another process gets it through a Unix socket, and can trust it as much.
/// let (here, there) = std::os::unix::net::UnixStream::pair()?;
/// table.send_to(&here)?;
/// let same = Sealed::receive_from(&there)?;
/// assert_eq!(same, table);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Source: memfd_create(2), fcntl(2) "File Sealing".
#[doc(alias = "memfd_create")]
#[derive(Debug)]
pub struct Sealed {
    mapping: Mapping,
    fd: OwnedFd,
}

impl Sealed {
    /// Makes `length` bytes: `fill` gets them zeroed and writes them, then they are copied into a
    /// memfd and sealed.
    ///
    /// # Errors
    ///
    /// ENOMEM, before any memory is taken, if there is not so much; EMFILE, ENFILE.
    pub fn build(length: usize, fill: impl FnOnce(&mut [u8])) -> Result<Self> {
        MapOptions::new().sealed(length, fill)
    }

    /// Makes a sealed copy of `bytes`.
    ///
    /// # Errors
    ///
    /// As [`build`](Self::build).
    pub fn copy_of(bytes: &[u8]) -> Result<Self> {
        MapOptions::new().sealed_copy(bytes)
    }

    /// Maps a memfd made elsewhere, after checking that it has the seals. Nothing that its maker
    /// does can break them.
    ///
    /// Holes are filled, since a slice must not fault when memory is short later: the memfd then
    /// has memory for its whole length.
    ///
    /// # Errors
    ///
    /// EINVAL if it is no memfd, or lacks a seal against writing, growing or shrinking; ENOMEM,
    /// before any memory is taken, if there is not enough to fill the holes.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Self> {
        MapOptions::new().sealed_from_fd(fd.into())
    }

    pub(super) fn new_from(mapping: Mapping, fd: OwnedFd) -> Self {
        Self { mapping, fd }
    }

    /// Passes the descriptor to the process at the other end of a Unix socket (SCM_RIGHTS), with
    /// one byte of data.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub fn send_to(&self, socket: &UnixStream) -> Result<()> {
        super::scm_rights::send(socket, self.fd.as_fd())
    }

    /// Takes what [`send_to`](Self::send_to) passed, and maps it.
    ///
    /// # Errors
    ///
    /// The errors of recvmsg(2); EINVAL if no descriptor came, or one without the seals.
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        Self::from_fd(super::scm_rights::receive(socket)?)
    }

    handle_calls!();

    /// Which pages are in memory.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map.
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        let range = self.mapping.shift("mincore", range)?;
        Residency::of(&self.mapping.region, range, Some(self.fd.as_fd()))
    }

    /// Gives up the slice for the region. The descriptor is closed.
    pub fn into_region(self) -> Region {
        self.mapping.region.with_steady_pages(false)
    }
}

impl Deref for Sealed {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped readable for as long as the handle lives. The seals were
        // checked on this very descriptor: while they hold, and they hold for ever, no process can
        // change the bytes or take pages away.
        unsafe { std::slice::from_raw_parts(self.mapping.start(), self.mapping.len) }
    }
}

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Sealed {}

impl AsFd for Sealed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Sealed {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Sealed> for OwnedFd {
    fn from(sealed: Sealed) -> Self {
        sealed.fd
    }
}

impl From<Sealed> for Region {
    fn from(sealed: Sealed) -> Self {
        sealed.into_region()
    }
}

/// Without a copy: the map is unmapped when the last `Bytes` of it is dropped.
#[cfg(feature = "bytes")]
impl From<Sealed> for bytes::Bytes {
    fn from(sealed: Sealed) -> Self {
        Self::from_owner(sealed)
    }
}
