//! The memory cgroups of this process, in both versions: their limits, the room below these, and
//! the file in which the kernel reports their pressure.
//!
//! Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst,
//! Documentation/admin-guide/cgroup-v1/memory.rst.

use std::fs;
use std::path::{Path, PathBuf};

/// The version of a hierarchy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CgroupVersion {
    One,
    Two,
}

/// One hierarchy that this process can see: its mount, and the process's own group in it.
#[derive(Debug, PartialEq, Eq)]
struct Membership {
    version: CgroupVersion,
    mount: PathBuf,
    group: PathBuf,
}

/// The process's groups that control or report memory.
#[derive(Debug)]
pub(crate) struct Groups(Vec<Membership>);

impl Groups {
    /// The present groups. There are none if /proc cannot be read.
    pub(crate) fn now() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self::parse(&text("/proc/self/cgroup"), &text("/proc/self/mountinfo"))
    }

    fn parse(memberships: &str, mounts: &str) -> Self {
        let mut found = Vec::new();
        for (version, root, mount) in mounts.lines().filter_map(mount) {
            let Some(path) = memberships.lines().find_map(|line| path_in(version, line)) else {
                continue;
            };
            // A mount may show only a part of the hierarchy, and the group need not lie in it. Then
            // the top of the mount is the nearest visible group.
            let inside = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
            let inside = if path.starts_with("/..") { Path::new("") } else { inside };
            let group = mount.join(inside);
            found.push(Membership { version, mount, group });
        }
        Self(found)
    }

    /// The smallest limit in bytes among the process's groups and all groups above them; `None` if
    /// there is none.
    #[cfg(feature = "pager")]
    pub(crate) fn memory_limit(&self) -> Option<u64> {
        self.0.iter().filter_map(Membership::memory_limit).min()
    }

    /// The smallest room in bytes among the process's groups and all groups above them; `None` if
    /// nothing limits it. `swap` is the machine's free swap.
    pub(crate) fn room(&self, swap: u64) -> Option<u64> {
        self.0.iter().filter_map(|member| member.room(swap)).min()
    }

    /// The file that reports the memory pressure of the process's own group, in version 2.
    #[cfg(feature = "pager")]
    pub(crate) fn pressure_file(&self) -> Option<PathBuf> {
        let own = |member: &&Membership| {
            member.version == CgroupVersion::Two && member.group != member.mount
        };
        self.0.iter().find(own).map(|member| member.group.join("memory.pressure"))
    }
}

impl Membership {
    /// The group and those above it, as far as the mount shows them.
    fn up(&self) -> impl Iterator<Item = &Path> {
        self.group.ancestors().take_while(|group| group.starts_with(&self.mount))
    }

    #[cfg(feature = "pager")]
    fn memory_limit(&self) -> Option<u64> {
        // For no limit, version 2 says `max`, and version 1 says the largest number of bytes in
        // whole pages.
        let limited = |&bytes: &u64| bytes < 1 << 62;
        let files: &[&str] = match self.version {
            CgroupVersion::One => &["memory.limit_in_bytes"],
            // Above `high` the kernel stops the process for ever longer times.
            CgroupVersion::Two => &["memory.max", "memory.high"],
        };
        let seen =
            self.up().flat_map(|group| files.iter().filter_map(move |file| number(group, file)));
        // Version 1 also reports limits of groups above the mount.
        let reported = statistics(&self.group, &["hierarchical_memory_limit"]);
        seen.chain(reported).filter(limited).min()
    }

    fn room(&self, swap: u64) -> Option<u64> {
        let of = match self.version {
            CgroupVersion::One => room_in_version_1,
            CgroupVersion::Two => room_in_version_2,
        };
        self.up().filter_map(|group| of(group, swap)).min()
    }
}

/// The room of one group of version 2; `None` if it has no limit.
fn room_in_version_2(group: &Path, swap: u64) -> Option<u64> {
    let limit = number(group, "memory.max")?;
    let used = number(group, "memory.current")?;
    // The kernel drops the page cache that is charged to the group before it kills a process.
    let cache = statistics(group, &["inactive_file", "active_file"]).unwrap_or(0);
    let swap = match (number(group, "memory.swap.max"), number(group, "memory.swap.current")) {
        (Some(limit), Some(used)) => swap.min(limit.saturating_sub(used)),
        // Without a number ("max") the machine's swap is the limit.
        _ => swap,
    };
    Some(limit.saturating_sub(used.saturating_sub(cache)).saturating_add(swap))
}

