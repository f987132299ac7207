//! Every store, against real threads and the real kernel.

use super::{AnonStore, CHUNK, InstallMode, MemfdStore, MprotectStore, Pool, SlotRun, Store};
use crate::effort::scaled;
use crate::pager::fault_source::{FaultSource, RawFault};
use crate::pager::sys::sigsegv_faults::SigsegvFaults;
use crate::pager::sys::uffd::{Uffd, UffdOpen, feature};
use crate::skip::skip;
use crate::sys::{Errno, copy, mm, process, signal};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const NAME: &str = "object";
const RUN: SlotRun = SlotRun { first: 3, pages: 4 };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StoreKind {
    Moved,
    Copied,
    Memfd,
    Trapped,
}

struct TestDriver {
    delivery: FaultSource,
    pool: Pool,
    store: Store,
    page: usize,
}

/// The driver, or a report that the kernel lacks a feature which it takes.
fn driver(kind: StoreKind, tracked: bool) -> Option<TestDriver> {
    let driver = offered(kind, tracked);
    if driver.is_none() {
        skip(&format!("the kernel lacks a feature of {kind:?}"));
    }
    driver
}

fn offered(kind: StoreKind, tracked: bool) -> Option<TestDriver> {
    if kind == StoreKind::Trapped {
        return Some(trapped(1024, tracked, 4));
    }
    let all = Uffd::open(UffdOpen::Syscall).ok()?.handshake(0).ok()?;
    let wanted = feature::PAGEFAULT_FLAG_WP
        | (all & feature::POISON)
        | match kind {
            StoreKind::Moved => feature::MOVE,
            StoreKind::Copied | StoreKind::Trapped => 0,
            StoreKind::Memfd => {
                feature::MISSING_SHMEM | feature::MINOR_SHMEM | feature::WP_HUGETLBFS_SHMEM
            }
        };
    if all & wanted != wanted {
        return None;
    }
    let uffd = Arc::new(Uffd::open(UffdOpen::Syscall).unwrap());
    uffd.handshake(wanted).unwrap();
    let moves = kind == StoreKind::Moved;
    let pool = Pool::new(64 << 20, moves.then(|| Arc::clone(&uffd)), moves);
    let store = match kind {
        StoreKind::Memfd => {
            Store::Memfd(MemfdStore::new(NAME, 1024, Arc::clone(&uffd), tracked).unwrap())
        }
        _ => Store::Private(
            AnonStore::new(NAME, 1024, Arc::clone(&uffd), tracked, moves, true).unwrap(),
        ),
    };
    Some(TestDriver {
        delivery: FaultSource::Uffd(uffd),
        pool,
        store,
        page: rustix::param::page_size(),
    })
}

fn trapped(pages: usize, tracked: bool, cells: usize) -> TestDriver {
    let queue = SigsegvFaults::new(cells).unwrap();
    let store = Store::Trapped(MprotectStore::new(NAME, pages, &queue, tracked).unwrap());
    let pool = Pool::new(64 << 20, None, false);
    TestDriver {
        delivery: FaultSource::Signal(queue),
        pool,
        store,
        page: rustix::param::page_size(),
    }
}

impl TestDriver {
    fn at(&self, run: SlotRun) -> usize {
        self.store.address() + run.first * self.page
    }

    fn fill(&mut self, run: SlotRun, byte: u8, mode: InstallMode) {
        let slot = self.store.stage(&mut self.pool, run).unwrap();
        // SAFETY: the slot has that many pages.
        unsafe { slot.buffer().write_bytes(byte, run.pages * self.page) };
        assert!(self.store.install(&mut self.pool, run, slot, mode, false).unwrap().is_none());
    }

    fn take(&mut self) -> Vec<RawFault> {
        let mut faults = Vec::new();
        self.delivery.faults(&mut faults).unwrap();
        faults
    }

    fn faults(&mut self) -> usize {
        self.take().len()
    }

