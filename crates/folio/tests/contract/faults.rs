//! Faults are errors: every cause is a real one (truncation, a full disk, a protection taken away),
//! and nothing else in the process may notice.

use crate::common::effort::scaled;
use crate::common::{
    End, Mounted, child_succeeds, disk_dir, file_with, in_child, lower_limit, memory_dir, page,
    pattern, skip, spawn_child, wait,
};
use folio::{Errno, Error, FaultCause, FileMap, FileMapMut, FileMapPrivate, MapOptions, Prot};
use std::fs::{File, OpenOptions};
use std::ops::Range;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn writable(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

#[track_caller]
fn assert_fault(error: &Error, range: Range<usize>, cause: FaultCause) {
    let fault = error.fault().unwrap_or_else(|| panic!("not a fault: {error}"));
    assert_eq!((fault.range(), fault.cause()), (range, cause), "{error}");
}

/// A map of eight pages of a file that has since been cut to three.
fn truncated(dir: &Path) -> (FileMap, File) {
    let path = file_with(dir, &pattern(8));
    let map = FileMap::open(&path).unwrap();
    let file = writable(&path);
    file.set_len(3 * page() as u64).unwrap();
    (map, file)
}

// Checked copies

#[test]
fn a_read_past_a_truncation_is_an_error_that_names_page_and_cause() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let error = map.read_at(&mut [0; 100], 5 * page() + 10).unwrap_err();
    assert_fault(&error, 5 * page() + 10..5 * page() + 110, FaultCause::PastEnd);
    assert_eq!(error.errno(), Errno::FAULT);
    let text = error.to_string();
    assert!(text.contains(dir.path().to_str().unwrap()), "{text}");
    assert!(text.contains("past the end of the file"), "{text}");
    assert_eq!(error.fault().unwrap().file_offset(), Some(5 * page() as u64 + 10));
    assert_eq!(std::io::Error::from(error).kind(), std::io::ErrorKind::UnexpectedEof);
}

#[test]
fn a_read_across_the_end_names_only_the_bytes_that_are_missing() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let error = map.read_at(&mut vec![0; 3 * page()], page()).unwrap_err();
    assert_fault(&error, 3 * page()..4 * page(), FaultCause::PastEnd);
}

#[test]
fn a_map_of_a_borrowed_descriptor_knows_the_cause_as_well() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let file = writable(&path);
    let map = FileMap::map(&file).unwrap();
    file.set_len(0).unwrap();
    assert_fault(&map.read::<u8>(7).unwrap_err(), 7..8, FaultCause::PastEnd);
}

#[test]
fn bytes_that_the_file_has_again_can_be_read_again() {
    let dir = disk_dir();
    let (map, file) = truncated(dir.path());
    map.read::<u64>(5 * page()).unwrap_err();
    file.set_len(8 * page() as u64).unwrap();
    assert_eq!(map.read::<u64>(5 * page()).unwrap(), 0, "a file grows by zeros");
    assert_eq!(map.read_vec(..page()).unwrap(), pattern(1));
}

#[test]
fn truncation_by_another_process_in_mid_read_is_an_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(64));
    let map = FileMap::open(&path).unwrap();
    let (mut started, start) = std::io::pipe().unwrap();
    let (pid, _pipe) = spawn_child(|| {
        std::io::Read::read_exact(&mut started, &mut [0]).unwrap();
        writable(&path).set_len(0).unwrap();
    });
    let (want, deadline) = (pattern(64), Instant::now() + Duration::from_secs(20));
    let mut reads = 0_u64;
    let error = loop {
        let mut buffer = vec![0; 64 * page()];
        match map.read_at(&mut buffer, 0) {
            Ok(()) => assert!(buffer == want, "a read that succeeds has the bytes"),
            Err(error) => break error,
        }
        if reads == 0 {
            std::io::Write::write_all(&mut &start, &[0]).unwrap();
        }
        reads += 1;
        assert!(Instant::now() < deadline, "the truncation was never seen");
    };
    assert_eq!(wait(pid), End::Exited(0));
    assert!(reads > 0, "the truncation came before the first read");
    assert_eq!(error.fault().unwrap().cause(), FaultCause::PastEnd);
}

#[test]
fn many_threads_can_fault_at_once() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let (start, want) = (Barrier::new(8), pattern(8));
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (map, start, want) = (&map, &start, &want);
            scope.spawn(move || {
                start.wait();
                for round in 0..scaled(2_000) as usize {
                    let gone = 3 + (thread + round) % 5;
                    assert!(map.read::<u64>(gone * page()).is_err());
                    let kept = (thread + round) % 3;
                    assert_eq!(
                        map.read_vec(kept * page()..kept * page() + 9).unwrap(),
                        want[kept * page()..][..9]
                    );
                }
            });
        }
    });
}

