//! folio measured beside its peers: `cargo compare SUITE [--quick] [--json]`.
//!
//! | file | subject |
//! | --- | --- |
//! | `measure.rs` | taking turns, medians, ratios |
//! | `report.rs` | the table, and JSON |
//! | `data.rs` | the files that are read |
//! | `suite.rs` | groups of sides, and what is reported of them |
//! | `process.rs` | a side in a process of its own |
//! | `kernel/` | the suite `kernel`: one file a group of cases |
//! | `pager/` | the suite `pager`: one file a group of cases |
//! | `ipc/` | the suite `ipc`: one file a group of cases, and one a peer |

mod data;
mod ipc;
mod kernel;
mod measure;
mod pager;
mod process;
mod report;
mod suite;

use anyhow::Result;
use clap::{Args, Parser, Subcommand};
use report::{Report, Style};
use std::path::PathBuf;

/// Runs folio and its peers in turn, and prints medians and ratios.
#[derive(Debug, Parser)]
#[command(name = "cargo compare", bin_name = "cargo compare")]
struct Command {
    #[command(subcommand)]
    suite: Suite,
}

#[derive(Debug, Subcommand)]
enum Suite {
    /// The kernel engine beside memmap2, mmap-rs, plain libc calls and pread.
    ///
    /// A ratio is folio's cost over the peer's: below 1, folio is cheaper. It is the median of the
    /// ratios of all rounds.
    Kernel(Options),
    /// The pager engine beside the kernel's own paging, the device, and the bare mechanisms it is
    /// made of.
    ///
    /// Both sides of a case that is larger than memory run in processes of their own, each in a
    /// memory cgroup with the same limit. A ratio is folio's cost over the peer's, the median of
    /// the ratios of all rounds.
    Pager(Options),
    /// Shared memory between processes beside pipes, Unix sockets, ipc-channel, iceoryx2 and
    /// pthread mutexes.
    ///
    /// A side is two processes, pinned to two cores. Costs are medians: half of the trips, or of
    /// the batches of messages, took as long or less; lines whose case ends in -p99 tell what the
    /// slowest hundredth took. A ratio is folio's cost over the peer's, the median of the ratios of
    /// all rounds.
    Ipc(Options),
    /// One of the two processes of a side of `ipc`: started by the suite.
    #[command(hide = true)]
    Party { job: String },
    /// One side of a case, in a process of its own: started by the suites.
    #[command(hide = true)]
    Worker { job: String },
}

/// The options of every suite.
#[derive(Debug, Args)]
struct Options {
    /// Fewer rounds: `kernel` is done within 50 seconds, `ipc` within 90, `pager` within 4 minutes.
    #[arg(long)]
    quick: bool,
    /// One JSON object a line instead of the table; remarks go to the error output.
    #[arg(long)]
    json: bool,
    /// Run only the cases whose names contain one of these.
    #[arg(long = "case", value_name = "NAME")]
    cases: Vec<String>,
    /// Where to put the test files (1 GiB, for `pager` 5 GiB, for `ipc` none) meanwhile; a
    /// directory on a disk.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Options {
    fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|part| case.contains(part.as_str()))
    }

    /// Seconds for a group of cases that gets `quick` seconds of a quick run.
    fn seconds(&self, quick: f64) -> f64 {
        if self.quick { quick } else { 4.0 * quick }
    }
}

fn main() -> Result<()> {
    let style = |options: &Options| if options.json { Style::Json } else { Style::Table };
    match Command::parse().suite {
        Suite::Kernel(options) => {
            kernel::run(&options, &mut Report::new("kernel", style(&options)))
        }
        Suite::Pager(options) => pager::run(&options, &mut Report::new("pager", style(&options))),
        Suite::Ipc(options) => ipc::run(&options, &mut Report::new("ipc", style(&options))),
        Suite::Party { job } => ipc::pair::serve(&job),
        Suite::Worker { job } => pager::worker::serve(&job),
    }
}
