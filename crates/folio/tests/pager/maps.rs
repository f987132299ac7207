//! The bytes that maps show, and the fate of stores to them.

use crate::common::effort::scaled;
use crate::common::{End, disk_dir, in_child};
use crate::given::{MIB, is_all, pager, pattern, skip_in_first_way};
use folio::source::{Function, LocalFile, Memory, WritableMemory, Zeros};
use folio::{Advice, FaultCause, WriteBack};
use std::fs;
use std::sync::Arc;

#[test]
fn a_map_of_a_file_shows_its_bytes() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let bytes = pattern(3 * MIB + 777);
    fs::write(&path, &bytes).unwrap();
    let map = pager(64 * MIB).map(LocalFile::open(&path).unwrap()).unwrap();
    assert!(map[..] == bytes[..]);
}

#[test]
fn a_file_sixteen_times_the_budget_is_read_whole_and_at_random() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let bytes = pattern(64 * MIB);
    fs::write(&path, &bytes).unwrap();
    let pager = pager(4 * MIB);
    let map = pager.map(LocalFile::open(&path).unwrap()).unwrap();
    assert!(map[..] == bytes[..]);
    let mut at = 1_usize;
    for _ in 0..scaled(20_000) {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let n = (at >> 20) % bytes.len();
        assert_eq!(map[n], bytes[n], "byte {n}");
    }
    let stats = pager.stats().unwrap();
    assert!(stats.resident_bytes <= 4 << 20, "{stats:?}");
    assert!(stats.pages_evicted > 10_000, "{stats:?}");
}

#[test]
fn memory_zeros_and_functions_are_sources() {
    let pager = pager(16 * MIB);
    let bytes = pattern(5 * MIB + 1);
    assert!(pager.map(Memory::from(bytes.clone())).unwrap()[..] == bytes[..]);
    assert!(is_all(&pager.map(Zeros::new(3 << 20)).unwrap(), 0));
    let squares = Function::new("offsets", 1 << 20, |offset, buffer: &mut [u8]| {
        for (n, byte) in (offset..).zip(buffer) {
            *byte = (n * n) as u8;
        }
        Ok(())
    });
    let map = pager.map(squares).unwrap();
    assert!(map.iter().enumerate().all(|(n, &byte)| byte == (n * n) as u8));
}

#[test]
fn stores_reach_the_file_by_sync_and_by_drop() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let mut bytes = pattern(2 * MIB + 100);
    fs::write(&path, &bytes).unwrap();
    let pager = pager(16 * MIB);
    let mut map = pager.map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    for n in (0..bytes.len()).step_by(5_000) {
        (map[n], bytes[n]) = (!bytes[n], !bytes[n]);
    }
    map.sync(.., WriteBack::Wait).unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
    let last = bytes.len() - 1;
    (map[last], bytes[last]) = (42, 42);
    drop(map);
    assert!(fs::read(&path).unwrap() == bytes, "the length too is what it was");
}

#[test]
fn more_is_stored_than_the_budget_holds_and_nothing_is_lost() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![0; 64 * MIB]).unwrap();
    let pager = pager(4 * MIB);
    let mut map = pager.map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    for page in 0..16_384_u64 {
        let at = (page * 7_919 % 16_384) as usize * 4096;
        map[at..at + 8].copy_from_slice(&(page + 1).to_ne_bytes());
    }
    map.close().unwrap();
    let bytes = fs::read(&path).unwrap();
    for page in 0..16_384_u64 {
        let at = (page * 7_919 % 16_384) as usize * 4096;
        assert_eq!(bytes[at..at + 8], (page + 1).to_ne_bytes(), "page {}", at / 4096);
    }
}