#[test]
fn a_write_after_the_protection_was_taken_away_is_an_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(3));
    let mut map = FileMapMut::open(&path).unwrap();
    map.protect(page()..2 * page(), Prot::READ).unwrap();
    assert_fault(
        &map.write_at(b"x", page()).unwrap_err(),
        page()..page() + 1,
        FaultCause::Protection,
    );
    map.read_at(&mut [0; 8], page()).unwrap();
    map.protect(page()..2 * page(), Prot::NONE).unwrap();
    assert_fault(&map.read::<u8>(page()).unwrap_err(), page()..page() + 1, FaultCause::Protection);
    map.write_at(b"x", 0).unwrap();
    assert_eq!(std::fs::read(&path).unwrap()[page()], pattern(3)[page()], "nothing was written");
}

#[test]
fn a_write_to_a_page_that_a_truncation_took_is_an_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let map = FileMapMut::open(&path).unwrap();
    writable(&path).set_len(1).unwrap();
    assert_fault(
        &map.write_at(b"late", page()).unwrap_err(),
        page()..page() + 4,
        FaultCause::PastEnd,
    );
    assert_eq!(
        std::fs::metadata(&path).unwrap().len(),
        1,
        "a write through a map never lengthens the file"
    );
}

#[test]
fn a_fault_on_the_callers_own_buffer_is_not_folios() {
    // The bytes to write are a page without backing; the map is in order. Nobody guards that page.
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    let map = FileMapMut::open(&path).unwrap();
    let (gone, file) = truncated(dir.path());
    file.set_len(0).unwrap();
    let end = in_child(|| {
        // SAFETY: none; the test tries an undefined access, in a child that it kills.
        let bytes = unsafe { std::slice::from_raw_parts(gone.as_ptr(), 8) };
        let _ = map.write_at(bytes, 0);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

// Guards

#[test]
fn a_guard_over_a_whole_file_gives_the_closures_result() {
    let dir = disk_dir();
    let map = FileMap::open(file_with(dir.path(), &pattern(4))).unwrap();
    let sum = map.guard(|view| view.bytes().map(u64::from).sum::<u64>()).unwrap();
    assert_eq!(sum, pattern(4).iter().map(|&byte| u64::from(byte)).sum::<u64>());
    let words = map.guard(|view| view.words().fold(0_u64, u64::wrapping_add)).unwrap();
    let want = pattern(4)
        .chunks_exact(8)
        .fold(0_u64, |sum, word| sum.wrapping_add(u64::from_ne_bytes(word.try_into().unwrap())));
    assert_eq!(words, want);
}

#[test]
fn a_guard_over_a_truncation_throws_the_result_away() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let mut seen = Vec::new();
    let error = map.guard(|view| seen = view.bytes().collect()).unwrap_err();
    assert_fault(&error, 3 * page()..4 * page(), FaultCause::PastEnd);
    assert_eq!(seen[..3 * page()], pattern(8)[..3 * page()]);
    assert!(
        seen[3 * page()..].iter().all(|&byte| byte == 0),
        "pages that cannot be supplied read as zero"
    );
}

#[test]
fn a_slice_guard_over_a_truncation_does_too() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    // SAFETY: nobody changes the file meanwhile; it was truncated before.
    let error =
        unsafe { map.guard_slice(|bytes| bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>()) }
            .unwrap_err();
    assert_fault(&error, 3 * page()..4 * page(), FaultCause::PastEnd);
}

#[test]
fn a_guard_over_a_part_fails_for_that_part_only() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    assert_eq!(map.guard_range(..3 * page(), |view| view.bytes().count()).unwrap(), 3 * page());
    let error = map.guard_range(4 * page() + 5..4 * page() + 9, |view| view.get(0)).unwrap_err();
    assert_fault(&error, 4 * page() + 5..4 * page() + 9, FaultCause::PastEnd);
}

#[test]
fn a_truncation_by_another_process_inside_a_guard_is_an_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(8));
    let map = FileMap::open(&path).unwrap();
    let result = map.guard(|view| {
        let first = view.get(7 * page());
        child_succeeds(|| writable(&path).set_len(0).unwrap());
        (first, view.get(7 * page()))
    });
    assert_fault(&result.unwrap_err(), 7 * page()..8 * page(), FaultCause::PastEnd);
}

#[test]
fn nested_guards_fail_each_for_its_own_bytes() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let mut inner = Vec::new();
    let outer = map.guard(|view| {
        inner.push(map.guard_range(..page(), |view| view.get(0)).map(|byte| byte.unwrap()));
        inner.push(map.guard_range(6 * page().., |view| view.get(0)).map(|byte| byte.unwrap()));
        // The page is replaced already: no fault happens, and this guard must fail all the same.
        inner.push(map.guard_range(6 * page().., |view| view.get(1)).map(|byte| byte.unwrap()));
        inner.push(map.guard_range(..page(), |view| view.get(0)).map(|byte| byte.unwrap()));
        view.len()
    });
    assert_eq!(*inner[0].as_ref().unwrap(), pattern(8)[0]);
    assert_fault(inner[1].as_ref().unwrap_err(), 6 * page()..7 * page(), FaultCause::PastEnd);
    assert_fault(inner[2].as_ref().unwrap_err(), 6 * page()..7 * page(), FaultCause::PastEnd);
    assert_eq!(*inner[3].as_ref().unwrap(), pattern(8)[0]);
    assert_fault(&outer.unwrap_err(), 6 * page()..7 * page(), FaultCause::PastEnd);
}

