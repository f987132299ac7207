//! kill -9 at every step of everything: nothing is corrupted, nobody hangs, and no name is left
//! after a collection.

use crate::common::kill_sweep::{Ledger, Step, can_trace, compete, sweep};
use crate::common::segment_dir::World;
use crate::common::{skip, spawn_child};
use crate::torn_pair::{PATIENCE, Pair, change, patiently, repair, settle};
use folio::shm::{
    self, Condvar, Lifetime, Mutex, Once, ReadLocked, RwLock, Segment, SegmentOptions, Share,
    Shared, SharedRef, Wait, field,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Share)]
#[repr(C)]
struct Desk {
    pair: Mutex<Pair>,
    table: RwLock<Pair>,
    once: Once,
    changed: Condvar,
    ready: folio_atomic::Flag,
    total: AtomicU64,
}

/// A word of its own, so that derived structs nest.
mod folio_atomic {
    use folio::shm::Share;
    use std::sync::atomic::AtomicU32;

    #[derive(Share)]
    #[repr(C)]
    pub(crate) struct Flag {
        pub(crate) word: AtomicU32,
    }
}

const WRITTEN: u64 = 0x5eed;

fn made(lifetime: Lifetime) -> SegmentOptions {
    SegmentOptions::new().lifetime(lifetime)
}

fn init(segment: &Segment<[u64]>) -> folio::Result<()> {
    segment.get(0).unwrap().store(WRITTEN)?;
    segment.get(1).unwrap().store(WRITTEN)
}

#[test]
fn create_is_all_or_nothing_at_every_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    for lifetime in [Lifetime::WhileUsed, Lifetime::Kept] {
        let options = made(lifetime).count(100);
        sweep(
            &mut ledger,
            Step::Call,
            100,
            || (),
            |()| (),
            |()| drop(options.create_with("made", init).unwrap()),
            |ledger, ()| {
                let start = Instant::now();
                // The name can be used at once; the segment there is whole.
                let again = options.open_or_create_with::<[u64]>("made", init).unwrap();
                let halves = [0, 1].map(|at| again.get(at).unwrap().load().unwrap());
                ledger.corrupted += u64::from(halves != [WRITTEN; 2] || again.len() != 100);
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
                drop(again);
                if lifetime == Lifetime::Kept {
                    shm::remove("made").unwrap();
                }
                ledger.leaked += world.leaked(&[]);
            },
        );
    }
    ledger.tell("create");
}

#[test]
fn open_and_leave_disturb_nobody_at_any_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    // Beside another party, and as the last one.
    for alone in [false, true] {
        sweep(
            &mut ledger,
            Step::Call,
            100,
            || {
                (!alone)
                    .then(|| made(Lifetime::WhileUsed).count(4).create_with("used", init).unwrap())
            },
            |_| (),
            |()| {
                drop(
                    made(Lifetime::WhileUsed)
                        .count(4)
                        .open_or_create_with::<[u64]>("used", init)
                        .unwrap(),
                );
            },
            |ledger, mine| {
                let start = Instant::now();
                let entry = shm::list().unwrap().pop();
                if let Some(mine) = &mine {
                    // The dead one's place is free, and the name is where it was.
                    let users = entry.map(|entry| entry.users).unwrap_or_default();
                    let me = std::process::id();
                    ledger.corrupted += u64::from(users.iter().map(|user| user.pid).ne([me]));
                    ledger.corrupted += u64::from(mine.get(0).unwrap().load().unwrap() != WRITTEN);
                } else {
                    let again = made(Lifetime::WhileUsed)
                        .count(4)
                        .open_or_create_with("used", init)
                        .unwrap();
                    ledger.corrupted += u64::from(again.get(1).unwrap().load().unwrap() != WRITTEN);
                }
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
                drop(mine);
                ledger.leaked += world.leaked(&[]);
            },
        );
    }
    ledger.tell("open and leave");
}

