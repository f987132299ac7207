//! Bells that processes of other network namespaces ring, by FIFOs, and the FIFOs that stay behind.

use crate::bell::block_on;
use crate::common::kill_sweep::{EVERY_STEP, Ledger, Step, Victim, can_trace, sweep};
use crate::common::segment_dir::World;
use crate::common::{End, child_succeeds, in_child, is_root, lower_limit, skip};
use folio::shm::{
    self, Channel, ChannelOptions, Event, Lifetime, Log, Mutex, Read as Found, Receiver, Role,
    Segment, SegmentOptions, SegmentState, Start,
};
use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

/// Whether the descriptor becomes readable in time.
fn is_readable(fd: BorrowedFd<'_>, time: Duration) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as it says.
    let count = unsafe { libc::poll(&raw mut poll, 1, time.as_millis() as i32) };
    count == 1 && poll.revents & libc::POLLIN != 0
}

/// Goes to a network namespace of this process's own: in children only. Whether it may.
fn leave_network() -> bool {
    // SAFETY: changes the network that this process, which has one thread, sees.
    unsafe {
        libc::unshare(libc::CLONE_NEWNET) == 0
            || libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNET) == 0
    }
}

/// The same, and with no socket left that a fork brought from the old one, such as rings are sent
/// by.
fn leave_network_for_good() {
    assert!(leave_network());
    for entry in std::fs::read_dir("/proc/self/fd").unwrap().map(Result::unwrap) {
        let fd = entry.file_name().to_str().unwrap().parse().unwrap();
        let (mut kind, mut len) = (0, size_of::<i32>() as u32);
        // SAFETY: `kind` has room for the answer; nothing in this child drops the owner of the
        // descriptor.
        unsafe {
            let asked = libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_TYPE,
                (&raw mut kind).cast(),
                &raw mut len,
            );
            if asked == 0 && kind == libc::SOCK_DGRAM {
                libc::close(fd);
            }
        }
    }
}

fn can_leave_network() -> bool {
    in_child(|| assert!(leave_network())) == End::Exited(0)
}

/// Two ends of a line between a process and its child, which sockets across network namespaces keep
/// up.
struct Line(UnixStream);

impl Line {
    fn new() -> (Self, Self) {
        let (one, other) = UnixStream::pair().unwrap();
        one.set_read_timeout(Some(PATIENCE)).unwrap();
        (Self(one), Self(other))
    }

    fn say(&self, byte: u8) {
        (&self.0).write_all(&[byte]).unwrap();
    }

    fn hear(&self) -> u8 {
        let mut byte = [0];
        (&self.0).read_exact(&mut byte).unwrap();
        byte[0]
    }
}

/// Writes into a segment's header the mark of participants from several network namespaces.
fn mix(path: &Path) {
    OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .write_all_at(&u64::MAX.to_ne_bytes(), 512 + 16)
        .unwrap();
}

fn bells(world: &World) -> Vec<String> {
    world.files().into_iter().filter(|file| file.starts_with(".folio.bell-")).collect()
}

/// A channel of two networks, according to its header.
fn mixed(world: &World, name: &str) -> Channel {
    let channel = Channel::create(name, 1 << 12).unwrap();
    mix(&world.file(name));
    channel
}

/// A receiver whose bell will ring for the next message.
fn listening(channel: &Channel) -> Receiver {
    let mut receiver = channel.receiver().unwrap();
    receiver.poll_fd().unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
    receiver
}

/// A child in another network that does one thing for each byte that it hears.
fn elsewhere<T>(line: &Line, prepare: impl FnOnce() -> T, work: impl Fn(&mut T, u8)) -> Victim {
    Victim::new(|| {
        leave_network_for_good();
        let mut prepared = prepare();
        line.say(0);
        loop {
            let byte = line.hear();
            work(&mut prepared, byte);
            line.say(byte);
        }
    })
}

