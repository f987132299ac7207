//! How a shard sleeps while nothing is asked of it, under every order of steps that the memory
//! model allows (loom).

#[path = "../../src/pager/wake_queue.rs"]
mod wake_queue;

/// Loom's versions of the atomics under the command queue.
mod atomics {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

use atomics::{AtomicU64, Ordering};
use loom::sync::Arc;
use loom::thread;
use wake_queue::{WakeQueue, WakeSignal};

/// An eventfd: how often it was rung since it was read.
struct Count(AtomicU64);

impl WakeSignal for Count {
    fn raise(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn clear(&self) -> u64 {
        self.0.swap(0, Ordering::AcqRel)
    }
}

impl Count {
    fn is_rung(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// poll(2), without a time limit: loom fails a run in which nobody rings.
    fn poll(&self) {
        while !self.is_rung() {
            thread::yield_now();
        }
    }
}

type Inbox = WakeQueue<u32, Count>;

fn mailbox() -> Arc<Inbox> {
    Arc::new(WakeQueue::new(Count(AtomicU64::new(0))))
}

fn sends(mailbox: &Arc<Inbox>, messages: &'static [u32]) -> thread::JoinHandle<()> {
    let mailbox = Arc::clone(mailbox);
    thread::spawn(move || messages.iter().for_each(|&message| mailbox.send(message)))
}

/// Reads so many messages as the driver thread does: it takes all that are there, and sleeps after
/// an empty take.
fn read(mailbox: &Inbox, count: usize) -> Vec<u32> {
    let (mut all, mut new) = (Vec::new(), Vec::new());
    while all.len() < count {
        mailbox.take(&mut new);
        if !new.is_empty() {
            all.append(&mut new);
        } else if mailbox.may_sleep() {
            mailbox.signal().poll();
            mailbox.awake();
        }
    }
    all
}

#[test]
fn a_sent_message_wakes_the_reader() {
    loom::model(|| {
        let mailbox = mailbox();
        let sender = sends(&mailbox, &[1, 2]);
        assert_eq!(read(&mailbox, 2), [1, 2]);
        sender.join().unwrap();
    });
}

#[test]
fn messages_of_two_threads_at_once_come_and_wake_the_reader() {
    // All orders of so many steps take minutes: those in which a thread is interrupted three times
    // at most.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let mailbox = mailbox();
        let senders = (sends(&mailbox, &[1]), sends(&mailbox, &[2]));
        let mut all = read(&mailbox, 2);
        all.sort_unstable();
        assert_eq!(all, [1, 2]);
        senders.0.join().unwrap();
        senders.1.join().unwrap();
    });
}

#[test]
fn a_bell_that_was_rung_late_ends_one_sleep_and_not_all() {
    loom::model(|| {
        let mailbox = mailbox();
        let sender = sends(&mailbox, &[1]);
        assert_eq!(read(&mailbox, 1), [1]);
        sender.join().unwrap();
        // Nothing comes any more. The ring may be there still, and is taken when it has ended a
        // sleep.
        assert!(mailbox.may_sleep());
        if mailbox.signal().is_rung() {
            mailbox.awake();
            assert!(mailbox.may_sleep());
        }
        assert!(!mailbox.signal().is_rung(), "the reader would never sleep again");
    });
}
