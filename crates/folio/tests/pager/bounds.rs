//! Limits of the process and of its cgroup, and the longest deadlines.

use crate::common::{End, child_succeeds, disk_dir, in_child, lower_limit, page, skip};
use crate::given::{MIB, is_all, pager};
use folio::source::{Function, Memory, WritableMemory, Zeros};
use folio::{Errno, Pager, WriteBack};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[test]
fn the_longest_deadline_is_no_deadline() {
    child_succeeds(|| {
        let pager =
            Pager::builder().budget(4 * MIB).write_back_after(Duration::MAX).build().unwrap();
        let source = Function::new("fives", 16 << 20, |_, buffer: &mut [u8]| {
            buffer.fill(5);
            Ok(())
        });
        let map = pager.map(source.deadline(Duration::MAX)).unwrap();
        assert!(is_all(&map, 5));
        map.pin(..10).unwrap();
        let mut written = pager.map_mut(WritableMemory::new(vec![0; MIB])).unwrap();
        written.fill(6);
        // A few turns of the pager's clock, with dirty pages.
        std::thread::sleep(Duration::from_millis(100));
        written.sync(.., WriteBack::Wait).unwrap();
    });
}

fn address_space() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn maps_that_do_not_grow_need_no_addresses_for_growth() {
    child_succeeds(|| {
        let pager = pager(4 * MIB);
        // Makes the first memory of the pager's threads.
        assert_eq!(pager.map(Memory::from(vec![1; MIB])).unwrap()[0], 1);
        lower_limit(libc::RLIMIT_AS, address_space() + (600 << 20));
        let mut private = pager.map_private(Memory::from(vec![1; 8 * MIB])).unwrap();
        private[5] = 2;
        assert_eq!(private[4..6], [1, 2]);
        // A map that can grow gets the addresses that there are.
        let mut written = pager.map_mut(WritableMemory::new(vec![1; 8 * MIB])).unwrap();
        written[5] = 2;
        written.resize(4096).unwrap();
        assert_eq!(written[4..6], [1, 2]);
    });
}

#[test]
fn an_error_at_the_limit_of_addresses_names_the_limit_and_the_request() {
    child_succeeds(|| {
        let pager = pager(4 * MIB);
        lower_limit(libc::RLIMIT_AS, address_space() + (600 << 20));
        let private = pager.map_private(Zeros::new(2 << 30)).map(drop).unwrap_err();
        assert_eq!(private.errno(), Errno::NOMEM);
        let text = private.to_string();
        // The bytes, and as many as they are aligned to.
        let asked = ((2 << 30) + 512 * page()).to_string();
        assert!(text.contains("RLIMIT_AS") && text.contains(&asked), "{text}");
    });
}

/// A memory cgroup of this test's own, which goes with this.
struct Group(PathBuf);

