//! A source on a file system that answers slowly, or never: a FUSE server of the tests' own.

use crate::common::skip;
use crate::fuse_server::{FuseServer, Served};
use folio::source::{Function, LocalFile, Memory};
use folio::{Advice, FaultCause, Pager, WriteBack};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

fn bytes() -> Vec<u8> {
    (0..100_000_u32).map(|n| (n ^ (n >> 8)) as u8).collect()
}

fn served(bytes: Vec<u8>) -> Option<FuseServer> {
    FuseServer::start(Served { bytes, ..Served::default() }).map_err(|why| skip(&why)).ok()
}

#[test]
fn the_server_serves_sticks_and_lets_go() {
    let bytes = bytes();
    let Some(server) = served(bytes.clone()) else { return };
    assert!(std::fs::read(server.path()).unwrap() == bytes);
    let file = std::fs::File::options().read(true).write(true).open(server.path()).unwrap();
    server.stick_attributes(true);
    std::thread::scope(|scope| {
        let _go = server.lets_go();
        let asking = scope.spawn(|| file.metadata().unwrap().len());
        let start = Instant::now();
        while server.stuck() == 0 {
            assert!(start.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(!asking.is_finished());
        server.stick_attributes(false);
        assert_eq!(asking.join().unwrap(), 100_000);
    });
    file.write_at(b"new", 10).unwrap();
    let mut read = [0; 3];
    file.read_at(&mut read, 10).unwrap();
    assert_eq!(&read, b"new");
}

#[test]
fn a_stuck_read_ends_when_the_server_is_dropped() {
    let Some(server) = served(bytes()) else { return };
    let file = std::fs::File::open(server.path()).unwrap();
    server.stick_reads(true);
    let reading = std::thread::spawn(move || file.read_at(&mut [0; 10], 0).is_err());
    while server.stuck() == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(server);
    assert!(reading.join().unwrap());
}

#[test]
fn a_direct_file_says_a_size_that_is_not_its_own() {
    let served = Served {
        bytes: b"12345".to_vec(),
        direct_io: true,
        said_size: Some(4096),
        restless: false,
    };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    let file = std::fs::File::open(server.path()).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    let mut bytes = [0; 4096];
    assert_eq!(file.read_at(&mut bytes, 0).unwrap(), 5);
    server.delay_reads(Duration::from_millis(20));
    let start = Instant::now();
    file.read_at(&mut bytes, 0).unwrap();
    assert!(start.elapsed() >= Duration::from_millis(20) && server.reads() >= 2);
}

/// Waits until so many requests are stuck.
#[track_caller]
fn until_stuck(server: &FuseServer, count: u64) {
    let start = Instant::now();
    while server.stuck() < count {
        assert!(start.elapsed() < Duration::from_secs(30), "{} are stuck", server.stuck());
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A pager of each kind of I/O.
fn every_pager(rule: impl Fn(&Pager)) {
    for features in ["", "-io_uring"] {
        rule(&Pager::builder().budget(16 << 20).features(features).build().unwrap());
    }
}

/// Other maps of the pager go on: one of memory, and one of a file on a disk.
#[track_caller]
fn others_go_on(pager: &Pager) {
    let (done, ended) = std::sync::mpsc::channel();
    let pager = pager.clone();
    std::thread::spawn(move || {
        let memory = pager.map(Memory::from(bytes())).unwrap();
        let dir = crate::common::disk_dir();
        let file = pager
            .map(LocalFile::open(crate::common::file_with(dir.path(), &bytes())).unwrap())
            .unwrap();
        done.send(memory[..] == bytes()[..] && file[..] == bytes()[..])
    });
    assert!(
        ended.recv_timeout(Duration::from_secs(20)).unwrap_or(false),
        "they wait for the stuck file"
    );
}

/// A server with a file for each way to open it; the file is mapped and its requests stick as
/// `stick` says, while a thread reads a page.
fn while_a_read_is_stuck(stick: fn(&FuseServer, bool), requests: u64) {
    for direct_io in [false, true] {
        let served = Served { bytes: bytes(), direct_io, ..Served::default() };
        let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
        every_pager(|pager| {
            let map = pager.map(LocalFile::open(server.path()).unwrap()).unwrap();
            stick(&server, true);
            std::thread::scope(|scope| {
                let _go = server.lets_go();
                let reading = scope.spawn(|| map.read_at(&mut [0; 10], 50_000));
                until_stuck(&server, requests);
                let others = std::panic::catch_unwind(|| others_go_on(pager));
                stick(&server, false);
                reading.join().unwrap().unwrap();
                others.unwrap();
            });
            assert!(map[..] == bytes()[..]);
        });
    }
}

#[test]
fn a_stuck_read_of_a_file_delays_no_other_map() {
    while_a_read_is_stuck(FuseServer::stick_reads, 1);
}

#[test]
fn a_stuck_fstat_of_a_file_delays_no_other_map() {
    while_a_read_is_stuck(FuseServer::stick_attributes, 1);
}

#[test]
fn a_stuck_write_of_a_file_delays_no_other_map() {
    let served = Served { bytes: bytes(), direct_io: true, ..Served::default() };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    every_pager(|pager| {
        let mut map = pager.map_mut(LocalFile::open_writable(server.path()).unwrap()).unwrap();
        map[5_000] ^= 0xFF;
        let stored = map[5_000];
        server.stick_writes(true);
        std::thread::scope(|scope| {
            let _go = server.lets_go();
            let syncing = scope.spawn(|| map.sync(.., WriteBack::Wait));
            until_stuck(&server, 1);
            let others = std::panic::catch_unwind(|| others_go_on(pager));
            server.stick_writes(false);
            syncing.join().unwrap().unwrap();
            others.unwrap();
        });
        let mut read = [0];
        File::open(server.path()).unwrap().read_at(&mut read, 5_000).unwrap();
        assert_eq!(read[0], stored);
    });
}

#[test]
fn a_stuck_spill_directory_delays_no_map() {
    const CHUNKS: usize = 200;
    let Some(server) = served(bytes()) else { return };
    for features in ["", "-io_uring"] {
        let spill = server.path().with_file_name("spill");
        let pager =
            Pager::builder().budget(4 << 20).spill_dir(spill).features(features).build().unwrap();
        let made = Function::new("made", 1 << 30, |offset, buffer: &mut [u8]| {
            buffer.fill((offset >> 21) as u8);
            Ok(())
        });
        let map = pager.map(made).unwrap();
        map.advise(.., Advice::Random).unwrap();
        let read = || (0..CHUNKS).for_each(|n| assert_eq!(map[n << 21], n as u8));
        std::thread::scope(|scope| {
            let _go = server.lets_go();
            server.stick_lookups(true);
            // The hashes of so many pages have no room in their part of the budget.
            let reading = scope.spawn(|| {
                read();
                map.advise(.., Advice::Cold).unwrap();
                read();
            });
            until_stuck(&server, 1);
            let others = std::panic::catch_unwind(|| others_go_on(&pager));
            let start = Instant::now();
            while !reading.is_finished() && start.elapsed() < Duration::from_secs(20) {
                std::thread::sleep(Duration::from_millis(1));
            }
            let in_time = reading.is_finished();
            server.stick_lookups(false);
            reading.join().unwrap();
            others.unwrap();
            assert!(in_time, "the map waits for its own hashes");
        });
    }
}

#[test]
fn hashes_that_no_directory_takes_in_time_keep_the_budget_and_are_reported() {
    let Some(server) = served(bytes()) else { return };
    let spill = server.path().with_file_name("spill");
    let pager = Pager::builder().budget(4 << 20).spill_dir(spill).build().unwrap();
    let made = Function::new("made", 8 << 30, |_, buffer: &mut [u8]| {
        buffer.fill(1);
        Ok(())
    });
    let map = pager.map(made).unwrap();
    map.advise(.., Advice::Random).unwrap();
    let _go = server.lets_go();
    server.stick_lookups(true);
    let start = Instant::now();
    // One page of each 2 MiB: the hashes of each of these have a leaf of their own.
    let mut next = (0..4_000_usize).map(|n| n << 21);
    let mut stats = pager.stats().unwrap();
    while stats.hashes_refused == 0 {
        assert!(start.elapsed() < Duration::from_secs(60), "{stats:?}");
        map.read_at(&mut [0], next.next().expect("the hashes of so many pages have no room"))
            .unwrap();
        std::thread::sleep(Duration::from_millis(1));
        stats = pager.stats().unwrap();
    }
    assert_eq!(stats.hash_refusal, Some(libc::ETIMEDOUT), "{stats:?}");
    for at in next.take(500) {
        map.read_at(&mut [0], at).unwrap();
        let stats = pager.stats().unwrap();
        assert!(stats.resident_bytes + stats.record_bytes <= stats.budget, "{stats:?}");
    }
}

#[test]
fn a_file_that_cannot_be_opened_to_be_locked_delays_no_fork() {
    let Some(server) = served(bytes()) else { return };
    let pager = Pager::builder().budget(16 << 20).build().unwrap();
    let file = LocalFile::open_writable(server.path()).unwrap();
    std::thread::scope(|scope| {
        let _go = server.lets_go();
        server.stick_opens(true);
        let mapping = scope.spawn(|| pager.map_mut(file).map(drop));
        until_stuck(&server, 1);
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(crate::common::in_child(|| ())));
        let forked = ended.recv_timeout(Duration::from_secs(20));
        server.stick_opens(false);
        mapping.join().unwrap().unwrap();
        assert_eq!(forked, Ok(crate::common::End::Exited(0)), "fork(2) waits for the file system");
    });
}

#[test]
fn a_write_that_outlives_its_map_keeps_the_file_from_other_processes() {
    let served = Served { bytes: bytes(), direct_io: true, ..Served::default() };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    let pager = Pager::builder().budget(16 << 20).build().unwrap();
    let file =
        LocalFile::open_writable(server.path()).unwrap().deadline(Duration::from_millis(300));
    let mut map = pager.map_mut(file).unwrap();
    map[5_000] ^= 0xFF;
    let _go = server.lets_go();
    server.stick_writes(true);
    drop(map);
    assert_eq!(server.stuck(), 1, "the write has ended");
    let map_in_child = || {
        crate::common::in_child(|| {
            let pager = Pager::builder().budget(16 << 20).build().unwrap();
            let made = pager.map_mut(LocalFile::open_writable(server.path()).unwrap());
            assert_eq!(made.unwrap_err().errno(), folio::Errno::BUSY);
        })
    };
    assert_eq!(
        map_in_child(),
        crate::common::End::Exited(0),
        "the file is free before the write has ended"
    );
    server.stick_writes(false);
    let start = Instant::now();
    while let Err(error) = pager.map_mut(LocalFile::open_writable(server.path()).unwrap()) {
        assert!(start.elapsed() < Duration::from_secs(30), "{error}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn many_stuck_reads_delay_no_other_map() {
    let served = Served { bytes: vec![7; 4 << 20], direct_io: true, ..Served::default() };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    every_pager(|pager| {
        let maps: Vec<_> = (0..3)
            .map(|_| pager.map_private(LocalFile::open(server.path()).unwrap()).unwrap())
            .collect();
        server.stick_reads(true);
        std::thread::scope(|scope| {
            let _go = server.lets_go();
            let readers: Vec<_> = maps
                .iter()
                .flat_map(|map| (0..8).map(move |n| (map, n << 19)))
                .map(|(map, at)| scope.spawn(move || map.read_at(&mut [0], at + 5)))
                .collect();
            until_stuck(&server, 8);
            std::thread::sleep(Duration::from_millis(200));
            let others = std::panic::catch_unwind(|| others_go_on(pager));
            server.stick_reads(false);
            for reader in readers {
                reader.join().unwrap().unwrap();
            }
            others.unwrap();
        });
    });
}

#[test]
fn a_read_that_is_stuck_is_an_error_at_the_files_deadline() {
    let Some(server) = served(bytes()) else { return };
    every_pager(|pager| {
        let file = LocalFile::open(server.path()).unwrap().deadline(Duration::from_millis(300));
        let map = pager.map(file).unwrap();
        server.stick_reads(true);
        let error = map.read_at(&mut [0], 0).unwrap_err();
        server.stick_reads(false);
        assert_eq!(error.fault().unwrap().cause(), FaultCause::Deadline, "{error}");
        assert!(map[..] == bytes()[..]);
    });
}

#[test]
fn a_read_during_which_the_file_is_touched_is_made_again() {
    let served = Served { bytes: bytes(), direct_io: true, ..Served::default() };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    every_pager(|pager| {
        let map = pager.map(LocalFile::open(server.path()).unwrap()).unwrap();
        let before = server.reads();
        server.stick_reads(true);
        std::thread::scope(|scope| {
            let _go = server.lets_go();
            let reading = scope.spawn(|| map.read_at(&mut [0; 10], 50_000));
            until_stuck(&server, 1);
            server.touch();
            server.stick_reads(false);
            reading.join().unwrap().unwrap();
        });
        assert!(server.reads() >= before + 2, "{} reads", server.reads() - before);
        assert!(map[..] == bytes()[..]);
    });
}

#[test]
fn a_file_that_changes_during_each_read_is_an_error_after_some() {
    let served = Served { bytes: bytes(), direct_io: true, restless: true, ..Served::default() };
    let Ok(server) = FuseServer::start(served).map_err(|why| skip(&why)) else { return };
    every_pager(|pager| {
        let map = pager.map(LocalFile::open(server.path()).unwrap()).unwrap();
        let before = server.reads();
        let error = map.read_at(&mut [0], 0).unwrap_err();
        assert_eq!(error.fault().unwrap().cause(), FaultCause::Changed, "{error}");
        assert!(
            (before + 3..before + 40).contains(&server.reads()),
            "{} reads",
            server.reads() - before
        );
    });
}
