//! folio: all of mmap(2), safe from Rust.
//!
//! **Memory is typed by who else can change it.** That, and not the flag word of mmap(2), decides what safe Rust may do
//! with it.
//!
//! | type | mmap(2) | who else can change or remove the bytes | what safe code gets |
//! | --- | --- | --- | --- |
//! | [`Anon`] | PRIVATE, ANONYMOUS or `/dev/zero` | nobody | `&[u8]`, `&mut [u8]` |
//! | [`Sealed`] | SHARED, a sealed memfd | nobody, ever again | `&[u8]`, sendable to another process |
//! | [`FileMap`], [`FileMapMut`], [`FileMapPrivate`] | SHARED / PRIVATE, a file | anyone who has the file | checked copies, typed reads, guards over a [`View`] |
//! | [`SharedMem`] | SHARED, anonymous, `/dev/zero` or memfd | the processes it is shared with | atomics, atomic [views](ViewMut) |
//! | [`Device`] | SHARED, a device | hardware | single loads and stores of u8 to u64 |
//! | [`Stable`], [`StableMut`] | as the file map | nobody, by an `unsafe` promise | `&[u8]`, `&mut [u8]` |
//! | [`Paged`], [`PagedMut`] | folio's own [pager](Pager) over any [source] | nobody: the pages are folio's | `&[u8]`, `&mut [u8]` |
//! | [`PagedShared`] | the same, shared memory | other handles of the same source | [views](ViewMut) |
//! | [`shm::Segment`] | SHARED, a name, a file or a sealed memfd | the processes it is shared with | typed [values](shm), atomics, locks |
//! | [`Region`] | any | as it was made | checked copies; every operation on the range; views and atomics where pages stay |
//! | [`Reservation`] | PROT_NONE, NORESERVE | nobody | addresses to place maps in, memory that grows in place |
//!
//! **A fault is an error, not a signal.** What mmap(2) reports with SIGBUS and SIGSEGV reaches the caller of folio's safe
//! interface as an [`Error`] that names the range and the [cause](FaultCause).
//!
//! [`MapOptions`] makes all of them; each has short constructors too. [`raw`] takes exactly what the system calls take.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("data");
//! # std::fs::write(&path, [7_u8; 10_000])?;
//! use folio::{Anon, FileMap};
//!
//! let map = FileMap::open(&path)?;
//! let mut header = [0; 16];
//! map.read_at(&mut header, 0)?; // an error, never a signal, if someone truncates the file
//!
//! let mut block = Anon::new(1 << 20)?; // zero-filled, and nobody else's: plain slices
//! block[..16].copy_from_slice(&header);
//! # Ok(())
//! # }
//! ```
//!
//! # What the old documents say, and what is true today
//!
//! * SHARED and PRIVATE together are accepted for a file (it is SHARED_VALIDATE), and EINVAL for anonymous memory.
//! * A pipe, a directory, a file of `/proc` give ENODEV, not EACCES (EIO for some in `/proc`, such as `meminfo`).
//! * A shared writable map of a read-only descriptor gives EACCES, not EINVAL.
//! * FIXED replaces what is there; DENYWRITE does nothing, and ETXTBSY is given for active swap files only.
//! * A length past the end of the file is allowed; pages beyond the file's last page fault.
//! * The rest of the file's last page is zero at first. Stores there are seen by all maps of the file, even after the one
//!   that made them is unmapped, until the page is written back: then they are zeros again, and the file never has them. On
//!   tmpfs nothing is written back: they stay, and are the file's if it grows over them.
//! * Part of a map may be unmapped.
//! * SIGBUS is a page without backing, not memory of another process.
//! * EAGAIN for a locked *file* is history: mandatory locks left the kernel in 5.15. Locked *memory* still gives it.
//! * Anonymous shared memory reaches unrelated processes too, once a memfd's descriptor is passed.
//! * A private map shows later changes of the file in pages it has not copied.
//! * Stores reach readers of the file at once, not at msync(2) or munmap(2); the first is about the device, and the second
//!   writes nothing.
//! * st_atime moves when mmap(2) is called (as the mount's `relatime` or `noatime` allows), not at the first touch;
//!   st_mtime and st_ctime move at the first store to a clean page, and on tmpfs only at a store that is the first touch
//!   of its page: no other moves them, and neither do msync(2) and munmap(2).
//!
//! # Limits
//!
//! Linux only, 5.10 or later; what needs more says so, and falls back or explains. A process is still killed by faults in
//! `unsafe` slices outside a guard, and in threads that block SIGBUS or SIGSEGV. Truncation inside the file's last page
//! shows zeros and no fault: [`MappedFile::read_at_verified`] sees it. A handler for SIGBUS or SIGSEGV that the program
//! installs *after* folio's must call the one it replaced; [`faults::install`] puts folio's back in front. At the
//! process's limit of areas (`vm.max_map_count`), addresses, private or locked memory a guard that meets a missing
//! page gives up the whole map, which is an error for everyone who uses it. Private huge pages and fork: see [`Anon`].

/// The README's program must compile.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

// What the derive macro writes names the crate from outside.
extern crate self as folio;

#[cfg(not(target_os = "linux"))]
compile_error!("folio is for Linux: it is built on the kernel's own mmap(2) family");

mod access;
mod advice;
#[cfg(test)]
#[path = "../tests/common/effort.rs"]
mod effort;
mod error;
pub mod faults;
mod flags;
mod map;
mod page;
#[cfg(feature = "pager")]
mod pager;
mod prot;
pub mod raw;
mod region;
mod residency;
#[cfg(feature = "shm")]
pub mod shm;
#[cfg(test)]
#[path = "../tests/common/skip.rs"]
mod skip;
#[cfg(feature = "pager")]
pub mod source;
mod sys;

pub use access::{Reader, View, ViewMut, Words};
pub use advice::{Advice, Discard, Pattern, UncheckedAdvice};
pub use error::{CallError, ConversionError, Errno, Error, Fault, FaultCause, Result, Subject};
pub use flags::{HugePage, MapFlags};
pub use map::{
    Anon, Atom, Device, FileAccess, FileMap, FileMapMut, FileMapPrivate, MapFile, MapOptions,
    MappedFile, Private, ReadOnly, ReadWrite, Register, Sealed, SharedMem, Stable, StableMut,
    WriteAccess,
};
pub use page::PageSize;
#[cfg(feature = "pager")]
pub use pager::{
    Builder as PagerBuilder, Capability, Delivery, Paged, PagedMut, PagedShared, Pager, Pinned,
    PinnedMut, PinnedShared, Report as PagerReport, Stats as PagerStats, WorkingSet,
};
pub use prot::Prot;
pub use region::{Fork, Populate, Region, Reservation, Resize, WriteBack};
pub use residency::{CacheStat, Pages, Residency};
/// The traits that typed reads and writes ask for, in the version that they ask for.
pub use zerocopy;
