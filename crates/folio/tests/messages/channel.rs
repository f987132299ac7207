//! Channels of one sender: messages that arrive, requests that are refused, and the effect of one
//! side's end on the other.

use crate::common::effort::scaled;
use crate::common::kill_sweep::Victim;
use crate::common::random::Random;
use crate::common::segment_dir::World;
use crate::common::{End, child_succeeds, spawn_child, wait};
use crate::payload::{fails_with, message, whole};
use folio::Errno;
use folio::shm::{Channel, ChannelOptions, Log, Receiver, Start, Wait};
use std::time::{Duration, Instant};

/// So long that only a hang takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

fn receive(receiver: &mut Receiver) -> Vec<u8> {
    let mut bytes = Vec::new();
    receiver.recv(&mut bytes).unwrap();
    bytes
}

#[test]
fn two_processes_that_know_a_name_send_and_receive() {
    let _world = World::new();
    let channel = Channel::create("chat", 1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    let (pid, _messages) = spawn_child(|| {
        let mut sender = Channel::open("chat").unwrap().sender().unwrap();
        for number in 0..10_000 {
            sender.send(&message(1, number, 200)).unwrap();
        }
    });
    for number in 0..10_000 {
        assert_eq!(whole(&receive(&mut receiver), 200), (1, number));
    }
    assert_eq!(wait(pid), End::Exited(0));
    fails_with(receiver.recv(&mut Vec::new()), Errno::PIPE, "the sender has left");
}

#[test]
fn the_name_is_free_when_both_have_gone() {
    let world = World::new();
    let channel = Channel::create("gone", 64).unwrap();
    fails_with(Channel::create("gone", 64), Errno::EXIST, "in use");
    drop(channel);
    assert!(world.files().is_empty());
    fails_with(Channel::open("gone"), Errno::NOENT, "");
}

#[test]
fn files_that_are_no_channel_of_the_kind_are_refused() {
    let _world = World::new();
    let _channel = Channel::create("kind", 64).unwrap();
    fails_with(
        ChannelOptions::new().many_senders().open("kind"),
        Errno::INVAL,
        "channel of one sender",
    );
    fails_with(folio::shm::Log::open("kind"), Errno::INVAL, "channel");
    // The size is that of a new one.
    assert_eq!(Channel::open_or_create("kind", 1 << 20).unwrap().bytes(), 64);
    let _numbers =
        folio::shm::SegmentOptions::new().count(1000).create::<[u64]>("numbers").unwrap();
    fails_with(Channel::open("numbers"), Errno::INVAL, "elements");
}

#[test]
fn messages_of_every_length_up_to_the_limit_go_around_the_ring() {
    let channel = Channel::anonymous(1 << 10).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    assert_eq!(channel.max_message_len(), (1 << 10) - 16);
    let mut bytes = Vec::new();
    for len in (0..=channel.max_message_len()).chain((0..=channel.max_message_len()).rev()) {
        let sent: Vec<u8> = (0..len).map(|i| (i * 7 + len) as u8).collect();
        // Only an empty ring takes the longest, and only at its beginning: the receiver may have to
        // pass its end.
        while !sender.try_send(&sent).unwrap() {
            assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
        }
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(len));
        assert!(bytes == sent, "{len} bytes");
    }
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    let long = vec![0; channel.max_message_len() + 1];
    fails_with(sender.send(&long), Errno::MSGSIZE, "at most 1008 bytes");
    fails_with(sender.reserve(usize::MAX), Errno::MSGSIZE, "at most 1008 bytes");
}

#[test]
fn a_message_of_no_bytes_is_a_message() {
    let channel = Channel::anonymous(64).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    sender.send(b"").unwrap();
    sender.send(b"").unwrap();
    let mut bytes = vec![1, 2, 3];
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(0));
    assert!(bytes.is_empty());
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(0));
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
}