#[test]
fn a_bell_has_rung_before_a_send_from_another_network_returns() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let channel = Channel::create("afar", 1 << 12).unwrap();
    let mut receiver = listening(&channel);
    assert_eq!(bells(&world), Vec::<String>::new());
    let (here, there) = Line::new();
    let open = || Channel::open("afar").unwrap().sender().unwrap();
    let _sender = elsewhere(&there, open, |sender, byte| sender.send(&[byte]).unwrap());
    here.hear();
    let mut bytes = Vec::new();
    for byte in 0..20 {
        while receiver.try_recv(&mut bytes).unwrap().is_some() {}
        assert_eq!(bells(&world).len(), 1);
        here.say(byte);
        assert_eq!(here.hear(), byte);
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO), "message {byte}");
        assert_eq!((receiver.try_recv(&mut bytes).unwrap(), &bytes), (Some(1), &vec![byte]));
    }
    // It is quiet again, but for the timer.
    let mut quiet = 0;
    for _ in 0..20 {
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
        quiet += u32::from(!is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
    }
    assert!(quiet > 10, "quiet {quiet} times of 20");
    drop(receiver);
    assert_eq!(bells(&world), Vec::<String>::new());
}

#[test]
fn the_bells_of_a_logs_readers_are_heard_from_another_network() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let log = Log::create("afar", 1 << 12).unwrap();
    let mut readers = [0; 3].map(|_| log.reader(Start::Newest).unwrap());
    for reader in &mut readers {
        reader.poll_fd().unwrap();
        assert_eq!(reader.try_next(&mut Vec::new()).unwrap(), None);
    }
    let (here, there) = Line::new();
    let open = || Log::open("afar").unwrap().writer().unwrap();
    let _writer = elsewhere(&there, open, |writer, byte| {
        writer.append(&[byte]).unwrap();
    });
    here.hear();
    let mut bytes = Vec::new();
    for byte in 0..20 {
        for reader in &mut readers {
            assert_eq!(reader.try_next(&mut bytes).unwrap(), None);
        }
        assert_eq!(bells(&world).len(), readers.len());
        here.say(byte);
        assert_eq!(here.hear(), byte);
        for reader in &mut readers {
            assert!(is_readable(reader.poll_fd().unwrap(), Duration::ZERO), "entry {byte}");
            assert_eq!(reader.try_next(&mut bytes).unwrap(), Some(Found::Entry(byte.into())));
        }
    }
    drop(readers);
    assert_eq!(bells(&world), Vec::<String>::new());
}

#[test]
fn a_sender_that_waits_for_room_is_rung_from_another_network() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let channel = Channel::create("afar", 64).unwrap();
    let mut sender = channel.sender().unwrap();
    // While all are of one network: it has no FIFO yet.
    sender.poll_fd().unwrap();
    let (here, there) = Line::new();
    let open = || Channel::open("afar").unwrap().receiver().unwrap();
    let _receiver = elsewhere(&there, open, |receiver, _| {
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), Some(24));
    });
    here.hear();
    for round in 0..20 {
        while sender.try_send(&[round; 24]).unwrap() {}
        assert_eq!(bells(&world).len(), 1);
        here.say(round);
        assert_eq!(here.hear(), round);
        assert!(is_readable(sender.poll_fd().unwrap(), Duration::ZERO), "round {round}");
        assert!(sender.try_send(&[round; 24]).unwrap());
    }
    drop(sender);
    assert_eq!(bells(&world), Vec::<String>::new());
}

