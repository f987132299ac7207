//! Waiting for a word of memory to change, within the process or across processes.
//!
//! The calls are async-signal-safe. A handler may wait if the thread that changes the word never
//! waits for the handler's thread.
//!
//! Source: futex(2).

/// Waits while the word is `value`. May return earlier.
#[cfg(feature = "pager")]
pub(crate) fn wait(word: &std::sync::atomic::AtomicU32, value: u32) {
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

/// Wakes the thread that waits for the word to change, if there is one. At most one thread waits.
#[cfg(feature = "pager")]
pub(crate) fn wake(word: &std::sync::atomic::AtomicU32) {
    // SAFETY: the kernel looks for waiting threads at the word's address, and accesses no memory.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            word.as_ptr(),
            libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG,
            1,
        )
    };
}

/// Waits while the word is `value`, at most for `time`. Other processes may have mapped the word.
/// The call may return earlier, so the caller checks its condition again.
#[cfg(feature = "shm")]
pub(crate) fn wait_shared(
    word: &std::sync::atomic::AtomicU32,
    value: u32,
    time: std::time::Duration,
) {
    let time = libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: time.subsec_nanos().into(),
    };
    // SAFETY: the kernel reads the word (a page that is not there is EFAULT) and the time, and
    // changes nothing.
    unsafe {
        libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAIT, value, &raw const time)
    };
}

/// Wakes up to `count` threads, of any process, that wait for the word. Returns the number of woken
/// threads.
#[cfg(feature = "shm")]
pub(crate) fn wake_shared(word: &std::sync::atomic::AtomicU32, count: u32) -> u32 {
    let count = i32::try_from(count).unwrap_or(i32::MAX);
    // SAFETY: the kernel looks for waiting threads at the word's address, and accesses no memory.
    let woken = unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), libc::FUTEX_WAKE, count) };
    u32::try_from(woken).unwrap_or(0)
}
