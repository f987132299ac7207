//! Sources and files that change while they are mapped: which bytes a map may show then.

use crate::common::{disk_dir, file_with, memory_dir};
use crate::engines::{Access, Map, every_engine};
use crate::given::{MIB, pager, pattern};
use folio::source::{FastPath, LocalFile, Memory, ReadRequest, Source, Version};
use folio::{Advice, Error, FaultCause, Pager};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[track_caller]
fn cause(error: &Error) -> FaultCause {
    error.fault().unwrap_or_else(|| panic!("no fault: {error}")).cause()
}

/// Bytes that are all the number of their version. A read says that it has begun, and ends when it
/// may.
struct Gated {
    version: AtomicU64,
    /// `version` fails.
    speechless: AtomicBool,
    begun: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
    writable: bool,
}

impl Gated {
    fn new() -> (Arc<Self>, Receiver<()>, Sender<()>) {
        let ((begun, has_begun), (may_end, go)) = (channel(), channel());
        let source = Self {
            version: AtomicU64::new(1),
            speechless: AtomicBool::new(false),
            begun: Mutex::new(begun),
            go: Mutex::new(go),
            writable: false,
        };
        (Arc::new(source), has_begun, may_end)
    }
}

impl Source for Gated {
    fn name(&self) -> String {
        "gated".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(MIB as u64)
    }

    fn version(&self) -> io::Result<Version> {
        if self.speechless.load(Ordering::SeqCst) {
            return Err(io::Error::other("the version cannot be told"));
        }
        Ok(Version(self.version.load(Ordering::SeqCst), 0))
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for mut request in requests {
            let _ = self.begun.lock().unwrap().send(());
            let _ = self.go.lock().unwrap().recv();
            let byte = self.version.load(Ordering::SeqCst) as u8;
            request.buffer().fill(byte);
            let count = request.len();
            request.complete(Ok(count));
        }
    }
}

/// Each way in which a page comes into a read-only map of `source`, and the byte that it then has.
type Way = fn(&Pager, Arc<Gated>) -> folio::Result<u8>;

const WAYS: [(&str, Way); 4] = [
    ("a read", |pager, source| {
        let (map, mut byte) = (pager.map(source)?, [0]);
        map.read_at(&mut byte, 5_000).map(|()| byte[0])
    }),
    ("a prefetch", |pager, source| {
        let (map, mut byte) = (pager.map(source)?, [0]);
        map.prefetch(&[0..4_096, 4_096..8_192])?;
        map.read_at(&mut byte, 5_000).map(|()| byte[0])
    }),
    ("a pin", |pager, source| {
        let (map, mut byte) = (pager.map(source)?, [0]);
        map.advise(0..8_192, Advice::PopulateRead)?;
        map.read_at(&mut byte, 5_000).map(|()| byte[0])
    }),
    ("a private map", |pager, source| {
        let (map, mut byte) = (pager.map_private(source)?, [0]);
        map.read_at(&mut byte, 5_000).map(|()| byte[0])
    }),
];

/// Has a page come in each way, does `meanwhile` while it is read, and says how that ended.
fn while_read(meanwhile: fn(&Gated)) -> Vec<(&'static str, folio::Result<u8>)> {
    WAYS.map(|(name, way)| {
        let (source, has_begun, may_end) = Gated::new();
        let reader = Arc::clone(&source);
        let reading = std::thread::spawn(move || way(&pager(16 * MIB), reader));
        has_begun.recv_timeout(Duration::from_secs(30)).expect(name);
        meanwhile(&source);
        // All reads from here on end at once.
        drop(may_end);
        (name, reading.join().unwrap())
    })
    .into()
}

#[test]
fn bytes_of_a_version_that_came_during_the_read_are_never_shown() {
    for (name, end) in while_read(|source| source.version.store(2, Ordering::SeqCst)) {
        assert_eq!(cause(&end.expect_err(name)), FaultCause::Changed, "{name}");
    }
}

#[test]
fn a_read_of_one_version_shows_its_bytes() {
    for (name, end) in while_read(|_| ()) {
        assert_eq!(end.unwrap(), 1, "{name}");
    }
}

#[test]
fn an_unknown_version_after_a_read_is_an_error_in_the_sources_words() {
    for (name, end) in while_read(|source| source.speechless.store(true, Ordering::SeqCst)) {
        let error = end.expect_err(name);
        assert_eq!(cause(&error), FaultCause::SourceFailed, "{name}");
        assert!(error.to_string().contains("the version cannot be told"), "{name}: {error}");
    }
}

