//! The limit for dirty pages: a map whose pages cannot be written leaves memory to others, and its
//! stores fail for the reason of the failed write.

use crate::common::{End, Mounted, child_succeeds, in_child, lower_limit, skip};
use crate::failing::{cause, writable};
use crate::faulty::{Answer, Faulty};
use crate::given::{MIB, is_all, pager, pattern};
use folio::source::{Function, Memory, WritableMemory};
use folio::{Error, FaultCause, Paged, PagedMut, Pager, WriteBack};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUDGET: usize = 4 * MIB;

/// A map that is only read.
fn another(pager: &Pager) -> Paged {
    let source = Faulty::with_deadline(Memory::from(pattern(16 * MIB)), Duration::from_secs(60));
    pager.map(source).unwrap()
}

fn read_in_full(map: &Paged) {
    let mut bytes = vec![0; 16 * MIB];
    map.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(16 * MIB));
}

/// Stores to page after page until a store is refused; returns the stored bytes and the refusal.
fn fill_with_dirt(map: &mut PagedMut) -> (usize, Error) {
    for at in (0..map.len()).step_by(4_096) {
        if let Err(error) = map.write_at(&[0xAB; 4_096], at) {
            return (at, error);
        }
    }
    panic!("more was stored than there is memory");
}

#[test]
fn unwritable_dirty_pages_that_fill_the_budget_are_an_error_and_not_lost() {
    let source =
        Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(1));
    let mut map = pager(4 * MIB).map_mut(Arc::clone(&source)).unwrap();
    source.writes(Answer::Error);
    let (stored, error) = fill_with_dirt(&mut map);
    assert!(error.fault().is_some() && stored > MIB, "{stored}: {error}");
    source.writes(Answer::Good);
    // Writes that were under way still fail, and are said to have.
    while let Err(refused) = map.close() {
        assert_eq!(cause(&refused.error), FaultCause::NotWritten, "{refused}");
        map = refused.map;
    }
    let bytes = source.inner().contents();
    assert!(is_all(&bytes[..stored], 0xAB));
    assert!(bytes[stored + 4_096..] == pattern(16 * MIB)[stored + 4_096..]);
}

#[test]
fn a_budget_that_is_full_of_dirty_pages_is_said_to_be_so() {
    let source =
        Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(1));
    let mut map = pager(4 * MIB).map_mut(Arc::clone(&source)).unwrap();
    source.writes(Answer::Error);
    let (_, error) = fill_with_dirt(&mut map);
    assert_eq!(cause(&error), FaultCause::NoMemory, "{error}");
    assert!(
        error.to_string().contains("the write-back of dirty pages failed"),
        "the cause is named: {error}"
    );
    source.writes(Answer::Good);
}

#[test]
fn a_map_that_cannot_be_written_leaves_memory_for_reads_of_others() {
    let budget = 4 * MIB;
    let full =
        Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(2));
    let other = Faulty::with_deadline(Memory::from(pattern(16 * MIB)), Duration::from_secs(30));
    let pager = pager(budget);
    let mut map = pager.map_mut(Arc::clone(&full)).unwrap();
    let read = pager.map(Arc::clone(&other)).unwrap();
    full.writes(Answer::Full);
    let (stored, error) = fill_with_dirt(&mut map);
    assert_eq!(cause(&error), FaultCause::NoMemory, "{error}");
    assert!(error.to_string().contains("No space left on device"), "{error}");
    assert!(stored > budget / 4 && stored < budget / 8 * 7, "{stored}");
    let mut bytes = vec![0; 16 * MIB];
    let start = Instant::now();
    read.read_at(&mut bytes, 0).unwrap();
    assert!(bytes == pattern(16 * MIB), "another map is read in full");
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "within its deadline: {:?}",
        start.elapsed()
    );
    // The stored pages are there, and so are the earlier bytes of the page that was not stored.
    let mut page = [0; 4_096];
    map.read_at(&mut page, stored).unwrap();
    assert!(page[..] == pattern(16 * MIB)[stored..stored + 4_096]);
    assert!(is_all(&map[..stored], 0xAB));
    // Another map is still written.
    let good = writable(MIB);
    let mut written = pager.map_mut(Arc::clone(&good)).unwrap();
    written.write_at(&[0xCD; 4_096], 0).unwrap();
    written.sync(.., WriteBack::Wait).unwrap();
    assert!(is_all(&good.inner().contents()[..4_096], 0xCD));
    // With space, stores go on.
    full.writes(Answer::Good);
    map.write_at(&[0xEF; 4_096], stored).unwrap();
    map.close().unwrap();
    assert!(is_all(&full.inner().contents()[stored..stored + 4_096], 0xEF));
}

