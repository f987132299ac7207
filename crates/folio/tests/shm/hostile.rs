//! Peers that truncate, write garbage, are other users, or fill the file system: errors, never
//! signals.

use crate::common::random::{Random, seed};
use crate::common::segment_dir::World;
use crate::common::{
    End, Mounted, become_nobody, child_succeeds, in_child, is_root, lower_limit, skip, spawn_child,
    wait,
};
use folio::Errno;
use folio::shm::{
    self, Lifetime, Mutex, RwLock, Segment, SegmentOptions, SegmentState, Share, Wait, field,
};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

fn kept() -> SegmentOptions {
    SegmentOptions::new().lifetime(Lifetime::Kept)
}

fn writable(world: &World, name: &str) -> File {
    OpenOptions::new().read(true).write(true).open(world.file(name)).unwrap()
}

#[test]
fn a_peer_that_truncates_is_an_error_and_no_signal() {
    let world = World::new();
    for left in [0_u64, 100, 4096, 8192, 12_288] {
        let end = in_child(|| {
            let numbers =
                SegmentOptions::new().count(100_000).create::<[AtomicU64]>("cut").unwrap();
            numbers.shared(0).unwrap().fetch_add(1, Ordering::SeqCst);
            let last = numbers.shared(99_999).unwrap();
            writable(&world, "cut").set_len(left).unwrap();
            // Bare atomics show zeros, where there is nothing any more …
            assert_eq!(last.load(Ordering::SeqCst), 0);
            last.store(5, Ordering::SeqCst);
            // … and whatever can return an error does.
            assert_eq!(numbers.check().unwrap_err().errno(), Errno::IO, "{left}");
            assert_eq!(numbers.grow(100_000).unwrap_err().errno(), Errno::IO);
            let error = Segment::<[AtomicU64]>::open("cut").unwrap_err();
            assert_eq!(error.errno(), Errno::UCLEAN, "{error}");
        });
        assert_eq!(end, End::Exited(0), "{left} bytes left");
        let _ = std::fs::remove_file(world.file("cut"));
    }
}

#[test]
fn plain_loads_and_locks_of_truncated_memory_are_errors() {
    let world = World::new();
    let pages = SegmentOptions::new().count(3).create::<[Mutex<[u8; 8168]>]>("cut").unwrap();
    let plain = SegmentOptions::new().count(4096).create::<[u64]>("plain").unwrap();
    writable(&world, "cut").set_len(8192).unwrap();
    writable(&world, "plain").set_len(8192).unwrap();
    let error = plain.get(4000).unwrap().load().unwrap_err();
    assert!(matches!(error.errno(), Errno::IO | Errno::FAULT), "{error}");
    assert!(plain.get(4000).unwrap().store(1).is_err() && plain.view().is_err());
    // The lock itself finds zeros, which say that it is free, and looks again.
    assert_eq!(pages.get(1).unwrap().lock().unwrap_err().errno(), Errno::IO);
    for (name, write) in [("readers", false), ("writers", true)] {
        let locks = SegmentOptions::new().count(4).create::<[RwLock<[u8; 4096]>]>(name).unwrap();
        writable(&world, name).set_len(8192).unwrap();
        let place = locks.get(3).unwrap();
        let error =
            if write { place.write().map(drop).err() } else { place.read().map(drop).err() };
        assert_eq!(error.unwrap().errno(), Errno::IO, "{name}");
    }
}