#[test]
fn guards_of_two_maps_do_not_mix() {
    let (one, two) = (disk_dir(), disk_dir());
    let (bad, _file) = truncated(one.path());
    let good = FileMap::open(file_with(two.path(), &pattern(2))).unwrap();
    let result = good.guard(|view| {
        let bad = bad.guard(|view| view.get(7 * page()));
        (view.get(0).unwrap(), bad.is_err())
    });
    assert_eq!(result.unwrap(), (pattern(2)[0], true));
}

#[test]
fn a_fault_of_another_thread_inside_a_guard_is_served_and_reported() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let result = map.guard(|view| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|thread| scope.spawn(move || view.get((3 + thread) * page()).unwrap()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        })
    });
    assert_fault(&result.unwrap_err(), 3 * page()..4 * page(), FaultCause::PastEnd);
}

#[test]
fn a_panic_in_a_guard_ends_the_guard() {
    let dir = disk_dir();
    let (map, file) = truncated(dir.path());
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = map.guard(|view| {
            view.get(5 * page());
            panic!("in the guard");
        });
    }));
    assert!(panic.is_err());
    file.set_len(8 * page() as u64).unwrap();
    assert_eq!(
        map.guard(|view| view.get(5 * page())).unwrap(),
        Some(0),
        "the file's page, not the guard's"
    );
    let area_of = |maps: &str| {
        maps.lines().filter(|line| line.contains(dir.path().to_str().unwrap())).count()
    };
    assert_eq!(
        area_of(&std::fs::read_to_string("/proc/self/maps").unwrap()),
        1,
        "the map is whole again"
    );
}

#[test]
fn when_the_last_guard_ends_the_map_shows_the_file_again() {
    let dir = disk_dir();
    let (map, file) = truncated(dir.path());
    map.guard(|view| view.bytes().map(u64::from).sum::<u64>()).unwrap_err();
    file.set_len(8 * page() as u64).unwrap();
    rustix::io::pwrite(&file, b"new", 6 * page() as u64).unwrap();
    assert_eq!(map.read::<[u8; 3]>(6 * page()).unwrap(), *b"new");
    assert_eq!(map.guard(|view| view.read::<[u8; 3]>(6 * page()).unwrap()).unwrap(), *b"new");
}

#[test]
fn own_changes_of_a_private_map_survive_a_failed_guard() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    let map = FileMapPrivate::open(&path).unwrap();
    map.write_at(b"mine", page()).unwrap();
    writable(&path).set_len(2 * page() as u64).unwrap();
    map.guard(|view| view.get(3 * page())).unwrap_err();
    assert_eq!(map.read::<[u8; 4]>(page()).unwrap(), *b"mine");
    assert_fault(
        &map.read::<u8>(3 * page()).unwrap_err(),
        3 * page()..3 * page() + 1,
        FaultCause::PastEnd,
    );
    writable(&path).set_len(4 * page() as u64).unwrap();
    map.write_at(b"again", 3 * page()).unwrap();
    assert_eq!(map.read::<[u8; 5]>(3 * page()).unwrap(), *b"again");
}

#[test]
fn stores_in_a_guard_reach_the_file_but_for_pages_that_it_lacks() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    let map = FileMapMut::open(&path).unwrap();
    writable(&path).set_len(page() as u64).unwrap();
    let result = map.guard_mut(|view| {
        assert!(view.set(0, b'!'));
        assert!(view.set(2 * page(), b'?'));
    });
    assert_fault(&result.unwrap_err(), 2 * page()..3 * page(), FaultCause::PastEnd);
    let file = std::fs::read(&path).unwrap();
    assert_eq!((file.len(), file[0]), (page(), b'!'));
}

#[test]
fn a_protected_page_in_a_guard_is_an_error_and_keeps_its_bytes() {
    let dir = disk_dir();
    let mut map = FileMapMut::open(file_with(dir.path(), &pattern(3))).unwrap();
    map.protect(page()..2 * page(), Prot::NONE).unwrap();
    let error = map.guard(|view| view.bytes().map(u64::from).sum::<u64>()).unwrap_err();
    assert_fault(&error, page()..2 * page(), FaultCause::Protection);
    map.protect(page()..2 * page(), Prot::READ).unwrap();
    assert_eq!(map.read_vec(..).unwrap(), pattern(3));
}