#[test]
fn a_reservation_is_seen_when_it_is_committed() {
    let channel = Channel::anonymous(256).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut reserved = sender.reserve(100).unwrap();
    reserved.copy_from(b"never seen", 0).unwrap();
    drop(reserved);
    assert!(receiver.try_peek().unwrap().is_none());
    // A forgotten reservation is as good as a dropped one.
    std::mem::forget(sender.reserve(100).unwrap());
    let mut reserved = sender.reserve(100).unwrap();
    reserved.copy_from(b"0123456789", 0).unwrap();
    assert!(receiver.try_peek().unwrap().is_none());
    reserved.commit_first(5).unwrap();
    assert_eq!(receive(&mut receiver), b"01234");
    let mut reserved = sender.reserve(3).unwrap();
    // SAFETY: nobody else writes there.
    unsafe { reserved.as_mut_slice() }.unwrap().copy_from_slice(b"abc");
    reserved.commit().unwrap();
    assert_eq!(receive(&mut receiver), b"abc");
    fails_with(sender.reserve(3).unwrap().commit_first(4), Errno::INVAL, "3 bytes");
    assert!(receiver.try_peek().unwrap().is_none());
}

#[test]
fn a_message_stays_until_it_is_released() {
    let channel = Channel::anonymous(256).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    sender.send(b"first").unwrap();
    sender.send(b"second").unwrap();
    for _ in 0..3 {
        let message = receiver.peek().unwrap();
        assert_eq!(message.to_vec().unwrap(), b"first");
        assert_eq!((message.len(), message.view().unwrap().get(1)), (5, Some(b'i')));
        // SAFETY: nobody else writes there.
        assert_eq!(unsafe { message.as_slice() }.unwrap(), b"first");
    }
    receiver.peek().unwrap().release().unwrap();
    let mut small = [0; 3];
    fails_with(receiver.recv_into(&mut small), Errno::MSGSIZE, "6 bytes");
    let mut buffer = [0; 10];
    assert_eq!(receiver.try_recv_into(&mut buffer).unwrap(), Some(6));
    assert_eq!(&buffer[..6], b"second");
    assert_eq!(receiver.try_recv_into(&mut buffer).unwrap(), None);
}

#[test]
fn a_batch_is_seen_together() {
    let channel = Channel::anonymous(256).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for _ in 0..20 {
        let mut batch = sender.batch().unwrap();
        for text in [&b"one"[..], b"two", b"three"] {
            batch.push(text).unwrap();
            assert!(receiver.try_peek().unwrap().is_none());
        }
        batch.commit().unwrap();
        for text in [&b"one"[..], b"two", b"three"] {
            assert_eq!(receive(&mut receiver), text);
        }
        let mut batch = sender.batch().unwrap();
        batch.push(b"given up").unwrap();
        drop(batch);
        // Forgotten: the next message must not wait for it.
        let mut batch = sender.batch().unwrap();
        batch.push(b"forgotten").unwrap();
        std::mem::forget(batch);
        sender.send(b"four").unwrap();
        assert_eq!(receive(&mut receiver), b"four");
    }
    let mut batch = sender.batch().unwrap();
    batch.push(&[1; 200]).unwrap();
    fails_with(batch.push(&[1; 200]), Errno::MSGSIZE, "256 bytes");
    batch.commit().unwrap();
    assert_eq!(receive(&mut receiver), [1; 200]);
}

#[test]
fn a_full_channel_waits_and_an_empty_one_too() {
    let channel = Channel::anonymous(64).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let short = Wait::new().spin(0).timeout(Duration::from_millis(30));
    sender.set_wait(short);
    receiver.set_wait(short);
    let before = Instant::now();
    fails_with(receiver.recv(&mut Vec::new()), Errno::TIMEDOUT, "recv");
    assert!(before.elapsed() >= Duration::from_millis(30));
    assert!(receiver.parks() > 0, "it slept");
    sender.send(&[1; 40]).unwrap();
    assert!(!sender.try_send(&[2; 40]).unwrap());
    fails_with(sender.send(&[2; 40]), Errno::TIMEDOUT, "send");
    assert!(sender.parks() > 0, "it slept");
    assert_eq!(receive(&mut receiver), [1; 40]);
    assert!(!sender.try_send(&[2; 40]).unwrap(), "the end of the ring is still to be passed");
    assert!(receiver.try_peek().unwrap().is_none());
    assert!(sender.try_send(&[2; 40]).unwrap());
    assert_eq!(receive(&mut receiver), [2; 40]);
}

