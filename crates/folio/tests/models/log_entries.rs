//! The protocol of a log's entries, under every order of steps that the memory model allows (loom).

#[path = "../../src/shm/log/entries.rs"]
mod entries;
#[path = "../../src/shm/ring/message_header.rs"]
mod message_header;

/// Loom's versions of the atomics under the protocol.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use atomics::{AtomicU64, Ordering};
use entries::{EntryReader, EntryWriter, LogRing, ReadStep, Trust};
use loom::sync::Arc;
use loom::thread;

struct Memory {
    words: Vec<AtomicU64>,
    oldest: AtomicU64,
    last: AtomicU64,
}

impl LogRing for Memory {
    fn word(&self, at: usize) -> &AtomicU64 {
        &self.words[at / 8]
    }

    fn oldest(&self) -> &AtomicU64 {
        &self.oldest
    }

    fn last(&self) -> &AtomicU64 {
        &self.last
    }
}

/// Room for three entries of a word, and the word behind them.
const CAPACITY: u64 = 128;

fn memory() -> Arc<Memory> {
    Arc::new(Memory {
        words: (0..CAPACITY / 8).map(|_| AtomicU64::new(0)).collect(),
        oldest: AtomicU64::new(0),
        last: AtomicU64::new(0),
    })
}

fn append(memory: &Memory, writer: &mut EntryWriter) {
    let place = writer.make_room(memory, 8).unwrap();
    memory.word(place.at).store(100 + place.seq, Ordering::Relaxed);
    writer.publish(memory, place, 8, !place.seq);
}

/// Reads on: the next entry's number, or the number of missed entries.
fn read(memory: &Memory, reader: &mut EntryReader) -> Option<Result<u64, (u64, u64)>> {
    let mut value = 0;
    let step = reader.read(
        memory,
        |corrupt| corrupt,
        |found| {
            value = memory.word(found.at).load(Ordering::Relaxed);
            Ok(())
        },
    );
    Some(match step.unwrap()? {
        ReadStep::Missed(first, count) => Err((first, count)),
        ReadStep::Entry(found) => {
            assert_eq!((value, found.checksum), (100 + found.seq, !found.seq), "half an entry");
            Ok(found.seq)
        }
    })
}

fn model(work: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(work);
}

#[test]
fn a_reader_sees_whole_entries_in_order_and_the_count_of_missed_ones() {
    model(|| {
        let memory = memory();
        let mut writer = EntryWriter::resume(&*memory, CAPACITY, Trust::Memory, |_| true).unwrap();
        for _ in 0..3 {
            append(&memory, &mut writer);
        }
        let mut reader = EntryReader::at_oldest(&*memory, CAPACITY).unwrap();
        let appender = thread::spawn({
            let memory = Arc::clone(&memory);
            move || {
                for _ in 0..2 {
                    append(&memory, &mut writer);
                }
            }
        });
        let mut next = 0;
        for _ in 0..3 {
            match read(&memory, &mut reader) {
                None => break,
                Some(Ok(seq)) => {
                    assert_eq!(seq, next);
                    next += 1;
                }
                Some(Err((first, count))) => {
                    assert_eq!(first, next);
                    next += count;
                }
            }
        }
        appender.join().unwrap();
        while let Some(step) = read(&memory, &mut reader) {
            match step {
                Ok(seq) => {
                    assert_eq!(seq, next);
                    next += 1;
                }
                Err((first, count)) => {
                    assert_eq!(first, next);
                    next += count;
                }
            }
        }
        assert_eq!(next, 5, "every entry was read or missed");
    });
}

#[test]
fn a_reader_that_begins_anywhere_finds_its_entry() {
    model(|| {
        let memory = memory();
        let mut writer = EntryWriter::resume(&*memory, CAPACITY, Trust::Memory, |_| true).unwrap();
        for _ in 0..3 {
            append(&memory, &mut writer);
        }
        let appender = thread::spawn({
            let memory = Arc::clone(&memory);
            move || append(&memory, &mut writer)
        });
        let mut reader = EntryReader::at_seq(&*memory, CAPACITY, 1).unwrap();
        match read(&memory, &mut reader) {
            Some(Ok(seq)) => assert_eq!(seq, 1),
            Some(Err((first, count))) => assert_eq!((first, first + count), (1, reader.seq())),
            None => panic!("the entry was there before the reader"),
        }
        let newest = EntryReader::at_newest(&*memory, CAPACITY).unwrap();
        assert!((3..=4).contains(&newest.seq()));
        appender.join().unwrap();
    });
}
