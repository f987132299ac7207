//! The limit for dirty pages: a map whose pages cannot be written leaves memory to others, and its
//! stores fail for the reason of the failed write.

use crate::faulty::{Answer, Faulty};
use crate::given::{MIB, pager, pattern};
use crate::support::{Mounted, child_succeeds, lower_limit, skip};
use folio::source::{Function, Memory, WritableMemory};
use folio::{Error, FaultCause, Paged, Pager, WriteBack};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

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

/// Stores to page after page until a store is refused; returns how many bytes were stored.
fn fill(len: usize, mut store: impl FnMut(&[u8], usize) -> folio::Result<()>) -> (usize, Error) {
    for at in (0..len).step_by(4_096) {
        if let Err(error) = store(&[0xAB; 4_096], at) {
            return (at, error);
        }
    }
    panic!("more was stored than there is memory");
}

#[test]
fn a_map_whose_writes_never_end_delays_neither_reads_nor_writes_of_others() {
    let pager = pager(BUDGET);
    let stuck = Faulty::with_deadline(WritableMemory::new(pattern(16 * MIB)), Duration::from_secs(2));
    let mut map = pager.map_mut(Arc::clone(&stuck)).unwrap();
    let other = another(&pager);
    stuck.writes(Answer::Silence);
    let (stored, error) = fill(16 * MIB, |bytes, at| map.write_at(bytes, at));
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Deadline, "{error}");
    assert!(stored > BUDGET / 4 && stored < BUDGET / 8 * 7, "{stored}");
    read_in_full(&other);
    let good = Faulty::with_deadline(WritableMemory::new(vec![0; 8 * MIB]), Duration::from_secs(60));
    let mut written = pager.map_mut(Arc::clone(&good)).unwrap();
    for at in (0..8 * MIB).step_by(MIB) {
        written.write_at(&vec![0xCD; MIB], at).unwrap();
    }
    written.sync(.., WriteBack::Wait).unwrap();
    assert!(good.inner().contents().iter().all(|&byte| byte == 0xCD));
    assert!(map[..stored].iter().all(|&byte| byte == 0xAB), "the stored bytes are still there");
}

/// Private pages fill their part of the budget, while the spill file takes none of them; `mend` makes it
/// take them again.
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
    let (stored, error) = fill(16 * MIB, |bytes, at| map.write_at(bytes, at));
    assert_eq!(error.fault().unwrap().cause(), FaultCause::NoMemory, "{error}");
    assert!(error.to_string().contains(message), "{error}");
    assert!(stored > BUDGET / 4, "{stored}");
    read_in_full(&other);
    assert!(map[..stored].iter().all(|&byte| byte == 0xAB), "the stored bytes are still there");
    mend();
    map.write_at(&[0xEF; 4_096], stored).unwrap();
    assert!(map[..stored].iter().all(|&byte| byte == 0xAB));
    assert!(map[stored..stored + 4_096].iter().all(|&byte| byte == 0xEF));
}

#[test]
fn a_full_spill_directory_is_the_reason_of_the_refused_store() {
    let Some(mounted) = Mounted::tmpfs("size=1m") else { return skip("nothing can be mounted here") };
    let spill = mounted.path();
    let mend = || {
        let grown = std::process::Command::new("mount").args(["-o", "remount,size=64m"]).arg(spill).status();
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