#[test]
fn a_waiter_without_time_does_not_sleep_and_is_not_counted() {
    let (channel, log) = (Channel::anonymous(64).unwrap(), Log::anonymous(1 << 10).unwrap());
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let (mut reader, mut bytes) = (log.reader(Start::Newest).unwrap(), Vec::new());
    let no_time = Wait::new().timeout(Duration::ZERO);
    sender.set_wait(no_time);
    receiver.set_wait(no_time);
    reader.set_wait(no_time);
    fails_with(receiver.recv(&mut bytes), Errno::TIMEDOUT, "time");
    sender.send(&[7; 40]).unwrap();
    fails_with(sender.send(&[7; 40]), Errno::TIMEDOUT, "time");
    fails_with(reader.next(&mut bytes), Errno::TIMEDOUT, "time");
    assert_eq!((sender.parks(), receiver.parks(), reader.parks()), (0, 0, 0));
}

#[test]
fn sides_that_sleep_are_woken() {
    // One message at a time has room; of the long ones, each second first has the receiver pass the
    // ring's end.
    for (len, spin) in [(8, 0), (40, 0), (40, 50)] {
        let there = Channel::anonymous(64).unwrap();
        let back = Channel::anonymous(64).unwrap();
        let asleep = Wait::new().spin(spin).timeout(PATIENCE);
        let text = |number: u64| number.to_ne_bytes().repeat(len / 8);
        let (pid, _messages) = spawn_child(|| {
            let (mut receiver, mut sender) = (there.receiver().unwrap(), back.sender().unwrap());
            receiver.set_wait(asleep);
            sender.set_wait(asleep);
            for _ in 0..1000 {
                let bytes = receive(&mut receiver);
                // Longer than anyone looks before it sleeps, if it is to.
                std::thread::sleep(Duration::from_micros(if spin == 0 { 20 } else { 0 }));
                sender.send(&bytes).unwrap();
            }
        });
        let (mut receiver, mut sender) = (back.receiver().unwrap(), there.sender().unwrap());
        receiver.set_wait(asleep);
        sender.set_wait(asleep);
        let started = Instant::now();
        for number in 0..1000 {
            sender.send(&text(number)).unwrap();
            assert_eq!(receive(&mut receiver), text(number));
        }
        // A wake that is missed costs a slice of 20 ms: here and there one on a machine that is
        // stopped, not each time.
        assert!(
            started.elapsed() < Duration::from_secs(10),
            "{len} bytes: {:?}",
            started.elapsed()
        );
        assert!(spin > 0 || receiver.parks() >= 500, "{} parks", receiver.parks());
        assert_eq!(wait(pid), End::Exited(0));
    }
}

