//! Views over memory that others can change: loads and stores are relaxed atomics, and no reference
//! to the bytes exists.
//!
//! `&[u8]` over such bytes would be undefined behaviour, because the compiler may load twice and
//! assume it saw the same. Volatile accesses would be a data race between the threads of this
//! process. A relaxed atomic of the access's size is one instruction, the same as a plain access.
//! Bulk copies are assembly, which may take bytes of two moments.
//!
//! **Sizes.** Rust's memory model leaves open the result of two atomics of *different* sizes that
//! overlap in time and bytes and of which one stores. The machines that folio runs on define it:
//! each access is one access of its own size, and a compiler has no way to tell. Programs that want
//! the letter of the model access each byte by one size only.

use super::typed::read_value;
use crate::error::{Errno, Error, Result, Subject};
use crate::page;
use crate::region::outside;
use crate::sys;
use std::marker::PhantomData;
use std::ops::RangeBounds;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bytes that others may change at any time, for reading.
///
/// Offsets are in bytes. In a [guard](crate::MappedFile::guard) a load from a page that cannot be
/// supplied gives zero, and the guard's result becomes an error; in [shared
/// memory](crate::SharedMem::view) every page can be supplied.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    start: *const u8,
    len: usize,
    memory: PhantomData<&'a ()>,
}

// SAFETY: a view only makes atomic loads and checked copies from memory that is mapped, or guarded,
// for `'a`, in the whole process.
unsafe impl Send for View<'_> {}
// SAFETY: as above.
unsafe impl Sync for View<'_> {}

/// The byte at `at`.
///
/// # Safety
///
/// A load from there has an effect that is defined, and no Rust allocation lies there.
#[inline]
unsafe fn byte(at: *const u8) -> u8 {
    // SAFETY: a relaxed load of a byte is one plain load, also where memory is read-only; no
    // reference outlives it.
    unsafe { AtomicU8::from_ptr(at.cast_mut()) }.load(Ordering::Relaxed)
}

/// The word at `at`, a multiple of eight.
///
/// # Safety
///
/// As for [`byte`], for eight bytes.
#[inline]
unsafe fn word(at: *const u8) -> u64 {
    // SAFETY: aligned, else as for a byte: 64-bit machines load a word by one plain load.
    unsafe { AtomicU64::from_ptr(at.cast_mut().cast()) }.load(Ordering::Relaxed)
}

/// The word that starts `shift` bits (whole bytes, one to seven) behind the start of `low`, and
/// ends in `high`.
#[inline]
fn join(low: u64, high: u64, shift: u32) -> u64 {
    if cfg!(target_endian = "little") {
        low >> shift | high << (64 - shift)
    } else {
        low << shift | high >> (64 - shift)
    }
}

impl<'a> View<'a> {
    /// # Safety
    ///
    /// For `'a`, loads from the `len` bytes at `start` have an effect that is defined: they are
    /// mapped readable, or guarded. No Rust allocation lies there.
    pub(crate) unsafe fn new(start: *const u8, len: usize) -> Self {
        Self { start, len, memory: PhantomData }
    }

    /// Bytes in the view.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The first byte. Loads through it are the caller's to make atomic.
    pub fn as_ptr(&self) -> *const u8 {
        self.start
    }

