//! The word of a bell beside the words that futures wait for, under every order of steps that the
//! memory model allows (loom): no ring is lost. A ring that is lost is a deadlock, which loom
//! reports; the bell's timer, which would end it, is left out.

#[path = "../../src/shm/sync/lock_word.rs"]
mod lock_word;
#[path = "../../src/shm/wait/notifier_word.rs"]
mod notifier_word;
#[path = "../../src/shm/sync/reader_word.rs"]
mod reader_word;

/// Loom's versions of the atomics under the words.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use lock_word::{LockWord, Unlocked};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use reader_word::{Entered, ReaderWord};

const ONE: u64 = 1 << 32 | 1;
const OTHER: u64 = 1 << 32 | 2;
const THIRD: u64 = 1 << 32 | 3;
const NUMBER: u64 = 0x5ee0;

/// A party's bell, in shared memory and in its process.
struct Bell {
    word: AtomicU64,
    /// How often it rang: a waiter waits for another number than the one it saw first.
    rings: Mutex<u64>,
    rung: Condvar,
}

impl Bell {
    fn new() -> Self {
        Self { word: AtomicU64::new(NUMBER), rings: Mutex::new(0), rung: Condvar::new() }
    }

    /// `Sleeper::lie_down`: its waker is there before the bell is armed.
    fn lie_down(&self) -> u64 {
        let before = *self.rings.lock().unwrap();
        notifier_word::arm(&self.word, NUMBER);
        before
    }

    fn sleep(&self, before: u64) {
        let mut rings = self.rings.lock().unwrap();
        while *rings == before {
            rings = self.rung.wait(rings).unwrap();
        }
    }

    /// `ring_all`, for a thread that has changed the awaited word.
    fn pull(&self) {
        notifier_word::check_notifiers();
        if notifier_word::disarm(&self.word).is_some() {
            *self.rings.lock().unwrap() += 1;
            self.rung.notify_all();
        }
    }
}

/// A lock whose waiters are futures.
struct Desk {
    lock: LockWord,
    guarded: UnsafeCell<u64>,
    bell: Bell,
}

impl Desk {
    fn new() -> Self {
        Self { lock: LockWord(AtomicU64::new(0)), guarded: UnsafeCell::new(0), bell: Bell::new() }
    }

    /// `Lock::poll`, until it is ready.
    fn lock(&self, me: u64) {
        let mut has_waited = false;
        while !self.lock.try_lock(me, has_waited) {
            // Free by now, perhaps: one that has looked often enough says all the same that it
            // waits.
            let seen = self.lock.load();
            let before = self.bell.lie_down();
            has_waited = true;
            if self.lock.announce_anew(seen) {
                self.bell.sleep(before);
            }
        }
    }

    fn work_and_unlock(&self, me: u64) {
        // SAFETY: loom checks that nobody else is at it.
        self.guarded.with_mut(|value| unsafe { *value += 1 });
        match self.lock.unlock(me) {
            Unlocked::Quietly => {}
            Unlocked::Wake => self.bell.pull(),
            Unlocked::NotMine => panic!("somebody took the lock of one who lives"),
        }
    }
}

#[test]
fn a_future_that_waits_for_a_lock_is_woken() {
    loom::model(|| {
        let desk = Arc::new(Desk::new());
        let other = thread::spawn({
            let desk = Arc::clone(&desk);
            move || {
                desk.lock(OTHER);
                desk.work_and_unlock(OTHER);
            }
        });
        desk.lock(THIRD);
        desk.work_and_unlock(THIRD);
        other.join().unwrap();
        assert_eq!(desk.lock.load(), 0);
    });
}

#[test]
fn of_the_futures_at_one_bell_none_waits_for_ever() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let desk = Arc::new(Desk::new());
        assert!(desk.lock.try_lock(THIRD, false));
        let others: Vec<_> = [ONE, OTHER]
            .into_iter()
            .map(|me| {
                let desk = Arc::clone(&desk);
                thread::spawn(move || {
                    desk.lock(me);
                    desk.work_and_unlock(me);
                })
            })
            .collect();
        desk.work_and_unlock(THIRD);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(desk.lock.load(), 0);
    });
}

