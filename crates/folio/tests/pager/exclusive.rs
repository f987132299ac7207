//! One writer an object: among the pagers of a process, among processes, and while a dropped map is
//! being written.

use crate::common::{End, child_succeeds, disk_dir, lower_limit, spawn_child, wait};
use crate::given::{MIB, pager};
use folio::source::{
    FlushRequest, Identity, LocalFile, Memory, ReadRequest, Source, Version, WritableMemory,
    WriteRequest,
};
use folio::{Errno, FaultCause, Pager, WriteBack};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn file(dir: &Path) -> PathBuf {
    let path = dir.join("file");
    fs::write(&path, vec![1; MIB]).unwrap();
    path
}

fn writable(path: &Path) -> LocalFile {
    LocalFile::open_writable(path).unwrap()
}

#[test]
fn two_pagers_of_a_process_do_not_map_one_object_writable() {
    let dir = disk_dir();
    let path = file(dir.path());
    let (one, two) = (pager(4 * MIB), pager(4 * MIB));
    let map = one.map_mut(writable(&path)).unwrap();
    for refused in [
        two.map_mut(writable(&path)).map(drop),
        two.map_shared(writable(&path)).map(drop),
        two.map(LocalFile::open(&path).unwrap()).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.errno(), Errno::BUSY);
        assert!(error.to_string().contains("another pager of this process"), "{error}");
    }
    two.map_private(LocalFile::open(&path).unwrap()).unwrap();
    drop(map);
    let shared = two.map_shared(writable(&path)).unwrap();
    assert_eq!(one.map_shared(writable(&path)).map(drop).unwrap_err().errno(), Errno::BUSY);
    drop(shared);
    let (first, second) = (one.map(writable(&path)).unwrap(), two.map(writable(&path)).unwrap());
    assert!(first[..] == second[..]);
}

#[test]
fn two_processes_do_not_map_one_file_writable() {
    let dir = disk_dir();
    let path = file(dir.path());
    let is_refused = |made: folio::Result<()>| {
        let error = made.unwrap_err();
        assert_eq!(error.errno(), Errno::BUSY);
        assert!(error.to_string().contains("FileMapMut"), "{error}");
    };
    let pager = pager(4 * MIB);
    let mut map = pager.map_mut(writable(&path)).unwrap();
    map[0] = 2;
    child_succeeds(|| {
        let pager = crate::given::pager(4 * MIB);
        is_refused(pager.map_mut(writable(&path)).map(drop));
        is_refused(pager.map_shared(writable(&path)).map(drop));
        assert_eq!(pager.map(LocalFile::open(&path).unwrap()).unwrap()[5], 1);
        assert_eq!(pager.map_private(LocalFile::open(&path).unwrap()).unwrap()[5], 1);
    });
    drop(map);
    let shared = pager.map_shared(writable(&path)).unwrap();
    child_succeeds(|| is_refused(crate::given::pager(4 * MIB).map_mut(writable(&path)).map(drop)));
    drop(shared);
    child_succeeds(|| {
        let mut map = crate::given::pager(4 * MIB).map_mut(writable(&path)).unwrap();
        assert_eq!(map[0], 2);
        map[1] = 3;
        map.close().unwrap();
    });
    assert_eq!(fs::read(&path).unwrap()[..3], [2, 3, 1]);
}

#[test]
fn a_forked_child_does_not_keep_the_lock_of_its_parents_map() {
    let dir = disk_dir();
    let path = file(dir.path());
    let pager = pager(4 * MIB);
    let map = pager.map_mut(writable(&path)).unwrap();
    let (child, _pipe) = spawn_child(|| {
        std::thread::sleep(Duration::from_secs(100));
    });
    drop(map);
    child_succeeds(|| drop(crate::given::pager(4 * MIB).map_mut(writable(&path)).unwrap()));
    // SAFETY: sends a signal to a child of this process that was not waited for.
    unsafe { libc::kill(child, libc::SIGKILL) };
    wait(child);
}

/// `struct flock` for the whole file.
fn whole() -> libc::flock {
    // SAFETY: all zeroes is a valid `struct flock`: of a read lock from the start to the end of all
    // offsets.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    lock
}

