//! The one builder: every option of every map.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | the options |
//! | [`rules`] | which options go together, and with which kind of map |
//! | [`make`] | the methods that make each kind of map |

mod build;
mod rules;

use crate::advice::Pattern;
use crate::flags::{HugePage, MapFlags};
use crate::region::{Fork, Placement, Reservation};
use std::sync::Arc;

/// Options for a map, and the methods that make one.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("log");
/// # std::fs::write(&path, b"0123456789")?;
/// use folio::{MapOptions, Pattern};
///
/// let file = std::fs::File::open(&path)?;
/// let map = MapOptions::new().offset(3).len(4).pattern(Pattern::Random).map(&file)?;
/// assert_eq!(map.read_vec(..)?, b"3456");
/// # Ok(())
/// # }
/// ```
///
/// An option that a kind of map cannot have is an error (EINVAL) that says so when the map is made,
/// never ignored.
///
/// Source: mmap(2), and the source that each option names.
#[doc(alias = "MmapOptions")]
#[doc(alias = "mmap")]
#[derive(Debug, Clone, Default)]
pub struct MapOptions {
    offset: u64,
    length: Option<usize>,
    place: Placement,
    flags: MapFlags,
    exec: bool,
    pattern: Option<Pattern>,
    huge: Option<HugePage>,
    transparent: Option<bool>,
    lock: LockOption,
    populate: bool,
    reserve: Option<bool>,
    guard_pages: bool,
    capacity: Option<usize>,
    fork: Fork,
    name: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum LockOption {
    #[default]
    Unlocked,
    Now,
    OnFault,
}

impl MapOptions {
    /// No options: the whole object, anywhere, with the kernel's defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Start at this byte of the file. It need not be a page multiple: folio maps from the page
    /// below, and shows the bytes from here.
    #[must_use]
    pub fn offset(mut self, bytes: u64) -> Self {
        self.offset = bytes;
        self
    }

    /// Shows this many bytes; without it, all to the end of the file. A length past the end is
    /// allowed. Bytes up to the end of the file's last page read as zero, or as bytes that were
    /// stored there through a map. Pages beyond it are a [`Fault`](crate::Fault) until the file
    /// grows.
    #[must_use]
    pub fn len(mut self, bytes: usize) -> Self {
        self.length = Some(bytes);
        self
    }

    /// Lie near this address if that is free, else anywhere. Where the main thread's stack may grow
    /// counts as not free.
    #[must_use]
    pub fn hint(mut self, address: usize) -> Self {
        self.place = Placement::Hint(address);
        self
    }

    /// Lie at exactly this address, or fail with EEXIST if anything is mapped there
    /// (FIXED_NOREPLACE; the result is compared, since kernels before 4.17 take it as a hint).
    ///
    /// ENOMEM where a stack may grow: below the top of the main thread's by RLIMIT_STACK and the
    /// kernel's gap of 256 pages, and in that gap below any area that grows down. Its frames would
    /// lie in the map's bytes.
    #[must_use]
    pub fn at(mut self, address: usize) -> Self {
        self.place = Placement::At(address);
        self
    }

    /// Lie `offset` bytes from the start of a reservation, where nothing else lies yet.
    #[must_use]
    pub fn within(mut self, reservation: &Reservation, offset: usize) -> Self {
        self.place = Placement::Within(Arc::clone(reservation.space()), offset);
        self
    }

    /// Passes these flags of mmap(2) too: NORESERVE, STACK, POPULATE, NONBLOCK, LOCKED, BITS_32,
    /// SYNC, SHARED_VALIDATE, UNINITIALIZED, and the three without an effect. The text of each flag
    /// describes its effect in today's kernel.
    #[must_use]
    pub fn flags(mut self, flags: MapFlags) -> Self {
        self.flags |= flags;
        self
    }

    /// The pages may be executed too (PROT_EXEC). EPERM for files on a file system mounted noexec.
    #[must_use]
    pub fn exec(mut self) -> Self {
        self.exec = true;
        self
    }

