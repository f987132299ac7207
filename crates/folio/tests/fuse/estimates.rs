//! Files whose file system refuses shared maps, or reports a length that is only an estimate.

use crate::common::skip;
use crate::fuse_server::{FuseServer, Served};
use folio::{Errno, FaultCause, FileMap, FileMapMut, FileMapPrivate};

fn serve(bytes: &[u8], direct_io: bool, said_size: u64) -> Option<FuseServer> {
    let served = Served {
        bytes: bytes.to_vec(),
        direct_io,
        said_size: Some(said_size),
        ..Served::default()
    };
    FuseServer::start(served).map_err(|why| skip(&why)).ok()
}

#[test]
fn a_direct_file_refuses_shared_maps_and_says_that_a_private_one_works() {
    let Some(server) = serve(b"direct", true, 6) else { return };
    let file = std::fs::File::options().read(true).write(true).open(server.path()).unwrap();
    if FileMap::map(&file).is_ok() {
        return skip("this kernel maps direct files shared");
    }
    for error in [FileMap::map(&file).unwrap_err(), FileMapMut::map(&file).unwrap_err()] {
        let text = error.to_string();
        assert_eq!(error.errno(), Errno::NODEV, "{text}");
        assert!(text.contains("direct_io") && text.contains("FileMapPrivate"), "{text}");
        assert!(!text.contains("a pipe"), "{text}");
    }
    // The remedy holds.
    assert_eq!(FileMapPrivate::map(&file).unwrap().read_vec(..).unwrap(), b"direct");
}

#[test]
fn a_verified_read_sees_that_a_direct_file_has_fewer_bytes_than_reported() {
    let Some(server) = serve(b"12345", true, 4096) else { return };
    let map = FileMapPrivate::open(server.path()).unwrap();
    assert_eq!(map.len(), 4096);
    let mut bytes = [0; 5];
    map.read_at_verified(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"12345");
    for (offset, length, first) in [(0, 4096, 5), (3, 100, 5), (4, 2, 5), (4000, 10, 4000)] {
        let error = map.read_at_verified(&mut vec![0; length], offset).unwrap_err();
        let fault = error.fault().unwrap();
        assert_eq!(
            (fault.cause(), fault.range()),
            (FaultCause::PastEnd, first..offset + length),
            "{error}"
        );
    }
    // Where whole pages are missing, the kernel itself may see it.
    let Some(server) = serve(b"12345", true, 100_000) else { return };
    let map = FileMapPrivate::open(server.path()).unwrap();
    for (offset, length) in [(0, 100_000), (8000, 10), (99_999, 1)] {
        assert!(map.read_at_verified(&mut vec![0; length], offset).is_err());
    }
}

#[test]
fn a_verified_read_sees_it_in_a_cached_file_too() {
    let Some(server) = serve(b"12345", false, 4096) else { return };
    let map = FileMap::open(server.path()).unwrap();
    let error = map.read_at_verified(&mut [0; 4096], 0).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::PastEnd, "{error}");
    assert_eq!(error.fault().unwrap().range(), 5..4096);
}
