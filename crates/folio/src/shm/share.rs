//! Which types may lie in shared memory, and what safe code gets of them there.

use std::sync::atomic;

/// Where [`hash`] starts.
pub(crate) const SEED: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a over `bytes`, going on from `state`.
pub(crate) const fn hash(state: u64, bytes: &[u8]) -> u64 {
    let (mut state, mut at) = (state, 0);
    while at < bytes.len() {
        state = (state ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    state
}

/// The fingerprint of a type from its name, its parameters, and the name, offset and fingerprint of each field. For `derive(Share)`.
#[doc(hidden)]
pub const fn fingerprint(name: &str, size: usize, fields: &[(&str, usize, u64)]) -> u64 {
    let mut state = hash(hash(SEED, name.as_bytes()), &(size as u64).to_le_bytes());
    let mut at = 0;
    while at < fields.len() {
        let (name, offset, print) = fields[at];
        state = hash(state, name.as_bytes());
        // A byte that no name has, so that two names never run together.
        state = hash(hash(state, &[0xff]), &(offset as u64).to_le_bytes());
        state = hash(state, &print.to_le_bytes());
        at += 1;
    }
    state
}

/// A type that may lie in memory that other processes write: every bit pattern is valid for it, and it means the same
/// everywhere. Integers and floats of a fixed size, the atomics of such, arrays, what this module has for synchronising, and structs
/// of these by `#[derive(Share)]`.
///
/// Not pointers and references (an address means nothing to another process), nor `usize` and `isize` with their atomics (another
/// program's may have another size), nor `bool`, `char`, `NonZero` and enums (another process may store what is none of theirs).
///
/// Zeroed memory is where each value starts, unless the creator of the segment stores something else first.
///
/// # Safety
///
/// All bits are valid for the type, it has no padding that safe code can read, it holds no address, and
/// [`FINGERPRINT`](Self::FINGERPRINT) differs from that of types with another layout or meaning. Its `Drop`, if any, need
/// never run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in memory that other processes write",
    note = "shared are integers and floats of a fixed size, arrays, atomics, folio's locks, and `#[derive(Share)] #[repr(C)]` structs of these",
    note = "not usize and isize, which may have another size there, nor pointers or references, which mean nothing to another process, nor bool, \
            char and enums, for which not all bits are valid"
)]
pub unsafe trait Share: Sized + 'static {
    /// Tells types apart: by their names and parameters, and the names, offsets and types of their fields.
    const FINGERPRINT: u64;
}

/// A [`Share`] type that is plain data: it is loaded and stored as a whole, by copying.
///
/// # Safety
///
/// The type has no padding, and a copy of its bytes is a value.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not plain data: it is used in place, and not copied",
    note = "reach its fields with `shm::field!`"
)]
pub unsafe trait Plain: Share + Copy + Send + Sync {}

/// A [`Share`] type that may be used by `&` while other processes use it too: an atomic, or an array or struct of them.
///
/// # Safety
///
/// All of its bytes lie in cells that are accessed atomically, whatever safe code does with a `&` of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not made of atomics alone: others may change it while a reference to it exists",
    note = "reach its fields with `shm::field!`, and load and store those that are plain data"
)]
pub unsafe trait InPlace: Share + Sync {}

macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: a number: all bits are valid, and there is no padding.
        unsafe impl Share for $name {
            const FINGERPRINT: u64 = fingerprint(stringify!($name), size_of::<Self>(), &[]);
        }
        // SAFETY: as above.
        unsafe impl Plain for $name {}
    )*};
}

plain! { u8 u16 u32 u64 u128 i8 i16 i32 i64 i128 f32 f64 }

macro_rules! in_place {
    ($($width:literal: $($name:ident)*;)*) => {$($(
        #[cfg(target_has_atomic = $width)]
        // SAFETY: an atomic integer: all bits are valid, and there is no padding.
        unsafe impl Share for atomic::$name {
            const FINGERPRINT: u64 = fingerprint(stringify!($name), size_of::<Self>(), &[]);
        }
        #[cfg(target_has_atomic = $width)]
        // SAFETY: as above; all accesses by reference are atomic.
        unsafe impl InPlace for atomic::$name {}
    )*)*};
}

in_place! {
    "8": AtomicU8 AtomicI8;
    "16": AtomicU16 AtomicI16;
    "32": AtomicU32 AtomicI32;
    "64": AtomicU64 AtomicI64;
}

// SAFETY: as its elements, which lie without gaps.
unsafe impl<T: Share, const N: usize> Share for [T; N] {
    const FINGERPRINT: u64 = fingerprint("[]", size_of::<Self>(), &[("0", N, T::FINGERPRINT)]);
}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: as above.
unsafe impl<T: InPlace, const N: usize> InPlace for [T; N] {}

/// For `derive(Share)`: whether a struct has no bytes but those of its fields.
#[doc(hidden)]
pub const fn has_no_padding(size: usize, fields: &[usize]) -> bool {
    let (mut sum, mut at) = (0, 0);
    while at < fields.len() {
        sum += fields[at];
        at += 1;
    }
    sum == size
}
