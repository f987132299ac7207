//! The end of a program with maps that still exist: by exit(3) their stores reach the source.

use crate::common::{End, disk_dir, in_child};
use crate::given::{MIB, is_all, pager};
use folio::source::{FlushRequest, LocalFile, ReadRequest, Source, WriteRequest};
use folio::{Pager, WriteBack};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

/// Ends the process as `std::process::exit` does, without the standard library's own output.
fn exit(status: i32) -> ! {
    // SAFETY: the functions that it runs belong to the C library, the test harness and folio.
    unsafe { libc::exit(status) }
}

/// A pager that writes nothing back by itself.
fn patient() -> Pager {
    Pager::builder().budget(8 * MIB).write_back_after(Duration::from_secs(3600)).build().unwrap()
}

fn is_filled(path: &Path, byte: u8) -> bool {
    is_all(&fs::read(path).unwrap(), byte)
}

/// A file that the pager reaches by requests only, and that does something else before a write.
struct Requests<F>(LocalFile, F);

impl<F: Fn() -> bool + Send + Sync + 'static> Source for Requests<F> {
    fn name(&self) -> String {
        "requests".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        self.0.read(requests);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        if (self.1)() {
            self.0.write(requests);
        } else {
            std::mem::forget(requests);
        }
    }

    fn flush(&self, request: FlushRequest) {
        self.0.flush(request);
    }
}

#[test]
fn stores_to_maps_that_still_exist_are_written_at_exit() {
    let dir = disk_dir();
    let paths = ["mut", "shared", "source"].map(|name| dir.path().join(name));
    let end = in_child(|| {
        let pager = patient();
        let file = |path| LocalFile::create(path, MIB as u64).unwrap();
        let mut written = pager.map_mut(file(&paths[0])).unwrap();
        written.fill(1);
        let shared = pager.map_shared(file(&paths[1])).unwrap();
        shared.view().unwrap().copy_from(&vec![2; MIB], 0).unwrap();
        let mut other = pager.map_mut(Requests(file(&paths[2]), || true)).unwrap();
        other.fill(3);
        exit(7);
    });
    assert_eq!(end, End::Exited(7));
    for (path, byte) in paths.iter().zip(1..) {
        assert!(is_filled(path, byte), "{}", path.display());
    }
}

#[test]
fn a_map_that_another_thread_has_is_written_at_exit() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let end = in_child(|| {
        let (told, stored) = std::sync::mpsc::channel();
        let file = LocalFile::create(&path, MIB as u64).unwrap();
        std::thread::spawn(move || {
            let mut map = patient().map_mut(file).unwrap();
            map.fill(1);
            told.send(()).unwrap();
            std::thread::sleep(Duration::from_secs(3600));
        });
        stored.recv().unwrap();
        exit(7);
    });
    assert_eq!(end, End::Exited(7));
    assert!(is_filled(&path, 1));
}

#[test]
fn an_exit_in_a_sources_write_ends_the_process() {
    let dir = disk_dir();
    let end = in_child(|| {
        let file = LocalFile::create(dir.path().join("file"), MIB as u64).unwrap();
        let mut map = patient().map_mut(Requests(file, || exit(7))).unwrap();
        map.fill(1);
        let _ = map.sync(.., WriteBack::Wait);
    });
    assert_eq!(end, End::Exited(7));
}

#[test]
fn an_exit_waits_a_bounded_time_for_a_source_that_does_not_answer() {
    let dir = disk_dir();
    let path = dir.path().join("stuck");
    let healthy = dir.path().join("file");
    let end = in_child(|| {
        let pager = patient();
        let mut stuck = pager
            .map_mut(Requests(LocalFile::create(&path, MIB as u64).unwrap(), || false))
            .unwrap();
        stuck.fill(1);
        let mut written = pager.map_mut(LocalFile::create(&healthy, MIB as u64).unwrap()).unwrap();
        written.fill(2);
        exit(7);
    });
    assert_eq!(end, End::Exited(7), "a signal 14 is the alarm of two minutes");
    assert!(is_filled(&healthy, 2), "the other map is written all the same");
}

#[test]
fn the_exit_of_a_forked_child_writes_nothing_and_that_of_its_parent_does() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let end = in_child(|| {
        let pager = patient();
        let mut map = pager.map_mut(LocalFile::create(&path, MIB as u64).unwrap()).unwrap();
        map.fill(1);
        assert_eq!(in_child(|| exit(3)), End::Exited(3));
        assert!(is_filled(&path, 0), "the child has written");
        exit(7);
    });
    assert_eq!(end, End::Exited(7));
    assert!(is_filled(&path, 1));
}

#[test]
fn a_forked_child_with_a_pager_of_its_own_writes_its_own_maps_at_exit() {
    let dir = disk_dir();
    let paths = ["parent", "child"].map(|name| dir.path().join(name));
    let end = in_child(|| {
        let mut map =
            pager(8 * MIB).map_mut(LocalFile::create(&paths[0], MIB as u64).unwrap()).unwrap();
        map.fill(1);
        let child = in_child(|| {
            let mut map =
                patient().map_mut(LocalFile::create(&paths[1], MIB as u64).unwrap()).unwrap();
            map.fill(2);
            exit(3);
        });
        assert_eq!(child, End::Exited(3));
        assert!(is_filled(&paths[1], 2));
        exit(7);
    });
    assert_eq!(end, End::Exited(7));
    assert!(is_filled(&paths[0], 1));
}
