//! The protocol of the signal handler's table, under every order of steps that the memory model
//! allows (loom).

#[path = "../../src/sys/handler_table.rs"]
mod table;

/// Loom's versions of the atomics under the slot.
mod atomics {
    pub(super) use loom::sync::atomic::{AtomicPtr, AtomicU64, AtomicUsize, Ordering, fence};
    pub(super) use loom::thread::yield_now;
}

use loom::sync::Arc;
use loom::thread;
use table::{HandlerSlot, ThreadKey};

fn slot() -> HandlerSlot<loom::cell::UnsafeCell<u32>> {
    HandlerSlot {
        entry: atomics::AtomicPtr::new(std::ptr::null_mut()),
        users: atomics::AtomicU64::new(0),
        process: atomics::AtomicU64::new(0),
        thread: atomics::AtomicUsize::new(0),
    }
}

const WHO: ThreadKey = ThreadKey { process: 1, thread: 1 };

/// A map's entry: loom fails the run if a look at it and its end can happen together.
type Entry = loom::cell::UnsafeCell<u32>;

fn look(slot: &HandlerSlot<Entry>) -> Option<u32> {
    // SAFETY: the entries below stay in place until they are silenced.
    unsafe {
        slot.with_entry(WHO, |entry| {
            // SAFETY: loom checks that nobody changes it meanwhile.
            Some(entry.with(|value| *value))
        })
    }
}

/// Ends an entry as a map's end does: its bytes may be anything from then on.
fn end(entry: &Entry) {
    // SAFETY: loom checks that nobody looks at it meanwhile.
    entry.with_mut(|value| unsafe { *value = 0xdead });
}

#[test]
fn a_handler_never_looks_at_a_map_that_has_ended() {
    loom::model(|| {
        let shared = Arc::new((slot(), Entry::new(7)));
        assert!(shared.0.insert(&shared.1, WHO));
        let handler = thread::spawn({
            let shared = Arc::clone(&shared);
            move || assert!(matches!(look(&shared.0), None | Some(7)))
        });
        shared.0.retire(WHO);
        end(&shared.1);
        shared.0.release();
        handler.join().unwrap();
        assert_eq!(look(&shared.0), None);
    });
}

#[test]
fn a_slot_that_is_used_again_shows_the_new_map_only() {
    loom::model(|| {
        let shared = Arc::new((slot(), Entry::new(1), Entry::new(2)));
        assert!(shared.0.insert(&shared.1, WHO));
        let handler = thread::spawn({
            let shared = Arc::clone(&shared);
            move || assert!(matches!(look(&shared.0), None | Some(1 | 2)))
        });
        shared.0.retire(WHO);
        end(&shared.1);
        shared.0.release();
        assert!(shared.0.insert(&shared.2, WHO));
        handler.join().unwrap();
        assert_eq!(look(&shared.0), Some(2));
    });
}

#[test]
fn two_maps_never_take_the_same_slot() {
    loom::model(|| {
        let shared = Arc::new((slot(), Entry::new(1), Entry::new(2)));
        let other = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.0.insert(&shared.1, WHO)
        });
        let mine = shared.0.insert(&shared.2, WHO);
        let theirs = other.join().unwrap();
        assert!(mine != theirs);
        assert_eq!(look(&shared.0), Some(if mine { 2 } else { 1 }));
    });
}

#[test]
fn a_child_sees_what_its_own_thread_entered_before_the_fork_and_no_more() {
    loom::model(|| {
        let (slot, entry) = (slot(), Entry::new(7));
        assert!(slot.insert(&entry, WHO));
        // SAFETY: the entry stays in place.
        let look = |who| unsafe { slot.with_entry(who, |_| Some(())) };
        assert_eq!(look(ThreadKey { process: 2, thread: 1 }), Some(()));
        assert_eq!(look(ThreadKey { process: 2, thread: 9 }), None);
        assert_eq!(look(ThreadKey { process: 1, thread: 9 }), Some(()));
        // A handler of a thread that the child does not have was looking when it was forked.
        slot.users.store(1 << 32 | 1, atomics::Ordering::Relaxed);
        slot.retire(ThreadKey { process: 2, thread: 1 });
    });
}

#[test]
fn a_child_takes_a_slot_that_a_handler_of_its_parents_had_not_left() {
    loom::model(|| {
        let shared = Arc::new((slot(), Entry::new(7)));
        let child = ThreadKey { process: 2, thread: 1 };
        // Free, but for a handler that came late: it never leaves the child's copy.
        shared.0.users.store(1 << 32 | 1, atomics::Ordering::Relaxed);
        assert!(shared.0.insert(&shared.1, child));
        let handler = thread::spawn({
            let shared = Arc::clone(&shared);
            move || {
                // SAFETY: the entry stays in place until it is silenced.
                let seen = unsafe {
                    shared.0.with_entry(child, |entry| {
                        // SAFETY: loom checks that nobody changes it meanwhile.
                        Some(entry.with(|value| *value))
                    })
                };
                assert!(matches!(seen, None | Some(7)));
            }
        });
        shared.0.retire(child);
        end(&shared.1);
        shared.0.release();
        handler.join().unwrap();
    });
}