#[test]
fn bytes_that_go_away_during_a_copy_are_an_error_and_no_zeros() {
    const PAGES: usize = 64;
    const ROUNDS: u32 = 1500;
    const SEVENS: u64 = 0x0707_0707_0707_0707;
    let world = World::new();
    let round = |round: u32| {
        let large = Segment::<[[u64; 512]; PAGES]>::create("cut").unwrap();
        large.view_mut().unwrap().copy_from(&vec![7; PAGES * 4096], 0).unwrap();
        let (view, loads) = (large.view().unwrap(), &AtomicU64::new(0));
        std::thread::scope(|scope| {
            let file = writable(&world, "cut");
            scope.spawn(move || {
                while loads.load(Ordering::SeqCst) < 3 {
                    std::hint::spin_loop();
                }
                // At another moment of a copy each time.
                (0..round % 300).for_each(|_| std::hint::spin_loop());
                file.set_len(8192 + (PAGES as u64 - 1) * 4096).unwrap();
                // To this process its last page is zeros from here on.
                assert_eq!(view.get(PAGES * 4096 - 1), Some(0));
            });
            let error = loop {
                loads.fetch_add(1, Ordering::SeqCst);
                match large.load() {
                    Ok(rows) => assert_eq!(rows[PAGES - 1][511], SEVENS, "round {round}"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.errno(), Errno::IO, "{error}");
        });
        drop(large);
        assert_eq!(world.files(), [""; 0]);
    };
    // A value of that size takes its room on the stack.
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().stack_size(32 << 20);
        builder.spawn_scoped(scope, || (0..ROUNDS).for_each(round)).unwrap();
    });
}

#[test]
fn a_truncated_segment_does_not_grow_together_again() {
    let world = World::new();
    let numbers =
        SegmentOptions::new().count(10_000).capacity(100_000).create::<[u64]>("cut").unwrap();
    numbers.get(9_999).unwrap().store(7).unwrap();
    writable(&world, "cut").set_len(8192 + 4096).unwrap();
    // Nobody has met a page that is gone.
    let error = numbers.grow(20_000).unwrap_err();
    assert_eq!((error.errno(), numbers.len()), (Errno::IO, 10_000), "{error}");
    assert_eq!(numbers.get(9_999).unwrap().load().unwrap_err().errno(), Errno::IO);
}

