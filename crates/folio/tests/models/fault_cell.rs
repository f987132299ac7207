//! How a thread waits in its signal handler for a page, under every order of steps that the memory
//! model allows (loom).

#[path = "../../src/pager/sys/fault_cell.rs"]
mod cell;

/// Loom's versions of the atomics under the cell.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
}

/// futex(2): a waiter looks again as soon as another thread has run. So this model does not find a
/// wake without a waiter. It need not: a waiter sleeps only while the kernel finds the word
/// unchanged.
mod futex {
    use super::atomics::{AtomicU32, Ordering};

    pub(super) fn wait(word: &AtomicU32, value: u32) {
        if word.load(Ordering::Relaxed) == value {
            loom::thread::yield_now();
        }
    }

    pub(super) fn wake(_: &AtomicU32) {}
}

use cell::{FaultCell, RawFault};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

fn fault(address: usize) -> RawFault {
    RawFault { address, write: address % 2 == 1, protected: false, thread: Some(address as u32) }
}

struct Shared {
    cell: FaultCell,
    /// The page: loom fails the run if it is read while it is supplied.
    page: UnsafeCell<u32>,
}

fn shared() -> Arc<Shared> {
    Arc::new(Shared { cell: FaultCell::new(), page: UnsafeCell::new(0) })
}

/// Takes the next fault, as the shard does.
fn next(cell: &FaultCell) -> RawFault {
    loop {
        if let Some(fault) = cell.take() {
            return fault;
        }
        thread::yield_now();
    }
}

#[test]
fn a_thread_that_waited_finds_the_page_supplied() {
    loom::model(|| {
        let shared = shared();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                assert!(shared.cell.claim());
                shared.cell.ask(fault(5));
                shared.cell.wait();
                // SAFETY: loom checks that nobody changes it meanwhile.
                shared.page.with(|page| assert_eq!(unsafe { *page }, 7));
            }
        });
        assert_eq!(next(&shared.cell), fault(5));
        assert!(shared.cell.take().is_none(), "taken twice");
        // SAFETY: loom checks that nobody reads it meanwhile.
        shared.page.with_mut(|page| unsafe { *page = 7 });
        assert!(!shared.cell.done(&(6..100)), "the fault is none of these");
        assert!(shared.cell.done(&(0..100)));
        thread.join().unwrap();
        assert!(shared.cell.is_free());
    });
}

#[test]
fn two_threads_never_claim_the_same_cell() {
    loom::model(|| {
        let shared = shared();
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.cell.claim()
        });
        assert!(shared.cell.claim() != other.join().unwrap());
    });
}

#[test]
fn a_cell_that_is_used_again_shows_the_new_fault_only() {
    // All orders of so many steps take minutes: those in which a thread is interrupted twice at
    // most.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let shared = shared();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                for address in [2, 3] {
                    assert!(shared.cell.claim());
                    shared.cell.ask(fault(address));
                    shared.cell.wait();
                }
            }
        });
        for address in [2, 3] {
            assert_eq!(next(&shared.cell), fault(address));
            assert!(shared.cell.done(&(address..address + 1)));
            // Late, and for the fault that was there before.
            assert!(!shared.cell.done(&(2..3)));
        }
        thread.join().unwrap();
        assert!(shared.cell.is_free());
    });
}

#[test]
fn a_wake_before_the_fault_is_taken_frees_the_thread_or_leaves_the_fault() {
    loom::model(|| {
        let shared = shared();
        let thread = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                assert!(shared.cell.claim());
                shared.cell.ask(fault(5));
                shared.cell.wait();
            }
        });
        // Any moment: it may find nothing, and never half a fault.
        if !shared.cell.done(&(5..6)) {
            assert_eq!(next(&shared.cell), fault(5));
            assert!(shared.cell.done(&(5..6)));
        }
        thread.join().unwrap();
        assert!(shared.cell.is_free() && shared.cell.take().is_none());
    });
}

#[test]
fn two_wakes_at_once_let_one_thread_go_once() {
    loom::model(|| {
        let shared = shared();
        assert!(shared.cell.claim());
        shared.cell.ask(fault(5));
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.cell.done(&(0..9))
        });
        let taken = shared.cell.take();
        let mine = shared.cell.done(&(0..9));
        let theirs = other.join().unwrap();
        assert!(mine || theirs);
        assert!(taken.is_none_or(|taken| taken == fault(5)));
        shared.cell.wait();
        assert!(shared.cell.is_free());
    });
}