impl Group {
    /// A group with this limit below the process's own; `None` where that is not allowed.
    fn with_limit(bytes: usize) -> Option<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = |wanted: &dyn Fn(&str) -> bool| {
            groups.lines().find_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                let (controllers, path) = (parts.next()?, parts.next()?);
                wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
            })
        };
        let name = format!("folio-test-{}", std::process::id());
        let one = path(&|controllers| controllers.split(',').any(|word| word == "memory"));
        let two = path(&str::is_empty);
        let places = [
            one.map(|path| {
                (Path::new("/sys/fs/cgroup/memory").join(path), "memory.limit_in_bytes")
            }),
            two.map(|path| (Path::new("/sys/fs/cgroup").join(path), "memory.max")),
        ];
        places.into_iter().flatten().find_map(|(parent, file)| {
            let group = Self(parent.join(&name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(file), bytes.to_string()).ok()?;
            Some(group)
        })
    }

    /// The calling process is in the group from now on.
    fn enter(&self) -> bool {
        fs::write(self.0.join("cgroup.procs"), std::process::id().to_string()).is_ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The kernel may still tear down the last process.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn a_budget_beyond_the_cgroups_limit_is_lowered_and_the_group_has_enough() {
    let Some(group) = Group::with_limit(128 * MIB) else {
        return skip("no memory cgroup can be made here");
    };
    let end = in_child(|| {
        if !group.enter() {
            return skip("the cgroup cannot be entered");
        }
        let pager = pager(256 * MIB);
        assert!(pager.budget() <= 96 * MIB, "the budget is {}", pager.budget());
        assert_eq!(pager.stats().unwrap().budget, pager.budget() as u64);
        let source = Function::new("fives", 300 << 20, |_, buffer: &mut [u8]| {
            buffer.fill(5);
            Ok(())
        });
        let mut map = pager.map_private(source).unwrap();
        for part in map.chunks_mut(4096) {
            part[0] += 1;
        }
        assert!(map.chunks(4096).all(|part| part[..2] == [6, 5]));
        pager.set_budget(256 * MIB).unwrap();
        assert!(pager.budget() <= 96 * MIB, "the budget is {}", pager.budget());
    });
    assert_eq!(end, End::Exited(0), "killed by signal 9 is the kernel that is out of memory");
}

#[test]
fn hashes_that_no_file_takes_stay_within_the_budget_and_are_reported() {
    let dir = disk_dir();
    let spill = dir.path().join("spill");
    std::fs::create_dir(&spill).unwrap();
    let pager = folio::Pager::builder().budget(4 << 20).spill_dir(&spill).build().unwrap();
    std::fs::remove_dir(&spill).unwrap();
    let far = folio::source::Function::new("far", 8 << 30, |offset, buffer: &mut [u8]| {
        buffer.fill((offset >> 21) as u8);
        Ok(())
    });
    let map = pager.map(far).unwrap();
    map.advise(.., folio::Advice::Random).unwrap();
    let mut byte = [0];
    // One page of each 2 MiB: the hashes of each of these have a leaf of their own.
    for n in 0..4_000_usize {
        map.read_at(&mut byte, n << 21).unwrap();
        assert_eq!(byte[0], n as u8);
    }
    let stats = pager.stats().unwrap();
    assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
    assert_eq!(stats.hash_refusal, Some(libc::ENOENT), "{stats:?}");
    assert!(stats.hashes_refused > 0, "{stats:?}");
    let error = map.read_at(&mut byte, 0).unwrap_err();
    assert!(error.to_string().contains("hashes"), "{error}");
}

#[test]
fn a_page_whose_hash_is_in_the_file_is_the_same_or_an_error() {
    const CHUNKS: usize = 1_000;
    let dir = disk_dir();
    let pager = folio::Pager::builder().budget(4 << 20).spill_dir(dir.path()).build().unwrap();
    let first_changed = Arc::new(AtomicU64::new(u64::MAX));
    let changed = Arc::clone(&first_changed);
    let far = folio::source::Function::new("far", 8 << 30, move |offset, buffer: &mut [u8]| {
        let other = offset >= changed.load(Ordering::SeqCst);
        buffer.fill((offset >> 21) as u8 ^ u8::from(other));
        Ok(())
    });
    let map = pager.map(far).unwrap();
    map.advise(.., folio::Advice::Random).unwrap();
    let mut byte = [0];
    for round in 0..3 {
        for n in 0..CHUNKS {
            map.read_at(&mut byte, n << 21).unwrap();
            assert_eq!(byte[0], n as u8, "round {round}");
        }
        map.advise(.., folio::Advice::Cold).unwrap();
    }
    let stats = pager.stats().unwrap();
    assert_eq!((stats.hashes_refused, stats.hash_refusal), (0, None), "{stats:?}");
    // The hashes of all these pages take as much as the budget.
    assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
    first_changed.store(500 << 21, Ordering::SeqCst);
    for n in 0..CHUNKS {
        match map.read_at(&mut byte, n << 21) {
            Ok(()) => assert!(n < 500 && byte[0] == n as u8, "page of chunk {n}"),
            Err(error) => {
                assert!(n >= 500, "{error}");
                assert_eq!(error.fault().unwrap().cause(), folio::FaultCause::Changed, "{error}");
            }
        }
    }
}