#[test]
fn more_pages_can_be_replaced_than_a_process_has_areas() {
    let dir = disk_dir();
    let pages = 200_000;
    let path = dir.path().join("big");
    let file = File::create_new(&path).unwrap();
    file.set_len((pages * page()) as u64).unwrap();
    let map = FileMap::open(&path).unwrap();
    file.set_len(page() as u64).unwrap();
    // Every other page, backwards, so that no two neighbours are replaced one after the other.
    let error = map
        .guard(|view| (1..pages).rev().step_by(2).filter_map(|at| view.get(at * page())).count())
        .unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::PastEnd);
    file.set_len((pages * page()) as u64).unwrap();
    map.guard(|view| (0..pages).filter_map(|at| view.get(at * page())).count()).unwrap();
}

#[test]
fn pages_replaced_along_with_others_can_still_be_read_and_written_checked() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(64));
    let mut map = FileMapMut::open(&path).unwrap();
    // Every other page faults, for its protection; the pages between are in order.
    for at in (0..64).step_by(2) {
        map.protect(at * page()..(at + 1) * page(), Prot::NONE).unwrap();
    }
    let result = map.guard(|view| {
        // Enough faults, and then long runs.
        assert_eq!((0..64).step_by(2).filter_map(|at| view.get(at * page())).count(), 32);
        for at in (1..64).step_by(2) {
            let range = at * page()..(at + 1) * page();
            assert!(map.read_vec(range.clone()).unwrap() == pattern(64)[range], "page {at}");
            map.write(at * page(), &(at as u32)).unwrap();
            assert!(map.read::<u8>((at - 1) * page()).is_err());
        }
    });
    assert_eq!(result.unwrap_err().fault().unwrap().range(), 0..page());
    map.protect(.., Prot::READ_WRITE).unwrap();
    for at in 0..64 {
        let want = if at % 2 == 1 {
            at as u32
        } else {
            u32::from_ne_bytes(pattern(64)[at * page()..][..4].try_into().unwrap())
        };
        assert_eq!(map.read::<u32>(at * page()).unwrap(), want, "page {at}");
    }
}

#[test]
fn a_sealed_map_refuses_guards_and_keeps_checked_copies() {
    child_succeeds(|| {
        let dir = disk_dir();
        let map = FileMap::open(file_with(dir.path(), &pattern(1))).unwrap();
        match map.seal() {
            Ok(map) => {
                assert_eq!(map.guard(|view| view.get(0)).unwrap_err().errno(), Errno::PERM);
                assert_eq!(map.read_vec(..).unwrap(), pattern(1));
            }
            Err(refused) => {
                assert_eq!(refused.error.errno(), Errno::NOSYS);
                refused.map.guard(|view| view.get(0)).unwrap();
            }
        }
    });
}

/// A guard that fails in a process that comes to a limit while the guard is open.
fn guard_at_a_limit(reach_it: impl FnOnce()) {
    let dir = disk_dir();
    let (map, file) = truncated(dir.path());
    let error = map
        .guard(|view| {
            reach_it();
            view.get(5 * page())
        })
        .unwrap_err();
    assert!(error.fault().is_some(), "{error}");
    // The map was given up as a whole, and says so to everyone.
    file.set_len(8 * page() as u64).unwrap();
    assert!(map.read::<u8>(0).is_err());
    assert!(map.guard(|view| view.get(0)).is_err());
    drop(map);
    assert_eq!(
        FileMap::open(dir.path().join("file")).unwrap().read_vec(..page()).unwrap(),
        pattern(1)
    );
}

#[test]
fn a_guard_at_the_limit_of_address_space_is_an_error() {
    child_succeeds(|| {
        guard_at_a_limit(|| {
            let status = std::fs::read_to_string("/proc/self/statm").unwrap();
            let used: usize = status.split(' ').next().unwrap().parse().unwrap();
            lower_limit(libc::RLIMIT_AS, ((used + 4) * page()) as u64);
        });
    });
}

#[test]
fn a_guard_at_the_limit_of_areas_is_an_error() {
    child_succeeds(|| {
        guard_at_a_limit(|| {
            // Every other page of a region protected: two areas more each time, until there are no
            // more.
            let mut areas =
                folio::Reservation::new(1 << 30).map(std::mem::ManuallyDrop::new).unwrap();
            let base = areas.as_ptr() as usize;
            let _ = &mut areas;
            for at in (base..base + (1 << 30)).step_by(2 * page()) {
                // SAFETY: nothing is mapped there but the reservation, and nobody uses it.
                if unsafe { libc::mprotect(at as *mut libc::c_void, page(), libc::PROT_READ) } != 0
                {
                    return;
                }
            }
            panic!("the limit was never reached");
        });
    });
}

