//! Channels of many senders: all get their turn, and one that is killed with the turn takes nothing
//! from the others.

use crate::common::effort::scaled;
use crate::common::kill_sweep::Victim;
use crate::common::random::Random;
use crate::common::{End, spawn_child, wait};
use crate::payload::{fails_with, message, receive_all, whole};
use folio::Errno;
use folio::shm::{Channel, ChannelOptions, Wait};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn channel(bytes: usize) -> Channel {
    ChannelOptions::new().bytes(bytes).many_senders().anonymous().unwrap()
}

#[test]
fn messages_of_several_processes_and_threads_arrive_each_in_its_order() {
    let channel = channel(1 << 12);
    let mut receiver = channel.receiver().unwrap();
    receiver.set_wait(Wait::new().timeout(PATIENCE));
    // So that there is one from the first to the last: a child may be through before another has
    // begun.
    let first = channel.sender().unwrap();
    let children: Vec<_> = (0..3)
        .map(|child| {
            let channel = &channel;
            spawn_child(move || {
                std::thread::scope(|scope| {
                    for thread in 0..2 {
                        scope.spawn(move || {
                            let mut sender = channel.sender().unwrap();
                            for number in 0..2000 {
                                sender.send(&message(2 * child + thread, number, 100)).unwrap();
                            }
                        });
                    }
                });
            })
        })
        .collect();
    receive_all::<6>(&mut receiver, 2000, 100);
    for (pid, _) in children {
        assert_eq!(wait(pid), End::Exited(0));
    }
    drop(first);
    fails_with(receiver.recv(&mut Vec::new()), Errno::PIPE, "the last sender has left");
}

#[test]
fn a_sender_that_reserves_has_the_turn_until_it_commits_or_drops() {
    let channel = channel(1 << 10);
    let (mut one, mut other) = (channel.sender().unwrap(), channel.sender().unwrap());
    let mut receiver = channel.receiver().unwrap();
    other.set_wait(Wait::new().timeout(Duration::from_millis(20)));
    let mut reserved = one.reserve(10).unwrap();
    assert!(!other.try_send(b"not yet").unwrap());
    fails_with(other.send(b"not yet"), Errno::TIMEDOUT, "time");
    reserved.copy_from(b"0123456789", 0).unwrap();
    reserved.commit().unwrap();
    other.send(b"now").unwrap();
    drop(one.reserve(10).unwrap());
    other.send(b"and now").unwrap();
    // A forgotten reservation keeps the turn until this sender is used again.
    std::mem::forget(one.reserve(10).unwrap());
    assert!(!other.try_send(b"not yet").unwrap());
    one.send(b"it is").unwrap();
    other.send(b"at last").unwrap();
    let mut batch = one.batch().unwrap();
    batch.push(b"two").unwrap();
    assert!(!other.try_send(b"not yet").unwrap());
    batch.push(b"together").unwrap();
    batch.commit().unwrap();
    other.send(b"the end").unwrap();
    let mut bytes = Vec::new();
    let expected: [&[u8]; 8] =
        [b"0123456789", b"now", b"and now", b"it is", b"at last", b"two", b"together", b"the end"];
    for text in expected {
        receiver.recv(&mut bytes).unwrap();
        assert_eq!(bytes, text);
    }
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    drop(one);
    assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None, "there is another one");
    drop(other);
    fails_with(receiver.try_recv(&mut bytes), Errno::PIPE, "the last sender has left");
    fails_with(receiver.try_recv(&mut bytes), Errno::PIPE, "when there is a new sender");
}

#[test]
fn there_are_at_most_128_senders() {
    let channel = channel(256);
    let mut senders: Vec<_> = (0..128).map(|_| channel.sender().unwrap()).collect();
    fails_with(channel.sender(), Errno::AGAIN, "128");
    senders.pop();
    senders.push(channel.sender().unwrap());
}

#[test]
fn when_one_is_killed_with_the_turn_the_others_go_on() {
    let channel = channel(1 << 10);
    let mut receiver = channel.receiver().unwrap();
    for committed in [false, true] {
        let (mut out, mut told) = std::io::pipe().unwrap();
        let victim = Victim::new(|| {
            let mut sender = channel.sender().unwrap();
            sender.send(b"from the victim").unwrap();
            let mut other = channel.sender().unwrap();
            let mut reserved =
                if committed { other.reserve(10).unwrap() } else { sender.reserve(10).unwrap() };
            reserved.copy_from(b"never seen", 0).unwrap();
            std::io::Write::write_all(&mut told, &[1]).unwrap();
            loop {
                std::thread::sleep(PATIENCE);
            }
        });
        std::io::Read::read_exact(&mut out, &mut [0]).unwrap();
        let mut sender = channel.sender().unwrap();
        sender.set_wait(Wait::new().timeout(PATIENCE));
        assert!(!sender.try_send(b"not yet").unwrap());
        // In the midst of another's wait.
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| sender.send(b"from the heir"));
            std::thread::sleep(Duration::from_millis(30));
            victim.shoot();
            waiting.join().unwrap().unwrap();
        });
        drop(victim);
        let mut bytes = Vec::new();
        for text in [&b"from the victim"[..], b"from the heir"] {
            receiver.recv(&mut bytes).unwrap();
            assert_eq!(bytes, text);
        }
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    }
}

