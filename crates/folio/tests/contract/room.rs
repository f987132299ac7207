//! Files in memory get no more than there is: a request that is too large is an error before any
//! memory is taken, and the OOM killer finds nothing to do.

use crate::common::{
    Mounted, child_succeeds, disk_dir, file_with, page, pattern, sealable_memfd, skip,
};
use folio::shm::Channel;
use folio::{Errno, Error, FileMapMut, MapOptions, Sealed, SharedMem};
use rustix::fs::SealFlags;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A memory cgroup for one test.
struct Group {
    dir: PathBuf,
}

impl Group {
    /// With this limit; `None` where this process may not make one.
    fn new(name: &str, bytes: u64) -> Option<Self> {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = |controllers: &str| {
            let mut lines = text.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
            lines
                .find(|line| line[1].split(',').any(|name| name == controllers))
                .map(|line| line[2].to_owned())
        };
        let v1 = own("memory")
            .map(|group| (format!("/sys/fs/cgroup/memory{group}"), "memory.limit_in_bytes"));
        let v2 = own("").map(|group| (format!("/sys/fs/cgroup{group}"), "memory.max"));
        v1.into_iter().chain(v2).find_map(|(parent, limit)| {
            let dir = PathBuf::from(parent).join(format!("folio-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).ok()?;
            let group = Self { dir };
            // The directory may be of another kind: then it has no such file.
            let limited = group.dir.join(limit).exists()
                && std::fs::write(group.dir.join(limit), bytes.to_string()).is_ok();
            limited.then_some(group)
        })
    }

    /// Moves this process there.
    fn enter(&self) {
        std::fs::write(self.dir.join("cgroup.procs"), std::process::id().to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(&self.dir);
    }
}

const LIMIT: u64 = 64 << 20;

/// Runs `work` where there are 64 MiB of memory, or not at all.
fn with_little_memory(name: &str, work: impl FnOnce()) {
    match Group::new(name, LIMIT) {
        Some(group) => child_succeeds(|| {
            group.enter();
            work();
        }),
        None => skip("may not make a memory cgroup"),
    }
}

#[track_caller]
fn no_memory(error: &Error) {
    assert_eq!(error.errno(), Errno::NOMEM, "{error}");
    assert!(error.to_string().contains("leaves"), "{error}");
}

#[test]
fn memory_that_is_made_is_at_most_as_much_as_the_cgroup_has() {
    with_little_memory("made", || {
        for bytes in [256 << 20, 1 << 46] {
            no_memory(&SharedMem::memfd("x", bytes).unwrap_err());
            no_memory(&Sealed::build(bytes, |_| panic!("there is no memory to fill")).unwrap_err());
        }
        no_memory(&Channel::anonymous(1 << 40).unwrap_err());
        no_memory(&Channel::anonymous(256 << 20).unwrap_err());
        // With less than the limit it works.
        let shared = SharedMem::memfd("x", 8 << 20).unwrap();
        assert_eq!(shared.view().unwrap().get((8 << 20) - 1), Some(0));
        drop(shared);
        assert_eq!(Sealed::build(8 << 20, |bytes| bytes.fill(1)).unwrap()[(8 << 20) - 1], 1);
        Channel::anonymous(8 << 20).unwrap();
    });
}

#[test]
fn memory_beyond_the_machines_is_refused_without_any_cgroup() {
    child_succeeds(|| {
        // If it is not refused, this process goes first.
        std::fs::write("/proc/self/oom_score_adj", "1000").unwrap();
        no_memory(&SharedMem::memfd("x", 1 << 46).unwrap_err());
        no_memory(&Sealed::build(1 << 46, |_| panic!("there is no memory to fill")).unwrap_err());
        no_memory(&Channel::anonymous(1 << 40).unwrap_err());
    });
}

#[test]
fn the_length_of_a_received_memfd_costs_nothing() {
    with_little_memory("received", || {
        let sparse = |seals| {
            let fd = sealable_memfd("sparse", 0);
            rustix::fs::ftruncate(&fd, 1 << 40).unwrap();
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
            let other = File::from(fd.try_clone().unwrap());
            (fd, move || other.metadata().unwrap().blocks())
        };
        let (fd, blocks) = sparse(SealFlags::SHRINK);
        let shared = SharedMem::from_fd(fd).unwrap();
        assert_eq!((shared.len(), blocks()), (1 << 40, 0));
        shared.write_at(&[7], 1 << 39).unwrap();
        let (fd, blocks) = sparse(SealFlags::SHRINK);
        no_memory(&MapOptions::new().preallocate().shared_from_fd(fd).unwrap_err());
        assert_eq!(blocks(), 0);
        let (fd, blocks) = sparse(SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE);
        no_memory(&Sealed::from_fd(fd).unwrap_err());
        assert_eq!(blocks(), 0);
    });
}

#[test]
fn a_file_that_a_tmpfs_has_no_space_for_is_enospc() {
    let Some(mounted) = Mounted::tmpfs("size=4m") else { return skip("may not mount") };
    let path = mounted.path().join("large");
    let error = FileMapMut::create(&path, 64 << 20).unwrap_err();
    assert_eq!(error.errno(), Errno::NOSPC, "{error}");
    assert_eq!(std::fs::metadata(&path).unwrap().blocks(), 0);
}

#[test]
fn a_file_on_a_disk_is_judged_by_its_disk_alone() {
    with_little_memory("disk", || {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(1));
        let map = FileMapMut::create(path, 80 << 20).unwrap();
        assert_eq!(map.read_vec(page()..=page()).unwrap(), [0]);
    });
}
