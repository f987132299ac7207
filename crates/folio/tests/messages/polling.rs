//! Senders that wait by a bell, and the processes that ring it, killed at any step: the others go
//! on, no process waits for ever, and no name is left. The counts are printed.

use crate::bell::is_readable;
use crate::common::kill_sweep::{Ledger, Step, can_trace, sweep};
use crate::common::segment_dir::World;
use crate::common::skip;
use crate::payload::{message, whole};
use folio::shm::{self, Channel, ChannelOptions, Receiver, Sender};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

const MOST: usize = 60;
/// How many steps of each work are died at in a normal run, evenly spread over it.
const KILLS: u64 = 20;
const PATIENCE: Duration = Duration::from_secs(30);
/// The process that fills the channel, the one that is killed, and the one that goes on.
const BEFORE: u64 = 0;
const VICTIM: u64 = 1;
const HEIR: u64 = 2;

/// A channel as a victim finds it.
struct Scene {
    channel: Channel,
    /// A sender that waits by its bell for room: in a channel of one only if the victim is none.
    waiting: Option<Sender>,
}

impl Scene {
    fn new(world: &World, many: bool, full: bool, victim_sends: bool) -> Self {
        assert!(world.files().is_empty());
        let options = ChannelOptions::new().bytes(256);
        let channel = if many { options.many_senders() } else { options }.create("polled").unwrap();
        let mut sender = channel.sender().unwrap();
        let text = [BEFORE.to_ne_bytes(), [0; 8]].concat();
        assert!(sender.try_send(&text).unwrap());
        while full && sender.try_send(&text).unwrap() {}
        let waiting = (many || !victim_sends).then(|| {
            sender.poll_fd().unwrap();
            // There is no room for so much in any case.
            assert!(sender.try_reserve(channel.max_message_len()).unwrap().is_none());
            sender
        });
        Self { channel, waiting }
    }

    fn end(mut self, ledger: &mut Ledger, world: &World) {
        if let Some(waiting) = &mut self.waiting {
            ledger.hung += u64::from(!is_readable(waiting.poll_fd().unwrap(), PATIENCE));
        }
        drop(self);
        shm::remove_stale(false).unwrap();
        ledger.leaked += world.files().len() as u64;
    }
}

/// Messages as they were received: how many of the victim's there were.
#[derive(Default)]
struct Seen {
    victims: u64,
    heirs: u64,
}

impl Seen {
    fn take(&mut self, ledger: &mut Ledger, bytes: &[u8]) {
        let sender = u64::from_ne_bytes(bytes[..8].try_into().unwrap());
        if sender == BEFORE {
            return;
        }
        let (sender, number) = whole(bytes, MOST);
        let next = if sender == VICTIM { &mut self.victims } else { &mut self.heirs };
        ledger.corrupted += u64::from(number != *next);
        *next += 1;
    }
}

/// Both sides go on, the sender by its bell. How many of the victim's messages came.
fn go_on(ledger: &mut Ledger, sender: &mut Sender, receiver: &mut Receiver) -> u64 {
    let (mut bytes, mut seen) = (Vec::new(), Seen::default());
    for number in 0..5 {
        let text = message(HEIR, number, MOST);
        while !sender.try_send(&text).unwrap() {
            if receiver.try_recv(&mut bytes).unwrap().is_some() {
                seen.take(ledger, &bytes);
            }
            if !is_readable(sender.poll_fd().unwrap(), PATIENCE) {
                ledger.hung += 1;
                return seen.victims;
            }
        }
    }
    while receiver.try_recv(&mut bytes).unwrap().is_some() {
        seen.take(ledger, &bytes);
    }
    ledger.corrupted += u64::from(seen.heirs != 5);
    seen.victims
}

/// Which process is killed, and where.
#[derive(Clone, Copy)]
struct Kill {
    what: &'static str,
    /// In which kinds of channels: of many senders or not.
    many: &'static [bool],
    steps: &'static [Step],
    full: bool,
    victim_sends: bool,
}