    /// Serves a thread to its end, all of whose pages are in the map: its fault may come after the
    /// wake.
    fn join<T>(&mut self, thread: std::thread::JoinHandle<T>) -> T {
        while !thread.is_finished() {
            if self.faults() > 0 {
                self.store.wake(RUN).unwrap();
            }
            std::thread::yield_now();
        }
        thread.join().unwrap()
    }

    fn poison(&mut self, page: usize, reason: &str) {
        let marks = Uffd::open(UffdOpen::Syscall)
            .and_then(|uffd| uffd.handshake(0))
            .is_ok_and(|all| all & feature::POISON != 0);
        self.store.poison(page, marks, reason).unwrap();
    }
}

fn word(at: usize) -> &'static AtomicU64 {
    // SAFETY: in the map of the driver that outlives the use.
    unsafe { &*(at as *const AtomicU64) }
}

const KINDS: [StoreKind; 4] =
    [StoreKind::Moved, StoreKind::Copied, StoreKind::Memfd, StoreKind::Trapped];

#[test]
fn a_load_of_a_missing_page_waits_for_its_bytes() {
    for kind in KINDS {
        for mode in [InstallMode::ReadOnly, InstallMode::Protected, InstallMode::Writable] {
            let Some(mut driver) = driver(kind, mode != InstallMode::ReadOnly) else { continue };
            let at = driver.at(RUN);
            let loader = std::thread::spawn(move || word(at + 8).load(Ordering::SeqCst));
            while driver.faults() == 0 {
                std::thread::yield_now();
            }
            driver.fill(RUN, 7, mode);
            assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([7; 8]), "{kind:?} {mode:?}");
        }
    }
}

