//! The words of locks, under every order of steps that the memory model allows, with holders that
//! die between any two (loom).

#[path = "../../src/shm/sync/lock_word.rs"]
mod lock_word;
#[path = "../../src/shm/sync/reader_word.rs"]
mod reader_word;
#[path = "../../src/shm/sync/writing.rs"]
mod writing;

/// Loom's versions of the atomics under the words.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

use lock_word::{LockWord, Unlocked, WAITERS};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use reader_word::{Entered, ReaderWord};
use writing::Writing;

/// The owners of the model: a slot, and a generation in the upper half.
const ONE: u64 = 1 << 32 | 1;
const OTHER: u64 = 1 << 32 | 2;
const THIRD: u64 = 1 << 32 | 3;

/// A segment: the word, the data that it guards, and the kernel's state.
struct Model {
    word: LockWord,
    guarded: UnsafeCell<u64>,
    /// The kernel's queue of threads that sleep on the word: the number of wakes.
    futex: Mutex<u64>,
    woken: Condvar,
    /// Whether the first owner is dead: the kernel reports it once all stores of the owner are
    /// done.
    is_dead: AtomicBool,
}

impl Model {
    fn new() -> Self {
        Self {
            word: LockWord(AtomicU64::new(0)),
            guarded: UnsafeCell::new(0),
            futex: Mutex::new(0),
            woken: Condvar::new(),
            is_dead: AtomicBool::new(false),
        }
    }

    /// futex(2): compares under the kernel's lock, then sleeps until the next wake.
    fn sleep(&self, word: u64) {
        let mut wakes = self.futex.lock().unwrap();
        if self.word.load() == word {
            let before = *wakes;
            while *wakes == before {
                wakes = self.woken.wait(wakes).unwrap();
            }
        }
    }

    fn wake(&self) {
        *self.futex.lock().unwrap() += 1;
        self.woken.notify_one();
    }

    /// As `Lock::lock` does it, without the end of a slice: a wake that is lost is a deadlock,
    /// which loom reports. Whether it was taken over.
    fn lock(&self, me: u64) -> bool {
        let mut has_waited = false;
        loop {
            if self.word.try_lock(me, has_waited) {
                return false;
            }
            let seen = self.word.load();
            if seen == 0 {
                continue;
            }
            if seen & !WAITERS == ONE && self.is_dead.load(Ordering::Acquire) {
                if self.word.take_over(seen, me) {
                    return true;
                }
                continue;
            }
            has_waited = true;
            if let Some(word) = self.word.announce(seen) {
                self.sleep(word);
            }
        }
    }

    fn unlock(&self, me: u64) {
        match self.word.unlock(me) {
            Unlocked::Quietly => {}
            Unlocked::Wake => self.wake(),
            Unlocked::NotMine => panic!("somebody took the lock of one who lives"),
        }
    }

    /// loom fails the run if two are at it together.
    fn work(&self) {
        // SAFETY: loom checks that nobody else is at it.
        self.guarded.with_mut(|value| unsafe { *value += 1 });
    }
}

#[test]
fn one_at_a_time_holds_the_lock_and_no_wake_is_lost() {
    loom::model(|| {
        let model = Arc::new(Model::new());
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                assert!(!model.lock(OTHER));
                model.work();
                model.unlock(OTHER);
            }
        });
        assert!(!model.lock(THIRD));
        model.work();
        model.unlock(THIRD);
        other.join().unwrap();
        assert_eq!(model.word.load(), 0);
        // SAFETY: both are through.
        assert_eq!(model.guarded.with(|value| unsafe { *value }), 2);
    });
}

#[test]
fn of_three_none_waits_for_ever() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(|| {
        let model = Arc::new(Model::new());
        let others: Vec<_> = [ONE, OTHER]
            .into_iter()
            .map(|me| {
                let model = Arc::clone(&model);
                thread::spawn(move || {
                    model.lock(me);
                    model.work();
                    model.unlock(me);
                })
            })
            .collect();
        model.lock(THIRD);
        model.work();
        model.unlock(THIRD);
        for other in others {
            other.join().unwrap();
        }
        assert_eq!(model.word.load(), 0);
    });
}

