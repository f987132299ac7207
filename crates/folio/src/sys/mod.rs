//! Every system call, and nearly every `unsafe`. These modules contain no policy: they make the
//! calls and return the errno.
//!
//! | file | subject |
//! | --- | --- |
//! | [`mm`] | the calls on address ranges: mmap, munmap, mprotect, mremap, msync, madvise, mlock, mincore, mseal … |
//! | [`memfd`] | files that live in memory, and their seals |
//! | [`file`] | properties of a file that a map needs: size, owner, holes, name |
//! | [`cgroup`] | the memory that the process's groups may use |
//! | [`memory_room`] | the amount of memory that a file in memory may still take |
//! | [`open`] | opening a path that may name a file of any type, without waiting |
//! | [`stack`] | the addresses into which stacks grow, so that no map is placed there |
//! | [`ofd_lock`] | locks on bytes of a file, which end with their process |
//! | [`fork`] | sections that fork must not interrupt, and descriptors that children must not have |
//! | [`escape`] | escapes text from outside, so that it cannot control a terminal |
//! | [`process`] | the process's resources and limits: VMAs, locked memory, the pool of huge pages |
//! | [`identity`] | the identity of this process, across fork |
//! | [`per_process`] | a value that a forked child does not inherit |
//! | [`thread`] | starting a thread that the program's signals do not reach |
//! | [`copy`] | the copy routine that a fault ends early |
//! | [`block_list`] | the list of slots that a signal handler walks; it grows without a lock |
//! | [`handler_table`] | one entry of a table that a signal handler reads |
//! | [`guard_table`] | the wait-free table of guarded maps, and the handler's answer to a fault in one |
//! | [`shadow`] | the pages of a map that were replaced by zero pages, and the way back |
//! | [`spare`] | the memory that a guard's last resort puts over its map |
//! | [`vma_reserve`] | VMAs to give up at the process's limit of them |
//! | [`lost_pages`] | pages that a region lost to a call that failed |
//! | [`fork_mutex`] | a lock that fork cannot leave locked |
//! | [`futex`] | waiting for a word of memory |
//! | [`size_limit`] | writes beyond RLIMIT_FSIZE: an error, and no signal |
//! | [`signal`] | the handler of SIGBUS and SIGSEGV, chained to the earlier handler |

pub(crate) mod block_list;
pub(crate) mod cgroup;
pub(crate) mod copy;
mod escape;
pub(crate) mod file;
#[cfg(any(feature = "pager", feature = "shm"))]
pub(crate) mod fork;
pub(crate) mod fork_mutex;
#[cfg(any(feature = "pager", feature = "shm"))]
pub(crate) mod futex;
pub(crate) mod guard_table;
pub(crate) mod handler_table;
pub(crate) mod identity;
pub(crate) mod lost_pages;
pub(crate) mod memfd;
pub(crate) mod memory_room;
pub(crate) mod mm;
#[cfg(any(feature = "pager", feature = "shm"))]
pub(crate) mod ofd_lock;
pub(crate) mod open;
#[cfg(feature = "pager")]
pub(crate) mod per_process;
pub(crate) mod process;
pub(crate) mod shadow;
pub(crate) mod signal;
pub(crate) mod size_limit;
pub(crate) mod spare;
pub(crate) mod stack;
pub(crate) mod thread;
mod vma_reserve;

pub(crate) use escape::{into_plain, plain};
pub(crate) use rustix::io::Errno;

/// The errno that the last libc call of this thread left.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: `__errno_location` returns this thread's own errno cell, valid for the thread's life.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Writes a line to stderr. Errors are ignored, since there is no place left to report them, and no
/// error ends the caller.
#[cfg(feature = "pager")]
pub(crate) fn say(text: std::fmt::Arguments<'_>) {
    let line = format!("folio: {}\n", plain(&text.to_string()));
    let write = || std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    let _ = size_limit::within(|| {
        write().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    });
}

/// The result of a libc call that returns -1 for an error.
pub(crate) fn check(result: impl Into<i64>) -> Result<i64, Errno> {
    match result.into() {
        -1 => Err(last_errno()),
        value => Ok(value),
    }
}

/// The atomics that [`handler_table`] and `pager::sys::fault_cell` use. Their loom models
/// in the tests put others in their place.
pub(crate) mod atomics {
    #[cfg(feature = "pager")]
    pub(crate) use std::sync::atomic::AtomicU32;
    pub(crate) use std::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
    pub(crate) use std::thread::yield_now;
}
