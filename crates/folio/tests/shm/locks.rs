//! Locks, conditions, events and doing things once, between real processes.

use crate::common::{End, child_succeeds, in_child, spawn_child, wait};
use folio::Errno;
use folio::shm::{
    Condvar, Event, Locked, Mutex, Once, ReadLocked, RwLock, Segment, SegmentOptions, Share, Wait,
    field,
};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn patiently() -> Wait {
    Wait::new().timeout(LONG)
}

fn kill(pid: i32, signal: i32) {
    // SAFETY: a child of the test's own.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn all_succeed(children: impl IntoIterator<Item = i32>) {
    for child in children {
        assert_eq!(wait(child), End::Exited(0));
    }
}

#[derive(Share)]
#[repr(C)]
struct Desk {
    numbers: Mutex<[u64; 2]>,
    table: RwLock<[u64; 2]>,
    changed: Condvar,
    state: AtomicU32,
    held: Event,
    go: Event,
    once: Once,
    counter: AtomicU64,
}

fn desk() -> Segment<Desk> {
    Segment::anonymous().unwrap()
}

/// A child does `work`, and is killed while it holds the forgotten guards.
fn dies_after(desk: &Segment<Desk>, work: impl FnOnce()) {
    let (child, _messages) = spawn_child(|| {
        work();
        field!(desk.held).set();
        std::thread::sleep(LONG * 4);
    });
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    kill(child, libc::SIGKILL);
    wait(child);
}

/// A child that takes the lock, says so, and keeps it until it is killed.
fn holder(desk: &Segment<Desk>) -> i32 {
    let pid = spawn_child(|| {
        let numbers = field!(desk.numbers);
        let guard = numbers.lock().unwrap().clean().unwrap();
        guard.field(|pair| &pair[0]).store(1).unwrap();
        field!(desk.held).set();
        std::thread::sleep(LONG * 4);
        drop(guard);
    })
    .0;
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    pid
}

#[test]
fn children_and_threads_exclude_each_other() {
    const EACH: u64 = 2000;
    let desk = desk();
    let work = || {
        let numbers = field!(desk.numbers);
        for _ in 0..EACH {
            let mut guard = numbers.lock().unwrap().clean().unwrap();
            guard.update(|pair| pair[0] += 1).unwrap();
        }
    };
    let children: Vec<_> = (0..2).map(|_| spawn_child(work).0).collect();
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(work))));
    all_succeed(children);
    let guard = field!(desk.numbers);
    assert_eq!(guard.lock().unwrap().clean().unwrap().get().unwrap(), [4 * EACH, 0]);
}

#[test]
fn a_dead_owner_is_reported_to_the_next_locker() {
    let desk = desk();
    let child = holder(&desk);
    let numbers = field!(desk.numbers);
    assert!(numbers.try_lock().unwrap().is_none());
    kill(child, libc::SIGKILL);
    wait(child);
    let Locked::Torn(torn) = numbers.lock_with(patiently()).unwrap() else {
        panic!("it is said to be clean")
    };
    assert_eq!(torn.shared_ref().load().unwrap(), [1, 0]);
    // A holder that does not repair it leaves it torn.
    drop(torn);
    assert_eq!(numbers.lock().unwrap().clean().unwrap_err().errno(), Errno::OWNERDEAD);
    let Locked::Torn(torn) = numbers.lock().unwrap() else { panic!("it is said to be clean") };
    let failing = torn.repair(|_| Err(folio::FileMap::open("/nowhere").unwrap_err()));
    assert_eq!(failing.unwrap_err().errno(), Errno::NOENT);
    let guard = numbers.lock().unwrap().or_repair(|pair| pair.store([2, 2])).unwrap();
    drop(guard);
    assert_eq!(numbers.lock().unwrap().clean().unwrap().get().unwrap(), [2, 2]);
}

