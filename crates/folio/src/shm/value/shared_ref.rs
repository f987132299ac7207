//! Handles to a value in a segment: [`Shared`], which keeps the segment, and [`SharedRef`], which
//! borrows who does.
//!
//! Plain data is copied in and out. Values made of atomics are used in place. Everything else is
//! reached field by field ([`field!`](crate::shm::field)). No reference to bytes that are not
//! atomics exists.

use crate::access::{View, ViewMut};
use crate::error::{Error, Result};
use crate::shm::segment::attachment::Attachment;
use crate::shm::value::scratch;
use crate::shm::value::share::{InPlace, Plain, Share};
use crate::sys;
use std::fmt;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// A value in a segment, for as long as its origin is borrowed. Copies of it are the same place.
pub struct SharedRef<'a, T> {
    attachment: &'a Attachment,
    at: *mut T,
    memory: PhantomData<&'a T>,
}

impl<T> Clone for SharedRef<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for SharedRef<'_, T> {}

// SAFETY: all processes use a place at once anyway: it gives copies, atomics, and locks that work
// across threads as they do across processes.
unsafe impl<T> Send for SharedRef<'_, T> {}
// SAFETY: as above.
unsafe impl<T> Sync for SharedRef<'_, T> {}

impl<T> fmt::Debug for SharedRef<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.at as usize - self.attachment.base() as usize;
        f.debug_struct("Place")
            .field("type", &std::any::type_name::<T>())
            .field("at", &offset)
            .finish_non_exhaustive()
    }
}

impl<'a, T: Share> SharedRef<'a, T> {
    /// # Safety
    ///
    /// `get` is aligned for `T`, and all of the `T` there lies within the attachment's reserve.
    pub(crate) unsafe fn new(attachment: &'a Attachment, at: *mut T) -> Self {
        // Whatever way led here: the layout of a type with parameters is checked when its
        // fingerprint is used.
        const { T::FINGERPRINT.get() };
        Self { attachment, at, memory: PhantomData }
    }

    pub(crate) fn attachment(&self) -> &'a Attachment {
        self.attachment
    }

    /// The address, in this process.
    pub fn as_ptr(&self) -> *mut T {
        self.at
    }

    /// A field, or an element of an array in it: `shared_ref.field(|board| &board.visits)`. The
    /// closure is given a `T` to name a part of: not the value, but memory of this thread that
    /// holds nothing of it, and costs addresses only. See [`field!`](crate::shm::field) for a
    /// shorter way.
    ///
    /// # Panics
    ///
    /// If the closure returns something that is no part of the `T` it was given; if this process
    /// has no addresses left for a
    /// `T` of more than 4096 bytes.
    #[inline]
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> SharedRef<'a, F> {
        let at = self.at.wrapping_byte_add(offset_of(pick)).cast::<F>();
        // Some bytes of an array, taken for an `F`, may have been aligned by chance.
        assert!(at.is_aligned(), "not a part of the value that has a place of its own");
        // SAFETY: inside a `T` that lies in the reserve, and aligned; the memory holds any bits,
        // and `F` takes any.
        unsafe { SharedRef::new(self.attachment, at) }
    }
}

/// How far into a `T` the part lies that `pick` names.
#[inline]
fn offset_of<T: Share, F: Share>(pick: impl FnOnce(&T) -> &F) -> usize {
    scratch::lend(|whole: &T| {
        let part = std::ptr::from_ref(pick(whole));
        let offset = (part as usize).wrapping_sub(std::ptr::from_ref(whole) as usize);
        let fits = offset.checked_add(size_of::<F>()).is_some_and(|end| end <= size_of::<T>());
        assert!(fits, "not a part of the value that the closure was given");
        offset
    })
}