#[test]
fn no_store_is_lost_to_eviction_or_to_a_snapshot() {
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        let at = driver.at(RUN);
        driver.fill(RUN, 0, InstallMode::Writable);
        let stop = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicU64::new(0));
        let writer = std::thread::spawn({
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            move || {
                while !stop.load(Ordering::SeqCst) {
                    word(at).fetch_add(1, Ordering::SeqCst);
                    made.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let (mut round, rounds) = (0, scaled(2000));
        // However little the writer comes to run.
        while round < rounds || made.load(Ordering::SeqCst) == 0 {
            round += 1;
            if round > rounds {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            let taken = if round % 2 == 0 {
                driver.store.take_out(&mut driver.pool, RUN)
            } else {
                driver.store.snapshot(&mut driver.pool, RUN, true)
            };
            match taken {
                Ok(slot) => {
                    let before = word(slot.buffer() as usize).load(Ordering::SeqCst);
                    std::thread::yield_now();
                    let after = word(slot.buffer() as usize).load(Ordering::SeqCst);
                    assert_eq!(before, after, "{kind:?}: the slot changed");
                    if round % 2 == 0 {
                        let mode = if round % 4 == 0 {
                            InstallMode::Protected
                        } else {
                            InstallMode::Writable
                        };
                        driver.store.install(&mut driver.pool, RUN, slot, mode, false).unwrap();
                    } else {
                        driver.pool.give(slot);
                    }
                }
                Err(errno) => assert_eq!(errno, Errno::BUSY),
            }
            driver.store.unprotect(RUN).unwrap();
            driver.faults();
            driver.store.wake(RUN).unwrap();
            std::thread::yield_now();
        }
        stop.store(true, Ordering::SeqCst);
        driver.join(writer);
        assert_eq!(word(at).load(Ordering::SeqCst), made.load(Ordering::SeqCst), "{kind:?}");
    }
}

#[test]
fn a_page_that_was_taken_out_is_missing_and_a_discarded_one_too() {
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        let at = driver.at(RUN);
        driver.fill(RUN, 5, InstallMode::Protected);
        let slot = driver.store.take_out(&mut driver.pool, RUN).unwrap();
        driver.store.discard(&mut driver.pool, RUN, slot).unwrap();
        let loader = std::thread::spawn(move || word(at).load(Ordering::SeqCst));
        while driver.faults() == 0 {
            std::thread::yield_now();
        }
        driver.fill(RUN, 9, InstallMode::Protected);
        assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([9; 8]), "{kind:?}");
    }
}

#[test]
fn a_system_call_on_a_poisoned_page_is_efault_until_it_is_supplied() {
    for kind in KINDS {
        for marks in [true, false] {
            let Some(mut driver) = driver(kind, true) else { continue };
            if marks
                && kind != StoreKind::Trapped
                && Uffd::open(UffdOpen::Syscall).unwrap().handshake(0).unwrap() & feature::POISON
                    == 0
            {
                continue;
            }
            let file = tempfile::tempfile().unwrap();
            let write = |at: usize| {
                // SAFETY: one byte of the map, which only the kernel looks at.
                let byte = unsafe { std::slice::from_raw_parts(at as *const u8, 1) };
                rustix::io::write(&file, byte)
            };
            let at = driver.at(RUN);
            driver.store.poison(RUN.first, marks, "lost").unwrap();
            assert_eq!(write(at), Err(Errno::FAULT), "{kind:?} {marks}");
            driver.store.unpoison(RUN.first).unwrap();
            driver.fill(RUN, 3, InstallMode::Protected);
            assert_eq!(write(at), Ok(1), "{kind:?} {marks}");
        }
    }
}

/// KiB of huge pages in the area at an address.
fn huge_kib(at: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&format!("{at:x}-")));
    let line = lines.find_map(|line| line.strip_prefix("AnonHugePages:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Whether memory that is advised to be huge is so here.
fn gives_huge_pages() -> bool {
    let (len, kind) = (8 << 20, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new map of this function's own, which is touched within its bounds and then
    // unmapped.
    unsafe {
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let start = mm::mmap(std::ptr::null_mut(), len, rights, kind, -1, 0).unwrap();
        let advised = mm::madvise(start, len, libc::MADV_HUGEPAGE).is_ok();
        start.write_bytes(1, len);
        let huge = advised && huge_kib(start as usize) > 0;
        mm::munmap(start, len).unwrap();
        huge
    }
}

#[test]
fn every_chunk_of_a_reserved_range_can_be_a_huge_page() {
    if !gives_huge_pages() {
        return skip("the machine gives no huge pages");
    }
    let page = rustix::param::page_size();
    let rights = libc::PROT_READ | libc::PROT_WRITE;
    let (len, kind) = (4 * CHUNK * page, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // In a child: the kernel chooses other addresses while other tests run.
    let (end, text) = child(|| {
        for _ in 0..64 {
            // SAFETY: new maps of this test's own, which are used within their bounds and stay.
            unsafe {
                // It has a page table for the addresses at which the kernel maps next.
                mm::mmap(std::ptr::null_mut(), page, rights, kind, -1, 0).unwrap().write(1);
                let start = super::reserve(len, CHUNK * page, None).unwrap();
                super::open_up(start, len, rights).unwrap();
                mm::madvise(start as *mut u8, len, libc::MADV_HUGEPAGE).unwrap();
                (start as *mut u8).write_bytes(1, len);
                assert_eq!(huge_kib(start) * 1024, len);
                mm::madvise(start as *mut u8, len, libc::MADV_DONTNEED).unwrap();
            }
        }
    });
    assert_eq!(end, 0, "{text}");
}

#[test]
fn a_huge_page_stays_one_on_its_way_into_the_map_and_out_again() {
    let Some(mut driver) = driver(StoreKind::Moved, false) else { return };
    let run = SlotRun { first: 512, pages: 512 };
    let slot = driver.store.stage(&mut driver.pool, run).unwrap();
    // SAFETY: the slot has that many pages.
    unsafe { slot.buffer().write_bytes(6, run.pages * driver.page) };
    let staged = huge_kib(driver.pool.first_area());
    if staged == 0 && !gives_huge_pages() {
        return skip("the machine gives no huge pages");
    }
    assert_eq!(staged * 1024, run.pages * driver.page, "the first slot of the pool is a huge page");
    let loader = std::thread::spawn({
        let at = driver.at(run);
        move || word(at).load(Ordering::SeqCst)
    });
    while driver.faults() == 0 {
        std::thread::yield_now();
    }
    driver.store.install(&mut driver.pool, run, slot, InstallMode::ReadOnly, false).unwrap();
    assert_eq!(loader.join().unwrap(), u64::from_ne_bytes([6; 8]));
    assert_eq!((huge_kib(driver.store.address()), huge_kib(driver.pool.first_area())), (staged, 0));
    let slot = driver.store.take_out(&mut driver.pool, run).unwrap();
    assert_eq!((huge_kib(driver.store.address()), huge_kib(driver.pool.first_area())), (0, staged));
    driver.pool.give(slot);
    assert_eq!(driver.pool.resident_idle(), run.pages * driver.page);
}

/// The end of a child that runs `work`, and its output on stderr. Zero for `work` that returns.
fn child(work: impl FnOnce()) -> (i32, String) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    // SAFETY: the child runs `work` on the one thread it has, and never returns from here.
    match unsafe { libc::fork() } {
        -1 => panic!("no child"),
        0 => {
            // SAFETY: descriptors of the child's own.
            unsafe { libc::dup2(writer.as_raw_fd(), 2) };
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            if let Err(message) = &done {
                // Past the test harness, which would keep it.
                let message = message.downcast_ref::<String>().map_or("panicked", |text| text);
                let _ = std::io::stderr().write_all(message.as_bytes());
            }
            // SAFETY: nothing of the parent's is to be cleaned up here.
            unsafe { libc::_exit(if done.is_ok() { 0 } else { 99 }) }
        }
        pid => {
            drop(writer);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            let mut status = 0;
            // SAFETY: waits for the child just made.
            assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
            let signal = if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { 0 };
            (if signal == 0 { libc::WEXITSTATUS(status) } else { -signal }, text)
        }
    }
}

const BY_SIGBUS: i32 = -libc::SIGBUS;

fn touch(at: usize) {
    word(at).load(Ordering::SeqCst);
}

#[test]
fn a_lost_page_ends_the_process_with_a_message_that_says_what_was_lost() {
    for kind in KINDS {
        let (end, text) = child(|| {
            let Some(mut driver) = offered(kind, true) else {
                std::io::stderr().write_all(b"skipped").unwrap();
                return;
            };
            driver.poison(5, "the disk is gone");
            driver.poison(6, "the checksum is wrong");
            touch(driver.store.address() + 5 * driver.page + 8);
        });
        if text == "skipped" {
            skip(&format!("the kernel lacks a feature of {kind:?}"));
            continue;
        }
        assert_eq!(
            text, "folio: object: page at offset 20480 could not be supplied: the disk is gone\n",
            "{kind:?}"
        );
        assert_eq!(end, BY_SIGBUS, "{kind:?}");
    }
}

#[test]
fn the_last_reasons_are_kept_and_an_older_page_ends_without_one() {
    let (end, text) = child(|| {
        let mut driver = trapped(64, true, 4);
        for page in 0..20 {
            for _ in 0..2 {
                driver.poison(page, "lost");
            }
        }
        touch(driver.store.address());
    });
    let said = "folio: object: page at offset 0 could not be supplied: the reason is not known\n";
    assert_eq!((end, text.as_str()), (BY_SIGBUS, said));
}

#[test]
fn a_child_that_touches_its_parents_memory_gets_an_error_that_says_so() {
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        driver.fill(RUN, 1, InstallMode::Writable);
        let at = driver.at(RUN);
        let (end, text) = child(|| touch(at));
        let said = "folio: this memory belongs to the parent process: a pager's memory is not inherited across fork\n";
        assert_eq!((end, text.as_str()), (BY_SIGBUS, said), "{kind:?}");
    }
}

#[test]
fn an_area_that_is_gone_is_nobodys() {
    for kind in KINDS {
        if driver(kind, true).is_none() {
            continue;
        }
        let (end, text) = child(|| {
            let driver = driver(kind, true).expect("the parent made one");
            let at = driver.at(RUN);
            drop(driver);
            touch(at);
        });
        assert_eq!(end, -libc::SIGSEGV, "{kind:?} {text}");
        assert!(!text.contains("folio"), "{kind:?} {text}");
    }
}

#[test]
fn a_checked_copy_of_a_lost_page_is_an_error() {
    signal::install();
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        driver.fill(SlotRun { first: 0, pages: 1 }, 7, InstallMode::Protected);
        driver.poison(1, "lost");
        let start = driver.store.address();
        let mut bytes = vec![0_u8; 2 * driver.page];
        // SAFETY: the buffer has as many bytes; the other side is the driver's map.
        let trap = unsafe {
            copy::copy(
                bytes.as_mut_ptr(),
                start as *const u8,
                bytes.len(),
                start..start + bytes.len(),
            )
        };
        assert!(
            (start + driver.page..start + 2 * driver.page).contains(&trap.unwrap_err().address),
            "{kind:?}"
        );
        assert_eq!(bytes[driver.page - 1], 7, "{kind:?}");
    }
}

#[test]
fn a_checked_copy_of_a_missing_page_waits_for_its_bytes() {
    signal::install();
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        let at = driver.at(RUN);
        let copier = std::thread::spawn(move || {
            let mut bytes = [0_u8; 100];
            // SAFETY: the buffer has as many bytes; the other side is the driver's map.
            unsafe { copy::copy(bytes.as_mut_ptr(), at as *const u8, 100, at..at + 100) }
                .map(|()| bytes[99])
        });
        let fault = loop {
            if let Some(&fault) = driver.take().first() {
                break fault;
            }
            std::thread::yield_now();
        };
        assert!(
            (at..at + driver.page).contains(&fault.address) || fault.address == at,
            "{fault:?}"
        );
        assert!(!fault.write && !fault.protected, "{fault:?}");
        driver.fill(RUN, 7, InstallMode::Protected);
        assert_eq!(copier.join().unwrap(), Ok(7), "{kind:?}");
    }
}