#[test]
fn growth_is_whole_at_every_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let options = SegmentOptions::new().count(4).capacity(1 << 20);
    for step in [Step::Call, Step::Instruction] {
        sweep(
            &mut ledger,
            step,
            40,
            || options.create_with("grown", init).unwrap(),
            |mine| {
                mine.check().unwrap();
                mine.clone()
            },
            |theirs| {
                theirs.grow(100_000).unwrap();
                theirs.get(99_999).unwrap().store(7).unwrap();
            },
            |ledger, mine| {
                let start = Instant::now();
                let size = std::fs::metadata(world.file("grown")).unwrap().len();
                ledger.corrupted += u64::from(![4, 100_000].contains(&mine.len()));
                ledger.corrupted += u64::from(size < mine.bytes() as u64 + 8192);
                let last = mine.get(99_999).map_or(0, |last| last.load().unwrap());
                ledger.corrupted += u64::from(![0, 7].contains(&last));
                mine.grow(200_000).unwrap();
                mine.get(199_999).unwrap().store(1).unwrap();
                ledger.corrupted += u64::from(mine.get(0).unwrap().load().unwrap() != WRITTEN);
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
                drop(mine);
                ledger.leaked += world.leaked(&[]);
            },
        );
    }
    ledger.tell("grow");
}

#[test]
fn a_lock_survives_its_holder_at_every_instruction() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("desk").unwrap();
    let mine = field!(desk.pair);
    let mut torn = 0;
    sweep(
        &mut ledger,
        Step::Instruction,
        80,
        || (),
        |()| {
            let theirs = Segment::<Desk>::open("desk").unwrap();
            field!(theirs.pair)
        },
        |theirs| change(&theirs.lock().unwrap().or_repair(repair).unwrap()),
        |ledger, ()| torn += u64::from(settle(ledger, mine.lock_with(patiently()))),
    );
    drop((desk, mine));
    ledger.leaked += world.leaked(&[]);
    // Some died with the lock in hand, and some before or after.
    assert!(torn > 0 && torn < ledger.kills, "{torn} of {}", ledger.kills);
    ledger.tell("lock and unlock");
}

#[test]
fn a_waiter_of_a_condition_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("desk").unwrap();
    let pair = field!(desk.pair);
    sweep(
        &mut ledger,
        Step::Instruction,
        60,
        || (),
        |()| {
            let theirs = Segment::<Desk>::open("desk").unwrap();
            (field!(theirs.pair), field!(theirs.changed))
        },
        |(lock, changed)| {
            let guard = lock.lock().unwrap().or_repair(repair).unwrap();
            let short = Wait::new().spin(10).timeout(Duration::from_micros(200));
            let (locked, _) = changed.wait_with(guard, short).unwrap();
            change(&locked.or_repair(repair).unwrap());
            changed.notify_one();
        },
        |ledger, ()| {
            settle(ledger, pair.lock_with(patiently()));
            // A notification still gets from one to another.
            let start = Instant::now();
            std::thread::scope(|scope| {
                let ready = field!(desk.ready);
                ready.word.store(0, Ordering::SeqCst);
                let waiter = scope.spawn(|| {
                    let lock = field!(desk.pair);
                    let guard = lock.lock().unwrap().or_repair(repair).unwrap();
                    let none = |_: SharedRef<'_, Pair>| {
                        Ok(field!(desk.ready).word.load(Ordering::SeqCst) == 0)
                    };
                    drop(field!(desk.changed).wait_while(guard, none).unwrap());
                });
                std::thread::yield_now();
                {
                    let _guard = pair.lock().unwrap().or_repair(repair).unwrap();
                    ready.word.store(1, Ordering::SeqCst);
                }
                field!(desk.changed).notify_one();
                waiter.join().unwrap();
            });
            ledger.hung += u64::from(start.elapsed() > PATIENCE);
        },
    );
    drop((desk, pair));
    ledger.leaked += world.leaked(&[]);
    ledger.tell("condition");
}

