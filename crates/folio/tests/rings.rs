//! The rings of channels and logs, without processes: against a queue, killed at every store, and
//! over garbage. Random runs print their seed; `FOLIO_SEED` replays one.

#[path = "../src/shm/log/entries.rs"]
#[allow(dead_code)]
mod entries;
#[path = "../src/shm/ring/message_header.rs"]
#[allow(dead_code)]
mod message_header;
#[path = "../src/shm/channel/ring.rs"]
#[allow(dead_code)]
mod ring;

mod common;

mod atomics {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

use atomics::{AtomicU64, Ordering};
use common::random::{Random, given_seed, seed};
use entries::{EntryReader, EntryWriter, Next, Trust};
use ring::{Consumer, NoPlace, Producer};
use std::cell::Cell;
use std::collections::VecDeque;

/// A ring's memory, with two positions: head and tail, or oldest and last.
struct Memory {
    words: Vec<AtomicU64>,
    first: AtomicU64,
    second: AtomicU64,
    /// Where stores of the dead go.
    nowhere: AtomicU64,
    /// Words that the living will still ask for: each store asks for one.
    lives: Cell<usize>,
}

impl Memory {
    fn new(capacity: u64) -> Self {
        Self {
            words: (0..capacity / 8).map(|_| AtomicU64::new(0)).collect(),
            first: AtomicU64::new(0),
            second: AtomicU64::new(0),
            nowhere: AtomicU64::new(0),
            lives: Cell::new(usize::MAX),
        }
    }

    fn capacity(&self) -> u64 {
        8 * self.words.len() as u64
    }

    /// From `stores` stores on, none has any effect: as if its process had been killed.
    fn kill_after(&self, stores: usize) {
        self.lives.set(stores);
    }

    fn revive(&self) {
        self.lives.set(usize::MAX);
    }

    fn is_dead(&self) -> bool {
        self.lives.get() == 0
    }

    fn living<'a>(&'a self, word: &'a AtomicU64) -> &'a AtomicU64 {
        match self.lives.get() {
            0 => {
                self.nowhere.store(word.load(Ordering::Relaxed), Ordering::Relaxed);
                &self.nowhere
            }
            lives => {
                self.lives.set(lives - 1);
                word
            }
        }
    }

    fn word_at(&self, at: usize) -> &AtomicU64 {
        assert!(at.is_multiple_of(8), "a word at {at}");
        self.living(&self.words[at / 8])
    }

    /// Writes over one of the words and the two positions: with something near it, small, large or
    /// odd.
    fn scribble(&self, random: &mut Random, small: u64) {
        let at = random.below_u64(self.words.len() as u64 + 2) as usize;
        let word = self.words.get(at).unwrap_or([&self.first, &self.second][at % 2]);
        let near = word.load(Ordering::Relaxed);
        let new = match random.below_u64(4) {
            0 => near ^ 1 << random.below_u64(64),
            1 => random.below_u64(u64::MAX),
            2 => u64::MAX - random.below_u64(64),
            _ => random.below_u64(small) & !7,
        };
        word.store(new, Ordering::Relaxed);
    }

    fn fill(&self, at: usize, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0xEE; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word_at(at + 8 * i).store(u64::from_ne_bytes(word), Ordering::Relaxed);
        }
    }

    fn bytes(&self, at: usize, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|i| {
            assert!(at / 8 + i < self.words.len(), "a message past the ring's end");
            self.words[at / 8 + i].load(Ordering::Relaxed).to_ne_bytes()
        });
        let mut bytes: Vec<u8> = words.collect();
        bytes.truncate(len);
        bytes
    }
}

impl ring::ChannelRing for Memory {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.word_at(at)
    }

    fn head(&self) -> &AtomicU64 {
        self.living(&self.first)
    }

    fn tail(&self) -> &AtomicU64 {
        self.living(&self.second)
    }
}

impl entries::LogRing for Memory {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.word_at(at)
    }

    fn oldest(&self) -> &AtomicU64 {
        self.living(&self.first)
    }

    fn last(&self) -> &AtomicU64 {
        self.living(&self.second)
    }
}

