//! Checked copies and typed reads out of a file map.

use super::{FileAccess, MappedFile, present_length};
use crate::error::{Fault, FaultCause, Result, Subject};
use crate::map::file_object;
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::guard_table::Piece;

impl<A: FileAccess> MappedFile<A> {
    /// Copies `buffer.len()` bytes from `offset` of the map, all of them or none that count. No
    /// system call, but for pages that have to be read first.
    ///
    /// A write of another process at the same time may be seen in part.
    ///
    /// # Errors
    ///
    /// A [`Fault`](crate::Fault) for a page that cannot be supplied, with the cause; the contents
    /// of `buffer` are then unspecified. EINVAL for bytes outside the map.
    #[inline]
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.read_at_as("read_at", buffer, offset)
    }

    /// [`read_at`](Self::read_at) for `call`, which the error names.
    #[inline]
    pub(super) fn read_at_as(
        &self,
        call: &'static str,
        buffer: &mut [u8],
        offset: usize,
    ) -> Result<()> {
        let (to, len) = (buffer.as_mut_ptr(), buffer.len());
        let quick = move |Piece { at, len, checked, .. }, before| {
            // SAFETY: a map of a file has the handler installed, and `checked` gives pieces of the
            // map's memory, to which this handle gives no references (but by `unsafe` promises).
            // This piece is the whole, `buffer.len()` bytes.
            unsafe { sys::copy::quick(to, at as *const u8, len, at, checked, before) }
        };
        let careful = move |Piece { at, skip, len, checked }| {
            // SAFETY: as above; the pieces make up `buffer.len()` bytes.
            unsafe { sys::copy::copy(to.wrapping_add(skip), at as *const u8, len, checked) }
        };
        self.checked(call, offset, len, quick, careful)
    }

    /// As [`read_at`](Self::read_at), and makes sure afterwards, with one fstat(2) and a pread(2)
    /// of one byte, that the file still has all of these bytes: truncation inside a page shows
    /// zeros and no fault.
    ///
    /// The length that a file system tells may be an estimate (FUSE): a map shows zeros behind the
    /// last byte that there is. The pread sees that where the file system is asked, and not where
    /// its page cache holds the zeros already.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at), with [`FaultCause::PastEnd`] for bytes that the file no
    /// longer has; EBADF if the map keeps no descriptor.
    pub fn read_at_verified(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let call = "read_at_verified";
        let fd = file_object::kept(&self.keep, call, &self.mapping.region)?;
        self.read_at_as(call, buffer, offset)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let size = present_length(fd)?;
        let first = self.offset() + offset as u64;
        let last = first + (buffer.len() - 1) as u64;
        let kept = if last >= size {
            size.saturating_sub(first) as usize
        } else if sys::file::read_at(fd, &mut [0], last) == Ok(0) {
            // The file ends before the length that it tells. The bytes that it has are those that
            // can be read.
            sys::file::read_at(fd, buffer, first).unwrap_or(0)
        } else {
            return Ok(());
        };
        if kept == buffer.len() {
            // It has them again: somebody made it longer just now.
            return self.read_at_as(call, buffer, offset);
        }
        Err(Fault {
            call,
            object: Subject::file(fd).object().to_owned(),
            range: offset + kept..offset + buffer.len(),
            file_offset: Some(first + kept as u64),
            cause: FaultCause::PastEnd,
            detail: None,
        }
        .into())
    }

    /// A checked access to `len` bytes from `offset`, which sees the map's own bytes even while
    /// guards replace pages.
    ///
    /// The common case is a few instructions in the caller's loop, so that the processor works on
    /// the next accesses while memory is slow: `quick` gets the whole access and the epoch, and
    /// returns the epoch, or an odd number after a fault. All else, errors included, is left to
    /// [`carefully`](Self::carefully).
    #[inline]
    pub(super) fn checked(
        &self,
        call: &'static str,
        offset: usize,
        len: usize,
        quick: impl FnOnce(Piece, u64) -> u64,
        careful: impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<()> {
        let before = self.guarded.epoch();
        // Where pages are replaced, or lost, a store could reach another map's.
        if before & 1 == 0 && self.mapping.is_ready(offset, len) {
            let checked = self.mapping.region.addresses();
            let at = checked.start + self.mapping.lead + offset;
            let after = quick(Piece { at, skip: 0, len, checked }, before);
            // No epoch that was odd, or became so, passes.
            if self.guarded.undisturbed(after) {
                return Ok(());
            }
        }
        self.carefully(call, offset, len, careful)
    }

    /// Starts anew what the quick way did not finish, so an access that ends in an error takes its
    /// fault twice: errors are rare, and the quick way is shorter for not telling them apart.
    #[cold]
    #[inline(never)]
    pub(super) fn carefully(
        &self,
        call: &'static str,
        offset: usize,
        len: usize,
        mut access: impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<()> {
        let range = self.mapping.bytes(call, offset, len)?;
        let whole = self.mapping.region.addresses();
        let before = self.guarded.epoch();
        if before & 1 != 0 {
            let bytes = whole.start + range.start..whole.start + range.end;
            return self
                .guarded
                .access(&bytes, &whole, access)
                .map_err(|trap| self.fault(call, trap, range));
        }
        let result =
            access(Piece { at: whole.start + range.start, skip: 0, len, checked: whole.clone() });
        if self.guarded.undisturbed(before) {
            return result.map_err(|trap| self.fault(call, trap, range));
        }
        let bytes = whole.start + range.start..whole.start + range.end;
        self.guarded.access(&bytes, &whole, access).map_err(|trap| self.fault(call, trap, range))
    }
}