#[test]
fn senders_killed_at_any_instruction_leave_whole_messages_and_the_rest_goes_on() {
    let mut random = Random::announced();
    let channel = channel(1 << 12);
    let mut receiver = channel.receiver().unwrap();
    receiver.set_wait(Wait::new().timeout(PATIENCE));
    let stop = folio::SharedMem::anonymous(4096).unwrap();
    let stop = stop.atomic::<std::sync::atomic::AtomicU32>(0).unwrap();
    let order = std::sync::atomic::Ordering::SeqCst;
    let send_on = |id: u64| {
        let mut sender = channel.sender().unwrap();
        let mut number = 0;
        while stop.load(order) == 0 {
            if number % 4 == 3 {
                let mut reserved = sender.reserve(300).unwrap();
                let bytes = message(id, number, 300);
                reserved.copy_from(&bytes, 0).unwrap();
                reserved.commit_first(bytes.len()).unwrap();
            } else {
                sender.send(&message(id, number, 300)).unwrap();
            }
            number += 1;
        }
    };
    // One that lives through it all.
    let (pid, mut messages) = spawn_child(|| send_on(0));
    let (mut bytes, mut survivor) = (Vec::new(), 0);
    for kill in 1..=scaled(150) {
        let victims = [2 * kill, 2 * kill + 1].map(|id| Victim::new(|| send_on(id)));
        let mut next = [0; 2];
        let mut take = |bytes: &[u8], victims_next: &mut [u64; 2]| {
            let (id, number) = whole(bytes, 300);
            if id == 0 {
                assert_eq!(number, survivor);
                survivor += 1;
            } else if id >= 2 * kill {
                let next = &mut victims_next[(id - 2 * kill) as usize];
                assert_eq!(number, *next, "sender {id}");
                *next += 1;
            }
        };
        let started = Instant::now();
        while next[0] == 0 || next[1] == 0 {
            receiver.recv(&mut bytes).unwrap();
            take(&bytes, &mut next);
            assert!(started.elapsed() < PATIENCE, "a sender never gets its turn: {next:?}");
        }
        for _ in 0..random.below_u64(100) {
            receiver.recv(&mut bytes).unwrap();
            take(&bytes, &mut next);
        }
        random.pass(100);
        for victim in victims {
            assert!(victim.kill(), "a sender ended by itself");
        }
        // The survivor goes on.
        let mut before = 0;
        for _ in 0..100 {
            receiver.recv(&mut bytes).unwrap();
            before += u32::from(whole(&bytes, 300).0 == 0);
            take(&bytes, &mut next);
        }
        assert!(before > 0, "the survivor does not go on");
    }
    stop.store(1, order);
    let end = loop {
        if let Err(error) = receiver.recv(&mut bytes) {
            break error;
        }
    };
    assert_eq!(end.errno(), Errno::PIPE, "{end}");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut messages, &mut text).unwrap();
    assert_eq!((wait(pid), text.as_str()), (End::Exited(0), ""));
}

#[test]
fn a_sender_that_waits_for_its_turn_and_then_for_room_waits_once() {
    let channel = ChannelOptions::new().bytes(64).many_senders().anonymous().unwrap();
    let (mut one, mut other) = (channel.sender().unwrap(), channel.sender().unwrap());
    let _receiver = channel.receiver().unwrap();
    other.set_wait(Wait::new().timeout(Duration::from_secs(3)));
    let reserved = one.reserve(40).unwrap();
    let waited = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let started = Instant::now();
            fails_with(other.send(&[0; 40]), Errno::TIMEDOUT, "time");
            started.elapsed()
        });
        std::thread::sleep(Duration::from_secs(2));
        // From here on it has its turn, and no room.
        reserved.commit().unwrap();
        waiting.join().unwrap()
    });
    assert!(waited < Duration::from_millis(4500), "3 seconds took {waited:?}");
}
