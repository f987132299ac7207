//! A file map with a promise: slices for parsers that want `&[u8]`, where somebody answers for the
//! file.

use super::file::{FileAccess, MappedFile, ReadOnly, ReadWrite, WriteAccess};
use std::ops::{Deref, DerefMut};

/// A file map whose bytes nobody changes and whose file nobody shortens, by promise: derefs to
/// `&[u8]`.
///
/// Made by [`MappedFile::assume_stable`]. Parsers that were written for a plain map of a file
/// accept it.
///
/// **Fork:** a child inherits the map (shared, or copied on write) and drops only its own; the
/// promise holds for it too. With [`Fork::Absent`](crate::Fork::Absent) it has nothing there, and
/// must not touch the slice.
///
/// Source: mmap(2).
#[derive(Debug)]
pub struct Stable<A = ReadOnly>(pub(super) MappedFile<A>);

/// A writable file map that this process alone uses, by promise: derefs to `&[u8]` and `&mut [u8]`.
///
/// Made by [`MappedFile::assume_exclusive`].
///
/// **Fork:** a child inherits the map and drops only its own. A shared one is the same memory in
/// both: it is the promise that one of them alone touches it. A private one is copied on write.
/// With [`Fork::Absent`](crate::Fork::Absent) the child has nothing there, and must not touch the
/// slices.
///
/// Source: mmap(2).
#[derive(Debug)]
pub struct StableMut<A = ReadWrite>(pub(super) MappedFile<A>);

impl<A: FileAccess> Stable<A> {
    /// Takes the promise back: the map, with checked copies and guards.
    pub fn into_inner(self) -> MappedFile<A> {
        self.0.promised(false)
    }
}

impl Stable<ReadOnly> {
    /// The map, for its other calls. Only for a read-only one: another could be written to under
    /// the slice.
    ///
    /// Its guards are an error (EPERM): a guard replaces pages that cannot be supplied, under the
    /// slice.
    pub fn as_map(&self) -> &MappedFile<ReadOnly> {
        &self.0
    }
}

impl<A: WriteAccess> StableMut<A> {
    /// Takes the promise back: the map, with checked copies and guards.
    pub fn into_inner(self) -> MappedFile<A> {
        self.0.promised(false)
    }

    /// Writes changes back; see [`MappedFile::sync`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sync(
        &self,
        range: impl std::ops::RangeBounds<usize>,
        how: crate::WriteBack,
    ) -> crate::Result<()> {
        self.0.sync(range, how)
    }
}

impl<A: FileAccess> Deref for Stable<A> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped readable while the handle lives, and promised to `assume_stable` to be
        // left alone.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl<A: WriteAccess> Deref for StableMut<A> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: mapped readable while the handle lives, and promised to `assume_exclusive` to be
        // left alone.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), self.0.len()) }
    }
}

impl<A: WriteAccess> DerefMut for StableMut<A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, writable, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_ptr().cast_mut(), self.0.len()) }
    }
}

impl<A: FileAccess> AsRef<[u8]> for Stable<A> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<A: WriteAccess> AsRef<[u8]> for StableMut<A> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<A: WriteAccess> AsMut<[u8]> for StableMut<A> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// Without a copy: the map is unmapped when the last `Bytes` of it is dropped.
#[cfg(feature = "bytes")]
impl<A: FileAccess> From<Stable<A>> for bytes::Bytes {
    fn from(stable: Stable<A>) -> Self {
        Self::from_owner(stable)
    }
}

impl<A: FileAccess> MappedFile<A> {
    /// Takes the promise that the file stays as it is, for the map's whole life: the result derefs
    /// to `&[u8]`.
    ///
    /// # Safety
    ///
    /// Until the result is dropped or turned back, nobody changes or truncates the mapped part of
    /// the file, and the map is readable throughout (it does not reach past the file's last page,
    /// and was not protected otherwise).
    pub unsafe fn assume_stable(self) -> Stable<A> {
        Stable(self.promised(true))
    }
}

impl<A: WriteAccess> MappedFile<A> {
    /// Takes the promise that this map alone is used to read or write its part of the file: the
    /// result derefs to `&[u8]` and `&mut [u8]`.
    ///
    /// # Safety
    ///
    /// As for [`assume_stable`](Self::assume_stable), and writable throughout; nobody reads the
    /// bytes through another map in this process.
    pub unsafe fn assume_exclusive(self) -> StableMut<A> {
        StableMut(self.promised(true))
    }
}