#[test]
fn a_store_to_a_protected_page_differs_from_a_load_of_a_missing_one() {
    for kind in KINDS {
        let Some(mut driver) = driver(kind, true) else { continue };
        let at = driver.at(RUN);
        driver.fill(RUN, 0, InstallMode::Protected);
        let writer = std::thread::spawn(move || word(at).store(5, Ordering::SeqCst));
        let fault = loop {
            if let Some(&fault) = driver.take().first() {
                break fault;
            }
            std::thread::yield_now();
        };
        assert!(fault.write && fault.protected, "{kind:?} {fault:?}");
        driver.store.unprotect(RUN).unwrap();
        writer.join().unwrap();
        assert_eq!(word(at).load(Ordering::SeqCst), 5);
    }
}

#[test]
fn a_store_to_an_object_that_is_never_written_is_a_segmentation_fault() {
    for filled in [false, true] {
        let (end, text) = child(|| {
            let mut driver = trapped(64, false, 4);
            let at = driver.at(RUN);
            if filled {
                driver.fill(RUN, 1, InstallMode::ReadOnly);
            }
            word(at).store(1, Ordering::SeqCst);
        });
        assert_eq!((end, text.contains("folio")), (-libc::SIGSEGV, false), "{text}");
    }
}

#[test]
fn the_shards_own_fault_ends_instead_of_waiting_for_itself() {
    let (end, text) = child(|| {
        let mut driver = trapped(64, true, 4);
        assert_eq!(driver.faults(), 0);
        touch(driver.at(RUN));
    });
    assert_eq!(end, BY_SIGBUS);
    assert!(text.contains("a pager's own thread"), "{text}");
}

