//! A copy that a fault ends early: the basis of checked access.
//!
//! The routine is a few instructions of assembly that keep the bounds of the *checked* side (the
//! mapped one) in two registers. When an access to that side faults, the signal handler finds the
//! program counter inside the routine. It puts the address and the signal into the routine's result
//! registers, and continues it at its exit. No other code in the process notices. A fault on the
//! other side does not concern the routine, and is handled like any other fault.
//!
//! On a machine without such assembly the kernel copies (process_vm_readv(2) on the own process),
//! at the price of a system call.
//!
//! # Invariants
//!
//! Each routine accesses only the bytes of its two sides, and keeps the bounds of the checked side
//! in fixed registers from its first instruction to its exit. So [`recover`] can send it to its
//! exit from any instruction.

#[cfg(target_arch = "aarch64")]
#[path = "aarch64.rs"]
mod arch;
#[cfg(target_arch = "x86_64")]
#[path = "x86_64.rs"]
mod arch;
#[cfg(any(test, not(any(target_arch = "x86_64", target_arch = "aarch64"))))]
mod portable;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use portable as arch;

use std::ops::Range;

/// The access that ended a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Trap {
    /// The address that could not be accessed. It lies in the checked range.
    pub(crate) address: usize,
    /// SIGBUS or SIGSEGV.
    pub(crate) signal: i32,
    /// `si_code`; its meaning depends on the signal. Zero if it is unknown.
    pub(crate) code: i32,
}

/// The two result registers of the assembly. The first is a loaded value or the faulting address;
/// the second is zero, or the signal and its code.
#[repr(C)]
#[derive(Clone, Copy)]
struct CopyOutcome {
    value: usize,
    signal: usize,
}

impl CopyOutcome {
    #[inline]
    fn value(self) -> Result<usize, Trap> {
        if self.signal == 0 { Ok(self.value) } else { Err(self.trap()) }
    }

    #[cold]
    fn trap(self) -> Trap {
        let (address, signal) = (self.value, self.signal as u64);
        Trap { address, signal: signal as u32 as i32, code: (signal >> 32) as i32 }
    }

    /// The format in which the handler writes signal and code into one register.
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    fn encode(signal: i32, code: i32) -> u64 {
        u64::from(signal.cast_unsigned()) | (u64::from(code.cast_unsigned()) << 32)
    }
}

/// The width of a single access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Width {
    B1 = 1,
    B2 = 2,
    B4 = 4,
    B8 = 8,
}

impl Width {
    /// The width of an integer type of up to eight bytes.
    pub(crate) const fn of<T: Copy>() -> Self {
        match size_of::<T>() {
            1 => Self::B1,
            2 => Self::B2,
            4 => Self::B4,
            _ => Self::B8,
        }
    }
}

/// Copies `len` bytes. A fault in `checked` ends it; bytes before the fault may have been copied.
///
/// # Safety
///
/// The handler is installed. Each side is either a Rust allocation that is valid for the access, or
/// lies wholly in `checked`. That range holds nothing but mappings; safe references may point into
/// it only while no thread stores to it.
#[inline]
pub(crate) unsafe fn copy(
    to: *mut u8,
    from: *const u8,
    len: usize,
    checked: Range<usize>,
) -> Result<(), Trap> {
    // SAFETY: the caller promises the conditions of this function, which are those of the routine.
    unsafe { arch::copy(to, from, len, checked) }.value().map(drop)
}

/// As [`copy`], in fewer instructions, for a caller that needs only success or failure. Returns
/// `before`, or an odd number if a fault ended the copy. `at` is the start of the checked side.
///
/// # Safety
///
/// As for [`copy`].
#[inline]
pub(crate) unsafe fn quick(
    to: *mut u8,
    from: *const u8,
    len: usize,
    at: usize,
    checked: Range<usize>,
    before: u64,
) -> u64 {
    // SAFETY: the caller promises the conditions of this function, which are those of the routine.
    unsafe { arch::quick(to, from, len, at, checked, before) }
}

/// One load of exactly `width`, zero-extended: for device memory.
///
/// # Safety
///
/// The handler is installed, `from` is aligned to `width` and lies in `checked`, and `checked`
/// holds nothing but mappings.
#[inline]
pub(crate) unsafe fn load(
    from: *const u8,
    width: Width,
    checked: Range<usize>,
) -> Result<u64, Trap> {
    // SAFETY: the caller promises the conditions of this function, which are those of the routine.
    unsafe { arch::load(from, width, checked) }.value().map(|value| value as u64)
}