#[test]
fn a_second_sender_or_receiver_is_refused_with_the_holders_number() {
    let channel = Channel::anonymous(256).unwrap();
    let (sender, receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let held = format!("process {}", std::process::id());
    child_succeeds(|| {
        fails_with(channel.sender(), Errno::BUSY, &held);
        fails_with(channel.receiver(), Errno::BUSY, &held);
    });
    fails_with(channel.sender(), Errno::BUSY, "which is this one");
    fails_with(channel.receiver(), Errno::BUSY, "which is this one");
    drop((sender, receiver));
    child_succeeds(|| {
        fails_with(channel.sender().unwrap().send(b"nobody"), Errno::PIPE, "the receiver has left");
        let mut receiver = channel.receiver().unwrap();
        channel.sender().unwrap().send(b"from the child").unwrap();
        assert_eq!(receive(&mut receiver), b"from the child");
    });
}

#[test]
fn a_side_that_leaves_is_an_error_for_the_other_until_there_is_a_new_one() {
    let channel = Channel::anonymous(256).unwrap();
    let mut receiver = channel.receiver().unwrap();
    let mut bytes = Vec::new();
    // Nobody sends yet: that is no end.
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    let mut sender = channel.sender().unwrap();
    sender.send(b"last words").unwrap();
    drop(sender);
    assert_eq!(receive(&mut receiver), b"last words");
    fails_with(receiver.recv(&mut bytes), Errno::PIPE, "the sender has left");
    fails_with(receiver.try_recv(&mut bytes), Errno::PIPE, "the sender has left");
    let mut sender = channel.sender().unwrap();
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    sender.send(b"first words").unwrap();
    assert_eq!(receive(&mut receiver), b"first words");
    sender.send(b"for the next one").unwrap();
    drop(receiver);
    fails_with(sender.send(b"nobody"), Errno::PIPE, "the receiver has left");
    fails_with(sender.try_reserve(3), Errno::PIPE, "the receiver has left");
    let mut receiver = channel.receiver().unwrap();
    assert_eq!(receive(&mut receiver), b"for the next one");
    sender.send(b"somebody").unwrap();
    assert_eq!(receive(&mut receiver), b"somebody");
}

#[test]
fn a_waiting_side_is_woken_when_the_other_leaves() {
    for how in [Wait::new().spin(0), Wait::new().always_spin()] {
        let channel = Channel::anonymous(64).unwrap();
        let mut receiver = channel.receiver().unwrap();
        receiver.set_wait(how.timeout(PATIENCE));
        let (pid, _messages) = spawn_child(|| {
            let sender = channel.sender().unwrap();
            std::thread::sleep(Duration::from_millis(50));
            drop(sender);
        });
        fails_with(receiver.recv(&mut Vec::new()), Errno::PIPE, "the sender has left");
        assert_eq!(wait(pid), End::Exited(0));

        let mut sender = channel.sender().unwrap();
        sender.set_wait(how.timeout(PATIENCE));
        sender.send(&[0; 40]).unwrap();
        drop(receiver);
        let (mut out, mut told) = std::io::pipe().unwrap();
        let (pid, _messages) = spawn_child(|| {
            let receiver = channel.receiver().unwrap();
            std::io::Write::write_all(&mut told, &[1]).unwrap();
            std::thread::sleep(Duration::from_millis(50));
            drop(receiver);
        });
        std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
        fails_with(sender.send(&[0; 40]), Errno::PIPE, "the receiver has left");
        assert_eq!(wait(pid), End::Exited(0));
    }
}

#[test]
fn a_waiting_side_notices_that_the_other_was_killed() {
    for how in [Wait::new().spin(0), Wait::new().always_spin()] {
        let channel = Channel::anonymous(64).unwrap();
        let mut receiver = channel.receiver().unwrap();
        receiver.set_wait(how.timeout(PATIENCE));
        let victim = Victim::new(|| {
            let mut sender = channel.sender().unwrap();
            sender.send(b"I live").unwrap();
            loop {
                std::thread::sleep(PATIENCE);
            }
        });
        assert_eq!(receive(&mut receiver), b"I live");
        // A zombie is dead.
        victim.shoot();
        fails_with(receiver.recv(&mut Vec::new()), Errno::PIPE, "the sender has died");
        fails_with(receiver.try_recv(&mut Vec::new()), Errno::PIPE, "the sender has died");
        drop(victim);

        let mut sender = channel.sender().unwrap();
        sender.set_wait(how.timeout(PATIENCE));
        drop(receiver);
        let (mut out, mut told) = std::io::pipe().unwrap();
        let victim = Victim::new(|| {
            let _receiver = channel.receiver().unwrap();
            std::io::Write::write_all(&mut told, &[1]).unwrap();
            loop {
                std::thread::sleep(PATIENCE);
            }
        });
        std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
        sender.send(&[0; 40]).unwrap();
        victim.shoot();
        fails_with(sender.send(&[0; 40]), Errno::PIPE, "the receiver has died");
        drop(victim);
    }
}

#[test]
fn a_sender_killed_at_any_instruction_leaves_whole_messages() {
    let mut random = Random::announced();
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    receiver.set_wait(Wait::new().timeout(PATIENCE));
    let (mut next, mut bytes) = (0, Vec::new());
    for kill in 0..scaled(300) {
        let batches = kill % 3 == 2;
        let victim = Victim::new(|| {
            let mut sender = channel.sender().unwrap();
            let mut number = next;
            loop {
                if batches {
                    let mut batch = sender.batch().unwrap();
                    for _ in 0..3 {
                        batch.push(&message(0, number, 300)).unwrap();
                        number += 1;
                    }
                    batch.commit().unwrap();
                } else {
                    sender.send(&message(0, number, 300)).unwrap();
                    number += 1;
                }
            }
        });
        // It lives until it has sent something, and some instructions longer.
        let first = next;
        let mut take = |bytes: &mut Vec<u8>| {
            assert_eq!(whole(bytes, 300), (0, next));
            next += 1;
        };
        let started = Instant::now();
        while let Err(error) = receiver.recv(&mut bytes) {
            // The one before it has died, and this one has not begun.
            assert!(error.errno() == Errno::PIPE && started.elapsed() < PATIENCE, "{error}");
        }
        take(&mut bytes);
        if kill % 2 == 0 {
            random.pass(300);
        } else {
            for _ in 0..random.below_u64(300) {
                receiver.recv(&mut bytes).unwrap();
                take(&mut bytes);
            }
        }
        assert!(victim.kill(), "the sender ended by itself");
        let end = loop {
            match receiver.recv(&mut bytes) {
                Ok(_) => take(&mut bytes),
                Err(error) => break error,
            }
        };
        assert!(end.errno() == Errno::PIPE && end.to_string().contains("has died"), "{end}");
        assert!(!batches || (next - first).is_multiple_of(3), "part of a batch was seen");
    }
}

#[test]
fn a_new_receiver_goes_on_at_the_first_message_a_killed_one_did_not_release() {
    let mut random = Random::announced();
    let channel = Channel::anonymous(1 << 12).unwrap();
    let mut sender = channel.sender().unwrap();
    let mut sent = 0;
    let mut fill = || {
        // Until it is full, if nobody empties it meanwhile.
        for _ in 0..100 {
            if let Ok(true) = sender.try_send(&message(0, sent, 300)) {
                sent += 1;
            }
        }
    };
    fill();
    // Messages that the victim has certainly received, and those that it may have.
    let received = folio::SharedMem::anonymous(4096).unwrap();
    let number = received.atomic::<std::sync::atomic::AtomicU64>(0).unwrap();
    let order = std::sync::atomic::Ordering::SeqCst;
    for _ in 0..scaled(300) {
        let before = number.load(order);
        let victim = Victim::new(|| {
            let mut receiver = channel.receiver().unwrap();
            let mut bytes = Vec::new();
            let mut next = before;
            loop {
                receiver.recv(&mut bytes).unwrap();
                let (_, got) = whole(&bytes, 300);
                // The last one's last release may have come through unnoticed.
                assert!(
                    got == next || (next == before && got == next + 1),
                    "{got} instead of {next}"
                );
                next = got + 1;
                number.store(next, order);
            }
        });
        let started = Instant::now();
        while number.load(order) == before && started.elapsed() < PATIENCE {
            fill();
        }
        assert_ne!(number.load(order), before, "the receiver receives nothing");
        random.pass(200);
        assert!(victim.kill(), "the receiver ended by itself");
    }
    // The last one may have received everything.
    let mut receiver = channel.receiver().unwrap();
    fill();
    let (_, first) = whole(&receive(&mut receiver), 300);
    let seen = number.load(order);
    assert!(first == seen || first == seen + 1, "{first} after {seen}");
}

#[test]
fn in_a_forked_child_the_parents_sides_are_refused_and_harmless() {
    let channel = Channel::anonymous(256).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    sender.send(b"before").unwrap();
    let reserved = sender.reserve(10).unwrap();
    drop(reserved);
    child_succeeds(|| {
        let (mut sender, mut receiver) = unsafe_copies(&mut sender, &mut receiver);
        fails_with(sender.send(b"no"), Errno::PERM, "forked child");
        fails_with(receiver.recv(&mut Vec::new()), Errno::PERM, "forked child");
        fails_with(receiver.poll_fd().map(drop), Errno::PERM, "forked child");
        drop((sender, receiver));
        fails_with(channel.sender(), Errno::BUSY, "");
    });
    // Neither the calls nor the drops of the child's copies have changed anything.
    assert_eq!(receive(&mut receiver), b"before");
    sender.send(b"after").unwrap();
    assert_eq!(receive(&mut receiver), b"after");
}

#[test]
fn in_a_forked_child_the_parents_places_are_refused_and_harmless() {
    for many in [false, true] {
        let options = ChannelOptions::new().bytes(256);
        let channel = if many { options.many_senders() } else { options }.anonymous().unwrap();
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        sender.send(b"before").unwrap();
        let message = receiver.peek().unwrap();
        let mut reserved = sender.reserve(5).unwrap();
        reserved.copy_from(b"after", 0).unwrap();
        child_succeeds(|| {
            // SAFETY: the child ends without dropping the originals.
            let (message, mut own, other) = unsafe {
                (
                    std::ptr::read(&raw const message),
                    std::ptr::read(&raw const reserved),
                    std::ptr::read(&raw const reserved),
                )
            };
            fails_with(message.view().map(drop), Errno::PERM, "forked child");
            fails_with(message.to_vec(), Errno::PERM, "forked child");
            // SAFETY: no slice is made.
            fails_with(unsafe { message.as_slice() }.map(drop), Errno::PERM, "forked child");
            fails_with(message.release(), Errno::PERM, "forked child");
            fails_with(own.view().map(drop), Errno::PERM, "forked child");
            fails_with(own.copy_from(b"child", 0), Errno::PERM, "forked child");
            // SAFETY: no slice is made.
            fails_with(unsafe { own.as_mut_slice() }.map(drop), Errno::PERM, "forked child");
            drop(own);
            fails_with(other.commit(), Errno::PERM, "forked child");
            if many {
                // The turn is the parent's still.
                assert!(!channel.sender().unwrap().try_send(b"child").unwrap());
            }
        });
        message.release().unwrap();
        reserved.commit().unwrap();
        assert_eq!(receive(&mut receiver), b"after");
        assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), None);
    }
}