/// As in `event.rs`.
const CLEAR: u32 = 0;
const SET: u32 = 1;
const WAITED: u32 = 2;

#[test]
fn futures_that_take_an_event_all_get_one_each() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let (event, bell) = (Arc::new(AtomicU32::new(CLEAR)), Arc::new(Bell::new()));
        let (taken, heard) = (Arc::new(AtomicU32::new(CLEAR)), Arc::new(Bell::new()));
        let take = |event: &AtomicU32, bell: &Bell| loop {
            if event.compare_exchange(SET, CLEAR, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                break;
            }
            let before = bell.lie_down();
            if event.compare_exchange(CLEAR, WAITED, Ordering::Relaxed, Ordering::Relaxed)
                != Err(SET)
            {
                bell.sleep(before);
            }
        };
        let set = |event: &AtomicU32, bell: &Bell| {
            if event.swap(SET, Ordering::AcqRel) > SET {
                bell.pull();
            }
        };
        let other = thread::spawn({
            let (event, bell, taken, heard) =
                (Arc::clone(&event), Arc::clone(&bell), Arc::clone(&taken), Arc::clone(&heard));
            move || {
                for _ in 0..2 {
                    take(&event, &bell);
                    set(&taken, &heard);
                }
            }
        });
        for _ in 0..2 {
            set(&event, &bell);
            take(&taken, &heard);
        }
        other.join().unwrap();
    });
}

#[test]
fn a_writer_that_waits_for_a_reader_is_woken_when_that_one_leaves() {
    loom::model(|| {
        let (writer, word) = (LockWord(AtomicU64::new(0)), ReaderWord(AtomicU64::new(0)));
        assert_eq!(word.enter(1, &writer), Entered::Reading);
        let table = Arc::new((writer, word, Bell::new()));
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || {
                let (writer, word, bell) = &*table;
                assert!(writer.try_lock(OTHER, false));
                reader_word::look_at_readers();
                while word.reader().is_some() {
                    let before = bell.lie_down();
                    if word.reader().is_some() {
                        bell.sleep(before);
                    }
                }
            }
        });
        let (writer, word, bell) = &*table;
        if word.leave(1, writer) {
            bell.pull();
        }
        other.join().unwrap();
    });
}

/// As in `condvar.rs`: someone waits, and one notification.
const SOMEONE: u32 = 1;
const NOTIFIED: u32 = 2;

#[test]
fn a_future_that_waits_for_a_notification_is_woken() {
    for all in [false, true] {
        loom::model(move || {
            // How often it was notified when the lock was given back, after which comes each
            // notification that counts.
            let before = 6 * NOTIFIED;
            let condition = Arc::new((AtomicU32::new(before | SOMEONE), Bell::new()));
            // The last thread that notified all has taken that away.
            condition.0.store(if all { before } else { before | SOMEONE }, Ordering::Relaxed);
            let other = thread::spawn({
                let condition = Arc::clone(&condition);
                move || {
                    let (word, bell) = &*condition;
                    let is_notified = |now: u32| (now ^ before) & !SOMEONE != 0;
                    while !is_notified(word.load(Ordering::Relaxed)) {
                        let rings = bell.lie_down();
                        let now = word.load(Ordering::Relaxed);
                        if is_notified(now) {
                            break;
                        }
                        let wanted = now | SOMEONE;
                        let is_said = now == wanted
                            || word
                                .compare_exchange(now, wanted, Ordering::Relaxed, Ordering::Relaxed)
                                .is_ok();
                        if is_said {
                            bell.sleep(rings);
                        }
                    }
                }
            });
            let (word, bell) = &*condition;
            let seen = if all {
                let mut seen = word.load(Ordering::Relaxed);
                loop {
                    let told = (seen & !SOMEONE) + NOTIFIED;
                    match word.compare_exchange(seen, told, Ordering::AcqRel, Ordering::Relaxed) {
                        Ok(seen) => break seen,
                        Err(other) => seen = other,
                    }
                }
            } else {
                word.fetch_add(NOTIFIED, Ordering::AcqRel)
            };
            if seen & SOMEONE != 0 {
                bell.pull();
            }
            other.join().unwrap();
        });
    }
}