#[test]
fn an_event_and_a_lock_are_heard_of_from_another_network() {
    /// By the timer alone it takes twice as long, each time.
    const QUICK: Duration = Duration::from_millis(250);
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let (event, lock) = (
        Segment::<Event>::create("event").unwrap(),
        Segment::<Mutex<u64>>::create("lock").unwrap(),
    );
    // While all are of one network: a bell that has no FIFO yet.
    let mut listener = event.shared_ref().listen().unwrap();
    while listener.try_take().unwrap() {}
    let (here, there) = Line::new();
    let open =
        || (Segment::<Event>::open("event").unwrap(), Segment::<Mutex<u64>>::open("lock").unwrap());
    let _other = elsewhere(&there, open, |(event, lock), byte| {
        if byte == 0 {
            return event.shared_ref().set();
        }
        let mut guard = lock.shared_ref().lock().unwrap().clean().unwrap();
        guard.update(|count| *count += 1).unwrap();
        there.say(byte);
        // Until the other side waits for it.
        while there.hear() != 2 {}
    });
    here.hear();
    let (mut events, mut locks) = (0, 0);
    for _ in 0..20 {
        while listener.try_take().unwrap() {}
        let start = Instant::now();
        here.say(0);
        assert!(is_readable(listener.as_fd(), PATIENCE));
        events += u32::from(start.elapsed() < QUICK);
        here.hear();
    }
    for round in 1..=20 {
        here.say(1);
        assert_eq!(here.hear(), 1);
        let place = lock.shared_ref();
        let mut future = place.lock_async();
        assert!(Pin::new(&mut future).poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let start = Instant::now();
        here.say(2);
        let guard = block_on(future).0.unwrap().clean().unwrap();
        locks += u32::from(start.elapsed() < QUICK);
        assert_eq!(guard.get().unwrap(), round);
        drop(guard);
        here.hear();
    }
    // One for the listener's segment, one for the lock's.
    assert_eq!(bells(&world).len(), 2);
    assert!(events > 5 && locks > 5, "of 20 events {events} were heard, of 20 locks {locks}");
    drop(listener);
    drop((event, lock));
    assert_eq!(bells(&world), Vec::<String>::new());
}

#[test]
fn a_process_that_leaves_its_network_later_is_heard_and_hears() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let (there, back) =
        (Channel::create("there", 1 << 12).unwrap(), Channel::create("back", 1 << 12).unwrap());
    let (here, line) = Line::new();
    let child = Victim::new(|| {
        let (there, mut back) =
            (Channel::open("there").unwrap(), Channel::open("back").unwrap().sender().unwrap());
        let mut receiver = there.receiver().unwrap();
        // So that it has a socket of the network that it leaves.
        line.hear();
        back.send(b"from the first network").unwrap();
        assert!(leave_network());
        receiver.poll_fd().unwrap();
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        line.say(0);
        for _ in 0..20 {
            let byte = line.hear();
            // It has rung before the other side said so.
            assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO), "message {byte}");
            let mut bytes = Vec::new();
            assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(1));
            assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
            back.send(&bytes).unwrap();
            line.say(byte);
        }
        std::thread::sleep(PATIENCE);
    });
    let mut receiver = listening(&back);
    let mut bytes = Vec::new();
    here.say(0);
    here.hear();
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(22));
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    let mut sender = there.sender().unwrap();
    for byte in 0..20 {
        sender.send(&[byte]).unwrap();
        here.say(byte);
        assert_eq!(here.hear(), byte);
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO), "message {byte}");
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(1));
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    }
    drop(child);
    drop((there, back, sender, receiver));
    // The child was killed.
    shm::remove_stale(false).unwrap();
    assert_eq!(world.files(), Vec::<String>::new());
}

#[test]
fn a_process_that_leaves_its_network_reaches_the_bells_of_the_new_one() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    child_succeeds(|| {
        let channel = Channel::anonymous(1 << 12).unwrap();
        let mut receiver = listening(&channel);
        let mut sender = channel.sender().unwrap();
        sender.send(b"within the first network").unwrap();
        drop(receiver);
        assert!(leave_network());
        receiver = channel.receiver().unwrap();
        // As it says of itself that it is to be looked at.
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        for _ in 0..20 {
            while receiver.try_recv(&mut Vec::new()).unwrap().is_some() {}
            sender.send(b"within the second").unwrap();
            assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
        }
    });
}

#[test]
fn a_segment_of_one_network_has_no_fifo() {
    let world = World::new();
    let channel = Channel::create("near", 1 << 12).unwrap();
    let mut receiver = listening(&channel);
    child_succeeds(|| Channel::open("near").unwrap().sender().unwrap().send(b"from here").unwrap());
    assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
    assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), Some(9));
    assert_eq!(world.files(), ["folio.near"]);
}

#[test]
fn a_process_without_a_descriptor_for_a_fifo_makes_it_when_it_has_one() {
    let world = World::new();
    let channel = Channel::create("meeting", 1 << 12).unwrap();
    child_succeeds(|| {
        let mut receiver = listening(&channel);
        // Another comes, out of another network, when there is none to spare.
        mix(&world.file("meeting"));
        lower_limit(libc::RLIMIT_NOFILE, 0);
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        lower_limit(libc::RLIMIT_NOFILE, 500);
        assert_eq!(bells(&world), [""; 0]);
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        assert_eq!(bells(&world).len(), 1);
        drop(receiver);
        assert_eq!(bells(&world), [""; 0]);
    });
}

#[test]
fn a_process_that_comes_alone_is_of_one_network_again() {
    let world = World::new();
    let options = ChannelOptions::new().segment(SegmentOptions::new().lifetime(Lifetime::Kept));
    drop(options.create("kept").unwrap());
    mix(&world.file("kept"));
    let channel = options.open("kept").unwrap();
    let _receiver = listening(&channel);
    assert_eq!(world.files(), ["folio.kept"]);
}

