//! SIGKILL at the steps of futures, and of the processes that wake them: the others go on.

use crate::common::kill_sweep::{Ledger, Step, can_trace, compete, sweep};
use crate::common::segment_dir::World;
use crate::common::{skip, spawn_child};
use crate::executor::{PATIENCE, block_on, poll_once, run_all};
use crate::torn_pair::{Pair, change, patiently, repair, settle};
use folio::shm::{Condvar, Event, Guards, Locked, Mutex, RwLock, Segment, Share, Shared, field};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Share)]
#[repr(C)]
struct Desk {
    pair: Mutex<Pair>,
    table: RwLock<Pair>,
    changed: Condvar,
    fill: [u8; 4],
    go: Event,
    held: Event,
    /// Whether someone has announced that it waits.
    waits: AtomicU64,
}

/// Runs `work` while another thread does `others` all the time.
fn beside(others: impl Fn() + Sync, work: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                others();
            }
        });
        work();
        is_over.store(true, Ordering::Relaxed);
    });
}

/// The segment; with a bell already, where the test is not about making it.
fn ready(name: &str, step: Step) -> Segment<Desk> {
    let desk = Segment::<Desk>::open(name).unwrap();
    if let Step::Instruction = step {
        let waits = field!(desk.held);
        assert!(poll_once(&mut waits.wait_async()).is_pending());
    }
    desk
}

#[test]
fn a_future_that_waits_for_a_lock_may_die_at_every_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("futures").unwrap();
    let hold = || {
        let pair = field!(desk.pair);
        let guard = pair.lock_with(patiently()).unwrap().or_repair(repair).unwrap();
        std::thread::sleep(Duration::from_micros(300));
        drop(guard);
        std::thread::sleep(Duration::from_micros(100));
    };
    beside(hold, || {
        // At each system call, the first ones included that make the bell; and between them.
        for (step, kills) in [(Step::Call, 120), (Step::Instruction, 16)] {
            sweep(
                &mut ledger,
                step,
                kills,
                || (),
                |()| ready("futures", step),
                |theirs| {
                    let (pair, table) = (field!(theirs.pair), field!(theirs.table));
                    for _ in 0..2 {
                        change(&block_on(pair.lock_async()).unwrap().or_repair(repair).unwrap());
                        // One that is dropped, and one that is not, of another lock.
                        let _ = poll_once(&mut pair.lock_async());
                        change(&block_on(table.write_async()).unwrap().or_repair(repair).unwrap());
                        drop(block_on(table.read_async()).unwrap());
                    }
                },
                |ledger, ()| {
                    let start = Instant::now();
                    let (pair, table) = (field!(desk.pair), field!(desk.table));
                    settle(ledger, block_on(pair.lock_async()));
                    settle(ledger, block_on(table.write_async()));
                    settle(ledger, pair.lock_with(patiently()));
                    settle(ledger, table.write_with(patiently()));
                    ledger.hung += u64::from(start.elapsed() > PATIENCE);
                },
            );
        }
    });
    drop(desk);
    ledger.leaked += world.leaked(&[]);
    ledger.tell("futures of locks");
}

#[test]
fn a_future_or_listener_of_an_event_may_die_at_every_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("events").unwrap();
    let set = || {
        field!(desk.go).set();
        std::thread::sleep(Duration::from_micros(300));
    };
    beside(set, || {
        // At each system call, the first ones included that make the bell; and between them.
        for (step, kills) in [(Step::Call, 120), (Step::Instruction, 16)] {
            sweep(
                &mut ledger,
                step,
                kills,
                || (),
                |()| ready("events", step),
                |theirs| {
                    let go = field!(theirs.go);
                    for _ in 0..2 {
                        block_on(go.take_async()).unwrap();
                    }
                    let mut listener = go.listen().unwrap();
                    while !listener.try_take().unwrap() {
                        std::thread::yield_now();
                    }
                    let _ = poll_once(&mut go.take_async());
                },
                |ledger, ()| {
                    let start = Instant::now();
                    let go = field!(desk.go);
                    for _ in 0..3 {
                        block_on(go.take_async()).unwrap();
                    }
                    ledger.hung += u64::from(!go.take_with(patiently()).unwrap());
                    ledger.hung += u64::from(start.elapsed() > PATIENCE);
                },
            );
        }
    });
    drop(desk);
    ledger.leaked += world.leaked(&[]);
    ledger.tell("futures of events");
}

/// A child is killed at the steps of `work`, which wakes a future of this process that waits since
/// the child was `prepared`. Whatever the child has done, `finish` does the rest; then the future
/// is ready.
fn waker_dies<P, F: Future<Output = u64>>(
    what: &str,
    prepare: impl Fn(&Segment<Desk>) -> P,
    work: impl Fn(P),
    finish: impl Fn(&Segment<Desk>),
    waits: impl Fn(Segment<Desk>) -> F + Copy + Send + 'static,
) {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("wakers").unwrap();
    for (step, kills) in [(Step::Call, 8), (Step::Instruction, 16)] {
        sweep(
            &mut ledger,
            step,
            kills,
            || {
                let theirs = desk.clone();
                field!(desk.waits).store(0, Ordering::SeqCst);
                std::thread::spawn(move || {
                    assert!(field!(theirs.held).take_with(patiently()).unwrap());
                    let mut future = Box::pin(waits(theirs.clone()));
                    block_on(std::future::poll_fn(|context| {
                        let polled = future.as_mut().poll(context);
                        field!(theirs.waits).store(1, Ordering::SeqCst);
                        polled
                    }))
                })
            },
            |_| {
                let theirs = Segment::<Desk>::open("wakers").unwrap();
                let prepared = prepare(&theirs);
                field!(theirs.held).set();
                while field!(theirs.waits).load(Ordering::SeqCst) == 0 {
                    std::thread::yield_now();
                }
                prepared
            },
            &work,
            |ledger, waiter| {
                let start = Instant::now();
                finish(&desk);
                // Ready, or panicked since it was not in time.
                match waiter.join() {
                    Ok(wrong) => ledger.corrupted += wrong,
                    Err(_) => ledger.hung += 1,
                }
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
            },
        );
    }
    drop(desk);
    ledger.leaked += world.leaked(&[]);
    ledger.tell(what);
}

