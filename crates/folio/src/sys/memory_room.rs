//! The amount of memory that a file in memory may still take.
//!
//! The kernel gives memfds and tmpfs their pages without a limit of its own: a request that is too
//! large ends in the OOM killer and not in an error. So the request is checked first against the
//! available memory, free swap, the limits of the process's memory cgroups, and the size of the
//! tmpfs.

use super::Errno;
use super::{cgroup, file};
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// The reason why a file in memory does not get the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// ENOSPC if the file system is too small, ENOMEM if the machine or the cgroup is.
    pub(crate) errno: Errno,
    /// The bytes that the file needs.
    pub(crate) bytes: u64,
    /// The bytes that are free.
    pub(crate) free: u64,
    /// The limit that the request exceeds.
    pub(crate) limit: &'static str,
}

/// Requests below this size are not checked: reading all the limits takes longer than filling them.
const SMALL: u64 = 1 << 20;

/// The number of bytes of a file in memory that have no page yet in `range`, if the file may get
/// them. For a file on any other file system the answer is 0: that file system reports the error
/// itself.
pub(crate) fn check(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<u64, Shortfall> {
    // This comes first, because counting the pages of a large file takes long.
    let Some(stat) = file::tmpfs(fd) else { return Ok(0) };
    let bytes = file::missing(fd, range);
    if bytes < SMALL {
        return Ok(bytes);
    }
    // The kernel's internal tmpfs, on which memfds lie, has no size: it counts no blocks.
    let sized = Some(stat).filter(|stat| stat.f_blocks > 0);
    let space = sized.map(|stat| stat.f_bavail.saturating_mul(stat.f_bsize.unsigned_abs()));
    if let Some(free) = space.filter(|&free| bytes > free) {
        return Err(Shortfall {
            errno: Errno::NOSPC,
            bytes,
            free,
            limit: "the size of the file system",
        });
    }
    let (free, limit) = memory();
    // The page tables of a map of these bytes take one page for each 512.
    if bytes.saturating_add(bytes / 512) > free {
        return Err(Shortfall { errno: Errno::NOMEM, bytes, free, limit });
    }
    Ok(bytes)
}

/// As [`check`], for `bytes` of the process's own memory that are about to be written.
pub(crate) fn check_own(bytes: u64) -> Result<(), Shortfall> {
    /// Below this size, reading the limits would take a noticeable part of the time that writing
    /// the bytes takes.
    const JUDGED: u64 = 8 << 20;
    if bytes < JUDGED {
        return Ok(());
    }
    let (free, limit) = memory();
    if bytes > free { Err(Shortfall { errno: Errno::NOMEM, bytes, free, limit }) } else { Ok(()) }
}

/// The bytes of memory that this process can get before the kernel kills a process, and the limit
/// that applies.
pub(crate) fn memory() -> (u64, &'static str) {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| kib_field(&info, name);
    let fields = field("MemAvailable").zip(field("SwapFree"));
    let (available, swap) = fields.unwrap_or_else(|| {
        // Without /proc only the number of free pages is known, without the page cache that could
        // be dropped.
        let info = rustix::system::sysinfo();
        let bytes = |count| u64::from(info.mem_unit.max(1)).saturating_mul(count);
        (bytes(info.freeram), bytes(info.freeswap))
    });
    let mut least =
        (available.saturating_add(swap), "the machine's available memory and free swap");
    if super::process::sysctl("vm/overcommit_memory") == Some(2)
        && let (Some(limit), Some(committed)) = (field("CommitLimit"), field("Committed_AS"))
    {
        let free = limit.saturating_sub(committed);
        if free < least.0 {
            least = (free, "the machine's commit limit (vm.overcommit_memory=2)");
        }
    }
    if let Some(free) = cgroup::Groups::now().room(swap).filter(|&free| free < least.0) {
        least = (free, "the limit of a memory cgroup of this process");
    }
    least
}

/// A field of `/proc/meminfo` in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}