#[test]
fn nothing_without_a_directory_has_a_fifo_and_its_timer_rings() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut receiver = listening(&channel);
    let (here, there) = Line::new();
    let open = || channel.sender().unwrap();
    let _sender = elsewhere(&there, open, |sender, byte| sender.send(&[byte]).unwrap());
    here.hear();
    for byte in 0..3 {
        here.say(byte);
        here.hear();
        assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE));
        while receiver.try_recv(&mut Vec::new()).unwrap().is_some() {}
    }
    assert_eq!(world.files(), Vec::<String>::new());
}

#[test]
fn a_user_of_a_named_segment_by_descriptor_finds_its_directory() {
    let world = World::new();
    let (here, there) = Line::new();
    let maker = Victim::new(|| {
        let _channel = mixed(&world, "passed");
        there.say(0);
        std::thread::sleep(PATIENCE);
    });
    here.hear();
    let file = OpenOptions::new().read(true).write(true).open(world.file("passed")).unwrap();
    let channel = ChannelOptions::new().from_fd(&file).unwrap();
    let receiver = listening(&channel);
    assert_eq!(bells(&world).len(), 1);
    drop(receiver);
    assert_eq!(world.files(), ["folio.passed"]);
    drop(maker);
}

#[test]
fn leavings_of_a_killed_receiver_are_collected_and_nothing_else() {
    let world = World::new();
    let _living = listening(&mixed(&world, "living"));
    let mine = bells(&world);
    let (here, there) = Line::new();
    let victim = Victim::new(|| {
        let _receiver = listening(&mixed(&world, "killed"));
        // A child of the one that is killed: from its first instructions on it keeps nothing alive.
        // SAFETY: the child writes its number, sleeps, and ends.
        if unsafe { libc::fork() } == 0 {
            let me = std::process::id().to_ne_bytes();
            let _ = (&there.0).write_all(&me);
            std::thread::sleep(PATIENCE);
            // SAFETY: ends it at once.
            unsafe { libc::_exit(0) };
        }
        std::thread::sleep(PATIENCE);
    });
    let mut orphan = [0; 4];
    (&here.0).read_exact(&mut orphan).unwrap();
    let orphan = i32::from_ne_bytes(orphan);
    // A child of this process, while a collection runs.
    let bystander = Victim::new(|| std::thread::sleep(PATIENCE));
    let state_of = |file: &str| {
        let entry = shm::list().unwrap().into_iter().find(|entry| entry.name == file).unwrap();
        let Role::Notifier { of } = entry.role else { panic!("{file} is no bell") };
        (of.unwrap(), entry.state, entry.users.iter().map(|user| user.pid).collect::<Vec<_>>())
    };
    let theirs = bells(&world).into_iter().find(|file| !mine.contains(file)).unwrap();
    assert_eq!(
        state_of(&theirs),
        ("killed".into(), SegmentState::InUse, vec![victim.pid() as u32])
    );
    assert!(shm::remove_stale(false).unwrap().removed.is_empty());
    assert!(victim.kill());
    assert_eq!(state_of(&theirs), ("killed".into(), SegmentState::Stale, vec![]));
    assert_eq!(
        state_of(&mine[0]),
        ("living".into(), SegmentState::InUse, vec![std::process::id()])
    );
    let would: Vec<_> =
        shm::remove_stale(true).unwrap().removed.into_iter().map(|entry| entry.name).collect();
    assert_eq!(would, [theirs.as_str(), "killed"]);
    let removed = shm::remove_stale(false).unwrap();
    let names: Vec<_> = removed.removed.into_iter().map(|entry| entry.name).collect();
    assert_eq!((names, removed.failed.len()), (would, 0));
    assert_eq!(world.files(), [mine[0].as_str(), "folio.living"]);
    // SAFETY: the child of the child that was killed, which sleeps; it is nobody else's number
    // until it has been waited for.
    unsafe { libc::kill(orphan, libc::SIGKILL) };
    drop(bystander);
}

