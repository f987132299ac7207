//! Locks, conditions and events in event loops: futures without a runtime, and a descriptor to
//! poll.

use crate::common::random::{Random, seed};
use crate::common::segment_dir::World;
use crate::common::{End, Heir, child_succeeds, in_child, is_root, lower_limit, spawn_child, wait};
use crate::executor::{PATIENCE, Told, block_on, poll_once, run_all, run_all_on};
use folio::Errno;
use folio::shm::{
    Condvar, Event, Guard, Listener, Locked, Mutex, Once, ReadGuard, ReadLocked, RwLock, Segment,
    Share, Wait, field,
};
use std::future::Future;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// Rounds that would take longer than [`SOON`] if only the bell's timer woke anyone.
const ROUNDS: u64 = 150;
const SOON: Duration = Duration::from_secs(50);

/// The thread that wakes a future does so a little after the request: the request itself wakes
/// futures, too.
fn a_little_later() {
    std::thread::sleep(Duration::from_millis(3));
}

#[derive(Share)]
#[repr(C)]
struct Desk {
    number: Mutex<u64>,
    table: RwLock<[u64; 2]>,
    changed: Condvar,
    fill: [u8; 4],
    once: Once,
    held: Event,
    go: Event,
    total: AtomicU64,
}

fn desk() -> Segment<Desk> {
    Segment::anonymous().unwrap()
}

fn patiently() -> Wait {
    Wait::new().timeout(PATIENCE)
}

fn kill(pid: i32) {
    // SAFETY: a child of the test's own.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
    assert_eq!(wait(pid), End::Killed(libc::SIGKILL));
}

/// A child that does `work`, says so, and stays as it is until it is killed.
fn stays<R>(desk: &Segment<Desk>, work: impl FnOnce() -> R) -> i32 {
    let pid = spawn_child(|| {
        let _held = work();
        field!(desk.held).set();
        std::thread::sleep(PATIENCE * 2);
    })
    .0;
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    pid
}

/// A future that was polled once with a counting waker, and had to wait.
fn waits<F: Future + Unpin>(future: &mut F) -> Arc<Told> {
    let told = Arc::new(Told(AtomicU64::new(0)));
    let waker = Waker::from(Arc::clone(&told));
    assert!(Pin::new(future).poll(&mut Context::from_waker(&waker)).is_pending());
    drop(waker);
    told
}

/// Waits until the waker is woken.
#[track_caller]
fn is_woken(told: &Arc<Told>) {
    let started = Instant::now();
    while told.0.load(Ordering::SeqCst) == 0 {
        assert!(started.elapsed() < PATIENCE, "a future is never woken");
        std::thread::sleep(Duration::from_micros(50));
    }
}

fn is_readable(fd: impl AsFd, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as it says.
    unsafe {
        libc::poll(&raw mut poll, 1, time.as_millis() as i32) == 1
            && poll.revents & libc::POLLIN != 0
    }
}

