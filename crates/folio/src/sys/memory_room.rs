//! How much memory a file in memory may still take.
//!
//! The kernel gives memfds and tmpfs their pages without a bound of its own: a request that is too
//! large ends in the OOM killer and not in an error. So the request is judged first, by the memory
//! that is available, free swap, the limits of the process's memory cgroups, and the size of the
//! tmpfs.

use super::Errno;
use super::{cgroup, file};
use std::ops::Range;
use std::os::fd::BorrowedFd;

/// Why a file in memory does not get the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// ENOSPC if the file system is too small, ENOMEM if the machine or the cgroup is.
    pub(crate) errno: Errno,
    /// The bytes that it lacks.
    pub(crate) bytes: u64,
    /// The bytes that it could have.
    pub(crate) free: u64,
    /// The thing that limits it.
    pub(crate) limit: &'static str,
}

/// Requests below this size are not judged: to read all the limits takes longer than to fill them.
const SMALL: u64 = 1 << 20;

/// How many bytes of the range of a file in memory have no page yet, if the file may get them. Of a
/// file on any other file system the answer is 0: that one says no itself.
pub(crate) fn check(fd: BorrowedFd<'_>, range: &Range<u64>) -> Result<u64, Shortfall> {
    // First of all: to count the pages of a large file takes long.
    let Some(stat) = file::tmpfs(fd) else { return Ok(0) };
    let bytes = file::missing(fd, range);
    if bytes < SMALL {
        return Ok(bytes);
    }
    // The kernel's own tmpfs, on which memfds lie, has no size: it counts no blocks.
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
    // The page tables that a map of these bytes needs take a page for each 512.
    if bytes.saturating_add(bytes / 512) > free {
        return Err(Shortfall { errno: Errno::NOMEM, bytes, free, limit });
    }
    Ok(bytes)
}

/// As [`check`], for `bytes` of the process's own memory that are about to be written.
pub(crate) fn check_own(bytes: u64) -> Result<(), Shortfall> {
    /// Below this size the limits would take a noticeable part of the time that the bytes
    /// themselves take.
    const JUDGED: u64 = 8 << 20;
    if bytes < JUDGED {
        return Ok(());
    }
    let (free, limit) = memory();
    if bytes > free { Err(Shortfall { errno: Errno::NOMEM, bytes, free, limit }) } else { Ok(()) }
}

/// The bytes of memory that this process can get before something of it is killed, and the limit
/// that says so.
pub(crate) fn memory() -> (u64, &'static str) {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name| kib_field(&info, name);
    let told = field("MemAvailable").zip(field("SwapFree"));
    let (available, swap) = told.unwrap_or_else(|| {
        // Without /proc: only free pages are known, without the page cache that could be dropped.
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