#[test]
fn when_the_pager_is_gone_a_missing_page_ends_and_who_waits_does_too() {
    let (end, text) = child(|| {
        let TestDriver { mut delivery, store, .. } = trapped(64, true, 4);
        let at = store.address();
        let waiter = std::thread::spawn(move || touch(at));
        let mut faults = Vec::new();
        while faults.is_empty() {
            delivery.faults(&mut faults).unwrap();
        }
        drop(delivery);
        let _ = waiter.join();
    });
    assert_eq!(end, BY_SIGBUS);
    assert!(text.contains("its pager is gone"), "{text}");
}

#[test]
fn threads_that_outnumber_the_cells_all_come_through() {
    const THREADS: usize = 8;
    const PAGES: usize = 512;
    const ROUNDS: usize = 3000;
    let mut driver = trapped(PAGES, true, 4);
    let (start, page) = (driver.store.address(), driver.page);
    let left = Arc::new(AtomicU64::new(THREADS as u64));
    let threads: Vec<_> = (0..THREADS)
        .map(|thread| {
            let left = Arc::clone(&left);
            std::thread::spawn(move || {
                let mut random = thread as u64 + 1;
                for _ in 0..ROUNDS {
                    random ^= random << 13;
                    random ^= random >> 7;
                    random ^= random << 17;
                    let at = start + random as usize % PAGES * page;
                    if random >> 40 & 1 == 0 {
                        word(at + 8 * (1 + thread)).fetch_add(1, Ordering::SeqCst);
                    } else {
                        let filled = word(at).load(Ordering::SeqCst);
                        assert_eq!(filled, (at - start) as u64 + 1, "a page without its bytes");
                    }
                }
                left.fetch_sub(1, Ordering::SeqCst);
            })
        })
        .collect();
    let mut filled = vec![false; PAGES];
    let mut turn = 0;
    while left.load(Ordering::SeqCst) > 0 {
        for fault in driver.take() {
            let index = (fault.address - start) / page;
            let run = SlotRun { first: index, pages: 1 };
            let slot = driver.store.stage(&mut driver.pool, run).unwrap();
            word(slot.buffer() as usize).store((index * page) as u64 + 1, Ordering::SeqCst);
            filled[index] = true;
            let mode = if fault.write { InstallMode::Writable } else { InstallMode::Protected };
            driver.store.install(&mut driver.pool, run, slot, mode, false).unwrap();
        }
        // Pages go all the time, so that faults never end.
        for _ in 0..4 {
            turn = (turn + 1) % PAGES;
            if filled[turn] {
                driver.store.take_out(&mut driver.pool, SlotRun { first: turn, pages: 1 }).unwrap();
            }
        }
        std::thread::yield_now();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let whole = SlotRun { first: 0, pages: PAGES };
    let slot = driver.store.take_out(&mut driver.pool, whole).unwrap();
    let stores: u64 = (0..PAGES)
        .flat_map(|index| (1..=THREADS).map(move |thread| index * page + 8 * thread))
        .map(|offset| word(slot.buffer() as usize + offset).load(Ordering::SeqCst))
        .sum();
    assert!(stores > (THREADS * ROUNDS / 3) as u64, "{stores} stores");
    assert_eq!(driver.store.vma_cost(), 2);
}

#[test]
fn other_signals_wait_while_a_thread_waits_for_a_page() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    extern "C" fn count(_: i32) {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }
    // SAFETY: nobody else uses this signal; the handler is async-signal-safe.
    unsafe { libc::signal(libc::SIGURG, count as *const () as usize) };
    let mut driver = trapped(64, true, 4);
    let at = driver.at(RUN);
    let waiter = std::thread::spawn(move || {
        let before = SEEN.load(Ordering::SeqCst);
        touch(at);
        before
    });
    while driver.faults() == 0 {
        std::thread::yield_now();
    }
    // The thread is a few instructions before it blocks signals at worst.
    std::thread::sleep(std::time::Duration::from_millis(20));
    // SAFETY: the thread is there until it is joined.
    unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGURG) };
    std::thread::sleep(std::time::Duration::from_millis(20));
    assert_eq!(SEEN.load(Ordering::SeqCst), 0);
    driver.fill(RUN, 1, InstallMode::Protected);
    assert_eq!(waiter.join().unwrap(), 0);
    assert_eq!(SEEN.load(Ordering::SeqCst), 1);
}

