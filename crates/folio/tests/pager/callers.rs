//! Threads that call sources: the thread that serves faults never does, and no source waits for
//! another one.

use crate::common::{End, become_nobody, in_child, lower_limit};
use crate::given::{MIB, pager, pattern};
use folio::source::{FastPath, Identity, Memory, ReadRequest, Source, Version};
use folio::{Paged, Pager};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

/// A source whose reads block the calling thread for as long as the gate is shut.
struct Blocked {
    bytes: Vec<u8>,
    shut: Mutex<bool>,
    opened: Condvar,
    inside: AtomicUsize,
    most: AtomicUsize,
}

impl Blocked {
    fn new(len: usize) -> Arc<Self> {
        Arc::new(Self {
            bytes: pattern(len),
            shut: Mutex::new(true),
            opened: Condvar::new(),
            inside: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    fn open(&self) {
        *self.shut.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl Source for Blocked {
    fn name(&self) -> String {
        "blocked".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        let mut shut = self.shut.lock().unwrap();
        while *shut {
            shut = self.opened.wait(shut).unwrap();
        }
        drop(shut);
        self.inside.fetch_sub(1, Ordering::SeqCst);
        for mut request in requests {
            let (start, count) = (request.offset() as usize, request.len());
            request.buffer().copy_from_slice(&self.bytes[start..start + count]);
            request.complete(Ok(count));
        }
    }
}

/// Waits until `reached` says so.
#[track_caller]
fn until(reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(30), "it never came to this");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Eight threads that each wait for a page of their own of a blocked source, while `meanwhile`
/// runs. At least the first `calls` of them wait in a call of the source of their own. The map that
/// they read.
fn while_stuck(pager: &Pager, calls: usize, meanwhile: impl FnOnce(&Blocked)) -> Paged {
    let stuck = Blocked::new(64 * MIB);
    let map = pager.map(Arc::clone(&stuck)).unwrap();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..8)
            .map(|n| {
                let (map, stuck) = (&map, &stuck);
                let at = n * 8 * MIB + 5;
                let reader = scope.spawn(move || map.read_at(&mut [0], at));
                until(|| stuck.inside.load(Ordering::SeqCst) > n.min(calls - 1));
                reader
            })
            .collect();
        meanwhile(&stuck);
        stuck.open();
        for reader in readers {
            reader.join().unwrap().unwrap();
        }
    });
    map
}

#[test]
fn a_stuck_source_does_not_delay_another_one() {
    let pager = pager(16 * MIB);
    while_stuck(&pager, 4, |_| {
        let other = Blocked::new(MIB);
        other.open();
        let map = pager.map(Arc::clone(&other)).unwrap();
        let (done, ended) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(map[..] == pattern(MIB)[..]));
        assert!(
            ended.recv_timeout(Duration::from_secs(20)).unwrap_or(false),
            "it waits for the stuck one"
        );
    });
}

#[test]
fn a_blocking_source_is_called_by_as_many_threads_as_there_are_reads() {
    let pager = pager(16 * MIB);
    while_stuck(&pager, 8, |_| ());
}

#[test]
fn no_more_threads_than_were_asked_for_call_a_source() {
    let pager = Pager::builder().budget(16 * MIB).source_threads(2).build().unwrap();
    while_stuck(&pager, 2, |stuck| {
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(stuck.most.load(Ordering::SeqCst), 2);
    });
}

/// A source that reads through a map.
struct Nested(Paged);

impl Source for Nested {
    fn name(&self) -> String {
        "nested".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for mut request in requests {
            let offset = request.offset() as usize;
            let read = self.0.read_at(request.buffer(), offset);
            let count = request.len();
            request.complete(read.map(|()| count).map_err(io::Error::other));
        }
    }
}

#[test]
fn sources_that_read_through_maps_of_their_own_pager_do_not_deadlock() {
    let pager = pager(16 * MIB);
    let mut map = pager.map(Memory::from(pattern(MIB))).unwrap();
    for _ in 0..8 {
        map = pager.map(Nested(map)).unwrap();
    }
    let (done, ended) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(map[..] == pattern(MIB)[..]));
    assert!(
        ended.recv_timeout(Duration::from_secs(25)).unwrap_or(false),
        "they wait for each other"
    );
}

/// As [`in_child`]. The machine is probed before: a child that is forked while another test probes
/// would wait for that test's thread.
fn in_probed_child(work: impl FnOnce()) -> End {
    drop(pager(4 * MIB));
    in_child(work)
}

/// Threads of this process that call sources.
fn workers() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let is_worker = |task: io::Result<std::fs::DirEntry>| {
        let name = std::fs::read_to_string(task.unwrap().path().join("comm"));
        name.is_ok_and(|name| name.trim() == "folio-io")
    };
    tasks.map(is_worker).filter(|&worker| worker).count()
}

