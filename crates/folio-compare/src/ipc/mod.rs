//! The suite `ipc`: the cost of folio's memory between processes beside its peers.
//!
//! A side is two processes, each pinned to a core of its own: one writes and the other reads. Costs
//! are the time that passes: the median of all trips, or of all batches of messages, and beside it
//! the slowest hundredth. The machine's floor, one word that bounces between the same two cores, is
//! measured in the same run.
//!
//! | file | subject |
//! | --- | --- |
//! | `trip.rs` | `rtt-spin`, `rtt-park` |
//! | `one_way.rs` | `one-way-64`, `one-way-64k` |
//! | `lock.rs`, `fan_out.rs` | `lock`, `fan-out-4` |
//! | `folio_side.rs` | all that is asked of folio |
//! | `bare.rs`, `pipe.rs`, `socket.rs`, `ipc_channel.rs`, `iceoryx.rs` | one peer each |
//! | `port.rs` | what each way of passing messages has to do |
//! | `pair.rs`, `cores.rs` | a side in two processes, on two cores |
//! | `shared.rs`, `ticks.rs` | bare shared memory, short times |

mod bare;
mod cores;
mod fan_out;
mod folio_side;
mod iceoryx;
mod ipc_channel;
mod lock;
mod one_way;
pub(crate) mod pair;
mod pipe;
mod port;
mod shared;
mod socket;
mod ticks;
mod trip;

use crate::Options;
use crate::measure::{self, Side};
use crate::report::Report;
use crate::suite::Group;
use anyhow::{Result, ensure};
use pair::{Pair, Work};
use std::cell::RefCell;
use std::rc::Rc;

/// Adds a side that two processes do.
fn pair_side(group: &mut Group<'_>, name: &'static str, work: Work) -> Result<()> {
    let pair: pair::Shared = Rc::new(RefCell::new(Pair::new(work)?));
    let note = Rc::clone(&pair);
    group.notes.push((name, Box::new(move || note.borrow().note())));
    group.sides.push(Side::new(name, move || pair.borrow_mut().sample()));
    Ok(())
}

/// The parts of a group: its case, the function that prepares it, and the seconds of a quick run.
struct Entry {
    case: &'static str,
    make: fn() -> Result<Group<'static>>,
    seconds: f64,
}

const GROUPS: &[Entry] = &[
    Entry { case: "rtt-spin", make: trip::spinning, seconds: 6.0 },
    Entry { case: "rtt-park", make: trip::parked, seconds: 8.0 },
    Entry { case: "one-way-64", make: one_way::small, seconds: 10.0 },
    Entry { case: "one-way-64k", make: one_way::large, seconds: 8.0 },
    Entry { case: "lock", make: lock::group, seconds: 4.0 },
    Entry { case: "fan-out-4", make: fan_out::group, seconds: 6.0 },
];

/// Runs the cases that `options` wants.
pub(crate) fn run(options: &Options, report: &mut Report) -> Result<()> {
    let names = || GROUPS.iter().map(|entry| entry.case).collect::<Vec<_>>().join(", ");
    ensure!(
        GROUPS.iter().any(|entry| options.wants(entry.case)),
        "no such case; there are {}",
        names()
    );
    let [first, second] = cores::two()?;
    report.remark(&format!("pinned to processors {first} and {second}"));
    let mut failed = Vec::new();
    for entry in GROUPS.iter().filter(|entry| options.wants(entry.case)) {
        let mut work = || {
            let mut group = (entry.make)()?;
            measure::warm_up(&mut group.sides)?;
            let rounds = measure::take_turns(&mut group.sides, options.seconds(entry.seconds))?;
            group.report(&rounds, options, report);
            Ok::<_, anyhow::Error>(())
        };
        // The other cases say something all the same.
        if let Err(error) = work() {
            report.remark(&format!("{}: failed: {error:#}", entry.case));
            failed.push(entry.case);
        }
    }
    report.explain(
        "ratio: folio's cost over the peer's, the median of all rounds; ±: half of the rounds lie as near.\n\
         Costs are medians of trips or of batches; cases that end in -p99 tell what the slowest hundredth took.",
    );
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