#[test]
fn the_holder_of_a_lock_learns_that_its_value_was_truncated() {
    let world = World::new();
    for work in [
        (|guard| guard.get().map(drop)) as fn(&mut folio::shm::Guard<'_, u64>) -> folio::Result<()>,
        |guard| guard.set(1),
        |guard| guard.update(|number| *number += 1),
    ] {
        let locks = SegmentOptions::new().count(1000).create::<[Mutex<u64>]>("cut").unwrap();
        let place = locks.get(999).unwrap();
        let mut guard = place.lock().unwrap().clean().unwrap();
        work(&mut guard).unwrap();
        writable(&world, "cut").set_len(8192).unwrap();
        assert_eq!(work(&mut guard).unwrap_err().errno(), Errno::IO);
        drop(guard);
        assert!(locks.get(0).unwrap().lock().is_err());
        drop(locks);
        let _ = std::fs::remove_file(world.file("cut"));
    }
}

#[test]
fn a_thread_that_waits_in_a_truncated_segment_gets_the_error() {
    let world = World::new();
    let lock = Segment::<Mutex<u64>>::create("cut").unwrap();
    let guard = lock.shared_ref().lock().unwrap();
    let waited = std::thread::scope(|scope| {
        let waiter =
            scope.spawn(|| lock.shared_ref().lock_with(Wait::new().timeout(LONG)).map(drop));
        std::thread::sleep(Duration::from_millis(30));
        writable(&world, "cut").set_len(0).unwrap();
        waiter.join().unwrap()
    });
    assert_eq!(waited.unwrap_err().errno(), Errno::IO);
    drop(guard);
}

#[test]
fn nobody_can_take_pages_of_a_segment_without_a_name() {
    let numbers = SegmentOptions::new().count(1000).anonymous::<[u64]>().unwrap();
    let errno = rustix::fs::ftruncate(numbers.file(), 0).unwrap_err();
    assert_eq!(errno, Errno::PERM);
    assert!(numbers.check().is_ok());
}

#[test]
fn every_byte_of_a_header_that_is_wrong_is_an_error_that_says_so() {
    let world = World::new();
    let options = kept();
    drop(options.create::<u64>("header").unwrap());
    let file = writable(&world, "header");
    let mut good = [0; 528];
    file.read_exact_at(&mut good, 0).unwrap();
    for at in (0..516).chain(520..528) {
        let mut bytes = good;
        bytes[at] ^= 0xff;
        file.write_all_at(&bytes, 0).unwrap();
        let error = options.open::<u64>("header").expect_err(&format!("byte {at}"));
        assert!(matches!(error.errno(), Errno::UCLEAN | Errno::INVAL), "byte {at}: {error}");
        assert_eq!(options.create::<u64>("header").unwrap_err().errno(), Errno::EXIST);
    }
    file.write_all_at(&good, 0).unwrap();
    drop(options.open::<u64>("header").unwrap());
}

#[test]
fn random_garbage_is_no_segment_and_harms_nobody() {
    let world = World::new();
    let seed = seed();
    let mut random = Random(seed);
    let mut next = move || random.next();
    for round in 0..200 {
        let length = next() % 20_000;
        let bytes: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        std::fs::write(world.file("garbage"), &bytes).unwrap();
        assert!(Segment::<u64>::open("garbage").is_err(), "seed {seed}, round {round}");
        let entry = shm::list().unwrap().remove(0);
        assert!(
            matches!(entry.state, SegmentState::Damaged(_)),
            "seed {seed}, round {round}: {entry:?}"
        );
        // Nobody knows whose it is: it is not collected, but may be removed by name.
        assert!(shm::remove_stale(false).unwrap().removed.is_empty());
        shm::remove("garbage").unwrap();
    }
    // Slots and changing fields, overwritten while a process has the segment open.
    let numbers = SegmentOptions::new().count(10).capacity(1000).create::<[u64]>("open").unwrap();
    let file = writable(&world, "open");
    for round in 0..200 {
        let bytes: Vec<u8> = (0..512 + 4096).map(|_| next() as u8).collect();
        file.write_all_at(&bytes[..512 - 16], 528).unwrap();
        file.write_all_at(&bytes[512..], 4096).unwrap();
        file.write_all_at(&bytes[..8], 520).unwrap();
        assert!(numbers.len() <= 1000, "seed {seed}, round {round}");
        if let Some(last) = numbers.len().checked_sub(1) {
            let _ = numbers.get(last).unwrap().load();
        }
        if numbers.check().is_err() {
            // It took the length at its word, and found no page there: an error, as it should be.
            break;
        }
    }
    let _ = shm::list().unwrap();
}

#[derive(Share)]
#[repr(C)]
struct Version1 {
    count: AtomicU64,
    size: u32,
    fill: u32,
}

mod newer {
    use super::{AtomicU64, Share};

    #[derive(Share)]
    #[repr(C)]
    pub(super) struct Version1 {
        pub(super) count: AtomicU64,
        pub(super) size: u64,
    }
}

#[test]
fn another_type_or_layout_is_refused_and_both_sides_are_shown() {
    let world = World::new();
    let first = Segment::<Version1>::create("versions").unwrap();
    field!(first.count).store(1, Ordering::SeqCst);
    assert_eq!(size_of::<Version1>(), size_of::<newer::Version1>());
    let second = Segment::<newer::Version1>::open("versions").unwrap_err();
    assert_eq!(second.errno(), Errno::INVAL);
    let text = second.to_string();
    assert!(text.contains("hostile::Version1") && text.contains("newer::Version1"), "{text}");
    for error in [
        Segment::<u128>::open("versions").unwrap_err(),
        Segment::<[Version1]>::open("versions").unwrap_err(),
        Segment::<[u8; 16]>::open_or_create("versions").unwrap_err(),
    ] {
        assert_eq!(error.errno(), Errno::INVAL, "{error}");
    }
    let few = SegmentOptions::new().count(3).create::<[u64]>("few").unwrap();
    let error = SegmentOptions::new().count(4).open::<[u64]>("few").unwrap_err().to_string();
    assert!(error.contains("24 bytes") && error.contains("32"), "{error}");
    drop(few);
    // A header of a folio to come.
    let file = writable(&world, "versions");
    file.write_all_at(&3_u32.to_ne_bytes(), 8).unwrap();
    let error = Segment::<Version1>::open("versions").unwrap_err();
    assert!(error.to_string().contains("layout version is 3, and must be 2"), "{error}");
    assert!(shm::remove_stale(false).unwrap().removed.is_empty());
}

#[test]
fn a_full_file_system_is_an_error_that_says_how_much_was_free() {
    if !is_root() {
        return skip("mounting needs root");
    }
    let Some(small) = Mounted::tmpfs("size=256k") else { return skip("mounting is not allowed") };
    let world = World::at(small.path());
    let options = SegmentOptions::new().count(100_000).capacity(1 << 20);
    let error = options.create::<[u64]>("large").unwrap_err();
    assert_eq!(error.errno(), Errno::NOSPC);
    assert!(error.to_string().contains("262144 bytes free"), "{error}");
    assert_eq!(world.files(), [""; 0]);
    let fits = SegmentOptions::new().count(1000).capacity(1 << 20).create::<[u64]>("fits").unwrap();
    let error = fits.grow(100_000).unwrap_err();
    assert!(error.errno() == Errno::NOSPC && error.to_string().contains("bytes free"), "{error}");
    // The old bytes are as good as before.
    fits.get(999).unwrap().store(3).unwrap();
    assert_eq!((fits.len(), fits.get(999).unwrap().load().unwrap()), (1000, 3));
}

#[test]
fn other_users_are_kept_out_unless_they_are_let_in() {
    if !is_root() {
        return skip("becoming another user needs root");
    }
    let world = World::new();
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let private = Segment::<u64>::create("private").unwrap();
    let group =
        SegmentOptions::new().mode(0o660).group(65534).create::<AtomicU64>("group").unwrap();
    let all = SegmentOptions::new().mode(0o666).create::<AtomicU64>("all").unwrap();
    child_succeeds(|| {
        become_nobody();
        assert_eq!(Segment::<u64>::open("private").unwrap_err().errno(), Errno::ACCESS);
        assert_eq!(Segment::<u64>::create("private").unwrap_err().errno(), Errno::EXIST);
        assert_eq!(shm::remove("private").unwrap_err().errno(), Errno::ACCESS);
        Segment::<AtomicU64>::open("group").unwrap().fetch_add(1, Ordering::SeqCst);
        // It was not said that the whole world may write.
        assert_eq!(Segment::<AtomicU64>::open("all").unwrap_err().errno(), Errno::PERM);
        SegmentOptions::new()
            .mode(0o666)
            .open::<AtomicU64>("all")
            .unwrap()
            .fetch_add(1, Ordering::SeqCst);
        let names = shm::list().unwrap();
        assert!(matches!(names.last().unwrap().state, SegmentState::Closed(_)), "{names:?}");
        // A trap for root.
        drop(kept().create::<u64>("trap").unwrap());
        std::mem::forget(SegmentOptions::new().create::<u64>("squat").unwrap());
    });
    assert_eq!(group.load(Ordering::SeqCst) + all.load(Ordering::SeqCst), 2);
    for name in ["trap", "squat"] {
        let error = Segment::<u64>::open(name).unwrap_err();
        assert!(error.errno() == Errno::PERM && error.to_string().contains("65534"), "{error}");
    }
    drop(SegmentOptions::new().owner(65534).open::<u64>("trap").unwrap());
    drop(private);
}

#[test]
fn links_pipes_and_directories_are_no_segments() {
    let world = World::new();
    drop(kept().create::<u64>("real").unwrap());
    std::os::unix::fs::symlink(world.file("real"), world.file("link")).unwrap();
    assert_eq!(Segment::<u64>::open("link").unwrap_err().errno(), Errno::LOOP);
    assert!(shm::remove("link").is_err() && world.file("link").symlink_metadata().is_ok());
    rustix::fs::mkfifoat(rustix::fs::CWD, world.file("pipe"), rustix::fs::Mode::RWXU).unwrap();
    std::fs::create_dir(world.file("dir")).unwrap();
    for name in ["pipe", "dir"] {
        // At once, and not when somebody opens the other end.
        assert!(Segment::<u64>::open(name).is_err() && shm::remove(name).is_err(), "{name}");
        assert_eq!(Segment::<u64>::create(name).unwrap_err().errno(), Errno::EXIST);
    }
    let names = ["", "a/b", "..", "a\0b", "a\nb"];
    for name in names.into_iter().filter(|name| *name != "..").chain([&*"x".repeat(201)]) {
        assert_eq!(Segment::<u64>::create(name).unwrap_err().errno(), Errno::INVAL, "{name:?}");
    }
    assert_eq!(shm::list().unwrap().len(), 4);
}

#[test]
fn a_directory_that_cannot_be_used_is_no_name_in_use() {
    let world = World::new();
    let set = |dir: &std::path::Path| {
        // SAFETY: a child has one thread.
        unsafe { std::env::set_var("FOLIO_SHM_DIR", dir) };
    };
    let refused = |errno| {
        assert_eq!(Segment::<u64>::create("name").unwrap_err().errno(), errno);
        assert_eq!(Segment::<u64>::open_or_create("name").unwrap_err().errno(), errno);
    };
    std::fs::write(world.path().join("file"), "").unwrap();
    child_succeeds(|| {
        set(&world.path().join("file"));
        refused(Errno::NOTDIR);
        set(&world.path().join("none"));
        refused(Errno::NOENT);
    });
    if !is_root() {
        return skip("becoming another user needs root");
    }
    std::fs::set_permissions(world.path(), PermissionsExt::from_mode(0o700)).unwrap();
    child_succeeds(|| {
        become_nobody();
        refused(Errno::ACCESS);
    });
}

/// Locks, or gives back, bytes of a file for its description.
fn lock(file: &File, start: i64, length: i64, kind: i32) {
    // SAFETY: all zeroes is a valid `struct flock`.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    (lock.l_start, lock.l_len, lock.l_type) = (start, length, kind as i16);
    // SAFETY: the kernel reads one `struct flock`.
    let result = unsafe {
        libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), libc::F_OFD_SETLK, &raw const lock)
    };
    assert_eq!(result, 0);
}

