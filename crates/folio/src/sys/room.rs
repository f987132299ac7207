//! How much memory a file in memory may still take.
//!
//! The kernel gives memfds and tmpfs their pages without a bound of its own: a request that is too large ends in the
//! OOM killer and not in an error. So the request is judged first, by the memory that is available, free swap, the
//! limits of the process's memory cgroups, and the size of the tmpfs.

use super::Errno;
use super::file;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

/// Why a file in memory does not get the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Short {
    /// ENOSPC if the file system is too small, ENOMEM if the machine or the cgroup is.
    pub(crate) errno: Errno,
    /// The bytes that it could have.
    pub(crate) free: u64,
    /// The thing that limits it.
    pub(crate) limit: &'static str,
}

/// Requests below this size are not judged: to read all the limits takes longer than to fill them.
const SMALL: u64 = 1 << 20;

/// Judges whether a file in memory may get `bytes` more. A file on any other file system may: that one says no itself.
pub(crate) fn check(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Short> {
    if bytes < SMALL || !file::is_on_tmpfs(fd) {
        return Ok(());
    }
    // The kernel's own tmpfs, on which memfds lie, has no size: it counts no blocks.
    let sized = rustix::fs::fstatfs(fd).ok().filter(|stat| stat.f_blocks > 0);
    let space = sized.map(|stat| stat.f_bavail.saturating_mul(stat.f_bsize.unsigned_abs()));
    if let Some(free) = space.filter(|&free| bytes > free) {
        return Err(Short { errno: Errno::NOSPC, free, limit: "the size of the file system" });
    }
    let (free, limit) = memory();
    // The page tables that a map of these bytes needs take a page for each 512.
    if bytes.saturating_add(bytes / 512) > free {
        return Err(Short { errno: Errno::NOMEM, free, limit });
    }
    Ok(())
}

/// As [`check`], for `bytes` of the process's own memory that are about to be written.
pub(crate) fn check_own(bytes: u64) -> Result<(), Short> {
    /// Below this size the limits would take a noticeable part of the time that the bytes themselves take.
    const JUDGED: u64 = 8 << 20;
    if bytes < JUDGED {
        return Ok(());
    }
    let (free, limit) = memory();
    if bytes > free { Err(Short { errno: Errno::NOMEM, free, limit }) } else { Ok(()) }
}

/// The bytes of memory that this process can get before something of it is killed, and the limit that says so.
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
    let mut least = (available.saturating_add(swap), "the machine's available memory and free swap");
    if super::process::sysctl("vm/overcommit_memory") == Some(2)
        && let (Some(limit), Some(committed)) = (field("CommitLimit"), field("Committed_AS"))
    {
        let free = limit.saturating_sub(committed);
        if free < least.0 {
            least = (free, "the machine's commit limit (vm.overcommit_memory=2)");
        }
    }
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(free) = groups_room(&groups, &mounts, swap).filter(|&free| free < least.0) {
        least = (free, "the limit of a memory cgroup of this process");
    }
    least
}

/// A field of `/proc/meminfo` in bytes.
fn kib_field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1 << 10)
}

/// The least room in the memory cgroups of the process, from its own up to the root of the hierarchy; `None` if nothing
/// limits it. `groups` is the text of `/proc/self/cgroup`, `mounts` that of `/proc/self/mountinfo`.
fn groups_room(groups: &str, mounts: &str, swap: u64) -> Option<u64> {
    let mut least = None;
    for line in groups.lines() {
        let mut words = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(group)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "memory") {
            continue;
        }
        let Some((root, top)) = mount(mounts, unified) else { continue };
        // A container sees a part of the hierarchy: its mount starts at `root`.
        let below = Path::new(group).strip_prefix(&root).unwrap_or(Path::new(""));
        let mut dir = top.join(below);
        loop {
            let room = if unified { unified_room(&dir, swap) } else { legacy_room(&dir, swap) };
            least = room.into_iter().chain(least).min();
            if dir == top || !dir.pop() {
                break;
            }
        }
    }
    least
}

/// The part of the hierarchy that is mounted, and where: of the unified hierarchy, or of the one with the memory
/// controller.
fn mount(mounts: &str, unified: bool) -> Option<(PathBuf, PathBuf)> {
    mounts.lines().find_map(|line| {
        let (place, source) = line.split_once(" - ")?;
        let mut words = source.split(' ');
        let (kind, options) = (words.next()?, words.nth(1)?);
        let wanted = match kind {
            "cgroup2" => unified,
            "cgroup" => !unified && options.split(',').any(|option| option == "memory"),
            _ => false,
        };
        let mut words = place.split(' ').skip(3);
        wanted.then(|| Some((words.next()?.into(), words.next()?.into())))?
    })
}