#[test]
fn an_unknown_version_before_a_read_is_an_error_and_no_read() {
    let (source, has_begun, may_end) = Gated::new();
    let map = pager(16 * MIB).map(Arc::clone(&source)).unwrap();
    source.speechless.store(true, Ordering::SeqCst);
    drop(may_end);
    assert_eq!(cause(&map.read_at(&mut [0], 0).unwrap_err()), FaultCause::SourceFailed);
    assert!(has_begun.try_recv().is_err(), "the source was read");
    source.speechless.store(false, Ordering::SeqCst);
    assert_eq!(map[0], 1, "it is no error for ever");
}

/// One of two memories at hand; it changes sides when it is asked for the bytes.
struct Turning {
    sides: [Memory; 2],
    other: AtomicU64,
}

impl Source for Turning {
    fn name(&self) -> String {
        "turning".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.sides[0].len()
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version(1 + self.other.load(Ordering::SeqCst), 0))
    }

    fn read(&self, _: Vec<ReadRequest>) {}

    fn fast_path(&self) -> FastPath<'_> {
        let side = self.other.fetch_add(1, Ordering::SeqCst) + 1;
        self.sides[(side % 2) as usize].fast_path()
    }
}

#[test]
fn a_version_that_changes_while_a_map_is_made_is_an_error_of_map() {
    let sides = [vec![1; MIB], vec![2; MIB]].map(Memory::from);
    let error = pager(4 * MIB).map(Turning { sides, other: AtomicU64::new(0) }).unwrap_err();
    assert!(error.to_string().contains("version"), "{error}");
}

/// An event that leaves the bytes of an open file as they are.
type Act = fn(&Path);

const ACTS: [(&str, Act); 7] = [
    ("rename", |path| std::fs::rename(path, path.with_extension("old")).unwrap()),
    ("replacement", |path| {
        let new = path.with_extension("new");
        std::fs::write(&new, vec![0xEE; 100]).unwrap();
        std::fs::rename(new, path).unwrap();
    }),
    ("unlink", |path| std::fs::remove_file(path).unwrap()),
    ("chmod", |path| std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap()),
    ("link", |path| std::fs::hard_link(path, path.with_extension("link")).unwrap()),
    ("touch", |path| {
        let file = File::options().append(true).open(path).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    }),
    ("append", |path| {
        let file = File::options().append(true).open(path).unwrap();
        io::Write::write_all(&mut &file, &[0xEE; 10_000]).unwrap();
    }),
];

#[test]
fn maps_of_a_file_survive_changes_that_leave_its_bytes_alone() {
    let bytes = pattern(6 * MIB + 100);
    for make_dir in [|| Some(disk_dir()), memory_dir] {
        every_engine(|engine| {
            for access in [Access::Read, Access::Private] {
                for (name, act) in ACTS {
                    let Some(dir) = make_dir() else { continue };
                    let path = file_with(dir.path(), &bytes);
                    let map = engine.map(File::open(&path).unwrap(), access).unwrap();
                    assert_eq!(map.read(5..6), bytes[5..6]);
                    act(&path);
                    assert_eq!(map.len(), bytes.len(), "{name}");
                    assert!(map.read_all() == bytes, "{access:?} {name}");
                    assert!(map.read_all() == bytes, "{access:?} {name}, read again");
                }
            }
        });
    }
}

#[test]
fn a_page_that_was_not_shown_is_read_as_the_file_is_now() {
    let dir = disk_dir();
    every_engine(|engine| {
        for access in [Access::Read, Access::Private] {
            let mut bytes = pattern(6 * MIB);
            let path = file_with(dir.path(), &bytes);
            let map = engine.map(File::open(&path).unwrap(), access).unwrap();
            map.advise(0..bytes.len(), Advice::Random).unwrap();
            assert_eq!(map.read(0..10), bytes[..10]);
            let file = File::options().write(true).open(&path).unwrap();
            file.write_all_at(&[0xEE; 10_000], 5 * MIB as u64).unwrap();
            bytes[5 * MIB..5 * MIB + 10_000].fill(0xEE);
            assert!(map.read_all() == bytes, "{access:?}");
        }
    });
}