#[test]
fn another_processs_lock_on_the_whole_file_is_named_and_ones_own_is_fine() {
    let dir = disk_dir();
    let path = file(dir.path());
    let own = File::options().read(true).write(true).open(&path).unwrap();
    let lock = whole();
    // SAFETY: the kernel reads one `struct flock`.
    assert_eq!(unsafe { libc::fcntl(own.as_raw_fd(), libc::F_SETLK, &raw const lock) }, 0);
    child_succeeds(|| {
        let error = pager(4 * MIB).map_mut(writable(&path)).map(drop).unwrap_err();
        assert_eq!(error.errno(), Errno::BUSY);
        assert!(error.to_string().contains("fcntl(2)"), "{error}");
    });
    let pager = pager(4 * MIB);
    let mut map = pager.map_mut(writable(&path)).unwrap();
    map[0] = 9;
    map.close().unwrap();
    assert_eq!(pager.stats().unwrap().locks_refused, 1);
}

/// From now on every attempt of this process to take a lock of an open file description ends in
/// ENOLCK.
fn without_locks() {
    const CALL: u32 = 0;
    const SECOND: u32 = 24;
    let load = |at| libc::sock_filter { code: 0x20, jt: 0, jf: 0, k: at };
    let skip_unless = |value, count| libc::sock_filter { code: 0x15, jt: 0, jf: count, k: value };
    let end = |value| libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: value };
    let mut steps = [
        load(CALL),
        skip_unless(libc::SYS_fcntl as u32, 3),
        load(SECOND),
        skip_unless(libc::F_OFD_SETLK as u32, 1),
        end(libc::SECCOMP_RET_ERRNO | libc::ENOLCK as u32),
        end(libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: steps.len() as u16, filter: steps.as_mut_ptr() };
    // SAFETY: the kernel copies the filter, which concerns no memory.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter),
            0
        );
    }
}

#[test]
fn a_file_system_without_locks_is_reported_and_its_files_are_mapped() {
    let dir = disk_dir();
    let path = file(dir.path());
    child_succeeds(|| {
        without_locks();
        let pager = pager(4 * MIB);
        let mut map = pager.map_mut(writable(&path)).unwrap();
        map[0] = 5;
        map.sync(.., WriteBack::Wait).unwrap();
        let stats = pager.stats().unwrap();
        assert_eq!((stats.locks_refused, stats.lock_refusal), (1, Some(libc::ENOLCK)));
    });
    assert_eq!(fs::read(&path).unwrap()[..2], [5, 1]);
}

#[test]
fn a_file_for_whose_lock_there_is_no_descriptor_is_not_mapped_without_it() {
    let dir = disk_dir();
    let path = file(dir.path());
    drop(pager(4 * MIB));
    child_succeeds(|| {
        let pager = pager(4 * MIB);
        let file = writable(&path);
        let next = File::open("/dev/null").unwrap().as_raw_fd();
        lower_limit(libc::RLIMIT_NOFILE, next as u64);
        let error = pager.map_mut(file).map(drop).unwrap_err();
        assert_eq!(error.errno(), Errno::MFILE, "{error}");
    });
}

type Call = Box<dyn FnMut() + Send>;

/// Bytes that are written only after a call of the test's.
struct Calling {
    bytes: Arc<WritableMemory>,
    call: Arc<Mutex<Call>>,
    identity: Identity,
}

