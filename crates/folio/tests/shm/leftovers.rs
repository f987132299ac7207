//! Leftovers in a directory with the sticky bit, whose last user may write to them and not take
//! their names away: they count as absent, and each permitted user makes them into new segments.

use crate::common::kill_sweep::{Ended, Ledger, Step, can_trace, compete, run_around, sweep};
use crate::common::segment_dir::World;
use crate::common::{End, child_succeeds, in_child, is_root, lower_limit, skip, spawn_child, wait};
use folio::Errno;
use folio::shm::{
    self, ChannelOptions, Lifetime, LogOptions, Segment, SegmentOptions, SegmentState, Start,
};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The first maker of a segment, and two more users of its group.
const ANNA: u32 = 60_001;
const BERT: u32 = 60_002;
const CARL: u32 = 60_003;
const GROUP: u32 = 60_000;

const OLD: u64 = 0x01d;
const NEW: u64 = 0x2e3;

/// Becomes another user, of the group, for good: in children only.
fn become_user(user: u32) {
    let groups = [GROUP];
    // SAFETY: changes the user of this process, and no memory.
    unsafe {
        assert_eq!(libc::setgroups(1, groups.as_ptr()), 0);
        assert_eq!(libc::setresgid(user, user, user), 0);
        assert_eq!(libc::setresuid(user, user, user), 0);
    }
}

/// As /dev/shm: everyone may make files, and take away their own.
fn sticky() -> Option<World> {
    if !is_root() {
        skip("becoming another user needs root");
        return None;
    }
    let world = World::new();
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    Some(world)
}

fn ours() -> SegmentOptions {
    SegmentOptions::new().mode(0o660).group(GROUP).owner(ANNA)
}

fn fill(segment: &Segment<[u64]>, value: u64) -> folio::Result<()> {
    (0..segment.len()).try_for_each(|index| segment.get(index).unwrap().store(value))
}

fn is_full_of(segment: &Segment<[u64]>, value: u64) -> bool {
    (0..segment.len()).all(|index| segment.get(index).unwrap().load().unwrap() == value)
}

/// Anna makes a segment, Bert has it open last: he leaves in good order, or has no time to.
fn leave_behind(name: &str, count: usize, killed: bool) {
    let gate = Segment::<AtomicU64>::anonymous().unwrap();
    let (anna, _messages) = spawn_child(|| {
        become_user(ANNA);
        let options = ours().count(count).capacity(count * 2);
        let segment = options.create_with::<[u64]>(name, |segment| fill(segment, OLD)).unwrap();
        gate.store(1, Ordering::SeqCst);
        while gate.load(Ordering::SeqCst) == 1 {
            std::thread::yield_now();
        }
        drop(segment);
    });
    child_succeeds(|| {
        while gate.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        become_user(BERT);
        let segment = ours().open::<[u64]>(name).unwrap();
        gate.store(2, Ordering::SeqCst);
        wait_for_end(anna);
        if killed {
            std::mem::forget(segment);
        }
    });
    assert_eq!(wait(anna), End::Exited(0));
}

/// Waits until a process that is no child of this one has ended.
fn wait_for_end(pid: i32) {
    let state = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    };
    while state().is_some_and(|state| state != 'Z') {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether a process has a lock on a file.
fn is_locked(path: &std::path::Path) -> bool {
    let file = std::fs::File::open(path).unwrap();
    // SAFETY: all zeroes is a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::F_WRLCK as i16;
    // SAFETY: the kernel reads and writes one `struct flock`.
    let result = unsafe {
        libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&file), libc::F_OFD_GETLK, &raw mut lock)
    };
    assert_eq!(result, 0);
    i32::from(lock.l_type) != libc::F_UNLCK
}

fn as_user(user: u32, work: impl FnOnce()) {
    child_succeeds(|| {
        become_user(user);
        work();
    });
}