/// The room of one group of version 1.
fn room_in_version_1(group: &Path, swap: u64) -> Option<u64> {
    let cache = statistics(group, &["total_inactive_file", "total_active_file"]).unwrap_or(0);
    let room = |kind: &str| {
        let limit = number(group, &format!("{kind}.limit_in_bytes"))?;
        let used = number(group, &format!("{kind}.usage_in_bytes"))?;
        Some(limit.saturating_sub(used.saturating_sub(cache)))
    };
    let memory = room("memory")?.saturating_add(swap);
    // With swap accounting there is one more limit, for memory and swap together.
    Some(room("memory.memsw").map_or(memory, |both| memory.min(both)))
}

/// The number in a file of a group.
fn number(group: &Path, file: &str) -> Option<u64> {
    fs::read_to_string(group.join(file)).ok()?.trim().parse().ok()
}

/// The sum of these fields of a group's `memory.stat`; `None` if it has none of them.
fn statistics(group: &Path, fields: &[&str]) -> Option<u64> {
    let text = fs::read_to_string(group.join("memory.stat")).ok()?;
    let field = |name: &&str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.trim().parse::<u64>().ok()
    };
    fields.iter().filter_map(field).reduce(u64::saturating_add)
}

/// The version, the root and the mount point of a mount of cgroups that may concern memory, from a
/// line of `/proc/self/mountinfo`.
fn mount(line: &str) -> Option<(CgroupVersion, PathBuf, PathBuf)> {
    let (position, kind) = line.split_once(" - ")?;
    let mut position = position.split(' ').skip(3);
    let (root, at) = (position.next()?, position.next()?);
    let mut kind = kind.split(' ');
    let version = match kind.next()? {
        "cgroup2" => CgroupVersion::Two,
        "cgroup" if kind.nth(1)?.split(',').any(|option| option == "memory") => CgroupVersion::One,
        _ => return None,
    };
    Some((version, unescaped(root).into(), unescaped(at).into()))
}

