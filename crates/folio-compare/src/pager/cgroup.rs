//! A memory cgroup of its own for a worker: its maps, its page cache and its kernel memory count.
//!
//! It is made below this process's own cgroup, so that limits from above hold on. Version 1 and
//! version 2 are served.

use anyhow::{Context, Result, bail};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const NAME: &str = "folio-compare-";

/// A cgroup that is removed with this value.
#[derive(Debug)]
pub(super) struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// Makes one that allows `limit` bytes.
    pub(super) fn new(limit: usize) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("/proc/self/cgroup")?;
        let mut reasons = Vec::new();
        for (version, parent) in parents(&mounts, &own) {
            remove_left_over(&parent);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = parent.join(format!("{NAME}{}-{number}", std::process::id()));
            match make(&dir, version, limit) {
                Ok(()) => return Ok(Self { dir }),
                Err(error) => reasons.push(format!("{}: {error}", parent.display())),
            }
        }
        bail!("no memory cgroup can be made here ({})", reasons.join("; "))
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that has just ended may still be in it for a moment.
        for _ in 0..100 {
            if fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// Puts this process into a cgroup.
pub(super) fn join(dir: &Path) -> Result<()> {
    fs::write(dir.join("cgroup.procs"), "0")
        .with_context(|| format!("this process cannot be put into {}", dir.display()))
}

fn make(dir: &Path, version: Version, limit: usize) -> std::io::Result<()> {
    fs::create_dir(dir)?;
    let set = || match version {
        Version::One => {
            fs::write(dir.join("memory.limit_in_bytes"), limit.to_string())?;
            // Where swap is not counted there is no such file.
            drop(fs::write(dir.join("memory.memsw.limit_in_bytes"), limit.to_string()));
            Ok(())
        }
        Version::Two => {
            fs::write(dir.join("memory.max"), limit.to_string())?;
            drop(fs::write(dir.join("memory.swap.max"), "0"));
            Ok(())
        }
    };
    set().inspect_err(|_| drop(fs::remove_dir(dir)))
}

/// The remains of a killed run. A cgroup with a process in it cannot be removed.
fn remove_left_over(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(NAME)?.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            drop(fs::remove_dir(entry.path()));
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where a memory cgroup may be made, by the texts of /proc/self/mountinfo and /proc/self/cgroup.
fn parents(mounts: &str, own: &str) -> Vec<(Version, PathBuf)> {
    let mut found = Vec::new();
    for mount in mounts.lines() {
        let Some((place, kind)) = mount.split_once(" - ") else { continue };
        let mut place = place.split(' ').skip(3);
        let (Some(root), Some(point)) = (place.next(), place.next()) else { continue };
        let mut kind = kind.split(' ');
        let version = match kind.next() {
            Some("cgroup") if kind.nth(1).is_some_and(|options| has(options, "memory")) => {
                Version::One
            }
            Some("cgroup2") => Version::Two,
            _ => continue,
        };
        for line in own.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
            let ours = match version {
                Version::One => has(controllers, "memory"),
                Version::Two => controllers.is_empty(),
            };
            // A container's mount starts at its own cgroup.
            let below = Path::new(path).strip_prefix(root).unwrap_or(Path::new(""));
            if ours {
                let dir = Path::new(point).join(below);
                // Version 2 lets no cgroup that holds processes hand its memory to others: then one
                // beside it.
                if let (Version::Two, Some(beside)) =
                    (version, dir.parent().filter(|_| below != Path::new("")))
                {
                    found.extend([(version, dir.clone()), (version, beside.to_owned())]);
                } else {
                    found.push((version, dir));
                }
            }
        }
    }
    found
}

fn has(list: &str, word: &str) -> bool {
    list.split(',').any(|other| other == word)
}

#[cfg(test)]
mod tests {
    use super::{Version, parents};
    use std::path::PathBuf;

    #[test]
    fn version_1_is_found_at_its_mount() {
        let mounts = "33 25 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      34 25 0:29 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n";
        let own = "4:memory:/a/b\n1:cpu:/\n";
        assert_eq!(
            parents(mounts, own),
            [(Version::One, PathBuf::from("/sys/fs/cgroup/memory/a/b"))]
        );
    }

    #[test]
    fn version_2_has_a_place_beside_ours() {
        let mounts = "34 25 0:29 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n";
        let want = [
            (Version::Two, PathBuf::from("/sys/fs/cgroup/user/us")),
            (Version::Two, PathBuf::from("/sys/fs/cgroup/user")),
        ];
        assert_eq!(parents(mounts, "0::/user/us\n"), want);
        // A container's own mount.
        let mounts = "34 25 0:29 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        let want = [(Version::Two, PathBuf::from("/sys/fs/cgroup"))];
        assert_eq!(parents(mounts, "0::/docker/x\n"), want);
    }
}