#[test]
fn poison_is_an_error_for_all_until_it_is_cleared_and_then_the_data_is_torn() {
    let desk = desk();
    let numbers = field!(desk.numbers);
    let child = holder(&desk);
    kill(child, libc::SIGKILL);
    wait(child);
    let Locked::Torn(torn) = numbers.lock().unwrap() else { panic!("it is said to be clean") };
    torn.poison();
    assert_eq!(numbers.lock().unwrap_err().errno(), Errno::NOTRECOVERABLE);
    child_succeeds(|| {
        let numbers = field!(desk.numbers);
        assert!(numbers.shared_ref().is_poisoned());
        assert_eq!(numbers.try_lock().unwrap_err().errno(), Errno::NOTRECOVERABLE);
        assert!(numbers.shared_ref().clear_poison() && !numbers.shared_ref().clear_poison());
    });
    assert!(numbers.lock().unwrap().is_torn());
}

#[test]
fn a_panic_with_a_guard_in_hand_tears_the_data_too() {
    let desk = desk();
    let numbers = field!(desk.numbers);
    let panics = std::thread::scope(|scope| {
        let panics = || {
            let _guard = numbers.lock().unwrap().clean().unwrap();
            std::panic::resume_unwind(Box::new("half way"));
        };
        scope.spawn(panics).join()
    });
    assert!(panics.is_err());
    assert!(numbers.lock().unwrap().is_torn());
}

#[test]
fn a_stopped_owner_is_not_a_dead_one() {
    let desk = desk();
    let child = holder(&desk);
    kill(child, libc::SIGSTOP);
    let numbers = field!(desk.numbers);
    // Several slices long: it is asked for more than once.
    let error = numbers.lock_with(Wait::new().timeout(Duration::from_millis(300))).unwrap_err();
    assert_eq!(error.errno(), Errno::TIMEDOUT);
    assert!(numbers.try_lock().unwrap().is_none());
    kill(child, libc::SIGCONT);
    kill(child, libc::SIGKILL);
    wait(child);
    assert!(numbers.lock_with(patiently()).unwrap().is_torn());
}

#[test]
fn a_zombie_does_not_count_as_alive() {
    let desk = desk();
    let child = holder(&desk);
    kill(child, libc::SIGKILL);
    // Not waited for yet: it is a zombie once it is dead.
    let stat = || std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    while !stat().rsplit(") ").next().unwrap().starts_with('Z') {
        std::thread::yield_now();
    }
    let numbers = field!(desk.numbers);
    assert!(numbers.lock_with(patiently()).unwrap().is_torn());
    wait(child);
}

#[test]
fn forked_children_do_not_keep_a_killed_parent_alive() {
    let desk = desk();
    // Its child lives on, with copies of all of its descriptors.
    let (pid_cell, numbers) = (field!(desk.state), field!(desk.numbers));
    let parent = spawn_child(|| {
        let numbers = field!(desk.numbers);
        let guard = numbers.lock().unwrap().clean().unwrap();
        let (grandchild, _pipe) = spawn_child(|| std::thread::sleep(LONG * 4));
        field!(desk.state).store(grandchild.cast_unsigned(), Ordering::SeqCst);
        field!(desk.held).set();
        std::thread::sleep(LONG * 4);
        drop(guard);
    })
    .0;
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    kill(parent, libc::SIGKILL);
    wait(parent);
    let grandchild = pid_cell.load(Ordering::SeqCst).cast_signed();
    kill(grandchild, 0);
    assert!(numbers.lock_with(patiently()).unwrap().is_torn());
    kill(grandchild, libc::SIGKILL);
}

#[test]
fn a_child_holds_no_lock_of_its_parent() {
    let desk = desk();
    let numbers = field!(desk.numbers);
    let guard = numbers.lock().unwrap().clean().unwrap();
    let end = in_child(|| {
        assert!(numbers.try_lock().unwrap().is_none());
        // SAFETY: a bitwise copy, as a child has one of all that was on its thread's stack; it is
        // dropped once, here.
        drop(unsafe { std::ptr::read(&raw const guard) });
        assert!(numbers.try_lock().unwrap().is_none());
    });
    assert_eq!(end, End::Exited(0));
    drop(guard);
    child_succeeds(|| drop(numbers.try_lock().unwrap().unwrap().clean().unwrap()));
    // The child left in order.
    assert!(!numbers.lock().unwrap().is_torn());
}

