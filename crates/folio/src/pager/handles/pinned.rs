//! Ranges of a pager's map that stay in memory: to be read, or to be stored to by system calls and
//! devices as well.

use crate::access::ViewMut;
use crate::error::Result;
use crate::pager::object::MappedObject;
use crate::region::WriteBack;
use std::ops::{Deref, DerefMut, Range};

/// Keeps a range in the map until it is dropped.
#[derive(Debug)]
struct PinGuard<'a> {
    lease: &'a MappedObject,
    range: Range<usize>,
    stores: bool,
}

impl<'a> PinGuard<'a> {
    fn new(lease: &'a MappedObject, range: Range<usize>, stores: bool) -> Result<Self> {
        lease.pin("pin", &range, stores)?;
        Ok(Self { lease, range, stores })
    }

    fn start(&self) -> *mut u8 {
        self.lease.start().wrapping_add(self.range.start)
    }
}

impl Drop for PinGuard<'_> {
    fn drop(&mut self) {
        self.lease.unpin(&self.range, self.stores);
    }
}

/// Bytes of a map that stay in memory until this is dropped.
#[derive(Debug)]
pub struct Pinned<'a> {
    _pin: PinGuard<'a>,
    bytes: &'a [u8],
}

impl<'a> Pinned<'a> {
    /// `bytes` are those of `range`.
    pub(super) fn new(
        lease: &'a MappedObject,
        bytes: &'a [u8],
        range: Range<usize>,
    ) -> Result<Self> {
        Ok(Self { _pin: PinGuard::new(lease, range, false)?, bytes })
    }
}

impl Deref for Pinned<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

/// Bytes of a [`PagedMut`](crate::PagedMut) that stay in memory, and dirty, until this is dropped.
///
/// They can be given to a system call that stores to them, read(2) with O_DIRECT included, with
/// every way in which the pager learns of faults: no store to them is a fault, and none is missed.
/// They are written to the source by [`sync`](Self::sync), and some time after this was dropped. In
/// a forked child it is as its map there.
#[derive(Debug)]
pub struct PinnedMut<'a> {
    pin: PinGuard<'a>,
}

impl<'a> PinnedMut<'a> {
    /// # Safety
    ///
    /// For `'a` nobody else refers to the bytes of `range`.
    pub(super) unsafe fn new(lease: &'a MappedObject, range: Range<usize>) -> Result<Self> {
        Ok(Self { pin: PinGuard::new(lease, range, true)? })
    }

    /// Writes the bytes to the source, as they are now or will be at some moment of the call.
    ///
    /// # Errors
    ///
    /// As for [`PagedMut::sync`](crate::PagedMut::sync).
    pub fn sync(&self, how: WriteBack) -> Result<()> {
        self.pin.lease.sync(&self.pin.range, !matches!(how, WriteBack::Start))
    }

    /// The first byte: for system calls. Stores through it must not race with uses of this value as
    /// a slice.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.pin.start()
    }
}

impl Deref for PinnedMut<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: inside the map, which the object keeps; the bytes are this value's alone, as its
        // maker promised.
        unsafe { std::slice::from_raw_parts(self.pin.start(), self.pin.range.len()) }
    }
}

impl DerefMut for PinnedMut<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and this value is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.pin.start(), self.pin.range.len()) }
    }
}

/// Bytes of a [`PagedShared`](crate::PagedShared) that stay in memory, and dirty, until this is
/// dropped: as [`PinnedMut`], for bytes that others store to as well.
#[derive(Debug)]
pub struct PinnedShared<'a> {
    pin: PinGuard<'a>,
}

impl<'a> PinnedShared<'a> {
    pub(super) fn new(lease: &'a MappedObject, range: Range<usize>) -> Result<Self> {
        Ok(Self { pin: PinGuard::new(lease, range, true)? })
    }

    /// The bytes, for atomic loads and stores.
    ///
    /// # Errors
    ///
    /// ECHILD in a forked child.
    pub fn view(&self) -> Result<ViewMut<'_>> {
        self.pin.lease.check_owner_process("view")?;
        // SAFETY: inside the map, which the object keeps for as long as this is borrowed; shared
        // maps have no slices.
        Ok(unsafe { ViewMut::new(self.pin.start(), self.pin.range.len()) })
    }

    /// As [`PinnedMut::sync`].
    ///
    /// # Errors
    ///
    /// As for [`PagedMut::sync`](crate::PagedMut::sync).
    pub fn sync(&self, how: WriteBack) -> Result<()> {
        self.pin.lease.sync(&self.pin.range, !matches!(how, WriteBack::Start))
    }
}
