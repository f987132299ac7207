//! Logs: entries that stay, numbers that go on, and the report to a reader that is too slow.

use crate::bell::is_readable;
use crate::common::effort::scaled;
use crate::common::kill_sweep::Victim;
use crate::common::random::Random;
use crate::common::segment_dir::World;
use crate::common::{End, child_succeeds, disk_dir, in_child, is_in_memory, spawn_child, wait};
use crate::payload::{fails_with, message, whole};
use folio::Errno;
use folio::shm::{Log, LogOptions, LogReader, Read, SegmentOptions, Start, Wait};
use std::future::Future;
use std::io::{Read as _, Write};
use std::os::unix::fs::FileExt;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn entry(reader: &mut LogReader) -> (u64, Vec<u8>) {
    let mut bytes = Vec::new();
    match reader.next(&mut bytes).unwrap() {
        Read::Entry(seq) => (seq, bytes),
        missed @ Read::Missed { .. } => panic!("{missed:?}"),
    }
}

#[test]
fn every_reader_reads_from_any_point_again_and_again() {
    let log = Log::anonymous(1 << 12).unwrap();
    let mut writer = log.writer().unwrap();
    for number in 0..20_u64 {
        assert_eq!(writer.append(&number.to_ne_bytes()).unwrap(), number);
    }
    let read = |start, from: u64| {
        let mut reader = log.reader(start).unwrap();
        for number in from..20 {
            assert_eq!(entry(&mut reader), (number, u64::to_ne_bytes(number).to_vec()));
        }
        assert_eq!(reader.try_next(&mut Vec::new()).unwrap(), None);
        reader
    };
    for _ in 0..3 {
        read(Start::Oldest, 0);
        read(Start::At(7), 7);
        read(Start::Newest, 20);
    }
    child_succeeds(|| drop(read(Start::Oldest, 0)));
    let mut reader = read(Start::At(19), 19);
    reader.seek(Start::At(3)).unwrap();
    assert_eq!((reader.next_seq(), entry(&mut reader).0), (3, 3));
    reader.seek(Start::Newest).unwrap();
    writer.append(b"new").unwrap();
    assert_eq!(entry(&mut reader), (20, b"new".to_vec()));
}

#[test]
fn a_slow_reader_learns_exactly_how_many_it_missed() {
    let log = Log::anonymous(1 << 10).unwrap();
    let mut writer = log.writer().unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    let mut from_four = log.reader(Start::Oldest).unwrap();
    for number in 0..1000 {
        writer.append(&message(0, number, 100)).unwrap();
    }
    from_four.seek(Start::At(4)).unwrap();
    for (reader, first) in [(&mut reader, 0), (&mut from_four, 4)] {
        let mut bytes = Vec::new();
        let Read::Missed { first: missed, count } = reader.next(&mut bytes).unwrap() else {
            panic!("a log of 1 KiB holds 1000 entries")
        };
        assert_eq!(missed, first);
        for number in first + count..1000 {
            let (seq, bytes) = entry(reader);
            assert_eq!((seq, whole(&bytes, 100)), (number, (0, number)));
        }
        assert_eq!(reader.try_next(&mut bytes).unwrap(), None);
        assert!(count < 1000 - first, "the newest are there");
    }
}

#[test]
fn a_reader_beside_a_quick_writer_reads_or_misses_each_entry_once() {
    let log = Log::anonymous(1 << 12).unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    let (pid, _messages) = spawn_child(|| {
        let mut writer = log.writer().unwrap();
        for number in 0..30_000 {
            writer.append(&message(0, number, 300)).unwrap();
        }
    });
    let (mut next, mut read, mut missed, mut bytes) = (0, 0, 0, Vec::new());
    while next < 30_000 {
        match reader.next(&mut bytes).unwrap() {
            Read::Entry(seq) => {
                assert_eq!((seq, whole(&bytes, 300)), (next, (0, next)));
                next += 1;
                read += 1;
            }
            Read::Missed { first, count } => {
                assert!(first == next && count > 0);
                next += count;
                missed += count;
            }
        }
    }
    assert_eq!((read + missed, next), (30_000, 30_000));
    assert!(read > 0);
    assert_eq!(wait(pid), End::Exited(0));
    fails_with(reader.next(&mut bytes), Errno::PIPE, "the writer has left");
}

