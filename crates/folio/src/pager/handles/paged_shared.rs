//! `PagedShared`: a source as memory that several handles write, by folio's own pager.

use crate::access::ViewMut;
use crate::error::Result;
use crate::pager::handles::paged::{in_pieces, paged_calls};
use crate::pager::handles::pinned::PinnedShared;
use crate::pager::object::MappedObject;
use crate::region::WriteBack;
use std::ops::RangeBounds;
use std::sync::Arc;

/// A [source](crate::source) mapped by a [`Pager`](crate::Pager) for reading and writing by any
/// number of handles, which see each other's stores at once.
///
/// Others may change the bytes at any time, so there are no slices: atomic [views](ViewMut) and
/// copies.
///
/// Write-back, loads of pages that cannot be supplied, and fork: as for
/// [`PagedMut`](crate::PagedMut).
#[derive(Clone)]
pub struct PagedShared {
    lease: Arc<MappedObject>,
    len: usize,
}

impl PagedShared {
    pub(crate) fn new(lease: (Arc<MappedObject>, usize)) -> Self {
        Self { lease: lease.0, len: lease.1 }
    }

    paged_calls!();

    /// All bytes, for atomic loads and stores.
    ///
    /// # Errors
    ///
    /// ECHILD in a forked child.
    pub fn view(&self) -> Result<ViewMut<'_>> {
        self.lease.check_owner_process("view")?;
        // SAFETY: the object keeps the area mapped for as long as the view borrows the handle, and
        // no reference to its bytes exists: a shared object has shared handles only.
        Ok(unsafe { ViewMut::new(self.lease.start(), self.len) })
    }

    /// Copies bytes from `offset`. A page that cannot be supplied is an error, never a signal.
    /// Bytes that are stored meanwhile may be old or new.
    ///
    /// # Errors
    ///
    /// As for [`Paged::read_at`](crate::Paged::read_at).
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let range =
            self.lease.bytes("read_at", offset..offset.saturating_add(buffer.len()), self.len)?;
        let view = self.view()?;
        let mut result = Ok(());
        in_pieces(&self.lease, "read_at", range, false, |piece| {
            let copied =
                view.copy_to(&mut buffer[piece.start - offset..piece.end - offset], piece.start);
            result = std::mem::replace(&mut result, Ok(())).and(copied);
        })?;
        result
    }

    /// Copies bytes to `offset`. A page that cannot be supplied is an error, never a signal.
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at); the bytes before the page are stored. A fault with
    /// [`NoMemory`](crate::FaultCause::NoMemory) that names the failed write-back, if dirty pages
    /// have their part of the budget and none could be written within the source's deadline.
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        let range =
            self.lease.bytes("write_at", offset..offset.saturating_add(bytes.len()), self.len)?;
        let view = self.view()?;
        let mut result = Ok(());
        in_pieces(&self.lease, "write_at", range, true, |piece| {
            let copied =
                view.copy_from(&bytes[piece.start - offset..piece.end - offset], piece.start);
            result = std::mem::replace(&mut result, Ok(())).and(copied);
        })?;
        result
    }

    /// Brings a range of bytes into memory and keeps it there, dirty: for system calls and devices
    /// that read or store to it.
    ///
    /// # Errors
    ///
    /// As for [`Paged::pin`](crate::Paged::pin).
    pub fn pin(&self, range: impl RangeBounds<usize>) -> Result<PinnedShared<'_>> {
        PinnedShared::new(&self.lease, self.lease.bytes("pin", range, self.len)?)
    }

    /// Writes what was stored to a range of bytes, by whichever handle, to the source.
    ///
    /// # Errors
    ///
    /// As for [`PagedMut::sync`](crate::PagedMut::sync).
    pub fn sync(&self, range: impl RangeBounds<usize>, how: WriteBack) -> Result<()> {
        let range = self.lease.bytes("sync", range, self.len)?;
        self.lease.sync(&range, !matches!(how, WriteBack::Start))
    }
}

impl std::fmt::Debug for PagedShared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PagedShared")
            .field("name", &self.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
