//! Senders, receivers and writers killed between any two instructions of their work: a message is
//! there whole or not at all, and the next process goes on. The counts are printed.

use crate::common::kill_sweep::{Ledger, Step, can_trace, sweep};
use crate::common::skip;
use crate::payload::{message, whole};
use folio::shm::{Channel, ChannelOptions, Log, LogWriter, Read, Receiver, Sender, Start, Wait};
use std::time::Duration;

const MOST: usize = 120;
/// How many instructions of each work are died at in a normal run, evenly spread over it.
const KILLS: u64 = 30;

/// A channel in which `messages` were sent and received, so that the next goes somewhere else each
/// time; the next one's number.
fn used(many: bool, messages: u64) -> (Channel, Receiver, u64) {
    let options = ChannelOptions::new().bytes(256);
    let channel = if many { options.many_senders() } else { options }.anonymous().unwrap();
    let (mut sender, mut receiver) = (channel.sender().unwrap(), channel.receiver().unwrap());
    for number in 0..messages {
        sender.send(&message(0, number, MOST)).unwrap();
        receiver.recv(&mut Vec::new()).unwrap();
    }
    (channel, receiver, messages)
}

/// Kills a sender at the instructions of `work`, which sends `count` messages from a number on, all
/// or none if `together`.
fn sender_dies(
    what: &str,
    many: bool,
    count: u64,
    together: bool,
    work: impl Fn(&mut Sender, u64),
) {
    let (mut ledger, mut round) = (Ledger::default(), 0);
    sweep(
        &mut ledger,
        Step::Instruction,
        KILLS,
        || {
            round += 1;
            used(many, round % 7)
        },
        |(channel, _, next)| (channel.sender().unwrap(), *next),
        |(mut sender, next)| work(&mut sender, next),
        |ledger, (channel, mut receiver, next)| {
            let (mut bytes, mut seen) = (Vec::new(), 0);
            receiver.set_wait(Wait::new().timeout(Duration::from_secs(20)));
            let mut sender = channel.sender().unwrap();
            sender.set_wait(Wait::new().timeout(Duration::from_secs(20)));
            while receiver.try_recv(&mut bytes).unwrap().is_some() {
                ledger.corrupted += u64::from(whole(&bytes, MOST) != (0, next + seen));
                seen += 1;
            }
            ledger.corrupted += u64::from(seen > count || (together && seen != 0 && seen != count));
            for number in 0..5 {
                if sender.send(&message(1, number, MOST)).is_err()
                    || receiver.recv(&mut bytes).is_err()
                {
                    ledger.hung += 1;
                    return;
                }
                ledger.corrupted += u64::from(whole(&bytes, MOST) != (1, number));
            }
        },
    );
    ledger.tell(what);
}

#[test]
fn a_sender_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("ptrace is not allowed");
    }
    for many in [false, true] {
        let of = if many { "of many" } else { "of one" };
        sender_dies(&format!("send, {of}"), many, 1, true, |sender, next| {
            sender.send(&message(0, next, MOST)).unwrap();
        });
        sender_dies(&format!("reserve and commit, {of}"), many, 1, true, |sender, next| {
            let bytes = message(0, next, MOST);
            let mut reserved = sender.reserve(MOST + 8).unwrap();
            reserved.copy_from(&bytes, 0).unwrap();
            reserved.commit_first(bytes.len()).unwrap();
        });
        sender_dies(&format!("batch, {of}"), many, 2, true, |sender, next| {
            let mut batch = sender.batch().unwrap();
            for number in next..next + 2 {
                batch.push(&message(0, number, MOST)[..]).unwrap_or_else(|error| panic!("{error}"));
            }
            batch.commit().unwrap();
        });
    }
}

#[test]
fn a_receiver_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("ptrace is not allowed");
    }
    let (mut ledger, mut round) = (Ledger::default(), 0);
    sweep(
        &mut ledger,
        Step::Instruction,
        KILLS,
        || {
            round += 1;
            let (channel, receiver, next) = used(false, round % 7);
            let mut sender = channel.sender().unwrap();
            for number in next..next + 2 {
                sender.send(&message(0, number, MOST / 2)).unwrap();
            }
            drop((sender, receiver));
            (channel, next)
        },
        |(channel, _)| channel.receiver().unwrap(),
        |mut receiver| {
            let message = receiver.peek().unwrap();
            whole(&message.to_vec().unwrap(), MOST / 2);
            message.release().unwrap();
        },
        |ledger, (channel, next)| {
            let (mut sender, mut receiver) =
                (channel.sender().unwrap(), channel.receiver().unwrap());
            // The first may have been released or not; the second was not.
            let (mut bytes, mut seen) = (Vec::new(), Vec::new());
            while receiver.try_recv(&mut bytes).unwrap().is_some() {
                seen.push(whole(&bytes, MOST / 2).1 - next);
            }
            ledger.corrupted += u64::from(seen != [0, 1] && seen != [1]);
            sender.set_wait(Wait::new().timeout(Duration::from_secs(20)));
            for number in 0..5 {
                sender.send(&message(1, number, MOST)).unwrap();
                receiver.recv(&mut bytes).unwrap();
                ledger.corrupted += u64::from(whole(&bytes, MOST) != (1, number));
            }
        },
    );
    ledger.tell("receive");
}

#[test]
fn a_writer_may_die_at_every_instruction() {
    if !can_trace() {
        return skip("ptrace is not allowed");
    }
    for (what, most) in [("append", 3), ("append over old entries", 40)] {
        let (mut ledger, mut round) = (Ledger::default(), 0);
        let append = |writer: &mut LogWriter| {
            let number = writer.next_seq();
            assert_eq!(writer.append(&message(0, number, MOST)).unwrap(), number);
        };
        sweep(
            &mut ledger,
            Step::Instruction,
            KILLS,
            || {
                round += 1;
                let log = Log::anonymous(1024).unwrap();
                let mut writer = log.writer().unwrap();
                let count = most - round % 3;
                (0..count).for_each(|_| append(&mut writer));
                (log, count)
            },
            |(log, _)| log.writer().unwrap(),
            |mut writer| append(&mut writer),
            |ledger, (log, count)| {
                let mut writer = log.writer().unwrap();
                let next = writer.next_seq();
                ledger.corrupted += u64::from(next != count && next != count + 1);
                append(&mut writer);
                let mut reader = log.reader(Start::Oldest).unwrap();
                let (mut bytes, mut seq) = (Vec::new(), reader.next_seq());
                while let Some(read) = reader.try_next(&mut bytes).unwrap() {
                    ledger.corrupted +=
                        u64::from(read != Read::Entry(seq) || whole(&bytes, MOST) != (0, seq));
                    seq += 1;
                }
                ledger.corrupted += u64::from(seq != next + 1);
            },
        );
        ledger.tell(what);
    }
}