#[test]
fn garbage_in_a_lock_is_a_dead_owners() {
    for garbage in [1 << 31, u64::MAX, 0x7fff_ffff, 257, 0xdead_beef_0000_0001, 1 << 32] {
        let numbers = Segment::<Mutex<u64>>::anonymous().unwrap();
        // As a peer writes them that ignores all rules: the data lies behind the header's two
        // pages.
        rustix::io::pwrite(numbers.file(), &garbage.to_ne_bytes(), 8192).unwrap();
        let locked = numbers.shared_ref().lock_with(patiently()).unwrap();
        assert!(locked.is_torn(), "{garbage:#x}");
        drop(locked.or_repair(|_| Ok(())).unwrap());
        drop(numbers.shared_ref().lock().unwrap().clean().unwrap());
    }
    // Nor is data in order whose state is invalid: neither for writers nor for readers.
    for garbage in [3, 77, u32::MAX] {
        let numbers = Segment::<RwLock<u64>>::anonymous().unwrap();
        rustix::io::pwrite(numbers.file(), &garbage.to_ne_bytes(), 8192 + 8).unwrap();
        assert!(
            matches!(numbers.shared_ref().try_read().unwrap().unwrap(), ReadLocked::Torn(_)),
            "{garbage:#x}"
        );
        assert!(
            matches!(numbers.shared_ref().read().unwrap(), ReadLocked::Torn(_)),
            "{garbage:#x}"
        );
        assert!(numbers.shared_ref().write().unwrap().is_torn(), "{garbage:#x}");
        let read = crate::executor::block_on(numbers.shared_ref().read_async()).unwrap();
        let ReadLocked::Torn(torn) = read else { panic!("{garbage:#x} is taken for order") };
        drop(torn.repair(|_| Ok(())).unwrap());
        assert!(matches!(numbers.shared_ref().read().unwrap(), ReadLocked::Clean(_)));
    }
}

#[test]
fn a_reader_that_asks_to_write_waits_for_itself() {
    let desk = desk();
    let table = field!(desk.table);
    let short = Wait::new().timeout(Duration::from_millis(20));
    let reads = table.read().unwrap();
    assert_eq!(table.write_with(short).map(drop).unwrap_err().errno(), Errno::TIMEDOUT);
    assert!(table.try_write().unwrap().is_none());
    // An attempt to write that ended holds no reader up.
    let again = table.read_with(short).unwrap();
    // While another waits to write, there is no second time.
    let mut writes = table.write_async();
    assert!(crate::executor::poll_once(&mut writes).is_pending());
    assert_eq!(table.read_with(short).map(drop).unwrap_err().errno(), Errno::TIMEDOUT);
    drop((reads, again));
    let guard = crate::executor::block_on(writes).unwrap().clean().unwrap();
    assert_eq!(table.read_with(short).map(drop).unwrap_err().errno(), Errno::TIMEDOUT);
    drop(guard);
    drop(table.read_with(short).unwrap());
}

#[test]
fn a_condition_wakes_a_waiter_in_another_process() {
    let desk = desk();
    let child = spawn_child(|| {
        let numbers = field!(desk.numbers);
        let guard = numbers.lock().unwrap().clean().unwrap();
        field!(desk.held).set();
        let none = |pair: folio::shm::SharedRef<'_, [u64; 2]>| Ok(pair.load()?[0] == 0);
        let guard = field!(desk.changed).wait_while(guard, none).unwrap().clean().unwrap();
        assert_eq!(guard.get().unwrap(), [5, 0]);
    })
    .0;
    field!(desk.held).wait().unwrap();
    let numbers = field!(desk.numbers);
    numbers.lock().unwrap().clean().unwrap().set([5, 0]).unwrap();
    field!(desk.changed).notify_all();
    assert_eq!(wait(child), End::Exited(0));
    let guard = numbers.lock().unwrap().clean().unwrap();
    let short = Wait::new().timeout(Duration::from_millis(10));
    let (locked, timed_out) = field!(desk.changed).wait_with(guard, short).unwrap();
    assert!(timed_out && !locked.is_torn());
}