/// The child's copies of its parent's handles: a handle that is dropped here lives on in the
/// parent.
fn unsafe_copies(
    sender: &mut folio::shm::Sender,
    receiver: &mut Receiver,
) -> (folio::shm::Sender, Receiver) {
    // SAFETY: the child ends without dropping the originals.
    unsafe { (std::ptr::read(sender), std::ptr::read(receiver)) }
}

#[test]
fn garbage_in_a_channel_is_an_error_and_never_a_panic() {
    let mut random = Random::announced();
    let world = World::new();
    let most = 200;
    let (mut wrong, mut right) = (0, 0);
    for round in 0..scaled(400) {
        let name = format!("garbage-{round}");
        let channel = Channel::create(&name, 1 << 10).unwrap();
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        let brief = Wait::new().timeout(Duration::from_millis(1));
        sender.set_wait(brief);
        receiver.set_wait(brief);
        let file = std::fs::OpenOptions::new().write(true).open(world.file(&name)).unwrap();
        let size = file.metadata().unwrap().len();
        // The data alone: the segment's own header and slots are another test's.
        let data = size - (1 << 10) - 4096;
        let mut bytes = Vec::new();
        for step in 0..30 {
            if step % 3 == 2 {
                let at = match random.below_u64(3) {
                    0 => data + 128 * random.below_u64(8),
                    _ => data + 4096 + random.below_u64(1 << 10),
                };
                std::os::unix::fs::FileExt::write_all_at(
                    &file,
                    &random.garbage().to_ne_bytes()[..],
                    at.min(size - 8),
                )
                .unwrap();
            }
            let results = [
                sender.try_send(&message(0, step, most)).map(drop),
                receiver.recv(&mut bytes).map(drop),
                sender.send(&message(0, step, most)).map(drop),
                receiver.try_peek().map(drop),
            ];
            for result in results {
                match result {
                    Ok(()) => right += 1,
                    Err(error) => {
                        wrong += 1;
                        let known = [Errno::BADMSG, Errno::PIPE, Errno::TIMEDOUT, Errno::IO];
                        assert!(known.contains(&error.errno()), "{error}");
                    }
                }
            }
            if step == 20 {
                drop((sender, receiver));
                let (Ok(next), Ok(other)) = (channel.sender(), channel.receiver()) else { break };
                (sender, receiver) = (next, other);
                sender.set_wait(brief);
                receiver.set_wait(brief);
            }
        }
    }
    assert!(wrong > 100 && right > 100, "{wrong} errors, {right} successes");
}

