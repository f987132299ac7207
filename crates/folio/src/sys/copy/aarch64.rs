//! The routines for aarch64. `x4` and `x5` hold the bounds of the checked side from the first
//! instruction to the last. Each routine is [`SPAN`] bytes long, and its exit for a fault lies
//! [`STOP`] bytes behind its start.

use super::{CopyOutcome, Width};
use std::arch::naked_asm;
use std::ops::Range;

const SPAN: usize = 512;
const STOP: usize = 496;

/// # Safety
///
/// As [`super::copy`].
#[inline]
pub(super) unsafe fn copy(
    to: *mut u8,
    from: *const u8,
    len: usize,
    checked: Range<usize>,
) -> CopyOutcome {
    // SAFETY: the caller promises the conditions of `super::copy`.
    unsafe { copy_routine(to, from, len, 0, checked.start, checked.end) }
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
/// As [`super::load`].
#[inline]
pub(super) unsafe fn load(from: *const u8, width: Width, checked: Range<usize>) -> CopyOutcome {
    // SAFETY: the caller promises the conditions of `super::load`.
    unsafe { access_routine(from.cast_mut(), 0, 0, width as u32, checked.start, checked.end) }
}

/// # Safety
///
/// As [`super::store`].
#[inline]
pub(super) unsafe fn store(
    to: *mut u8,
    width: Width,
    value: u64,
    checked: Range<usize>,
) -> CopyOutcome {
    // SAFETY: the caller promises the conditions of `super::store`.
    unsafe { access_routine(to, value, 1, width as u32, checked.start, checked.end) }
}

/// # Safety
///
/// As [`super::touch`].
pub(super) unsafe fn touch(at: *mut u8, checked: Range<usize>) -> CopyOutcome {
    // SAFETY: the caller promises the conditions of `super::touch`.
    unsafe { access_routine(at, 0, 2, 1, checked.start, checked.end) }
}

/// See [`super::program_counter`].
pub(super) fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// See [`super::recover`].
pub(super) fn recover(
    context: &mut libc::ucontext_t,
    address: usize,
    signal: i32,
    code: i32,
) -> bool {
    let machine = &mut context.uc_mcontext;
    let pc = machine.pc as usize;
    let starts = [copy_routine as *const () as usize, access_routine as *const () as usize];
    let Some(start) = starts.into_iter().find(|&start| (start..start + STOP).contains(&pc)) else {
        return false;
    };
    if !(machine.regs[4] as usize..machine.regs[5] as usize).contains(&address) {
        return false;
    }
    machine.regs[0] = address as u64;
    machine.regs[1] = CopyOutcome::encode(signal, code);
    machine.pc = (start + STOP) as u64;
    true
}

/// Blocks overlap at the end, so no byte loop is needed: the last block is the last bytes of the
/// range, and may repeat bytes of the block before it.
#[unsafe(naked)]
unsafe extern "C" fn copy_routine(
    to: *mut u8,       // x0
    from: *const u8,   // x1
    len: usize,        // x2
    unused: usize,     // x3
    checked_lo: usize, // x4
    checked_hi: usize, // x5
) -> CopyOutcome {
    naked_asm!(
        "2:",
        "add x6, x1, x2",
        "add x7, x0, x2",
        "cmp x2, #16",
        "b.lo 20f",
        "cmp x2, #32",
        "b.ls 30f",
        "cmp x2, #64",
        "b.ls 31f",
        // More than 64, 64 bytes at a time.
        "sub x8, x6, #64",
        "3:",
        "ldp q0, q1, [x1]",
        "ldp q2, q3, [x1, #32]",
        "stp q0, q1, [x0]",
        "stp q2, q3, [x0, #32]",
        "add x1, x1, #64",
        "add x0, x0, #64",
        "cmp x1, x8",
        "b.lo 3b",
        "ldp q0, q1, [x6, #-64]",
        "ldp q2, q3, [x6, #-32]",
        "stp q0, q1, [x7, #-64]",
        "stp q2, q3, [x7, #-32]",
        "mov x1, #0",
        "ret",
        // 33 to 64
        "31:",
        "ldp q0, q1, [x1]",
        "ldp q2, q3, [x6, #-32]",
        "stp q0, q1, [x0]",
        "stp q2, q3, [x7, #-32]",
        "mov x1, #0",
        "ret",
        // 16 to 32
        "30:",
        "ldr q0, [x1]",
        "ldur q1, [x6, #-16]",
        "str q0, [x0]",
        "stur q1, [x7, #-16]",
        "mov x1, #0",
        "ret",
        // 0 to 15
        "20:",
        "tbnz x2, #3, 21f",
        "tbnz x2, #2, 22f",
        "tbnz x2, #1, 23f",
        "cbz x2, 24f",
        "ldrb w8, [x1]",
        "strb w8, [x0]",
        "24:",
        "mov x1, #0",
        "ret",
        "21:",
        "ldr x8, [x1]",
        "ldur x9, [x6, #-8]",
        "str x8, [x0]",
        "stur x9, [x7, #-8]",
        "mov x1, #0",
        "ret",
        "22:",
        "ldr w8, [x1]",
        "ldur w9, [x6, #-4]",
        "str w8, [x0]",
        "stur w9, [x7, #-4]",
        "mov x1, #0",
        "ret",
        "23:",
        "ldrh w8, [x1]",
        "ldurh w9, [x6, #-2]",
        "strh w8, [x0]",
        "sturh w9, [x7, #-2]",
        "mov x1, #0",
        "ret",
        // The exit for a fault: the handler has set x0 and x1.
        ".org 2b + {stop}",
        "ret",
        ".org 2b + {span}",
        stop = const STOP,
        span = const SPAN,
    )
}

/// Exactly one instruction accesses the memory, with the requested width.
#[unsafe(naked)]
unsafe extern "C" fn access_routine(
    at: *mut u8,       // x0
    value: u64,        // x1
    kind: usize,       // x2: 0 load, 1 store, 2 touch
    width: u32,        // w3
    checked_lo: usize, // x4
    checked_hi: usize, // x5
) -> CopyOutcome {
    naked_asm!(
        "2:",
        "mov x6, x1",
        "mov x1, #0",
        "cbnz x2, 30f",
        "cmp w3, #4",
        "b.eq 3f",
        "b.hi 4f",
        "cmp w3, #2",
        "b.eq 5f",
        "ldrb w0, [x0]",
        "ret",
        "5:",
        "ldrh w0, [x0]",
        "ret",
        "3:",
        "ldr w0, [x0]",
        "ret",
        "4:",
        "ldr x0, [x0]",
        "ret",
        "30:",
        "cmp x2, #2",
        "b.eq 16f",
        "cmp w3, #4",
        "b.eq 13f",
        "b.hi 14f",
        "cmp w3, #2",
        "b.eq 15f",
        "strb w6, [x0]",
        "ret",
        "15:",
        "strh w6, [x0]",
        "ret",
        "13:",
        "str w6, [x0]",
        "ret",
        "14:",
        "str x6, [x0]",
        "ret",
        // Stores the present byte again, as one atomic step.
        "16:",
        "ldxrb w8, [x0]",
        "stxrb w9, w8, [x0]",
        "cbnz w9, 16b",
        "ret",
        ".org 2b + {stop}",
        "ret",
        ".org 2b + {span}",
        stop = const STOP,
        span = const SPAN,
    )
}
