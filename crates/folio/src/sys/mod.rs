//! Every system call, and nearly every `unsafe`. No policy: these modules do what they are told and return the errno.
//!
//! | file | what |
//! | --- | --- |
//! | [`mm`] | the calls on address ranges: mmap, munmap, mprotect, mremap, msync, madvise, mlock, mincore, mseal … |
//! | [`memfd`] | files that live in memory, and their seals |
//! | [`file`] | what a map needs to know of a file: size, owner, holes, name |
//! | [`cgroup`] | the memory that the process's groups may use |
//! | [`room`] | how much memory a file in memory may still take |
//! | [`open`] | opening a path that may name anything, without waiting |
//! | [`stack`] | where stacks grow, so that no map is placed in their way |
//! | [`naming`] | files that get their name when they are complete |
//! | [`byte_lock`] | locks on bytes of a file, which end with their process |
//! | [`fork`] | what fork must not cut in two, and descriptors that children must not have |
//! | [`plain`] | text of others that does not steer a terminal |
//! | [`process`] | what the process and the machine allow: limits, areas, the pool of huge pages |
//! | [`identity`] | which process this is, across fork |
//! | [`per_process`] | a value that a forked child does not inherit |
//! | [`copy`] | the copy routine that a fault ends early |
//! | [`slot`] | one entry of a table that a signal handler looks through |
//! | [`replace`] | the wait-free table of guarded maps, and what a fault in one does |
//! | [`replaced`] | the pages of a map that were replaced by zero pages, and how they come back |
//! | [`spare`] | the memory that a guard's last resort puts over its map |
//! | [`area_reserve`] | VMAs to give up at the process's limit of them |
//! | [`lost_pages`] | pages that a region lost to a call that failed |
//! | [`gate`] | a lock that fork cannot leave locked |
//! | [`discard`] | giving the pages of many ranges back at once |
//! | [`uffd`] | userfaultfd: faults that another thread serves |
//! | [`ring`] | io_uring: reads and writes that end later |
//! | [`trap_queue`] | faults that come as signals, and are answered by another thread as well |
//! | [`trap_cell`] | where one thread waits for such an answer |
//! | [`page_rights`] | what a thread may do with each page of an area whose faults come as signals |
//! | [`attempt`] | what an instruction that faulted tried to do |
//! | [`bell`] | a descriptor that another process makes readable |
//! | [`fifo`] | a FIFO that does the same where sockets do not reach |
//! | [`ends`] | the wait-free table of a pager's areas, and how a process ends that touches a lost page |
//! | [`futex`] | waiting for a word of memory |
//! | [`size_limit`] | writes beyond RLIMIT_FSIZE: an error, and no signal |
//! | [`signal`] | the handler of SIGBUS and SIGSEGV, chained to what was there before |

mod area_reserve;
mod attempt;
pub(crate) mod bell;
pub(crate) mod byte_lock;
pub(crate) mod cgroup;
pub(crate) mod copy;
pub(crate) mod discard;
pub(crate) mod ends;
pub(crate) mod fifo;
pub(crate) mod file;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod gate;
pub(crate) mod identity;
pub(crate) mod lost_pages;
pub(crate) mod memfd;
pub(crate) mod mm;
pub(crate) mod naming;
pub(crate) mod open;
pub(crate) mod page_rights;
pub(crate) mod per_process;
mod plain;
pub(crate) mod process;
pub(crate) mod replace;
pub(crate) mod replaced;
pub(crate) mod ring;
pub(crate) mod room;
pub(crate) mod signal;
pub(crate) mod size_limit;
mod slot;
pub(crate) mod spare;
pub(crate) mod stack;
pub(crate) mod thread;
mod trap_cell;
pub(crate) mod trap_queue;
pub(crate) mod uffd;

pub(crate) use plain::{into_plain, plain};
pub(crate) use rustix::io::Errno;

/// The errno that the last libc call of this thread left.
pub(crate) fn last_errno() -> Errno {
    // SAFETY: `__errno_location` returns this thread's own errno cell, valid for the thread's life.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

/// Tells stderr. Nobody is left to tell of an error, and none ends the caller.
pub(crate) fn say(text: std::fmt::Arguments<'_>) {
    let line = format!("folio: {}\n", plain(&text.to_string()));
    let write = || std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    let _ = size_limit::within(|| write().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)));
}

/// The result of a libc call that returns -1 for an error.
pub(crate) fn check(result: impl Into<i64>) -> Result<i64, Errno> {
    match result.into() {
        -1 => Err(last_errno()),
        value => Ok(value),
    }
}

/// What [`slot`] and [`trap_cell`] are built on; their models in the tests put other ones there.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use std::thread::yield_now;
}