#[test]
fn a_channel_that_is_truncated_is_an_error_for_both() {
    let world = World::new();
    for keep in [0, 1] {
        let name = format!("cut-{keep}");
        let channel = Channel::create(&name, 1 << 16).unwrap();
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        receiver.set_wait(Wait::new().timeout(PATIENCE));
        sender.send(&vec![7; 30_000]).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(world.file(&name)).unwrap();
        let size = file.metadata().unwrap().len();
        // All of it, or the end of the ring.
        file.set_len(keep * (size - (1 << 15))).unwrap();
        let sent = sender.send(&vec![8; 30_000]);
        let mut bytes = Vec::new();
        let received = receiver.recv(&mut bytes).and_then(|_| receiver.recv(&mut bytes));
        assert!(sent.is_err(), "{keep}: sent into nothing");
        assert!(received.is_err(), "{keep}: received from nothing");
    }
}

#[test]
fn a_channel_in_a_file_keeps_its_messages() {
    let dir = crate::common::disk_dir();
    let path = dir.path().join("channel");
    child_succeeds(|| {
        let channel = ChannelOptions::new().bytes(1 << 12).open_or_create_file(&path).unwrap();
        channel.sender().unwrap().send(b"for later").unwrap();
    });
    let channel = Channel::open_or_create_file(&path, 1 << 12).unwrap();
    let mut receiver = channel.receiver().unwrap();
    assert_eq!(receive(&mut receiver), b"for later");
    fails_with(receiver.try_recv(&mut Vec::new()), Errno::PIPE, "has left");
}