#[test]
fn threads_that_have_nothing_to_call_end() {
    let end = in_probed_child(|| {
        let pager = pager(16 * MIB);
        let map = while_stuck(&pager, 8, |_| ());
        assert!(workers() > 0);
        until(|| workers() == 0);
        assert_eq!(map[MIB], pattern(MIB + 1)[MIB], "there are threads again when they are needed");
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn many_sources_that_are_called_in_turn_need_few_threads() {
    let end = in_probed_child(|| {
        let pager = pager(64 * MIB);
        let maps: Vec<_> = (0..200)
            .map(|_| {
                let source = Blocked::new(10_000);
                source.open();
                let map = pager.map(source).unwrap();
                map.read_at(&mut [0], 5_000).unwrap();
                map
            })
            .collect();
        let workers = workers();
        assert!(workers < 100, "{workers} threads for {} sources", maps.len());
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn a_source_that_no_thread_can_call_is_an_error_that_says_so() {
    let end = in_probed_child(|| {
        let pager = pager(16 * MIB);
        let (blocked, memory) = (Blocked::new(MIB), Memory::from(pattern(MIB)));
        blocked.open();
        let (map, other) = (pager.map(blocked).unwrap(), pager.map(memory).unwrap());
        // The limit is the user's, and root has none.
        become_nobody();
        lower_limit(libc::RLIMIT_NPROC, 0);
        let error = map.read_at(&mut [0], 5_000).unwrap_err();
        assert!(error.to_string().contains("no thread can be started"), "{error}");
        assert!(other[..] == pattern(MIB)[..], "what needs no thread goes on");
    });
    assert_eq!(end, End::Exited(0));
}

#[test]
fn at_the_limit_of_threads_a_source_waits_for_a_thread_that_is_busy() {
    let end = in_probed_child(|| {
        let pager = pager(16 * MIB);
        let (first, second) = (Blocked::new(MIB), Blocked::new(MIB));
        second.open();
        let maps = [&first, &second].map(|source| pager.map(Arc::clone(source)).unwrap());
        let (go, gone) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| maps[0].read_at(&mut [0], 5_000));
            let second = &maps[1];
            let later = scope.spawn(move || {
                gone.recv().unwrap();
                second.read_at(&mut [0], 5_000)
            });
            until(|| first.inside.load(Ordering::SeqCst) > 0 && workers() == 1);
            become_nobody();
            lower_limit(libc::RLIMIT_NPROC, 0);
            go.send(()).unwrap();
            std::thread::sleep(Duration::from_millis(100));
            first.open();
            reader.join().unwrap().unwrap();
            later.join().unwrap().unwrap();
        });
    });
    assert_eq!(end, End::Exited(0));
}

/// A source that panics when it is asked this.
struct Panicking(&'static str);

impl Panicking {
    fn asked(&self, question: &str) {
        assert!(self.0 != question, "no answer to {question}");
    }
}

impl Source for Panicking {
    fn name(&self) -> String {
        self.asked("name");
        "panicking".into()
    }

    fn len(&self) -> io::Result<u64> {
        self.asked("len");
        Ok(MIB as u64)
    }

    fn version(&self) -> io::Result<Version> {
        self.asked("version");
        Ok(Version(1, 1))
    }

    fn block(&self) -> usize {
        self.asked("block");
        4096
    }

    fn deadline(&self) -> Duration {
        self.asked("deadline");
        Duration::from_secs(10)
    }

    fn is_writable(&self) -> bool {
        self.asked("is_writable");
        true
    }

    fn identity(&self) -> Option<Identity> {
        self.asked("identity");
        None
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for request in requests {
            let count = request.len();
            request.complete(Ok(count));
        }
    }

    fn fast_path(&self) -> FastPath<'_> {
        self.asked("at_hand");
        Memory::fast_path(EMPTY.get_or_init(|| Memory::from(vec![0; MIB])))
    }
}

static EMPTY: std::sync::OnceLock<Memory> = std::sync::OnceLock::new();

#[test]
fn a_panic_in_an_answer_of_a_source_is_an_error_of_map() {
    let end = in_probed_child(|| {
        let pager = pager(16 * MIB);
        for question in ["name", "len", "version", "block", "deadline", "identity", "at_hand"] {
            let error = pager.map(Panicking(question)).map(drop).expect_err(question);
            assert!(error.to_string().contains(&format!("no answer to {question}")), "{error}");
        }
        let error = pager.map_mut(Panicking("is_writable")).map(drop).expect_err("is_writable");
        assert!(error.to_string().contains("no answer to is_writable"), "{error}");
        assert_eq!(pager.map(Panicking("nothing")).unwrap()[5], 0);
    });
    assert_eq!(end, End::Exited(0));
}