    /// A part of the view.
    ///
    /// # Errors
    ///
    /// EINVAL if the range does not lie inside.
    pub fn slice(&self, range: impl RangeBounds<usize>) -> Result<View<'a>> {
        let wanted = (range.start_bound().cloned(), range.end_bound().cloned());
        match page::resolve(range, self.len) {
            Some(range) => Ok(Self {
                start: self.start.wrapping_add(range.start),
                len: range.len(),
                memory: PhantomData,
            }),
            None => Err(Error::rule(
                "slice",
                Subject::named("a view").with_detail(format!(
                    "{} of {} bytes",
                    page::written(&wanted),
                    self.len
                )),
                "the range must lie inside the view",
                format!("keep to 0..{}", self.len),
            )),
        }
    }

    /// The byte at `index`, or `None` past the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<u8> {
        // SAFETY: inside the view, whose loads are defined.
        (index < self.len).then(|| unsafe { byte(self.start.wrapping_add(index)) })
    }

    /// A value of any type that every bit pattern is valid for, from its bytes at `offset`. It may
    /// tear.
    ///
    /// # Errors
    ///
    /// EINVAL if it does not lie inside; a fault in a guard.
    pub fn read<T: FromBytes>(&self, offset: usize) -> Result<T> {
        read_value(|bytes| self.copy_out("read", bytes, offset))
    }

    /// Copies `buffer.len()` bytes from `offset`.
    ///
    /// # Errors
    ///
    /// EINVAL if they do not lie inside; EFAULT, in a guard, if a page cannot be supplied.
    #[inline]
    pub fn copy_to(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.copy_out("copy_to", buffer, offset)
    }

    /// [`copy_to`](Self::copy_to) for `call`, which the error names.
    #[inline]
    fn copy_out(&self, call: &'static str, buffer: &mut [u8], offset: usize) -> Result<()> {
        if page::within(offset, buffer.len(), self.len).is_none() {
            return Err(outside(call, Subject::named("a view"), offset, buffer.len(), self.len));
        }
        let from = self.start.wrapping_add(offset);
        // SAFETY: views come from maps whose makers installed the handler; the bytes lie in one.
        unsafe { sys::copy::copy(buffer.as_mut_ptr(), from, buffer.len(), self.addresses()) }
            .map_err(|trap| stopped(call, trap, self.start as usize))
    }

    fn addresses(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len
    }

    /// All bytes, in order.
    pub fn bytes(&self) -> impl ExactSizeIterator<Item = u8> + use<'a> {
        let Self { start, len, .. } = *self;
        // SAFETY: inside the view, whose loads are defined.
        (0..len).map(move |index| unsafe { byte(start.wrapping_add(index)) })
    }

    /// The bytes eight at a time, as native-endian words, the quickest way through a view; and the
    /// up to seven bytes that are left, in [`Words::rest`].
    pub fn words(&self) -> Words<'a> {
        Words { view: *self, next: 0 }
    }
}

/// The words of a [`View`]; see [`View::words`].
#[derive(Debug, Clone)]
pub struct Words<'a> {
    view: View<'a>,
    next: usize,
}

impl<'a> Words<'a> {
    /// The bytes behind the last whole word that was taken.
    pub fn rest(&self) -> View<'a> {
        let View { start, len, memory } = self.view;
        View { start: start.wrapping_add(self.next), len: len - self.next, memory }
    }
}

impl Iterator for Words<'_> {
    type Item = u64;

    #[inline]
    fn next(&mut self) -> Option<u64> {
        if self.view.len - self.next < 8 {
            return None;
        }
        let at = self.view.start.wrapping_add(self.next);
        self.next += 8;
        let past = at.addr() % 8;
        let aligned = at.wrapping_sub(past);
        // SAFETY: a word that holds a byte of the view lies in that byte's page, whose loads are
        // defined.
        Some(unsafe {
            match past {
                0 => word(aligned),
                past => join(word(aligned), word(aligned.wrapping_add(8)), 8 * past as u32),
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.view.len - self.next) / 8;
        (left, Some(left))
    }

    /// Four loads a round: a chain of single ones would wait for its own counter.
    #[inline]
    fn fold<B, F: FnMut(B, u64) -> B>(self, init: B, mut f: F) -> B {
        let words = (self.view.len - self.next) / 8;
        let start = self.view.start.wrapping_add(self.next);
        if !start.addr().is_multiple_of(8) {
            let mut state = init;
            for value in self {
                state = f(state, value);
            }
            return state;
        }
        let mut state = init;
        let mut index = 0;
        // SAFETY: `index` counts whole words inside the view, from an aligned one on; their loads
        // are defined.
        let load = |index: usize| unsafe { word(start.wrapping_add(8 * index)) };
        while index + 4 <= words {
            let four = [load(index), load(index + 1), load(index + 2), load(index + 3)];
            state = four.into_iter().fold(state, &mut f);
            index += 4;
        }
        while index < words {
            state = f(state, load(index));
            index += 1;
        }
        state
    }
}

impl ExactSizeIterator for Words<'_> {}

/// Bytes that others may change at any time, for reading and writing. It derefs to a [`View`] for
/// the reads.
///
/// All processes that share the memory see stores through it at once. In a guard, stores to a page
/// that cannot be supplied are lost, and the guard's result becomes an error.
#[derive(Debug, Clone, Copy)]
pub struct ViewMut<'a> {
    view: View<'a>,
}

