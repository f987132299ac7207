//! Other writers of an object that a pager writes: seen through its version, or left alone by
//! byte-exact write-back.

use crate::common::disk_dir;
use crate::common::random::Random;
use crate::given::{MIB, pager, pattern};
use folio::source::{
    FlushRequest, LocalFile, ReadRequest, Source, Version, WritableMemory, WriteRequest,
};
use folio::{Error, FaultCause, Pager, WriteBack};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn file(dir: &Path) -> PathBuf {
    let path = dir.join("file");
    fs::write(&path, pattern(MIB)).unwrap();
    path
}

fn writable(path: &Path) -> LocalFile {
    LocalFile::open_writable(path).unwrap()
}

/// Writes to a file as another program does, in another moment of the kernel's clock.
fn write_at(path: &Path, byte: u8, at: u64) {
    std::thread::sleep(Duration::from_millis(50));
    File::options().write(true).open(path).unwrap().write_all_at(&[byte], at).unwrap();
}

/// A pager that writes nothing back by itself.
fn patient() -> folio::PagerBuilder {
    Pager::builder().budget(8 * MIB).write_back_after(Duration::from_secs(3600))
}

fn cause(error: &Error) -> Option<FaultCause> {
    error.fault().map(folio::Fault::cause)
}

#[test]
fn bytes_that_another_program_has_written_are_not_overwritten() {
    let dir = disk_dir();
    let path = file(dir.path());
    let pager = patient().build().unwrap();
    let mut map = pager.map_mut(writable(&path)).unwrap();
    map[0] = 200;
    map.sync(.., WriteBack::Wait).unwrap();
    map[1] = 201;
    write_at(&path, 77, 2);
    for _ in 0..2 {
        let error = map.sync(.., WriteBack::Wait).unwrap_err();
        assert_eq!(cause(&error), Some(FaultCause::Changed), "{error}");
        assert!(error.to_string().contains("merge_stores"), "{error}");
    }
    let map = map.close().unwrap_err().map;
    assert_eq!(map[..2], [200, 201], "the map has its own stores still");
    drop(map);
    let mut expected = pattern(MIB);
    (expected[0], expected[2]) = (200, 77);
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn write_back_in_the_background_overwrites_nothing_either() {
    let dir = disk_dir();
    let path = file(dir.path());
    let pager = Pager::builder().budget(4 * MIB).write_back_after(Duration::ZERO).build().unwrap();
    let map = pager.map_shared(writable(&path)).unwrap();
    write_at(&path, 77, 2);
    map.view().unwrap().copy_from(&[200], 0).unwrap();
    let tried = |pager: &Pager| pager.stats().unwrap().write_errors > 0;
    while !tried(&pager) {
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(map);
    let mut expected = pattern(MIB);
    expected[2] = 77;
    assert!(fs::read(&path).unwrap() == expected);
}

#[test]
fn a_pagers_own_changes_and_those_of_the_name_are_nobody_elses() {
    let dir = disk_dir();
    let path = file(dir.path());
    let mut map = pager(4 * MIB).map_mut(writable(&path)).unwrap();
    let mut random = Random(5);
    for round in 0..200 {
        let at = random.below(map.len());
        map[at] = round as u8;
        match round % 8 {
            1 => map.resize(MIB + random.below(MIB)).unwrap(),
            2 => fs::set_permissions(&path, fs::Permissions::from_mode(0o600 + round % 2)).unwrap(),
            3 => fs::hard_link(&path, dir.path().join(format!("link{round}"))).unwrap(),
            _ => {}
        }
        map.sync(.., WriteBack::Wait).unwrap();
    }
    let bytes = map.to_vec();
    map.close().unwrap();
    assert!(fs::read(&path).unwrap() == bytes);
}

/// Bytes with a version that the test changes as well.
struct Versioned(Arc<WritableMemory>, Arc<AtomicU64>);

impl Source for Versioned {
    fn name(&self) -> String {
        "versioned".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn version(&self) -> io::Result<Version> {
        let Version(own, len) = self.0.version()?;
        match self.1.load(Ordering::Relaxed) {
            u64::MAX => Err(io::Error::other("no version today")),
            other => Ok(Version(own, len ^ (other << 40))),
        }
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        self.0.read(requests);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        self.0.write(requests);
    }

    fn flush(&self, request: FlushRequest) {
        self.0.flush(request);
    }
}

#[test]
fn a_source_whose_version_moves_by_itself_is_not_overwritten() {
    let (bytes, other) = (Arc::new(WritableMemory::new(vec![1; MIB])), Arc::new(AtomicU64::new(0)));
    let pager = patient().build().unwrap();
    let mut map = pager.map_mut(Versioned(Arc::clone(&bytes), Arc::clone(&other))).unwrap();
    map[0] = 2;
    map.sync(.., WriteBack::Wait).unwrap();
    map[0] = 3;
    other.store(u64::MAX, Ordering::Relaxed);
    let error = map.sync(.., WriteBack::Wait).unwrap_err();
    assert_eq!(cause(&error), Some(FaultCause::NotWritten), "{error}");
    other.store(0, Ordering::Relaxed);
    map.sync(.., WriteBack::Wait).unwrap();
    map[0] = 4;
    other.store(1, Ordering::Relaxed);
    let error = map.sync(.., WriteBack::Wait).unwrap_err();
    assert_eq!(cause(&error), Some(FaultCause::Changed), "{error}");
    drop(map);
    assert_eq!(bytes.contents()[0], 3);
}

#[test]
fn merged_stores_leave_the_other_bytes_of_their_pages_alone() {
    let dir = disk_dir();
    let path = file(dir.path());
    let pager = patient().merge_stores(true).build().unwrap();
    let mut map = pager.map_mut(writable(&path)).unwrap();
    let mut expected = pattern(MIB);
    for round in 0..3 {
        map[100] = 200 + round;
        write_at(&path, 210 + round, 101);
        map.sync(.., WriteBack::Wait).unwrap();
        (expected[100], expected[101]) = (200 + round, 210 + round);
        assert!(fs::read(&path).unwrap() == expected, "round {round}");
    }
    assert_eq!(
        map[101],
        pattern(MIB)[101],
        "the map does not show what others write to a page in memory"
    );
}

/// Stores to even bytes by a map, and writes to odd bytes by someone else, at random, with a budget
/// that is too small.
fn all_stores_are_merged(shared: bool) {
    const LEN: usize = 8 * MIB;
    let dir = disk_dir();
    let path = dir.path().join("file");
    fs::write(&path, pattern(LEN)).unwrap();
    let other = File::options().write(true).open(&path).unwrap();
    let pager =
        Pager::builder().budget(4 * MIB).write_back_after(Duration::ZERO).merge_stores(true);
    let pager = pager.build().unwrap();
    let mut expected = pattern(LEN);
    let mut random = Random(11);
    let mut store: Box<dyn FnMut(usize, u8)> = if shared {
        let map = pager.map_shared(writable(&path)).unwrap();
        Box::new(move |at, byte| map.view().unwrap().copy_from(&[byte], at).unwrap())
    } else {
        let mut map = pager.map_mut(writable(&path)).unwrap();
        Box::new(move |at, byte| {
            // A page that others wrote after its eviction has other bytes than this map has shown:
            // loading it is an error.
            map.write_at(&[byte], at).unwrap();
        })
    };
    // A page that left memory, was written by others and comes back has changed: each page is
    // stored to while it is new.
    for page in 0..LEN / 4096 {
        for _ in 0..3 {
            let at = page * 4096 + 2 * random.below(2048);
            let byte = random.next() as u8;
            store(at, byte);
            expected[at] = byte;
        }
        let at = page * 4096 + 2 * random.below(2048) + 1;
        let byte = random.next() as u8;
        other.write_all_at(&[byte], at as u64).unwrap();
        expected[at] = byte;
        if page % 64 == 0 {
            let stats = pager.stats().unwrap();
            // Pages leave for the pre-images as soon as they are written.
            let most = stats.budget + stats.budget / 16;
            assert!(stats.resident_bytes + stats.record_bytes <= most, "{stats:?}");
        }
    }
    drop(store);
    let bytes = fs::read(&path).unwrap();
    let wrong = (0..LEN).find(|&at| bytes[at] != expected[at]);
    assert_eq!(wrong, None);
}

#[test]
fn all_stores_of_a_map_with_one_handle_are_merged_within_the_budget() {
    all_stores_are_merged(false);
}

#[test]
fn all_stores_of_a_map_with_many_handles_are_merged_within_the_budget() {
    all_stores_are_merged(true);
}

#[test]
fn pages_that_are_pinned_for_stores_are_merged_each_time() {
    let dir = disk_dir();
    let path = file(dir.path());
    let pager = patient().merge_stores(true).build().unwrap();
    let map = pager.map_shared(writable(&path)).unwrap();
    let pin = map.pin(..4096).unwrap();
    for round in 0..3 {
        map.view().unwrap().copy_from(&[200 + round], 100).unwrap();
        write_at(&path, 210 + round, 101);
        map.sync(.., WriteBack::Wait).unwrap();
        assert_eq!(fs::read(&path).unwrap()[100..102], [200 + round, 210 + round]);
    }
    drop(pin);
}

#[test]
fn sources_that_are_no_files_get_the_stored_bytes_only() {
    let bytes = Arc::new(WritableMemory::new(vec![1; MIB]));
    let pager = patient().merge_stores(true).build().unwrap();
    let mut map = pager.map_mut(Arc::clone(&bytes)).unwrap();
    map[10] = 2;
    map[5000..5004].fill(3);
    map.sync(.., WriteBack::Wait).unwrap();
    let mut expected = vec![1; MIB];
    expected[10] = 2;
    expected[5000..5004].fill(3);
    assert!(bytes.contents() == expected);
    assert_eq!(pager.stats().unwrap().write_errors, 0);
}
