//! Forks that fall into the first use of something in a process: a child is never left with a lock
//! that a thread of its parent had. A test binary of its own, for each process has one first use:
//! nothing here may use folio before the children do.

mod common;

use common::{End, child_succeeds, wait};
use folio::shm::{Event, Segment, Wait};
use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The latest that a fork comes, after the other thread has begun.
const LATEST: Duration = Duration::from_micros(200);

/// In so many processes, one after the other: two threads, one of which forks at some moment while
/// the other does `first`; and then the child does it, and `then`, which is to be true.
fn forked_meanwhile(rounds: u32, first: impl Fn() + Sync, then: impl Fn() -> bool + Sync) {
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
                        // SAFETY: sets a timer, so that the child does not wait for ever.
                        unsafe { libc::alarm(20) };
                        first();
                        let is_well = then();
                        // SAFETY: ends the child at once. (A panic would wait for the other thread,
                        // which is not here.)
                        unsafe { libc::_exit(i32::from(!is_well)) };
                    }
                    child => {
                        assert_eq!(
                            wait(child),
                            End::Exited(0),
                            "round {round}: it fails, or waits for ever"
                        );
                    }
                }
            });
        });
    }
}

#[test]
fn a_child_forked_during_another_threads_first_use_can_use_folio() {
    forked_meanwhile(600, || drop(Segment::<Event>::anonymous().unwrap()), || true);
    // One that has a segment already, and waits there for the first time.
    let segment = Segment::<Event>::anonymous().unwrap();
    let soon = Wait::new().timeout(Duration::from_millis(5));
    forked_meanwhile(
        100,
        || assert!(segment.shared_ref().wait_with(soon).is_ok_and(|set| !set)),
        || true,
    );
}

/// Whether a process that made a segment and ended has left its name to the next one, while a child
/// of its own lives.
fn leaves_its_name(name: &str) -> bool {
    let ((read, write), (told, tell)) = (std::io::pipe().unwrap(), std::io::pipe().unwrap());
    let maker = spawn(|| {
        std::mem::forget(Segment::<Event>::create(name));
        // Its child lives until it gets the order to end.
        spawn(|| {
            (&tell).write_all(&[0]).unwrap();
            drop((&read).read(&mut [0]));
        });
    });
    let end = wait(maker);
    // The child runs, and so has closed the descriptors that are not its own.
    (&told).read_exact(&mut [0]).unwrap();
    let is_free = Segment::<Event>::create(name).is_ok();
    (&write).write_all(&[0]).unwrap();
    is_free && end == End::Exited(0)
}

/// A child that ends by a system call, as if it were killed.
fn spawn(work: impl FnOnce()) -> i32 {
    // SAFETY: the child has this thread alone, and ends by a system call.
    let child = unsafe { libc::fork() };
    if child == 0 {
        work();
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    child
}

#[test]
fn locks_of_a_child_forked_during_another_threads_first_use_end_with_it() {
    let first = || drop(Segment::<Event>::anonymous().unwrap());
    forked_meanwhile(600, first, || leaves_its_name(&format!("first-use-{}", std::process::id())));
}