#[test]
fn at_the_limit_of_areas_no_zero_page_is_left_behind() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(8));
        let map = FileMapMut::open(&path).unwrap();
        writable(&path).set_len(2 * page() as u64).unwrap();
        let areas = std::mem::ManuallyDrop::new(folio::Reservation::new(1 << 30).unwrap());
        let base = areas.as_ptr() as usize;
        let protect = |at: usize, rights| {
            // SAFETY: nothing is mapped there but the reservation, and nobody uses it.
            unsafe { libc::mprotect(at as *mut libc::c_void, page(), rights) == 0 }
        };
        let every_other = || (base..base + (1 << 30)).step_by(2 * page());
        let result = map.guard(|view| {
            (2..5).for_each(|at| assert_eq!(view.get(at * page()), Some(0)));
            writable(&path).set_len(8 * page() as u64).unwrap();
            assert!(
                !every_other().all(|at| protect(at, libc::PROT_READ)),
                "the limit was never reached"
            );
        });
        assert!(result.is_err());
        assert!(every_other().filter(|&at| protect(at, libc::PROT_NONE)).count() > 0);
        rustix::io::pwrite(writable(&path), &pattern(8), 0).unwrap();
        for at in 0..8 {
            if let Ok(byte) = map.read::<u8>(at * page()) {
                assert_eq!(byte, pattern(8)[at * page()], "page {at} shows a guard's zeros");
            }
            if map.write_at(&[1], at * page()).is_ok() {
                assert_eq!(
                    std::fs::read(&path).unwrap()[at * page()],
                    1,
                    "a write to page {at} was lost"
                );
            }
        }
    });
}

#[test]
fn a_guard_without_addresses_for_its_bookkeeping_still_replaces_pages() {
    child_succeeds(|| {
        let dir = disk_dir();
        let path = dir.path().join("large");
        let file = File::create_new(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        let map = FileMap::open(&path).unwrap();
        file.set_len(page() as u64).unwrap();
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        let used: usize = status.split(' ').next().unwrap().parse::<usize>().unwrap() * page();
        // Room for the spare of the guard, and not for the shadow.
        lower_limit(libc::RLIMIT_AS, (used + (1 << 30) + (256 << 20)) as u64);
        assert!(map.guard(|view| view.get(1 << 20)).is_err());
        assert_eq!(map.read::<u8>(0).unwrap(), 0, "pages that are in order stay");
    });
}

#[test]
fn many_threads_can_be_in_guards_over_the_same_missing_pages() {
    let dir = disk_dir();
    let path = dir.path().join("wide");
    let file = File::create_new(&path).unwrap();
    let pages = 4_000;
    file.set_len((pages * page()) as u64).unwrap();
    let map = FileMap::open(&path).unwrap();
    file.set_len(page() as u64).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..64 {
            scope.spawn(|| {
                assert!(
                    map.guard(|view| (0..pages).filter_map(|at| view.get(at * page())).count())
                        .is_err()
                );
            });
        }
    });
}

#[test]
fn a_child_can_guard_a_map_that_another_thread_guards_in_the_parent() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let (entered, leave) = (Barrier::new(2), Barrier::new(2));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = map.guard(|view| {
                view.get(6 * page());
                entered.wait();
                leave.wait();
            });
        });
        entered.wait();
        child_succeeds(|| {
            assert!(map.guard(|view| view.get(5 * page())).is_err());
            assert!(map.read::<u8>(6 * page()).is_err());
            assert_eq!(map.read_vec(..page()).unwrap(), pattern(1));
        });
        leave.wait();
    });
}

#[test]
fn a_child_forked_inside_a_guard_is_inside_it_too() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let result = map.guard(|view| child_succeeds(|| assert_eq!(view.get(5 * page()), Some(0))));
    assert_eq!(result.map_err(|error| error.to_string()), Ok(()), "the child's pages are its own");
}

// Checked copies beside guards

#[test]
fn pages_in_order_can_be_read_while_runs_are_replaced_around_them() {
    let dir = disk_dir();
    let pages = 2_048;
    let mut map = FileMapMut::create(dir.path().join("mixed"), (pages * page()) as u64).unwrap();
    for at in (0..pages).step_by(64) {
        map.protect(at * page()..(at + 1) * page(), Prot::NONE).unwrap();
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..40 {
                let result = map.guard(|view| {
                    (0..pages).step_by(64).filter_map(|at| view.get(at * page())).count()
                });
                assert!(result.is_err());
            }
            stop.store(true, Ordering::Relaxed);
        });
        let mut at = 0;
        while !stop.load(Ordering::Relaxed) {
            at = (at + 37) % pages;
            if at % 64 != 0 {
                map.read::<u64>(at * page()).unwrap();
            }
        }
    });
}

#[test]
fn a_checked_copy_never_returns_the_zeros_of_a_guard() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let result = map.guard(|view| {
        assert_eq!(view.get(5 * page()), Some(0));
        std::thread::scope(|scope| {
            scope
                .spawn(|| {
                    assert_fault(
                        &map.read::<u32>(5 * page()).unwrap_err(),
                        5 * page()..5 * page() + 4,
                        FaultCause::PastEnd,
                    );
                    assert_eq!(
                        map.read_vec(page()..page() + 9).unwrap(),
                        pattern(8)[page()..page() + 9]
                    );
                })
                .join()
                .unwrap();
        });
    });
    assert!(result.is_err());
}

