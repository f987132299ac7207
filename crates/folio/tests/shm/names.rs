//! The name of a segment that is removed or replaced under its users: users of the name learn it
//! when they wait, and when they ask.

use crate::common::segment_dir::World;
use crate::executor::{PATIENCE, block_on};
use folio::shm::{
    Channel, ChannelOptions, Event, Lifetime, Log, Mutex, Once, RwLock, Segment, SegmentOptions,
    Start, Wait,
};
use folio::{Errno, Error};
use rustix::event::{PollFd, PollFlags, poll};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// The error of a call on a name that is gone.
#[track_caller]
fn says(how: &str, result: Result<(), Error>) {
    let error = result.expect_err("the name is gone");
    assert_eq!(error.errno(), Errno::STALE, "{error}");
    assert!(error.to_string().contains(how), "{error}");
}

#[test]
fn check_distinguishes_a_removed_name_from_a_replaced_one() {
    let world = World::new();
    let removed = Segment::<AtomicU64>::create("removed").unwrap();
    let replaced = Segment::<AtomicU64>::create("replaced").unwrap();
    let other = Segment::<AtomicU64>::create("other").unwrap();
    removed.check().unwrap();
    std::fs::remove_file(world.file("removed")).unwrap();
    std::fs::rename(world.file("other"), world.file("replaced")).unwrap();
    says("was removed", removed.check());
    says("was removed", removed.value().check());
    says("was replaced", replaced.check());
    // Under another name it is still found.
    other.check().unwrap();
}

#[test]
fn all_users_by_a_name_follow_it_whatever_made_the_segment() {
    let world = World::new();
    let file = world.path().join("a-file");
    let opened = Segment::<u64>::open_or_create("opened").unwrap();
    let kept = SegmentOptions::new().lifetime(Lifetime::Kept).create::<u64>("kept").unwrap();
    let by_path = SegmentOptions::new().create_file::<u64>(&file).unwrap();
    let channel = Channel::create("channel", 4096).unwrap();
    let log = Log::create("log", 4096).unwrap();
    for name in ["opened", "kept", "channel", "log"] {
        std::fs::remove_file(world.file(name)).unwrap();
    }
    std::fs::remove_file(file).unwrap();
    let checks = [opened.check(), kept.check(), by_path.check(), channel.check(), log.check()];
    for check in checks {
        says("was removed", check);
    }
}

#[test]
fn a_user_without_a_name_or_that_says_so_goes_on_without_one() {
    let world = World::new();
    let options = SegmentOptions::new().outlive_name();
    let named = options.create::<Mutex<u64>>("named").unwrap();
    std::fs::remove_file(world.file("named")).unwrap();
    let anonymous = Segment::<Mutex<u64>>::anonymous().unwrap();
    let path = world.path().join("a-file");
    drop(SegmentOptions::new().create_file::<Mutex<u64>>(&path).unwrap());
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let by_descriptor = Segment::<Mutex<u64>>::from_fd(&file).unwrap();
    std::fs::remove_file(&path).unwrap();
    for segment in [&named, &anonymous, &by_descriptor] {
        segment.check().unwrap();
        let guard = segment.shared_ref().lock().unwrap();
        let wait = Wait::new().timeout(Duration::from_millis(300));
        assert_eq!(segment.shared_ref().lock_with(wait).unwrap_err().errno(), Errno::TIMEDOUT);
        drop(guard);
    }
}

#[test]
fn each_wait_ends_when_the_name_is_removed() {
    let world = World::new();
    let lock = Segment::<Mutex<u64>>::create("lock").unwrap();
    let table = Segment::<RwLock<u64>>::create("table").unwrap();
    let event = Segment::<Event>::create("event").unwrap();
    let once = Segment::<Once>::create("once").unwrap();
    let channel = Channel::create("channel", 4096).unwrap();
    let full = Channel::create("full", 4096).unwrap();
    let log = Log::create("log", 4096).unwrap();
    let (_held, _read) = (lock.shared_ref().lock().unwrap(), table.shared_ref().read().unwrap());
    let (mut sender, _receiver) = (full.sender().unwrap(), full.receiver().unwrap());
    while sender.try_send(&[0; 512]).unwrap() {}
    let wait = Wait::new().timeout(PATIENCE);
    std::thread::scope(|scope| {
        let waits = [
            scope.spawn(|| lock.shared_ref().lock().map(drop)),
            scope.spawn(|| {
                lock.shared_ref().lock_with(Wait::new().timeout(PATIENCE).always_spin()).map(drop)
            }),
            scope.spawn(|| table.shared_ref().write_with(wait).map(drop)),
            scope.spawn(|| event.shared_ref().wait_with(wait).map(drop)),
            scope.spawn(|| once.shared_ref().wait(wait)),
            scope.spawn(|| channel.receiver().unwrap().recv(&mut Vec::new()).map(drop)),
            scope.spawn(|| sender.send(&[0; 512])),
            scope.spawn(|| log.reader(Start::Oldest).unwrap().next(&mut Vec::new()).map(drop)),
        ];
        // They are on their way, or not yet: both end.
        std::thread::sleep(Duration::from_millis(50));
        for name in ["lock", "table", "event", "once", "channel", "full", "log"] {
            std::fs::remove_file(world.file(name)).unwrap();
        }
        for wait in waits {
            says("was removed", wait.join().unwrap());
        }
    });
}