/// One store of exactly `width`: for device memory.
///
/// # Safety
///
/// As for [`load`].
#[inline]
pub(crate) unsafe fn store(
    to: *mut u8,
    width: Width,
    value: u64,
    checked: Range<usize>,
) -> Result<(), Trap> {
    // SAFETY: the caller promises the conditions of this function, which are those of the routine.
    unsafe { arch::store(to, width, value, checked) }.value().map(drop)
}

/// Stores the byte at `at` over itself, as one atomic step, so that its page becomes dirty.
///
/// # Safety
///
/// The handler is installed, `at` lies in `checked`, and `checked` holds nothing but mappings.
pub(crate) unsafe fn touch(at: *mut u8, checked: Range<usize>) -> Result<(), Trap> {
    // SAFETY: the caller promises the conditions of this function, which are those of the routine.
    unsafe { arch::touch(at, checked) }.value().map(drop)
}

/// For the signal handler: if the interrupted code is one of the routines above and `address` lies
/// in its checked range, makes the routine return the trap. Returns whether it did.
///
/// # Safety
///
/// `context` is the `ucontext_t` that the kernel passed to the handler.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) unsafe fn recover(
    context: *mut libc::c_void,
    address: usize,
    signal: i32,
    code: i32,
) -> bool {
    // SAFETY: the caller passes the kernel's context, which the handler may change until it
    // returns.
    unsafe { arch::recover(&mut *context.cast(), address, signal, code) }
}

/// The address of the interrupted instruction; zero on a machine that folio does not know.
///
/// # Safety
///
/// As for [`recover`].
pub(super) unsafe fn program_counter(context: *const libc::c_void) -> usize {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    // SAFETY: the caller passes the kernel's context.
    return arch::program_counter(unsafe { &*context.cast() });
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return usize::from(context.is_null());
}