#[test]
fn private_stores_never_reach_the_source_and_survive_eviction() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let bytes = pattern(32 * MIB);
    fs::write(&path, &bytes).unwrap();
    let pager = pager(4 * MIB);
    let mut map = pager.map_private(LocalFile::open(&path).unwrap()).unwrap();
    for at in (0..bytes.len()).step_by(4096) {
        map[at] = 99;
    }
    for at in (0..bytes.len()).step_by(4096) {
        assert_eq!((map[at], map[at + 1]), (99, bytes[at + 1]), "page {}", at / 4096);
    }
    assert!(pager.stats().unwrap().pages_spilled > 0);
    drop(map);
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn shared_handles_see_each_others_stores() {
    let pager = pager(16 * MIB);
    let source = Arc::new(WritableMemory::new(vec![1; 3 * MIB]));
    let one = pager.map_shared(Arc::clone(&source)).unwrap();
    let two = pager.map_shared(Arc::clone(&source)).unwrap();
    one.view().unwrap().set(2 * MIB, 7);
    assert_eq!(two.view().unwrap().get(2 * MIB), Some(7));
    one.sync(.., WriteBack::Wait).unwrap();
    assert_eq!(source.contents()[2 * MIB], 7);
}

#[test]
fn a_source_has_many_readers_or_one_writer() {
    let pager = pager(16 * MIB);
    let source = Arc::new(WritableMemory::new(vec![1; MIB]));
    let readers =
        (pager.map(Arc::clone(&source)).unwrap(), pager.map(Arc::clone(&source)).unwrap());
    let refused = pager.map_mut(Arc::clone(&source)).unwrap_err();
    assert!(refused.to_string().contains("mapped read-only"), "{refused}");
    drop(readers);
    let writer = pager.map_mut(Arc::clone(&source)).unwrap();
    let refused = pager.map(Arc::clone(&source)).unwrap_err();
    assert!(refused.to_string().contains("by one handle"), "{refused}");
    drop(writer);
    pager.map(source).unwrap();
}

#[test]
fn a_read_only_source_cannot_be_mapped_writable() {
    let refused = pager(16 * MIB).map_mut(Zeros::new(4096)).unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");
}

#[test]
fn a_source_that_fails_is_an_error_to_read_at_and_to_pin() {
    let fails = Function::new("fails", 1 << 20, |offset, buffer: &mut [u8]| {
        if offset >= 512 << 10 {
            return Err(std::io::Error::other("no more"));
        }
        buffer.fill(1);
        Ok(())
    });
    let map = pager(16 * MIB).map(fails).unwrap();
    let mut buffer = [0; 100];
    map.read_at(&mut buffer, 1_000).unwrap();
    assert_eq!(buffer, [1; 100]);
    let error = map.read_at(&mut buffer, 600 << 10).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::SourceFailed, "{error}");
    assert!(error.to_string().contains("no more"), "{error}");
    assert!(map.pin(..).is_err());
    map.read_at(&mut buffer, 2_000).unwrap();
}

#[test]
fn prefetched_pages_are_used_without_a_fault() {
    let pager = pager(64 * MIB);
    let map = pager.map(Memory::from(pattern(8 * MIB))).unwrap();
    map.advise(.., Advice::PopulateRead).unwrap();
    let before = pager.stats().unwrap().faults();
    assert_eq!(
        map.iter().map(|&byte| u64::from(byte)).sum::<u64>(),
        pattern(8 * MIB).iter().map(|&b| u64::from(b)).sum()
    );
    assert_eq!(pager.stats().unwrap().faults(), before);
}

#[test]
fn a_file_of_one_version_that_changes_is_an_error_for_pages_not_yet_read() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, pattern(8 * MIB)).unwrap();
    let map = pager(16 * MIB).map(LocalFile::open(&path).unwrap().one_version()).unwrap();
    assert_eq!(map[0], pattern(1)[0]);
    std::thread::sleep(std::time::Duration::from_millis(20));
    fs::write(&path, vec![9; 8 * MIB]).unwrap();
    let error = map.read_at(&mut [0; 10], 4 * MIB).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Changed, "{error}");
}

