//! How a map is made: the `flags` word of mmap(2), with the effect of each flag in today's kernel,
//! and the page sizes that HUGETLB accepts.

use crate::page::PageSize;
use bitflags::bitflags;

bitflags! {
    /// The flags of mmap(2). The raw door ([`raw::mmap`](crate::raw::mmap)) takes any of them;
    /// [`MapOptions::flags`](crate::MapOptions::flags) takes those that cannot break another
    /// promise, and the others have an option of their own.
    ///
    /// Source: mmap(2), `include/uapi/asm-generic/mman*.h`.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
    pub struct MapFlags: i32 {
        /// Stores are seen by every process that maps the object, and reach the file. Not only
        /// after msync(2) or munmap(2), as old documents say: read(2) sees them at once, since both
        /// use the page cache.
        const SHARED = libc::MAP_SHARED;
        /// Stores copy the page first, and never reach the file. Pages that were not yet stored to
        /// still show later changes of the file.
        const PRIVATE = libc::MAP_PRIVATE;
        /// As SHARED, but flags the kernel does not know are EOPNOTSUPP instead of ignored (since
        /// 4.15). It is numerically SHARED and PRIVATE together, which is why "both" is accepted
        /// for a file today, and EINVAL for anonymous memory.
        const SHARED_VALIDATE = libc::MAP_SHARED_VALIDATE;
        /// Place the map exactly at the address, **replacing whatever was mapped there**. Never
        /// safe over memory that is not yours; folio's safe placement is
        /// [`MapOptions::at`](crate::MapOptions::at) and
        /// [`MapOptions::within`](crate::MapOptions::within).
        const FIXED = libc::MAP_FIXED;
        /// Place the map exactly at the address, or fail with EEXIST (since 4.17; older kernels
        /// take the address as a hint, so the result must be compared). Beside SHARED_VALIDATE it
        /// is EOPNOTSUPP, as an unknown flag.
        const FIXED_NOREPLACE = libc::MAP_FIXED_NOREPLACE;
        /// No file: zero-filled memory. The descriptor and the offset are ignored, but for an
        /// offset that is no page multiple: EINVAL.
        const ANONYMOUS = libc::MAP_ANONYMOUS;
        /// The old name of [`ANONYMOUS`](Self::ANONYMOUS).
        const ANON = libc::MAP_ANON;
        /// Map below 2 GiB. Only on x86-64 (elsewhere folio refuses it); ignored beside FIXED.
        const BITS_32 = BITS_32;
        /// Accepted, does nothing. Long ago it kept others from writing to the file.
        const DENYWRITE = libc::MAP_DENYWRITE;
        /// Accepted, does nothing.
        const EXECUTABLE = libc::MAP_EXECUTABLE;
        /// Zero: accepted, does nothing.
        const FILE = libc::MAP_FILE;
        /// The map grows downwards when the page below it is touched, as a stack does. It
        /// grows **below the region that the call returned**, into addresses nobody reserved, so
        /// folio offers it through the raw door only.
        const GROWSDOWN = libc::MAP_GROWSDOWN;
        /// Use huge pages from the machine's hugetlb pool; see [`HugePage`].
        const HUGETLB = libc::MAP_HUGETLB;
        /// Fault every page in and keep it in memory, as mlock(2), but a failure to fault in is not
        /// reported (use [`Region::lock`](crate::Region::lock) to know). Counts against
        /// RLIMIT_MEMLOCK: EAGAIN.
        const LOCKED = libc::MAP_LOCKED;
        /// Only beside POPULATE, and since 2.6.23 it makes POPULATE do nothing.
        const NONBLOCK = libc::MAP_NONBLOCK;
        /// Do not count the map against the commit limit. Ignored when `vm.overcommit_memory` is 2.
        const NORESERVE = libc::MAP_NORESERVE;
        /// Fault every page in before the call returns. Failures are not reported; see
        /// [`Region::populate`](crate::Region::populate) for a way that reports them.
        const POPULATE = libc::MAP_POPULATE;
        /// A hint that this will be a stack. Since 6.7 it keeps the area from getting transparent
        /// huge pages; it did nothing before.
        const STACK = libc::MAP_STACK;
        /// Synchronous faults on a DAX file: a store that returned is durable once it leaves the
        /// CPU's caches. Only beside SHARED_VALIDATE; EOPNOTSUPP elsewhere.
        const SYNC = libc::MAP_SYNC;
        /// Do not clear the pages. Only on kernels built with CONFIG_MMAP_ALLOW_UNINITIALIZED,
        /// which needs a machine without MMU; does nothing elsewhere.
        const UNINITIALIZED = 0x0400_0000;
        /// Anonymous memory that the kernel may turn to zeros at any time, under memory pressure,
        /// and that is never swapped, dumped or inherited: a forked child finds zeros (since 6.11).
        /// Its bytes can change under a reader, so folio never gives it as a slice: see
        /// [`MapOptions::droppable`](crate::MapOptions::droppable).
        const DROPPABLE = 0x08;
        // Later flags pass the raw door untouched.
        const _ = !0;
    }
}

