//! A handle to a value that may be read: what a lock held for reading gives.

use crate::access::View;
use crate::error::Result;
use crate::shm::value::share::{InPlace, Plain, Share};
use crate::shm::value::shared_ref::Place;
use std::ops::Deref;

/// A value in a segment that may be read and not stored, for as long as the guard is borrowed that
/// it was taken from. Copies of it are the same place. Of a large value it gives parts
/// ([`field!`](crate::shm::field), [`at`](Self::at)) and [views](Self::view), which copy nothing.
#[derive(Debug)]
pub struct ReadPlace<'a, T>(Place<'a, T>);

impl<T> Clone for ReadPlace<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for ReadPlace<'_, T> {}

impl<'a, T: Share> ReadPlace<'a, T> {
    pub(in crate::shm) fn new(place: Place<'a, T>) -> Self {
        Self(place)
    }

    /// A field, or an element of an array in it, as [`Place::field`].
    ///
    /// # Panics
    ///
    /// As [`Place::field`].
    #[inline]
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> ReadPlace<'a, F> {
        ReadPlace(self.0.field(pick))
    }
}

impl<'a, T: Plain> ReadPlace<'a, T> {
    /// Copies the value out, as [`Place::load`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::load`].
    #[inline]
    pub fn load(&self) -> Result<T> {
        self.0.load()
    }

    /// The value's bytes, for volatile reads, as [`Place::view`].
    ///
    /// # Errors
    ///
    /// Those of [`Place::view`].
    pub fn view(&self) -> Result<View<'a>> {
        self.0.view()
    }
}

impl<'a, T: Share, const N: usize> ReadPlace<'a, [T; N]> {
    /// An element of an array, or `None` past its end.
    #[inline]
    pub fn at(&self, index: usize) -> Option<ReadPlace<'a, T>> {
        self.0.at(index).map(ReadPlace)
    }

    /// The elements of an array.
    pub fn each(&self) -> impl ExactSizeIterator<Item = ReadPlace<'a, T>> + use<'a, T, N> {
        self.0.each().map(ReadPlace)
    }
}

/// What is made of atomics is used as such.
impl<T: InPlace> Deref for ReadPlace<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        &self.0
    }
}
