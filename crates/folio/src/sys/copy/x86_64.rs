//! The routines for x86-64. `r8` and `r9` hold the bounds of the checked side from the first
//! instruction to the last; in the quick routines, `r8` and `rcx` hold its start and length. Each
//! routine is [`SPAN`] bytes long (the quick ones [`QUICK_SPAN`]), and its exit for a fault lies
//! [`STOP`] (or [`QUICK_STOP`]) bytes behind its start.

use super::{CopyOutcome, Width};
use std::arch::{asm, naked_asm};
use std::ops::{Range, RangeInclusive};

const SPAN: usize = 768;
const STOP: usize = 752;
const QUICK_SPAN: usize = 64;
const QUICK_STOP: usize = 48;
/// Copies of this length and more use AVX if the machine has it.
const AVX_FROM: usize = 256;
const AVX: usize = 1;
/// Copies of these lengths use the string instruction if it is a fast one. It writes whole cache
/// lines without fetching them first, which halves the time of a copy that another core reads.
/// Within one core it is slower below these lengths, and may be slower above them.
const STRING_LENGTHS: RangeInclusive<usize> = 32 << 10..=1 << 20;
const STRING: usize = 2;

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
    // Only long copies need to know the machine's features.
    let way = if len < AVX_FROM || !std::is_x86_feature_detected!("avx") {
        0
    } else if STRING_LENGTHS.contains(&len) && std::is_x86_feature_detected!("ermsb") {
        AVX | STRING
    } else {
        AVX
    };
    // SAFETY: the caller promises the conditions of `super::copy`; `way` names only instructions
    // that the machine has.
    unsafe { copy_routine(to, from, len, way, checked.start, checked.end) }
}

/// # Safety
///
/// As [`super::quick`].
#[inline]
pub(super) unsafe fn quick(
    to: *mut u8,
    from: *const u8,
    len: usize,
    at: usize,
    checked: Range<usize>,
    before: u64,
) -> u64 {
    let after;
    // The `asm!` declares the registers that the call changes. All others keep their values, so the
    // caller's loop keeps its registers. The linker may use r10 and r11, too: it may send a call to
    // another object through a stub.
    macro_rules! call {
        ($routine:ident) => {
            asm!(
                "call {routine}",
                routine = sym $routine,
                in("rdi") to,
                in("rsi") from,
                in("rcx") len,
                in("r8") at,
                inlateout("rdx") before => after,
                lateout("rax") _,
                lateout("r10") _,
                lateout("r11") _,
                lateout("xmm0") _,
                lateout("xmm1") _,
                lateout("xmm2") _,
                lateout("xmm3") _,
            )
        };
    }
    // A length that is constant at compile time costs no comparison.
    match len {
        // SAFETY: the caller promises the conditions of `super::copy`. The routine changes no
        // register but those above, and no memory but the copied bytes and its return address.
        // After a fault the handler makes it return too.
        33..=64 => unsafe { call!(quick_64) },
        // SAFETY: the caller promises the conditions of `super::copy`. The routine changes no
        // register but those above, and no memory but the copied bytes and its return address.
        // After a fault the handler makes it return too.
        8..=16 => unsafe { call!(quick_16) },
        _ => {
            // SAFETY: the caller promises the conditions of `super::copy`.
            let outcome = unsafe { copy(to, from, len, checked) };
            after = if outcome.signal == 0 { before } else { before | 1 };
        }
    }
    after
}