#[cfg(target_arch = "x86_64")]
const BITS_32: i32 = libc::MAP_32BIT;
#[cfg(not(target_arch = "x86_64"))]
const BITS_32: i32 = 0;

impl std::fmt::Display for MapFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = *self;
        let mut names = Vec::new();
        // SHARED_VALIDATE is two other bits, HUGETLB carries a size in its upper bits: both are
        // taken out first.
        if rest.contains(Self::SHARED_VALIDATE) {
            names.push("SHARED_VALIDATE".to_owned());
            rest.remove(Self::SHARED_VALIDATE);
        }
        if rest.contains(Self::HUGETLB) {
            let shift = (rest.bits() >> HUGE_SHIFT) & HUGE_MASK;
            rest = Self::from_bits_retain(rest.bits() & !(HUGE_MASK << HUGE_SHIFT));
            rest.remove(Self::HUGETLB);
            names.push(match shift {
                0 => "HUGETLB".to_owned(),
                _ => format!("HUGETLB of {}", PageSize::from_shift(shift as u32)),
            });
        }
        let mut known = 0;
        for (name, flag) in rest.iter_names() {
            if name != "ANON" {
                names.push(name.to_owned());
            }
            known |= flag.bits();
        }
        if rest.bits() & !known != 0 {
            names.push(format!("{:#x}", rest.bits() & !known));
        }
        f.write_str(if names.is_empty() { "no flags" } else { "" })?;
        f.write_str(&names.join("|"))
    }
}

const HUGE_SHIFT: i32 = libc::MAP_HUGE_SHIFT;
const HUGE_MASK: i32 = libc::MAP_HUGE_MASK;

/// A page size of the hugetlb pool. Which of them a machine has depends on its architecture and on
/// how it was booted (`/sys/kernel/mm/hugepages`); one it has not is an error (EINVAL), as is an
/// empty pool (ENOMEM).
///
/// Source: mmap(2), `Documentation/admin-guide/mm/hugetlbpage.rst`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum HugePage {
    /// The machine's default huge page (`Hugepagesize` in `/proc/meminfo`).
    Default,
    /// 64 KiB
    Kib64,
    /// 512 KiB
    Kib512,
    /// 1 MiB
    Mib1,
    /// 2 MiB
    Mib2,
    /// 8 MiB
    Mib8,
    /// 16 MiB
    Mib16,
    /// 32 MiB
    Mib32,
    /// 256 MiB
    Mib256,
    /// 512 MiB
    Mib512,
    /// 1 GiB
    Gib1,
    /// 2 GiB
    Gib2,
    /// 16 GiB
    Gib16,
}

impl HugePage {
    /// log2 of the size in bytes, zero for the machine's default.
    const fn shift(self) -> u32 {
        match self {
            Self::Default => 0,
            Self::Kib64 => 16,
            Self::Kib512 => 19,
            Self::Mib1 => 20,
            Self::Mib2 => 21,
            Self::Mib8 => 23,
            Self::Mib16 => 24,
            Self::Mib32 => 25,
            Self::Mib256 => 28,
            Self::Mib512 => 29,
            Self::Gib1 => 30,
            Self::Gib2 => 31,
            Self::Gib16 => 34,
        }
    }

    /// The bits that ask mmap(2) for this size: HUGETLB, and the size's logarithm in the upper six
    /// bits.
    pub const fn flags(self) -> MapFlags {
        MapFlags::from_bits_retain(libc::MAP_HUGETLB | ((self.shift() as i32) << HUGE_SHIFT))
    }

    /// The size, in bytes; `None` for [`Default`](Self::Default), which the machine says
    /// (`Hugepagesize` in `/proc/meminfo`).
    pub const fn size(self) -> Option<PageSize> {
        match self.shift() {
            0 => None,
            shift => Some(PageSize::from_shift(shift)),
        }
    }
}
