//! Forks that fall into the first use of something in a process: a child is never left with a lock that a thread of its parent had.
//! A test binary of its own, for each process has one first use: nothing here may use folio before the children do.

#[path = "contract/support.rs"]
mod support;

use folio::shm::{Event, Segment, Wait};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::{End, child_succeeds, wait};

/// The latest that a fork comes, after the other thread has begun.
const LATEST: Duration = Duration::from_micros(200);

/// In so many processes, one after the other: two threads, one of which forks at some moment while the other does `first`; and then the
/// child does it.
fn forked_meanwhile(rounds: u32, first: impl Fn() + Sync) {
    for round in 0..rounds {
        child_succeeds(|| {
            let go = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !go.load(Ordering::Acquire) {
                        std::hint::spin_loop();
                    }
                    first();
                });
                std::thread::sleep(Duration::from_micros(200));
                go.store(true, Ordering::Release);
                let started = Instant::now();
                while started.elapsed() < LATEST * round / rounds {
                    std::hint::spin_loop();
                }
                // SAFETY: the child has this thread alone, and ends by a system call.
                match unsafe { libc::fork() } {
                    0 => {
                        // SAFETY: as above; it is not to wait for ever.
                        unsafe { libc::alarm(20) };
                        first();
                        // SAFETY: as above.
                        unsafe { libc::_exit(0) };
                    }
                    child => assert_eq!(wait(child), End::Exited(0), "round {round}: it waits for ever"),
                }
            });
        });
    }
}

#[test]
fn a_child_forked_while_another_thread_uses_folio_for_the_first_time_can_use_it() {
    forked_meanwhile(600, || drop(Segment::<Event>::anonymous().unwrap()));
    // One that has a segment already, and waits there for the first time.
    let segment = Segment::<Event>::anonymous().unwrap();
    let soon = Wait::new().timeout(Duration::from_millis(5));
    forked_meanwhile(100, || assert!(segment.place().wait_with(soon).is_ok_and(|set| !set)));
}
