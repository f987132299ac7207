//! Files that grow with their maps, in place where a reservation gives the room.

use crate::common::effort::scaled;
use crate::common::{child_succeeds, disk_dir, file_with, lower_limit, page, pattern, skip};
use folio::{Errno, FileMap, FileMapMut, Fork, MapOptions, Reservation};
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicUsize, Ordering};

fn open(pages: usize) -> (tempfile::TempDir, File) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(pages));
    (dir, File::options().read(true).write(true).open(path).unwrap())
}

#[test]
fn one_call_grows_the_file_and_its_map() {
    let (_dir, file) = open(1);
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    map.grow(3 * page() + 5).unwrap();
    assert_eq!(
        (map.len(), file.metadata().unwrap().len()),
        (3 * page() + 5, 3 * page() as u64 + 5)
    );
    assert_eq!(map.read_vec(..page()).unwrap(), pattern(1));
    assert!(map.read_vec(page()..).unwrap().iter().all(|&byte| byte == 0));
    map.write_at(b"end", 3 * page() + 2).unwrap();
    let mut end = [0; 3];
    file.read_exact_at(&mut end, 3 * page() as u64 + 2).unwrap();
    assert_eq!(&end, b"end");
    // A file that is long enough already only shows more.
    file.set_len(9 * page() as u64).unwrap();
    map.grow(4 * page()).unwrap();
    assert_eq!((map.len(), file.metadata().unwrap().len()), (4 * page(), 9 * page() as u64));
    assert_eq!(map.grow(1).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_map_with_an_offset_grows_from_there() {
    let (_dir, file) = open(1);
    let mut map = MapOptions::new().offset(100).map_mut(file.try_clone().unwrap()).unwrap();
    map.grow(2 * page()).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 2 * page() as u64 + 100);
    assert_eq!(map.read_vec(..10).unwrap(), pattern(1)[100..110]);
}

#[test]
fn an_empty_file_grows_with_its_map() {
    let (_dir, file) = open(0);
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    map.set_fork(Fork::Absent).unwrap();
    map.grow(10).unwrap();
    map.write_at(b"0123456789", 0).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 10);
    child_succeeds(|| assert!(map.read::<u8>(0).is_err()));
}

#[test]
fn a_map_that_reserves_has_the_space_into_which_it_grows() {
    let (dir, sparse) = open(1);
    let mut map = FileMapMut::map(sparse.try_clone().unwrap()).unwrap();
    map.grow(64 * page()).unwrap();
    assert!((sparse.metadata().unwrap().blocks() * 512) < 64 * page() as u64);
    let path = dir.path().join("full");
    for mut map in [
        FileMapMut::create(&path, page() as u64).unwrap(),
        // One that was made without bytes, too.
        FileMapMut::create(dir.path().join("empty"), 0).unwrap(),
    ] {
        map.grow(64 * page()).unwrap();
        let blocks = rustix::fs::fstat(map.file().unwrap()).unwrap().st_blocks;
        assert!(blocks * 512 >= 64 * page() as i64, "{blocks}");
    }
}

#[test]
fn a_map_that_cannot_grow_leaves_the_file_as_it_was() {
    let (_dir, file) = open(2);
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut map =
        MapOptions::new().within(&reservation, 0).map_mut(file.try_clone().unwrap()).unwrap();
    let error = map.grow(5 * page()).unwrap_err();
    assert_eq!(error.errno(), Errno::NOMEM, "{error}");
    assert_eq!((map.len(), file.metadata().unwrap().len()), (2 * page(), 2 * page() as u64));
    assert_eq!(map.read_vec(..).unwrap(), pattern(2));
    // A limit of addresses, for a map outside.
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_AS, 1 << 30);
        let error = map.grow(1 << 31).unwrap_err();
        assert_eq!(error.errno(), Errno::NOMEM, "{error}");
        assert!(error.to_string().contains("RLIMIT_AS"), "{error}");
        assert_eq!((map.len(), file.metadata().unwrap().len()), (2 * page(), 2 * page() as u64));
    });
}

#[test]
fn a_file_that_may_not_be_so_long_is_an_error_and_no_signal() {
    let (_dir, file) = open(1);
    let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_FSIZE, 2 * page() as u64);
        let error = map.grow(3 * page()).unwrap_err();
        assert!(
            error.errno() == Errno::FBIG && error.to_string().contains("RLIMIT_FSIZE"),
            "{error}"
        );
        map.grow(2 * page()).unwrap();
    });
}

#[test]
fn a_map_of_a_borrowed_file_says_that_it_has_no_descriptor_to_grow_by() {
    let (_dir, file) = open(1);
    let mut map = FileMapMut::map(&file).unwrap();
    assert_eq!(map.grow(2 * page()).unwrap_err().errno(), Errno::BADF);
    assert_eq!(file.metadata().unwrap().len(), page() as u64);
}