#[test]
fn a_map_grows_and_shrinks_with_its_file() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, [1; 5_000]).unwrap();
    let mut map = pager(16 * MIB).map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    map[4_999] = 2;
    map.resize(3 * MIB).unwrap();
    assert_eq!((map[4_998], map[4_999], map[5_000], map[3 * MIB - 1]), (1, 2, 0, 0));
    map[3 * MIB - 1] = 3;
    map.resize(4_000).unwrap();
    assert_eq!(map.len(), 4_000);
    map.resize(6_000).unwrap();
    assert_eq!((map[3_999], map[4_000], map[4_999]), (1, 0, 0));
    map.close().unwrap();
    let mut want = vec![1; 4_000];
    want.resize(6_000, 0);
    assert_eq!(fs::read(&path).unwrap(), want);
}

#[test]
fn many_threads_fault_on_one_map() {
    let bytes = Arc::new(pattern(32 * MIB));
    let map = pager(4 * MIB).map(Memory::from(bytes.to_vec())).unwrap();
    std::thread::scope(|scope| {
        for seed in 1..5_usize {
            let (map, bytes) = (&map, &bytes);
            scope.spawn(move || {
                let mut at = seed;
                for _ in 0..scaled(5_000) {
                    at = at
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    let n = (at >> 20) % bytes.len();
                    assert_eq!(map[n], bytes[n], "byte {n}");
                }
            });
        }
    });
}

#[test]
fn an_empty_source_is_an_empty_map() {
    let map = pager(16 * MIB).map(Memory::from(Vec::new())).unwrap();
    assert!(map.is_empty() && map[..].is_empty());
    assert!(map.read_at(&mut [0], 0).is_err());
}

#[test]
fn read_at_gives_the_bytes_before_the_page_that_failed() {
    let fails = Function::new("fails", 1 << 20, |offset, buffer: &mut [u8]| {
        if offset <= 40_960 && 40_960 < offset + buffer.len() as u64 {
            return Err(std::io::Error::other("a bad page"));
        }
        buffer.fill(5);
        Ok(())
    });
    let map = pager(16 * MIB).map(fails).unwrap();
    let mut buffer = vec![0; 100_000];
    let error = map.read_at(&mut buffer, 100).unwrap_err();
    assert_eq!(error.fault().unwrap().range().start, 40_960, "{error}");
    assert!(is_all(&buffer[..40_860], 5));
}

#[test]
fn a_recorded_working_set_is_prefetched_the_next_time() {
    let dir = disk_dir();
    let pager = pager(16 * MIB);
    let bytes = pattern(8 * MIB);
    let map = pager.map(Memory::from(bytes.clone())).unwrap();
    map.record(true).unwrap();
    let used = [5 * MIB, 3, 7 * MIB + 9];
    assert!(used.iter().all(|&at| map[at] == bytes[at]));
    map.recorded().unwrap().save(dir.path().join("set")).unwrap();
    drop(map);
    let map = pager.map(Memory::from(bytes)).unwrap();
    let set = folio::WorkingSet::load(dir.path().join("set")).unwrap();
    assert_eq!(
        set.ranges().iter().map(|range| range.start / 4096).collect::<Vec<_>>(),
        used.map(|at| at / 4096)
    );
    map.prefetch(set.ranges()).unwrap();
    for range in set.ranges() {
        drop(map.pin(range.clone()).unwrap());
    }
    let before = pager.stats().unwrap().faults();
    assert!(used.iter().all(|&at| map[at] == map[at]));
    assert_eq!(pager.stats().unwrap().faults(), before);
}

#[test]
fn a_lower_budget_is_kept_soon() {
    let pager = pager(32 * MIB);
    let map = pager.map(Memory::from(pattern(16 * MIB))).unwrap();
    map.advise(.., Advice::PopulateRead).unwrap();
    assert!(pager.stats().unwrap().resident_bytes >= 16 << 20);
    pager.set_budget(4 * MIB).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while pager.stats().unwrap().resident_bytes > 4 << 20 {
        assert!(std::time::Instant::now() < deadline, "{:?}", pager.stats());
        drop(map.pin(..1).unwrap());
    }
    assert!(map[..] == pattern(16 * MIB)[..]);
}

