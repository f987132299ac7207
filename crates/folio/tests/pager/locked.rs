//! mlockall(2): pages of the pager's maps are right whenever the program locks its memory. Every
//! test is a child.

use crate::common::{become_nobody, child_succeeds, is_root, lower_limit, skip};
use crate::given::{MIB, is_all, pager, pattern};
use folio::source::{Function, Memory, WritableMemory};
use folio::{Pager, WriteBack};
use std::sync::Arc;

fn fives(len: usize) -> Function {
    Function::new("fives", len as u64, |_, buffer: &mut [u8]| {
        buffer.fill(5);
        Ok(())
    })
}

/// Whether the machine lets this process lock its future maps.
fn lock_future(flags: i32) -> bool {
    // SAFETY: locking changes no byte.
    unsafe { libc::mlockall(flags) == 0 }
}

/// As [`lock_future`], where this test's own memory may be locked as well.
fn lock_all(flags: i32) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    (is_root() || limit.is_none()) && lock_future(flags)
}

/// Maps of every kind, four times as long as the budget, hold the right bytes, and stores reach the
/// source.
fn maps_are_right(pager: &Pager) {
    let len = 16 * MIB;
    let map = pager.map(fives(len)).unwrap();
    let mut private = pager.map_private(fives(len)).unwrap();
    let shared = pager.map_shared(WritableMemory::new(vec![5; len])).unwrap();
    let source = Arc::new(WritableMemory::new(vec![5; len]));
    let mut written = pager.map_mut(Arc::clone(&source)).unwrap();
    for round in 0..2 {
        assert!(is_all(&map, 5), "read-only, round {round}");
        for at in (0..len).step_by(4096) {
            private[at] = 6;
            written[at + 1] = 7;
        }
        for at in (0..len).step_by(4096) {
            assert_eq!((private[at], private[at + 1]), (6, 5), "private, round {round}, byte {at}");
            assert_eq!(
                (written[at], written[at + 1]),
                (5, 7),
                "writable, round {round}, byte {at}"
            );
        }
        let mut bytes = vec![0; len];
        shared.read_at(&mut bytes, 0).unwrap();
        assert!(is_all(&bytes, 5), "shared, round {round}");
    }
    written.sync(.., WriteBack::Wait).unwrap();
    drop(written);
    let again = pager.map(source).unwrap();
    assert!((0..len).step_by(4096).all(|at| (again[at], again[at + 1]) == (5, 7)));
    let stats = pager.stats().unwrap();
    assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
}

fn with_every_delivery(flags: i32) {
    for delivery in ["uffd", "signal"] {
        child_succeeds(|| {
            let Ok(early) = Pager::builder().budget(4 * MIB).delivery(delivery).build() else {
                return skip("this delivery is not here");
            };
            if !lock_all(flags) {
                return skip("memory cannot be locked");
            }
            maps_are_right(&early);
            let late = Pager::builder().budget(4 * MIB).delivery(delivery).build().unwrap();
            maps_are_right(&late);
        });
    }
}

#[test]
fn maps_are_right_where_all_new_memory_is_locked() {
    with_every_delivery(libc::MCL_FUTURE);
}

#[test]
fn maps_are_right_where_new_memory_is_locked_when_it_is_used() {
    with_every_delivery(libc::MCL_FUTURE | libc::MCL_ONFAULT);
}

#[test]
fn maps_are_right_without_the_move_of_pages_where_new_memory_is_locked() {
    child_succeeds(|| {
        if !lock_all(libc::MCL_FUTURE) {
            return skip("memory cannot be locked");
        }
        maps_are_right(&Pager::builder().budget(4 * MIB).features("-move").build().unwrap());
    });
}

#[test]
fn maps_stay_right_when_the_program_locks_its_memory_later() {
    for flags in [libc::MCL_CURRENT, libc::MCL_CURRENT | libc::MCL_FUTURE] {
        child_succeeds(|| {
            let pager = pager(4 * MIB);
            let bytes = pattern(2 * MIB);
            let map = pager.map(Memory::from(bytes.clone())).unwrap();
            let mut private = pager.map_private(Memory::from(bytes.clone())).unwrap();
            let shared = pager.map_shared(WritableMemory::new(bytes.clone())).unwrap();
            private[10] = 200;
            assert!(map[..MIB] == bytes[..MIB]);
            if !lock_all(flags) {
                return skip("memory cannot be locked");
            }
            let mut expected = bytes.clone();
            expected[10] = 200;
            for _ in 0..2 {
                assert!(map[..] == bytes[..] && private[..] == expected[..]);
                let mut read = vec![0; bytes.len()];
                shared.read_at(&mut read, 0).unwrap();
                assert!(read == bytes);
            }
            maps_are_right(&pager);
        });
    }
}

#[test]
fn a_user_with_a_low_lock_limit_gets_the_right_bytes_or_an_error() {
    child_succeeds(|| {
        let pager = pager(4 * MIB);
        // Starts the threads: each has a stack of more than may be locked.
        assert_eq!(pager.map(fives(10)).unwrap()[0], 5);
        become_nobody();
        lower_limit(libc::RLIMIT_MEMLOCK, MIB as u64);
        if !lock_future(libc::MCL_FUTURE) {
            return skip("memory cannot be locked");
        }
        match pager.map(Memory::from(pattern(64 << 10))) {
            Ok(map) => assert!(map[..] == pattern(64 << 10)[..]),
            Err(error) => panic!("the map needs no locked memory: {error}"),
        }
    });
}