#[test]
fn a_leftover_that_its_last_user_may_not_remove_counts_as_absent() {
    let Some(world) = sticky() else { return };
    for killed in [false, true] {
        leave_behind("left", 100, killed);
        let entry = shm::list().unwrap().remove(0);
        assert_eq!((&entry.state, entry.owner, entry.users.len()), (&SegmentState::Stale, ANNA, 0));
        as_user(CARL, || {
            for _ in 0..2 {
                assert_eq!(ours().open::<[u64]>("left").unwrap_err().errno(), Errno::NOENT);
            }
            // Its file says so, whichever way one comes to it.
            let error = ours().open_file::<[u64]>(world.file("left")).unwrap_err();
            assert!(
                error.errno() == Errno::UCLEAN && error.to_string().contains("stale"),
                "{error}"
            );
            let file = std::fs::File::open(world.file("left")).unwrap();
            assert_eq!(ours().from_fd::<[u64]>(&file).unwrap_err().errno(), Errno::NOENT);
            // It is Anna's, and root's, to take away.
            let collected = shm::remove_stale(false).unwrap();
            assert_eq!((collected.removed.len(), collected.failed.len()), (0, 1));
            for error in [&collected.failed[0].1, &shm::remove("left").unwrap_err()] {
                assert!(
                    error.errno() == Errno::PERM && error.to_string().contains("(user 60001)"),
                    "{error}"
                );
            }
            // A creator that does not ask for mode 660 gets no segment that a group may write to.
            let private = SegmentOptions::new().owner(ANNA);
            let error = private.create::<[u64]>("left").unwrap_err();
            assert!(
                error.errno() == Errno::PERM && error.to_string().contains("mode 660"),
                "{error}"
            );
        });
        assert_eq!(shm::list().unwrap()[0].state, SegmentState::Stale);
        assert_eq!(world.files(), ["folio.left"]);
        as_user(ANNA, || assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1));
        assert_eq!(world.files(), [""; 0]);
    }
}

#[test]
fn the_next_of_the_group_makes_it_anew_and_finds_zeros() {
    let Some(world) = sticky() else { return };
    for (killed, before, count) in
        [(false, 1000, 10), (true, 1000, 10), (false, 10, 5000), (true, 10, 5000)]
    {
        leave_behind("left", before, killed);
        let inode = std::fs::metadata(world.file("left")).unwrap().ino();
        as_user(CARL, || {
            let options = ours().count(count).capacity(8000);
            let segment = if killed {
                options.create::<[u64]>("left").unwrap()
            } else {
                options.open_or_create::<[u64]>("left").unwrap()
            };
            assert!(segment.len() == count && is_full_of(&segment, 0));
            segment.grow(8000).unwrap();
            assert!(is_full_of(&segment, 0));
            fill(&segment, NEW).unwrap();
            assert_eq!(ours().create::<[u64]>("left").unwrap_err().errno(), Errno::EXIST);
            // Another process finds it.
            child_succeeds(|| {
                let again = ours().open::<[u64]>("left").unwrap();
                assert!(again.id() == segment.id() && is_full_of(&again, NEW));
                assert_eq!(shm::list().unwrap()[0].users.len(), 2);
            });
        });
        assert_eq!(std::fs::metadata(world.file("left")).unwrap().ino(), inode);
        assert_eq!(shm::list().unwrap()[0].state, SegmentState::Stale);
        assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1);
    }
    // Of another type, and to be kept.
    leave_behind("left", 1000, true);
    as_user(CARL, || {
        let options = ours().lifetime(Lifetime::Kept);
        let made = options.create_with::<AtomicU64>("left", |segment| {
            segment.store(NEW, Ordering::SeqCst);
            // The others find nothing yet.
            child_succeeds(|| {
                let error = ours().open::<AtomicU64>("left").unwrap_err();
                assert_eq!(error.errno(), Errno::NOENT, "{error}");
            });
            assert_eq!(shm::list().unwrap()[0].state, SegmentState::InUse);
            segment.check()
        });
        drop(made.unwrap());
    });
    as_user(BERT, || {
        assert_eq!(ours().open::<AtomicU64>("left").unwrap().load(Ordering::SeqCst), NEW);
    });
    assert_eq!(shm::list().unwrap()[0].state, SegmentState::Idle);
    shm::remove("left").unwrap();
}

#[test]
fn an_initializer_that_fails_leaves_the_leftover() {
    let Some(_world) = sticky() else { return };
    leave_behind("left", 100, true);
    as_user(CARL, || {
        let failing = |segment: &Segment<[u64]>| {
            fill(segment, NEW)?;
            Err(folio::FileMap::open("/nowhere").unwrap_err())
        };
        let options = ours().count(100);
        assert_eq!(options.create_with("left", failing).unwrap_err().errno(), Errno::NOENT);
        assert_eq!(options.open::<[u64]>("left").unwrap_err().errno(), Errno::NOENT);
        let again = options.create::<[u64]>("left").unwrap();
        assert!(is_full_of(&again, 0));
    });
}