#[test]
fn a_forked_child_takes_no_fifo_away() {
    let world = World::new();
    let channel = mixed(&world, "parents");
    let receiver = listening(&channel);
    let before = bells(&world);
    let receiver = std::cell::Cell::new(Some(receiver));
    child_succeeds(|| {
        // Numbers that the parent's descriptors had are those of the child's, by which it is a
        // party of these.
        let own =
            ["one", "two", "three", "four"].map(|name| Channel::create(name, 1 << 12).unwrap());
        drop(receiver.take());
        assert_eq!(bells(&world), before);
        let used = shm::list().unwrap().into_iter().filter(|entry| {
            entry.role == Role::Segment
                && entry.users.iter().any(|user| user.pid == std::process::id())
        });
        assert_eq!(used.count(), own.len());
    });
    assert_eq!(bells(&world), before);
    drop(receiver);
    assert_eq!(bells(&world), Vec::<String>::new());
}

#[test]
fn the_fifos_of_the_dead_go_with_the_next_bell_and_with_the_name() {
    let world = World::new();
    let channel = mixed(&world, "board");
    let die = || {
        let end = in_child(|| std::mem::forget(listening(&channel)));
        assert_eq!(end, End::Exited(0));
    };
    die();
    let dead = bells(&world);
    assert_eq!(dead.len(), 1);
    let receiver = listening(&channel);
    assert!(bells(&world).len() == 1 && bells(&world) != dead);
    drop(receiver);
    die();
    assert_eq!(bells(&world).len(), 1);
    drop(channel);
    assert_eq!(world.files(), Vec::<String>::new());
    // By hand.
    let kept = ChannelOptions::new().segment(SegmentOptions::new().lifetime(Lifetime::Kept));
    let end = in_child(|| {
        let channel = kept.create("kept").unwrap();
        mix(&world.file("kept"));
        std::mem::forget(listening(&channel));
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!(world.files().len(), 2);
    shm::remove("kept").unwrap();
    assert_eq!(world.files(), Vec::<String>::new());
}

#[test]
fn a_ringer_of_a_dead_bell_takes_its_fifo_away() {
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    let channel = mixed(&world, "board");
    assert_eq!(in_child(|| std::mem::forget(listening(&channel))), End::Exited(0));
    let living = mixed(&world, "living");
    let _receiver = listening(&living);
    assert_eq!(bells(&world).len(), 2);
    let (here, there) = Line::new();
    let open = || Channel::open("board").unwrap().sender().unwrap();
    let _sender = elsewhere(&there, open, |sender, byte| sender.send(&[byte]).unwrap());
    here.hear();
    here.say(1);
    here.hear();
    assert_eq!(bells(&world).len(), 1);
    let kept = shm::list().unwrap().into_iter().find(|entry| entry.role != Role::Segment).unwrap();
    assert_eq!(kept.role, Role::Notifier { of: Some("living".into()) });
}

/// The names that the FIFO of a bell could have whose party has this word: the number is somewhere
/// behind it.
fn possible_names(path: &Path) -> Vec<String> {
    let bytes = std::fs::read(path).unwrap();
    let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
    let (id, owner) = (word(32), word(4096) << 32 | 1);
    let places = (8192..bytes.len() - 8).step_by(8).filter(|&at| word(at) == owner);
    places
        .map(|at| format!(".folio.bell-{id:016x}-{owner:016x}-{:016x}", word(at + 8) & !1))
        .collect()
}

#[test]
fn a_file_planted_under_a_fifos_name_is_not_touched_and_the_timer_rings() {
    type Plant = fn(&Path, &Path);
    let plants: [(&str, Plant); 4] = [
        ("a file", |path, _| std::fs::write(path, "planted").unwrap()),
        ("a link", |path, target| std::os::unix::fs::symlink(target, path).unwrap()),
        ("a FIFO", |path, _| {
            let name = std::ffi::CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
            // SAFETY: a string that ends with zero.
            assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
            if is_root() {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
            }
        }),
        ("a socket", |path, _| drop(std::os::unix::net::UnixDatagram::bind(path).unwrap())),
    ];
    if !can_leave_network() {
        return skip("this process may make no network namespace");
    }
    let world = World::new();
    for (what, plant) in plants {
        let target = world.path().join("target");
        std::fs::write(&target, "target").unwrap();
        let channel = Channel::create("planted", 1 << 12).unwrap();
        let mut receiver = listening(&channel);
        let planted: Vec<PathBuf> = possible_names(&world.file("planted"))
            .iter()
            .map(|name| world.path().join(name))
            .collect();
        assert!(!planted.is_empty());
        for path in &planted {
            plant(path, &target);
        }
        let look = |path: &PathBuf| {
            let found = path.symlink_metadata().unwrap();
            (found.ino(), found.mode(), found.uid(), found.mtime_nsec(), found.len())
        };
        let before: Vec<_> = planted.iter().map(look).collect();
        let (here, there) = Line::new();
        let open = || Channel::open("planted").unwrap().sender().unwrap();
        let sender = elsewhere(&there, open, |sender, byte| sender.send(&[byte]).unwrap());
        here.hear();
        for byte in 0..3 {
            assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
            here.say(byte);
            here.hear();
            assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE), "{what}");
            while receiver.try_recv(&mut Vec::new()).unwrap().is_none() {
                assert!(is_readable(receiver.poll_fd().unwrap(), PATIENCE), "{what}");
            }
        }
        assert_eq!(bells(&world).len(), planted.len(), "{what}");
        drop(sender);
        shm::remove_stale(false).unwrap();
        drop(receiver);
        assert_eq!(planted.iter().map(look).collect::<Vec<_>>(), before, "{what}");
        assert_eq!(std::fs::read(&target).unwrap(), b"target");
        drop(channel);
        // A FIFO that nobody reads is taken for a dead bell's.
        for path in planted {
            assert_eq!(path.symlink_metadata().is_ok(), what != "a FIFO", "{what}");
            let _ = std::fs::remove_file(path);
        }
        std::fs::remove_file(target).unwrap();
        assert_eq!(world.files(), Vec::<String>::new());
    }
}