#[test]
fn readers_and_writers_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("desk").unwrap();
    let mine = field!(desk.table);
    for writes in [false, true] {
        sweep(
            &mut ledger,
            Step::Instruction,
            40,
            || (),
            |()| {
                let theirs = Segment::<Desk>::open("desk").unwrap();
                field!(theirs.table)
            },
            |theirs| {
                if writes {
                    change(&theirs.write().unwrap().or_repair(repair).unwrap());
                } else if let ReadLocked::Clean(guard) = theirs.read().unwrap() {
                    let Pair { one, other } = guard.get().unwrap();
                    assert_eq!(one, other);
                }
            },
            |ledger, ()| {
                settle(ledger, mine.write_with(patiently()));
                match mine.read_with(patiently()) {
                    Ok(ReadLocked::Clean(guard)) => {
                        let Pair { one, other } = guard.get().unwrap();
                        ledger.corrupted += u64::from(one != other);
                    }
                    Ok(ReadLocked::Torn(_)) => ledger.corrupted += 1,
                    Err(_) => ledger.hung += 1,
                }
            },
        );
    }
    drop((desk, mine));
    ledger.leaked += world.leaked(&[]);
    ledger.tell("readers and writers");
}

#[test]
fn the_process_that_does_a_once_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    let mut ledger = Ledger::default();
    let handles = |desk: &Segment<Desk>| (field!(desk.once), field!(desk.total));
    let work = |(once, total): (Shared<Once>, Shared<AtomicU64>), done: &mut u64| {
        // The work is done again from the start, and so has its effect once.
        once.call(|_| {
            *done += 1;
            total.store(41, Ordering::SeqCst);
            total.fetch_add(1, Ordering::SeqCst);
            Ok(())
        })
    };
    sweep(
        &mut ledger,
        Step::Instruction,
        40,
        || Segment::<Desk>::create("once").unwrap(),
        |_| handles(&Segment::<Desk>::open("once").unwrap()),
        |theirs| work(theirs, &mut 0).unwrap(),
        |ledger, desk| {
            let mut done = 0;
            let was = field!(desk.once).is_done();
            work(handles(&desk), &mut done).unwrap();
            ledger.corrupted += u64::from(done != u64::from(!was));
            ledger.corrupted += u64::from(field!(desk.total).load(Ordering::SeqCst) != 42);
            ledger.hung += u64::from(field!(desk.once).wait(patiently()).is_err());
            drop(desk);
            ledger.leaked += world.leaked(&[]);
        },
    );
    ledger.tell("once");
}

/// Several processes at one lock at full speed, and one after the other is killed at any moment.
#[test]
fn killed_while_they_compete_nobody_hangs_and_nothing_is_lost() {
    const WORKERS: usize = 3;
    let kills = crate::common::effort::scaled(60);
    let world = World::new();
    let mut ledger = Ledger::default();
    let desk = Segment::<Desk>::create("desk").unwrap();
    let work = || {
        let theirs = Segment::<Desk>::open("desk").unwrap();
        let lock = field!(theirs.pair);
        loop {
            let guard = lock.lock().unwrap().or_repair(repair).unwrap();
            let Pair { one, other } = guard.get().unwrap();
            if one != other {
                // Seen through a lock that was said to be in order.
                std::process::abort();
            }
            change(&guard);
            drop(guard);
            field!(theirs.total).fetch_add(1, Ordering::SeqCst);
        }
    };
    let total = || field!(desk.total).load(Ordering::SeqCst);
    compete(&mut ledger, WORKERS, kills, PATIENCE, |_| spawn_child(work), || (), total);
    settle(&mut ledger, field!(desk.pair).lock_with(patiently()));
    drop(desk);
    ledger.leaked += world.leaked(&[]);
    ledger.tell("competing for a lock");
}