    /// How the map will be read: it sets the kernel's readahead for the map's life.
    #[must_use]
    pub fn pattern(mut self, pattern: Pattern) -> Self {
        self.pattern = Some(pattern);
        self
    }

    /// Use pages of this size from the hugetlb pool, for anonymous and shared memory. The map shows
    /// the bytes that were asked for (`len`), and its pages are whole ones:
    /// [`grow`](crate::Anon::grow) can show the rest of the last one. They are all taken at
    /// creation, so that an empty pool is an error (ENOMEM) and no signal later.
    ///
    /// But a forked child has the pages of private memory copied on write: if it stores to one
    /// while the pool is empty, a SIGBUS kills it. Keep such a map from children with
    /// [`Fork::Absent`] or [`Fork::Wiped`], or use
    /// [`transparent_huge_pages`](Self::transparent_huge_pages).
    #[must_use]
    pub fn huge_pages(mut self, size: HugePage) -> Self {
        self.huge = Some(size);
        self
    }

    /// Ask for transparent huge pages (`true`), or never to have them (`false`): MADV_HUGEPAGE,
    /// MADV_NOHUGEPAGE. Where the kernel has none, nothing happens.
    #[must_use]
    pub fn transparent_huge_pages(mut self, want: bool) -> Self {
        self.transparent = Some(want);
        self
    }

    /// Fault all pages in and keep them in memory (mlock(2)); a failure is an error, unlike with
    /// the flag LOCKED.
    #[must_use]
    pub fn lock(mut self) -> Self {
        self.lock = LockOption::Now;
        self
    }

    /// Keep pages in memory from their first touch on (MLOCK_ONFAULT).
    #[must_use]
    pub fn lock_on_fault(mut self) -> Self {
        self.lock = LockOption::OnFault;
        self
    }

    /// Fault all pages in before the map is returned, for writing if it is writable; a page that
    /// cannot be supplied is an error, unlike with the flag POPULATE.
    #[must_use]
    pub fn populate(mut self) -> Self {
        self.populate = true;
        self
    }

    /// Back the range with space at creation, so that a full disk is an error (ENOSPC) now and no
    /// signal later. It fills holes only (FIEMAP, fallocate(2)): allocated parts, bytes and size
    /// stay, and where there is no hole the file's times do not move (on file systems that do not
    /// tell their holes, and on tmpfs before Linux 6.5, they may). Bytes past the file's end cannot
    /// be reserved.
    ///
    /// The descriptor's position is left alone, except where a file system has neither FIEMAP nor
    /// fallocate (NFS before 4.2, ZFS): there it moves for a moment (SEEK_HOLE), and another thread
    /// or process that reads through the same open file just then reads at the wrong place.
    ///
    /// It is the default for [`SharedMem`](crate::SharedMem); on file systems that copy on write
    /// (Btrfs, or reflinked files on XFS) space can still run out when a shared extent is
    /// overwritten.
    #[must_use]
    pub fn preallocate(mut self) -> Self {
        self.reserve = Some(true);
        self
    }

    /// Do not back shared memory with space at creation: a full file system is a fault later.
    #[must_use]
    pub fn no_reserve(mut self) -> Self {
        self.reserve = Some(false);
        self
    }

    /// Put a page without access before and behind the map, so that running off either end is a
    /// SIGSEGV and never another map's bytes. Anonymous memory only.
    #[must_use]
    pub fn guard_pages(mut self) -> Self {
        self.guard_pages = true;
        self
    }

    /// Reserve addresses for this many bytes, so that anonymous memory can
    /// [`grow`](crate::Anon::grow) to it and keep its address.
    #[must_use]
    pub fn capacity(mut self, bytes: usize) -> Self {
        self.capacity = Some(bytes);
        self
    }

    /// How forked children get the map.
    #[must_use]
    pub fn fork(mut self, fork: Fork) -> Self {
        self.fork = fork;
        self
    }

    /// Name the map, to be seen in `/proc/PID/maps`: a memfd always, anonymous memory where the
    /// kernel has names for it. Files and devices have their own.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }
}