#[test]
fn a_user_of_the_segment_may_ring_its_bells() {
    let world = World::new();
    let group = if is_root() { GROUP } else { rustix::process::getegid().as_raw() };
    for (mode, group) in [(0o600, None), (0o660, Some(group))] {
        let segment = SegmentOptions::new().mode(mode);
        let segment = group.map_or(segment.clone(), |group| segment.clone().group(group));
        let channel =
            ChannelOptions::new().bytes(1 << 12).segment(segment).create("shared").unwrap();
        mix(&world.file("shared"));
        let _receiver = listening(&channel);
        let of = |path: PathBuf| {
            let found = path.metadata().unwrap();
            (found.mode() & 0o7777, found.uid(), found.gid())
        };
        let fifo = of(world.path().join(&bells(&world)[0]));
        assert_eq!(fifo, of(world.file("shared")));
        assert_eq!(fifo.0, mode);
    }
}

const GROUP: u32 = 4321;

#[test]
fn a_user_of_the_group_hears_and_is_heard() {
    if !is_root() || !can_leave_network() {
        return skip("it takes root to be two users, and a network namespace");
    }
    let world = World::new();
    std::fs::set_permissions(world.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    let segment = SegmentOptions::new().mode(0o660).group(GROUP);
    let options = ChannelOptions::new().bytes(1 << 12).segment(segment.owner(0));
    let channel = options.create("shared").unwrap();
    let mut receiver = listening(&channel);
    let (here, there) = Line::new();
    let open = || {
        // SAFETY: changes the user of this process, and no memory.
        unsafe {
            assert_eq!(libc::setgroups(1, [GROUP].as_ptr()), 0);
            assert_eq!(
                (libc::setresgid(4322, 4322, 4322), libc::setresuid(4322, 4322, 4322)),
                (0, 0)
            );
        }
        options.open("shared").unwrap().sender().unwrap()
    };
    let _sender = elsewhere(&there, open, |sender, byte| sender.send(&[byte]).unwrap());
    here.hear();
    for byte in 0..20 {
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
        here.say(byte);
        here.hear();
        assert!(is_readable(receiver.poll_fd().unwrap(), Duration::ZERO), "message {byte}");
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), Some(1));
    }
}

/// A whole life of a bell: it is made, armed, and dropped.
fn live(mut receiver: Receiver) {
    receiver.poll_fd().unwrap();
    assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
    receiver.poll_fd().unwrap();
    drop(receiver);
}

