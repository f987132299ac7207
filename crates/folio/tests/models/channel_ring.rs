//! The protocols of a channel's ring and of sleep and wake, under every order of steps that the
//! memory model allows (loom).

#[path = "../../src/shm/wait/eventcount.rs"]
mod eventcount;
#[path = "../../src/shm/sync/lock_word.rs"]
mod lock_word;
#[path = "../../src/shm/ring/message_header.rs"]
mod message_header;
#[path = "../../src/shm/channel/ring.rs"]
mod ring;

/// Loom's versions of the atomics under the protocols.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// The fence that the publisher leaves out, since the sleeper waits until it has happened
    /// anyway.
    pub(super) fn publisher_fence() {
        fence(Ordering::SeqCst);
    }
}

use atomics::{AtomicU32, AtomicU64, Ordering};
use eventcount::{ASLEEP, EventCount, NOTIFIED};
use lock_word::LockWord;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use ring::{ChannelRing, Consumer, NoPlace, Producer};

struct Memory {
    words: Vec<AtomicU64>,
    head: AtomicU64,
    tail: AtomicU64,
    receiver: EventCount,
    sender: EventCount,
    /// The turn of many senders, and the event count of those that found it taken.
    turn: LockWord,
    turned: EventCount,
    /// Whether the bell of a sender wants to be rung.
    armed: AtomicU32,
    /// Whether it was, and the threads that poll for it.
    rung: Mutex<bool>,
    polls: Condvar,
    /// The kernel's side of a futex: a thread that sleeps on a word looks at it under this lock.
    kernel: Mutex<()>,
    sleepers: Condvar,
}

impl ChannelRing for Memory {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at / 8]
    }

    fn head(&self) -> &AtomicU64 {
        &self.head
    }

    fn tail(&self) -> &AtomicU64 {
        &self.tail
    }
}

impl Memory {
    fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            words: (0..capacity / 8).map(|_| AtomicU64::new(0)).collect(),
            head: AtomicU64::new(0),
            tail: AtomicU64::new(0),
            receiver: EventCount(AtomicU32::new(0)),
            sender: EventCount(AtomicU32::new(0)),
            turn: LockWord(AtomicU64::new(0)),
            turned: EventCount(AtomicU32::new(0)),
            armed: AtomicU32::new(0),
            rung: Mutex::new(false),
            polls: Condvar::new(),
            kernel: Mutex::new(()),
            sleepers: Condvar::new(),
        })
    }

    fn capacity(&self) -> u64 {
        8 * self.words.len() as u64
    }

    /// futex(2), FUTEX_WAIT: without a slice that would end by itself.
    fn sleep(&self, doze: &EventCount, seen: u32) {
        let held = self.kernel.lock().unwrap();
        if doze.0.load(Ordering::Relaxed) == seen {
            drop(self.sleepers.wait(held).unwrap());
        }
    }

    fn wake(&self, doze: &EventCount) {
        if doze.notify() & ASLEEP != 0 {
            let _held = self.kernel.lock().unwrap();
            self.sleepers.notify_all();
        }
    }

    /// Rings the bell, if it was announced and is armed.
    fn pull(&self, doze: &EventCount) {
        if doze.notify() & NOTIFIED != 0
            && self.armed.load(Ordering::Relaxed) == 1
            && self.armed.compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        {
            *self.rung.lock().unwrap() = true;
            self.polls.notify_all();
        }
    }

    /// A sender that could not send: it polls its bell, without a timer that would end the wait.
    fn poll(&self, doze: &EventCount, may_be_over: impl Fn() -> bool) {
        *self.rung.lock().unwrap() = false;
        self.armed.store(1, Ordering::Release);
        doze.prepare_wait(NOTIFIED);
        if may_be_over() {
            return;
        }
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.polls.wait(rung).unwrap();
        }
    }

    /// Sends a message of two words, or returns the position that the receiver must reach.
    fn try_send(&self, producer: &mut Producer, value: u64) -> Result<(), u64> {
        let place = match producer.find(self, 16) {
            Ok(place) => place,
            Err(NoPlace::Until(position)) => return Err(position),
            Err(other) => panic!("{other:?}"),
        };
        let at = producer.bytes_at(place);
        self.word(at).store(value, Ordering::Relaxed);
        self.word(at + 8).store(!value, Ordering::Relaxed);
        producer.publish(self, place, 16);
        Ok(())
    }

    fn try_receive(&self, consumer: &mut Consumer) -> Option<u64> {
        let found = consumer.next(self).unwrap()?;
        assert_eq!(found.len, 16);
        let value = self.word(found.at).load(Ordering::Relaxed);
        assert_eq!(self.word(found.at + 8).load(Ordering::Relaxed), !value, "half a message");
        consumer.release(self, found);
        Some(value)
    }
}

/// A thread that sends.
fn sending(
    memory: &Arc<Memory>,
    work: impl FnOnce(&Memory, Producer) + 'static,
) -> thread::JoinHandle<()> {
    let memory = Arc::clone(memory);
    thread::spawn(move || {
        let producer = Producer::resume(&*memory, memory.capacity()).unwrap();
        work(&memory, producer);
    })
}

/// The receiver of a ring that is used from the start.
fn receiver(memory: &Memory) -> Consumer {
    Consumer::resume(memory, memory.capacity()).unwrap()
}