impl<T: Plain> SharedRef<'_, T> {
    /// Copies the value out. A value of 1, 2, 4 or 8 bytes that is aligned to as many is loaded in
    /// one step, as it is [stored](Self::store). Of all other values, and of values that are stored
    /// in parts (their fields, or by a [view](Self::view_mut)), a store at the same time may be
    /// seen in half. Keep values that belong together in a [`Mutex`](crate::shm::Mutex).
    ///
    /// # Errors
    ///
    /// EIO if a process truncated the segment; EFAULT if a page of it went away just now.
    #[inline]
    pub fn load(&self) -> Result<T> {
        self.attachment.ensure_joined()?;
        self.copy_out()
    }

    /// As [`load`](Self::load), for a caller that has [joined](Attachment::ensure_joined).
    #[inline]
    fn copy_out(&self) -> Result<T> {
        // SAFETY: the value lies in the map, which is there while the attachment is.
        if let Some(value) = unsafe { load_word(self.at) } {
            // A page that is gone was zeros, which the segment says by now.
            self.attachment.check_whole()?;
            return Ok(value);
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: an attachment installed the handler; the value lies in its map, and in a Rust
        // allocation of that size.
        unsafe {
            sys::copy::copy(
                value.as_mut_ptr().cast(),
                self.at.cast(),
                size_of::<T>(),
                self.attachment.addresses(),
            )
        }
        .map_err(|_| lost("load", self.attachment))?;
        // Another thread may have met a page that is gone, and made zeros of it under the copy.
        self.attachment.check_whole()?;
        // SAFETY: all bytes are initialized, and any will do.
        Ok(unsafe { value.assume_init() })
    }

    /// Stores a value, where all processes see it at once.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    #[inline]
    pub fn store(&self, value: T) -> Result<()> {
        self.attachment.ensure_joined()?;
        self.copy_in(value)
    }

    /// As [`store`](Self::store), for a caller that has [joined](Attachment::ensure_joined).
    #[inline]
    fn copy_in(&self, value: T) -> Result<()> {
        // SAFETY: as for `copy_out`.
        if unsafe { store_word(self.at, value) } {
            return self.attachment.check_whole();
        }
        // SAFETY: as for `copy_out`; plain data has no padding.
        unsafe {
            sys::copy::copy(
                self.at.cast(),
                (&raw const value).cast(),
                size_of::<T>(),
                self.attachment.addresses(),
            )
        }
        .map_err(|_| lost("store", self.attachment))?;
        self.attachment.check_whole()
    }
}

/// Parts of a value that is too large to be copied as a whole.
impl<'a, T: Plain> SharedRef<'a, T> {
    /// The value's bytes, for volatile reads: each load happens once, when it is made, and shows
    /// the bytes of that moment. Stores of another thread or process at the same time may be seen
    /// in part. Every byte is one that somebody stored, and takes any value, so that nothing that
    /// is made of them is unsound.
    ///
    /// ```
    /// use folio::shm::{Segment, Share, field};
    ///
    /// #[derive(Clone, Copy, Share)]
    /// #[repr(C)]
    /// struct Frame {
    ///     number: u64,
    ///     pixels: [u8; 1 << 16],
    /// }
    ///
    /// let frame = Segment::<Frame>::anonymous()?;
    /// let pixels = field!(frame.pixels);
    /// pixels.view_mut()?.copy_from(&[7; 100], 50)?;
    /// assert_eq!(pixels.view()?.bytes().filter(|&byte| byte == 7).count(), 100);
    /// assert_eq!(frame.view()?.read::<u64>(0)?, 0);
    /// # Ok::<(), folio::Error>(())
    /// ```
    ///
    /// If a process truncates the segment while there is a view, bytes that are gone read as zeros,
    /// and the next operation that can return an error about the segment does ([`Shared::check`]).
    /// Copies by the view ([`View::copy_to`] and the calls built on it) are EFAULT there
    /// themselves.
    ///
    /// # Errors
    ///
    /// EIO if a process truncated the segment; in a forked child those of attaching.
    pub fn view(&self) -> Result<View<'a>> {
        self.view_mut().map(|view| *view)
    }

    /// The value's bytes, for volatile reads and writes, which all processes see at once; see
    /// [`view`](Self::view). The views of one place may be many: none of them is anyone's alone.
    /// Keep what belongs together in a [`Mutex`](crate::shm::Mutex).
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view).
    pub fn view_mut(&self) -> Result<ViewMut<'a>> {
        self.attachment.check()?;
        // SAFETY: the value lies in the attachment's map, which is there, and guarded, for `'a`;
        // the handler was installed when it was attached. It is plain data: any bytes will do for
        // it.
        Ok(unsafe { ViewMut::new(self.at.cast(), size_of::<T>()) })
    }
}