#[test]
fn entries_have_a_limit_and_no_bytes_are_an_entry() {
    let log = Log::anonymous(1 << 10).unwrap();
    let mut writer = log.writer().unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    assert_eq!((log.max_entry_len(), writer.max_entry_len()), (224, 224));
    for len in (0..=224).chain((0..=224).rev()) {
        let seq = writer.append(&vec![len as u8; len]).unwrap();
        assert_eq!(entry(&mut reader), (seq, vec![len as u8; len]));
    }
    fails_with(writer.append(&[0; 225]), Errno::MSGSIZE, "at most 224 bytes");
    assert_eq!(reader.try_next(&mut Vec::new()).unwrap(), None);
}

#[test]
fn after_a_restart_the_history_is_there_and_the_numbers_go_on() {
    let dir = disk_dir();
    let path = dir.path().join("log");
    for run in 0..3_u64 {
        child_succeeds(|| {
            let mut writer = Log::open_or_create_file(&path, 1 << 14).unwrap().writer().unwrap();
            assert_eq!(writer.next_seq(), 10 * run);
            for number in 0..10 {
                assert_eq!(
                    writer.append(&message(0, 10 * run + number, 100)).unwrap(),
                    10 * run + number
                );
            }
            writer.sync().unwrap();
        });
        let mut reader =
            Log::open_or_create_file(&path, 1 << 14).unwrap().reader(Start::Oldest).unwrap();
        for number in 0..10 * (run + 1) {
            let (seq, bytes) = entry(&mut reader);
            assert_eq!((seq, whole(&bytes, 100)), (number, (0, number)));
        }
        fails_with(reader.next(&mut Vec::new()), Errno::PIPE, "the writer has left");
    }
}

#[test]
fn a_named_log_stays_when_nobody_uses_it_unless_it_is_said_otherwise() {
    let world = World::new();
    Log::create("kept", 1024).unwrap().writer().unwrap().append(b"still here").unwrap();
    assert_eq!(
        entry(&mut Log::open("kept").unwrap().reader(Start::Oldest).unwrap()).1,
        b"still here"
    );
    let brief = LogOptions::new().segment(SegmentOptions::new()).create("brief").unwrap();
    drop(brief);
    assert_eq!(world.files(), ["folio.kept"]);
}

/// The bytes of a log's file from its data on: the control page, then the ring.
fn data_at(size: u64, ring: u64) -> u64 {
    size - ring - 4096
}

#[test]
fn after_the_machine_went_down_the_log_ends_before_the_first_torn_entry() {
    let dir = disk_dir();
    for torn in 0..8 {
        let path = dir.path().join(format!("log-{torn}"));
        let log = Log::open_or_create_file(&path, 1 << 12).unwrap();
        let mut writer = log.writer().unwrap();
        for number in 0..8_u64 {
            writer.append(&[number as u8 + 1; 40]).unwrap();
        }
        drop((writer, log));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let data = data_at(file.metadata().unwrap().len(), 1 << 12);
        // The page of entry `torn` was not written, and the machine is another one since.
        file.write_all_at(&[0xEE], data + 4096 + torn * 64 + 30).unwrap();
        file.write_all_at(&[0; 8], data + 3 * 128 + 8).unwrap();
        let log = Log::open_or_create_file(&path, 1 << 12).unwrap();
        let mut reader = log.reader(Start::At(torn)).unwrap();
        fails_with(reader.next(&mut Vec::new()), Errno::BADMSG, "checksum");
        if torn == 0 {
            // The others are whole, and the first was missed.
            let mut writer = log.writer().unwrap();
            assert_eq!(writer.append(b"goes on").unwrap(), 8);
            let mut reader = log.reader(Start::At(0)).unwrap();
            let missed = reader.next(&mut Vec::new()).unwrap();
            assert_eq!(missed, Read::Missed { first: 0, count: 1 });
            for number in 1..8_u64 {
                assert_eq!(entry(&mut reader), (number, vec![number as u8 + 1; 40]));
            }
            assert_eq!(entry(&mut reader), (8, b"goes on".to_vec()));
            continue;
        }
        let mut writer = log.writer().unwrap();
        assert_eq!(writer.next_seq(), torn);
        if !is_in_memory(dir.path()) {
            // No part of the bytes that were cut off can come back.
            let mut rest = vec![1; 4096 - 64 * torn as usize];
            file.read_exact_at(&mut rest, data + 4096 + 64 * torn).unwrap();
            assert!(rest.iter().all(|&byte| byte == 0), "something is left behind entry {torn}");
        }
        writer.append(b"goes on").unwrap();
        let mut reader = log.reader(Start::Oldest).unwrap();
        for number in 0..torn {
            assert_eq!(entry(&mut reader), (number, vec![number as u8 + 1; 40]));
        }
        assert_eq!(entry(&mut reader), (torn, b"goes on".to_vec()));
        assert_eq!(reader.try_next(&mut Vec::new()).unwrap(), None);
    }
}