#[test]
fn when_all_slots_are_taken_it_is_an_error() {
    let world = World::new();
    let segment = Segment::<u64>::create("full").unwrap();
    let file = writable(&world, "full");
    // All but the one that this process has.
    lock(&file, (1 << 62) + 1, 255, libc::F_WRLCK);
    child_succeeds(|| {
        let error = Segment::<u64>::open("full").unwrap_err();
        assert_eq!(error.errno(), Errno::USERS, "{error}");
    });
    lock(&file, (1 << 62) + 9, 1, libc::F_UNLCK);
    child_succeeds(|| drop(Segment::<u64>::open("full").unwrap()));
    let users = shm::list().unwrap().remove(0).users;
    assert_eq!(users.len(), 255);
    drop(segment);
}

#[test]
fn the_dead_leave_a_name_that_can_be_used_at_once() {
    let world = World::new();
    // Their forked children live on meanwhile.
    let start = || {
        let (pid, pipe) = spawn_child(|| {
            let _segment = SegmentOptions::new()
                .create_with::<AtomicU64>("name", |segment| {
                    segment.store(7, Ordering::SeqCst);
                    Ok(())
                })
                .unwrap();
            let _child = spawn_child(|| {
                // It runs, and so has given up its parent's descriptors.
                std::fs::write(world.path().join("ready"), std::process::id().to_string()).unwrap();
                std::thread::sleep(LONG * 4);
            });
            std::thread::sleep(LONG * 4);
        });
        let child = loop {
            match std::fs::read_to_string(world.path().join("ready")) {
                Ok(text) if !text.is_empty() => break text.parse::<i32>().unwrap(),
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        };
        std::fs::remove_file(world.path().join("ready")).unwrap();
        // SAFETY: a child of this test's own.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        wait(pid);
        (child, pipe)
    };
    let mut children = Vec::new();
    for round in 0..4 {
        children.push(start());
        let entry = shm::list().unwrap().remove(0);
        assert_eq!((&entry.state, entry.users.len()), (&SegmentState::Stale, 0));
        match round {
            0 => drop(Segment::<u64>::create("name").unwrap()),
            1 => {
                let fresh = Segment::<AtomicU64>::open_or_create("name").unwrap();
                assert_eq!(fresh.load(Ordering::SeqCst), 0);
            }
            2 => assert_eq!(Segment::<AtomicU64>::open("name").unwrap_err().errno(), Errno::NOENT),
            _ => {
                assert_eq!(shm::remove_stale(true).unwrap().removed.len(), 1);
                assert_eq!(world.files(), ["folio.name"]);
                assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1);
            }
        }
        assert_eq!(world.files(), [""; 0], "round {round}");
    }
    for (child, _pipe) in children {
        // SAFETY: started by this test.
        unsafe { libc::kill(child, libc::SIGKILL) };
    }
}