#[test]
fn a_page_that_was_shown_is_the_same_or_an_error_though_the_file_changes() {
    let dir = disk_dir();
    let bytes = pattern(6 * MIB);
    for private in [false, true] {
        let path = file_with(dir.path(), &bytes);
        let (pager, source) = (pager(4 * MIB), LocalFile::open(&path).unwrap());
        let map: Box<dyn Map> = if private {
            Box::new(pager.map_private(source).unwrap())
        } else {
            Box::new(pager.map(source).unwrap())
        };
        assert!(map.read_all() == bytes);
        map.advise(0..bytes.len(), Advice::Cold).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.write_all_at(&[0xEE; 10], 5 * MIB as u64 + 7).unwrap();
        let error = map.read_at(&mut [0], 5 * MIB).unwrap_err();
        assert_eq!(cause(&error), FaultCause::Changed, "{error}");
        assert!(map.read(0..4 * MIB) == bytes[..4 * MIB], "the others are as they were");
        file.write_all_at(&bytes[5 * MIB..][..20], 5 * MIB as u64).unwrap();
        assert!(map.read_all() == bytes, "the bytes are back");
    }
}

#[test]
fn a_file_of_one_version_shows_no_page_of_a_later_one() {
    let bytes = pattern(6 * MIB);
    for (name, act) in ACTS {
        for private in [false, true] {
            let dir = disk_dir();
            let path = file_with(dir.path(), &bytes);
            let (pager, source) = (pager(16 * MIB), LocalFile::open(&path).unwrap().one_version());
            let map: Box<dyn Map> = if private {
                Box::new(pager.map_private(source).unwrap())
            } else {
                Box::new(pager.map(source).unwrap())
            };
            map.advise(0..bytes.len(), Advice::Random).unwrap();
            assert_eq!(map.read(0..10), bytes[..10]);
            // The clock of the file's times has to go on.
            std::thread::sleep(Duration::from_millis(30));
            act(&path);
            let error = map.read_at(&mut [0], 5 * MIB).unwrap_err();
            assert_eq!(cause(&error), FaultCause::Changed, "{name}: {error}");
            assert_eq!(map.read(0..10), bytes[..10], "{name}: it is in memory");
        }
    }
}

#[test]
fn a_scan_of_a_file_that_grows_meanwhile_is_no_error() {
    let dir = disk_dir();
    let bytes = pattern(12 * MIB);
    let path = file_with(dir.path(), &bytes);
    let map = pager(4 * MIB).map(LocalFile::open(&path).unwrap()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = File::options().append(true).open(&path).unwrap();
            // As long as the reader needs, but no full disk.
            for _ in 0..1_000_000 {
                if done.load(Ordering::SeqCst) {
                    break;
                }
                io::Write::write_all(&mut &file, &[0xEE; 30]).unwrap();
            }
        });
        for _ in 0..2 {
            let mut read = vec![0; bytes.len()];
            let end = map.read_at(&mut read, 0);
            done.store(end.is_err(), Ordering::SeqCst);
            end.unwrap();
            assert!(read == bytes);
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn the_tail_of_a_file_that_was_cut_below_the_map_is_a_fault() {
    let dir = disk_dir();
    let bytes = pattern(6 * MIB);
    let path = file_with(dir.path(), &bytes);
    let map = pager(4 * MIB).map(LocalFile::open(&path).unwrap()).unwrap();
    map.advise(.., Advice::Random).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(MIB as u64).unwrap();
    assert!(map.read_at(&mut [0], 5 * MIB).unwrap_err().fault().is_some());
    let mut head = vec![0; MIB];
    map.read_at(&mut head, 0).unwrap();
    assert!(head == bytes[..MIB], "the head is there");
}

#[test]
fn maps_of_one_version_and_of_stable_pages_are_not_the_same_map() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &vec![1; 4 * MIB]);
    let pager = pager(16 * MIB);
    let strict = || LocalFile::open(&path).unwrap().one_version();
    let by_page = || LocalFile::open(&path).unwrap();
    let maps =
        [pager.map(by_page()), pager.map(strict()), pager.map(by_page())].map(Result::unwrap);
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let [first, second, third] = maps.map(|map| map.read_at(&mut [0], 0));
    first.unwrap();
    assert_eq!(cause(&second.unwrap_err()), FaultCause::Changed);
    third.unwrap();
    let [first, second] = [pager.map(strict()), pager.map(by_page())].map(Result::unwrap);
    file.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(cause(&first.read_at(&mut [0], 0).unwrap_err()), FaultCause::Changed);
    second.read_at(&mut [0], 0).unwrap();
}
