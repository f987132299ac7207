//! One contract, two engines: the rules of mmap(2), munmap(2) and msync(2) about files, each held
//! against the kernel's maps and the pager's. The further features of the kernel engine (offsets,
//! protections, locks, huge page files, the raw door) are in `tests/contract/`.
//!
//! Where a rule leaves the engines a choice, the test names the rule that both must keep: a page
//! past a truncation may be the bytes that were there or an error, never zeros.

use crate::common::random::Random;
use crate::common::{
    End, FailingDisk, Mounted, child_succeeds, disk_dir, file_with, in_child, is_in_memory,
    memory_dir, page, pattern, skip,
};
use crate::engines::{Access, EVERY_ACCESS, Engine, Map, every_engine, every_kind};
use crate::given::{MIB, is_all};
use folio::{Advice, Errno, WriteBack};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

fn writable(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn map_at(engine: &Engine, path: &Path, access: Access) -> Box<dyn Map> {
    engine.map(writable(path), access).unwrap()
}

/// A raw access may end the process: in a child, without a core dump.
fn end_of(work: impl FnOnce()) -> End {
    in_child(|| {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: sets a limit of this child.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
        work();
    })
}

// The bytes that a map shows.

#[test]
fn a_map_shows_the_bytes_of_its_file() {
    let dir = disk_dir();
    let bytes = [pattern(700), vec![9; 77]].concat();
    let path = file_with(dir.path(), &bytes);
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let map = map_at(engine, &path, access);
            assert_eq!(map.len(), bytes.len());
            for at in [0, 1, page() - 1, page(), 300 * page() + 5, bytes.len() - 1] {
                assert_eq!(map.load(at), bytes[at], "byte {at}, {access:?}");
            }
            assert!(map.read_all() == bytes, "{access:?}");
        }
    });
}

#[test]
fn files_in_memory_are_files() {
    let Some(dir) = memory_dir() else { return skip("no /dev/shm") };
    let path = file_with(dir.path(), &pattern(5));
    every_engine(|engine| {
        fs::write(&path, pattern(5)).unwrap();
        let mut map = map_at(engine, &path, Access::Shared);
        assert_eq!(map.read_all(), pattern(5));
        map.store(page() + 1, 99);
        map.sync(0..map.len(), WriteBack::Wait).unwrap();
        assert_eq!(fs::read(&path).unwrap()[page() + 1], 99);
    });
}

#[test]
fn a_hole_reads_as_zeros_and_can_be_stored_to() {
    let dir = disk_dir();
    let path = dir.path().join("sparse");
    let len = 1_usize << 34;
    every_engine(|engine| {
        File::create(&path).unwrap().set_len(len as u64).unwrap();
        let mut map = map_at(engine, &path, Access::Shared);
        assert_eq!(
            (map.load(0), map.load(len - 1), map.read(len / 2..len / 2 + 3)),
            (0, 0, vec![0; 3])
        );
        map.store(len - 1, 7);
        map.write_at(&[8; 2], len / 2 - 1).unwrap();
        map.sync(0..len, WriteBack::Wait).unwrap();
        let mut bytes = [0; 4];
        File::open(&path).unwrap().read_exact_at(&mut bytes, len as u64 / 2 - 2).unwrap();
        assert_eq!(bytes, [0, 8, 8, 0]);
        File::open(&path).unwrap().read_exact_at(&mut bytes, len as u64 - 4).unwrap();
        assert_eq!(bytes, [0, 0, 0, 7]);
        assert!(fs::metadata(&path).unwrap().blocks() < 1_000, "the holes were filled");
    });
}

#[test]
fn the_rest_of_the_last_page_reads_as_zeros() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &vec![7; page() + 100]);
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let map = map_at(engine, &path, access);
            assert_eq!(
                (map.load(page() + 99), map.load(page() + 100), map.load(2 * page() - 1)),
                (7, 0, 0)
            );
        }
    });
}

#[test]
fn stores_to_the_rest_of_the_last_page_never_reach_the_file() {
    let dir = disk_dir();
    if is_in_memory(dir.path()) {
        return skip("the build lies on tmpfs, which keeps it");
    }
    every_engine(|engine| {
        let path = file_with(dir.path(), &[7; 100]);
        let mut map = map_at(engine, &path, Access::Shared);
        map.store(99, 1);
        map.store(200, 2);
        assert_eq!(map.load(200), 2, "it is memory while it is mapped");
        map.sync(0..100, WriteBack::Wait).unwrap();
        drop(map);
        assert_eq!(fs::read(&path).unwrap(), [vec![7; 99], vec![1]].concat());
        writable(&path).set_len(page() as u64).unwrap();
        assert!(is_all(&fs::read(&path).unwrap()[100..], 0));
    });
}

