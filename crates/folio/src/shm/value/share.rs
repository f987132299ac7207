//! The types that may lie in shared memory, and the access of safe code to them there.

use std::fmt;
use std::marker::PhantomData;
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

/// Adds a named part to a fingerprint.
const fn with_part(state: u64, name: &str, offset: u64, print: u64) -> u64 {
    // A byte that no name has, so that two names never run together.
    let state = hash(hash(hash(state, name.as_bytes()), &[0xff]), &offset.to_le_bytes());
    hash(state, &print.to_le_bytes())
}

/// Where the fingerprint of a type starts.
const fn with_name(name: &str, size: usize) -> u64 {
    hash(hash(SEED, name.as_bytes()), &(size as u64).to_le_bytes())
}

/// A number that tells the type `T` from types with another layout or meaning. `derive(Share)`
/// makes one after it has checked the layout; the compiler makes that check when the number is
/// used.
pub struct Fingerprint<T> {
    number: u64,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Fingerprint<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Fingerprint<T> {}

impl<T> fmt::Debug for Fingerprint<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({:016x})", self.number)
    }
}

impl<T> Fingerprint<T> {
    /// The number.
    pub const fn get(self) -> u64 {
        self.number
    }

    /// A number for a type that implements [`Share`] by hand.
    ///
    /// # Safety
    ///
    /// No type with another layout or meaning has this number, and the layout of `T` meets the
    /// demands of [`Share`] and [`Plain`].
    pub const unsafe fn new(number: u64) -> Self {
        Self { number, of: PhantomData }
    }

    /// For this crate's own types, which implement `Share` by hand.
    pub(in crate::shm) const fn of(name: &str) -> Self {
        Self { number: with_name(name, size_of::<T>()), of: PhantomData }
    }

    /// The same with a part of the type, which has a fingerprint of its own.
    pub(in crate::shm) const fn and(self, name: &str, offset: usize, print: u64) -> Self {
        Self { number: with_part(self.number, name, offset as u64, print), of: PhantomData }
    }

    /// The fingerprint of a struct, whose layout is checked: its fields lie in the order in which
    /// they are written, each aligned, without gaps. For `derive(Share)`.
    ///
    /// # Safety
    ///
    /// `fields` are all fields of the struct, each made with its own offset.
    #[doc(hidden)]
    pub const unsafe fn of_struct(
        name: &str,
        parameters: &[Parameter],
        fields: &[Field<T>],
    ) -> Self {
        let mut print = Self::of(name);
        let mut at = 0;
        while at < parameters.len() {
            let Parameter { what, high, low } = parameters[at];
            print.number = with_part(print.number, what, high, low);
            at += 1;
        }
        let (mut sum, mut at) = (0, 0);
        while at < fields.len() {
            let Field { size, align, .. } = fields[at];
            assert!(
                align <= align_of::<T>(),
                "a packed struct cannot be shared: its fields would not be aligned"
            );
            sum += size;
            at += 1;
        }
        assert!(
            sum == size_of::<T>(),
            "the struct has padding: add fields that fill it (`_fill: [u8; 4]`), or order the fields by size"
        );
        let (mut end, mut at) = (0, 0);
        while at < fields.len() {
            let Field { name, offset, size, print: field, .. } = fields[at];
            assert!(
                offset == end,
                "the fields do not lie in the order in which they are written: the struct needs #[repr(C)]"
            );
            end += size;
            print = print.and(name, offset, field);
            at += 1;
        }
        print
    }
}

/// A parameter of a struct: parameters tell types apart that have the same fields. For
/// `derive(Share)`.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Parameter {
    what: &'static str,
    high: u64,
    low: u64,
}

impl Parameter {
    /// A type.
    pub const fn of_type<T: Share>() -> Self {
        Self { what: "type", high: 0, low: T::FINGERPRINT.get() }
    }

    /// An integer, a bool or a char: all of its bits.
    pub const fn of_value(bits: u128) -> Self {
        Self { what: "const", high: (bits >> 64) as u64, low: bits as u64 }
    }
}