#[test]
fn a_future_of_a_lock_is_ready_when_another_process_gives_it_back() {
    let desk = desk();
    let (held, go) = (field!(desk.held), field!(desk.go));
    let (pid, _messages) = spawn_child(|| {
        let number = field!(desk.number);
        for _ in 0..ROUNDS {
            let mut guard = number.lock().unwrap().clean().unwrap();
            held.set();
            go.take().unwrap();
            a_little_later();
            guard.update(|number| *number += 1).unwrap();
            drop(guard);
            go.take().unwrap();
        }
    });
    let number = field!(desk.number);
    let started = Instant::now();
    for round in 1..=ROUNDS {
        assert!(held.take_with(patiently()).unwrap());
        let mut future = number.lock_async();
        waits(&mut future);
        go.set();
        let guard = block_on(future).unwrap().clean().unwrap();
        assert_eq!(guard.get().unwrap(), round);
        drop(guard);
        go.set();
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn futures_of_events_are_ready_when_another_process_sets_them() {
    let desk = desk();
    let (held, go) = (field!(desk.held), field!(desk.go));
    let (pid, _messages) = spawn_child(|| {
        for _ in 0..ROUNDS {
            assert!(held.take_with(patiently()).unwrap());
            a_little_later();
            go.set();
        }
    });
    let started = Instant::now();
    for round in 0..ROUNDS {
        let mut looks = go.wait_async();
        waits(&mut looks);
        let takes = go.take_async();
        held.set();
        block_on(looks).unwrap();
        assert!(go.is_set(), "round {round}");
        block_on(takes).unwrap();
        assert!(!go.is_set(), "round {round}");
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn of_all_futures_that_take_an_event_one_gets_it() {
    const EACH: u64 = 50;
    let desk = desk();
    // Two processes, with ten futures each; the test counts the takes, and each take asks for the
    // next.
    let take = || {
        let take = |_| {
            Box::pin(async {
                for _ in 0..EACH {
                    field!(desk.go).take_async().await.unwrap();
                    field!(desk.total).fetch_add(1, Ordering::SeqCst);
                    field!(desk.held).set();
                }
            }) as Pin<Box<dyn Future<Output = ()> + '_>>
        };
        run_all((0..10).map(take));
    };
    let (pid, _messages) = spawn_child(take);
    std::thread::scope(|scope| {
        scope.spawn(take);
        for set in 1..=20 * EACH {
            field!(desk.go).set();
            assert!(field!(desk.held).take_with(patiently()).unwrap(), "set {set} was lost");
            assert_eq!(field!(desk.total).load(Ordering::SeqCst), set);
        }
    });
    assert_eq!(wait(pid), End::Exited(0));
}

#[test]
fn a_future_of_a_condition_is_ready_when_another_process_notifies() {
    let desk = desk();
    for all in [false, true] {
        field!(desk.number).lock().unwrap().clean().unwrap().set(0).unwrap();
        let (pid, _messages) = spawn_child(|| {
            for round in 1..=ROUNDS {
                assert!(field!(desk.go).take_with(patiently()).unwrap());
                a_little_later();
                field!(desk.number).lock().unwrap().clean().unwrap().set(round).unwrap();
                let changed = field!(desk.changed);
                if all { changed.notify_all() } else { changed.notify_one() }
            }
        });
        let (number, changed) = (field!(desk.number), field!(desk.changed));
        let started = Instant::now();
        for round in 1..=ROUNDS {
            let mut guard = number.lock().unwrap().clean().unwrap();
            field!(desk.go).set();
            while guard.get().unwrap() != round {
                guard = block_on(changed.wait_async(guard)).unwrap().clean().unwrap();
            }
        }
        assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
        assert_eq!(wait(pid), End::Exited(0));
    }
}

#[test]
fn a_future_of_a_once_is_ready_when_another_process_has_done_it() {
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let desk = desk();
        let once = field!(desk.once);
        let (pid, _messages) = spawn_child(|| {
            assert!(field!(desk.go).take_with(patiently()).unwrap());
            a_little_later();
            let in_time = Wait::new().timeout(PATIENCE);
            field!(desk.once)
                .call_with(in_time, |_| {
                    field!(desk.total).store(7, Ordering::Relaxed);
                    Ok(())
                })
                .unwrap();
        });
        let mut future = once.wait_async();
        waits(&mut future);
        field!(desk.go).set();
        block_on(future).unwrap();
        assert_eq!(field!(desk.total).load(Ordering::Relaxed), 7);
        assert_eq!(wait(pid), End::Exited(0));
        block_on(once.wait_async()).unwrap();
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
}

#[test]
fn futures_of_readers_and_writers_wait_for_each_other_across_processes() {
    let desk = desk();
    let (pid, _messages) = spawn_child(|| {
        let table = field!(desk.table);
        for round in 0..ROUNDS {
            assert!(field!(desk.go).take_with(patiently()).unwrap());
            if round % 2 == 0 {
                let mut guard = table.write().unwrap().clean().unwrap();
                field!(desk.held).set();
                assert!(field!(desk.go).take_with(patiently()).unwrap());
                a_little_later();
                guard.set([round, round]).unwrap();
            } else {
                let guard = table.read().unwrap();
                field!(desk.held).set();
                assert!(field!(desk.go).take_with(patiently()).unwrap());
                a_little_later();
                drop(guard);
            }
        }
    });
    let table = field!(desk.table);
    let started = Instant::now();
    for round in 0..ROUNDS {
        field!(desk.go).set();
        assert!(field!(desk.held).take_with(patiently()).unwrap());
        if round % 2 == 0 {
            let mut future = table.read_async();
            waits(&mut future);
            field!(desk.go).set();
            let ReadLocked::Clean(guard) = block_on(future).unwrap() else { panic!("torn") };
            assert_eq!(guard.get().unwrap(), [round, round]);
        } else {
            let mut future = table.write_async();
            waits(&mut future);
            field!(desk.go).set();
            drop(block_on(future).unwrap().clean().unwrap());
        }
    }
    // Every other round is of one kind.
    assert!(started.elapsed() < SOON / 2, "only the timer wakes: {:?}", started.elapsed());
    assert_eq!(wait(pid), End::Exited(0));
}

/// The result of a future that waits, and that the end of this process wakes.
fn after_the_end_of<F: Future<Output: Send> + Send>(pid: i32, future: F) -> F::Output {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| block_on(future));
        // Earlier rings have been heard by then.
        std::thread::sleep(Duration::from_millis(20));
        kill(pid);
        waiter.join().unwrap()
    })
}

#[test]
fn a_future_that_waits_for_a_killed_holder_gets_the_torn_value() {
    let desk = desk();
    let started = Instant::now();
    let (number, table) = (field!(desk.number), field!(desk.table));
    // A third of the rounds: each waits for three that die.
    for _ in 0..ROUNDS / 3 {
        let pid = stays(&desk, || {
            let number = field!(desk.number);
            std::mem::forget(number.lock().unwrap().or_repair(|_| Ok(())).unwrap());
        });
        let locked = after_the_end_of(pid, number.lock_async()).unwrap();
        let Locked::Torn(torn) = locked else { panic!("it is said to be clean") };
        drop(torn.repair(|_| Ok(())).unwrap());

        let pid = stays(&desk, || {
            let table = field!(desk.table);
            std::mem::forget(table.write().unwrap().or_repair(|_| Ok(())).unwrap());
        });
        let locked = after_the_end_of(pid, table.read_async()).unwrap();
        let ReadLocked::Torn(torn) = locked else { panic!("it is said to be clean") };
        // It is this one's alone.
        let mut later = table.write_async();
        waits(&mut later);
        drop(torn.repair(|_| Ok(())).unwrap());
        drop(block_on(later).unwrap().clean().unwrap());

        // And a reader that is killed leaves nothing.
        let pid =
            stays(&desk, || std::mem::forget(field!(desk.table).shared_ref().read().unwrap()));
        drop(after_the_end_of(pid, table.write_async()).unwrap().clean().unwrap());
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
}

#[test]
fn one_that_has_died_wakes_futures_once_and_not_without_end() {
    let desk = desk();
    let number = field!(desk.number);
    let pid = stays(&desk, || std::mem::forget(field!(desk.number).shared_ref().lock().unwrap()));
    // A forked child has copies of all descriptors, and keeps them.
    let mut future = number.lock_async();
    waits(&mut future);
    let (copy, _messages) = spawn_child(|| std::thread::sleep(PATIENCE * 2));
    drop(after_the_end_of(pid, future).unwrap().or_repair(|_| Ok(())).unwrap());
    let go = field!(desk.go);
    let mut looks = go.wait_async();
    let polls = polls_of_what_does_not_change(&mut looks);
    assert!(polls < 50, "{polls} polls of what does not change");
    kill(copy);
}

/// How often a future is woken and polled in half a second in which its word does not change.
fn polls_of_what_does_not_change<F: Future + Unpin>(future: &mut F) -> u32 {
    let (started, mut polls) = (Instant::now(), 0);
    while started.elapsed() < Duration::from_millis(500) {
        let told = waits(future);
        polls += 1;
        while told.0.load(Ordering::SeqCst) == 0 && started.elapsed() < Duration::from_millis(500) {
            std::thread::sleep(Duration::from_micros(50));
        }
    }
    polls
}

#[test]
fn the_end_of_another_process_with_the_holders_number_wakes_futures_once() {
    let desk = desk();
    let pid = stays(&desk, || std::mem::forget(field!(desk.number).shared_ref().lock().unwrap()));
    let (other, _messages) = spawn_child(|| std::thread::sleep(PATIENCE * 2));
    // As a holder in another PID namespace writes it: its number there is another process's number
    // here.
    let mut slots = [0; 16 * 256];
    rustix::io::pread(desk.file(), &mut slots, 4096).unwrap();
    let slot = slots.chunks(16).position(|slot| slot[4..8] == pid.to_ne_bytes()).unwrap();
    rustix::io::pwrite(desk.file(), &other.to_ne_bytes(), 4096 + 16 * slot as u64 + 4).unwrap();
    let number = field!(desk.number);
    let mut future = number.lock_async();
    waits(&mut future);
    kill(other);
    let polls = polls_of_what_does_not_change(&mut future);
    assert!(polls < 50, "{polls} polls of what does not change");
    // Its own end is found all the same.
    kill(pid);
    drop(block_on(future).unwrap().or_repair(|_| Ok(())).unwrap());
}

#[test]
fn a_process_that_its_party_outlives_wakes_futures_once_and_not_without_end() {
    let desk = desk();
    let mut heir = Heir::of(|| std::mem::forget(field!(desk.number).shared_ref().lock().unwrap()));
    let number = field!(desk.number);
    let mut future = number.lock_async();
    waits(&mut future);
    heir.inherits();
    let polls = polls_of_what_does_not_change(&mut future);
    assert!(polls < 50, "{polls} polls of what does not change");
    drop(heir);
    drop(block_on(future).unwrap().or_repair(|_| Ok(())).unwrap());
}

#[test]
fn a_hundred_futures_and_another_process_at_one_lock_all_get_it() {
    const EACH: u64 = 20;
    const OTHERS: u64 = 2000;
    let desk = desk();
    let (pid, _messages) = spawn_child(|| {
        for _ in 0..OTHERS {
            field!(desk.number)
                .lock()
                .unwrap()
                .clean()
                .unwrap()
                .update(|number| *number += 1)
                .unwrap();
        }
    });
    let work = |_| {
        Box::pin(async {
            let number = field!(desk.number);
            for _ in 0..EACH {
                let mut guard = number.lock_async().await.unwrap().clean().unwrap();
                let seen = guard.get().unwrap();
                // Others of this executor come meanwhile, and wait.
                yield_once().await;
                guard.set(seen + 1).unwrap();
            }
        }) as Pin<Box<dyn Future<Output = ()> + '_>>
    };
    run_all((0..100).map(work));
    assert_eq!(wait(pid), End::Exited(0));
    let number = field!(desk.number);
    assert_eq!(number.lock().unwrap().clean().unwrap().get().unwrap(), 100 * EACH + OTHERS);
}

#[test]
fn a_process_short_of_descriptors_gets_an_error_or_waits_and_wakes_as_ever() {
    for room in 0..9 {
        let desk = desk();
        let holder =
            stays(&desk, || std::mem::forget(field!(desk.number).shared_ref().lock().unwrap()));
        let (pid, _messages) = spawn_child(|| {
            desk.check().unwrap();
            let (number, table, go) = (field!(desk.number), field!(desk.table), field!(desk.go));
            let reads = table.read().unwrap();
            let next = std::fs::File::open("/proc/self").unwrap().as_raw_fd() as u64;
            lower_limit(libc::RLIMIT_NOFILE, next + room);
            let (mut locks, mut writes, mut takes) =
                (number.lock_async(), table.write_async(), go.take_async());
            let told = Arc::new(Told(AtomicU64::new(0)));
            let waker = Waker::from(Arc::clone(&told));
            let mut context = Context::from_waker(&waker);
            let locked = Pin::new(&mut locks).poll(&mut context);
            let written = Pin::new(&mut writes).poll(&mut context);
            let taken = Pin::new(&mut takes).poll(&mut context);
            let errnos = [
                locked.map(|locked| locked.map(drop).unwrap_err().errno()),
                written.map(|written| written.map(drop).unwrap_err().errno()),
                taken.map(|taken| taken.unwrap_err().errno()),
            ];
            match errnos {
                [Poll::Pending, Poll::Pending, Poll::Pending] => {}
                // It is all or nothing: they have one bell.
                all => {
                    assert_eq!(all, [Poll::Ready(Errno::MFILE); 3]);
                    drop(waker);
                    assert_eq!(Arc::strong_count(&told), 1, "a waker is left");
                    // And it holds nothing: the readers' lock is free for readers.
                    drop(table.try_read().unwrap().unwrap());
                }
            }
            // A process that may have no descriptor to ring with sets the awaited event.
            go.set();
            field!(desk.held).set();
            block_on(field!(desk.once).wait_async())
                .map_err(|error| error.errno())
                .or_else(|errno| {
                    assert_eq!(errno, Errno::MFILE);
                    field!(desk.once).wait(patiently()).map_err(|error| error.errno())
                })
                .unwrap();
            // When there is room again, they go on.
            lower_limit(libc::RLIMIT_NOFILE, 500);
            drop(reads);
            drop(block_on(writes).unwrap().clean().unwrap());
            block_on(takes).unwrap();
            drop(block_on(locks).unwrap().or_repair(|_| Ok(())).unwrap());
        });
        assert!(field!(desk.held).take_with(patiently()).unwrap());
        field!(desk.once).call(|_| Ok(())).unwrap();
        kill(holder);
        assert_eq!(wait(pid), End::Exited(0), "room for {room}");
    }
}

#[test]
fn a_process_that_may_start_no_thread_gets_an_error_and_goes_on_when_it_may() {
    let desk = desk();
    child_succeeds(|| {
        let limit = |threads: u64| {
            let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            // SAFETY: the kernel writes the limit, and reads it.
            unsafe {
                assert_eq!(libc::getrlimit(libc::RLIMIT_NPROC, &raw mut limit), 0);
                limit.rlim_cur = threads.min(limit.rlim_max);
                assert_eq!(libc::setrlimit(libc::RLIMIT_NPROC, &raw const limit), 0);
            }
        };
        desk.check().unwrap();
        if is_root() {
            // The limit is none for root.
            // SAFETY: changes whose this process is, which has one thread.
            assert_eq!(unsafe { libc::setresuid(65534, 65534, 65534) }, 0);
        }
        let go = field!(desk.go);
        let mut takes = go.take_async();
        limit(0);
        let polled = poll_once(&mut takes);
        limit(u64::MAX);
        let Poll::Ready(Err(error)) = polled else { panic!("{polled:?}") };
        assert_eq!(error.errno(), Errno::AGAIN, "{error}");
        assert!(error.to_string().contains("thread"), "{error}");
        let mut again = go.take_async();
        assert!(poll_once(&mut takes).is_pending() && poll_once(&mut again).is_pending());
        go.set();
        block_on(takes).unwrap();
    });
}

#[test]
fn no_signal_of_the_program_reaches_the_thread_that_waits_for_bells() {
    let desk = desk();
    child_succeeds(|| {
        assert!(poll_once(&mut field!(desk.go).take_async()).is_pending());
        // A program that takes its signals when it wants to, as by signalfd(2): this thread is the
        // only one that it knows of.
        // SAFETY: a signal set is plain data, which these calls fill; the others get sets and a
        // time that live here.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            libc::sigaddset(&raw mut set, libc::SIGUSR1);
            assert_eq!(
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()),
                0
            );
            assert_eq!(libc::kill(libc::getpid(), libc::SIGUSR1), 0);
            // Any thread that does not block it takes it meanwhile, and ends the process.
            std::thread::sleep(Duration::from_millis(50));
            let soon = libc::timespec { tv_sec: 10, tv_nsec: 0 };
            let taken = libc::sigtimedwait(&raw const set, std::ptr::null_mut(), &raw const soon);
            assert_eq!(taken, libc::SIGUSR1);
        }
    });
}