#[test]
fn a_second_writer_is_refused_while_the_first_lives() {
    let log = Log::anonymous(1 << 12).unwrap();
    let writer = log.writer().unwrap();
    let held = format!("process {}", std::process::id());
    child_succeeds(|| fails_with(log.writer(), Errno::BUSY, &held));
    fails_with(log.writer(), Errno::BUSY, "which is this one");
    drop(writer);
    child_succeeds(|| assert_eq!(log.writer().unwrap().append(b"mine").unwrap(), 0));
    let victim = Victim::new(|| {
        let mut writer = log.writer().unwrap();
        writer.append(b"the victim's").unwrap();
        loop {
            std::thread::sleep(PATIENCE);
        }
    });
    let mut reader = log.reader(Start::At(1)).unwrap();
    reader.set_wait(Wait::new().timeout(PATIENCE));
    let started = Instant::now();
    let mut bytes = Vec::new();
    while let Err(error) = reader.next(&mut bytes) {
        // Its first act is to take the place of the process that left.
        assert!(error.errno() == Errno::PIPE && started.elapsed() < PATIENCE, "{error}");
    }
    fails_with(log.writer(), Errno::BUSY, &format!("process {}", victim.pid()));
    victim.shoot();
    fails_with(reader.next(&mut bytes), Errno::PIPE, "the writer has died");
    assert_eq!(log.writer().unwrap().next_seq(), 2);
    drop(victim);
}

#[test]
fn readers_that_sleep_are_woken() {
    let log = Log::anonymous(1 << 12).unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| {
            let log = &log;
            spawn_child(move || {
                let mut reader = log.reader(Start::Oldest).unwrap();
                reader.set_wait(Wait::new().spin(0).timeout(PATIENCE));
                for number in 0..200_u64 {
                    let (seq, bytes) = entry(&mut reader);
                    assert_eq!((seq, bytes.as_slice()), (number, &number.to_ne_bytes()[..]));
                }
                assert!(reader.parks() > 10, "{} parks", reader.parks());
            })
        })
        .collect();
    let mut writer = log.writer().unwrap();
    for number in 0..200_u64 {
        std::thread::sleep(Duration::from_micros(300));
        writer.append(&number.to_ne_bytes()).unwrap();
    }
    for (pid, _) in children {
        assert_eq!(wait(pid), End::Exited(0));
    }
    let mut reader = log.reader(Start::Newest).unwrap();
    reader.set_wait(Wait::new().timeout(Duration::from_millis(30)));
    fails_with(reader.next(&mut Vec::new()), Errno::TIMEDOUT, "next");
}