#[test]
fn killed_at_any_step_of_a_bell_nothing_is_left_and_the_next_one_rings() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    // Mixed before the bell is made, and between its making and its arming.
    for late in [false, true] {
        let mut ledger = Ledger::default();
        sweep(
            &mut ledger,
            Step::Call,
            EVERY_STEP,
            || {
                if late {
                    Channel::create("swept", 1 << 12).unwrap()
                } else {
                    mixed(&world, "swept")
                }
            },
            |_| {
                let mut receiver = Channel::open("swept").unwrap().receiver().unwrap();
                if late {
                    receiver.poll_fd().unwrap();
                    mix(&world.file("swept"));
                }
                receiver
            },
            live,
            |ledger, channel| {
                let start = Instant::now();
                ledger.leaked += world.leaked(&["folio.swept"]);
                let mut receiver = listening(&channel);
                ledger.corrupted += u64::from(bells(&world).len() != 1);
                channel.sender().unwrap().send(b"rings").unwrap();
                ledger.corrupted +=
                    u64::from(!is_readable(receiver.poll_fd().unwrap(), Duration::ZERO));
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
                drop((receiver, channel));
                ledger.leaked += world.leaked(&[]);
            },
        );
        ledger.tell(if late { "a bell that gets a FIFO" } else { "a bell with a FIFO" });
    }
}

#[test]
fn killed_at_any_step_the_last_party_leaves_nothing() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    // By a collection alone, and by one after somebody has used the name again.
    for again in [false, true] {
        let mut ledger = Ledger::default();
        sweep(
            &mut ledger,
            Step::Call,
            EVERY_STEP,
            || (),
            |()| mixed(&world, "swept"),
            |channel| {
                live(channel.receiver().unwrap());
                drop(channel);
            },
            |ledger, ()| {
                if again {
                    drop(Channel::open_or_create("swept", 1 << 12).unwrap());
                }
                ledger.leaked += world.leaked(&[]);
            },
        );
        ledger.tell("the last party, with a bell");
    }
}

#[test]
fn a_ringer_from_another_network_may_die_at_any_step() {
    if !can_trace() || !can_leave_network() {
        return skip("this process may not trace its children, or make no network namespace");
    }
    let world = World::new();
    // A bell whose owner lives, and one whose owner is dead.
    for dead in [false, true] {
        let mut ledger = Ledger::default();
        sweep(
            &mut ledger,
            Step::Call,
            EVERY_STEP,
            || {
                let channel = mixed(&world, "swept");
                if dead {
                    assert_eq!(in_child(|| std::mem::forget(listening(&channel))), End::Exited(0));
                    return (channel, None);
                }
                let receiver = listening(&channel);
                (channel, Some(receiver))
            },
            |_| {
                leave_network_for_good();
                Channel::open("swept").unwrap()
            },
            // A sender that comes rings already.
            |channel| channel.sender().unwrap().send(b"from afar").unwrap(),
            |ledger, (channel, receiver)| {
                let start = Instant::now();
                // One that was left over is none that the next bell keeps.
                let mut receiver = receiver.unwrap_or_else(|| {
                    let mut receiver = channel.receiver().unwrap();
                    receiver.poll_fd().unwrap();
                    receiver
                });
                ledger.corrupted += u64::from(bells(&world).len() != 1);
                let mut bytes = Vec::new();
                while receiver.try_recv(&mut bytes).is_ok_and(|found| found.is_some()) {
                    ledger.corrupted += u64::from(bytes != b"from afar");
                }
                channel.sender().unwrap().send(b"from here").unwrap();
                ledger.hung += u64::from(!is_readable(receiver.poll_fd().unwrap(), PATIENCE));
                ledger.corrupted += u64::from(receiver.try_recv(&mut bytes).unwrap() != Some(9));
                ledger.hung += u64::from(start.elapsed() > PATIENCE);
                drop((receiver, channel));
                ledger.leaked += world.leaked(&[]);
            },
        );
        ledger.tell(if dead { "ringing a dead bell" } else { "ringing" });
    }
}

#[test]
fn a_collector_of_dead_bells_may_die_at_any_step() {
    if !can_trace() {
        return skip("this process may not trace its children");
    }
    let world = World::new();
    for by_name in [false, true] {
        let mut ledger = Ledger::default();
        sweep(
            &mut ledger,
            Step::Call,
            EVERY_STEP,
            || {
                let end = in_child(|| std::mem::forget(listening(&mixed(&world, "swept"))));
                assert_eq!((end, world.files().len()), (End::Exited(0), 2));
            },
            |()| (),
            |()| {
                if by_name {
                    shm::remove("swept").unwrap();
                } else {
                    shm::remove_stale(false).unwrap();
                }
            },
            |ledger, ()| ledger.leaked += world.leaked(&[]),
        );
        ledger.tell(if by_name { "removing a name" } else { "collecting" });
    }
}
