//! `PagedMut`: a source as memory, for reading and writing by one handle, by folio's own pager.

use crate::error::{ConversionError, Errno, Error, Result, Subject};
use crate::pager::handles::paged::{in_pieces, paged_calls};
use crate::pager::handles::pinned::{Pinned, PinnedMut};
use crate::pager::object::MappedObject;
use crate::pager::source_facts::Purpose;
use crate::region::WriteBack;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::sync::Arc;

/// A [source](crate::source) mapped by a [`Pager`](crate::Pager) for reading and writing, by this
/// handle alone; or copy-on-write ([`Pager::map_private`](crate::Pager::map_private)).
///
/// Nobody else in the process can have the source mapped by a pager, so the map is a plain `&mut
/// [u8]`. Stored pages are written to the source in the background, when memory is needed, by
/// [`sync`](Self::sync), and when the map is dropped. A page that cannot be written stays in
/// memory, dirty, and is tried again: nothing that was stored is lost silently.
///
/// Loads of pages that cannot be supplied, and fork: as for [`Paged`](crate::Paged).
pub struct PagedMut {
    lease: Arc<MappedObject>,
    len: usize,
}

impl PagedMut {
    pub(crate) fn new(lease: (Arc<MappedObject>, usize)) -> Self {
        Self { lease: lease.0, len: lease.1 }
    }

    paged_calls!();

    /// Whether what is stored stays here: a copy-on-write map.
    pub fn is_private(&self) -> bool {
        self.lease.purpose() == Purpose::Private
    }

    /// Copies bytes from `offset`. A page that cannot be supplied is an error, never a signal.
    ///
    /// # Errors
    ///
    /// As for [`Paged::read_at`](crate::Paged::read_at).
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let range =
            self.lease.bytes("read_at", offset..offset.saturating_add(buffer.len()), self.len)?;
        in_pieces(&self.lease, "read_at", range, false, |piece| {
            buffer[piece.start - offset..piece.end - offset].copy_from_slice(&self[piece]);
        })
    }

    /// Copies bytes to `offset`. A page that cannot be supplied is an error, never a signal.
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at); the bytes before the page are stored. A fault with
    /// [`NoMemory`](crate::FaultCause::NoMemory) that names the failed write-back, if dirty pages
    /// have their part of the budget and none could be written within the source's deadline.
    pub fn write_at(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        let range =
            self.lease.bytes("write_at", offset..offset.saturating_add(bytes.len()), self.len)?;
        let lease = Arc::clone(&self.lease);
        in_pieces(&lease, "write_at", range, true, |piece| {
            self[piece.clone()].copy_from_slice(&bytes[piece.start - offset..piece.end - offset]);
        })
    }

    /// Brings a range of bytes into memory and keeps it there, to be read.
    ///
    /// # Errors
    ///
    /// As for [`Paged::pin`](crate::Paged::pin).
    pub fn pin(&self, range: impl RangeBounds<usize>) -> Result<Pinned<'_>> {
        let range = self.lease.bytes("pin", range, self.len)?;
        Pinned::new(&self.lease, &self[range.clone()], range)
    }

    /// Brings a range of bytes into memory and keeps it there, dirty: for system calls and devices
    /// that store to it. The pages around its ends become dirty, too.
    ///
    /// # Errors
    ///
    /// As for [`Paged::pin`](crate::Paged::pin).
    pub fn pin_mut(&mut self, range: impl RangeBounds<usize>) -> Result<PinnedMut<'_>> {
        let range = self.lease.bytes("pin", range, self.len)?;
        // SAFETY: the bytes are this handle's alone, which is borrowed mutably.
        unsafe { PinnedMut::new(&self.lease, range) }
    }

    /// Writes what was stored to a range of bytes to the source.
    ///
    /// With [`WriteBack::Wait`] it is durable when this returns; [`WriteBack::Start`] only starts
    /// it. A private map has nothing to write.
    ///
    /// # Errors
    ///
    /// A [`Fault`](crate::Fault) with [`NotWritten`](crate::FaultCause::NotWritten) if the source
    /// refused a page: it stays dirty, and every further `sync` tries it again and reports it. One
    /// with [`Changed`](crate::FaultCause::Changed) if the source's version, or the file's length
    /// or time of modification, shows a write of another writer. Then this map writes nothing any
    /// more, since whole pages would overwrite those bytes
    /// ([`Builder::merge_stores`](crate::PagerBuilder::merge_stores) writes the stored bytes only).
    /// The pager does not see a foreign write while a write of its own is under way, or within the
    /// granularity of the times. It does not look at the times of files that another machine or
    /// process keeps (NFS, SMB, FUSE, 9P and the like). ECHILD in a forked child.
    pub fn sync(&self, range: impl RangeBounds<usize>, how: WriteBack) -> Result<()> {
        let range = self.lease.bytes("sync", range, self.len)?;
        self.lease.sync(&range, !matches!(how, WriteBack::Start))
    }

    /// Sets the length of the source and of the map, in bytes. New bytes are zero; bytes past the
    /// new end are lost.
    ///
    /// # Errors
    ///
    /// ENOTSUP for a private map; ENOMEM beyond the reserved addresses (twice the length that the
    /// map began with, 1 GiB more at least; none more where RLIMIT_AS has no room for that); the
    /// source's error.
    pub fn resize(&mut self, len: usize) -> Result<()> {
        if self.is_private() {
            let subject = Subject::named(self.name()).with_length(self.len).with_new_length(len);
            let rule = "a private map has the length of its source";
            return Err(Error::rule_as(
                Errno::NOTSUP,
                "resize",
                subject,
                rule,
                "copy it into an Anon",
            ));
        }
        if len != self.len {
            self.lease.resize(self.len, len)?;
            self.len = len;
        }
        Ok(())
    }

    /// Writes what was stored, waits until it is durable, and unmaps.
    ///
    /// # Errors
    ///
    /// Those of [`sync`](Self::sync), with the map as it was.
    pub fn close(self) -> std::result::Result<(), ConversionError<Self>> {
        match self.sync(.., WriteBack::Wait) {
            Ok(()) => Ok(()),
            Err(error) => Err(ConversionError::new(self, error)),
        }
    }
}

impl Deref for PagedMut {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: as for `Paged`; only this handle writes, and that needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.lease.start(), self.len) }
    }
}

impl DerefMut for PagedMut {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: the object keeps the area mapped and is this handle's alone, which is borrowed
        // mutably. Write-back reads pages only after they left the map or were protected.
        unsafe { std::slice::from_raw_parts_mut(self.lease.start(), self.len) }
    }
}

impl AsRef<[u8]> for PagedMut {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for PagedMut {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl std::fmt::Debug for PagedMut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PagedMut")
            .field("name", &self.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