#[test]
fn readers_share_and_writers_do_not() {
    let desk = desk();
    let table = field!(desk.table);
    let short = Wait::new().timeout(Duration::from_millis(50));
    let ReadLocked::Clean(mine) = table.read().unwrap() else { panic!("torn") };
    child_succeeds(|| {
        let table = field!(desk.table);
        let ReadLocked::Clean(theirs) = table.read().unwrap() else { panic!("torn") };
        assert_eq!(theirs.get_field(|table| &table[1]).unwrap(), 0);
        drop(theirs);
        assert_eq!(table.write_with(short).unwrap_err().errno(), Errno::TIMEDOUT);
    });
    drop(mine);
    let mut guard = table.write().unwrap().clean().unwrap();
    guard.set([1, 1]).unwrap();
    child_succeeds(|| {
        let table = field!(desk.table);
        assert_eq!(table.read_with(short).unwrap_err().errno(), Errno::TIMEDOUT);
        assert_eq!(table.write_with(short).unwrap_err().errno(), Errno::TIMEDOUT);
    });
    drop(guard);
    let ReadLocked::Clean(mine) = table.read().unwrap() else { panic!("torn") };
    assert_eq!(mine.get().unwrap(), [1, 1]);
}

#[test]
fn readers_never_see_half_of_a_writers_change() {
    let desk = desk();
    let write = || {
        let table = field!(desk.table);
        for round in 1..500 {
            let guard = table.write().unwrap().clean().unwrap();
            guard.field(|table| &table[0]).store(round).unwrap();
            guard.field(|table| &table[1]).store(round).unwrap();
        }
    };
    let read = || {
        let table = field!(desk.table);
        for _ in 0..2000 {
            let ReadLocked::Clean(guard) = table.read().unwrap() else { panic!("torn") };
            let [one, other] = guard.get().unwrap();
            assert_eq!(one, other);
        }
    };
    let children = [spawn_child(write).0, spawn_child(read).0, spawn_child(read).0];
    std::thread::scope(|scope| (0..2).for_each(|_| drop(scope.spawn(read))));
    all_succeed(children);
}

/// A process that reads the table, and does not leave it; its pid.
fn reads_and_stays(desk: &Segment<Desk>) -> i32 {
    let (reader, _messages) = spawn_child(|| {
        let table = field!(desk.table);
        let _guard = table.read().unwrap();
        field!(desk.held).set();
        std::thread::sleep(LONG * 4);
    });
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    reader
}

#[test]
fn a_dead_reader_holds_nobody_up_and_a_dead_writer_is_reported_to_readers() {
    let desk = desk();
    let table = field!(desk.table);
    let reader = reads_and_stays(&desk);
    let short = Wait::new().timeout(Duration::from_millis(50));
    assert_eq!(table.write_with(short).unwrap_err().errno(), Errno::TIMEDOUT);
    kill(reader, libc::SIGKILL);
    wait(reader);
    drop(table.write_with(patiently()).unwrap().clean().unwrap());
    dies_after(&desk, || {
        let table = field!(desk.table);
        let guard = table.write().unwrap().clean().unwrap();
        guard.field(|table| &table[0]).store(9).unwrap();
        std::mem::forget(guard);
    });
    let ReadLocked::Torn(torn) = table.read_with(patiently()).unwrap() else {
        panic!("said to be clean")
    };
    assert_eq!(torn.shared_ref().load().unwrap(), [9, 0]);
    // It is this thread's alone.
    child_succeeds(|| {
        assert_eq!(field!(desk.table).read_with(short).unwrap_err().errno(), Errno::TIMEDOUT);
    });
    drop(torn.repair(|table| table.store([9, 9])).unwrap());
    let ReadLocked::Clean(guard) = table.read().unwrap() else { panic!("torn") };
    assert_eq!(guard.get().unwrap(), [9, 9]);
}