#[test]
fn a_cut_between_two_pages_keeps_earlier_stores() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, vec![1; 50 * 4096]).unwrap();
    let mut map = pager(16 * MIB).map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    map.fill(2);
    map.resize(40 * 4096).unwrap();
    assert!(is_all(&map, 2));
    map.close().unwrap();
    assert!(fs::read(&path).unwrap() == vec![2; 40 * 4096]);
}

#[test]
fn a_file_that_another_cuts_does_not_grow_again_by_earlier_stores() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, pattern(MIB)).unwrap();
    let mut map = pager(16 * MIB).map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
    map[MIB - 1] = 0;
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(8_192).unwrap();
    let error = map.sync(.., WriteBack::Wait).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Changed, "{error}");
    drop(map);
    assert_eq!(fs::metadata(&path).unwrap().len(), 8_192);
}

#[test]
fn a_load_behind_the_last_page_ends_the_process_with_sigbus() {
    let end = in_child(|| {
        let map = pager(16 * MIB).map(Memory::from(pattern(5_000))).unwrap();
        let behind = map.as_ptr().wrapping_add(2 * 4096);
        // SAFETY: there is no such byte, and the map's own addresses reach so far: the load does
        // not return.
        std::hint::black_box(unsafe { behind.read_volatile() });
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn pages_in_prefetch_when_a_map_was_cut_never_come_back() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let pager = pager(16 * MIB);
    for round in 0..10 {
        fs::write(&path, vec![9; 24 * MIB]).unwrap();
        let mut map = pager.map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
        map.prefetch(std::slice::from_ref(&(0..map.len()))).unwrap();
        map.resize(MIB + round * 4_096).unwrap();
        map.resize(24 * MIB).unwrap();
        let wrong = map[MIB + round * 4_096..].iter().step_by(512).position(|&byte| byte != 0);
        assert_eq!(wrong, None, "round {round}");
    }
}

#[test]
fn locked_pages_leave_and_come_back_as_they_were() {
    let page = rustix::param::page_size();
    let bytes = pattern(64 * page);
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, &bytes).unwrap();
    let pager = pager(4 * MIB);
    let map = pager.map(LocalFile::open(&path).unwrap()).unwrap();
    let mut written = pager.map_private(LocalFile::open(&path).unwrap()).unwrap();
    written[5 * page] = 77;
    for _ in 0..3 {
        map.prefetch(&[0..16 * page, 16 * page..20 * page]).unwrap();
        assert!(
            map[..] == bytes[..]
                && written[5 * page] == 77
                && written[9 * page..] == bytes[9 * page..]
        );
        for start in [map.as_ptr(), written.as_ptr()] {
            // SAFETY: pages of the maps; locking changes no byte.
            let locked = unsafe { libc::mlock(start.add(8 * page).cast(), page) };
            if locked != 0 {
                return skip_in_first_way("memory cannot be locked");
            }
        }
        map.advise(.., Advice::Cold).unwrap();
        written.advise(.., Advice::Cold).unwrap();
    }
    assert!(
        map[..] == bytes[..] && written[5 * page] == 77 && written[6 * page..] == bytes[6 * page..]
    );
}

#[test]
fn a_page_past_the_end_that_was_asked_for_is_there_once_the_map_has_grown() {
    let page = rustix::param::page_size();
    let pager = pager(4 * MIB);
    let mut map = pager.map_mut(WritableMemory::new(vec![1; page])).unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    std::io::Write::write_all(&mut writer, b"x").unwrap();
    // SAFETY: the kernel tries to store to a page past the end of the map, inside its own
    // addresses.
    let got = unsafe {
        libc::read(std::os::fd::AsRawFd::as_raw_fd(&reader), map.as_mut_ptr().add(page).cast(), 1)
    };
    assert_eq!(got, -1, "the page is past the end");
    map.resize(3 * page).unwrap();
    assert!(is_all(&map[page..], 0));
    map[page] = 5;
    // And when it is cut and grows again.
    map.resize(page).unwrap();
    map.resize(2 * page).unwrap();
    assert_eq!(map[page], 0);
    let mut left = [0];
    std::io::Read::read(&mut reader, &mut left).unwrap();
}