/// As [`copy`], with the instructions that every x86-64 has.
///
/// # Safety
///
/// As [`super::copy`].
#[cfg(test)]
pub(super) unsafe fn copy_sse2(
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
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

/// See [`super::recover`].
pub(super) fn recover(
    context: &mut libc::ucontext_t,
    address: usize,
    signal: i32,
    code: i32,
) -> bool {
    let registers = &mut context.uc_mcontext.gregs;
    let pc = registers[libc::REG_RIP as usize] as usize;
    let routines = [
        (copy_routine as *const () as usize, STOP),
        (access_routine as *const () as usize, STOP),
        (quick_64 as *const () as usize, QUICK_STOP),
        (quick_16 as *const () as usize, QUICK_STOP),
    ];
    let Some((start, stop)) =
        routines.into_iter().find(|&(start, stop)| (start..start + stop).contains(&pc))
    else {
        return false;
    };
    let low = registers[libc::REG_R8 as usize] as usize;
    let checked = if stop == QUICK_STOP {
        // The access itself, extended to the start of its page, which is the map's. A machine check
        // reports the start of a page that may be a huge page.
        let page =
            if (signal, code) == (libc::SIGBUS, libc::BUS_MCEERR_AR) { 1 << 30 } else { 4096 };
        (low & !(page - 1))..low.saturating_add(registers[libc::REG_RCX as usize] as usize)
    } else {
        low..registers[libc::REG_R9 as usize] as usize
    };
    if !checked.contains(&address) {
        return false;
    }
    registers[libc::REG_RAX as usize] = address as i64;
    registers[libc::REG_RDX as usize] = CopyOutcome::encode(signal, code).cast_signed();
    registers[libc::REG_RIP as usize] = (start + stop) as i64;
    true
}

/// Blocks overlap at the end, so no byte loop is needed: the last block is the last bytes of the
/// range, and may repeat bytes of the block before it.
#[unsafe(naked)]
unsafe extern "C" fn copy_routine(
    to: *mut u8,       // rdi
    from: *const u8,   // rsi
    len: usize,        // rdx
    way: usize, // rcx: none or AVX, if the length is AVX_FROM or more, or both AVX and STRING
    checked_lo: usize, // r8
    checked_hi: usize, // r9
) -> CopyOutcome {
    naked_asm!(
        "2:",
        "cmp rdx, 16",
        "jb 20f",
        "cmp rdx, 32",
        "jbe 30f",
        "cmp rdx, 64",
        "jbe 31f",
        "test ecx, ecx",
        "jz 12f",
        "test ecx, {string}",
        "jnz 5f",
        // 256 and more, with AVX: 128 bytes at a time.
        "lea r10, [rsi + rdx - 128]",
        "lea r11, [rdi + rdx - 128]",
        "3:",
        "vmovups ymm0, [rsi]",
        "vmovups ymm1, [rsi + 32]",
        "vmovups ymm2, [rsi + 64]",
        "vmovups ymm3, [rsi + 96]",
        "vmovups [rdi], ymm0",
        "vmovups [rdi + 32], ymm1",
        "vmovups [rdi + 64], ymm2",
        "vmovups [rdi + 96], ymm3",
        "add rsi, 128",
        "add rdi, 128",
        "cmp rsi, r10",
        "jb 3b",
        "vmovups ymm0, [r10]",
        "vmovups ymm1, [r10 + 32]",
        "vmovups ymm2, [r10 + 64]",
        "vmovups ymm3, [r10 + 96]",
        "vmovups [r11], ymm0",
        "vmovups [r11 + 32], ymm1",
        "vmovups [r11 + 64], ymm2",
        "vmovups [r11 + 96], ymm3",
        "vzeroupper",
        "xor edx, edx",
        "ret",
        // 32 KiB and more, as one instruction. After a fault rcx is not zero: it counts the bytes
        // that are still to be copied.
        "5:",
        "mov rcx, rdx",
        "rep movsb",
        "xor edx, edx",
        "ret",
        // More than 64, 64 bytes at a time.
        "12:",
        "lea r10, [rsi + rdx - 64]",
        "lea r11, [rdi + rdx - 64]",
        "4:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + 32]",
        "movups xmm3, [rsi + 48]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + 32], xmm2",
        "movups [rdi + 48], xmm3",
        "add rsi, 64",
        "add rdi, 64",
        "cmp rsi, r10",
        "jb 4b",
        "movups xmm0, [r10]",
        "movups xmm1, [r10 + 16]",
        "movups xmm2, [r10 + 32]",
        "movups xmm3, [r10 + 48]",
        "movups [r11], xmm0",
        "movups [r11 + 16], xmm1",
        "movups [r11 + 32], xmm2",
        "movups [r11 + 48], xmm3",
        "xor edx, edx",
        "ret",
        // 33 to 64
        "31:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rdx - 32]",
        "movups xmm3, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rdx - 32], xmm2",
        "movups [rdi + rdx - 16], xmm3",
        "xor edx, edx",
        "ret",
        // 16 to 32
        "30:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + rdx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + rdx - 16], xmm1",
        "xor edx, edx",
        "ret",
        // 0 to 15
        "20:",
        "cmp edx, 8",
        "jae 21f",
        "cmp edx, 4",
        "jae 22f",
        "cmp edx, 2",
        "jae 23f",
        "test edx, edx",
        "jz 24f",
        "mov al, [rsi]",
        "mov [rdi], al",
        "24:",
        "xor edx, edx",
        "ret",
        "21:",
        "mov rax, [rsi]",
        "mov r10, [rsi + rdx - 8]",
        "mov [rdi], rax",
        "mov [rdi + rdx - 8], r10",
        "xor edx, edx",
        "ret",
        "22:",
        "mov eax, [rsi]",
        "mov r10d, [rsi + rdx - 4]",
        "mov [rdi], eax",
        "mov [rdi + rdx - 4], r10d",
        "xor edx, edx",
        "ret",
        "23:",
        "mov ax, [rsi]",
        "mov r10w, [rsi + rdx - 2]",
        "mov [rdi], ax",
        "mov [rdi + rdx - 2], r10w",
        "xor edx, edx",
        "ret",
        // The exit for a fault: the handler has set rax and rdx.
        ".org 2b + {stop}, 0xcc",
        "test ecx, ecx",
        "jz 25f",
        "vzeroupper",
        "25:",
        "ret",
        ".org 2b + {span}, 0xcc",
        stop = const STOP,
        span = const SPAN,
        string = const STRING,
    )
}

/// 33 to 64 bytes. The number in `rdx` stays; a fault makes it odd. Only [`quick`] calls this. It
/// declares the other registers that change: xmm0 to xmm3, and after a fault `rax`.
///
/// | register | |
/// | --- | --- |
/// | rdi, rsi, rcx | to, from, length |
/// | r8 | the checked one of rdi and rsi |
/// | rdx | the number |
#[unsafe(naked)]
unsafe extern "C" fn quick_64() {
    naked_asm!(
        // One line of the instruction cache.
        ".balign 64",
        "2:",
        "movups xmm0, [rsi]",
        "movups xmm1, [rsi + 16]",
        "movups xmm2, [rsi + rcx - 32]",
        "movups xmm3, [rsi + rcx - 16]",
        "movups [rdi], xmm0",
        "movups [rdi + 16], xmm1",
        "movups [rdi + rcx - 32], xmm2",
        "movups [rdi + rcx - 16], xmm3",
        "ret",
        // The exit for a fault: the handler has set rax and rdx.
        ".org 2b + {stop}, 0xcc",
        "mov edx, 1",
        "ret",
        ".org 2b + {span}, 0xcc",
        stop = const QUICK_STOP,
        span = const QUICK_SPAN,
    )
}

/// As [`quick_64`], for 8 to 16 bytes. It changes `rax` and `r10`.
#[unsafe(naked)]
unsafe extern "C" fn quick_16() {
    naked_asm!(
        ".balign 64",
        "2:",
        "mov rax, [rsi]",
        "mov r10, [rsi + rcx - 8]",
        "mov [rdi], rax",
        "mov [rdi + rcx - 8], r10",
        "ret",
        // The exit for a fault: the handler has set rax and rdx.
        ".org 2b + {stop}, 0xcc",
        "mov edx, 1",
        "ret",
        ".org 2b + {span}, 0xcc",
        stop = const QUICK_STOP,
        span = const QUICK_SPAN,
    )
}

/// Exactly one instruction accesses the memory, with the requested width.
#[unsafe(naked)]
unsafe extern "C" fn access_routine(
    at: *mut u8,       // rdi
    value: u64,        // rsi
    kind: usize,       // rdx: 0 load, 1 store, 2 touch
    width: u32,        // ecx
    checked_lo: usize, // r8
    checked_hi: usize, // r9
) -> CopyOutcome {
    naked_asm!(
        "2:",
        "test edx, edx",
        "jnz 30f",
        "xor eax, eax",
        "cmp ecx, 4",
        "je 3f",
        "ja 4f",
        "cmp ecx, 2",
        "je 5f",
        "mov al, [rdi]",
        "ret",
        "5:",
        "mov ax, [rdi]",
        "ret",
        "3:",
        "mov eax, [rdi]",
        "ret",
        "4:",
        "mov rax, [rdi]",
        "ret",
        "30:",
        "cmp edx, 2",
        "mov edx, 0",
        "je 16f",
        "cmp ecx, 4",
        "je 13f",
        "ja 14f",
        "cmp ecx, 2",
        "je 15f",
        "mov [rdi], sil",
        "ret",
        "15:",
        "mov [rdi], si",
        "ret",
        "13:",
        "mov [rdi], esi",
        "ret",
        "14:",
        "mov [rdi], rsi",
        "ret",
        // Stores the present byte again, as one atomic step.
        "16:",
        "lock or byte ptr [rdi], 0",
        "ret",
        ".org 2b + {stop}, 0xcc",
        "ret",
        ".org 2b + {span}, 0xcc",
        stop = const STOP,
        span = const SPAN,
    )
}
