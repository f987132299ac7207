//! Pools of threads for work that blocks. Threads start when there is work, and end when there is
//! none for a while.
//!
//! All pools of the process have their idle threads in common: a pool has only as many threads as
//! it has jobs under way, and thousands of pools need no more threads than one.

use crate::sys::per_process::PerProcess;
use crate::sys::{self, identity};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

type Job = Box<dyn FnOnce() + Send>;

/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// Threads that do jobs in the order in which they came, several at once.
///
/// Dropping it waits for nothing: queued jobs are still done. A stuck thread keeps only the queue
/// alive, and the values that its job owns.
pub(crate) struct Workers {
    queue: Arc<JobQueue>,
    most: usize,
    /// The process that has the threads: a forked child has none of them.
    process: u64,
}

#[derive(Default)]
struct JobQueue {
    state: Mutex<WorkersState>,
}

/// Where there are jobs, there is a thread that does them or is on its way.
#[derive(Default)]
struct WorkersState {
    jobs: VecDeque<Job>,
    threads: usize,
}

/// The threads of all pools of a process.
#[derive(Default)]
struct WorkerThreads {
    state: Mutex<WorkersShared>,
    wake: Condvar,
}

#[derive(Default)]
struct WorkersShared {
    /// Threads without a queue.
    idle: usize,
    /// Threads that have one.
    busy: usize,
    /// Queues that each want one more thread.
    wanted: VecDeque<Arc<JobQueue>>,
}

static THREADS: PerProcess<WorkerThreads> = PerProcess::new();

/// The behaviour where no thread can be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AtLimit {
    /// The next thread that has nothing to do takes the job, if any thread is busy.
    Wait,
    Refuse,
}

impl Workers {
    /// A pool of at most so many threads, at least one. None runs yet.
    pub(crate) fn new(most: usize) -> Self {
        Self { queue: Arc::default(), most: most.max(1), process: identity::token() }
    }

    /// Queues a job. Where no thread can be had (in a forked child, or at the limit of threads),
    /// the caller does it.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        if self.process != identity::token() {
            return job();
        }
        // The caller may be the only busy thread, and wait for the job.
        if let Err((_, jobs)) = self.queue_up(Box::new(job), AtLimit::Refuse) {
            jobs.into_iter().for_each(do_job);
        }
    }

    /// Queues a job that must not block the calling thread. Where no thread can be had, the calling
    /// thread gives the job an error instead: then the job only says so to those who wait for it.
    pub(crate) fn post(&self, job: impl FnOnce(io::Result<()>) + Send + 'static) {
        let posted = Posted(Some(job));
        // Jobs that come back are dropped: that gives them the error.
        let _ = self.queue_up(Box::new(move || posted.run()), AtLimit::Wait);
    }

    /// Queues a job; without any thread, gives back all that are queued.
    fn queue_up(&self, job: Job, at_limit: AtLimit) -> Result<(), (io::Error, VecDeque<Job>)> {
        let mut state = self.queue.lock();
        state.jobs.push_back(job);
        if state.threads >= self.most {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        WorkerThreads::give(Arc::clone(&self.queue), at_limit).or_else(|error| {
            let mut state = self.queue.lock();
            state.threads -= 1;
            // With a thread left the job is only later; with none nobody else would do it.
            if state.threads > 0 {
                return Ok(());
            }
            Err((error, mem::take(&mut state.jobs)))
        })
    }
}

impl WorkerThreads {
    /// No job runs under the lock, so what it protects is whole even if a thread panicked.
    fn lock(&self) -> MutexGuard<'_, WorkersShared> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread work on a queue.
    fn give(queue: Arc<JobQueue>, at_limit: AtLimit) -> io::Result<()> {
        let threads = THREADS.get();
        let mut shared = threads.lock();
        if shared.idle > shared.wanted.len() {
            shared.wanted.push_back(queue);
            drop(shared);
            threads.wake.notify_one();
            return Ok(());
        }
        shared.busy += 1;
        drop(shared);
        let first = Arc::clone(&queue);
        sys::thread::start("folio-io", move || threads.work(first)).or_else(|error| {
            let mut shared = threads.lock();
            shared.busy -= 1;
            if at_limit == AtLimit::Refuse || shared.busy + shared.idle == 0 {
                return Err(error);
            }
            shared.wanted.push_back(queue);
            drop(shared);
            threads.wake.notify_one();
            Ok(())
        })
    }

    /// The work of a thread for its whole life.
    fn work(&self, mut queue: Arc<JobQueue>) {
        loop {
            queue.work();
            drop(queue);
            let mut shared = self.lock();
            shared.busy -= 1;
            let mut late = false;
            queue = loop {
                if let Some(wanted) = shared.wanted.pop_front() {
                    break wanted;
                }
                if late {
                    return;
                }
                shared.idle += 1;
                let (woken, wait) =
                    self.wake.wait_timeout(shared, IDLE).unwrap_or_else(PoisonError::into_inner);
                shared = woken;
                shared.idle -= 1;
                late = wait.timed_out();
            };
            shared.busy += 1;
        }
    }
}

