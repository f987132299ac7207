//! Bells and futures of senders: room that was waited for, a turn that was, and a receiver that has
//! gone.

use crate::bell::{block_on, is_readable};
use crate::common::kill_sweep::Victim;
use crate::common::{End, child_succeeds, spawn_child, wait};
use crate::payload::{fails_with, message, receive_all};
use folio::Errno;
use folio::shm::{Channel, ChannelOptions, Receiver, Sender, Wait};
use std::future::Future;
use std::io::{Read, Write};
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const NOW: Duration = Duration::ZERO;

fn of_many(bytes: usize) -> Channel {
    ChannelOptions::new().bytes(bytes).many_senders().anonymous().unwrap()
}

/// Sends until there is no room. How many messages that took.
fn fill(sender: &mut Sender) -> u64 {
    let mut sent = 0;
    while sender.try_send(b"a message of 24 bytes...").unwrap() {
        sent += 1;
    }
    sent
}

fn take(receiver: &mut Receiver) {
    let mut bytes = Vec::new();
    receiver.recv(&mut bytes).unwrap();
    assert_eq!(bytes, b"a message of 24 bytes...");
}

#[test]
fn a_senders_bell_is_readable_when_there_is_room() {
    for channel in [Channel::anonymous(256).unwrap(), of_many(256)] {
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        assert!(is_readable(sender.poll_fd().unwrap(), NOW), "the first try is the caller's");
        fill(&mut sender);
        for _ in 0..100 {
            take(&mut receiver);
            // It has rung before the call returned.
            assert!(is_readable(sender.poll_fd().unwrap(), NOW));
            // A message may have the receiver pass the ring's end first.
            if fill(&mut sender) == 0 {
                assert_eq!(receiver.try_recv(&mut Vec::new()).unwrap(), Some(24));
                assert!(is_readable(sender.poll_fd().unwrap(), NOW));
                fill(&mut sender);
            }
        }
    }
}