fn with_seeds(runs: u64, work: impl Fn(&mut Random)) {
    let base = seed();
    for run in 0..if given_seed().is_some() { 1 } else { runs } {
        let seed = base.wrapping_add(run);
        let told = Told(seed);
        work(&mut Random(seed));
        std::mem::forget(told);
    }
}

/// Prints the seed when a run ends in a panic.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        eprintln!("replay with FOLIO_SEED={}", self.0);
    }
}

fn send(memory: &Memory, producer: &mut Producer, bytes: &[u8]) -> Result<(), NoPlace> {
    let place = producer.find(memory, bytes.len() as u64)?;
    memory.fill(producer.bytes_at(place), bytes);
    producer.publish(memory, place, bytes.len() as u64);
    Ok(())
}

fn receive(memory: &Memory, consumer: &mut Consumer) -> Option<Vec<u8>> {
    let found = consumer.next(memory).unwrap()?;
    let bytes = memory.bytes(found.at, found.len);
    consumer.release(memory, found);
    Some(bytes)
}

#[test]
fn a_ring_is_a_queue() {
    with_seeds(200, |random| {
        let memory = Memory::new(32 << random.below_u64(6));
        let capacity = memory.capacity();
        let mut queue = VecDeque::new();
        let mut producer = Producer::resume(&memory, capacity).unwrap();
        let mut consumer = Consumer::resume(&memory, capacity).unwrap();
        for _ in 0..500 {
            match random.below_u64(10) {
                0..5 => {
                    let most = ring::limit(capacity) + 1;
                    let len = if random.below_u64(3) == 0 {
                        random.below_u64(most)
                    } else {
                        random.below_u64(most.min(40))
                    };
                    let message = random.bytes(len as usize);
                    match send(&memory, &mut producer, &message) {
                        Ok(()) => queue.push_back(message),
                        Err(NoPlace::Until(_)) if queue.is_empty() => {
                            // It waits for the receiver to pass the end; then an empty ring takes
                            // anything.
                            assert_eq!(receive(&memory, &mut consumer), None);
                            send(&memory, &mut producer, &message).unwrap();
                            queue.push_back(message);
                        }
                        Err(NoPlace::Until(_)) => {}
                        Err(other) => panic!("{other:?}"),
                    }
                }
                5..9 => assert_eq!(receive(&memory, &mut consumer), queue.pop_front()),
                _ => match random.below_u64(3) {
                    // Reserved, and given up.
                    0 => drop(producer.find(&memory, random.below_u64(20))),
                    1 => producer = Producer::resume(&memory, capacity).unwrap(),
                    _ => consumer = Consumer::resume(&memory, capacity).unwrap(),
                },
            }
        }
    });
}

#[test]
fn batches_are_seen_together_or_not_at_all() {
    with_seeds(200, |random| {
        let memory = Memory::new(64 << random.below_u64(4));
        let capacity = memory.capacity();
        let mut queue = VecDeque::new();
        let mut producer = Producer::resume(&memory, capacity).unwrap();
        let mut consumer = Consumer::resume(&memory, capacity).unwrap();
        for _ in 0..200 {
            let mut batch = Vec::new();
            producer.begin();
            let mut whole = true;
            for _ in 0..random.below_u64(5) {
                let len = random.below_u64(30) as usize;
                let message = random.bytes(len);
                whole = loop {
                    match send(&memory, &mut producer, &message) {
                        Ok(()) => break true,
                        Err(NoPlace::Never) => break false,
                        Err(NoPlace::Until(_)) => {
                            // No message of the batch arrives.
                            let received = receive(&memory, &mut consumer);
                            assert_eq!(received, queue.pop_front());
                        }
                        Err(other) => panic!("{other:?}"),
                    }
                };
                if !whole {
                    break;
                }
                batch.push(message);
            }
            if whole && random.below_u64(4) > 0 {
                assert_eq!(producer.commit(&memory), !batch.is_empty());
                queue.extend(batch);
            } else {
                producer.abandon();
            }
            for _ in 0..random.below_u64(6) {
                assert_eq!(receive(&memory, &mut consumer), queue.pop_front());
            }
        }
    });
}