#[test]
fn a_load_beyond_the_last_page_ends_with_sigbus() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    every_kind(|engine| {
        for access in EVERY_ACCESS {
            let end = end_of(|| {
                // The kernel's map is longer than the file only if the file was cut.
                let map = map_at(&engine(), &path, access);
                if matches!(engine(), Engine::Kernel) {
                    writable(&path).set_len(page() as u64).unwrap();
                    std::hint::black_box(map.load(page()));
                }
                std::hint::black_box(map.load(2 * page()));
            });
            fs::write(&path, pattern(2)).unwrap();
            assert_eq!(end, End::Killed(libc::SIGBUS), "{access:?}");
        }
    });
}

// Which readers see a store.

#[test]
fn private_stores_never_reach_the_file() {
    let dir = disk_dir();
    let bytes = pattern(3_000);
    let path = file_with(dir.path(), &bytes);
    every_engine(|engine| {
        let mut map = engine.map(File::open(&path).unwrap(), Access::Private).unwrap();
        let mut random = Random(1);
        let mut want = bytes.clone();
        for _ in 0..2_000 {
            let at = random.below(want.len());
            want[at] = !want[at];
            map.store(at, want[at]);
        }
        map.write_at(&[3; 10_000], 5).unwrap();
        want[5..10_005].fill(3);
        map.sync(0..map.len(), WriteBack::Wait).unwrap();
        map.advise(0..map.len(), Advice::Cold).unwrap();
        assert!(map.read_all() == want);
        assert!(fs::read(&path).unwrap() == bytes);
        drop(map);
        assert!(fs::read(&path).unwrap() == bytes);
    });
}

#[test]
fn private_stores_are_seen_by_no_other_map() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    every_engine(|engine| {
        let mut one = map_at(engine, &path, Access::Private);
        let two = map_at(engine, &path, Access::Private);
        let read = map_at(engine, &path, Access::Read);
        one.store(page(), 200);
        assert_eq!(
            (one.load(page()), two.load(page()), read.load(page())),
            (200, pattern(4)[page()], pattern(4)[page()])
        );
    });
}

#[test]
fn a_private_page_that_was_stored_to_shows_no_later_change_of_the_file() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &vec![1; 2 * page()]);
        let mut map = map_at(engine, &path, Access::Private);
        map.store(1, 2);
        writable(&path).write_all_at(&[3; 100], 0).unwrap();
        assert_eq!(map.read(0..3), [1, 2, 1]);
        map.advise(0..page(), Advice::PageOut).unwrap();
        assert_eq!(map.read(0..3), [1, 2, 1]);
    });
}

#[test]
fn shared_stores_are_in_the_file_after_a_sync() {
    let dir = disk_dir();
    every_engine(|engine| {
        let mut want = pattern(2_500);
        let path = file_with(dir.path(), &want);
        let mut map = map_at(engine, &path, Access::Shared);
        let mut random = Random(2);
        for step in 0..1_500 {
            let at = random.below(want.len());
            want[at] = step as u8;
            map.store(at, step as u8);
        }
        map.write_at(b"across", page() - 3).unwrap();
        want[page() - 3..page() + 3].copy_from_slice(b"across");
        map.sync(0..want.len(), WriteBack::Wait).unwrap();
        assert!(fs::read(&path).unwrap() == want);
        // And a program that knows nothing of this one reads them.
        let cat = std::process::Command::new("cat").arg(&path).output().unwrap();
        assert!(cat.stdout == want);
    });
}

#[test]
fn a_sync_of_a_range_is_enough_for_it() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(20));
        let mut map = map_at(engine, &path, Access::Shared);
        (0..20).for_each(|n| map.store(n * page(), 250));
        map.sync(5 * page() + 1..6 * page() + 1, WriteBack::Wait).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes[5 * page()], bytes[6 * page()]), (250, 250));
    });
}

#[test]
fn a_sync_that_is_only_started_ends_by_itself() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(20));
        let mut map = map_at(engine, &path, Access::Shared);
        map.store(3, 77);
        map.sync(0..map.len(), WriteBack::Start).unwrap();
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while fs::read(&path).unwrap()[3] != 77 {
            assert!(std::time::Instant::now() < end, "it was never written");
            std::thread::sleep(Duration::from_millis(5));
        }
    });
}

