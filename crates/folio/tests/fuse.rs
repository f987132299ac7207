//! A source on a file system that answers slowly, or never: a FUSE server of the tests' own.

#[path = "common/fuse_server.rs"]
mod fuse_server;
#[path = "contract/support.rs"]
mod support;

use fuse_server::{FuseServer, Served};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use support::skip;

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
    let served = Served { bytes: b"12345".to_vec(), direct_io: true, said_size: Some(4096) };
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
