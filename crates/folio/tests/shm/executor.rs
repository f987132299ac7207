//! Executors made by hand: of one future on this thread, and of many.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Far longer than anything here takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Runs a future on this thread.
#[track_caller]
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    let started = Instant::now();
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park_timeout(PATIENCE);
        assert!(started.elapsed() < PATIENCE, "the future is never ready");
    }
}

/// Polls a future once, with a waker that wakes nobody.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// A waker that shows whether anyone still has it, and how often it was woken.
pub(crate) struct Told(pub(crate) std::sync::atomic::AtomicU64);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    }
}

/// Which futures are to be polled.
type Ready = (Mutex<VecDeque<usize>>, Condvar);

/// The waker of one of many.
struct Of(Arc<Ready>, usize);

impl Wake for Of {
    fn wake(self: Arc<Self>) {
        self.0.0.lock().unwrap().push_back(self.1);
        self.0.1.notify_one();
    }
}

/// Runs many futures on several threads until all are ready: each is polled by whichever thread
/// comes first, when it was woken, with a waker of its own each time.
pub(crate) fn run_all_on<'a>(
    threads: usize,
    futures: impl IntoIterator<Item = Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
) {
    let ready: Arc<Ready> = Arc::default();
    let futures: Vec<_> = futures.into_iter().map(|future| Mutex::new(Some(future))).collect();
    ready.0.lock().unwrap().extend(0..futures.len());
    let left = std::sync::atomic::AtomicUsize::new(futures.len());
    let work = || {
        loop {
            let over =
                |queue: &mut VecDeque<usize>| queue.is_empty() && left.load(Ordering::SeqCst) > 0;
            let (mut queue, late) =
                ready.1.wait_timeout_while(ready.0.lock().unwrap(), PATIENCE, over).unwrap();
            assert!(!late.timed_out(), "{} futures are never ready", left.load(Ordering::SeqCst));
            let Some(next) = queue.pop_front() else { return };
            drop(queue);
            let waker = Waker::from(Arc::new(Of(Arc::clone(&ready), next)));
            let mut future = futures[next].lock().unwrap();
            if future.as_mut().is_some_and(|future| {
                future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
            }) {
                *future = None;
                if left.fetch_sub(1, Ordering::SeqCst) == 1 {
                    let _queue = ready.0.lock().unwrap();
                    ready.1.notify_all();
                }
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
}

/// Runs many futures on this thread until all are ready; each is polled when it was woken, and only
/// then.
pub(crate) fn run_all<'a>(
    futures: impl IntoIterator<Item = Pin<Box<dyn Future<Output = ()> + 'a>>>,
) {
    let ready: Arc<Ready> = Arc::default();
    let mut futures: Vec<_> = futures.into_iter().map(Some).collect();
    ready.0.lock().unwrap().extend(0..futures.len());
    let mut left = futures.len();
    while left > 0 {
        let (mut queue, late) = ready
            .1
            .wait_timeout_while(ready.0.lock().unwrap(), PATIENCE, |queue| queue.is_empty())
            .unwrap();
        assert!(!late.timed_out(), "{left} futures are never ready");
        let Some(next) = queue.pop_front() else { continue };
        drop(queue);
        let waker = Waker::from(Arc::new(Of(Arc::clone(&ready), next)));
        if let Some(future) = &mut futures[next]
            && future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        {
            futures[next] = None;
            left -= 1;
        }
    }
}