#[test]
fn shared_stores_are_in_the_file_when_the_map_is_gone() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(4));
        let mut map = map_at(engine, &path, Access::Shared);
        map.store(page() + 7, 123);
        drop(map);
        assert_eq!(fs::read(&path).unwrap()[page() + 7], 123);
        // The next map shows them, by either engine.
        assert_eq!(map_at(engine, &path, Access::Read).load(page() + 7), 123);
    });
}

#[test]
fn shared_stores_are_seen_by_other_shared_maps_at_once() {
    let dir = disk_dir();
    every_engine(|engine| {
        if !engine.shares() {
            return;
        }
        let path = file_with(dir.path(), &pattern(600));
        let mut one = map_at(engine, &path, Access::Shared);
        let mut two = map_at(engine, &path, Access::Shared);
        for (n, at) in (0..one.len()).step_by(70_001).enumerate() {
            one.store(at, n as u8);
            assert_eq!(two.load(at), n as u8);
            two.write_at(&[n as u8 + 1], at).unwrap();
            assert_eq!(one.read(at..at + 1), [n as u8 + 1]);
        }
    });
}

#[test]
fn readers_in_many_threads_see_the_same_bytes() {
    let dir = disk_dir();
    let bytes = pattern(3_000);
    let path = file_with(dir.path(), &bytes);
    every_engine(|engine| {
        std::thread::scope(|scope| {
            for seed in 0..4 {
                let (bytes, path) = (&bytes, &path);
                scope.spawn(move || {
                    let map = map_at(engine, path, Access::Read);
                    let mut random = Random(seed);
                    for _ in 0..2_000 {
                        let at = random.below(bytes.len());
                        assert_eq!(map.load(at), bytes[at], "byte {at}");
                    }
                });
            }
        });
    });
}

#[test]
fn a_map_may_be_used_and_dropped_in_another_thread() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(2));
        let mut map = map_at(engine, &path, Access::Shared);
        std::thread::scope(|scope| scope.spawn(move || map.store(0, 88)).join().unwrap());
        assert_eq!(fs::read(&path).unwrap()[0], 88);
    });
}

// The descriptor.

#[test]
fn the_descriptor_may_be_closed_early_and_the_name_may_go() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(9));
        let file = writable(&path);
        let mut map = engine.map(file.try_clone().unwrap(), Access::Shared).unwrap();
        drop(file);
        map.store(5 * page(), 1);
        map.sync(0..map.len(), WriteBack::Wait).unwrap();
        assert_eq!(fs::read(&path).unwrap()[5 * page()], 1);
        fs::remove_file(&path).unwrap();
        map.store(6 * page(), 2);
        map.sync(0..map.len(), WriteBack::Wait).unwrap();
        map.advise(0..map.len(), Advice::PageOut).unwrap();
        assert_eq!(
            (map.load(5 * page()), map.load(6 * page()), map.load(0)),
            (1, 2, pattern(1)[0])
        );
    });
}

#[test]
fn a_map_leaves_the_descriptors_position_alone() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(9));
        let mut file = writable(&path);
        file.seek(SeekFrom::Start(5)).unwrap();
        for access in EVERY_ACCESS {
            let mut map = engine.map(file.try_clone().unwrap(), access).unwrap();
            map.load(3 * page());
            if access != Access::Read {
                map.store(4 * page(), 1);
                map.sync(0..map.len(), WriteBack::Wait).unwrap();
            }
        }
        assert_eq!(file.stream_position().unwrap(), 5);
    });
}

#[test]
fn a_shared_writable_map_of_a_read_only_descriptor_is_eacces() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    every_engine(|engine| {
        let error = engine.map(File::open(&path).unwrap(), Access::Shared).err().unwrap();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        assert!(error.to_string().contains("privately"), "{error}");
    });
}

#[test]
fn a_private_map_of_a_read_only_descriptor_can_be_stored_to() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    every_engine(|engine| {
        let mut map = engine.map(File::open(&path).unwrap(), Access::Private).unwrap();
        map.store(3, 9);
        assert_eq!(map.load(3), 9);
    });
}

#[test]
fn a_descriptor_that_cannot_be_read_is_refused() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            assert!(
                engine.map(File::options().write(true).open(&path).unwrap(), access).is_err(),
                "{access:?}"
            );
        }
    });
}