fn areas_in(range: std::ops::Range<usize>) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines()
        .filter(|line| {
            usize::from_str_radix(line.split('-').next().unwrap(), 16)
                .is_ok_and(|at| range.contains(&at))
        })
        .count()
}

#[test]
fn the_areas_that_a_map_takes_are_counted() {
    let mut driver = trapped(2 * CHUNK, true, 4);
    let start = driver.store.address();
    let whole = start..start + 2 * CHUNK * driver.page;
    let mut random = 7_u64;
    for _ in 0..600 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let first = (random >> 33) as usize % 1000;
        let run =
            SlotRun { first, pages: 1 + (random >> 50) as usize % (CHUNK - first % CHUNK).min(24) };
        match random >> 60 & 3 {
            0 => driver.fill(run, 1, InstallMode::Protected),
            1 => driver.fill(run, 1, InstallMode::Writable),
            2 => drop(driver.store.take_out(&mut driver.pool, run).unwrap()),
            _ => driver.poison(first, "lost"),
        }
    }
    assert!(driver.store.vma_cost() > 20);
    assert_eq!(areas_in(whole), driver.store.vma_cost() - 1);
}

#[test]
fn at_the_limit_of_areas_a_map_stays_as_it_was() {
    let limit = process::sysctl("vm/max_map_count").unwrap() as usize;
    if limit > 1 << 20 {
        return;
    }
    let (end, text) = child(|| {
        let mut driver = trapped(64, true, 4);
        let at = driver.at(RUN);
        driver.fill(SlotRun { first: RUN.first, pages: 2 }, 1, InstallMode::Protected);
        driver.fill(SlotRun { first: RUN.first + 2, pages: 6 }, 2, InstallMode::Writable);
        let before = driver.store.vma_cost();
        let len = 2 * limit * driver.page;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new map.
        let filler =
            unsafe { mm::mmap(std::ptr::null_mut(), len, libc::PROT_NONE, flags, -1, 0) }.unwrap();
        // SAFETY: pages of that map.
        let split = |n: usize| unsafe {
            mm::mprotect(filler.add((2 * n + 1) * driver.page), driver.page, libc::PROT_READ)
        };
        assert!((0..limit).any(|n| split(n).is_err()), "no limit");
        // The middle of an area, so that it takes two more.
        let inside = SlotRun { first: RUN.first + 3, pages: 2 };
        let refused = driver.store.take_out(&mut driver.pool, inside).err();
        let middle = SlotRun { first: 20, pages: 1 };
        let slot = driver.store.stage(&mut driver.pool, middle).unwrap();
        let mode = InstallMode::Protected;
        let also = driver
            .store
            .install(&mut driver.pool, middle, slot, mode, false)
            .err()
            .map(|(_, errno)| errno);
        // SAFETY: the filler is nobody's.
        unsafe { mm::munmap(filler, len) }.unwrap();
        assert_eq!((refused, also), (Some(Errno::NOMEM), Some(Errno::NOMEM)));
        assert_eq!(driver.store.vma_cost(), before);
        assert_eq!(word(at).load(Ordering::SeqCst), u64::from_ne_bytes([1; 8]));
        word(at + 3 * driver.page).store(9, Ordering::SeqCst);
        driver.store.take_out(&mut driver.pool, inside).unwrap();
    });
    assert_eq!(end, 0, "{text}");
}

#[test]
fn areas_come_and_go_while_threads_wait_in_others() {
    let makers: Vec<_> = (0..4_u8)
        .map(|maker| {
            std::thread::spawn(move || {
                for round in 0..100_u8 {
                    // More than one block of the table, of all four together.
                    let others: Vec<_> = (0..20).map(|_| trapped(8, true, 1)).collect();
                    let mut driver = trapped(64, true, 2);
                    let at = driver.at(RUN);
                    let loaders: Vec<_> = (0..3)
                        .map(|_| std::thread::spawn(move || word(at).load(Ordering::SeqCst)))
                        .collect();
                    while driver.faults() == 0 {
                        std::thread::yield_now();
                    }
                    drop(others);
                    let byte = maker ^ round;
                    driver.fill(RUN, byte, InstallMode::Protected);
                    for loader in loaders {
                        assert_eq!(driver.join(loader), u64::from_ne_bytes([byte; 8]));
                    }
                }
            })
        })
        .collect();
    for maker in makers {
        maker.join().unwrap();
    }
}