#[test]
fn a_producer_killed_at_any_store_leaves_whole_messages() {
    with_seeds(20, |random| {
        let memory = Memory::new(128);
        let mut queue: VecDeque<Vec<u8>> = VecDeque::new();
        let mut consumer = Consumer::resume(&memory, 128).unwrap();
        for round in 0..300 {
            memory.revive();
            let mut producer = Producer::resume(&memory, 128).unwrap();
            memory.kill_after(round % 40);
            // The unfinished entry of the killed writer may be there whole, or not at all.
            let mut unsure = VecDeque::new();
            let batch = random.below_u64(3) == 0;
            if batch {
                producer.begin();
            }
            while !memory.is_dead() {
                let len = random.below_u64(100) as usize;
                let message = random.bytes(len);
                match send(&memory, &mut producer, &message) {
                    Ok(()) if memory.is_dead() || batch => unsure.push_back(message),
                    Ok(()) => queue.push_back(message),
                    Err(_) => break,
                }
            }
            if batch {
                producer.commit(&memory);
                if !memory.is_dead() {
                    queue.append(&mut unsure);
                }
            }
            memory.revive();
            let mut seen = Vec::new();
            while let Some(message) = receive(&memory, &mut consumer) {
                match queue.pop_front() {
                    Some(expected) => assert_eq!(message, expected),
                    None => seen.push(message),
                }
            }
            assert!(queue.is_empty(), "a message that was sent is not there");
            assert!(
                seen.is_empty() || unsure == seen,
                "{seen:?} is neither nothing nor {unsure:?}"
            );
        }
    });
}

#[test]
fn a_consumer_killed_at_any_store_leaves_the_first_unreleased_message() {
    with_seeds(20, |random| {
        let memory = Memory::new(256);
        let mut producer = Producer::resume(&memory, 256).unwrap();
        let (mut sent, mut next) = (0_u64, 0_u64);
        for _ in 0..300 {
            while send(&memory, &mut producer, &sent.to_ne_bytes()).is_ok() {
                sent += 1;
            }
            let mut consumer = Consumer::resume(&memory, 256).unwrap();
            memory.kill_after(random.below_u64(12) as usize);
            let mut last = None;
            while !memory.is_dead() {
                let Some(found) = consumer.next(&memory).unwrap() else { break };
                let number = u64::from_ne_bytes(memory.bytes(found.at, 8).try_into().unwrap());
                last = Some(number);
                consumer.release(&memory, found);
            }
            memory.revive();
            // The last release may have come through or not; all before it did.
            let consumer = Consumer::resume(&memory, 256).unwrap();
            let mut again = consumer.clone();
            let first = again.next(&memory).unwrap().map(|found| memory.bytes(found.at, 8));
            let first = first.map_or(sent, |bytes| u64::from_ne_bytes(bytes.try_into().unwrap()));
            match last {
                Some(last) => assert!(first == last || first == last + 1, "{first} after {last}"),
                None => assert_eq!(first, next),
            }
            next = first;
        }
    });
}

#[test]
fn garbage_in_a_ring_is_an_error_or_a_message_but_never_outside() {
    with_seeds(3000, |random| {
        let memory = Memory::new(128);
        let mut producer = Producer::resume(&memory, 128).unwrap();
        let mut consumer = Consumer::resume(&memory, 128).unwrap();
        for _ in 0..40 {
            if random.below_u64(6) == 0 {
                memory.scribble(random, 300);
            }
            let len = random.below_u64(113) as usize;
            match random.below_u64(4) {
                0 => drop(send(&memory, &mut producer, &random.bytes(len))),
                1 => {
                    if let Ok(Some(found)) = consumer.next(&memory) {
                        memory.bytes(found.at, found.len);
                        consumer.release(&memory, found);
                    }
                }
                2 => {
                    if let Ok(fresh) = Producer::resume(&memory, 128) {
                        producer = fresh;
                    }
                }
                _ => {
                    if let Ok(fresh) = Consumer::resume(&memory, 128) {
                        consumer = fresh;
                    }
                }
            }
        }
    });
}

/// The sum that an entry's bytes must have.
fn checksum(seq: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(seq ^ bytes.len() as u64, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23)
    })
}

fn append(memory: &Memory, writer: &mut EntryWriter, bytes: &[u8]) -> u64 {
    let place = writer.make_room(memory, bytes.len() as u64).unwrap();
    memory.fill(place.at, bytes);
    writer.publish(memory, place, bytes.len() as u64, checksum(place.seq, bytes));
    place.seq
}