impl<T: Plain> SharedRef<'_, T> {
    /// Loads the value, lets `change` change it, and stores it: for a caller that alone may.
    #[inline]
    pub(in crate::shm) fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> Result<R> {
        self.attachment.ensure_joined()?;
        let mut value = self.copy_out()?;
        let result = change(&mut value);
        self.copy_in(value)?;
        Ok(result)
    }
}

/// Loads a value of the size of a machine's word in one step, if it is aligned as such.
///
/// # Safety
///
/// The value lies in a mapping of an attachment that is open: no Rust allocation, and no reference
/// to it exists but those of atomics. The other accesses that this process makes to it at the same
/// time are atomics (maybe of another size), volatile ones, and those of the checked copies'
/// assembly: with them it may be seen in part, and nothing else follows.
#[inline]
unsafe fn load_word<T: Plain>(at: *mut T) -> Option<T> {
    macro_rules! word {
        ($($atomic:ty),*) => {$(
            let is_aligned = align_of::<T>() >= align_of::<$atomic>() || at.cast::<$atomic>().is_aligned();
            if size_of::<T>() == size_of::<$atomic>() && is_aligned {
                // SAFETY: as the caller promised, aligned, and as large; a page that is gone
                // becomes zeros.
                let bits = unsafe { <$atomic>::from_ptr(at.cast()) }.load(Ordering::Relaxed);
                // SAFETY: as many bytes, and for plain data any will do.
                return Some(unsafe { std::mem::transmute_copy(&bits) });
            }
        )*};
    }
    word!(AtomicU64, AtomicU32, AtomicU16, AtomicU8);
    None
}

/// As [`load_word`], but stores. Whether it did.
///
/// # Safety
///
/// As for [`load_word`].
#[inline]
unsafe fn store_word<T: Plain>(at: *mut T, value: T) -> bool {
    macro_rules! word {
        ($($atomic:ty),*) => {$(
            let is_aligned = align_of::<T>() >= align_of::<$atomic>() || at.cast::<$atomic>().is_aligned();
            if size_of::<T>() == size_of::<$atomic>() && is_aligned {
                // SAFETY: as many bytes, and plain data has no padding.
                let bits = unsafe { std::mem::transmute_copy(&value) };
                // SAFETY: as for `load_word`.
                unsafe { <$atomic>::from_ptr(at.cast()) }.store(bits, Ordering::Relaxed);
                return true;
            }
        )*};
    }
    word!(AtomicU64, AtomicU32, AtomicU16, AtomicU8);
    false
}

#[cold]
fn lost(call: &'static str, attachment: &Attachment) -> Error {
    attachment.check_file().err().unwrap_or_else(|| {
        Error::rule_as(
            crate::error::Errno::FAULT,
            call,
            attachment.subject(),
            "a page of the segment could not be supplied",
            "see that no process truncates the file, and that its memory is not used up",
        )
    })
}

impl<'a, T: Share, const N: usize> SharedRef<'a, [T; N]> {
    /// An element of an array, or `None` past its end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<SharedRef<'a, T>> {
        // SAFETY: aligned as the array is, and inside it.
        (index < N).then(|| unsafe {
            SharedRef::new(self.attachment, self.at.cast::<T>().wrapping_add(index))
        })
    }

    /// The elements of an array.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = SharedRef<'a, T>> + use<'a, T, N> {
        let (attachment, first) = (self.attachment, self.at.cast::<T>());
        // SAFETY: as for `get`.
        (0..N).map(move |index| unsafe { SharedRef::new(attachment, first.wrapping_add(index)) })
    }
}

/// A value made of atomics is used in place. A segment that was truncated shows zeros here, and an
/// error at the next operation that can return one ([`Shared::check`]).
impl<T: InPlace> Deref for SharedRef<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: aligned, mapped and guarded while the place lives, and all bytes are accessed
        // atomically by everyone.
        unsafe { &*self.at }
    }
}

