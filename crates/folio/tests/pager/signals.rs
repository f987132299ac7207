//! The program's signals and the pager's threads: no thread of folio's own runs a handler of the
//! program's, and a file that may not become longer (RLIMIT_FSIZE) is an error, never SIGXFSZ.

use crate::common::{End, child_succeeds, disk_dir, file_with, in_child, lower_limit};
use crate::given::{MIB, is_all, pattern};
use folio::shm::{Event, Segment};
use folio::source::{Function, LocalFile};
use folio::{Error, Pager, WriteBack};
use std::fs;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// With io_uring, and with a pool of threads.
const DISKS: [&str; 2] = ["", "-io_uring"];

fn pager(features: &str) -> Pager {
    Pager::builder().budget(4 * MIB).features(features).build().unwrap()
}

/// A child ends soon, however it ends.
fn soon() {
    // SAFETY: sets a timer.
    unsafe { libc::alarm(60) };
}

/// The signals that a thread of folio's own does not block, as bits: those of its own faults, and
/// those of the C library's own, which nobody can block.
fn unblocked() -> u64 {
    let faults = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    [&faults[..], &[libc::SIGKILL, libc::SIGSTOP, 32, 33]]
        .concat()
        .into_iter()
        .fold(0, |bits, signal| bits | 1 << (signal - 1))
}

/// Name and blocked signals of each thread of folio's own.
fn threads() -> Vec<(String, u64)> {
    let own = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        // A thread may end meanwhile.
        let status = fs::read_to_string(task.unwrap().path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(|value| value.trim().to_owned())
        };
        let blocked = u64::from_str_radix(&field("SigBlk")?, 16).unwrap();
        Some((field("Name")?, blocked)).filter(|(name, _)| name.starts_with("folio-"))
    });
    own.collect()
}

#[test]
fn every_thread_of_folios_blocks_all_signals_but_those_of_its_own_faults() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(MIB));
    for features in DISKS {
        child_succeeds(|| {
            soon();
            let pager = pager(features);
            let blocking = Function::new("made", MIB as u64, |_, buffer: &mut [u8]| {
                buffer.fill(1);
                Ok(())
            });
            let (made, file) =
                (pager.map(blocking).unwrap(), pager.map(LocalFile::open(&path).unwrap()).unwrap());
            assert_eq!((made[0], file[0]), (1, pattern(1)[0]));
            let event = Segment::<Event>::anonymous().unwrap();
            let value = event.value();
            let mut waiting = Box::pin(value.wait_async());
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            // A thread has its name a moment after it has started.
            let wanted = ["folio-pager", "folio-io", "folio-notifiers"];
            let deadline = Instant::now() + Duration::from_secs(20);
            let found = loop {
                let found = threads();
                if wanted.iter().all(|name| found.iter().any(|(found, _)| found == name)) {
                    break found;
                }
                assert!(Instant::now() < deadline, "{found:?}");
                std::thread::sleep(Duration::from_millis(1));
            };
            for (name, blocked) in found {
                assert_eq!(blocked | unblocked(), u64::MAX, "{name} blocks {blocked:x}");
                assert_eq!(blocked & unblocked() & !(0b11 << 31), 0, "{name} blocks {blocked:x}");
            }
        });
    }
}

#[test]
fn a_handler_that_loads_from_a_map_never_runs_on_the_pagers_thread() {
    static BYTE: AtomicUsize = AtomicUsize::new(0);
    static LOADED: AtomicU8 = AtomicU8::new(0);
    extern "C" fn loads(_: i32) {
        // SAFETY: the map lives until the test's end, and nobody stores to it.
        LOADED.store(unsafe { *(BYTE.load(Ordering::SeqCst) as *const u8) }, Ordering::SeqCst);
    }
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(MIB));
    child_succeeds(|| {
        soon();
        let map = pager("").map(LocalFile::open(&path).unwrap()).unwrap();
        BYTE.store(&raw const map[MIB / 2 + 1] as usize, Ordering::SeqCst);
        // SAFETY: zeroes are a valid set; the handler's load is one that the program may make.
        unsafe {
            libc::signal(libc::SIGUSR1, loads as *const () as usize);
            let mut only: libc::sigset_t = std::mem::zeroed();
            libc::sigaddset(&raw mut only, libc::SIGUSR1);
            // The kernel gives it to any thread that does not block it.
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const only, std::ptr::null_mut());
            libc::kill(libc::getpid(), libc::SIGUSR1);
            std::thread::sleep(Duration::from_millis(50));
            assert_eq!(LOADED.load(Ordering::SeqCst), 0, "no thread of the program takes it");
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const only, std::ptr::null_mut());
        }
        assert_eq!(LOADED.load(Ordering::SeqCst), pattern(MIB)[MIB / 2 + 1]);
    });
}