/// A writer after the machine went down, and whether it had anything to erase.
fn restarted_writer(memory: &Memory) -> (EntryWriter, bool) {
    let writer = open_writer(memory, Trust::Nothing).expect("a log that cannot be written to");
    let erased = writer.erase(memory);
    (writer, erased)
}

fn open_writer(memory: &Memory, trust: Trust) -> Result<EntryWriter, message_header::Corrupt> {
    EntryWriter::resume(memory, memory.capacity(), trust, |found| {
        checksum(found.seq, &memory.bytes(found.at, found.len)) == found.checksum
    })
}

#[derive(Debug, PartialEq)]
enum Step {
    Entry(u64, Vec<u8>),
    Missed(u64, u64),
}

fn read(memory: &Memory, reader: &mut EntryReader) -> Option<Step> {
    let mut bytes = Vec::new();
    let step = reader.read(
        memory,
        |corrupt| corrupt,
        |found| {
            bytes = memory.bytes(found.at, found.len);
            Ok(())
        },
    );
    Some(match step.unwrap()? {
        entries::ReadStep::Missed(first, count) => Step::Missed(first, count),
        entries::ReadStep::Entry(found) => {
            assert_eq!(checksum(found.seq, &bytes), found.checksum);
            Step::Entry(found.seq, bytes)
        }
    })
}