#[test]
fn an_event_is_seen_by_all_waiters_and_taken_by_one() {
    let desk = desk();
    let waiters: Vec<_> =
        (0..2).map(|_| spawn_child(|| field!(desk.go).wait().unwrap()).0).collect();
    let parked = std::time::Instant::now();
    while parked.elapsed() < Duration::from_millis(20) {
        std::thread::yield_now();
    }
    field!(desk.go).set();
    all_succeed(waiters);
    let go = field!(desk.go);
    let none = Wait::new().timeout(Duration::ZERO);
    assert!(go.is_set() && go.take_with(none).unwrap() && !go.take_with(none).unwrap());
    assert!(!go.wait_with(none).unwrap() && !go.clear());
}

#[test]
fn a_once_is_done_once_by_a_process_that_lives_to_do_it() {
    let desk = desk();
    let dying = spawn_child(|| {
        field!(desk.once)
            .call(|begun_before| {
                assert!(!begun_before);
                field!(desk.held).set();
                std::thread::sleep(LONG * 4);
                Ok(())
            })
            .unwrap();
    })
    .0;
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    kill(dying, libc::SIGKILL);
    wait(dying);
    let once = field!(desk.once);
    assert!(!once.is_done());
    let work = || {
        field!(desk.once)
            .call(|begun_before| {
                assert!(begun_before);
                field!(desk.counter).fetch_add(1, Ordering::SeqCst);
                Ok(())
            })
            .unwrap();
    };
    let children: Vec<_> = (0..3).map(|_| spawn_child(work).0).collect();
    work();
    all_succeed(children);
    once.wait(patiently()).unwrap();
    assert_eq!(field!(desk.counter).load(Ordering::SeqCst), 1);
}

#[test]
fn waits_say_how_often_they_parked() {
    let desk = desk();
    let before = (desk.parks(), Wait::parks());
    let short = Wait::new().timeout(Duration::from_millis(60));
    assert!(!field!(desk.go).wait_with(short).unwrap());
    assert!(desk.parks() > before.0 && Wait::parks() > before.1);
    let now = desk.parks();
    let spinning = Wait::new().always_spin().timeout(Duration::from_millis(5));
    assert!(!field!(desk.go).wait_with(spinning).unwrap());
    assert_eq!(desk.parks(), now);
}

#[test]
fn a_lock_in_a_file_is_torn_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let end = in_child(|| {
        let ledger = SegmentOptions::new().create_file::<Mutex<u64>>(&path).unwrap();
        let place = ledger.value();
        let mut guard = place.lock().unwrap().clean().unwrap();
        guard.set(7).unwrap();
        ledger.sync().unwrap();
        // SAFETY: ends the process as a power cut would, as far as memory is concerned.
        unsafe { libc::_exit(0) };
    });
    assert_eq!(end, End::Exited(0));
    let ledger = SegmentOptions::new().open_file::<Mutex<u64>>(&path).unwrap();
    let place = ledger.value();
    let Locked::Torn(torn) = place.lock().unwrap() else { panic!("said to be clean") };
    assert_eq!(torn.shared_ref().load().unwrap(), 7);
    assert!(torn.repair(|_| Ok(())).is_ok());
}

#[test]
fn a_writer_behind_a_dead_reader_gets_on_however_busy_others_keep_it() {
    let desk = Segment::<RwLock<u64>>::anonymous().unwrap();
    let ready = Segment::<AtomicU64>::anonymous().unwrap();
    let (reader, _messages) = spawn_child(|| {
        let ReadLocked::Clean(guard) = desk.shared_ref().read().unwrap() else {
            panic!("nobody wrote")
        };
        ready.store(1, Ordering::SeqCst);
        std::thread::sleep(LONG * 4);
        drop(guard);
    });
    while ready.load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    std::thread::scope(|scope| {
        let writer = scope
            .spawn(|| desk.shared_ref().write_with(patiently()).map(|locked| locked.is_torn()));
        // Each reader that finds the writer waiting leaves again, which ends the writer's park.
        let busy = scope.spawn(|| {
            while ready.load(Ordering::SeqCst) != 2 {
                let _ = desk.shared_ref().read_with(Wait::new().spin(0).timeout(Duration::ZERO));
            }
        });
        std::thread::sleep(Duration::from_millis(100));
        kill(reader, libc::SIGKILL);
        wait(reader);
        let got = writer.join().unwrap();
        ready.store(2, Ordering::SeqCst);
        busy.join().unwrap();
        assert!(!got.unwrap());
    });
}

