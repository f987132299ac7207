//! Processes that do the same at full speed, of which one after the other is killed at any moment.

use crate::common::kill_sweep::Ledger;
use crate::common::segment_dir::Random;
use crate::common::{End, wait};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// Has `workers` processes at it and kills one `kills` times, each time for a new one; at last all of them. `spawn` starts one, as
/// `spawn_child` does, for which it is given a number. After each kill comes `nudge`, and then `progress` has to grow within `patience`.
pub(crate) fn compete(
    ledger: &mut Ledger,
    workers: usize,
    kills: u64,
    patience: Duration,
    spawn: impl Fn(usize) -> (i32, File),
    nudge: impl Fn(),
    progress: impl Fn() -> u64,
) {
    let mut running: Vec<_> = (0..workers).map(&spawn).collect();
    let mut random = Random::new();
    for number in 0..kills {
        let choice = random.next();
        std::thread::sleep(Duration::from_micros(choice % 3000));
        end(ledger, running.remove(choice as usize % workers), &random);
        running.push(spawn(number as usize));
        // Someone gets on, whatever the dead one has taken along.
        nudge();
        let (start, before) = (Instant::now(), progress());
        while progress() == before {
            if start.elapsed() > patience {
                ledger.hung += 1;
                eprintln!("seed {}: nobody gets on", random.seed());
                break;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    for worker in running {
        end(ledger, worker, &random);
    }
}

fn end(ledger: &mut Ledger, (pid, mut messages): (i32, File), random: &Random) {
    // SAFETY: a child of this test's own.
    unsafe { libc::kill(pid, libc::SIGKILL) };
    match wait(pid) {
        End::Killed(libc::SIGKILL) => ledger.kills += 1,
        end => {
            let mut said = String::new();
            let _ = messages.read_to_string(&mut said);
            eprintln!("seed {}: a worker ended by itself: {end:?} {said}", random.seed());
            ledger.corrupted += 1;
        }
    }
}