#[test]
fn a_channel_is_passed_over_a_socket() {
    for many in [false, true] {
        let options = ChannelOptions::new().bytes(256);
        let options = if many { options.many_senders() } else { options };
        let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
        let (pid, _messages) = spawn_child(|| {
            let channel =
                if many { options.receive_from(&there) } else { Channel::receive_from(&there) };
            channel.unwrap().sender().unwrap().send(b"from afar").unwrap();
        });
        let channel = options.anonymous().unwrap();
        let mut receiver = channel.receiver().unwrap();
        channel.send_to(&here).unwrap();
        assert_eq!(receive(&mut receiver), b"from afar");
        assert_eq!(wait(pid), End::Exited(0));
    }
    // A passed descriptor carries its type.
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    ChannelOptions::new().many_senders().anonymous().unwrap().send_to(&here).unwrap();
    fails_with(Channel::receive_from(&there), Errno::INVAL, "channel of many senders");
}

#[test]
fn a_channel_file_is_made_once_and_opened_only_where_it_is() {
    let dir = crate::common::disk_dir();
    let path = dir.path().join("channel");
    fails_with(Channel::open_file(&path), Errno::NOENT, "channel");
    let made = Channel::create_file(&path, 1 << 12).unwrap();
    fails_with(Channel::create_file(&path, 1 << 12), Errno::EXIST, "channel");
    made.sender().unwrap().send(b"by its path").unwrap();
    let opened = Channel::open_file(&path).unwrap();
    assert_eq!(receive(&mut opened.receiver().unwrap()), b"by its path");
}