#[test]
fn a_waker_may_poll_its_future_itself_and_drop_the_last_handle() {
    type Task = Pin<Box<dyn Future<Output = ()> + Send>>;
    /// A task that is polled where it is woken.
    struct Inline(std::sync::Mutex<Option<Task>>);
    impl std::task::Wake for Inline {
        fn wake(self: Arc<Self>) {
            let waker = Waker::from(Arc::clone(&self));
            let mut task = self.0.lock().unwrap();
            if task
                .as_mut()
                .is_some_and(|task| task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready())
            {
                *task = None;
            }
        }
    }
    let started = Instant::now();
    for _ in 0..ROUNDS / 10 {
        let desk = desk();
        let (pid, _messages) = spawn_child(|| {
            for _ in 0..10 {
                a_little_later();
                field!(desk.go).set();
                assert!(field!(desk.held).take_with(patiently()).unwrap());
            }
        });
        let (is_over, over) = std::sync::mpsc::channel();
        let task = async move {
            for _ in 0..10 {
                field!(desk.go).take_async().await.unwrap();
                let number = field!(desk.number);
                number
                    .lock_async()
                    .await
                    .unwrap()
                    .clean()
                    .unwrap()
                    .update(|number| *number += 1)
                    .unwrap();
                field!(desk.held).set();
            }
            drop(desk);
            is_over.send(()).unwrap();
        };
        Waker::from(Arc::new(Inline(std::sync::Mutex::new(Some(Box::pin(task)))))).wake();
        over.recv_timeout(PATIENCE).unwrap();
        assert_eq!(wait(pid), End::Exited(0));
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
}

/// Whether a child is a zombie.
fn has_ended(child: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'))
}

#[test]
fn a_child_that_a_waker_forks_hears_no_bell_of_its_parents() {
    struct Forks(std::sync::Mutex<Vec<i32>>);
    impl std::task::Wake for Forks {
        fn wake(self: Arc<Self>) {
            // SAFETY: the child returns into its caller, and does nothing that takes a lock of the
            // allocator's.
            match unsafe { libc::fork() } {
                0 => {}
                child => self.0.lock().unwrap().push(child),
            }
        }
    }
    impl Drop for Forks {
        fn drop(&mut self) {
            for &child in self.0.get_mut().unwrap().iter() {
                // SAFETY: a child of the test's own, which nobody has waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
                wait(child);
            }
        }
    }
    let desk = desk();
    let go = field!(desk.go);
    let forks = Arc::new(Forks(std::sync::Mutex::default()));
    for _ in 0..5 {
        let mut looks = go.wait_async();
        let waker = Waker::from(Arc::clone(&forks));
        assert!(Pin::new(&mut looks).poll(&mut Context::from_waker(&waker)).is_pending());
        child_succeeds(|| field!(desk.go).set());
        block_on(looks).unwrap();
        assert!(go.clear());
    }
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let mut looks = go.wait_async();
        let told = waits(&mut looks);
        child_succeeds(|| field!(desk.go).set());
        is_woken(&told);
        block_on(looks).unwrap();
        assert!(go.clear());
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
    let started = Instant::now();
    while forks.0.lock().unwrap().is_empty() {
        assert!(started.elapsed() < PATIENCE, "the waker is never woken");
        std::thread::sleep(Duration::from_millis(1));
    }
    // Its only thread is one that waits for bells, and has none.
    for &child in &*forks.0.lock().unwrap() {
        while !has_ended(child) {
            assert!(started.elapsed() < PATIENCE, "a child stays");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn thousands_of_futures_in_several_segments_are_woken_by_any_polling_threads() {
    const SEGMENTS: usize = 5;
    const EACH: u64 = 400;
    let desks: Vec<_> = (0..SEGMENTS).map(|_| desk()).collect();
    // Others that come, and wait, in another process.
    let (pid, _messages) = spawn_child(|| {
        for _ in 0..100 {
            for desk in &desks {
                let number = field!(desk.number);
                number
                    .lock_with(patiently())
                    .unwrap()
                    .clean()
                    .unwrap()
                    .update(|number| *number += 1)
                    .unwrap();
                let table = field!(desk.table);
                drop(table.read_with(patiently()).unwrap());
            }
        }
    });
    let work = |desk: &Segment<Desk>| {
        let (number, table) = (field!(desk.number), field!(desk.table));
        let (go, once) = (field!(desk.go), field!(desk.once));
        Box::pin(async move {
            let mut guard = number.lock_async().await.unwrap().clean().unwrap();
            let seen = guard.get().unwrap();
            // The guard goes where the future goes.
            yield_once().await;
            guard.set(seen + 1).unwrap();
            drop(guard);
            let ReadLocked::Clean(reads) = table.read_async().await.unwrap() else {
                panic!("torn")
            };
            yield_once().await;
            drop(reads);
            let mut writes = table.write_async().await.unwrap().clean().unwrap();
            let [seen, _] = writes.get().unwrap();
            yield_once().await;
            writes.set([seen + 1, seen + 1]).unwrap();
            drop(writes);
            go.take_async().await.unwrap();
            go.set();
            once.wait_async().await.unwrap();
        }) as Pin<Box<dyn Future<Output = ()> + Send>>
    };
    std::thread::scope(|scope| {
        let run = scope.spawn(|| {
            run_all_on(3, desks.iter().flat_map(|desk| (0..EACH).map(move |_| work(desk))));
        });
        for desk in &desks {
            field!(desk.go).set();
        }
        std::thread::sleep(Duration::from_millis(100));
        for desk in &desks {
            field!(desk.once).call(|_| Ok(())).unwrap();
        }
        run.join().unwrap();
    });
    assert_eq!(wait(pid), End::Exited(0));
    for desk in &desks {
        assert_eq!(field!(desk.number).lock().unwrap().clean().unwrap().get().unwrap(), EACH + 100);
        assert_eq!(field!(desk.table).write().unwrap().clean().unwrap().get().unwrap(), [EACH; 2]);
    }
}

async fn yield_once() {
    let mut first = true;
    std::future::poll_fn(|context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    })
    .await;
}

#[test]
fn a_future_that_is_dropped_holds_nothing_takes_nothing_and_leaves_no_waker() {
    let desk = desk();
    let pid = stays(&desk, || {
        std::mem::forget(field!(desk.number).shared_ref().lock().unwrap());
        std::mem::forget(field!(desk.table).shared_ref().read().unwrap());
    });
    let (number, table, go, once) =
        (field!(desk.number), field!(desk.table), field!(desk.go), field!(desk.once));
    let mut told = Vec::new();
    {
        let (mut locks, mut writes) = (number.lock_async(), table.write_async());
        told.extend([waits(&mut locks), waits(&mut writes)]);
        // It has the lock, but for the readers: others wait.
        let mut reads = table.read_async();
        told.push(waits(&mut reads));
        assert!(table.try_read().unwrap().is_none());
        let (mut takes, mut looks, mut done) =
            (go.take_async(), go.wait_async(), once.wait_async());
        told.extend([waits(&mut takes), waits(&mut looks), waits(&mut done)]);
        go.set();
    }
    for told in &told {
        assert_eq!(Arc::strong_count(told), 1, "a waker is left");
    }
    // The event is whose it was, and readers come in again.
    assert!(go.take_with(Wait::new().timeout(Duration::ZERO)).unwrap());
    drop(table.try_read().unwrap().unwrap());
    kill(pid);
    let mut locks = number.lock_async();
    let Poll::Ready(torn) = poll_once(&mut locks) else {
        panic!("a dead one's lock is waited for")
    };
    drop(torn.unwrap().or_repair(|_| Ok(())).unwrap());
    // A guard that was given and never taken out of its future is no guard.
    drop(poll_once(&mut number.lock_async()));
    drop(poll_once(&mut table.write_async()));
    child_succeeds(|| {
        drop(field!(desk.number).try_lock().unwrap().unwrap().clean().unwrap());
        drop(field!(desk.table).try_write().unwrap().unwrap().clean().unwrap());
    });
    // One of a condition holds the lock until it is polled, and none afterwards.
    let changed = field!(desk.changed);
    let mut future = changed.wait_async(number.lock().unwrap().clean().unwrap());
    assert!(number.try_lock().unwrap().is_none());
    let told = waits(&mut future);
    drop(number.try_lock().unwrap().unwrap().clean().unwrap());
    drop(future);
    assert_eq!(Arc::strong_count(&told), 1, "a waker is left");
}

#[test]
fn a_waker_that_panics_keeps_no_other_future_of_the_segment_asleep() {
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker that panics, on purpose");
        }
    }
    let desk = desk();
    let go = field!(desk.go);
    for _ in 0..5 {
        let mut one = go.wait_async();
        let waker = Waker::from(Arc::new(Panics));
        assert!(Pin::new(&mut one).poll(&mut Context::from_waker(&waker)).is_pending());
        let mut others: Vec<_> = (0..5).map(|_| go.wait_async()).collect();
        let told: Vec<_> = others.iter_mut().map(waits).collect();
        child_succeeds(|| field!(desk.go).set());
        told.iter().for_each(is_woken);
        for other in others {
            block_on(other).unwrap();
        }
        block_on(one).unwrap();
        assert!(go.clear());
    }
}

#[test]
fn a_waker_whose_panic_panics_in_turn_keeps_no_other_future_asleep() {
    struct Payload;
    impl Drop for Payload {
        fn drop(&mut self) {
            panic!("a panic that panics when it is dropped, on purpose");
        }
    }
    struct Panics;
    impl std::task::Wake for Panics {
        fn wake(self: Arc<Self>) {
            std::panic::panic_any(Payload);
        }
    }
    let desk = desk();
    let go = field!(desk.go);
    for _ in 0..5 {
        let mut others: Vec<_> = (0..10).map(|_| go.wait_async()).collect();
        let mut told = Vec::new();
        for pair in others.chunks_mut(2) {
            let waker = Waker::from(Arc::new(Panics));
            assert!(Pin::new(&mut pair[0]).poll(&mut Context::from_waker(&waker)).is_pending());
            told.push(waits(&mut pair[1]));
        }
        child_succeeds(|| field!(desk.go).set());
        told.iter().for_each(is_woken);
        for other in others {
            block_on(other).unwrap();
        }
        assert!(go.clear());
    }
}

#[test]
fn futures_of_a_forked_child_are_its_own_and_its_parents_stay_its_parents() {
    let desk = desk();
    let (number, go) = (field!(desk.number), field!(desk.go));
    // The parent has a bell, and a thread that waits for it.
    let guard = number.lock().unwrap().clean().unwrap();
    let (mut locks, mut takes) = (number.lock_async(), go.take_async());
    waits(&mut locks);
    let told = waits(&mut takes);
    let (pid, _messages) = spawn_child(|| {
        // SAFETY: a bitwise copy, as a child has one of all that was on its thread's stack; it is
        // dropped once, here.
        drop(unsafe { std::ptr::read(&raw const takes) });
        // SAFETY: a bitwise copy, the only one that this child uses; it is dropped once.
        let copy = unsafe { std::ptr::read(&raw const locks) };
        field!(desk.held).set();
        drop(block_on(copy).unwrap().clean().unwrap());
        block_on(field!(desk.once).wait_async()).unwrap();
        drop(block_on(field!(desk.number).lock_async()).unwrap().clean().unwrap());
    });
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    drop(guard);
    // The child's drop has taken the parent's place from nobody.
    go.set();
    block_on(takes).unwrap();
    assert_eq!(Arc::strong_count(&told), 1);
    drop(block_on(locks).unwrap().clean().unwrap());
    field!(desk.once).call(|_| Ok(())).unwrap();
    assert_eq!(wait(pid), End::Exited(0));
    assert!(!number.lock().unwrap().is_torn());
    // One that lets go of the segment takes its parent's bell from nobody either.
    let event = Segment::<Event>::anonymous().unwrap();
    assert!(poll_once(&mut event.shared_ref().wait_async()).is_pending());
    child_succeeds(|| {
        // SAFETY: a bitwise copy, the only handle that this child uses, and dropped once, here.
        drop(unsafe { std::ptr::read(&raw const event) });
    });
    let place = event.shared_ref();
    let mut looks = place.wait_async();
    let told = waits(&mut looks);
    place.set();
    is_woken(&told);
}

#[test]
fn a_future_in_a_truncated_segment_gets_the_error() {
    let world = World::new();
    let desk = Segment::<Desk>::create("cut").unwrap();
    let guard = field!(desk.number);
    let guard = guard.lock().unwrap();
    let (number, table, go) = (field!(desk.number), field!(desk.table), field!(desk.go));
    let (mut locks, mut looks, mut reads) =
        (number.lock_async(), go.wait_async(), table.read_async());
    let told = [waits(&mut locks), waits(&mut looks)];
    let writes = table.write().unwrap();
    let waits_to_read = waits(&mut reads);
    let mut listener = go.listen().unwrap();
    assert!(!listener.try_wait().unwrap());
    std::fs::OpenOptions::new().write(true).open(world.file("cut")).unwrap().set_len(0).unwrap();
    told.iter().chain([&waits_to_read]).for_each(is_woken);
    assert_eq!(block_on(locks).map(drop).unwrap_err().errno(), Errno::IO);
    assert_eq!(block_on(looks).unwrap_err().errno(), Errno::IO);
    assert_eq!(block_on(reads).map(drop).unwrap_err().errno(), Errno::IO);
    // The bell reports it by itself.
    assert!(is_readable(&listener, PATIENCE));
    assert_eq!(listener.try_wait().unwrap_err().errno(), Errno::IO);
    drop((guard, writes));
}

#[test]
fn guards_and_futures_may_be_sent_to_other_threads() {
    fn sent<T: Send>(value: T) -> T {
        value
    }
    let desk = desk();
    let (number, table) = (field!(desk.number), field!(desk.table));
    let mut guard: Guard<'_, u64> =
        sent(block_on(sent(number.lock_async())).unwrap().clean().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            guard.set(3).unwrap();
            drop(guard);
        });
    });
    let ReadLocked::Clean(reads) = sent(block_on(sent(table.read_async())).unwrap()) else {
        panic!("torn")
    };
    let reads: ReadGuard<'_, _> = sent(reads);
    std::thread::scope(|scope| drop(scope.spawn(move || drop(reads))));
    drop(block_on(sent(table.write_async())).unwrap().clean().unwrap());
    let guard = number.lock().unwrap().clean().unwrap();
    assert_eq!(guard.get().unwrap(), 3);
    let changed = field!(desk.changed);
    let mut future = sent(changed.wait_async(guard)).boxed();
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // One that panics in the other thread tears the value, too.
    let guard = number.lock().unwrap().clean().unwrap();
    let panics = std::thread::scope(|scope| {
        scope
            .spawn(move || {
                let _guard = guard;
                std::panic::resume_unwind(Box::new("half way"));
            })
            .join()
    });
    assert!(panics.is_err() && number.lock().unwrap().is_torn());
}