#[test]
fn files_without_bytes_at_offsets_are_refused() {
    let dir = disk_dir();
    every_engine(|engine| {
        let (reader, _writer) = std::io::pipe().unwrap();
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let all: [(&str, OwnedFd); 4] = [
            ("a directory", File::open(dir.path()).unwrap().into()),
            ("a pipe", reader.into()),
            ("a socket", socket.into()),
            ("a character device", File::open("/dev/null").unwrap().into()),
        ];
        for (name, fd) in all {
            assert!(engine.map(fd.into(), Access::Read).is_err(), "{name}");
        }
    });
}

// Ranges.

#[test]
fn an_empty_file_is_an_empty_map() {
    let dir = disk_dir();
    let path = file_with(dir.path(), b"");
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let map = map_at(engine, &path, access);
            assert_eq!((map.len(), map.read_all()), (0, vec![]));
            assert_eq!(map.read_at(&mut [0], 0).unwrap_err().errno(), Errno::INVAL);
            map.sync(0..0, WriteBack::Wait).unwrap();
            map.advise(0..0, Advice::WillNeed).unwrap();
        }
    });
}

#[test]
fn empty_ranges_are_no_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(3));
    every_engine(|engine| {
        let mut map = map_at(engine, &path, Access::Shared);
        for at in [0, 1, page(), map.len()] {
            map.read_at(&mut [], at).unwrap();
            map.write_at(&[], at).unwrap();
            map.sync(at..at, WriteBack::Wait).unwrap();
            for advice in ADVICE {
                map.advise(at..at, advice)
                    .unwrap_or_else(|error| panic!("{advice:?} at {at}: {error}"));
            }
        }
        assert_eq!(map.read_all(), pattern(3));
    });
}

#[test]
fn ranges_outside_the_map_are_einval_and_change_nothing() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(3));
    every_engine(|engine| {
        let mut map = map_at(engine, &path, Access::Shared);
        let len = map.len();
        let errors = [
            map.read_at(&mut [0; 2], len - 1),
            map.read_at(&mut [0], usize::MAX),
            map.write_at(&[0; 2], len - 1),
            map.write_at(&[], len + 1),
            map.sync(0..len + 1, WriteBack::Wait),
            map.advise(len + 1..len + 1, Advice::WillNeed),
            map.advise(0..usize::MAX, Advice::Cold),
        ];
        for (n, result) in errors.into_iter().enumerate() {
            assert_eq!(result.expect_err(&format!("call {n}")).errno(), Errno::INVAL, "call {n}");
        }
        assert_eq!(map.read_all(), pattern(3));
    });
}

const ADVICE: [Advice; 7] = [
    Advice::Normal,
    Advice::Random,
    Advice::Sequential,
    Advice::WillNeed,
    Advice::Cold,
    Advice::PageOut,
    Advice::PopulateRead,
];

#[test]
fn no_advice_changes_a_byte() {
    let dir = disk_dir();
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let mut want = pattern(600);
            let path = file_with(dir.path(), &want);
            let mut map = map_at(engine, &path, access);
            for (n, advice) in ADVICE.into_iter().enumerate() {
                if access != Access::Read {
                    let at = n * 60_001;
                    want[at] = !want[at];
                    map.store(at, want[at]);
                }
                map.advise(n * 1_000..map.len() - n * 1_000, advice).unwrap();
                assert!(map.read_all() == want, "{advice:?}, {access:?}");
            }
        }
    });
}

// Length.

#[test]
fn a_map_that_grows_shows_zeros_and_its_file_has_the_length() {
    let dir = disk_dir();
    every_engine(|engine| {
        if !engine.resizes() {
            return;
        }
        let path = file_with(dir.path(), &[7; 5_000]);
        let mut map = map_at(engine, &path, Access::Shared);
        map.store(4_999, 8);
        for len in [5_001, 3 * page(), 40 * page() + 1, 5 * MIB] {
            let old = map.len();
            map.resize(len).unwrap();
            assert_eq!(
                (map.len() as u64, fs::metadata(&path).unwrap().len()),
                (len as u64, len as u64)
            );
            assert!(is_all(&map.read(old..len), 0), "from {old} to {len}");
            map.store(len - 1, 0);
        }
        assert_eq!(map.read(4_998..5_000), [7, 8]);
        drop(map);
        let bytes = fs::read(&path).unwrap();
        assert!(bytes.len() == 5 * MIB && is_all(&bytes[..4_999], 7) && bytes[4_999] == 8);
        assert!(is_all(&bytes[5_000..], 0));
    });
}