/// Kills at the steps of `work`. `check` looks at the scene.
fn each<P>(
    kill: Kill,
    prepare: impl Fn(&Scene) -> P,
    work: impl Fn(P),
    mut check: impl FnMut(&mut Ledger, &mut Scene),
) {
    if !can_trace() {
        return skip("ptrace is not allowed");
    }
    let (world, mut ledger) = (World::new(), Ledger::default());
    for &many in kill.many {
        for &step in kill.steps {
            sweep(
                &mut ledger,
                step,
                KILLS,
                || Scene::new(&world, many, kill.full, kill.victim_sends),
                &prepare,
                &work,
                |ledger, mut scene| {
                    check(ledger, &mut scene);
                    scene.end(ledger, &world);
                },
            );
        }
    }
    ledger.tell(kill.what);
}

/// One poll of a future of a sender, beside its bell.
fn poll_once(mut sender: Sender) -> Sender {
    let text = message(VICTIM, 0, MOST);
    sender.poll_fd().unwrap();
    let _ = pin!(sender.send_async(&text)).poll(&mut Context::from_waker(Waker::noop()));
    sender
}

#[test]
fn a_sender_that_waits_by_its_bell_may_die_at_every_step() {
    let kill =
        |what, steps, full| Kill { what, many: &[false, true], steps, full, victim_sends: true };
    let check = |most| {
        move |ledger: &mut Ledger, scene: &mut Scene| {
            let mut receiver = scene.channel.receiver().unwrap();
            let mut heir = scene.channel.sender().unwrap();
            let victims = go_on(ledger, &mut heir, &mut receiver);
            ledger.corrupted += u64::from(victims > most);
        }
    };
    each(
        kill("a sender that makes a bell, and waits", &[Step::Call], true),
        |scene| scene.channel.sender().unwrap(),
        |sender| drop(poll_once(sender)),
        check(0),
    );
    each(
        kill("a sender that waits with its bell", &[Step::Call, Step::Instruction], true),
        |scene| poll_once(scene.channel.sender().unwrap()),
        |sender| drop(poll_once(sender)),
        check(0),
    );
    each(
        kill("a sender whose future sends", &[Step::Call, Step::Instruction], false),
        |scene| {
            let mut sender = scene.channel.sender().unwrap();
            sender.poll_fd().unwrap();
            sender
        },
        |sender| drop(poll_once(sender)),
        check(1),
    );
}

#[test]
fn a_receiver_that_makes_room_for_a_bell_may_die_at_every_step() {
    each(
        Kill {
            what: "a receiver that makes room",
            many: &[false, true],
            steps: &[Step::Call, Step::Instruction],
            full: true,
            victim_sends: false,
        },
        |scene| scene.channel.receiver().unwrap(),
        |mut receiver| drop((receiver.recv(&mut Vec::new()).unwrap(), receiver)),
        |ledger, scene| {
            let waiting = scene.waiting.as_mut().unwrap();
            // It has taken a message, or died.
            ledger.hung += u64::from(!is_readable(waiting.poll_fd().unwrap(), PATIENCE));
            let mut receiver = scene.channel.receiver().unwrap();
            ledger.corrupted += go_on(ledger, waiting, &mut receiver);
        },
    );
}

#[test]
fn a_sender_that_gives_back_the_turn_may_die_at_every_step() {
    each(
        Kill {
            what: "a sender that gives back the turn",
            many: &[true],
            steps: &[Step::Call, Step::Instruction],
            full: false,
            victim_sends: true,
        },
        |scene| {
            let (holder, mut other) =
                (scene.channel.sender().unwrap(), scene.channel.sender().unwrap());
            other.poll_fd().unwrap();
            (holder, other)
        },
        |(mut holder, mut other)| {
            let text = message(VICTIM, 0, MOST);
            let mut reserved = holder.reserve(text.len()).unwrap();
            assert!(!other.try_send(&text).unwrap());
            reserved.copy_from(&text, 0).unwrap();
            reserved.commit().unwrap();
        },
        |ledger, scene| {
            let mut receiver = scene.channel.receiver().unwrap();
            let mut heir = scene.channel.sender().unwrap();
            ledger.corrupted += u64::from(go_on(ledger, &mut heir, &mut receiver) > 1);
        },
    );
}