#[test]
fn a_guard_taken_in_a_panic_and_sent_tears_the_value_in_a_later_panic() {
    /// Takes the lock while its thread panics, and sends the guard on.
    struct SendsOn<'a>(&'a folio::shm::Shared<Mutex<u64>>, std::sync::mpsc::Sender<Guard<'a, u64>>);
    impl Drop for SendsOn<'_> {
        fn drop(&mut self) {
            self.1.send(self.0.lock().unwrap().clean().unwrap()).unwrap();
        }
    }
    let desk = desk();
    let number = field!(desk.number);
    for panics in [false, true] {
        let (sends, receives) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            let number = &number;
            let first = scope.spawn(move || {
                let _sends_on = SendsOn(number, sends);
                std::panic::resume_unwind(Box::new("the first"));
            });
            let second = scope.spawn(move || {
                let _guard = receives.recv_timeout(PATIENCE).unwrap();
                assert!(!panics, "the second, on purpose");
            });
            assert!(first.join().is_err());
            assert_eq!(second.join().is_err(), panics);
        });
        assert_eq!(number.lock().unwrap().is_torn(), panics);
    }
}

/// As an executor of many threads takes them.
trait Boxed<'a>: Future + Send + Sized + 'a {
    fn boxed(self) -> Pin<Box<dyn Future<Output = Self::Output> + Send + 'a>> {
        Box::pin(self)
    }
}