#[test]
fn nothing_is_deleted_while_a_party_lives() {
    let world = World::new();
    let used = kept().create::<u64>("used").unwrap();
    child_succeeds(|| {
        let error = shm::remove("used").unwrap_err();
        let parent = rustix::process::getppid().unwrap().as_raw_nonzero().to_string();
        assert!(error.errno() == Errno::BUSY && error.to_string().contains(&parent), "{error}");
        assert!(shm::remove_stale(false).unwrap().removed.is_empty());
    });
    assert_eq!(shm::list().unwrap()[0].state, SegmentState::InUse);
    drop(used);
    assert_eq!(shm::list().unwrap()[0].state, SegmentState::Idle);
    assert!(shm::remove_stale(false).unwrap().removed.is_empty());
    shm::remove("used").unwrap();
    assert_eq!(shm::remove("used").unwrap_err().errno(), Errno::NOENT);
    // Files on their way: those that nobody is at any more.
    let temporary = world.path().join(".folio.name.new-0123456789abcdef");
    std::fs::write(&temporary, [0; 100]).unwrap();
    assert!(shm::remove_stale(false).unwrap().removed.is_empty());
    let old = std::time::SystemTime::now() - Duration::from_secs(60);
    File::options().write(true).open(&temporary).unwrap().set_modified(old).unwrap();
    assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1);
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn every_thread_of_a_forked_child_survives_a_truncation() {
    let world = World::new();
    let numbers = SegmentOptions::new().count(100_000).create::<[AtomicU64]>("cut").unwrap();
    let last = numbers.shared(99_999).unwrap();
    child_succeeds(|| {
        numbers.check().unwrap();
        writable(&world, "cut").set_len(8192).unwrap();
        // Not the thread that is this child's copy of the one that attached.
        std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                assert_eq!(last.load(Ordering::SeqCst), 0);
                numbers.check().unwrap_err().errno()
            });
            assert_eq!(other.join().unwrap(), Errno::IO);
        });
    });
}