#[test]
fn a_writer_killed_at_any_instruction_leaves_whole_entries_and_numbers_go_on() {
    let mut random = Random::announced();
    let dir = disk_dir();
    let path = dir.path().join("log");
    let log = Log::open_or_create_file(&path, 1 << 13).unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    reader.set_wait(Wait::new().timeout(PATIENCE));
    let (mut next, mut bytes, mut read) = (0, Vec::new(), 0_u64);
    for kill in 0..scaled(300) {
        let victim = Victim::new(|| {
            let mut writer = log.writer().unwrap();
            loop {
                let number = writer.next_seq();
                assert_eq!(writer.append(&message(0, number, 400)).unwrap(), number);
            }
        });
        let mut take = |result: Read, bytes: &[u8]| match result {
            Read::Entry(seq) => {
                assert_eq!((seq, whole(bytes, 400)), (next, (0, next)));
                next += 1;
                read += 1;
            }
            Read::Missed { first, count } => {
                assert_eq!(first, next);
                next += count;
            }
        };
        let started = Instant::now();
        loop {
            match reader.next(&mut bytes) {
                Ok(result) => break take(result, &bytes),
                // The one before it has died, and this one has not begun.
                Err(error) => {
                    assert!(
                        error.errno() == Errno::PIPE && started.elapsed() < PATIENCE,
                        "{error}"
                    );
                }
            }
        }
        random.pass(300);
        assert!(victim.kill(), "the writer ended by itself");
        let end = loop {
            match reader.next(&mut bytes) {
                Ok(result) => take(result, &bytes),
                Err(error) => break error,
            }
        };
        assert!(end.errno() == Errno::PIPE && end.to_string().contains("has died"), "{end}");
        // All entries from the oldest on are whole, and the next number follows the last one.
        if kill % 10 == 0 {
            let mut again = log.reader(Start::Oldest).unwrap();
            let mut seq = again.next_seq();
            while let Ok(Some(result)) = again.try_next(&mut bytes) {
                assert_eq!((result, whole(&bytes, 400)), (Read::Entry(seq), (0, seq)));
                seq += 1;
            }
            assert_eq!(seq, next);
            assert_eq!(log.writer().unwrap().next_seq(), next);
        }
    }
    assert!(read > scaled(300), "{read} entries were read");
}

#[test]
fn in_a_forked_child_the_parents_writer_is_refused_and_a_reader_reads_on() {
    let log = Log::anonymous(1 << 12).unwrap();
    let mut writer = log.writer().unwrap();
    let mut reader = log.reader(Start::Oldest).unwrap();
    writer.append(b"one").unwrap();
    writer.append(b"two").unwrap();
    assert_eq!(entry(&mut reader).1, b"one");
    child_succeeds(|| {
        // SAFETY: the child ends without dropping the original.
        let mut writer = unsafe { std::ptr::read(&raw const writer) };
        fails_with(writer.append(b"no"), Errno::PERM, "forked child");
        drop(writer);
        fails_with(log.writer(), Errno::BUSY, "");
        assert_eq!(entry(&mut reader).1, b"two");
    });
    assert_eq!(entry(&mut reader).1, b"two");
    assert_eq!(writer.append(b"three").unwrap(), 2);
}

#[test]
fn garbage_in_a_log_is_an_error_and_never_a_panic() {
    let mut random = Random::announced();
    let world = World::new();
    let (mut wrong, mut right) = (0, 0);
    for round in 0..scaled(400) {
        let name = format!("garbage-{round}");
        let log =
            LogOptions::new().bytes(1 << 10).segment(SegmentOptions::new()).create(&name).unwrap();
        let (mut writer, mut reader) = (log.writer().unwrap(), log.reader(Start::Oldest).unwrap());
        reader.set_wait(Wait::new().timeout(Duration::from_millis(1)));
        let file = std::fs::OpenOptions::new().write(true).open(world.file(&name)).unwrap();
        let size = file.metadata().unwrap().len();
        let data = data_at(size, 1 << 10);
        let mut bytes = Vec::new();
        for step in 0..30 {
            if step % 3 == 2 {
                let at = match random.below_u64(3) {
                    0 => data + 128 * random.below_u64(6),
                    _ => data + 4096 + random.below_u64(1 << 10),
                };
                file.write_all_at(&random.garbage().to_ne_bytes(), at.min(size - 8)).unwrap();
            }
            let results = [
                writer.append(&message(0, step, 100)).map(drop),
                reader.next(&mut bytes).map(drop),
                writer.append(&message(0, step, 200)).map(drop),
                reader.try_next(&mut bytes).map(drop),
                reader.seek([Start::Oldest, Start::Newest, Start::At(step)][step as usize % 3]),
            ];
            for result in results {
                match result {
                    Ok(()) => right += 1,
                    Err(error) => {
                        wrong += 1;
                        let known = [Errno::BADMSG, Errno::PIPE, Errno::TIMEDOUT];
                        assert!(known.contains(&error.errno()), "{error}");
                    }
                }
            }
            if step == 20 {
                drop(writer);
                let Ok(next) = log.writer() else { break };
                writer = next;
            }
        }
    }
    assert!(wrong > 100 && right > 100, "{wrong} errors, {right} successes");
}