#[test]
fn the_dead_stay_dead_when_a_file_forgets_that_they_ever_came() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let open = || SegmentOptions::new().open_or_create_file::<Mutex<u64>>(&path).unwrap();
    drop(open());
    let before = std::fs::read(&path).unwrap();
    let (holder, _messages) = spawn_child(|| {
        let segment = open();
        let _guard = segment.shared_ref().lock().unwrap();
        kill(std::process::id().cast_signed(), libc::SIGKILL);
    });
    assert_eq!(wait(holder), End::Killed(libc::SIGKILL));
    // As after a power loss: the page of the lock came to the disk, and that of the slots did not.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &before[4096..8192], 4096).unwrap();
    let segment = open();
    assert!(segment.shared_ref().lock_with(patiently()).unwrap().is_torn());
}

/// Waits until a writer has the table, or waits for its readers.
fn until_a_writer_comes(table: &folio::shm::Shared<RwLock<[u64; 2]>>) {
    let start = std::time::Instant::now();
    while table.try_read().unwrap().is_some() {
        assert!(start.elapsed() < LONG, "no writer comes");
        std::thread::yield_now();
    }
}

#[test]
fn a_writer_that_is_killed_while_it_waits_for_readers_tears_nothing() {
    let desk = desk();
    let table = field!(desk.table);
    for round in 0..6 {
        let reader = reads_and_stays(&desk);
        let writer = spawn_child(|| {
            let table = field!(desk.table);
            if round % 2 == 0 {
                drop(table.write().unwrap());
            } else {
                let _waits = crate::executor::poll_once(&mut table.write_async());
                drop(crate::executor::block_on(table.write_async()).unwrap());
            }
        })
        .0;
        until_a_writer_comes(&table);
        kill(writer, libc::SIGKILL);
        wait(writer);
        // The next is a reader, or a writer.
        if round < 3 {
            let ReadLocked::Clean(guard) = table.read_with(patiently()).unwrap() else {
                panic!("said to be torn")
            };
            assert_eq!(guard.get().unwrap(), [0, 0]);
        }
        kill(reader, libc::SIGKILL);
        wait(reader);
        drop(table.write_with(patiently()).unwrap().clean().expect("said to be torn"));
    }
    // One that has begun, and stored nothing yet that anyone could see, may have.
    dies_after(&desk, || {
        std::mem::forget(field!(desk.table).write().unwrap().clean().unwrap());
    });
    assert!(table.write_with(patiently()).unwrap().is_torn());
    // It stays torn through one that takes it, waits for nobody, and is killed.
    dies_after(&desk, || std::mem::forget(field!(desk.table).shared_ref().write().unwrap()));
    let ReadLocked::Torn(torn) = table.read_with(patiently()).unwrap() else {
        panic!("said to be clean")
    };
    drop(torn.repair(|_| Ok(())).unwrap());
    drop(table.try_write().unwrap().unwrap().clean().unwrap());
}