#[test]
fn a_file_map_in_a_reservation_grows_in_place() {
    let (_dir, file) = open(3);
    let reservation = Reservation::new(16 * page()).unwrap();
    let options = MapOptions::new().within(&reservation, page()).len(10);
    let mut map = options.map(file.try_clone().unwrap()).unwrap();
    let start = map.as_ptr();
    assert_eq!(map.resize_to_file().unwrap(), 3 * page());
    assert_eq!((map.as_ptr(), map.read_vec(..).unwrap()), (start, pattern(3)));
    assert_eq!(reservation.used(), 3 * page());
    file.set_len(6 * page() as u64).unwrap();
    assert_eq!(map.resize_to_file().unwrap(), 6 * page());
    assert_eq!((map.as_ptr(), map.read::<u8>(6 * page() - 1).unwrap()), (start, 0));
    // Its guards see all parts.
    assert_eq!(
        map.guard(|view| view.bytes().map(u64::from).sum::<u64>()).unwrap(),
        pattern(3).iter().map(|&byte| u64::from(byte)).sum()
    );
    // It shrinks in place as well, and gives the addresses back.
    map.resize(page() + 1).unwrap();
    assert_eq!((map.as_ptr(), reservation.used()), (start, 2 * page()));
    drop(map);
    assert_eq!(reservation.used(), 0);
}

#[test]
fn a_file_map_in_a_reservation_grows_with_its_file_and_keeps_its_fork_setting() {
    let (_dir, file) = open(1);
    let reservation = Reservation::new(8 * page()).unwrap();
    let mut map =
        MapOptions::new().within(&reservation, 0).map_mut(file.try_clone().unwrap()).unwrap();
    drop(reservation);
    map.set_fork(Fork::Absent).unwrap();
    let start = map.as_ptr();
    map.grow(4 * page()).unwrap();
    map.write_at(&[7], 4 * page() - 1).unwrap();
    assert_eq!((map.as_ptr(), file.metadata().unwrap().len()), (start, 4 * page() as u64));
    child_succeeds(|| assert!(map.read::<u8>(3 * page()).is_err()));
}

#[test]
fn a_file_map_does_not_grow_over_its_neighbour_in_the_reservation() {
    let (_dir, file) = open(3);
    let reservation = Reservation::new(8 * page()).unwrap();
    let near = MapOptions::new().within(&reservation, 0).len(page());
    let mut map = near.map(file.try_clone().unwrap()).unwrap();
    let neighbour = MapOptions::new().within(&reservation, 2 * page()).anon(page()).unwrap();
    assert_eq!(map.resize_to_file().unwrap_err().errno(), Errno::EXIST);
    assert_eq!((map.len(), neighbour[0]), (page(), 0));
    map.resize(2 * page()).unwrap();
    let borrowed = MapOptions::new().within(&reservation, 4 * page()).len(page());
    let mut borrowed: FileMap = borrowed.map(&file).unwrap();
    assert_eq!(borrowed.resize(2 * page()).unwrap_err().errno(), Errno::BADF);
}

#[test]
fn growth_leaves_the_holes_that_the_map_has_punched() {
    let dir = disk_dir();
    let mut map = FileMapMut::create(dir.path().join("file"), 256 * page() as u64).unwrap();
    let space = |map: &FileMapMut| rustix::fs::fstat(map.file().unwrap()).unwrap().st_blocks * 512;
    let full = space(&map);
    map.punch(..200 * page()).unwrap();
    if space(&map) >= full {
        return skip("the file system keeps the space of holes");
    }
    map.grow(257 * page()).unwrap();
    assert!(space(&map) < full - 100 * page() as i64, "{} of {full} bytes", space(&map));
}

#[test]
fn growth_never_cuts_bytes_that_another_appends_meanwhile() {
    let rounds = scaled(20_000) as usize;
    let (_dir, file) = open(1);
    if let Err(errno) = rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 1) {
        return skip(&format!("the file system has no fallocate(2): {errno}"));
    }
    // The other thread appends at a time of its own in each round, so that some round meets the
    // middle of the growth.
    let (begun, ended) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let wait = |count: &AtomicUsize, round| {
        while count.load(Ordering::Acquire) < round {
            std::thread::yield_now();
        }
    };
    let lost = std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=rounds {
                wait(&begun, round);
                (0..round * 7 % 1000).for_each(|_| std::hint::spin_loop());
                file.write_all_at(b"appended", 8 * page() as u64).unwrap();
                ended.store(round, Ordering::Release);
            }
        });
        let mut lost = 0;
        for round in 1..=rounds {
            file.set_len(page() as u64).unwrap();
            let mut map = FileMapMut::map(file.try_clone().unwrap()).unwrap();
            begun.store(round, Ordering::Release);
            map.grow(2 * page()).unwrap();
            wait(&ended, round);
            let mut found = [0; 8];
            let count = file.read_at(&mut found, 8 * page() as u64).unwrap();
            lost += usize::from(found[..count] != *b"appended");
        }
        lost
    });
    assert_eq!(lost, 0, "of {rounds}");
}
