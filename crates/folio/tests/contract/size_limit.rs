//! RLIMIT_FSIZE: a file that would become longer than the process may make one is an error (EFBIG)
//! on every thread. The kernel's signal for it (SIGXFSZ, which ends the process) never arrives.

use crate::common::{child_succeeds, disk_dir, file_with, lower_limit, page, pattern};
use folio::shm::SegmentOptions;
use folio::source::{LocalFile, Source, WriteRequest};
use folio::{Errno, FileMapMut, Pager, Sealed, SharedMem};
use std::sync::atomic::{AtomicUsize, Ordering};

const LIMIT: u64 = 1 << 16;

/// Runs `work` in a child with a limit of 64 KiB.
fn limited(work: impl FnOnce(&std::path::Path)) {
    let dir = disk_dir();
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_FSIZE, LIMIT);
        work(dir.path());
    });
}

/// folio's errors, and those of its sources.
trait Numbered: std::fmt::Display {
    fn number(&self) -> Option<Errno>;
}

impl Numbered for folio::Error {
    fn number(&self) -> Option<Errno> {
        Some(self.errno())
    }
}

impl Numbered for std::io::Error {
    fn number(&self) -> Option<Errno> {
        Errno::from_io_error(self)
    }
}

#[track_caller]
fn assert_too_large<T>(result: Result<T, impl Numbered>) {
    let Err(error) = result else { panic!("the limit was not kept") };
    assert_eq!(error.number(), Some(Errno::FBIG), "{error}");
}

/// Whether SIGXFSZ waits for this thread, and whether the thread has it blocked.
fn waits_and_is_blocked() -> (bool, bool) {
    // SAFETY: zeroes are valid sets, which the calls fill.
    unsafe {
        let mut waiting: libc::sigset_t = std::mem::zeroed();
        let mut blocked: libc::sigset_t = std::mem::zeroed();
        assert_eq!(libc::sigpending(&raw mut waiting), 0);
        assert_eq!(libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &raw mut blocked), 0);
        let has = |set: &libc::sigset_t| libc::sigismember(set, libc::SIGXFSZ) == 1;
        (has(&waiting), has(&blocked))
    }
}

fn block() {
    // SAFETY: zeroes are a valid set.
    unsafe {
        let mut only: libc::sigset_t = std::mem::zeroed();
        libc::sigaddset(&raw mut only, libc::SIGXFSZ);
        assert_eq!(
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut()),
            0
        );
    }
}

#[test]
fn a_file_that_is_created_for_a_map_beyond_the_limit_is_efbig() {
    limited(|dir| {
        assert_too_large(FileMapMut::create(dir.join("large"), LIMIT + 1));
        FileMapMut::create(dir.join("small"), LIMIT).unwrap();
    });
}

#[test]
fn a_map_that_is_made_longer_than_the_limit_is_efbig() {
    limited(|dir| {
        let path = file_with(dir, &pattern(1));
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        assert_too_large(LocalFile::from_file(file).unwrap().resize(LIMIT + 1));
        assert_too_large(LocalFile::create(dir.join("large"), LIMIT + 1));
    });
}

#[test]
fn memory_that_is_a_file_is_efbig_beyond_the_limit() {
    let large = 2 * LIMIT as usize;
    limited(|_| assert_too_large(SharedMem::memfd("large", large)));
    limited(|_| assert_too_large(Sealed::build(large, |_| ())));
    limited(|_| assert_too_large(SegmentOptions::new().count(large).anonymous::<[u8]>()));
}

#[test]
fn a_pager_starts_under_a_limit_of_zero_and_maps_or_says_efbig() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_FSIZE, 0);
        match Pager::builder().budget(8 << 20).build().unwrap().map(LocalFile::open(&path).unwrap())
        {
            Ok(map) => assert_eq!(map[..], pattern(4)[..]),
            // Where faults come as signals, the map is of a memfd, which is a file too.
            refused => assert_too_large(refused),
        }
    });
}

#[test]
fn a_write_of_a_local_file_on_the_callers_thread_is_efbig_beyond_the_limit() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &vec![1; 4 * LIMIT as usize]);
    let file = LocalFile::open_writable(&path).unwrap();
    // A forked child has none of the file's threads: the caller writes.
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_FSIZE, LIMIT);
        let (ended, end) = std::sync::mpsc::channel();
        let bytes = vec![2; page()].into_boxed_slice();
        file.write(vec![WriteRequest::of_buffer(2 * LIMIT, bytes, move |_, result| {
            ended.send(result).unwrap();
        })]);
        assert_too_large(end.recv().unwrap());
    });
}

#[test]
fn a_call_beyond_the_limit_leaves_no_signal_and_no_mask_behind() {
    limited(|dir| {
        assert_too_large(FileMapMut::create(dir.join("large"), LIMIT + 1));
        assert_eq!(waits_and_is_blocked(), (false, false));
        block();
        assert_too_large(FileMapMut::create(dir.join("large"), LIMIT + 1));
        assert_eq!(waits_and_is_blocked(), (false, true));
    });
}

#[test]
fn a_signal_that_the_program_has_waiting_stays_with_it() {
    limited(|dir| {
        block();
        // SAFETY: sends a signal to this thread, which has it blocked.
        unsafe { libc::raise(libc::SIGXFSZ) };
        assert_too_large(FileMapMut::create(dir.join("large"), LIMIT + 1));
        assert_eq!(waits_and_is_blocked(), (true, true));
    });
}

#[test]
fn the_programs_own_handler_is_not_called_for_folios_calls() {
    static CALLS: AtomicUsize = AtomicUsize::new(0);
    extern "C" fn counts(_: i32) {
        CALLS.fetch_add(1, Ordering::SeqCst);
    }
    limited(|dir| {
        // SAFETY: the handler makes async-signal-safe calls only.
        unsafe { libc::signal(libc::SIGXFSZ, counts as *const () as usize) };
        assert_too_large(FileMapMut::create(dir.join("large"), LIMIT + 1));
        assert_eq!(CALLS.load(Ordering::SeqCst), 0);
        // Errors of the program's own calls are its own.
        std::fs::File::create(dir.join("its own")).unwrap().set_len(LIMIT + 1).unwrap_err();
        assert_eq!(CALLS.load(Ordering::SeqCst), 1);
    });
}
