//! A source over another one that fails on request.

use folio::source::{FlushRequest, ReadRequest, Source, Version, WriteRequest};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Good,
    /// With an error.
    Error,
    /// With ENOSPC.
    Full,
    /// With a byte less than was asked for, and success.
    Short,
    /// With a byte more than there was room for.
    Long,
    /// Not at all: the request is dropped.
    Dropped,
    /// Never: the request is kept.
    Silence,
    /// Well, after this time.
    Late(Duration),
    /// Well, from other threads in any order.
    Scrambled,
    /// With bytes that are not the source's.
    Forged,
}

/// Reads, writes and flushes of `S` that end as `Answer` says.
pub(crate) struct Faulty<S> {
    inner: Arc<S>,
    reads: Mutex<Answer>,
    writes: Mutex<Answer>,
    flushes: Mutex<Answer>,
    version: AtomicU64,
    deadline: Duration,
    kept: Mutex<Vec<Kept>>,
}

#[allow(dead_code, reason = "kept, so that it is not dropped")]
enum Kept {
    Read(ReadRequest),
    Write(WriteRequest),
    Flush(FlushRequest),
}

fn refused(what: &str) -> io::Error {
    io::Error::other(format!("the {what} is refused"))
}

fn full() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOSPC)
}

impl<S: Source> Faulty<S> {
    pub(crate) fn new(inner: S) -> Arc<Self> {
        Self::with_deadline(inner, Duration::from_secs(20))
    }

    pub(crate) fn with_deadline(inner: S, deadline: Duration) -> Arc<Self> {
        Arc::new(Self {
            inner: Arc::new(inner),
            reads: Mutex::new(Answer::Good),
            writes: Mutex::new(Answer::Good),
            flushes: Mutex::new(Answer::Good),
            version: AtomicU64::new(1),
            deadline,
            kept: Mutex::default(),
        })
    }

    pub(crate) fn inner(&self) -> &S {
        &self.inner
    }

    pub(crate) fn reads(&self, answer: Answer) {
        *self.reads.lock().unwrap() = answer;
    }

    pub(crate) fn writes(&self, answer: Answer) {
        *self.writes.lock().unwrap() = answer;
    }

    pub(crate) fn flushes(&self, answer: Answer) {
        *self.flushes.lock().unwrap() = answer;
    }

    /// From now on the bytes are said to be others.
    pub(crate) fn change_version(&self) {
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    /// Drops the requests that were kept; how many there were.
    pub(crate) fn let_go(&self) -> usize {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap());
        kept.len()
    }
}

/// Runs the works on threads of their own, the last ones first.
fn scrambled(works: Vec<Box<dyn FnOnce() + Send>>) {
    for (n, work) in works.into_iter().rev().enumerate() {
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros((n as u64 * 7_919) % 1_500));
            work();
        });
    }
}

/// Has `inner` read, and completes `request` with the bytes.
fn relay(inner: &impl Source, mut request: ReadRequest) {
    let buffer = vec![0; request.len()].into_boxed_slice();
    let inner_request = ReadRequest::into_buffer(request.offset(), buffer, move |bytes, result| {
        request.buffer().copy_from_slice(&bytes);
        request.complete(result);
    });
    inner.read(vec![inner_request]);
}

impl<S: Source> Source for Faulty<S> {
    fn name(&self) -> String {
        "a faulty source".into()
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
        self.inner.is_writable()
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        let answer = *self.reads.lock().unwrap();
        let mut later: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for mut request in requests {
            let inner = Arc::clone(&self.inner);
            match answer {
                Answer::Good => relay(&*inner, request),
                Answer::Error => request.complete(Err(refused("read"))),
                Answer::Full => request.complete(Err(full())),
                Answer::Short => {
                    let count = request.len() - 1;
                    request.buffer().fill(7);
                    request.complete(Ok(count));
                }
                Answer::Long => {
                    let count = request.len() + 1;
                    request.complete(Ok(count));
                }
                Answer::Dropped => drop(request),
                Answer::Silence => self.kept.lock().unwrap().push(Kept::Read(request)),
                Answer::Late(time) => later.push(Box::new(move || {
                    std::thread::sleep(time);
                    relay(&*inner, request);
                })),
                Answer::Scrambled => later.push(Box::new(move || relay(&*inner, request))),
                Answer::Forged => {
                    request.buffer().fill(0xEE);
                    let count = request.len();
                    request.complete(Ok(count));
                }
            }
        }
        scrambled(later);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        let answer = *self.writes.lock().unwrap();
        let mut later: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
        for request in requests {
            let inner = Arc::clone(&self.inner);
            match answer {
                Answer::Good => inner.write(vec![request]),
                Answer::Full => request.complete(Err(full())),
                Answer::Dropped => drop(request),
                Answer::Silence => self.kept.lock().unwrap().push(Kept::Write(request)),
                Answer::Late(time) => later.push(Box::new(move || {
                    std::thread::sleep(time);
                    inner.write(vec![request]);
                })),
                Answer::Scrambled => later.push(Box::new(move || inner.write(vec![request]))),
                _ => request.complete(Err(refused("write"))),
            }
        }
        scrambled(later);
    }

    fn flush(&self, request: FlushRequest) {
        match *self.flushes.lock().unwrap() {
            Answer::Good => self.inner.flush(request),
            Answer::Dropped => drop(request),
            Answer::Silence => self.kept.lock().unwrap().push(Kept::Flush(request)),
            _ => request.complete(Err(refused("flush"))),
        }
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.inner.resize(len)
    }
}