/// A field of the struct `S`, with facts that come from its real type. For `derive(Share)`.
#[doc(hidden)]
pub struct Field<S> {
    name: &'static str,
    offset: usize,
    size: usize,
    align: usize,
    print: u64,
    of: PhantomData<fn() -> S>,
}

impl<S> Clone for Field<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S> Copy for Field<S> {}

impl<S> fmt::Debug for Field<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Field")
            .field("name", &self.name)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl<S> Field<S> {
    /// `pick` is never called. It takes the field out of a pattern of the struct, so that the
    /// compiler infers `F` from the field itself, and refuses a reference to a packed field.
    ///
    /// # Safety
    ///
    /// The field that `pick` names has this offset.
    pub const unsafe fn new<F: Share>(
        name: &'static str,
        offset: usize,
        pick: fn(&S) -> &F,
    ) -> Self {
        let _ = pick;
        Self {
            name,
            offset,
            size: size_of::<F>(),
            align: align_of::<F>(),
            print: F::FINGERPRINT.get(),
            of: PhantomData,
        }
    }
}

/// A type that may lie in memory that other processes write: every bit pattern is valid for it, and
/// it means the same everywhere. Integers and floats of a fixed size, their atomics, arrays, the
/// synchronising types of this module, and structs of these by `#[derive(Share)]`.
///
/// Not pointers and references (an address means nothing to another process), nor `usize` and
/// `isize` with their atomics (another program's may have another size), nor `bool`, `char`,
/// `NonZero` and enums (another process may store what is none of theirs).
///
/// `#[derive(Share)]` judges the struct that there is in the end. Write it below attribute macros
/// that change the types of fields: above them it is refused.
///
/// Zeroed memory is where each value starts, unless the creator of the segment stores something
/// else first.
///
/// # Safety
///
/// All bits are valid for the type, it has no padding that safe code can read, it holds no address,
/// and [`FINGERPRINT`](Self::FINGERPRINT) differs from that of types with another layout or
/// meaning. Its `Drop`, if any, need never run.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot lie in memory that other processes write",
    note = "shared are integers and floats of a fixed size, arrays, atomics, folio's locks, and `#[derive(Share)] #[repr(C)]` structs of these",
    note = "not usize and isize, which may have another size there, nor pointers or references, which mean nothing to another process, nor bool, \
            char and enums, for which not all bits are valid"
)]
pub unsafe trait Share: Sized + 'static {
    /// Tells types apart: by their names and parameters, and the names, offsets and types of their
    /// fields.
    const FINGERPRINT: Fingerprint<Self>;
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
pub unsafe trait Plain: Share + Copy + Send + Sync {
    /// `derive(Share)` proves here that each field is plain data, under the bounds of the very impl
    /// that says so.
    #[doc(hidden)]
    fn __each_field_is_plain(_: &Self) {}
}

/// A [`Share`] type that may be used by `&` while other processes use it too: an atomic, or an
/// array or struct of them.
///
/// # Safety
///
/// All of its bytes lie in cells that are accessed atomically, whatever safe code does with a `&`
/// of it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not made of atomics alone: others may change it while a reference to it exists",
    note = "reach its fields with `shm::field!`, and load and store those that are plain data"
)]
pub unsafe trait InPlace: Share + Sync {
    /// As `Plain`'s.
    #[doc(hidden)]
    fn __each_field_is_in_place(_: &Self) {}
}

macro_rules! plain {
    ($($name:ident)*) => {$(
        // SAFETY: a number: all bits are valid, and there is no padding.
        unsafe impl Share for $name {
            const FINGERPRINT: Fingerprint<Self> = Fingerprint::of(stringify!($name));
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
            const FINGERPRINT: Fingerprint<Self> = Fingerprint::of(stringify!($name));
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
    const FINGERPRINT: Fingerprint<Self> = Fingerprint::of("[]").and("0", N, T::FINGERPRINT.get());
}
// SAFETY: as above.
unsafe impl<T: Plain, const N: usize> Plain for [T; N] {}
// SAFETY: as above.
unsafe impl<T: InPlace, const N: usize> InPlace for [T; N] {}