/// Zeros that a function makes: a page that left memory has a hash.
fn zeros(len: usize) -> Function {
    let make = |_, buffer: &mut [u8]| {
        buffer.fill(0);
        Ok(())
    };
    Function::new("zeros", len as u64, make).deadline(Duration::from_secs(2))
}

#[track_caller]
fn assert_too_large(error: &Error) {
    assert!(error.to_string().contains("File too large"), "{error}");
}

#[test]
fn a_write_back_beyond_the_limit_of_files_is_an_error_of_the_sync() {
    for features in DISKS {
        let dir = disk_dir();
        let path = file_with(dir.path(), &pattern(4 * MIB));
        child_succeeds(|| {
            soon();
            let mut map =
                pager(features).map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
            lower_limit(libc::RLIMIT_FSIZE, MIB as u64);
            map.write_at(&[7; 5000], 2 * MIB).unwrap();
            map.write_at(&[8; 5000], MIB / 2).unwrap();
            assert_too_large(&map.sync(.., WriteBack::Wait).unwrap_err());
            // It is still there, and reaches the file once the limit allows it.
            lower_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            map.sync(.., WriteBack::Wait).unwrap();
            let written = fs::read(&path).unwrap();
            assert_eq!((written[2 * MIB + 4999], written[MIB / 2 + 4999]), (7, 8));
        });
    }
}

#[test]
fn a_spill_beyond_the_limit_of_files_is_an_error_and_no_signal() {
    for features in DISKS {
        child_succeeds(|| {
            soon();
            let mut map = pager(features).map_private(zeros(32 * MIB)).unwrap();
            lower_limit(libc::RLIMIT_FSIZE, 1 << 16);
            let mut bytes = vec![0; MIB];
            let stored = (0..32).map(|n| map.write_at(&vec![n as u8 + 1; MIB], n * MIB));
            let stored = stored.take_while(Result::is_ok).count();
            assert!(stored < 32, "more was stored than memory and the file have room for");
            // Memory is full of pages that cannot be written: a read may be refused, and never has
            // other bytes.
            if map.read_at(&mut bytes, 0).is_ok() {
                assert!(is_all(&bytes, 1));
            }
            lower_limit(libc::RLIMIT_FSIZE, libc::RLIM_INFINITY);
            for n in 0..stored {
                let deadline = Instant::now() + Duration::from_secs(20);
                while let Err(error) = map.read_at(&mut bytes, n * MIB) {
                    assert!(Instant::now() < deadline, "MiB {n}: {error}");
                }
                assert!(is_all(&bytes, n as u8 + 1), "MiB {n}");
            }
        });
    }
}

/// The messages of this process go to a file that may not become longer.
fn with_full_messages(dir: &std::path::Path) {
    let file = fs::File::create(dir.join("messages")).unwrap();
    lower_limit(libc::RLIMIT_FSIZE, 0);
    // SAFETY: replaces the process's descriptor of messages.
    assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), libc::STDERR_FILENO) }, libc::STDERR_FILENO);
}

#[test]
fn a_drop_whose_message_is_beyond_the_limit_of_files_ends() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(MIB));
    child_succeeds(|| {
        soon();
        let mut map = pager("").map_mut(LocalFile::open_writable(&path).unwrap()).unwrap();
        map.write_at(&[7; 5000], MIB / 2).unwrap();
        with_full_messages(dir.path());
        drop(map);
    });
}

#[test]
fn a_lost_page_kills_by_sigbus_also_where_the_message_is_beyond_the_limit() {
    let dir = disk_dir();
    let end = in_child(|| {
        soon();
        let lost = Function::new("lost", MIB as u64, |_, _: &mut [u8]| {
            Err(std::io::ErrorKind::NotFound.into())
        });
        let map = pager("").map(lost).unwrap();
        with_full_messages(dir.path());
        std::hint::black_box(map[5000]);
    });
    assert_eq!(end, End::Killed(libc::SIGBUS));
}

#[test]
fn hashes_that_may_not_go_to_a_file_are_no_signal() {
    child_succeeds(|| {
        soon();
        let len = 256 * MIB;
        let map = pager("").map(zeros(len)).unwrap();
        lower_limit(libc::RLIMIT_FSIZE, 0);
        // Its pages' hashes are more than a sixteenth of the budget.
        for at in (0..len).step_by(4096) {
            assert_eq!(map[at], 0);
        }
    });
}