#[test]
fn checked_copies_and_failing_guards_can_run_side_by_side() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(8));
    let map = FileMapMut::open(&path).unwrap();
    writable(&path).set_len(3 * page() as u64).unwrap();
    let (stop, guards) = (AtomicBool::new(false), AtomicU64::new(0));
    let want = pattern(8);
    std::thread::scope(|scope| {
        for thread in 0..2 {
            let (map, stop, guards) = (&map, &stop, &guards);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let gone = 3 + thread;
                    assert!(map.guard(|view| view.get(gone * page())).is_err());
                    guards.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for thread in 0..2 {
            let (map, stop, guards, want) = (&map, &stop, &guards, &want);
            scope.spawn(move || {
                let mut buffer = vec![0; 600];
                let mut round = thread;
                while guards.load(Ordering::Relaxed) < scaled(3_000) {
                    round += 1;
                    let at = round * 37 % (3 * page() - 600);
                    map.read_at(&mut buffer, at).unwrap();
                    assert!(buffer == want[at..at + 600], "bytes of another moment");
                    map.write_at(&want[at..at + 600], at).unwrap();
                    assert!(
                        map.read_at(&mut buffer, (3 + round % 5) * page()).is_err(),
                        "a guard's zeros were read"
                    );
                    assert!(
                        map.write_at(&buffer, (3 + round % 5) * page()).is_err(),
                        "a write was lost"
                    );
                }
                stop.store(true, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(std::fs::read(&path).unwrap(), want[..3 * page()]);
}

// Space

#[test]
fn on_a_full_file_system_reserve_is_an_error_at_creation() {
    let Some(full) = Mounted::tmpfs("size=64k") else { return skip("needs the right to mount") };
    let path = full.path().join("sparse");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let error = MapOptions::new().preallocate().map_mut(&file).unwrap_err();
    assert_eq!(error.errno(), Errno::NOSPC, "{error}");
    assert!(error.to_string().contains("no room for the 1048576 bytes"), "{error}");
    assert_eq!(file.metadata().unwrap().len(), 1 << 20, "size and bytes stay");
}

#[test]
fn on_a_full_file_system_a_write_without_reserve_is_an_error() {
    let Some(full) = Mounted::tmpfs("size=64k") else { return skip("needs the right to mount") };
    let path = full.path().join("sparse");
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(1 << 20).unwrap();
    let map = FileMapMut::map(&file).unwrap();
    let error = (0..256).find_map(|at| map.write_at(b"x", at * 4096).err()).unwrap();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::NoBacking, "{error}");
    assert!(error.to_string().contains("`reserve`"), "{error}");
    let guard = map.guard_mut(|view| (0..256).filter(|at| view.set(at * 4096, 1)).count());
    assert_eq!(guard.unwrap_err().fault().unwrap().cause(), FaultCause::NoBacking);
}

#[test]
fn populating_a_full_file_system_is_an_error() {
    let Some(full) = Mounted::tmpfs("size=64k") else { return skip("needs the right to mount") };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(full.path().join("sparse"))
        .unwrap();
    file.set_len(1 << 20).unwrap();
    let error = MapOptions::new().populate().map_mut(&file).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::NoBacking, "{error}");
}

#[test]
fn faults_on_tmpfs_are_errors_as_on_disk() {
    let Some(dir) = memory_dir() else { return skip("needs /dev/shm") };
    let (map, _file) = truncated(dir.path());
    assert_fault(
        &map.read::<u8>(4 * page()).unwrap_err(),
        4 * page()..4 * page() + 1,
        FaultCause::PastEnd,
    );
    assert!(map.guard(|view| view.get(4 * page())).is_err());
}

// The cause of a fault

extern "C" fn exits_with_42(_: i32) {
    // SAFETY: ends the process at once, which a handler may.
    unsafe { libc::_exit(42) }
}

fn install(signal: i32, handler: extern "C" fn(i32)) {
    // SAFETY: the handler makes async-signal-safe calls only.
    unsafe { libc::signal(signal, handler as *const () as usize) };
}

/// Reads memory that nobody backs, outside folio.
fn foreign_fault(signal: i32) {
    let address: *const u8 = if signal == libc::SIGSEGV {
        std::ptr::without_provenance(8)
    } else {
        let (file, flags) = (tempfile::tempfile().unwrap(), folio::MapFlags::SHARED);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
        // SAFETY: a new map; only this function reads it.
        unsafe { folio::raw::mmap(std::ptr::null_mut(), page(), Prot::READ, flags, fd, 0) }.unwrap()
    };
    // SAFETY: none; the test tries an undefined access, in a child that it kills.
    std::hint::black_box(unsafe { address.read_volatile() });
}

#[test]
fn a_foreign_fault_inside_a_guard_goes_to_the_handler_that_was_there_before() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let end = in_child(|| {
            install(signal, exits_with_42);
            let dir = disk_dir();
            let map = FileMap::open(file_with(dir.path(), &pattern(1))).unwrap();
            let _ = map.guard(|_| foreign_fault(signal));
        });
        assert_eq!(end, End::Exited(42), "signal {signal}");
    }
}

#[test]
fn a_foreign_fault_without_any_handler_kills_the_process_as_ever() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let end = in_child(|| {
            // SAFETY: takes away the handler that Rust's own runtime installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            folio::faults::install();
            foreign_fault(signal);
        });
        assert_eq!(end, End::Killed(signal));
    }
}