#[test]
fn a_child_that_never_used_the_old_one_cannot_join_the_new_one_by_it() {
    let Some(_world) = sticky() else { return };
    let gate = Segment::<AtomicU64>::anonymous().unwrap();
    let wait_until = |value| {
        while gate.load(Ordering::SeqCst) < value {
            std::thread::yield_now();
        }
    };
    let (anna, _messages) = spawn_child(|| {
        become_user(ANNA);
        let segment =
            ours().count(100).create_with::<[u64]>("left", |segment| fill(segment, OLD)).unwrap();
        let (child, _messages) = spawn_child(|| {
            wait_until(2);
            // The file has the name, and holds another segment.
            let error = segment.check().unwrap_err();
            assert!(
                error.errno() == Errno::NOENT && error.to_string().contains("forked child"),
                "{error}"
            );
            assert_eq!(segment.get(0).unwrap().store(OLD).unwrap_err().errno(), Errno::NOENT);
            let fresh = ours().open::<[u64]>("left").unwrap();
            assert!(fresh.id() != segment.id() && is_full_of(&fresh, NEW));
            // One does not disturb the other.
            assert_eq!(segment.check().unwrap_err().errno(), Errno::NOENT);
            drop(segment.clone());
            let again = ours().open::<[u64]>("left").unwrap();
            assert!(
                again.id() == fresh.id()
                    && again.get(0).unwrap().as_ptr() == fresh.get(0).unwrap().as_ptr()
            );
            gate.store(3, Ordering::SeqCst);
        });
        gate.store(1, Ordering::SeqCst);
        std::mem::forget(segment);
        let _ = child;
        // SAFETY: ends this process at once, as a kill would; it waits for nobody.
        unsafe { libc::_exit(0) };
    });
    assert_eq!(wait(anna), End::Exited(0));
    as_user(CARL, || {
        wait_until(1);
        let fresh =
            ours().count(100).create_with::<[u64]>("left", |segment| fill(segment, NEW)).unwrap();
        gate.store(2, Ordering::SeqCst);
        wait_until(3);
        assert!(is_full_of(&fresh, NEW));
    });
}

#[test]
fn a_maker_that_is_killed_bars_nobody_although_its_child_lives() {
    let Some(world) = sticky() else { return };
    leave_behind("left", 100, true);
    let note = world.path().join("child");
    let (maker, _messages) = spawn_child(|| {
        become_user(BERT);
        let made = ours().count(100).create_with::<[u64]>("left", |segment| {
            let (child, _messages) = spawn_child(|| std::thread::sleep(Duration::from_secs(60)));
            fill(segment, OLD)?;
            std::fs::write(&note, child.to_string()).unwrap();
            // SAFETY: kills this process, and ends it at the latest when that is done.
            unsafe {
                libc::kill(libc::getpid(), libc::SIGKILL);
                libc::_exit(1)
            }
        });
        drop(made);
    });
    assert_eq!(wait(maker), End::Killed(libc::SIGKILL));
    as_user(CARL, || {
        assert_eq!(ours().open::<[u64]>("left").unwrap_err().errno(), Errno::NOENT);
        let segment = ours().count(100).create::<[u64]>("left").unwrap();
        assert!(is_full_of(&segment, 0));
    });
    let child = std::fs::read_to_string(note).unwrap().parse::<i32>().unwrap();
    // SAFETY: started by this test.
    assert_eq!(unsafe { libc::kill(child, libc::SIGKILL) }, 0);
}