#[test]
fn a_log_that_is_truncated_is_an_error_for_both() {
    let dir = disk_dir();
    let path = dir.path().join("log");
    let log = Log::open_or_create_file(&path, 1 << 14).unwrap();
    let (mut writer, mut reader) = (log.writer().unwrap(), log.reader(Start::Oldest).unwrap());
    writer.append(&[1; 4000]).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let size = file.metadata().unwrap().len();
    file.set_len(size - (1 << 14) + 2048).unwrap();
    file.set_len(size - (1 << 14)).unwrap();
    assert!(reader.next(&mut Vec::new()).is_err(), "read from nothing");
    assert!((0..4).any(|_| writer.append(&[2; 4000]).is_err()), "appended to nothing");
    let end = in_child(|| assert!(Log::open("x").is_err()));
    assert_eq!(end, End::Exited(0));
}

#[test]
fn a_log_is_passed_over_a_socket() {
    let (here, there) = std::os::unix::net::UnixStream::pair().unwrap();
    let (pid, _messages) = spawn_child(|| {
        let mut writer = Log::receive_from(&there).unwrap().writer().unwrap();
        assert_eq!(writer.append(b"from afar").unwrap(), 1);
    });
    let log = Log::anonymous(1 << 12).unwrap();
    log.writer().unwrap().append(b"from here").unwrap();
    log.send_to(&here).unwrap();
    assert_eq!(wait(pid), End::Exited(0));
    let mut reader = log.reader(Start::Oldest).unwrap();
    assert_eq!(entry(&mut reader), (0, b"from here".to_vec()));
    assert_eq!(entry(&mut reader), (1, b"from afar".to_vec()));
    folio::shm::Channel::anonymous(256).unwrap().send_to(&here).unwrap();
    fails_with(Log::receive_from(&there), Errno::INVAL, "channel");
}

#[test]
fn the_bell_of_a_reader_that_goes_elsewhere_is_readable() {
    let log = Log::anonymous(1 << 12).unwrap();
    log.writer().unwrap().append(b"an old entry").unwrap();
    let (mut reader, mut bytes) = (log.reader(Start::Newest).unwrap(), Vec::new());
    for _ in 0..10 {
        reader.poll_fd().unwrap();
        assert_eq!(reader.try_next(&mut bytes).unwrap(), None);
        reader.seek(Start::Oldest).unwrap();
        assert!(is_readable(reader.poll_fd().unwrap(), Duration::ZERO));
        assert_eq!(reader.try_next(&mut bytes).unwrap(), Some(Read::Entry(0)));
    }
}

#[test]
fn a_future_that_is_polled_after_the_writer_has_died_says_so() {
    let log = Log::anonymous(1 << 12).unwrap();
    let (mut out, mut told) = std::io::pipe().unwrap();
    let victim = Victim::new(|| {
        let _writer = log.writer().unwrap();
        told.write_all(&[1]).unwrap();
        std::thread::sleep(Duration::from_secs(60));
    });
    out.read_exact(&mut [0]).unwrap();
    let (mut reader, mut bytes) = (log.reader(Start::Newest).unwrap(), Vec::new());
    let mut future = pin!(reader.next_async(&mut bytes));
    let mut context = Context::from_waker(Waker::noop());
    assert!(future.as_mut().poll(&mut context).is_pending());
    assert!(victim.kill());
    // Whatever has woken it: nothing else will.
    match future.as_mut().poll(&mut context) {
        Poll::Ready(end) => fails_with(end, Errno::PIPE, "the writer has died"),
        Poll::Pending => panic!("it waits for a dead one"),
    }
}

#[test]
fn a_log_file_is_made_once_and_opened_only_where_it_is() {
    let dir = disk_dir();
    let path = dir.path().join("log");
    fails_with(Log::open_file(&path), Errno::NOENT, "log");
    let made = Log::create_file(&path, 1 << 12).unwrap();
    fails_with(Log::create_file(&path, 1 << 12), Errno::EXIST, "log");
    made.writer().unwrap().append(b"by its path").unwrap();
    let opened = Log::open_file(&path).unwrap();
    assert_eq!(entry(&mut opened.reader(Start::Oldest).unwrap()), (0, b"by its path".to_vec()));
}