#[test]
fn a_log_keeps_its_newest_entries_for_every_reader() {
    with_seeds(200, |random| {
        let memory = Memory::new(128 << random.below_u64(5));
        let capacity = memory.capacity();
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut writer = open_writer(&memory, Trust::Memory).unwrap();
        let mut readers: Vec<(EntryReader, u64)> = Vec::new();
        for _ in 0..300 {
            match random.below_u64(8) {
                0..3 => {
                    let len = random.below_u64(entries::limit(capacity) + 1) as usize;
                    let bytes = random.bytes(len);
                    assert_eq!(append(&memory, &mut writer, &bytes), all.len() as u64);
                    all.push(bytes);
                }
                3 if readers.len() < 5 => {
                    let newest = all.len() as u64;
                    readers.push(match random.below_u64(3) {
                        0 => {
                            let reader = EntryReader::at_oldest(&memory, capacity).unwrap();
                            let seq = reader.seq();
                            // Three of any length are always there.
                            assert!(seq + 3 <= newest.max(3), "{seq} is the oldest of {newest}");
                            (reader, seq)
                        }
                        1 => (EntryReader::at_newest(&memory, capacity).unwrap(), newest),
                        _ => {
                            let seq = random.below_u64(newest + 1);
                            (EntryReader::at_seq(&memory, capacity, seq).unwrap(), seq)
                        }
                    });
                }
                4 => {
                    let trust =
                        if random.below_u64(2) == 0 { Trust::Memory } else { Trust::Nothing };
                    writer = open_writer(&memory, trust).unwrap();
                    assert_eq!(writer.seq(), all.len() as u64);
                }
                _ => {
                    for (reader, next) in &mut readers {
                        match read(&memory, reader) {
                            None => assert_eq!(*next, all.len() as u64),
                            Some(Step::Entry(seq, bytes)) => {
                                assert_eq!((seq, &bytes), (*next, &all[seq as usize]));
                                *next += 1;
                            }
                            Some(Step::Missed(first, count)) => {
                                assert!(first == *next && count > 0);
                                *next += count;
                            }
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn a_writer_killed_at_any_store_leaves_whole_entries_and_the_numbers_go_on() {
    with_seeds(20, |random| {
        let memory = Memory::new(512);
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut reader = EntryReader::at_oldest(&memory, 512).unwrap();
        let mut next = 0;
        for round in 0..300 {
            memory.revive();
            let trust = if random.below_u64(4) == 0 { Trust::Nothing } else { Trust::Memory };
            let mut writer = open_writer(&memory, trust).unwrap();
            assert_eq!(writer.seq(), all.len() as u64);
            memory.kill_after(round % 60);
            let mut unsure = None;
            while !memory.is_dead() {
                let len = random.below_u64(97) as usize;
                let bytes = random.bytes(len);
                // The entry's last store is the hint: without it the entry may be there all the
                // same.
                append(&memory, &mut writer, &bytes);
                if memory.is_dead() {
                    unsure = Some(bytes);
                } else {
                    all.push(bytes);
                }
            }
            memory.revive();
            while let Some(step) = read(&memory, &mut reader) {
                match step {
                    Step::Entry(seq, bytes) => {
                        if seq == all.len() as u64 {
                            all.push(unsure.take().expect("an entry that nobody wrote"));
                        }
                        assert_eq!((seq, &bytes), (next, &all[seq as usize]));
                        next += 1;
                    }
                    Step::Missed(first, count) => {
                        assert_eq!(first, next);
                        next += count;
                    }
                }
            }
            assert_eq!(next, all.len() as u64, "an entry that was written is not there");
        }
    });
}

#[test]
fn after_a_crash_any_pages_may_be_old_and_the_log_goes_on_with_new_numbers() {
    const CAPACITY: u64 = 1024;
    let state = |memory: &Memory| {
        let words = memory.words.iter().chain([&memory.first, &memory.second]);
        words.map(|word| word.load(Ordering::Relaxed)).collect::<Vec<u64>>()
    };
    with_seeds(500, |random| {
        let memory = Memory::new(CAPACITY);
        let mut writer = open_writer(&memory, Trust::Memory).unwrap();
        let equal = random.below_u64(2) == 0;
        // The bytes of each number: bytes that were cut off do not come back, whatever pages are
        // old.
        let mut all = std::collections::BTreeMap::<u64, Vec<u8>>::new();
        let mut lasting = state(&memory);
        for _ in 0..4 {
            let mut before = lasting;
            for _ in 0..=random.below_u64(60) {
                // Entries of one length, a page each, lie where others lay before the last crash.
                let len = if equal {
                    40
                } else {
                    random.below_u64(entries::limit(CAPACITY) + 1) as usize
                };
                let bytes = random.bytes(len);
                all.insert(append(&memory, &mut writer, &bytes), bytes);
                if random.below_u64(8) == 0 {
                    before = state(&memory);
                }
            }
            // Pages of 64 bytes; the positions are on one of their own, or garbage.
            let words = memory.words.iter().chain([&memory.first, &memory.second]);
            let (mut old, garbage) = (false, random.below_u64(4) == 0);
            for (i, (word, before)) in words.zip(before).enumerate() {
                if i.is_multiple_of(8) {
                    old = random.below_u64(3) == 0;
                }
                match (old, garbage && i < memory.words.len() && random.below_u64(3) == 0) {
                    (_, true) => word.store(random.below_u64(u64::MAX), Ordering::Relaxed),
                    (true, _) => word.store(before, Ordering::Relaxed),
                    _ => {}
                }
            }
            // One that is killed while it takes over is followed by another.
            memory.kill_after(random.below_u64(200) as usize);
            restarted_writer(&memory);
            memory.revive();
            writer = restarted_writer(&memory).0;
            // From here on, erased bytes stay erased.
            lasting = state(&memory);
            let (next, mut expected) = (writer.seq(), None);
            let last = random.bytes(40);
            assert_eq!(append(&memory, &mut writer, &last), next);
            drop(all.split_off(&next));
            all.insert(next, last);
            // A writer that is killed now leaves a log like any other.
            writer = open_writer(&memory, Trust::Memory).unwrap();
            assert_eq!(writer.seq(), next + 1);
            let mut reader = EntryReader::at_seq(&memory, CAPACITY, 0).unwrap();
            while let Some(step) = read(&memory, &mut reader) {
                match step {
                    Step::Missed(first, count) => {
                        assert!(first == 0 && expected.is_none() && count > 0);
                        expected = Some(count);
                    }
                    Step::Entry(seq, bytes) => {
                        assert_eq!(seq, expected.unwrap_or(0));
                        assert!(
                            all.get(&seq) == Some(&bytes),
                            "entry {seq} is not the one that was written last"
                        );
                        expected = Some(seq + 1);
                    }
                }
            }
            assert_eq!(expected, Some(next + 1), "the new entry is the newest");
        }
    });
}

#[test]
fn an_entry_that_was_cut_off_does_not_come_back_after_the_next_crash() {
    let memory = Memory::new(1024);
    let mut writer = open_writer(&memory, Trust::Memory).unwrap();
    for _ in 0..8 {
        append(&memory, &mut writer, &[1; 40]);
    }
    // The machine goes down, and a page of entry 5 was not written: 6 and 7 are cut off.
    memory.words[5 * 8 + 4].store(0, Ordering::Relaxed);
    let (mut writer, erased) = restarted_writer(&memory);
    assert!(erased && writer.seq() == 5);
    let lasting: Vec<u64> = memory.words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    for _ in 5..8 {
        append(&memory, &mut writer, &[2; 40]);
    }
    // It goes down again, and has written nothing since but entry 5.
    for (word, lasting) in memory.words.iter().zip(lasting).skip(6 * 8) {
        word.store(lasting, Ordering::Relaxed);
    }
    assert_eq!(restarted_writer(&memory).0.seq(), 6);
    // A log that is whole to its end has nothing to erase.
    assert!(!restarted_writer(&memory).1);
}

#[test]
fn a_log_that_begins_anew_is_empty_until_its_first_entry() {
    let memory = Memory::new(1024);
    let mut writer = open_writer(&memory, Trust::Memory).unwrap();
    for _ in 0..40 {
        append(&memory, &mut writer, b"some bytes of some length");
    }
    let old = writer.seq();
    for word in &memory.words {
        word.store(u64::MAX, Ordering::Relaxed);
    }
    let first = open_writer(&memory, Trust::Nothing).unwrap().seq();
    assert!(first >= old);
    // That writer was killed before it appended anything.
    for trust in [Trust::Nothing, Trust::Memory] {
        assert!(open_writer(&memory, trust).unwrap().seq() >= first);
    }
    let mut writer = open_writer(&memory, Trust::Memory).unwrap();
    let first = writer.seq();
    for reader in [EntryReader::at_oldest, EntryReader::at_newest] {
        let mut reader = reader(&memory, 1024).unwrap();
        assert_eq!((reader.seq(), read(&memory, &mut reader)), (first, None));
    }
    let mut early = EntryReader::at_seq(&memory, 1024, 3).unwrap();
    append(&memory, &mut writer, b"new");
    assert_eq!(read(&memory, &mut early), Some(Step::Missed(3, first - 3)));
    assert_eq!(read(&memory, &mut early), Some(Step::Entry(first, b"new".to_vec())));
}

/// A ring whose oldest and last position some process moves at each look.
struct Restless(Memory, bool);

impl entries::LogRing for Restless {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.0.word_at(at)
    }

    fn oldest(&self) -> &AtomicU64 {
        // More than a lap at a time, so that nothing that was found counts.
        self.0.first.fetch_add(2 * self.0.capacity(), Ordering::Relaxed);
        &self.0.first
    }

    fn last(&self) -> &AtomicU64 {
        if self.1 {
            self.0.second.fetch_add(8, Ordering::Relaxed);
        }
        &self.0.second
    }
}

#[test]
fn a_peer_that_moves_the_positions_all_the_time_keeps_no_reader() {
    for last_too in [false, true] {
        let memory = Restless(Memory::new(1024), last_too);
        assert!(EntryReader::at_oldest(&memory, 1024).is_err());
        assert!(EntryReader::at_newest(&memory, 1024).is_err());
        assert!(EntryReader::at_seq(&memory, 1024, 7).is_err());
    }
}

/// A ring whose oldest entry is given up whenever a reader has copied it, and is there again when
/// the reader looks for the oldest.
struct Circling {
    memory: Memory,
    behind: AtomicU64,
    looks: Cell<u32>,
}

impl entries::LogRing for Circling {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.memory.word_at(at)
    }

    fn oldest(&self) -> &AtomicU64 {
        let looks = self.looks.replace(self.looks.get() + 1);
        assert!(looks < 1_000_000, "a reader goes in circles");
        // Once to see whether the copied entry was still there, twice to find the oldest.
        if looks.is_multiple_of(3) { &self.behind } else { &self.memory.first }
    }

    fn last(&self) -> &AtomicU64 {
        &self.memory.second
    }
}

#[test]
fn a_reader_that_is_led_in_circles_gives_up() {
    let memory = Memory::new(1024);
    let mut writer = open_writer(&memory, Trust::Memory).unwrap();
    append(&memory, &mut writer, b"the oldest");
    append(&memory, &mut writer, b"another");
    let mut reader = EntryReader::at_oldest(&memory, 1024).unwrap();
    let ring = Circling { memory, behind: AtomicU64::new(1 << 20), looks: Cell::new(0) };
    let mut copies = 0;
    let step = reader.read(
        &ring,
        |corrupt| corrupt,
        |_| {
            copies += 1;
            Ok(())
        },
    );
    assert!(step.is_err() && copies > 100, "{step:?} after {copies} copies");
}

/// A ring whose writer appends at each look at the oldest position, as long as it is to.
struct Quick {
    memory: Memory,
    writer: std::cell::RefCell<EntryWriter>,
    appends: Cell<usize>,
}

impl entries::LogRing for Quick {
    fn word(&self, at: usize) -> &AtomicU64 {
        self.memory.word_at(at)
    }

    fn oldest(&self) -> &AtomicU64 {
        if self.appends.get() > 0 {
            self.appends.set(self.appends.get() - 1);
            append(&self.memory, &mut self.writer.borrow_mut(), b"sixteen bytes are");
        }
        &self.memory.first
    }

    fn last(&self) -> &AtomicU64 {
        &self.memory.second
    }
}

#[test]
fn a_reader_that_is_overtaken_on_its_way_to_an_entry_reads_or_misses_it() {
    for (appends, seq) in (0..200).flat_map(|appends| (0..60).map(move |seq| (appends, seq))) {
        let memory = Memory::new(1024);
        let mut writer = open_writer(&memory, Trust::Memory).unwrap();
        for _ in 0..50 {
            append(&memory, &mut writer, b"sixteen bytes are");
        }
        let quick = Quick { memory, writer: writer.into(), appends: Cell::new(appends) };
        let mut reader = EntryReader::at_seq(&quick, 1024, seq).unwrap();
        quick.appends.set(0);
        let (mut next, end) = (reader.seq(), quick.writer.borrow().seq());
        assert!(next == seq || seq >= 50, "{appends} appends: at {next}, not at {seq}");
        while let Some(step) = read(&quick.memory, &mut reader) {
            match step {
                Step::Missed(first, count) => {
                    assert_eq!(first, next);
                    next += count;
                }
                Step::Entry(found, _) => {
                    assert_eq!(found, next);
                    next += 1;
                }
            }
        }
        assert_eq!(next, end, "{appends} appends, from {seq}");
    }
}

#[test]
fn garbage_in_a_log_is_an_error_or_an_entry_but_never_outside() {
    with_seeds(3000, |random| {
        let memory = Memory::new(256);
        let mut writer = open_writer(&memory, Trust::Memory).unwrap();
        let mut reader = EntryReader::at_oldest(&memory, 256).unwrap();
        for _ in 0..60 {
            if random.below_u64(8) == 0 {
                memory.scribble(random, 600);
            }
            let len = random.below_u64(33) as usize;
            match random.below_u64(6) {
                0 | 1 => {
                    let bytes = random.bytes(len);
                    if let Ok(place) = writer.make_room(&memory, len as u64) {
                        memory.fill(place.at, &bytes);
                        writer.publish(&memory, place, len as u64, checksum(place.seq, &bytes));
                    }
                }
                2 | 3 => match reader.next(&memory) {
                    Ok(Next::Entry(found)) => {
                        memory.bytes(found.at, found.len);
                        let _ = reader.confirm(&memory, &found);
                    }
                    Ok(Next::Overtaken) => drop(reader.catch_up(&memory)),
                    _ => {}
                },
                4 => {
                    let trust =
                        if random.below_u64(2) == 0 { Trust::Memory } else { Trust::Nothing };
                    if let Ok(fresh) = open_writer(&memory, trust) {
                        writer = fresh;
                    }
                }
                _ => {
                    let fresh = match random.below_u64(3) {
                        0 => EntryReader::at_oldest(&memory, 256),
                        1 => EntryReader::at_newest(&memory, 256),
                        _ => EntryReader::at_seq(&memory, 256, random.below_u64(20)),
                    };
                    if let Ok(fresh) = fresh {
                        reader = fresh;
                    }
                }
            }
        }
    });
}