#[test]
fn a_fault_in_a_map_of_folios_outside_every_guard_is_not_folios_to_hide() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let end = in_child(|| {
        map.guard(|view| view.get(5 * page())).unwrap_err();
        // SAFETY: none; the test tries an undefined access, in a child that it kills.
        std::hint::black_box(unsafe { map.as_ptr().add(5 * page()).read_volatile() });
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn a_signal_from_a_process_has_its_old_effect() {
    for signal in [libc::SIGSEGV, libc::SIGBUS] {
        let end = in_child(|| {
            // SAFETY: takes away the handler that Rust's own runtime installed.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
            folio::faults::install();
            // SAFETY: sends a signal to this process.
            unsafe { libc::kill(libc::getpid(), signal) };
            std::thread::sleep(Duration::from_secs(10));
        });
        assert_eq!(end, End::Killed(signal));
        let end = in_child(|| {
            install(signal, exits_with_42);
            folio::faults::install();
            // SAFETY: sends a signal to this process.
            unsafe { libc::kill(libc::getpid(), signal) };
            std::thread::sleep(Duration::from_secs(10));
        });
        assert_eq!(end, End::Exited(42));
    }
}

#[test]
fn a_sent_signal_that_was_ignored_is_ignored() {
    let end = in_child(|| {
        // SAFETY: ignores the signal.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_IGN) };
        folio::faults::install();
        // SAFETY: sends a signal to this process.
        unsafe { libc::kill(libc::getpid(), libc::SIGBUS) };
    });
    assert_eq!(end, End::Exited(0));
}

/// The handler that was installed when the program's own came, as a well-behaved program keeps it.
static CHAINED: AtomicU64 = AtomicU64::new(0);
static CALLED: AtomicU64 = AtomicU64::new(0);

extern "C" fn chains(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    CALLED.fetch_add(1, Ordering::Relaxed);
    let previous = CHAINED.load(Ordering::Relaxed) as usize;
    // SAFETY: the address is that of the SA_SIGINFO handler that was installed before.
    let previous: extern "C" fn(i32, *mut libc::siginfo_t, *mut libc::c_void) =
        unsafe { std::mem::transmute(previous) };
    previous(signal, info, context);
}

fn install_chaining(signal: i32) {
    // SAFETY: both structs are valid, and the handler has the signature that SA_SIGINFO asks for.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = chains as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO;
        let mut before: libc::sigaction = std::mem::zeroed();
        assert_eq!(libc::sigaction(signal, &raw const action, &raw mut before), 0);
        CHAINED.store(before.sa_sigaction as u64, Ordering::Relaxed);
    }
}

#[test]
fn a_handler_installed_later_that_passes_faults_on_changes_nothing() {
    child_succeeds(|| {
        folio::faults::install();
        install_chaining(libc::SIGBUS);
        let dir = disk_dir();
        let (map, _file) = truncated(dir.path());
        assert!(map.read::<u8>(4 * page()).is_err());
        let called = CALLED.load(Ordering::Relaxed);
        assert!(called > 0, "the later handler comes first");
        // A guard puts folio's handler back in front, and the two do not call each other for ever.
        assert!(map.guard(|view| view.get(4 * page())).is_err());
        assert!(map.read::<u8>(4 * page()).is_err());
        assert_eq!(CALLED.load(Ordering::Relaxed), called);
    });
}

#[test]
fn two_handlers_that_each_pass_on_to_the_other_end_at_the_default() {
    let end = in_child(|| {
        // SAFETY: takes away any handler.
        unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
        folio::faults::install();
        install_chaining(libc::SIGBUS);
        folio::faults::install();
        foreign_fault(libc::SIGBUS);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn the_next_guard_goes_in_front_of_a_later_handler_that_passes_nothing_on() {
    child_succeeds(|| {
        folio::faults::install();
        install(libc::SIGBUS, exits_with_42);
        let dir = disk_dir();
        let (map, _file) = truncated(dir.path());
        assert!(map.guard(|view| view.get(4 * page())).is_err());
        assert!(map.read::<u8>(4 * page()).is_err());
    });
    let end = in_child(|| {
        folio::faults::install();
        install(libc::SIGBUS, exits_with_42);
        folio::faults::install();
        foreign_fault(libc::SIGBUS);
    });
    assert_eq!(end, End::Exited(42), "foreign faults still reach it");
}

#[test]
fn a_stack_overflow_is_still_reported_by_rust() {
    #[expect(unconditional_recursion, reason = "it is to overflow the stack")]
    fn overflow(depth: u64) -> u64 {
        std::hint::black_box([depth; 64])[7] + overflow(depth + 1)
    }
    let end = in_child(|| {
        folio::faults::install();
        // The main thread's handler data does not survive in a test thread's child: a thread of its
        // own has them.
        std::thread::spawn(|| overflow(0)).join().unwrap();
    });
    assert_eq!(
        end,
        End::Killed(libc::SIGABRT),
        "Rust says \"has overflowed its stack\" and aborts"
    );
}

#[test]
fn errno_is_left_alone_by_a_fault() {
    let dir = disk_dir();
    let (map, _file) = truncated(dir.path());
    let (before, after) = map
        .guard_range(..page(), |_| {
            // SAFETY: this thread's own cell; then a bad call sets it.
            unsafe {
                libc::close(-1);
                let before = *libc::__errno_location();
                std::hint::black_box(map.as_ptr().add(4 * page()).read_volatile());
                (before, *libc::__errno_location())
            }
        })
        .unwrap();
    assert_eq!((before, after), (libc::EBADF, libc::EBADF));
}

// Arguments of the handler that was there before

extern "C" fn exits_with_its_mask(
    signal: i32,
    _info: *mut libc::siginfo_t,
    _context: *mut libc::c_void,
) {
    // SAFETY: asks for this thread's mask, and ends the process at once.
    unsafe {
        let mut mask: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut mask);
        let has = |signal| libc::sigismember(&raw const mask, signal);
        libc::_exit(has(signal) | has(libc::SIGUSR1) << 1 | has(libc::SIGUSR2) << 2);
    }
}

#[test]
fn an_earlier_handler_runs_with_the_mask_that_it_asked_for() {
    for folio_too in [false, true] {
        for (flags, expected) in [(0, 0b011), (libc::SA_NODEFER, 0b010)] {
            let end = in_child(|| {
                // SAFETY: the struct is valid, and the handler has the signature that SA_SIGINFO
                // asks for.
                unsafe {
                    let mut action: libc::sigaction = std::mem::zeroed();
                    action.sa_sigaction = exits_with_its_mask as *const () as usize;
                    action.sa_flags = libc::SA_SIGINFO | flags;
                    libc::sigaddset(&raw mut action.sa_mask, libc::SIGUSR1);
                    assert_eq!(
                        libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut()),
                        0
                    );
                }
                if folio_too {
                    folio::faults::install();
                }
                foreign_fault(libc::SIGSEGV);
            });
            assert_eq!(end, End::Exited(expected), "flags {flags:#x}, with folio: {folio_too}");
        }
    }
}

/// Where [`jumps_away`] goes on.
#[cfg(target_env = "gnu")]
static AWAY: AtomicU64 = AtomicU64::new(0);

/// Leaves as siglongjmp(3) does: it never returns to its caller.
#[cfg(target_env = "gnu")]
extern "C" fn jumps_away(_signal: i32) {
    CALLED.fetch_add(1, Ordering::Relaxed);
    // SAFETY: the context was saved by a call that has not returned yet, on another stack.
    unsafe { libc::setcontext(AWAY.load(Ordering::Relaxed) as *const libc::ucontext_t) };
}

#[cfg(target_env = "gnu")]
#[test]
fn a_handler_that_jumps_away_is_called_for_the_next_fault_as_well() {
    extern "C" fn faults() {
        foreign_fault(libc::SIGBUS);
    }
    for alternate_stack in [true, false] {
        child_succeeds(|| {
            install(libc::SIGBUS, exits_with_42);
            folio::faults::install();
            install(libc::SIGBUS, jumps_away);
            folio::faults::install();
            if !alternate_stack {
                // SAFETY: the thread is not on it.
                unsafe {
                    let mut none: libc::stack_t = std::mem::zeroed();
                    none.ss_flags = libc::SS_DISABLE;
                    assert_eq!(libc::sigaltstack(&raw const none, std::ptr::null_mut()), 0);
                }
            }
            // Each fault on a stack of its own, that lies below the last one.
            let size = 1 << 18;
            let mut stacks = vec![0_u8; 3 * size];
            for turn in 1..=3_u64 {
                // SAFETY: the stack is unused, and outlives the code that runs on it; `away`
                // outlives the jump to it.
                unsafe {
                    let mut away: libc::ucontext_t = std::mem::zeroed();
                    let mut faulting: libc::ucontext_t = std::mem::zeroed();
                    assert_eq!(libc::getcontext(&raw mut faulting), 0);
                    let stack = stacks.as_mut_ptr().add((3 - turn as usize) * size);
                    (faulting.uc_stack.ss_sp, faulting.uc_stack.ss_size) = (stack.cast(), size);
                    AWAY.store(&raw mut away as u64, Ordering::Relaxed);
                    libc::makecontext(&raw mut faulting, faults, 0);
                    assert_eq!(libc::swapcontext(&raw mut away, &raw const faulting), 0);
                }
                assert_eq!(CALLED.load(Ordering::Relaxed), turn);
            }
        });
    }
}