#[test]
fn a_process_that_bars_all_slots_is_no_user() {
    let world = World::new();
    drop(kept().create::<u64>("barred").unwrap());
    let file = writable(&world, "barred");
    lock(&file, 1 << 62, 257, libc::F_WRLCK);
    assert!(shm::list().unwrap()[0].users.is_empty());
    let error = shm::remove("barred").unwrap_err();
    assert!(
        error.errno() == Errno::BUSY && error.to_string().contains("does not let go"),
        "{error}"
    );
    lock(&file, 1 << 62, 257, libc::F_UNLCK);
    shm::remove("barred").unwrap();
}

#[test]
fn a_waiter_for_one_that_bars_all_slots_keeps_no_thread_from_forking() {
    let world = World::new();
    drop(kept().create::<u64>("barred").unwrap());
    let file = writable(&world, "barred");
    lock(&file, 1 << 62, 257, libc::F_WRLCK);
    std::thread::scope(|scope| {
        let opener = scope.spawn(|| Segment::<u64>::open("barred").map(drop));
        // It waits by then.
        std::thread::sleep(Duration::from_millis(200));
        assert!(!opener.is_finished());
        child_succeeds(|| ());
        drop(Segment::<u64>::anonymous().unwrap());
        lock(&file, 1 << 62, 257, libc::F_UNLCK);
        // If all that had waited for the opener, it would have given up before.
        opener.join().unwrap().unwrap();
    });
}