#[test]
fn a_try_waits_for_no_living_holder() {
    let desk = desk();
    let table = field!(desk.table);
    let ReadLocked::Clean(reads) = table.try_read().unwrap().unwrap() else { panic!("torn") };
    child_succeeds(|| {
        let table = field!(desk.table);
        assert!(table.try_write().unwrap().is_none());
        // It has left nothing behind.
        assert!(table.try_read().unwrap().is_some());
    });
    drop(reads);
    let writes = table.try_write().unwrap().unwrap().clean().unwrap();
    child_succeeds(|| {
        let table = field!(desk.table);
        assert!(table.try_write().unwrap().is_none() && table.try_read().unwrap().is_none());
    });
    drop(writes);
    let writer = spawn_child(|| {
        let table = field!(desk.table);
        std::mem::forget(table.shared_ref().write().unwrap());
        field!(desk.held).set();
        std::thread::sleep(LONG * 4);
    })
    .0;
    assert!(field!(desk.held).take_with(patiently()).unwrap());
    kill(writer, libc::SIGKILL);
    wait(writer);
    let Some(ReadLocked::Torn(torn)) = table.try_read().unwrap() else {
        panic!("a dead writer is waited for")
    };
    torn.poison();
    assert_eq!(table.try_read().unwrap_err().errno(), Errno::NOTRECOVERABLE);
    assert_eq!(table.try_write().unwrap_err().errno(), Errno::NOTRECOVERABLE);
    assert!(table.is_poisoned() && table.clear_poison() && !table.is_poisoned());
    drop(table.try_write().unwrap().unwrap().or_repair(|_| Ok(())).unwrap());
    let numbers = field!(desk.numbers);
    assert!(
        numbers.try_lock().unwrap().is_some() && !numbers.is_poisoned() && !numbers.clear_poison()
    );
}

#[test]
fn a_condition_that_does_not_come_is_waited_for_as_long_as_was_said() {
    let desk = desk();
    let (numbers, changed) = (field!(desk.numbers), field!(desk.changed));
    let none = |pair: folio::shm::SharedRef<'_, [u64; 2]>| Ok(pair.load()?[0] == 0);
    let guard = numbers.lock().unwrap().clean().unwrap();
    let short = Wait::new().timeout(Duration::from_millis(50));
    let start = std::time::Instant::now();
    // A notification without a change does not make it longer.
    let busy = spawn_child(|| {
        loop {
            field!(desk.changed).notify_all();
            std::thread::sleep(Duration::from_millis(1));
        }
    })
    .0;
    let (locked, holds) = changed.wait_while_with(guard, short, none).unwrap();
    kill(busy, libc::SIGKILL);
    wait(busy);
    assert!(holds && start.elapsed() >= Duration::from_millis(50) && start.elapsed() < LONG);
    drop(locked);
    let setter = spawn_child(|| {
        std::thread::sleep(Duration::from_millis(10));
        let numbers = field!(desk.numbers);
        numbers.lock().unwrap().clean().unwrap().set([5, 0]).unwrap();
        field!(desk.changed).notify_one();
    })
    .0;
    let guard = numbers.lock().unwrap().clean().unwrap();
    let (locked, holds) = changed.wait_while_with(guard, patiently(), none).unwrap();
    assert!(!holds && locked.clean().unwrap().get().unwrap() == [5, 0]);
    assert_eq!(wait(setter), End::Exited(0));
}

#[test]
fn a_notification_without_waiters_makes_no_system_call() {
    use crate::common::kill_sweep::{Ended, Step, can_trace, run};
    if !can_trace() {
        return crate::common::skip("this process may not trace its children");
    }
    let desk = desk();
    let calls =
        |work: &dyn Fn()| match run(Step::Call, u64::MAX, || desk.check().unwrap(), |()| work()) {
            Some(Ended::Through(steps)) => steps,
            other => panic!("{other:?}"),
        };
    let (changed, numbers, go) = (field!(desk.changed), field!(desk.numbers), field!(desk.go));
    let wait_once = || {
        let guard = numbers.lock().unwrap().clean().unwrap();
        let short = Wait::new().spin(0).timeout(Duration::from_millis(1));
        assert!(changed.wait_with(guard, short).unwrap().1);
    };
    let none = calls(&|| ());
    let all = || {
        changed.notify_one();
        changed.notify_all();
        go.set();
        go.clear();
        drop(numbers.lock().unwrap().clean().unwrap());
        let mut guard = numbers.lock().unwrap().clean().unwrap();
        // A process that only tries does not wait.
        assert!(numbers.try_lock().unwrap().is_none());
        guard.update(|pair| pair[0] += 1).unwrap();
    };
    assert_eq!(calls(&all), none);
    wait_once();
    assert!(calls(&|| changed.notify_one()) > none);
    assert!(calls(&|| changed.notify_all()) > none);
    // All waiters were notified.
    assert_eq!(calls(&all), none);
}