#[test]
fn bytes_that_were_cut_off_never_come_back() {
    let dir = disk_dir();
    every_engine(|engine| {
        if !engine.resizes() {
            return;
        }
        let path = file_with(dir.path(), &pattern(50));
        let mut map = map_at(engine, &path, Access::Shared);
        for len in [40 * page(), 20 * page() + 77, page() - 1, 1] {
            map.write_at(&vec![9; map.len()], 0).unwrap();
            let old = map.len();
            map.resize(len).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
            map.resize(old).unwrap();
            let bytes = map.read_all();
            assert!(is_all(&bytes[..len], 9) && is_all(&bytes[len..], 0));
            map.resize(len).unwrap();
        }
        drop(map);
        assert_eq!(fs::read(&path).unwrap(), [9]);
    });
}

// Truncation by others.

#[test]
fn a_read_past_a_truncation_is_an_error_and_never_zeros() {
    let dir = disk_dir();
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let path = file_with(dir.path(), &pattern(64));
            let map = map_at(engine, &path, access);
            map.advise(0..map.len(), Advice::Random).unwrap();
            assert_eq!(map.load(0), pattern(1)[0]);
            writable(&path).set_len(page() as u64).unwrap();
            // Pages that came into the pager's memory with the first one may stay.
            match map.read_at(&mut [0], page()) {
                Ok(()) => assert_eq!(map.load(page()), pattern(2)[page()], "{access:?}"),
                Err(error) => assert!(error.fault().is_some(), "{error}"),
            }
            for at in [30 * page() + 5, 64 * page() - 1] {
                let error = map.read_at(&mut [0], at).expect_err("bytes that nobody has");
                assert_eq!(error.fault().unwrap().range(), at..at + 1, "{access:?}: {error}");
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
            }
            assert!(
                map.advise(30 * page()..31 * page(), Advice::PopulateRead).is_err(),
                "{access:?}"
            );
        }
    });
}

#[test]
fn a_load_past_a_truncation_ends_with_sigbus() {
    let dir = disk_dir();
    every_kind(|engine| {
        for access in EVERY_ACCESS {
            let path = file_with(dir.path(), &pattern(64));
            let end = end_of(|| {
                let map = map_at(&engine(), &path, access);
                map.advise(0..map.len(), Advice::Random).unwrap();
                writable(&path).set_len(0).unwrap();
                std::hint::black_box(map.load(40 * page()));
            });
            assert_eq!(end, End::Killed(libc::SIGBUS), "{access:?}");
        }
    });
}

#[test]
fn stores_past_a_truncation_do_not_make_the_file_longer() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(8));
        let mut map = map_at(engine, &path, Access::Shared);
        map.store(6 * page(), 1);
        map.store(10, 2);
        writable(&path).set_len(2 * page() as u64).unwrap();
        // A page that has nowhere to go is an error; the kernel has dropped it when the file was
        // cut.
        let result = map.sync(0..map.len(), WriteBack::Wait);
        drop(map);
        assert_eq!(fs::metadata(&path).unwrap().len(), 2 * page() as u64);
        match engine {
            Engine::Kernel => assert_eq!(fs::read(&path).unwrap()[10], 2),
            // The error may be about pages that lay in one run with those behind the end.
            _ => assert!(result.is_err()),
        }
    });
}

// Times.

/// Whether st_mtime and st_ctime move by a step.
fn moves(file: &File, step: impl FnOnce()) -> [bool; 2] {
    let times = || {
        let status = file.metadata().unwrap();
        [(status.mtime(), status.mtime_nsec()), (status.ctime(), status.ctime_nsec())]
    };
    let before = times();
    // The kernel's coarse clock ticks every 1 to 10 ms.
    std::thread::sleep(Duration::from_millis(20));
    step();
    let after = times();
    [before[0] != after[0], before[1] != after[1]]
}

#[test]
fn mtime_and_ctime_move_between_a_store_and_the_end_of_the_next_sync() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(4));
        let file = writable(&path);
        file.sync_all().unwrap();
        let mut map = map_at(engine, &path, Access::Shared);
        let whole = 0..map.len();
        for _ in 0..2 {
            let stored = moves(&file, || {
                map.store(page(), 9);
                map.sync(whole.clone(), WriteBack::Wait).unwrap();
            });
            assert_eq!(stored, [true, true]);
        }
    });
}