#[test]
fn a_truncated_segment_is_a_leftover_once_nobody_has_it() {
    let world = World::new();
    let lose = |left: u64| {
        child_succeeds(|| {
            let numbers = SegmentOptions::new().count(10_000).create::<[AtomicU64]>("cut").unwrap();
            writable(&world, "cut").set_len(left).unwrap();
            assert_eq!(numbers.shared(9_999).unwrap().load(Ordering::SeqCst), 0);
            assert_eq!(numbers.check().unwrap_err().errno(), Errno::IO);
            // It has no time to leave.
            std::mem::forget(numbers);
        });
    };
    lose(8192);
    assert_eq!(shm::list().unwrap()[0].state, SegmentState::Stale);
    assert_eq!(shm::remove_stale(false).unwrap().removed.len(), 1);
    assert_eq!(world.files(), [""; 0]);
    lose(12_288);
    drop(Segment::<u64>::create("cut").unwrap());
    assert_eq!(world.files(), [""; 0]);
}

#[test]
fn a_leaving_user_takes_no_other_segment_along_than_its_own() {
    let world = World::new();
    let mine = Segment::<u64>::create("mine").unwrap();
    drop(kept().create::<u64>("kept").unwrap());
    let mut header = [0; 528];
    writable(&world, "kept").read_exact_at(&mut header, 0).unwrap();
    // Another segment by now: as if somebody had made it anew while this process was about to
    // leave.
    writable(&world, "mine").write_all_at(&header, 0).unwrap();
    let error = Segment::<u64>::open("mine").unwrap_err();
    assert!(
        error.errno() == Errno::UCLEAN && error.to_string().contains("changed its header"),
        "{error}"
    );
    drop(mine);
    assert_eq!(world.files(), ["folio.kept", "folio.mine"]);
}

#[test]
fn a_limit_on_the_size_of_files_is_an_error_and_no_signal() {
    let world = World::new();
    child_succeeds(|| {
        let options = SegmentOptions::new().count(1000).capacity(1 << 20);
        let before = options.create::<[u64]>("before").unwrap();
        lower_limit(libc::RLIMIT_FSIZE, 1 << 16);
        let says = |error: folio::Error| {
            let text = error.to_string();
            assert!(
                error.errno() == Errno::FBIG && text.contains("65536 bytes (RLIMIT_FSIZE)"),
                "{text}"
            );
        };
        says(before.grow(100_000).unwrap_err());
        says(SegmentOptions::new().count(100_000).create::<[u64]>("large").unwrap_err());
        says(SegmentOptions::new().count(100_000).anonymous::<[u64]>().unwrap_err());
        says(shm::Channel::create("channel", 1 << 20).unwrap_err());
        says(shm::Log::create("log", 1 << 20).unwrap_err());
        assert_eq!(world.files(), ["folio.before"]);
        // The bytes that fit are as good as ever.
        before.grow(2000).unwrap();
        before.get(1999).unwrap().store(3).unwrap();
        drop(Segment::<u64>::create("small").unwrap());
        // Not even a header fits; the existing segment can be used, and left.
        lower_limit(libc::RLIMIT_FSIZE, 0);
        assert_eq!(Segment::<u64>::create("small").unwrap_err().errno(), Errno::FBIG);
        assert_eq!(options.open::<[u64]>("before").unwrap().get(1999).unwrap().load().unwrap(), 3);
    });
    assert_eq!(world.files(), [""; 0]);
}