#[test]
fn of_those_that_find_a_dead_holder_one_takes_over() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let model = Arc::new(Model::new());
        // It died with the lock in hand, and perhaps with someone waiting.
        assert!(model.word.try_lock(ONE, false));
        model.work();
        model.is_dead.store(true, Ordering::Release);
        let other = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                let dead = model.lock(OTHER);
                model.work();
                model.unlock(OTHER);
                dead
            }
        });
        let mine = model.lock(THIRD);
        model.work();
        model.unlock(THIRD);
        assert!(mine != other.join().unwrap());
        assert_eq!(model.word.load(), 0);
    });
}

#[test]
fn the_lock_of_a_holder_dying_in_unlock_is_taken_over_or_free_never_both() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let model = Arc::new(Model::new());
        assert!(model.word.try_lock(ONE, false));
        let dying = thread::spawn({
            let model = Arc::clone(&model);
            move || {
                // Killed before or after its last step; a waiter for the wake that never comes
                // looks again after a time slice.
                let unlocked = model.word.unlock(ONE);
                assert!(unlocked != Unlocked::NotMine);
                model.is_dead.store(true, Ordering::Release);
                model.wake();
            }
        });
        model.lock(THIRD);
        model.work();
        model.unlock(THIRD);
        dying.join().unwrap();
        assert_eq!(model.word.load(), 0);
    });
}

/// A writer's word, two readers' words, and the data that they guard.
struct Table {
    writer: LockWord,
    readers: [ReaderWord; 2],
    guarded: UnsafeCell<u64>,
}

impl Table {
    fn new() -> Self {
        Self {
            writer: LockWord(AtomicU64::new(0)),
            readers: [0, 0].map(|word| ReaderWord(AtomicU64::new(word))),
            guarded: UnsafeCell::new(0),
        }
    }

    /// Tries to read, as `Place::read` does without waiting. Whether it did.
    fn read(&self, slot: usize) -> bool {
        let word = &self.readers[slot];
        let entered = word.enter(1, &self.writer);
        if entered == Entered::Reading {
            // SAFETY: loom checks that nobody writes meanwhile.
            let value = self.guarded.with(|value| unsafe { *value });
            assert!(value == 0 || value == 7);
        }
        word.leave(1, &self.writer);
        entered == Entered::Reading
    }

    /// Tries to write, likewise.
    fn write(&self, me: u64) -> bool {
        if !self.writer.try_lock(me, false) {
            return false;
        }
        reader_word::look_at_readers();
        let free = self.readers.iter().all(|word| word.reader().is_none());
        if free {
            // SAFETY: loom checks that nobody else is at it.
            self.guarded.with_mut(|value| unsafe { *value = 7 });
        }
        assert_eq!(self.writer.unlock(me), Unlocked::Quietly);
        free
    }
}

#[test]
fn nobody_reads_while_one_writes() {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(|| {
        let table = Arc::new(Table::new());
        let reader = thread::spawn({
            let table = Arc::clone(&table);
            move || table.read(0)
        });
        table.write(OTHER);
        reader.join().unwrap();
        // When all have left, everything can be had.
        assert!(table.read(1) && table.write(OTHER));
    });
}

#[test]
fn threads_of_one_process_count_and_those_of_another_generation_do_not() {
    loom::model(|| {
        let table = Arc::new(Table::new());
        // A party that died while it read.
        assert_eq!(table.readers[0].enter(9, &table.writer), Entered::Reading);
        let dead = table.readers[0].reader().unwrap();
        assert_eq!(dead.0, 9);
        let other = thread::spawn({
            let table = Arc::clone(&table);
            move || table.read(0)
        });
        assert!(table.read(0) && other.join().unwrap());
        assert_eq!(table.readers[0].reader(), None);
        // It is not cleared twice, nor with a value that is not there any more.
        assert!(!table.readers[0].clear(dead.1));
        assert!(table.write(OTHER));
    });
}