#[test]
fn a_senders_bell_is_quiet_while_there_is_no_room() {
    for channel in [Channel::anonymous(256).unwrap(), of_many(256)] {
        let (mut sender, _receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        sender.poll_fd().unwrap();
        let mut quiet = 0;
        for _ in 0..50 {
            fill(&mut sender);
            quiet += u32::from(!is_readable(sender.poll_fd().unwrap(), NOW));
        }
        // The backstop may go off now and then.
        assert!(quiet > 25, "quiet {quiet} times of 50");
    }
}

/// Receives so many messages of their own numbers, with a pause before each.
fn receive_slowly(channel: &Channel, count: u64, pause: Duration) {
    let (mut receiver, mut bytes) = (channel.receiver().unwrap(), Vec::new());
    for number in 0..count {
        std::thread::sleep(pause);
        receiver.recv(&mut bytes).unwrap();
        assert_eq!(bytes, number.to_ne_bytes().repeat(5));
    }
}

#[test]
fn a_process_that_polls_for_room_is_woken_each_time() {
    for channel in [Channel::anonymous(64).unwrap(), of_many(64)] {
        // It pauses longer than the other looks before it polls.
        let (pid, _messages) =
            spawn_child(|| receive_slowly(&channel, 300, Duration::from_micros(100)));
        let mut sender = channel.sender().unwrap();
        let started = Instant::now();
        for number in 0..300_u64 {
            let bytes = number.to_ne_bytes().repeat(5);
            while !sender.try_send(&bytes).unwrap() {
                assert!(is_readable(sender.poll_fd().unwrap(), PATIENCE));
            }
        }
        // One message at a time has room: if the bell were silent, the backstop would take half a
        // second for each.
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        assert_eq!(wait(pid), End::Exited(0));
    }
}

#[test]
fn a_senders_bell_rings_when_the_receiver_is_killed_or_leaves() {
    for (many, killed) in [(false, true), (false, false), (true, true), (true, false)] {
        let channel = if many { of_many(256) } else { Channel::anonymous(256).unwrap() };
        let (mut out, mut told) = std::io::pipe().unwrap();
        let victim = Victim::new(|| {
            let receiver = channel.receiver().unwrap();
            told.write_all(&[1]).unwrap();
            std::thread::sleep(if killed { PATIENCE } else { Duration::from_millis(100) });
            drop(receiver);
        });
        out.read_exact(&mut [0]).unwrap();
        let mut sender = channel.sender().unwrap();
        sender.poll_fd().unwrap();
        fill(&mut sender);
        if killed {
            victim.shoot();
        }
        let started = Instant::now();
        let error = loop {
            assert!(is_readable(sender.poll_fd().unwrap(), PATIENCE), "it never rings");
            match sender.try_send(b"a message of 24 bytes...") {
                Ok(sent) => assert!(!sent, "there is room that nobody made"),
                Err(error) => break error,
            }
            assert!(started.elapsed() < PATIENCE);
        };
        let how = if killed { "has died" } else { "has left" };
        assert!(error.errno() == Errno::PIPE && error.to_string().contains(how), "{error}");
        // It stays readable: a second poll does not wait.
        assert!(is_readable(sender.poll_fd().unwrap(), NOW));
        fails_with(block_on(sender.send_async(b"a message of 24 bytes...")).0, Errno::PIPE, how);
    }
}

#[test]
fn a_senders_bell_rings_when_its_turn_may_have_come() {
    let channel = of_many(1 << 10);
    let (mut one, mut other) = (channel.sender().unwrap(), channel.sender().unwrap());
    let receiver = channel.receiver().unwrap();
    other.poll_fd().unwrap();
    let mut quiet = 0;
    for round in 0..20 {
        let mut reserved = one.reserve(3).unwrap();
        assert!(!other.try_send(b"not yet").unwrap());
        quiet += u32::from(!is_readable(other.poll_fd().unwrap(), NOW));
        if round % 2 == 0 {
            reserved.copy_from(b"one", 0).unwrap();
            reserved.commit().unwrap();
        } else {
            drop(reserved);
        }
        assert!(is_readable(other.poll_fd().unwrap(), NOW));
        assert!(other.try_send(b"now").unwrap());
    }
    assert!(quiet > 10, "quiet {quiet} times of 20");
    let mut batch = one.batch().unwrap();
    batch.push(b"one").unwrap();
    assert!(!other.try_send(b"not yet").unwrap());
    batch.commit().unwrap();
    assert!(is_readable(other.poll_fd().unwrap(), NOW));
    assert!(other.try_send(b"now").unwrap());
    // A sender that waits for its turn hears of the receiver, too.
    let reserved = one.reserve(3).unwrap();
    assert!(!other.try_send(b"not yet").unwrap());
    drop(receiver);
    assert!(is_readable(other.poll_fd().unwrap(), NOW));
    fails_with(other.try_send(b"nobody"), Errno::PIPE, "has left");
    drop(reserved);
}

#[test]
fn a_senders_bell_rings_when_the_one_that_has_the_turn_is_killed() {
    let channel = of_many(1 << 10);
    let mut receiver = channel.receiver().unwrap();
    for _ in 0..5 {
        let (mut out, mut told) = std::io::pipe().unwrap();
        let victim = Victim::new(|| {
            let mut sender = channel.sender().unwrap();
            let mut reserved = sender.reserve(10).unwrap();
            reserved.copy_from(b"never seen", 0).unwrap();
            told.write_all(&[1]).unwrap();
            std::thread::sleep(PATIENCE);
        });
        out.read_exact(&mut [0]).unwrap();
        let mut sender = channel.sender().unwrap();
        sender.poll_fd().unwrap();
        assert!(!sender.try_send(b"from the heir").unwrap());
        victim.shoot();
        let started = Instant::now();
        loop {
            assert!(is_readable(sender.poll_fd().unwrap(), PATIENCE), "it never rings");
            if sender.try_send(b"from the heir").unwrap() {
                break;
            }
            assert!(started.elapsed() < PATIENCE);
        }
        let mut bytes = Vec::new();
        receiver.recv(&mut bytes).unwrap();
        assert_eq!(bytes, b"from the heir");
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    }
}

#[test]
fn senders_that_wait_for_room_do_not_ring_each_other() {
    let channel = of_many(256);
    let mut receiver = channel.receiver().unwrap();
    let mut senders: Vec<_> = (0..3).map(|_| channel.sender().unwrap()).collect();
    for sender in &mut senders {
        sender.poll_fd().unwrap();
        fill(sender);
    }
    let mut quiet = 0;
    for _ in 0..50 {
        // Each takes the turn, finds no room, and gives it back.
        for sender in &mut senders {
            assert!(!sender.try_send(b"a message of 24 bytes...").unwrap());
        }
        quiet += senders
            .iter_mut()
            .map(|sender| u32::from(!is_readable(sender.poll_fd().unwrap(), NOW)))
            .sum::<u32>();
    }
    assert!(quiet > 75, "quiet {quiet} times of 150");
    // Of room all of them hear.
    take(&mut receiver);
    for sender in &mut senders {
        assert!(is_readable(sender.poll_fd().unwrap(), NOW));
    }
}

#[test]
fn a_future_is_ready_when_its_message_is_sent() {
    for channel in [Channel::anonymous(64).unwrap(), of_many(64)] {
        let (pid, _messages) =
            spawn_child(|| receive_slowly(&channel, 50, Duration::from_millis(2)));
        let mut sender = channel.sender().unwrap();
        for number in 0..50_u64 {
            let bytes = number.to_ne_bytes().repeat(5);
            let (sent, polls) = block_on(sender.send_async(&bytes));
            sent.unwrap();
            assert!(polls < 1000, "{polls} polls for one message");
        }
        assert_eq!(wait(pid), End::Exited(0));
        let (end, _) = block_on(sender.send_async(b"nobody"));
        fails_with(end, Errno::PIPE, "the receiver has left");
    }
}

#[test]
fn a_dropped_future_of_a_sender_sends_nothing_and_a_ready_one_sends_once() {
    let channel = Channel::anonymous(64).unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    let mut bytes = Vec::new();
    let mut context = Context::from_waker(Waker::noop());
    for number in 0..20_u64 {
        let (text, never) = (number.to_ne_bytes().repeat(5), [0xEE; 40]);
        {
            let mut future = pin!(sender.send_async(&text));
            // The last round's message was received, and the ring's end may be still to pass.
            while future.as_mut().poll(&mut context).is_pending() {
                assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
            }
            assert!(matches!(future.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
        }
        assert!(pin!(sender.send_async(&never)).poll(&mut context).is_pending());
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), Some(40));
        assert_eq!(bytes, text);
        assert_eq!(receiver.try_recv(&mut bytes).unwrap(), None);
    }
    let long = [0; 100];
    fails_with(block_on(sender.send_async(&long)).0, Errno::MSGSIZE, "at most 48 bytes");
}

#[test]
fn futures_of_senders_of_several_processes_all_get_their_messages_through() {
    const MOST: usize = 100;
    let channel = of_many(256);
    let mut receiver = channel.receiver().unwrap();
    receiver.set_wait(Wait::new().timeout(PATIENCE));
    // So that there is one from the first to the last: a child may be through before another has
    // begun.
    let first = channel.sender().unwrap();
    let children: Vec<_> = (0..3)
        .map(|id| {
            let channel = &channel;
            spawn_child(move || {
                let mut sender = channel.sender().unwrap();
                for number in 0..300 {
                    block_on(sender.send_async(&message(id, number, MOST))).0.unwrap();
                }
            })
        })
        .collect();
    receive_all::<3>(&mut receiver, 300, MOST);
    for (pid, _) in children {
        assert_eq!(wait(pid), End::Exited(0));
    }
    drop(first);
    fails_with(receiver.recv(&mut Vec::new()), Errno::PIPE, "the last sender has left");
}

#[test]
fn in_a_forked_child_the_parents_bell_is_refused_and_goes_on_ringing() {
    for channel in [Channel::anonymous(256).unwrap(), of_many(256)] {
        let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
        sender.poll_fd().unwrap();
        fill(&mut sender);
        child_succeeds(|| {
            // SAFETY: the child ends without dropping the original.
            let mut sender = unsafe { std::ptr::read(&raw const sender) };
            fails_with(sender.poll_fd().map(drop), Errno::PERM, "forked child");
            fails_with(block_on(sender.send_async(b"no")).0, Errno::PERM, "forked child");
            drop(sender);
        });
        assert!(!sender.try_send(b"a message of 24 bytes...").unwrap());
        take(&mut receiver);
        assert!(is_readable(sender.poll_fd().unwrap(), NOW));
        // A child's own sender has a bell of its own.
        drop(sender);
        child_succeeds(|| {
            let mut sender = channel.sender().unwrap();
            sender.poll_fd().unwrap();
            fill(&mut sender);
            block_on(async {
                fails_with(sender.send_async(&[0; 1000]).await, Errno::MSGSIZE, "at most");
            });
        });
    }
}