impl<'a> std::ops::Deref for ViewMut<'a> {
    type Target = View<'a>;

    fn deref(&self) -> &View<'a> {
        &self.view
    }
}

impl ViewMut<'_> {
    /// # Safety
    ///
    /// As for [`View::new`], for stores too.
    pub(crate) unsafe fn new(start: *mut u8, len: usize) -> Self {
        // SAFETY: as the caller promised.
        Self { view: unsafe { View::new(start, len) } }
    }

    fn start(&self) -> *mut u8 {
        self.view.start.cast_mut()
    }

    /// Stores the byte at `index`. `false` past the end.
    #[inline]
    pub fn set(&self, index: usize, byte: u8) -> bool {
        let inside = index < self.len;
        if inside {
            // SAFETY: inside the view, whose stores are defined.
            unsafe { AtomicU8::from_ptr(self.start().wrapping_add(index)) }
                .store(byte, Ordering::Relaxed);
        }
        inside
    }

    /// Stores a value's bytes at `offset`. It may tear.
    ///
    /// # Errors
    ///
    /// As for [`copy_from`](Self::copy_from).
    pub fn write<T: IntoBytes + Immutable>(&self, offset: usize, value: &T) -> Result<()> {
        self.copy_in("write", value.as_bytes(), offset)
    }

    /// Copies `bytes` to `offset`.
    ///
    /// # Errors
    ///
    /// EINVAL if they do not lie inside; EFAULT, in a guard, if a page cannot be supplied.
    #[inline]
    pub fn copy_from(&self, bytes: &[u8], offset: usize) -> Result<()> {
        self.copy_in("copy_from", bytes, offset)
    }

    /// [`copy_from`](Self::copy_from) for `call`, which the error names.
    #[inline]
    fn copy_in(&self, call: &'static str, bytes: &[u8], offset: usize) -> Result<()> {
        if page::within(offset, bytes.len(), self.len).is_none() {
            return Err(outside(call, Subject::named("a view"), offset, bytes.len(), self.len));
        }
        let to = self.start().wrapping_add(offset);
        // SAFETY: as for `copy_to`.
        unsafe { sys::copy::copy(to, bytes.as_ptr(), bytes.len(), self.addresses()) }
            .map_err(|trap| stopped(call, trap, self.start as usize))
    }
}

/// A bulk copy through a view met a page that cannot be supplied.
#[cold]
fn stopped(call: &'static str, trap: sys::copy::Trap, start: usize) -> Error {
    Error::rule_as(
        Errno::FAULT,
        call,
        Subject::named("a view")
            .with_address(trap.address)
            .with_detail(format!("byte {}", trap.address - start)),
        "the page cannot be supplied",
        "a guard tells the cause, as does read_at of the map",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_bytes_in_order_wherever_a_view_starts_and_ends() {
        let bytes: Vec<u8> = (0..=255).collect();
        let mut memory = crate::Anon::new(256).unwrap();
        memory.copy_from_slice(&bytes);
        for start in 0..17 {
            for len in [0, 1, 7, 8, 9, 63, 64, 65, 256 - start] {
                // SAFETY: the bytes are mapped while the view exists, and nothing else touches
                // them.
                let view = unsafe { View::new(memory.as_ptr().wrapping_add(start), len) };
                let expected = &bytes[start..start + len];
                let whole: Vec<u64> = expected
                    .chunks_exact(8)
                    .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
                    .collect();
                let mut one_by_one = view.words();
                let taken: Vec<u64> = std::iter::from_fn(|| one_by_one.next()).collect();
                assert_eq!(taken, whole, "{len} bytes from {start}");
                assert!(one_by_one.rest().bytes().eq(expected[whole.len() * 8..].iter().copied()));
                let folded = view.words().fold(Vec::new(), |mut all, word| {
                    all.push(word);
                    all
                });
                assert_eq!(folded, whole, "{len} bytes from {start}");
                assert!(view.bytes().eq(expected.iter().copied()));
            }
        }
    }
}