#[test]
fn a_store_over_the_limit_is_a_signal_that_names_the_failed_write() {
    let end = in_child(|| {
        let full =
            Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(1));
        let mut map = pager(4 * MIB).map_mut(Arc::clone(&full)).unwrap();
        full.writes(Answer::Full);
        map.fill(9);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn a_map_whose_writes_never_end_delays_neither_reads_nor_writes_of_others() {
    let pager = pager(BUDGET);
    let stuck =
        Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(2));
    let mut map = pager.map_mut(Arc::clone(&stuck)).unwrap();
    let other = another(&pager);
    stuck.writes(Answer::Silence);
    let (stored, error) = fill_with_dirt(&mut map);
    assert_eq!(cause(&error), FaultCause::Deadline, "{error}");
    assert!(stored > BUDGET / 4 && stored < BUDGET / 8 * 7, "{stored}");
    read_in_full(&other);
    let good =
        Faulty::with_deadline(WritableMemory::new(vec![0; 8 * MIB]), Duration::from_secs(60));
    let mut written = pager.map_mut(Arc::clone(&good)).unwrap();
    for at in (0..8 * MIB).step_by(MIB) {
        written.write_at(&vec![0xCD; MIB], at).unwrap();
    }
    written.sync(.., WriteBack::Wait).unwrap();
    assert!(is_all(&good.inner().contents(), 0xCD));
    assert!(is_all(&map[..stored], 0xAB), "the stored bytes are still there");
}

/// Private pages fill their part of the budget, while the spill file takes none of them; `mend`
/// makes it take them again.
fn assert_spill_error_is_named(
    spill_dir: &Path,
    message: &str,
    break_it: impl FnOnce(),
    mend: impl FnOnce(),
) {
    let pager = Pager::builder().budget(BUDGET).spill_dir(spill_dir).build().unwrap();
    let ones = Function::new("ones", 16 * MIB as u64, |_, buffer: &mut [u8]| {
        buffer.fill(1);
        Ok(())
    });
    let mut map = pager.map_private(ones.deadline(Duration::from_secs(2))).unwrap();
    let other = another(&pager);
    break_it();
    let (stored, error) = fill_with_dirt(&mut map);
    assert_eq!(cause(&error), FaultCause::NoMemory, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(stored > BUDGET / 4, "{stored}");
    read_in_full(&other);
    assert!(is_all(&map[..stored], 0xAB), "the stored bytes are still there");
    mend();
    map.write_at(&[0xEF; 4_096], stored).unwrap();
    assert!(is_all(&map[..stored], 0xAB));
    assert!(is_all(&map[stored..stored + 4_096], 0xEF));
}

#[test]
fn a_full_spill_directory_is_the_reason_of_the_refused_store() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else {
        return skip("nothing can be mounted here");
    };
    let spill = mounted.path();
    let mend = || {
        let grown = std::process::Command::new("mount")
            .args(["-o", "remount,size=64m"])
            .arg(spill)
            .status();
        assert!(grown.unwrap().success());
    };
    assert_spill_error_is_named(spill, "No space left on device", || (), mend);
}

#[test]
fn a_spill_file_that_cannot_be_opened_is_the_reason_of_the_refused_store() {
    child_succeeds(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut files = Vec::new();
        let break_it = || {
            lower_limit(libc::RLIMIT_NOFILE, 256);
            files.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
        };
        let mend = || lower_limit(libc::RLIMIT_NOFILE, 512);
        assert_spill_error_is_named(dir.path(), "Too many open files", break_it, mend);
    });
}