/// The group's path from a line of `/proc/self/cgroup`, if the line is about the hierarchy of
/// memory.
fn path_in(version: CgroupVersion, line: &str) -> Option<&str> {
    let mut parts = line.splitn(3, ':');
    let (number, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let right = match version {
        CgroupVersion::One => controllers.split(',').any(|controller| controller == "memory"),
        CgroupVersion::Two => number == "0" && controllers.is_empty(),
    };
    right.then_some(path)
}

/// Undoes the octal escapes of `/proc/self/mountinfo`.
fn unescaped(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::Groups;
    use std::fs;

    /// Makes a tree of files, and calls `ask` with the groups of a process in `cgroup` with
    /// `mounts`. `ROOT` in `mounts` stands for the tree.
    fn with<R>(
        files: &[(&str, &str)],
        cgroup: &str,
        mounts: &str,
        ask: impl FnOnce(Groups) -> R,
    ) -> R {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        ask(Groups::parse(cgroup, &mounts.replace("ROOT", root.path().to_str().unwrap())))
    }

    fn limit(files: &[(&str, &str)], cgroup: &str, mounts: &str) -> Option<u64> {
        with(files, cgroup, mounts, |groups| groups.memory_limit())
    }

    fn room(files: &[(&str, &str)], cgroup: &str, mounts: &str, swap: u64) -> Option<u64> {
        with(files, cgroup, mounts, |groups| groups.room(swap))
    }

    const TWO: &str = "41 31 0:38 / ROOT rw,relatime - cgroup2 cgroup2 rw\n";
    const ONE: &str = "35 31 0:32 / ROOT rw shared:9 - cgroup cgroup rw,memory\n";

    #[test]
    fn the_least_limit_on_the_way_up_holds_in_version_2() {
        let files =
            [("a/memory.max", "4096000\n"), ("a/b/memory.max", "max\n"), ("c/memory.max", "1\n")];
        assert_eq!(limit(&files, "0::/a/b\n", TWO), Some(4_096_000));
        let files = [("a/memory.max", "4096000\n"), ("a/memory.high", "2048000\n")];
        assert_eq!(limit(&files, "0::/a\n", TWO), Some(2_048_000));
    }

    #[test]
    fn the_least_limit_on_the_way_up_holds_in_version_1() {
        let files = [
            ("x/y/memory.limit_in_bytes", "9223372036854771712\n"),
            ("x/memory.limit_in_bytes", "8192000\n"),
            ("memory.limit_in_bytes", "16384000\n"),
        ];
        assert_eq!(limit(&files, "9:cpu,memory:/x/y\n0::/\n", ONE), Some(8_192_000));
        assert_eq!(limit(&files, "3:cpuset:/x\n", ONE), None);
    }

    #[test]
    fn version_1_reports_limits_above_its_mount_in_its_statistics() {
        let files = [
            ("memory.limit_in_bytes", "9223372036854771712\n"),
            ("memory.stat", "cache 0\nhierarchical_memory_limit 4096000\n"),
        ];
        let mounts = "35 31 0:32 /docker/12 ROOT rw - cgroup cgroup rw,memory\n";
        assert_eq!(limit(&files, "4:memory:/docker/12\n", mounts), Some(4_096_000));
    }

    #[test]
    fn a_group_outside_its_mount_has_the_limit_of_the_mounts_top() {
        let files = [("memory.max", "8192000\n"), ("in/memory.max", "4096000\n")];
        let mounts = "41 31 0:38 /docker/12 ROOT rw - cgroup2 cgroup2 rw\n";
        assert_eq!(limit(&files, "0::/docker/12/in\n", mounts), Some(4_096_000));
        assert_eq!(limit(&files, "0::/elsewhere/in\n", mounts), Some(8_192_000));
        assert_eq!(limit(&files, "0::/../in\n", mounts), Some(8_192_000));
    }

    #[test]
    fn the_group_of_version_2_with_the_least_room_decides() {
        let stat = "inactive_file 10\nactive_file 20\ninactive_anon 500\n";
        let mut files = vec![
            ("a/b/memory.max", "1000\n"),
            ("a/b/memory.current", "530\n"),
            ("a/b/memory.stat", stat),
        ];
        let group = "3:cpu:/x\n0::/a/b\n";
        assert_eq!(room(&files, group, TWO, 0), Some(500));
        assert_eq!(room(&files, group, TWO, 7), Some(507), "free swap counts");
        files.extend([("a/b/memory.swap.max", "5"), ("a/b/memory.swap.current", "2")]);
        assert_eq!(room(&files, group, TWO, 7), Some(503), "as far as the group may use it");
        files.extend([("a/memory.max", "max\n"), ("a/memory.current", "900\n")]);
        assert_eq!(room(&files, group, TWO, 7), Some(503));
        files.push(("a/memory.max", "940\n"));
        assert_eq!(room(&files, group, TWO, 7), Some(47), "a group above has less");
        assert_eq!(room(&files, "0::/\n", TWO, 7), None, "no limit");
    }

    #[test]
    fn a_group_of_version_1_counts_memory_and_swap_apart() {
        let mut files = vec![
            ("a/memory.limit_in_bytes", "1000"),
            ("a/memory.usage_in_bytes", "700"),
            ("a/memory.stat", "inactive_file 1\ntotal_inactive_file 60\ntotal_active_file 40\n"),
        ];
        let group = "4:cpu,memory:/a\n0::/\n";
        assert_eq!(room(&files, group, ONE, 50), Some(450));
        files.extend([
            ("a/memory.memsw.limit_in_bytes", "1010"),
            ("a/memory.memsw.usage_in_bytes", "700"),
        ]);
        assert_eq!(room(&files, group, ONE, 50), Some(410));
    }

    #[test]
    fn a_mount_whose_path_has_a_space_is_found() {
        let files = [("a b/memory.max", "1000"), ("a b/memory.current", "400")];
        let mounts = "41 31 0:38 / ROOT/a\\040b rw - cgroup2 cgroup2 rw\n";
        assert_eq!(room(&files, "0::/\n", mounts, 0), Some(600));
    }
}