/// A lock for readers and writers, and a value of two halves.
struct Ledger {
    writer: LockWord,
    writing: Writing,
    reader: ReaderWord,
    halves: [UnsafeCell<u64>; 2],
    is_dead: AtomicBool,
}

/// The steps of a writer; it may be killed before each.
const STEPS: usize = 7;

impl Ledger {
    fn new() -> Self {
        Self {
            writer: LockWord(AtomicU64::new(0)),
            writing: Writing(loom::sync::atomic::AtomicU32::new(0)),
            reader: ReaderWord(AtomicU64::new(0)),
            halves: [0, 0].map(UnsafeCell::new),
            is_dead: AtomicBool::new(false),
        }
    }

    /// The first writer, until it is killed, or has to wait for the reader.
    fn write_and_die(&self, steps: usize) {
        for step in 0..steps {
            match step {
                0 if !self.writer.try_lock(ONE, false) => break,
                1 => {
                    reader_word::look_at_readers();
                    if self.reader.reader().is_some() {
                        break;
                    }
                }
                2 => self.writing.begin(),
                // SAFETY: loom checks that nobody else is at it.
                3 => self.halves[0].with_mut(|half| unsafe { *half += 1 }),
                // SAFETY: loom checks that nobody else is at it.
                4 => self.halves[1].with_mut(|half| unsafe { *half += 1 }),
                5 => self.writing.end(),
                6 => assert!(self.writer.unlock(ONE) != Unlocked::NotMine),
                _ => {}
            }
        }
        self.is_dead.store(true, Ordering::Release);
    }

    fn halves(&self) -> [u64; 2] {
        // SAFETY: loom checks that nobody writes meanwhile.
        [0, 1].map(|at| self.halves[at].with(|half| unsafe { *half }))
    }

    /// Takes the writer's word, as `Place::write` does. Whether the value may be torn.
    fn take(&self) -> bool {
        loop {
            if self.writer.try_lock(OTHER, false) {
                return false;
            }
            let seen = self.writer.load();
            if seen != 0
                && self.is_dead.load(Ordering::Acquire)
                && self.writer.take_over(seen, OTHER)
            {
                return self.writing.has_begun();
            }
            thread::yield_now();
        }
    }
}

#[test]
fn a_writer_that_dies_before_it_writes_tears_nothing_and_one_that_writes_does() {
    for steps in 0..=STEPS {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(move || {
            let ledger = Arc::new(Ledger::new());
            let dying = thread::spawn({
                let ledger = Arc::clone(&ledger);
                move || ledger.write_and_die(steps)
            });
            let reading = thread::spawn({
                let ledger = Arc::clone(&ledger);
                move || {
                    if ledger.reader.enter(1, &ledger.writer) == Entered::Reading {
                        let [one, other] = ledger.halves();
                        assert!(one == other);
                    }
                    ledger.reader.leave(1, &ledger.writer);
                }
            });
            let torn = ledger.take();
            reader_word::look_at_readers();
            while ledger.reader.reader().is_some() {
                thread::yield_now();
            }
            fence_of_begin();
            let [one, other] = ledger.halves();
            // Nothing is torn by one that never came to write, and everything else that is half is
            // said to be.
            assert!(torn || one == other, "half written, and said to be whole");
            assert!(!torn || (3..6).contains(&steps), "torn by one that was not at it");
            ledger.writing.begin();
            // SAFETY: loom checks that nobody else is at it.
            ledger.halves[1].with_mut(|half| unsafe { *half = one });
            ledger.writing.end();
            assert!(ledger.writer.unlock(OTHER) != Unlocked::NotMine);
            dying.join().unwrap();
            reading.join().unwrap();
        });
    }
}

/// As `Place::begin` has it: the readers' accesses come before the next one.
fn fence_of_begin() {
    loom::sync::atomic::fence(Ordering::Acquire);
}