/// A value in a segment, which it keeps attached. Clones are handles of the same value; threads
/// share it, and a forked child's copy becomes a participant of its own at its first operation that
/// can return an error (see [`Segment`](crate::shm::Segment)).
pub struct Shared<T> {
    attachment: Arc<Attachment>,
    at: *mut T,
}

// SAFETY: as for places.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as for places.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self { attachment: Arc::clone(&self.attachment), at: self.at }
    }
}

impl<T: Share> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let segment = self.attachment.subject().to_string();
        f.debug_struct("Shared")
            .field("segment", &segment)
            .field("at", &self.shared_ref())
            .finish_non_exhaustive()
    }
}

impl<T: Share> Shared<T> {
    /// # Safety
    ///
    /// As for [`SharedRef::new`].
    pub(crate) unsafe fn new(attachment: Arc<Attachment>, at: *mut T) -> Self {
        Self { attachment, at }
    }

    /// The value's place, borrowed from this handle: it locks, loads and stores.
    #[inline]
    pub fn shared_ref(&self) -> SharedRef<'_, T> {
        // SAFETY: as this handle was made.
        unsafe { SharedRef::new(&self.attachment, self.at) }
    }

    /// Whether the segment is whole, this process a participant of it, and its name still there, as
    /// [`Segment::check`](crate::shm::Segment::check).
    ///
    /// # Errors
    ///
    /// Those of [`Segment::check`](crate::shm::Segment::check).
    pub fn check(&self) -> Result<()> {
        self.attachment.check_name()
    }

    /// A field, or an element of an array in it, as [`SharedRef::field`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> Shared<F> {
        let place = self.shared_ref().field(pick);
        // SAFETY: as the place.
        unsafe { Shared::new(Arc::clone(&self.attachment), place.as_ptr()) }
    }
}

impl<T: Plain> Shared<T> {
    /// As [`SharedRef::load`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    #[inline]
    pub fn load(&self) -> Result<T> {
        self.shared_ref().load()
    }

    /// As [`SharedRef::store`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::store`].
    #[inline]
    pub fn store(&self, value: T) -> Result<()> {
        self.shared_ref().store(value)
    }

    /// As [`SharedRef::view`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view`].
    pub fn view(&self) -> Result<View<'_>> {
        self.shared_ref().view()
    }

    /// As [`SharedRef::view_mut`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view_mut`].
    pub fn view_mut(&self) -> Result<ViewMut<'_>> {
        self.shared_ref().view_mut()
    }
}

impl<T: Share, const N: usize> Shared<[T; N]> {
    /// The elements of an array.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Shared<T>> + use<'_, T, N> {
        // SAFETY: as the places.
        self.shared_ref()
            .iter()
            .map(|place| unsafe { Shared::new(Arc::clone(&self.attachment), place.as_ptr()) })
    }

    /// An element of an array, or `None` past its end.
    pub fn get(&self, index: usize) -> Option<Shared<T>> {
        let place = self.shared_ref().get(index)?;
        // SAFETY: as the place.
        Some(unsafe { Shared::new(Arc::clone(&self.attachment), place.as_ptr()) })
    }
}

/// A value made of atomics is used in place; see [`SharedRef`]'s.
impl<T: InPlace> Deref for Shared<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: as for a place; the attachment is kept while `self` is borrowed.
        unsafe { &*self.at }
    }
}

/// A field of a value in shared memory: of a [`Shared`] a `Shared`, of a [`SharedRef`] or a guard a
/// `SharedRef`.
///
/// ```
/// use folio::shm::{Segment, Share, field};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Share)]
/// #[repr(C)]
/// struct Board {
///     visits: AtomicU64,
///     title: [u8; 16],
/// }
///
/// let board = Segment::<Board>::anonymous()?;
/// field!(board.visits).fetch_add(1, Ordering::Relaxed);
/// field!(board.title).store(*b"a few words     ")?;
/// assert_eq!(field!(board.title).load()?[2..5], *b"few");
/// # Ok::<(), folio::Error>(())
/// ```
#[macro_export]
#[doc(hidden)]
macro_rules! __shm_field {
    ($value:ident . $($field:tt)+) => {
        $value.field(|value| &value.$($field)+)
    };
}