#[test]
fn many_that_make_it_anew_at_once_make_one_segment() {
    const EACH: u64 = 4;
    let rounds = crate::common::effort::scaled(20);
    let Some(_world) = sticky() else { return };
    for round in 0..rounds {
        leave_behind("left", 100, round % 2 == 0);
        let gate = Segment::<AtomicU64>::anonymous().unwrap();
        let start = || {
            while gate.load(Ordering::SeqCst) == 0 {
                std::hint::spin_loop();
            }
        };
        let makers: Vec<_> = (0..EACH)
            .map(|number| {
                spawn_child(|| {
                    become_user([BERT, CARL][number as usize % 2]);
                    start();
                    let made = |segment: &Segment<[u64]>| {
                        assert!(is_full_of(segment, 0), "round {round}");
                        gate.fetch_add(0x100, Ordering::SeqCst);
                        fill(segment, NEW)
                    };
                    let open =
                        || ours().count(50).open_or_create_with::<[u64]>("left", made).unwrap();
                    // Its threads are as quick as other processes.
                    let (segment, other) = std::thread::scope(|scope| {
                        let other = scope.spawn(open);
                        (open(), other.join().unwrap())
                    });
                    assert!(segment.len() == 50 && is_full_of(&segment, NEW), "round {round}");
                    assert_eq!(segment.get(0).unwrap().as_ptr(), other.get(0).unwrap().as_ptr());
                    drop(other);
                    gate.fetch_add(0x1_0000, Ordering::SeqCst);
                    // Nobody leaves before all have come.
                    while gate.load(Ordering::SeqCst) >> 16 != EACH {
                        std::thread::yield_now();
                    }
                })
                .0
            })
            .collect();
        let (watcher, _messages) = spawn_child(|| {
            become_user(CARL);
            start();
            while gate.load(Ordering::SeqCst) >> 16 != EACH {
                match ours().open::<[u64]>("left") {
                    Ok(segment) => {
                        assert!(segment.len() == 50 && is_full_of(&segment, NEW), "round {round}");
                    }
                    Err(error) => assert_eq!(error.errno(), Errno::NOENT, "round {round}: {error}"),
                }
            }
        });
        gate.store(1, Ordering::SeqCst);
        for child in makers.into_iter().chain([watcher]) {
            assert_eq!(wait(child), End::Exited(0), "round {round}");
        }
        let made = gate.load(Ordering::SeqCst) >> 8 & 0xff;
        assert_eq!(made, 1, "round {round}");
        assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1);
    }
}

#[test]
fn killed_at_any_step_of_making_it_anew_it_is_a_leftover_or_whole() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let Some(world) = sticky() else { return };
    let mut ledger = Ledger::default();
    for lifetime in [Lifetime::WhileUsed, Lifetime::Kept] {
        let options = ours().count(100).lifetime(lifetime);
        let init = |segment: &Segment<[u64]>| fill(segment, NEW);
        sweep(
            &mut ledger,
            Step::Call,
            // At each of them.
            10_000,
            || leave_behind("left", 300, true),
            |()| become_user(BERT),
            |()| drop(options.open_or_create_with::<[u64]>("left", init).unwrap()),
            |ledger, ()| {
                let end = in_child(|| {
                    become_user(CARL);
                    // A process that finds one finds it whole.
                    match options.open::<[u64]>("left") {
                        Ok(segment) => assert!(segment.len() == 100 && is_full_of(&segment, NEW)),
                        Err(error) => assert_eq!(error.errno(), Errno::NOENT, "{error}"),
                    }
                    // The name can be used at once.
                    let zeros = |segment: &Segment<[u64]>| {
                        assert!(is_full_of(segment, 0));
                        init(segment)
                    };
                    let again = options.open_or_create_with::<[u64]>("left", zeros).unwrap();
                    assert!(again.len() == 100 && is_full_of(&again, NEW));
                });
                match end {
                    End::Exited(0) => {}
                    End::Killed(libc::SIGALRM) => ledger.hung += 1,
                    end => {
                        eprintln!("{end:?}");
                        ledger.corrupted += 1;
                    }
                }
                if lifetime == Lifetime::Kept {
                    shm::remove("left").unwrap();
                }
                ledger.leaked += world.leaked(&[]);
            },
        );
    }
    ledger.tell("made anew");
}

#[test]
fn whatever_others_make_of_it_between_two_steps_it_is_made_of_zeros() {
    /// Far more than there are; to store first values is none.
    const STEPS: u64 = 1000;
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let Some(world) = sticky() else { return };
    let (mut others, mut through) = (0, false);
    for at in 0..STEPS {
        // She is killed.
        as_user(ANNA, || {
            let made = |segment: &Segment<[u64]>| fill(segment, OLD);
            std::mem::forget(ours().count(300).create_with("left", made).unwrap());
        });
        let ended = run_around(
            Step::Call,
            at,
            || become_user(BERT),
            |()| {
                let made = |segment: &Segment<[u64]>| {
                    assert!(is_full_of(segment, 0));
                    segment.grow(8000)?;
                    assert!(is_full_of(segment, 0));
                    fill(segment, NEW)
                };
                let segment =
                    ours().capacity(8000).open_or_create_with::<[u64]>("left", made).unwrap();
                assert!(is_full_of(&segment, NEW));
            },
            || {
                // Unless the stopped process has it, or bars it.
                if !is_locked(&world.file("left")) {
                    others += 1;
                    as_user(CARL, || {
                        let made = |segment: &Segment<[u64]>| fill(segment, OLD);
                        drop(ours().count(5000).create_with("left", made).unwrap());
                    });
                }
            },
        );
        shm::remove("left").unwrap();
        through = ended.is_some_and(|ended| matches!(ended, Ended::Through(steps) if steps <= at));
        if through {
            break;
        }
    }
    eprintln!("made anew by another in between at {others} steps");
    assert!(through && others > 10);
}