#[test]
fn waits_that_are_shorter_than_a_slice_add_up() {
    let world = World::new();
    let mut receiver = Channel::create("channel", 4096).unwrap().receiver().unwrap();
    receiver.set_wait(Wait::new().timeout(Duration::from_millis(1)));
    assert_eq!(receiver.recv(&mut Vec::new()).unwrap_err().errno(), Errno::TIMEDOUT);
    std::fs::remove_file(world.file("channel")).unwrap();
    says("was removed", until_no_timeout(|| receiver.recv(&mut Vec::new()).map(drop)));
}

/// Calls again and again, as long as the answer is that the time is over.
fn until_no_timeout(mut call: impl FnMut() -> Result<(), Error>) -> Result<(), Error> {
    let started = Instant::now();
    loop {
        match call() {
            Err(error) if error.errno() == Errno::TIMEDOUT && started.elapsed() < PATIENCE => {}
            other => return other,
        }
    }
}

#[test]
fn a_receiver_that_only_tries_learns_it_too() {
    let world = World::new();
    let channel = Channel::create("channel", 4096).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut reader = Log::create("log", 4096).unwrap().reader(Start::Oldest).unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
    while sender.try_send(&[0; 512]).unwrap() {}
    std::fs::remove_file(world.file("channel")).unwrap();
    std::fs::remove_file(world.file("log")).unwrap();
    let started = Instant::now();
    let is_late = || started.elapsed() > PATIENCE;
    let sent = loop {
        match sender.try_send(&[0; 512]) {
            Ok(false) if !is_late() => std::thread::sleep(Duration::from_millis(1)),
            other => break other.map(drop),
        }
    };
    says("was removed", sent);
    // The messages that are there come first.
    let mut count = 0;
    let received = loop {
        match receiver.try_recv(&mut Vec::new()) {
            Ok(Some(_)) => count += 1,
            Ok(None) if !is_late() => std::thread::sleep(Duration::from_millis(1)),
            other => break other.map(drop),
        }
    };
    says("was removed", received);
    assert!(count > 3, "{count} messages");
    let read = loop {
        match reader.try_next(&mut Vec::new()) {
            Ok(None) if !is_late() => std::thread::sleep(Duration::from_millis(1)),
            other => break other.map(drop),
        }
    };
    says("was removed", read);
}

#[test]
fn futures_end_when_the_name_is_removed() {
    let world = World::new();
    let lock = Segment::<Mutex<u64>>::create("lock").unwrap();
    let event = Segment::<Event>::create("event").unwrap();
    let channel = Channel::create("channel", 4096).unwrap();
    let _held = lock.shared_ref().lock().unwrap();
    std::thread::scope(|scope| {
        let waits = [
            scope.spawn(|| block_on(lock.shared_ref().lock_async()).map(drop)),
            scope.spawn(|| block_on(event.shared_ref().wait_async())),
            scope.spawn(|| {
                block_on(channel.receiver().unwrap().recv_async(&mut Vec::new())).map(drop)
            }),
        ];
        std::thread::sleep(Duration::from_millis(50));
        for name in ["lock", "event", "channel"] {
            std::fs::remove_file(world.file(name)).unwrap();
        }
        for wait in waits {
            says("was removed", wait.join().unwrap());
        }
    });
}

/// Waits for a descriptor, for no longer than any test takes.
fn wait_for(fd: BorrowedFd<'_>) {
    let patience = rustix::event::Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "the descriptor is never readable");
}

#[test]
fn descriptors_to_poll_become_readable_and_the_next_try_says_why() {
    let world = World::new();
    let event = Segment::<Event>::create("event").unwrap();
    let mut receiver = ChannelOptions::new().create("channel").unwrap().receiver().unwrap();
    let mut listener = event.shared_ref().listen().unwrap();
    receiver.poll_fd().unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
    assert!(!listener.try_take().unwrap());
    std::fs::remove_file(world.file("event")).unwrap();
    std::fs::remove_file(world.file("channel")).unwrap();
    wait_for(receiver.poll_fd().unwrap());
    says("was removed", receiver.try_recv(&mut Vec::new()).map(drop));
    wait_for(listener.as_fd());
    says("was removed", listener.try_take().map(drop));
}

#[test]
fn a_restarted_consumer_and_its_old_producer_do_not_wait_for_ever() {
    let world = World::new();
    let (mut producer, consumer) = {
        let channel = Channel::open_or_create("work", 4096).unwrap();
        (channel.sender().unwrap(), channel.receiver().unwrap())
    };
    // Somebody cleans the directory up while the consumer is restarted.
    std::fs::remove_file(world.file("work")).unwrap();
    std::mem::forget(consumer);
    let second = Channel::open_or_create("work", 4096).unwrap();
    let mut consumer = second.receiver().unwrap();
    consumer.set_wait(Wait::new().timeout(Duration::from_millis(100)));
    assert_eq!(consumer.recv(&mut Vec::new()).unwrap_err().errno(), Errno::TIMEDOUT);
    let sent = (0..1000).try_for_each(|_| producer.send(&[0; 512]));
    says("was replaced", sent);
    second.check().unwrap();
}