fn model(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(work);
}

#[test]
fn messages_arrive_whole_and_in_order_around_the_rings_end() {
    model(|| {
        // One message at a time has room, and the second goes around the end.
        let memory = Memory::new(32);
        let sender = sending(&memory, |memory, mut producer| {
            for value in 1..=2 {
                while memory.try_send(&mut producer, value).is_err() {
                    thread::yield_now();
                }
            }
        });
        let mut consumer = receiver(&memory);
        for value in 1..=2 {
            let received = loop {
                match memory.try_receive(&mut consumer) {
                    Some(received) => break received,
                    None => thread::yield_now(),
                }
            };
            assert_eq!(received, value);
        }
        sender.join().unwrap();
        assert_eq!(memory.try_receive(&mut consumer), None);
    });
}

#[test]
fn messages_of_a_batch_are_seen_together() {
    model(|| {
        let memory = Memory::new(64);
        let sender = sending(&memory, |memory, mut producer| {
            producer.begin();
            memory.try_send(&mut producer, 1).unwrap();
            memory.try_send(&mut producer, 2).unwrap();
            assert!(producer.commit(memory));
        });
        let mut consumer = receiver(&memory);
        if let Some(value) = memory.try_receive(&mut consumer) {
            assert_eq!(value, 1);
            assert_eq!(memory.try_receive(&mut consumer), Some(2), "half a batch");
        }
        sender.join().unwrap();
    });
}

#[test]
fn a_receiver_that_sleeps_is_woken_by_a_message() {
    model(|| {
        let memory = Memory::new(32);
        let sender = sending(&memory, |memory, mut producer| {
            memory.try_send(&mut producer, 1).unwrap();
            memory.wake(&memory.receiver);
        });
        let mut consumer = receiver(&memory);
        // A missed wake would be a deadlock, which loom reports.
        while memory.try_receive(&mut consumer).is_none() {
            let seen = memory.receiver.prepare_wait(ASLEEP);
            if consumer.is_ready(&*memory) {
                memory.receiver.cancel_wait(ASLEEP);
            } else {
                memory.sleep(&memory.receiver, seen);
            }
        }
        sender.join().unwrap();
    });
}

/// A full ring, and a thread that receives both messages and announces the room after each.
fn full(tell: fn(&Memory)) -> (Arc<Memory>, Producer, thread::JoinHandle<()>) {
    let memory = Memory::new(64);
    let mut producer = Producer::resume(&*memory, memory.capacity()).unwrap();
    for value in 1..=2 {
        memory.try_send(&mut producer, value).unwrap();
    }
    let receiving = thread::spawn({
        let memory = Arc::clone(&memory);
        move || {
            let mut consumer = receiver(&memory);
            for value in 1..=2 {
                assert_eq!(memory.try_receive(&mut consumer), Some(value));
                tell(&memory);
            }
        }
    });
    (memory, producer, receiving)
}

#[test]
fn a_sender_that_sleeps_is_woken_by_room() {
    model(|| {
        let (memory, mut producer, receiving) = full(|memory| memory.wake(&memory.sender));
        while memory.try_send(&mut producer, 3).is_err() {
            let seen = memory.sender.prepare_wait(ASLEEP);
            if memory.try_send(&mut producer, 3).is_ok() {
                break;
            }
            memory.sleep(&memory.sender, seen);
        }
        receiving.join().unwrap();
    });
}

#[test]
fn a_sender_that_polls_is_rung_by_room() {
    model(|| {
        let (memory, mut producer, receiving) = full(|memory| memory.pull(&memory.sender));
        while let Err(position) = memory.try_send(&mut producer, 3) {
            memory.poll(&memory.sender, || {
                !message_header::is_before(memory.head.load(Ordering::Acquire), position)
            });
        }
        receiving.join().unwrap();
    });
}

#[test]
fn a_sender_that_polls_is_rung_when_the_turn_ends() {
    model(|| {
        let memory = Memory::new(64);
        let other = thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                // It may find the turn taken, too; it does not wait.
                if memory.turn.try_lock(2, false) {
                    memory.turn.unlock(2);
                    memory.pull(&memory.turned);
                }
            }
        });
        while !memory.turn.try_lock(1, false) {
            memory.poll(&memory.turned, || memory.turn.load() == 0);
        }
        memory.turn.unlock(1);
        other.join().unwrap();
    });
}

#[test]
fn one_of_two_that_sleep_is_not_kept_asleep_by_the_other() {
    model(|| {
        // Two threads wait for different values of the same word, as readers of a log do.
        let memory = Memory::new(32);
        let publisher = thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                for value in 1..=2 {
                    memory.head.store(value, Ordering::Release);
                    memory.wake(&memory.receiver);
                }
            }
        });
        let wait_for = |memory: &Memory, value: u64| {
            loop {
                let seen = memory.receiver.prepare_wait(ASLEEP);
                if memory.head.load(Ordering::Acquire) >= value {
                    break;
                }
                memory.sleep(&memory.receiver, seen);
            }
        };
        let other = thread::spawn({
            let memory = Arc::clone(&memory);
            move || wait_for(&memory, 2)
        });
        wait_for(&memory, 1);
        publisher.join().unwrap();
        other.join().unwrap();
    });
}