fn number(dir: &Path, name: &str) -> Option<u64> {
    std::fs::read_to_string(dir.join(name)).ok()?.trim().parse().ok()
}

/// Bytes of the page cache that is charged to the group, which the kernel drops before it kills.
fn droppable(dir: &Path, names: [&str; 2]) -> u64 {
    let text = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let field = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0)
    };
    names.into_iter().map(field).sum()
}

/// The room of a group of the unified hierarchy (cgroup v2); `None` if it has no limit.
fn unified_room(dir: &Path, swap: u64) -> Option<u64> {
    let limit = number(dir, "memory.max")?;
    let used =
        number(dir, "memory.current")?.saturating_sub(droppable(dir, ["inactive_file", "active_file"]));
    let swap = match (number(dir, "memory.swap.max"), number(dir, "memory.swap.current")) {
        (Some(limit), Some(used)) => swap.min(limit.saturating_sub(used)),
        // Without a number ("max") the machine's swap is the limit.
        _ => swap,
    };
    Some(limit.saturating_sub(used).saturating_add(swap))
}

/// The room of a group of the memory controller's own hierarchy (cgroup v1).
fn legacy_room(dir: &Path, swap: u64) -> Option<u64> {
    let cache = droppable(dir, ["total_inactive_file", "total_active_file"]);
    let room = |kind: &str| {
        let limit = number(dir, &format!("{kind}.limit_in_bytes"))?;
        let used = number(dir, &format!("{kind}.usage_in_bytes"))?;
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    };
    let memory = room("memory")?.saturating_add(swap);
    // With swap accounting, one more limit for both together.
    Some(room("memory.memsw").map_or(memory, |both| memory.min(both)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
30 23 0:28 / TOP/v1 rw - cgroup cgroup rw,memory
31 23 0:29 /box TOP/v2 rw - cgroup2 cgroup2 rw
";

    fn write(dir: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    fn room(top: &Path, groups: &str, swap: u64) -> Option<u64> {
        groups_room(groups, &MOUNTS.replace("TOP", top.to_str().unwrap()), swap)
    }

    #[test]
    fn the_unified_group_with_the_least_room_decides() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("v2/a/b");
        let stat = "inactive_file 10\nactive_file 20\ninactive_anon 500\n";
        write(&inner, &[("memory.max", "1000\n"), ("memory.current", "530\n"), ("memory.stat", stat)]);
        let groups = "3:cpu:/x\n0::/box/a/b\n";
        assert_eq!(room(top.path(), groups, 0), Some(500));
        assert_eq!(room(top.path(), groups, 7), Some(507), "free swap counts");
        write(&inner, &[("memory.swap.max", "5"), ("memory.swap.current", "2")]);
        assert_eq!(room(top.path(), groups, 7), Some(503), "as far as the group may use it");
        write(&top.path().join("v2/a"), &[("memory.max", "max\n"), ("memory.current", "900\n")]);
        assert_eq!(room(top.path(), groups, 7), Some(503));
        write(&top.path().join("v2/a"), &[("memory.max", "940\n")]);
        assert_eq!(room(top.path(), groups, 7), Some(47), "a group above has less");
        assert_eq!(room(top.path(), "0::/box\n", 7), None, "no limit");
    }

    #[test]
    fn a_group_of_the_first_version_counts_memory_and_swap_apart() {
        let top = tempfile::tempdir().unwrap();
        let inner = top.path().join("v1/a");
        let memory = [
            ("memory.limit_in_bytes", "1000"),
            ("memory.usage_in_bytes", "700"),
            ("memory.stat", "inactive_file 1\ntotal_inactive_file 60\ntotal_active_file 40\n"),
        ];
        write(&inner, &memory);
        let groups = "4:cpu,memory:/a\n0::/\n";
        assert_eq!(room(top.path(), groups, 50), Some(450));
        write(&inner, &[("memory.memsw.limit_in_bytes", "1010"), ("memory.memsw.usage_in_bytes", "700")]);
        assert_eq!(room(top.path(), groups, 50), Some(410));
    }
}