/// Whether it is neither whole nor said to be torn.
fn is_wrong<L: Guards<Pair>>(locked: folio::Result<Locked<'_, Pair, L>>) -> u64 {
    let mut ledger = Ledger::default();
    settle(&mut ledger, locked);
    ledger.corrupted
}

#[test]
fn a_holder_that_a_future_waits_for_may_die_at_every_step() {
    waker_dies(
        "unlocking for a future",
        |desk| {
            let pair: &'static Shared<Mutex<Pair>> = Box::leak(Box::new(field!(desk.pair)));
            pair.lock().unwrap().or_repair(repair).unwrap()
        },
        |guard| {
            change(&guard);
            drop(guard);
        },
        |_| (),
        |desk| async move { is_wrong(field!(desk.pair).lock_async().await) },
    );
    waker_dies(
        "a reader that leaves for a future",
        |desk| {
            let table: &'static Shared<RwLock<Pair>> = Box::leak(Box::new(field!(desk.table)));
            table.read().unwrap()
        },
        drop,
        |_| (),
        |desk| async move {
            // No writer died: it is in order, and stays so.
            let table = field!(desk.table);
            let locked = table.write_async().await.unwrap();
            let wrong = u64::from(locked.is_torn());
            change(&locked.or_repair(repair).unwrap());
            wrong
        },
    );
    waker_dies(
        "a writer that leaves for futures",
        |desk| {
            let table: &'static Shared<RwLock<Pair>> = Box::leak(Box::new(field!(desk.table)));
            table.write().unwrap().or_repair(repair).unwrap()
        },
        |guard| {
            change(&guard);
            drop(guard);
        },
        |_| (),
        |desk| async move {
            let table = field!(desk.table);
            match table.read_async().await.unwrap() {
                folio::shm::ReadLocked::Clean(guard) => {
                    let Pair { one, other } = guard.get().unwrap();
                    u64::from(one != other)
                }
                folio::shm::ReadLocked::Torn(torn) => {
                    drop(torn.repair(repair).unwrap());
                    0
                }
            }
        },
    );
}

#[test]
fn a_process_that_sets_or_notifies_for_a_future_may_die_at_every_step() {
    waker_dies(
        "setting for a future",
        |desk| field!(desk.go),
        |go| go.set(),
        |desk| field!(desk.go).set(),
        |desk| async move {
            field!(desk.go).take_async().await.unwrap();
            0
        },
    );
    waker_dies(
        "notifying for a future",
        |desk| field!(desk.changed),
        |changed| changed.notify_all(),
        |desk| field!(desk.changed).notify_all(),
        |desk| async move {
            let (pair, changed) = (field!(desk.pair), field!(desk.changed));
            let guard = pair.lock_async().await.unwrap().or_repair(repair).unwrap();
            is_wrong(changed.wait_async(guard).await)
        },
    );
}

/// Several processes at one lock and one event with futures, and one after the other is killed at
/// any moment.
#[test]
fn killed_while_their_futures_compete_nobody_hangs_and_nothing_is_lost() {
    const WORKERS: usize = 3;
    let kills = crate::common::effort::scaled(40);
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("desk").unwrap();
    let work = || {
        let theirs = Segment::<Desk>::open("desk").unwrap();
        let one = |_| {
            Box::pin(async {
                while !field!(theirs.held).is_set() {
                    let (pair, table) = (field!(theirs.pair), field!(theirs.table));
                    let guard = pair.lock_async().await.unwrap().or_repair(repair).unwrap();
                    let Pair { one, other } = guard.get().unwrap();
                    if one != other {
                        // Seen through a lock that was said to be in order.
                        std::process::abort();
                    }
                    change(&guard);
                    drop(guard);
                    field!(theirs.go).set();
                    drop(table.read_async().await.unwrap());
                    change(&table.write_async().await.unwrap().or_repair(repair).unwrap());
                    field!(theirs.go).take_async().await.unwrap();
                    // One that took it and was killed has taken it from those that wait.
                    field!(theirs.go).set();
                    field!(theirs.waits).fetch_add(1, Ordering::SeqCst);
                }
            }) as std::pin::Pin<Box<dyn Future<Output = ()> + '_>>
        };
        run_all((0..5).map(one));
    };
    let waits = || field!(desk.waits).load(Ordering::SeqCst);
    compete(
        &mut ledger,
        WORKERS,
        kills,
        PATIENCE,
        |_| spawn_child(work),
        || field!(desk.go).set(),
        waits,
    );
    settle(&mut ledger, field!(desk.pair).lock_with(patiently()));
    settle(&mut ledger, field!(desk.table).write_with(patiently()));
    drop(desk);
    ledger.leaked += world.leaked(&[]);
    ledger.tell("competing with futures");
}
