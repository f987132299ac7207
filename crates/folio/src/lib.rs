//! folio: all of mmap(2), safe from Rust.
//!
//! **Memory is typed by the others that can change it.** That decides which access safe Rust gets.
//! The flag word of mmap(2) does not.
//!
//! | type | mmap(2) | who else can change or remove the bytes | safe access |
//! | --- | --- | --- | --- |
//! | [`Anon`] | PRIVATE, ANONYMOUS or `/dev/zero` | nobody | `&[u8]`, `&mut [u8]` |
//! | [`Sealed`] | SHARED, a sealed memfd | nobody, ever again | `&[u8]`, sendable to another process |
//! | [`FileMap`], [`FileMapMut`], [`FileMapPrivate`] | SHARED / PRIVATE, a file | anyone who has the file | checked copies, typed reads, guards over a [`View`] |
//! | [`SharedMem`] | SHARED, anonymous, `/dev/zero` or memfd | the processes that share it | atomics, atomic [views](ViewMut) |
//! | [`Device`] | SHARED, a device | hardware | single loads and stores of u8 to u64 |
//! | [`Stable`], [`StableMut`] | as the file map | nobody, by an `unsafe` promise | `&[u8]`, `&mut [u8]` |
//! | [`Paged`], [`PagedMut`] | folio's own [pager](Pager) over any [source] | nobody: the pages are folio's | `&[u8]`, `&mut [u8]` |
//! | [`PagedShared`] | the same, shared memory | other handles of the same source | [views](ViewMut) |
//! | [`shm::Segment`] | SHARED, a name, a file or a sealed memfd | the processes that share it | typed [values](shm), atomics, locks |
//! | [`Region`] | any | as it was made | checked copies; every operation on the range; views and atomics where pages stay |
//! | [`Reservation`] | PROT_NONE, NORESERVE | nobody | addresses to place maps in, memory that grows in place |
//!
//! **A fault is an error, not a signal.** mmap(2) reports it with SIGBUS or SIGSEGV. folio's safe
//! interface returns an [`Error`] that names the range and the [cause](FaultCause).
//!
//! [`MapOptions`] makes all of them. Each type has short constructors too. [`raw`] has the system
//! calls with exactly their own arguments.
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
//! map.read_at(&mut header, 0)?; // an error, never a signal, if the file was truncated
//!
//! let mut block = Anon::new(1 << 20)?; // zero-filled, and nobody else's: plain slices
//! block[..16].copy_from_slice(&header);
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! | feature | contents |
//! | --- | --- |
//! | (default) | the kernel engine: files, devices, anonymous and shared memory, regions |
//! | `pager` | [`Pager`], its handles, and [sources](source) |
//! | `shm` | [shared memory between processes](shm) |
//! | `derive` | `#[derive(Share)]`, and zerocopy's derives |
//! | `bytes` | `From<Anon>`, `From<Sealed>` and `From<Stable>` for `bytes::Bytes` |
//! | `full` | all of these |
//!
//! # Old documents on mmap(2), and the kernel of today
//!
//! * A file accepts SHARED and PRIVATE together (SHARED_VALIDATE). Anonymous memory gives EINVAL.
//! * A pipe, a directory and a file of `/proc` give ENODEV, not EACCES. Some files in `/proc`, such
//!   as `meminfo`, give EIO.
//! * A shared writable map of a read-only descriptor gives EACCES, not EINVAL.
//! * FIXED replaces the maps at its address. DENYWRITE does nothing. Only active swap files give
//!   ETXTBSY.
//! * A map may be longer than its file. Pages beyond the file's last page fault.
//! * The rest of the file's last page is zero at first. All maps of the file see stores there, even
//!   after the storing map is gone. Write-back of the page makes them zeros again, and the file
//!   never has them. tmpfs has no write-back: there they stay, and a file that grows over them
//!   contains them.
//! * Part of a map may be unmapped.
//! * SIGBUS means a page without backing. It does not mean memory of another process.
//! * EAGAIN for a locked *file* is history: mandatory locks left the kernel in 5.15.
//!   Locked *memory* still gives it.
//! * Anonymous shared memory reaches unrelated processes too, by a memfd whose descriptor is sent.
//! * A private map shows later changes of the file in pages that it has not copied.
//! * Stores reach readers of the file at once, not at msync(2) or munmap(2). msync(2) is about the
//!   device, and munmap(2) writes nothing.
//! * mmap(2) itself moves st_atime (as the mount's `relatime` or `noatime` allows), not the first
//!   touch. The first store to a clean page moves st_mtime and st_ctime; on tmpfs only a store that
//!   is the first touch of its page. No other store moves them, and neither do msync(2) and
//!   munmap(2).
//!
//! # Limits
//!
//! folio needs Linux 5.10 or later. A call that needs a later kernel says so, and falls back or
//! explains. A fault still kills the process in an `unsafe` slice outside a guard, and in a thread
//! that blocks SIGBUS or SIGSEGV. Truncation inside the file's last page shows zeros and no fault:
//! [`MappedFile::read_at_verified`] sees it. A handler for SIGBUS or SIGSEGV that the program
//! installs *after* folio's must call the handler that it replaced; [`faults::install`] puts
//! folio's back in front. At the process's limit of VMAs (`vm.max_map_count`), addresses, private
//! or locked memory a guard that meets a missing page gives up the whole map. All users of the map
//! then get errors. For private huge pages and fork, see [`Anon`].

#![cfg_attr(
    not(all(feature = "pager", feature = "shm")),
    allow(rustdoc::broken_intra_doc_links, reason = "links to parts that are not compiled")
)]

/// The programs of the documents compile.
#[cfg(all(doctest, feature = "full"))]
mod documents {
    #[doc = include_str!("../../../README.md")]
    struct ReadmePage;
    #[doc = include_str!("../../../docs/pager.md")]
    struct PagerPage;
    #[doc = include_str!("../../../docs/shm.md")]
    struct ShmPage;
    #[doc = include_str!("../../../docs/from-memmap2.md")]
    struct FromMemmap2Page;
}

// The code of the derive macro names the crate from outside.
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
