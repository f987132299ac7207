//! A handle to a value that may be read: a lock that is held for reading gives it.

use crate::access::View;
use crate::error::Result;
use crate::shm::value::share::{InPlace, Plain, Share};
use crate::shm::value::shared_ref::SharedRef;
use std::ops::Deref;

/// A value in a segment that may be read and not stored, for as long as the guard is borrowed that
/// it was taken from. Copies of it are the same place. Of a large value it gives parts
/// ([`field!`](crate::shm::field), [`get`](Self::get)) and [views](Self::view), which copy nothing.
#[derive(Debug)]
pub struct ReadRef<'a, T>(SharedRef<'a, T>);

impl<T> Clone for ReadRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ReadRef<'_, T> {}

impl<'a, T: Share> ReadRef<'a, T> {
    pub(in crate::shm) fn new(place: SharedRef<'a, T>) -> Self {
        Self(place)
    }

    /// A field, or an element of an array in it, as [`SharedRef::field`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    #[inline]
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> ReadRef<'a, F> {
        ReadRef(self.0.field(pick))
    }
}

impl<'a, T: Plain> ReadRef<'a, T> {
    /// Copies the value out, as [`SharedRef::load`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    #[inline]
    pub fn load(&self) -> Result<T> {
        self.0.load()
    }

    /// The value's bytes, for volatile reads, as [`SharedRef::view`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view`].
    pub fn view(&self) -> Result<View<'a>> {
        self.0.view()
    }
}

impl<'a, T: Share, const N: usize> ReadRef<'a, [T; N]> {
    /// An element of an array, or `None` past its end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<ReadRef<'a, T>> {
        self.0.get(index).map(ReadRef)
    }

    /// The elements of an array.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ReadRef<'a, T>> + use<'a, T, N> {
        self.0.iter().map(ReadRef)
    }
}

/// A value made of atomics is used in place.
impl<T: InPlace> Deref for ReadRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
