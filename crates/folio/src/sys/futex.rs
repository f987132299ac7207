//! Waiting for a word of memory to change. Async-signal-safe: a handler may wait, if whoever changes the word never waits for
//! its thread.
//!
//! Source: futex(2).

use super::atomics::AtomicU32;

/// Waits while the word is `value`. May return earlier.
pub(super) fn wait(word: &AtomicU32, value: u32) {
    let none = std::ptr::null::<libc::timespec>();
    // SAFETY: the kernel reads the word, which outlives the call, and changes nothing.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG,
            value,
            none,
        )
    };
}

/// Wakes the one thread that waits for the word to change, if it does already.
pub(super) fn wake(word: &AtomicU32) {
    // SAFETY: the kernel looks for sleepers at the word's address, and touches no memory.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG, 1) };
}
