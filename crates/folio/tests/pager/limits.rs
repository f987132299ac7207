//! The budget, and other limits: resident pages, pinned pages, the cost of a map.

use crate::common::effort::scaled;
use crate::common::random::Random;
use crate::common::{child_succeeds, disk_dir};
use crate::given::{MIB, is_all, pager, pattern};
use folio::source::{Function, LocalFile, Memory, WritableMemory, Zeros};
use folio::{Advice, Errno, FaultCause, Pager, WriteBack};
use std::fs;
use std::sync::Arc;

/// Memory of this process that no file backs, in bytes. Pages of shared memory that are mapped
/// twice count once.
fn memory_in_use() -> usize {
    let field = |path: &str, name: &str| -> usize {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("/proc/self/status", "RssAnon:") + field("/proc/self/smaps_rollup", "Pss_Shmem:")) << 10
}

/// Threads' stacks, the allocator, the test's own memory.
const SLACK: usize = 6 * MIB;

/// Runs `work` in a process of its own with a pager of 8 MiB, and checks between its steps that the
/// pager keeps to that, by its own account and by the kernel's.
fn keeps_to_its_budget(work: impl FnOnce(&Pager, &dyn Fn())) {
    const BUDGET: usize = 8 * MIB;
    child_succeeds(|| {
        let pager = pager(BUDGET);
        let before = memory_in_use();
        let check = || {
            let stats = pager.stats().unwrap();
            assert!(stats.resident_bytes + stats.record_bytes <= BUDGET as u64, "{stats:?}");
            let grown = memory_in_use().saturating_sub(before);
            assert!(grown <= BUDGET + SLACK, "{grown} bytes more than before; {stats:?}");
        };
        work(&pager, &check);
        check();
        assert!(pager.stats().unwrap().pages_evicted > 0, "the budget was never needed");
    });
}

/// Bytes that cost nothing to hold.
fn made(len: usize) -> Function {
    Function::new("made", len as u64, |offset, buffer: &mut [u8]| {
        assert_eq!(offset % 8, 0);
        for (at, bytes) in (offset / 8..).zip(buffer.chunks_mut(8)) {
            bytes.fill(at as u8 | 1);
        }
        Ok(())
    })
}

#[test]
fn a_scan_keeps_to_the_budget() {
    keeps_to_its_budget(|pager, check| {
        let map = pager.map(made(64 * MIB)).unwrap();
        for (n, part) in map.chunks(MIB).enumerate() {
            assert!(part.iter().step_by(64).all(|&byte| byte & 1 == 1), "MiB {n}");
            check();
        }
    });
}

#[test]
fn random_loads_keep_to_the_budget() {
    keeps_to_its_budget(|pager, check| {
        let map = pager.map(made(256 * MIB)).unwrap();
        let mut random = Random(3);
        for step in 0..6_000 {
            let at = random.below(map.len());
            assert_eq!(map[at], (at >> 3) as u8 | 1, "byte {at}");
            if step % 200 == 0 {
                check();
            }
        }
    });
}

#[test]
fn stores_keep_to_the_budget() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let file = || LocalFile::create(&path, 64 << 20).unwrap();
    keeps_to_its_budget(|pager, check| {
        let mut map = pager.map_mut(file()).unwrap();
        for (n, part) in map.chunks_mut(MIB).enumerate() {
            part.fill(n as u8 + 1);
            check();
        }
        map.sync(.., WriteBack::Wait).unwrap();
    });
    let bytes = fs::read(&path).unwrap();
    assert!(bytes.chunks(MIB).enumerate().all(|(n, part)| is_all(part, n as u8 + 1)));
}

#[test]
fn private_stores_keep_to_the_budget() {
    keeps_to_its_budget(|pager, check| {
        let mut map = pager.map_private(Zeros::new(48 << 20)).unwrap();
        for (n, part) in map.chunks_mut(MIB).enumerate() {
            part.fill(n as u8 + 1);
            check();
        }
        assert!(
            map.chunks(MIB)
                .enumerate()
                .all(|(n, part)| part.iter().step_by(512).all(|&b| b == n as u8 + 1))
        );
    });
}

#[test]
fn shared_stores_keep_to_the_budget() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let file = || LocalFile::create(&path, 48 << 20).unwrap();
    keeps_to_its_budget(|pager, check| {
        let map = pager.map_shared(file()).unwrap();
        for n in 0..48 {
            map.view().unwrap().copy_from(&vec![n as u8 + 1; MIB], n * MIB).unwrap();
            check();
        }
    });
    let bytes = fs::read(&path).unwrap();
    let wrong = bytes
        .chunks(MIB)
        .enumerate()
        .find(|(n, part)| part.iter().any(|&byte| byte != *n as u8 + 1));
    // The child ended without a sync, so only those of its last stores are there that were written
    // back.
    assert!(wrong.is_none_or(|(n, _)| n >= 48 - 9), "MiB {:?}", wrong.map(|(n, _)| n));
}