impl Source for Calling {
    fn name(&self) -> String {
        "calling".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.bytes.len()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn identity(&self) -> Option<Identity> {
        Some(self.identity)
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        self.bytes.read(requests);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        (self.call.lock().unwrap())();
        self.bytes.write(requests);
    }

    fn flush(&self, request: FlushRequest) {
        self.bytes.flush(request);
    }
}

fn calling(call: impl FnMut() + Send + 'static, number: u64) -> (Calling, Arc<WritableMemory>) {
    let bytes = Arc::new(WritableMemory::new(vec![1; MIB]));
    let source = Calling {
        bytes: Arc::clone(&bytes),
        call: Arc::new(Mutex::new(Box::new(call))),
        identity: Identity(u64::MAX, number),
    };
    (source, bytes)
}

/// A pager that writes nothing back by itself.
fn patient() -> Pager {
    Pager::builder().budget(8 * MIB).write_back_after(Duration::from_secs(3600)).build().unwrap()
}

fn first_byte(pager: &Pager, bytes: Arc<WritableMemory>) -> u8 {
    pager.map(bytes).unwrap()[0]
}

#[test]
fn other_sources_are_mapped_while_a_dropped_map_is_written() {
    let pager = patient();
    let (begun, begins): (Sender<()>, Receiver<()>) = channel();
    let (mapped, maps): (Sender<()>, Receiver<()>) = channel();
    let (result, came) = channel();
    let call = move || {
        let _ = begun.send(());
        let _ = result.send(maps.recv_timeout(Duration::from_secs(20)));
    };
    let (source, bytes) = calling(call, 1);
    let mut map = pager.map_mut(source).unwrap();
    map[0] = 7;
    let dropping = std::thread::spawn(move || drop(map));
    begins.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(pager.map(Memory::from(vec![3; 10])).unwrap()[0], 3);
    let _identified = pager.map(Arc::new(WritableMemory::new(vec![4; 10]))).unwrap();
    mapped.send(()).unwrap();
    assert_eq!(came.recv().unwrap(), Ok(()), "the other map waited for the write");
    dropping.join().unwrap();
    assert_eq!(first_byte(&pager, bytes), 7);
}

#[test]
fn a_map_of_a_source_that_is_being_written_waits_and_reads_the_stored_bytes() {
    let pager = patient();
    let (begun, begins): (Sender<()>, Receiver<()>) = channel();
    let call = move || {
        let _ = begun.send(());
        std::thread::sleep(Duration::from_millis(200));
    };
    let (source, bytes) = calling(call, 2);
    let again = Calling { bytes, call: Arc::clone(&source.call), identity: source.identity };
    let mut map = pager.map_mut(source).unwrap();
    map[0] = 7;
    let dropping = std::thread::spawn(move || drop(map));
    begins.recv_timeout(Duration::from_secs(60)).unwrap();
    assert_eq!(pager.map(again).unwrap()[0], 7);
    dropping.join().unwrap();
}

/// Bytes whose version counts their writes; a write waits as `call` does.
struct Counted {
    inner: Calling,
    version: Arc<AtomicU64>,
    deadline: Duration,
}

impl Source for Counted {
    fn name(&self) -> String {
        "counted".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn version(&self) -> io::Result<Version> {
        Ok(Version(self.version.load(Ordering::SeqCst), 0))
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn identity(&self) -> Option<Identity> {
        self.inner.identity()
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        self.inner.read(requests);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        (self.inner.call.lock().unwrap())();
        // Before the writes complete.
        self.version.fetch_add(1, Ordering::SeqCst);
        self.inner.bytes.write(requests);
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        panic!("a source that panics at {len} bytes, on purpose");
    }
}

#[test]
fn a_panic_of_resize_is_an_error_after_which_other_writers_are_still_seen() {
    let pager = patient();
    let (inner, _) = calling(|| (), 8);
    let version = Arc::new(AtomicU64::new(1));
    let deadline = Duration::from_secs(30);
    let mut map =
        pager.map_mut(Counted { inner, version: Arc::clone(&version), deadline }).unwrap();
    assert!(map.resize(MIB + 1).unwrap_err().to_string().contains("on purpose"));
    map[0] = 7;
    map.sync(.., WriteBack::Wait).unwrap();
    version.store(99, Ordering::SeqCst);
    map[0] = 8;
    let error = map.sync(.., WriteBack::Wait).unwrap_err();
    assert_eq!(error.fault().map(folio::Fault::cause), Some(FaultCause::Changed), "{error}");
}

/// Maps the file writable as often, each time adding one to its first number, whichever process has
/// it for a moment.
fn add(pager: &Pager, path: &Path, times: u64) {
    for n in 0..times {
        let start = Instant::now();
        let mut map = loop {
            match pager.map_mut(writable(path)) {
                Ok(map) => break map,
                Err(error) => {
                    assert_eq!(error.errno(), Errno::BUSY, "{error}");
                    assert!(
                        start.elapsed() < Duration::from_secs(60),
                        "it is busy for ever: {error}"
                    );
                    std::thread::yield_now();
                }
            }
        };
        let number = u64::from_ne_bytes(map[..8].try_into().unwrap());
        map[..8].copy_from_slice(&(number + 1).to_ne_bytes());
        let end = MIB - 8 * (n as usize + 1);
        map[end..end + 8].copy_from_slice(&n.to_ne_bytes());
        if n % 3 == 0 {
            map.close().unwrap();
        }
    }
}

#[test]
fn no_store_is_lost_among_threads_and_processes_that_map_one_file_in_turn() {
    const TIMES: u64 = 20;
    let dir = disk_dir();
    let path = file(dir.path());
    fs::write(&path, vec![0; MIB]).unwrap();
    drop(pager(4 * MIB));
    let (child, _pipe) = spawn_child(|| add(&crate::given::pager(4 * MIB), &path, TIMES));
    let (one, two) = (pager(4 * MIB), pager(4 * MIB));
    std::thread::scope(|scope| {
        for pager in [&one, &one, &two] {
            scope.spawn(|| add(pager, &path, TIMES));
        }
    });
    assert_eq!(wait(child), End::Exited(0));
    let bytes = fs::read(&path).unwrap();
    assert_eq!(u64::from_ne_bytes(bytes[..8].try_into().unwrap()), 4 * TIMES);
}

#[test]
fn stores_past_a_length_that_the_source_refuses_are_kept() {
    let pager = patient();
    // It has no `resize`.
    let (source, _) = calling(|| (), 6);
    let mut map = pager.map_mut(source).unwrap();
    map[MIB - 1] = 7;
    map[5_000] = 8;
    map.resize(100).unwrap_err();
    assert_eq!((map.len(), map[5_000], map[MIB - 1]), (MIB, 8, 7));
}

#[test]
fn a_source_whose_map_was_dropped_with_an_error_is_free_at_once() {
    let pager = patient();
    let (source, bytes) = calling(|| (), 7);
    let again = Calling { bytes, call: Arc::clone(&source.call), identity: source.identity };
    let version = Arc::new(AtomicU64::new(1));
    let source =
        Counted { inner: source, version: Arc::clone(&version), deadline: Duration::from_secs(30) };
    let mut map = pager.map_mut(source).unwrap();
    map[0] = 7;
    version.store(99, Ordering::SeqCst);
    drop(map);
    assert_eq!(pager.map_mut(again).unwrap()[0], 1);
}

#[test]
fn a_map_that_waited_for_a_write_shows_the_version_after_it() {
    let pager = patient();
    let (begun, begins): (Sender<()>, Receiver<()>) = channel();
    let call = move || {
        let _ = begun.send(());
        std::thread::sleep(Duration::from_millis(500));
    };
    let (inner, bytes) = calling(call, 4);
    let again = Calling { bytes, call: Arc::clone(&inner.call), identity: inner.identity };
    let (version, deadline) = (Arc::new(AtomicU64::new(1)), Duration::from_secs(30));
    let again = Counted { inner: again, version: Arc::clone(&version), deadline };
    let mut map = pager.map_mut(Counted { inner, version, deadline }).unwrap();
    map[0] = 7;
    let dropping = std::thread::spawn(move || drop(map));
    begins.recv_timeout(Duration::from_secs(60)).unwrap();
    let map = pager.map(again).unwrap();
    let mut read = [0];
    map.read_at(&mut read, 0).unwrap();
    assert_eq!(read, [7]);
    dropping.join().unwrap();
}

#[test]
fn a_source_is_busy_until_a_write_that_outlives_its_map_has_ended() {
    let pager = patient();
    let (go, gone): (Sender<()>, Receiver<()>) = channel();
    let (inner, bytes) = calling(move || _ = gone.recv_timeout(Duration::from_secs(60)), 5);
    let again = || {
        let (bytes, call) = (Arc::clone(&bytes), Arc::clone(&inner.call));
        Calling { bytes, call, identity: Identity(u64::MAX, 5) }
    };
    let (version, deadline) = (Arc::new(AtomicU64::new(1)), Duration::from_millis(200));
    let mut map = pager.map_mut(Counted { inner: again(), version, deadline }).unwrap();
    map[0] = 7;
    drop(map);
    let error = pager.map(again()).map(drop).unwrap_err();
    assert_eq!(error.errno(), Errno::BUSY, "{error}");
    assert!(error.to_string().contains("has not ended"), "{error}");
    go.send(()).unwrap();
    let start = Instant::now();
    let map = loop {
        match pager.map(again()) {
            Ok(map) => break map,
            Err(error) => assert!(start.elapsed() < Duration::from_secs(30), "{error}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert_eq!(map[0], 7);
}

#[test]
fn a_source_maps_other_sources_in_write_and_its_own_is_an_error() {
    let pager = patient();
    let (told, outcomes) = channel();
    let (mapping, identity) = (pager.clone(), Identity(u64::MAX, 3));
    let call = move || {
        let other = mapping.map(Arc::new(WritableMemory::new(vec![4; 10]))).map(|map| map[0]);
        let call: Call = Box::new(|| ());
        let itself = Calling {
            bytes: Arc::new(WritableMemory::new(vec![5; 10])),
            call: Arc::new(Mutex::new(call)),
            identity,
        };
        let _ =
            told.send((other.ok(), mapping.map(itself).map(drop).map_err(|error| error.errno())));
    };
    let (source, bytes) = calling(call, 3);
    let mut map = pager.map_mut(source).unwrap();
    map[0] = 7;
    drop(map);
    assert_eq!(outcomes.recv().unwrap(), (Some(4), Err(Errno::BUSY)));
    assert_eq!(first_byte(&pager, bytes), 7, "the drop has lost what was stored");
}