/// The kernel copies on this machine, so no fault happens in a routine of folio.
///
/// # Safety
///
/// There are no conditions; the function is unsafe because it is so on the other machines.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(super) unsafe fn recover(_: *mut libc::c_void, _: usize, _: i32, _: i32) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::{Trap, Width, arch, portable};
    use crate::sys::{mm, signal};
    use std::ops::Range;

    const PAGE: usize = 4096;
    /// Bytes before the page without access.
    const READABLE: usize = 12 * PAGE;

    /// Readable pages, then one without access.
    fn pages() -> Range<usize> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let len = READABLE + PAGE;
        // SAFETY: the call makes a new anonymous map.
        let start = unsafe {
            mm::mmap(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        let start = start.unwrap();
        for i in 0..READABLE {
            // SAFETY: the byte lies in the map just made.
            unsafe { start.add(i).write((i * 7 + i / 251) as u8) };
        }
        // SAFETY: nothing refers to the last page.
        unsafe { mm::mprotect(start.add(READABLE), PAGE, libc::PROT_NONE) }.unwrap();
        start as usize..start as usize + len
    }

    type Copy = unsafe fn(*mut u8, *const u8, usize, Range<usize>) -> super::CopyOutcome;

    fn every_length_and_alignment(copy: Copy) {
        signal::install();
        let map = pages();
        let lengths = (0..300)
            .chain([511, 512, 513, 1000, 2048, 4000, 4096, 5000, 16384, 32767, 32768, 40_000]);
        for len in lengths {
            for shift in [0, 1, 3, 8, 15] {
                let from = (map.start + shift) as *const u8;
                let mut to = vec![0xEE_u8; len + 2];
                // SAFETY: `to` has room for `len` bytes after the first; `from` lies in the checked
                // range.
                unsafe { copy(to.as_mut_ptr().add(1), from, len, map.clone()) }.value().unwrap();
                let want: Vec<u8> = (shift..shift + len).map(|i| (i * 7 + i / 251) as u8).collect();
                assert_eq!(to[1..=len], want, "length {len}, shift {shift}");
                assert_eq!((to[0], to[len + 1]), (0xEE, 0xEE), "length {len} wrote past its ends");
            }
        }
    }

    fn a_fault_ends_the_copy(copy: Copy) -> Trap {
        signal::install();
        let map = pages();
        let edge = map.start + READABLE;
        for len in [1, 2, 5, 9, 17, 40, 65, 200, 300, 1000, 16384, 32768, 40_000] {
            let mut to = vec![0_u8; len];
            let from = (edge + 1 - len) as *const u8;
            // SAFETY: `to` has room for `len` bytes; `from` lies in the checked range, and its last
            // byte on the page without access.
            let trap =
                unsafe { copy(to.as_mut_ptr(), from, len, map.clone()) }.value().unwrap_err();
            assert!(
                (edge..edge + PAGE).contains(&trap.address),
                "length {len}: {trap:?}, edge {edge:#x}"
            );
        }
        let mut to = [0_u8; 1];
        // SAFETY: `to` has room for one byte; the other side lies in the checked range.
        unsafe { copy(to.as_mut_ptr(), edge as *const u8, 1, map) }.value().unwrap_err()
    }

    #[test]
    fn the_routine_copies_every_length_and_alignment() {
        every_length_and_alignment(arch::copy);
    }

    #[test]
    fn the_kernel_copies_every_length_and_alignment() {
        every_length_and_alignment(portable::copy);
    }

    #[test]
    fn a_fault_ends_the_routine() {
        let trap = a_fault_ends_the_copy(arch::copy);
        assert_eq!((trap.signal, trap.code), (libc::SIGSEGV, 2), "SEGV_ACCERR");
    }

    #[test]
    fn a_fault_ends_the_kernels_copy() {
        a_fault_ends_the_copy(portable::copy);
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_routine_without_avx_does_the_same() {
        every_length_and_alignment(arch::copy_sse2);
        a_fault_ends_the_copy(arch::copy_sse2);
    }

    const EPOCH: u64 = 1 << 40;

    fn side(to: *mut u8, from: *const u8, checked: &Range<usize>) -> usize {
        if checked.contains(&(to as usize)) { to as usize } else { from as usize }
    }

    /// [`arch::quick`] and the portable one, as a copy that reports a failure but not its address.
    fn quick_copies() -> [Copy; 2] {
        unsafe fn outcome(after: u64, checked: &Range<usize>) -> super::CopyOutcome {
            match after {
                EPOCH => super::CopyOutcome { value: 0, signal: 0 },
                odd if odd & 1 == 1 => super::CopyOutcome { value: checked.end - 1, signal: 1 },
                other => panic!("neither the epoch nor odd: {other:#x}"),
            }
        }
        unsafe fn routine(
            to: *mut u8,
            from: *const u8,
            len: usize,
            checked: Range<usize>,
        ) -> super::CopyOutcome {
            // SAFETY: the caller promises the conditions of the copy.
            unsafe {
                outcome(
                    arch::quick(to, from, len, side(to, from, &checked), checked.clone(), EPOCH),
                    &checked,
                )
            }
        }
        unsafe fn kernel(
            to: *mut u8,
            from: *const u8,
            len: usize,
            checked: Range<usize>,
        ) -> super::CopyOutcome {
            // SAFETY: the caller promises the conditions of the copy.
            unsafe {
                outcome(
                    portable::quick(
                        to,
                        from,
                        len,
                        side(to, from, &checked),
                        checked.clone(),
                        EPOCH,
                    ),
                    &checked,
                )
            }
        }
        [routine, kernel]
    }

    #[test]
    fn the_quick_routine_copies_every_length_and_alignment() {
        for copy in quick_copies() {
            every_length_and_alignment(copy);
        }
    }

    #[test]
    fn a_fault_ends_the_quick_routine_on_either_side_at_every_byte() {
        signal::install();
        let map = pages();
        let edge = map.start + READABLE;
        for copy in quick_copies() {
            for len in 1..=70 {
                // The first byte without access is the last byte at first, and the first byte in
                // the end.
                for inside in 0..len {
                    let mut buffer = vec![0x5A_u8; len];
                    let (at, bytes) = ((edge - inside) as *mut u8, buffer.as_mut_ptr());
                    // SAFETY: `buffer` has room for `len` bytes; the other side lies in the checked
                    // range.
                    unsafe {
                        copy(bytes, at, len, map.clone()).value().unwrap_err();
                        copy(at, bytes, len, map.clone()).value().unwrap_err();
                    }
                }
                let mut buffer = vec![0x5A_u8; len];
                let (at, bytes) = ((edge - len) as *mut u8, buffer.as_mut_ptr());
                // SAFETY: `buffer` has room for `len` bytes; the other side lies in the checked
                // range, and all of it is accessible.
                unsafe {
                    copy(bytes, at, len, map.clone()).value().unwrap();
                    copy(at, bytes, len, map.clone()).value().unwrap();
                }
            }
        }
    }

    #[test]
    fn a_quick_copy_to_the_area_writes_what_it_should() {
        signal::install();
        let map = pages();
        let copy = quick_copies()[0];
        for len in 0..300 {
            for shift in [1, 4, 8, 15, PAGE - 7] {
                let to = (map.start + shift) as *mut u8;
                let bytes: Vec<u8> = (0..len).map(|i| (i * 3 + shift) as u8).collect();
                let mut found = vec![0xEE_u8; len + 2];
                // SAFETY: the map is the test's own, and no reference points to it.
                unsafe {
                    to.sub(1).write_bytes(0xAB, len + 2);
                    copy(to, bytes.as_ptr(), len, map.clone()).value().unwrap();
                    to.sub(1).copy_to(found.as_mut_ptr(), len + 2);
                }
                assert_eq!(found[1..=len], bytes, "length {len}, shift {shift}");
                assert_eq!(
                    (found[0], found[len + 1]),
                    (0xAB, 0xAB),
                    "length {len} wrote past its ends"
                );
            }
        }
    }

    #[test]
    fn a_quick_copy_between_values_keeps_them() {
        signal::install();
        let map = pages();
        // Values that the compiler may hold in any register across the copies.
        let (mut sum, mut want) = (0.0_f64, 0.0_f64);
        for i in 0..1000_usize {
            let mut buffer = [0_u8; 64];
            let from = (map.start + i) as *const u8;
            // SAFETY: `buffer` has room for as many bytes; `from` lies in the checked range.
            let after = unsafe {
                arch::quick(buffer.as_mut_ptr(), from, 64, from as usize, map.clone(), EPOCH)
                    | arch::quick(buffer.as_mut_ptr(), from, 8, from as usize, map.clone(), EPOCH)
            };
            assert_eq!(after, EPOCH);
            sum += f64::from(buffer[63]) * 1.5;
            want += f64::from(((i + 63) * 7 + (i + 63) / 251) as u8) * 1.5;
        }
        assert_eq!(sum.to_bits(), want.to_bits());
    }

    #[test]
    fn single_accesses_have_the_asked_width() {
        signal::install();
        let map = pages();
        let at = map.start as *mut u8;
        for (load, store) in [
            (arch::load as unsafe fn(_, _, _) -> _, arch::store as unsafe fn(_, _, _, _) -> _),
            (portable::load, portable::store),
        ] {
            for (width, mask) in [
                (Width::B1, 0xff),
                (Width::B2, 0xffff),
                (Width::B4, 0xffff_ffff),
                (Width::B8, u64::MAX),
            ] {
                // SAFETY: the addresses are aligned and lie in the checked range.
                unsafe {
                    store(at, Width::B8, 0x1111_1111_1111_1111, map.clone()).value().unwrap();
                    store(at, width, u64::MAX - 1, map.clone()).value().unwrap();
                    assert_eq!(
                        load(at, width, map.clone()).value().unwrap() as u64,
                        (u64::MAX - 1) & mask
                    );
                    let rest = load(at, Width::B8, map.clone()).value().unwrap() as u64 & !mask;
                    assert_eq!(rest, 0x1111_1111_1111_1111 & !mask, "wrote wider than {width:?}");
                    arch::touch(at, map.clone()).value().unwrap();
                    portable::touch(at, map.clone()).value().unwrap();
                    assert_eq!(
                        load(at, width, map.clone()).value().unwrap() as u64,
                        (u64::MAX - 1) & mask
                    );
                    let none = at.add(READABLE);
                    assert!(arch::touch(none, map.clone()).value().is_err());
                    assert!(load(none, width, map.clone()).value().is_err());
                    assert!(store(none, width, 1, map.clone()).value().is_err());
                }
            }
        }
    }
}