impl<'a, F: Future + Send + 'a> Boxed<'a> for F {}

#[test]
fn a_listener_is_readable_when_another_process_sets_the_event() {
    let desk = desk();
    let go = field!(desk.go);
    let mut listener = go.listen().unwrap();
    // The first look is the caller's.
    assert!(is_readable(&listener, Duration::ZERO) && !listener.try_take().unwrap());
    let (pid, _messages) = spawn_child(|| {
        for _ in 0..ROUNDS {
            assert!(field!(desk.held).take_with(patiently()).unwrap());
            a_little_later();
            field!(desk.go).set();
        }
    });
    let started = Instant::now();
    for round in 0..ROUNDS {
        field!(desk.held).set();
        let mut taken = false;
        while !taken {
            assert!(is_readable(&listener, PATIENCE), "round {round}");
            taken = listener.try_take().unwrap();
        }
        assert!(!listener.try_take().unwrap());
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
    assert_eq!(wait(pid), End::Exited(0));
    // While it is set it stays readable.
    go.set();
    for _ in 0..3 {
        assert!(is_readable(&listener, PATIENCE) && listener.try_wait().unwrap());
    }
    assert!(listener.try_take().unwrap() && !listener.try_take().unwrap());
    let mut quiet = 0;
    for _ in 0..50 {
        assert!(!listener.try_wait().unwrap());
        quiet += u32::from(!is_readable(&listener, Duration::ZERO));
    }
    assert!(quiet > 25, "quiet {quiet} times of 50");
}

#[test]
fn listeners_and_futures_take_no_ring_from_each_other() {
    let desk = desk();
    let (go, number) = (field!(desk.go), field!(desk.number));
    let mut listeners: Vec<Listener<'_>> = (0..3).map(|_| go.listen().unwrap()).collect();
    let started = Instant::now();
    for _ in 0..ROUNDS / 3 {
        let guard = number.lock().unwrap();
        let (mut looks, mut locks) = (go.wait_async(), number.lock_async());
        waits(&mut looks);
        let told = waits(&mut locks);
        for listener in &mut listeners {
            while listener.try_wait().unwrap() {}
        }
        child_succeeds(|| field!(desk.go).set());
        for listener in &mut listeners {
            // One after the other hushes its own.
            assert!(is_readable(&*listener, PATIENCE) && listener.try_wait().unwrap());
        }
        block_on(looks).unwrap();
        // It heard the same ring, and had to look.
        is_woken(&told);
        assert!(go.clear());
        drop(guard);
        drop(block_on(locks).unwrap().clean().unwrap());
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
    let end = in_child(|| {
        assert_eq!(listeners[0].try_wait().unwrap_err().errno(), Errno::PERM);
        // SAFETY: a bitwise copy, as a child has one; it is dropped once, here.
        drop(unsafe { std::ptr::read(&raw const listeners[0]) });
        assert!(!field!(desk.go).shared_ref().listen().unwrap().try_take().unwrap());
    });
    assert_eq!(end, End::Exited(0));
    go.set();
    assert!(is_readable(&listeners[0], PATIENCE) && listeners[0].try_take().unwrap());
}

#[test]
fn one_that_does_not_poll_its_futures_holds_nobody_up() {
    let desk = desk();
    let number = field!(desk.number);
    let pid = {
        let _guard = number.lock().unwrap().clean().unwrap();
        stays(&desk, || {
            let number = field!(desk.number);
            let mut future = number.lock_async();
            waits(&mut future);
            // It never looks again.
            std::mem::forget(future);
        })
    };
    for _ in 0..100 {
        let mut guard = number.lock_with(patiently()).unwrap().clean().unwrap();
        guard.update(|number| *number += 1).unwrap();
    }
    kill(pid);
    let guard = number.lock_with(patiently()).unwrap().clean().unwrap();
    let mut future = pin!(number.lock_async());
    assert!(future.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // It rings for one that is dead, and for one that lives.
    drop(guard);
    drop(block_on(future).unwrap().clean().unwrap());
}

#[test]
fn garbage_in_the_bells_of_a_segment_silences_them_for_a_while_and_no_longer() {
    let desk = desk();
    let (go, number) = (field!(desk.go), field!(desk.number));
    let seed = seed();
    let mut random = Random(seed);
    let mut next = move || random.next();
    for round in 0..10 {
        let guard = number.lock().unwrap();
        let (mut takes, mut locks) = (go.take_async(), number.lock_async());
        let told = [waits(&mut takes), waits(&mut locks)];
        // As a peer writes them that ignores all rules: the slots' bells, and how many slots ever
        // had one.
        for slot in 0..256 {
            rustix::io::pwrite(desk.file(), &next().to_ne_bytes(), 4096 + 16 * slot + 8).unwrap();
        }
        let bells = if round % 2 == 0 { u32::MAX } else { next() as u32 };
        rustix::io::pwrite(desk.file(), &bells.to_ne_bytes(), 512 + 24).unwrap();
        child_succeeds(|| field!(desk.go).set());
        told.iter().for_each(is_woken);
        block_on(takes).unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        drop(guard);
        drop(block_on(locks).unwrap().clean().unwrap());
    }
    // And nothing of it is left.
    let started = Instant::now();
    for _ in 0..ROUNDS {
        let mut looks = go.wait_async();
        let told = waits(&mut looks);
        child_succeeds(|| field!(desk.go).set());
        is_woken(&told);
        block_on(looks).unwrap();
        go.clear();
    }
    assert!(started.elapsed() < SOON, "only the timer wakes: {:?}", started.elapsed());
}