#[test]
fn mtime_and_ctime_stay_where_nothing_is_stored_to_the_file() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(4));
        let file = writable(&path);
        file.sync_all().unwrap();
        for access in EVERY_ACCESS {
            let moved = moves(&file, || {
                let mut map = map_at(engine, &path, access);
                map.read_all();
                if access == Access::Private {
                    map.store(5, 9);
                }
                map.sync(0..map.len(), WriteBack::Wait).unwrap();
                map.advise(0..map.len(), Advice::PageOut).unwrap();
            });
            assert_eq!(moved, [false, false], "{access:?}");
        }
    });
}

// Fork, where a map is not inherited.

#[test]
fn calls_of_a_child_on_a_map_that_it_has_not_are_errors() {
    let dir = disk_dir();
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let path = file_with(dir.path(), &pattern(4));
            let mut map = map_at(engine, &path, access);
            child_succeeds(|| {
                let mut results =
                    vec![map.read_at(&mut [0; 5], 0), map.advise(0..page(), Advice::WillNeed)];
                if access != Access::Read {
                    results.push(map.write_at(&[1], 0));
                    results.push(map.sync(0..page(), WriteBack::Wait));
                }
                for (n, result) in results.into_iter().enumerate() {
                    assert!(result.is_err(), "call {n}");
                }
            });
            assert_eq!(map.read_all(), pattern(4));
        }
    });
}

#[test]
fn a_childs_load_of_a_map_that_it_has_not_ends_the_child_and_not_the_parent() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    every_engine(|engine| {
        for access in EVERY_ACCESS {
            let map = map_at(engine, &path, access);
            if !matches!(engine, Engine::Handles(_)) {
                let end = end_of(|| _ = std::hint::black_box(map.load(5)));
                assert!(
                    matches!(end, End::Killed(libc::SIGBUS | libc::SIGSEGV)),
                    "{access:?}: {end:?}"
                );
            }
            assert_eq!(map.load(5), pattern(1)[5]);
        }
    });
}

#[test]
fn handles_that_a_child_drops_stay_the_parents() {
    let dir = disk_dir();
    every_engine(|engine| {
        let path = file_with(dir.path(), &pattern(400));
        let mut map = Some(map_at(engine, &path, Access::Shared));
        map.as_mut().unwrap().store(70_000, 42);
        child_succeeds(|| drop(map.take()));
        let mut map = map.unwrap();
        assert_eq!(map.load(70_000), 42);
        map.store(80_000, 43);
        map.sync(0..map.len(), WriteBack::Wait).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((bytes[70_000], bytes[80_000]), (42, 43));
    });
}

// Refusals by the file system.

#[test]
fn a_full_disk_is_an_error_and_pages_that_fit_later_are_written_later() {
    every_engine(|engine| {
        let Some(full) = Mounted::tmpfs("size=512k") else {
            return skip("needs the right to mount");
        };
        let (path, filler) = (full.path().join("sparse"), full.path().join("filler"));
        File::create(&path).unwrap().set_len(128 << 10).unwrap();
        fs::write(&filler, vec![1; 480 << 10]).unwrap();
        let mut map = map_at(engine, &path, Access::Shared);
        let fill = |map: &mut Box<dyn Map>| {
            let stores = (0..128 << 10).step_by(4_096).map(|at| map.write_at(&[7; 4_096], at));
            // Each store that succeeds stays, as in a program that goes on.
            let stored = stores.fold(Ok(()), folio::Result::and);
            stored.and(map.sync(0..map.len(), WriteBack::Wait))
        };
        let error = fill(&mut map).expect_err("more was stored than there is room for");
        assert!(error.fault().is_some(), "{error}");
        fs::remove_file(&filler).unwrap();
        fill(&mut map).unwrap();
        drop(map);
        assert!(fs::read(&path).unwrap() == vec![7; 128 << 10]);
    });
}

#[test]
fn a_device_that_fails_to_store_a_page_is_an_error_to_sync() {
    every_kind(|engine| {
        // The failed write is reported once more when the map is dropped: in a child.
        child_succeeds(|| {
            let Some(disk) = FailingDisk::new(16) else {
                return skip("no loop device is to be had");
            };
            let file = writable(Path::new(disk.path()));
            let mut map = engine().map(file, Access::Shared).unwrap();
            assert_eq!(map.len(), 16 * page());
            map.store(5, 1);
            let error = map.sync(0..map.len(), WriteBack::Wait).unwrap_err();
            assert!(error.to_string().contains(disk.path()), "{error}");
        });
    });
}
