//! The kernel copies: process_vm_readv(2) and process_vm_writev(2) on the own process, which stop
//! at a page that cannot be accessed. For machines without a routine in assembly; tested on all.

use super::{CopyOutcome, Width};
use std::ops::Range;

/// # Safety
///
/// As [`super::copy`].
pub(super) unsafe fn copy(
    to: *mut u8,
    from: *const u8,
    len: usize,
    checked: Range<usize>,
) -> CopyOutcome {
    let reading = checked.contains(&(from as usize));
    let (ours, theirs) = if reading { (to, from.cast_mut()) } else { (from.cast_mut(), to) };
    let mut done = 0;
    while done < len {
        let vector = |base: *mut u8| libc::iovec {
            iov_base: base.wrapping_add(done).cast(),
            iov_len: len - done,
        };
        let (local, remote) = (vector(ours), vector(theirs));
        let call = if reading { libc::process_vm_readv } else { libc::process_vm_writev };
        // SAFETY: `local` is the caller's, valid for the access; the kernel checks `remote` page by
        // page.
        match unsafe { call(libc::getpid(), &raw const local, 1, &raw const remote, 1, 0) } {
            count if count > 0 => done += count.cast_unsigned(),
            // After a short count the next call returns EFAULT, at the page that stopped the first
            // one.
            _ => {
                return CopyOutcome {
                    value: theirs as usize + done,
                    signal: libc::SIGSEGV as usize,
                };
            }
        }
    }
    CopyOutcome { value: 0, signal: 0 }
}

/// # Safety
///
/// As [`super::quick`].
#[inline]
pub(super) unsafe fn quick(
    to: *mut u8,
    from: *const u8,
    len: usize,
    _at: usize,
    checked: Range<usize>,
    before: u64,
) -> u64 {
    // SAFETY: the caller promises the conditions of `super::copy`.
    let outcome = unsafe { copy(to, from, len, checked) };
    if outcome.signal == 0 { before } else { before | 1 }
}

/// # Safety
///
/// As [`super::load`]. The kernel copies an aligned word in one access if its copy routine does so.
pub(super) unsafe fn load(from: *const u8, width: Width, checked: Range<usize>) -> CopyOutcome {
    let mut bytes = [0_u8; 8];
    let len = width as usize;
    // SAFETY: the caller promises the conditions of `super::load`; `bytes` has room for any width.
    let outcome = unsafe { copy(bytes.as_mut_ptr(), from, len, checked) };
    if outcome.signal != 0 {
        return outcome;
    }
    let mut word = [0_u8; 8];
    let at = if cfg!(target_endian = "little") { 0 } else { 8 - len };
    word[at..at + len].copy_from_slice(&bytes[..len]);
    CopyOutcome { value: u64::from_ne_bytes(word) as usize, signal: 0 }
}

/// # Safety
///
/// As [`super::store`].
pub(super) unsafe fn store(
    to: *mut u8,
    width: Width,
    value: u64,
    checked: Range<usize>,
) -> CopyOutcome {
    let len = width as usize;
    let word = value.to_ne_bytes();
    let at = if cfg!(target_endian = "little") { 0 } else { 8 - len };
    // SAFETY: the caller promises the conditions of `super::store`; `word` has the bytes of any
    // width.
    unsafe { copy(to, word[at..].as_ptr(), len, checked) }
}

/// # Safety
///
/// As [`super::touch`]. This is not one step: another thread's store in between is lost, so the
/// caller uses it before the map is shared.
pub(super) unsafe fn touch(at: *mut u8, checked: Range<usize>) -> CopyOutcome {
    // SAFETY: the caller promises the conditions of `super::touch`.
    unsafe {
        let byte = load(at, Width::B1, checked.clone());
        if byte.signal != 0 {
            return byte;
        }
        store(at, Width::B1, byte.value as u64, checked)
    }
}