#[test]
fn one_budget_is_for_all_maps_of_a_pager() {
    keeps_to_its_budget(|pager, check| {
        let maps: Vec<_> = (0..200).map(|_| pager.map(made(512 << 10)).unwrap()).collect();
        let mut random = Random(8);
        for round in 0..4 {
            for map in &maps {
                let range = random.range(map.len(), 100_000);
                let from = range.start;
                assert!(
                    map[range].iter().zip(from..).all(|(&byte, at)| byte == (at >> 3) as u8 | 1)
                );
            }
            check();
            // A prefetch of all is no way around it.
            maps[round].advise(.., Advice::WillNeed).unwrap();
        }
        for map in &maps {
            map.advise(.., Advice::WillNeed).unwrap();
        }
        check();
    });
}

#[test]
fn a_prefetch_of_more_than_the_budget_keeps_to_it() {
    keeps_to_its_budget(|pager, check| {
        let map = pager.map(made(64 * MIB)).unwrap();
        map.advise(.., Advice::WillNeed).unwrap();
        for _ in 0..20 {
            check();
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(map.iter().step_by(4_096).all(|&byte| byte & 1 == 1));
    });
}

#[test]
fn pins_beyond_three_quarters_of_the_budget_are_refused() {
    let pager = pager(16 * MIB);
    let map = pager.map(Memory::from(pattern(64 * MIB))).unwrap();
    let refused = |range| {
        let error = map.pin(range).unwrap_err();
        assert_eq!(error.fault().unwrap().cause(), FaultCause::NoMemory, "{error}");
    };
    refused(0..13 * MIB);
    let one = map.pin(..6 * MIB).unwrap();
    let two = map.pin(20 * MIB..25 * MIB).unwrap();
    assert_eq!(pager.stats().unwrap().pinned_bytes, 11 << 20);
    refused(40 * MIB..43 * MIB);
    assert!(one[..] == pattern(64 * MIB)[..6 * MIB]);
    // The rest of the budget serves all else.
    assert!(map[..] == pattern(64 * MIB)[..]);
    drop((one, two));
    assert_eq!(pager.stats().unwrap().pinned_bytes, 0);
    drop(map.pin(40 * MIB..51 * MIB).unwrap());
}

#[test]
fn a_page_that_is_pinned_twice_counts_once() {
    let pager = pager(16 * MIB);
    let map = pager.map(Memory::from(pattern(16 * MIB))).unwrap();
    let one = map.pin(..8 * MIB).unwrap();
    let two = map.pin(MIB..8 * MIB).unwrap();
    assert_eq!(pager.stats().unwrap().pinned_bytes, 8 << 20);
    drop(one);
    assert_eq!(pager.stats().unwrap().pinned_bytes, 7 << 20);
    assert!(two[..] == pattern(8 * MIB)[MIB..]);
}

#[test]
fn a_pinned_range_stays_when_all_else_is_evicted() {
    let pager = pager(4 * MIB);
    let map = pager.map(Memory::from(pattern(32 * MIB))).unwrap();
    let pinned = map.pin(5 * MIB..6 * MIB).unwrap();
    assert!(map[..] == pattern(32 * MIB)[..]);
    map.advise(.., Advice::Cold).unwrap();
    let resident = map.resident().unwrap();
    let of_it =
        |run: &std::ops::Range<usize>| run.end.min(6 * MIB).saturating_sub(run.start.max(5 * MIB));
    assert_eq!(resident.iter().map(of_it).sum::<usize>(), MIB, "{resident:?}");
    let before = pager.stats().unwrap().faults();
    assert!(pinned[..] == pattern(6 * MIB)[5 * MIB..]);
    assert_eq!(pager.stats().unwrap().faults(), before);
}

#[test]
fn a_tebibyte_of_zeros_costs_its_used_pages_only() {
    child_succeeds(|| {
        let pager = pager(64 * MIB);
        let before = memory_in_use();
        let map = pager.map(Zeros::new(1 << 40)).unwrap();
        let grown = memory_in_use().saturating_sub(before);
        assert!(grown < 64 * MIB, "{grown} bytes before any touch");
        let mut random = Random(1);
        for _ in 0..2_000 {
            assert_eq!(map[random.below(map.len())], 0);
        }
        assert_eq!(map[(1 << 40) - 1], 0);
        let stats = pager.stats().unwrap();
        assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
        let grown = memory_in_use().saturating_sub(before);
        assert!(grown < 64 * MIB + SLACK, "{grown} bytes after 2,000 loads");
    });
}

#[test]
fn hundreds_of_maps_live_in_one_pager() {
    let pager = pager(8 * MIB);
    let bytes = pattern(MIB);
    let count = scaled(400).max(100) as usize;
    let maps: Vec<_> = (0..count)
        .map(|n| pager.map(Memory::from(bytes[n..n + 50_000].to_vec())).unwrap())
        .collect();
    for _ in 0..2 {
        for (n, map) in maps.iter().enumerate() {
            assert!(map[..] == bytes[n..n + 50_000], "map {n}");
        }
    }
    for map in maps.into_iter().step_by(2) {
        drop(map);
    }
}

#[test]
fn maps_outlive_the_pager_they_were_made_by() {
    let source = Arc::new(WritableMemory::new(pattern(12 * MIB)));
    let pager = pager(4 * MIB);
    let mut map = pager.map_mut(Arc::clone(&source)).unwrap();
    let read = pager.map(Memory::from(pattern(12 * MIB))).unwrap();
    drop(pager);
    assert!(read[..] == pattern(12 * MIB)[..] && map[..] == pattern(12 * MIB)[..]);
    map[5] = 200;
    drop(read);
    map.advise(.., Advice::Cold).unwrap();
    assert_eq!(map[5], 200);
    drop(map);
    assert_eq!(source.contents()[5], 200);
}

#[test]
fn a_pagers_thread_ends_with_its_last_map() {
    child_succeeds(|| {
        let threads = || fs::read_dir("/proc/self/task").unwrap().count();
        let before = threads();
        for _ in 0..20 {
            let pager = pager(4 * MIB);
            let map = pager.map(Zeros::new(1 << 20)).unwrap();
            drop(pager);
            assert_eq!(map[5], 0);
        }
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while threads() > before {
            assert!(std::time::Instant::now() < end, "{} threads of {before} are left", threads());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
}

#[test]
fn pagers_that_are_gone_leave_no_memory_and_no_descriptor() {
    child_succeeds(|| {
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        let once = || {
            let pager = pager(4 * MIB);
            let map = pager.map(made(8 * MIB)).unwrap();
            let mut private = pager.map_private(Zeros::new(8 << 20)).unwrap();
            private.fill(1);
            assert_eq!(map[0] & private[0], 1);
        };
        let settled = |want: (usize, usize)| {
            let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while descriptors() > want.0 || memory_in_use() > want.1 {
                let now = (descriptors(), memory_in_use());
                assert!(
                    std::time::Instant::now() < end,
                    "{now:?} descriptors and bytes, {want:?} before"
                );
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        };
        let before = (descriptors(), memory_in_use());
        once();
        // Memory that is made once and stays.
        settled((before.0 + 2, before.1 + SLACK));
        let before = (descriptors(), memory_in_use());
        for _ in 0..15 {
            once();
        }
        settled((before.0, before.1 + SLACK));
    });
}

#[test]
fn the_programs_pager_is_one() {
    let pager = Pager::global().unwrap();
    assert!(std::ptr::eq(pager, Pager::global().unwrap()));
    assert_eq!(pager.budget(), 256 << 20);
    let map = pager.map(Memory::from(pattern(3 * MIB))).unwrap();
    assert!(map[..] == pattern(3 * MIB)[..]);
}

#[test]
fn a_budget_below_four_mebibytes_is_refused() {
    let error = Pager::builder().budget(4 * MIB - 1).build().unwrap_err();
    assert_eq!(error.errno(), Errno::INVAL, "{error}");
    let pager = pager(4 * MIB);
    assert_eq!(pager.set_budget(1).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(pager.budget(), 4 * MIB);
}

#[test]
fn ranges_outside_a_map_are_einval() {
    let mut map = pager(4 * MIB).map_mut(WritableMemory::new(vec![1; 10_000])).unwrap();
    let errors = [
        map.read_at(&mut [0; 2], 9_999).unwrap_err(),
        map.read_at(&mut [0; 2], usize::MAX).unwrap_err(),
        map.write_at(&[0; 2], 9_999).unwrap_err(),
        map.pin(..10_001).unwrap_err(),
        map.advise(10_001.., Advice::Cold).unwrap_err(),
        map.sync(..=10_000, WriteBack::Wait).unwrap_err(),
        map.prefetch(&[0..5, 9_000..10_001]).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.errno(), Errno::INVAL, "{error}");
    }
    assert_eq!(map[9_999], 1, "a refused write stores nothing");
}