/// A job that gets an error when it is dropped undone.
struct Posted<F: FnOnce(io::Result<()>)>(Option<F>);

impl<F: FnOnce(io::Result<()>)> Posted<F> {
    fn run(mut self) {
        if let Some(job) = self.0.take() {
            job(Ok(()));
        }
    }
}

impl<F: FnOnce(io::Result<()>)> Drop for Posted<F> {
    fn drop(&mut self) {
        if let Some(job) = self.0.take() {
            let text = "no thread can be started for it (see RLIMIT_NPROC and pids.max)";
            job(Err(io::Error::new(io::ErrorKind::WouldBlock, text)));
        }
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Workers(at most {})", self.most)
    }
}

impl JobQueue {
    /// No job runs under the lock, so what it protects is whole even if a thread panicked.
    fn lock(&self) -> MutexGuard<'_, WorkersState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does the jobs until there is none.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some(job) = state.jobs.pop_front() else {
                // Under the lock that found no job: none can be queued for a thread that has gone.
                state.threads -= 1;
                return;
            };
            drop(state);
            do_job(job);
        }
    }
}

/// Does a job; a panic ends the job only.
fn do_job(job: Job) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        // The payload of a panic may panic once more when it is dropped.
        if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
            mem::forget(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const SOON: Duration = Duration::from_secs(20);

    #[test]
    fn jobs_run_at_once_up_to_the_limit() {
        let workers = Workers::new(3);
        let barrier = Arc::new(std::sync::Barrier::new(3));
        let (done, ended) = mpsc::channel();
        for _ in 0..3 {
            let (barrier, done) = (Arc::clone(&barrier), done.clone());
            workers.run(move || {
                barrier.wait();
                done.send(std::thread::current().name().map(str::to_owned)).unwrap();
            });
        }
        for _ in 0..3 {
            assert_eq!(ended.recv_timeout(SOON).unwrap().as_deref(), Some("folio-io"));
        }
        assert!(workers.queue.lock().threads <= 3);
    }

    #[test]
    fn a_posted_job_runs_on_another_thread() {
        let (workers, (done, ended)) = (Workers::new(1), mpsc::channel());
        workers
            .post(move |thread| done.send((thread.is_ok(), std::thread::current().id())).unwrap());
        let (had_a_thread, id) = ended.recv_timeout(SOON).unwrap();
        assert!(had_a_thread && id != std::thread::current().id());
    }

    #[test]
    fn a_posted_job_that_is_dropped_undone_gets_an_error() {
        let (done, ended) = mpsc::channel();
        drop(Posted(Some(move |thread: io::Result<()>| done.send(thread.is_err()).unwrap())));
        assert!(ended.recv_timeout(SOON).unwrap());
    }

    #[test]
    fn a_panicking_job_takes_no_thread_along() {
        let workers = Workers::new(1);
        workers.run(|| panic!("a job that panics, on purpose"));
        let (done, ended) = mpsc::channel();
        workers.run(move || done.send(()).unwrap());
        ended.recv_timeout(SOON).unwrap();
    }

    #[test]
    fn many_pools_need_no_more_threads_than_one() {
        let (done, ended) = mpsc::channel();
        let pools: Vec<_> = (0..200).map(|_| Workers::new(4)).collect();
        let mut threads = std::collections::HashSet::new();
        for pool in &pools {
            let done = done.clone();
            pool.run(move || done.send(std::thread::current().id()).unwrap());
            threads.insert(ended.recv_timeout(SOON).unwrap());
            while pool.queue.lock().threads > 0 {
                std::thread::yield_now();
            }
        }
        assert!(threads.len() < 100, "{} threads for one job at a time", threads.len());
    }

    #[test]
    fn dropping_the_pool_does_not_wait_for_a_stuck_job_and_loses_none() {
        let workers = Workers::new(1);
        let (go, stuck) = mpsc::channel::<()>();
        let (done, ended) = mpsc::channel();
        workers.run(move || stuck.recv().unwrap());
        workers.run(move || done.send(()).unwrap());
        let queue = Arc::downgrade(&workers.queue);
        drop(workers);
        go.send(()).unwrap();
        ended.recv_timeout(SOON).unwrap();
        let start = std::time::Instant::now();
        while queue.strong_count() > 0 {
            assert!(start.elapsed() < SOON, "the thread did not end");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_worker_blocks_signals_but_not_its_own_faults() {
        let workers = Workers::new(1);
        let (done, ended) = mpsc::channel();
        workers.run(move || {
            // SAFETY: asks for this thread's mask, and looks into the set that was filled.
            let blocked = unsafe {
                let mut mask: libc::sigset_t = mem::zeroed();
                libc::pthread_sigmask(libc::SIG_SETMASK, std::ptr::null(), &raw mut mask);
                [libc::SIGTERM, libc::SIGUSR1, libc::SIGSEGV, libc::SIGBUS]
                    .map(|signal| libc::sigismember(&raw const mask, signal))
            };
            done.send(blocked).unwrap();
        });
        assert_eq!(ended.recv_timeout(SOON).unwrap(), [1, 1, 0, 0]);
    }
}