/// Several processes make it, use it and leave it over and over, and one after the other is killed
/// at any moment.
#[test]
fn killed_while_others_make_it_anew_and_leave_it_nobody_sees_old_bytes() {
    const WORKERS: usize = 3;
    let kills = crate::common::effort::scaled(200);
    let Some(world) = sticky() else { return };
    let mut ledger = Ledger::default();
    leave_behind("left", 300, true);
    let inode = std::fs::metadata(world.file("left")).unwrap().ino();
    let rounds = Segment::<AtomicU64>::anonymous().unwrap();
    let spawn = |user| {
        let work = || {
            become_user(user);
            let zeros = |segment: &Segment<[u64]>| {
                assert!(is_full_of(segment, 0), "it is made of zeros");
                fill(segment, NEW)
            };
            loop {
                let segment =
                    ours().count(100).open_or_create_with::<[u64]>("left", zeros).unwrap();
                assert!(segment.len() == 100 && is_full_of(&segment, NEW), "it is whole");
                drop(segment);
                rounds.fetch_add(1, Ordering::SeqCst);
            }
        };
        spawn_child(work)
    };
    let spawn = |number: usize| spawn([BERT, CARL][number % 2]);
    let made = || rounds.load(Ordering::SeqCst);
    compete(&mut ledger, WORKERS, kills, Duration::from_secs(30), spawn, || (), made);
    assert_eq!(std::fs::metadata(world.file("left")).unwrap().ino(), inode);
    ledger.leaked += world.leaked(&[]);
    ledger.tell(&format!("made anew {} times or opened", made()));
}

#[test]
fn channels_and_logs_are_made_anew_too() {
    let Some(_world) = sticky() else { return };
    let channel = || ChannelOptions::new().bytes(1 << 12).segment(ours());
    let log = || LogOptions::new().bytes(1 << 12).segment(ours());
    as_user(ANNA, || {
        let left = channel().create("channel").unwrap();
        left.sender().unwrap().send(b"old").unwrap();
        let log = log().create("log").unwrap();
        log.writer().unwrap().append(b"old").unwrap();
        std::mem::forget((left, log));
    });
    as_user(BERT, || {
        let channel = channel().open_or_create("channel").unwrap();
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        sender.send(b"new").unwrap();
        let mut message = Vec::new();
        receiver.recv(&mut message).unwrap();
        assert_eq!(message, b"new");
        assert_eq!(log().open("log").unwrap_err().errno(), Errno::NOENT);
        let log = log().open_or_create("log").unwrap();
        assert!(log.reader(Start::Oldest).unwrap().try_next(&mut Vec::new()).unwrap().is_none());
        assert_eq!(log.writer().unwrap().append(b"new").unwrap(), 0);
    });
    assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 2);
}

#[test]
fn a_user_that_may_make_no_file_leaves_one_behind_without_a_signal() {
    let Some(_world) = sticky() else { return };
    leave_behind("left", 100, true);
    as_user(CARL, || {
        lower_limit(libc::RLIMIT_FSIZE, 100);
        assert_eq!(ours().open::<[u64]>("left").unwrap_err().errno(), Errno::FBIG);
        assert_eq!(ours().create::<[u64]>("left").unwrap_err().errno(), Errno::FBIG);
    });
    as_user(CARL, || {
        let segment = ours().count(10).create::<[u64]>("left").unwrap();
        lower_limit(libc::RLIMIT_FSIZE, 100);
        drop(segment);
    });
    assert_eq!(shm::list().unwrap()[0].state, SegmentState::Stale);
    shm::remove("left").unwrap();
}
