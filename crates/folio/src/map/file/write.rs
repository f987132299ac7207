//! Checked copies into a file map, and write-back.

use super::{MappedFile, WriteAccess};
use crate::error::Result;
use crate::region::WriteBack;
use crate::sys;
use crate::sys::guard_table::Piece;
use std::ops::RangeBounds;
use std::sync::atomic::{Ordering, fence};

impl<A: WriteAccess> MappedFile<A> {
    /// Copies `bytes` to `offset` of the map. In a [`FileMapMut`](crate::FileMapMut) the file
    /// changes, and everyone sees it at once; the file does not grow. In a
    /// [`FileMapPrivate`](crate::FileMapPrivate) the pages are copied first.
    ///
    /// # Errors
    ///
    /// A [`Fault`](crate::Fault) for a page that cannot be supplied or written, with the cause;
    /// bytes before it may have been stored. EINVAL for bytes outside the map.
    #[inline]
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        self.write_at_as("write_at", bytes, offset)
    }

    /// [`write_at`](Self::write_at) for `call`, which the error names.
    #[inline]
    pub(super) fn write_at_as(
        &self,
        call: &'static str,
        bytes: &[u8],
        offset: usize,
    ) -> Result<()> {
        let from = bytes.as_ptr();
        // The epoch is looked at after each access, and must not be read while the stores still
        // wait in the processor's buffer: they could then reach a page that replaced the map's own
        // after the look.
        let quick = move |Piece { at, len, checked, .. }, before| {
            // SAFETY: as for `read_at`.
            let after = unsafe { sys::copy::quick(at as *mut u8, from, len, at, checked, before) };
            fence(Ordering::SeqCst);
            after
        };
        let careful = move |Piece { at, skip, len, checked }| {
            // SAFETY: as for `read_at`.
            let result =
                unsafe { sys::copy::copy(at as *mut u8, from.wrapping_add(skip), len, checked) };
            fence(Ordering::SeqCst);
            result
        };
        self.checked(call, offset, bytes.len(), quick, careful)
    }

    /// The first byte, for stores that the caller answers for.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.mapping.start()
    }

    /// Writes changed pages back to the file; see [`Region::sync`](crate::Region::sync). A private
    /// map has nothing to write back.
    ///
    /// # Errors
    ///
    /// EIO if the device failed: changes may be lost. EBUSY for
    /// [`WriteBack::Invalidate`](crate::WriteBack::Invalidate) of locked pages.
    #[doc(alias = "msync")]
    #[doc(alias = "flush")]
    pub fn sync(&self, range: impl RangeBounds<usize>, how: WriteBack) -> Result<()> {
        self.mapping.region.sync(self.mapping.shift("msync", range)?, how)
    }
}
