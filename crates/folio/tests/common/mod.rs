//! Support code that the test binaries share.

#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of this")]

mod child;
pub(crate) mod effort;
mod files;
pub(crate) mod kill_sweep;
pub(crate) mod random;
pub(crate) mod segment_dir;
mod skip;

pub(crate) use child::*;
pub(crate) use files::*;
pub(crate) use skip::skip;

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs `work`. If it has not ended after `limit`, the state of each thread is printed, then
/// `state`, and the process aborts: a thread that waits for a page cannot be ended in any other
/// way.
pub(crate) fn within<R>(
    limit: Duration,
    state: impl FnOnce() -> String + Send,
    work: impl FnOnce() -> R,
) -> R {
    let (ended, end) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            if end.recv_timeout(limit) != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            let mut error = std::io::stderr();
            let _ = writeln!(error, "no end after {limit:?}:");
            for task in std::fs::read_dir("/proc/self/task").unwrap().filter_map(Result::ok) {
                let part = |name: &str| {
                    std::fs::read_to_string(task.path().join(name)).unwrap_or_default()
                };
                let status = part("status");
                let lines = status
                    .lines()
                    .filter(|line| line.starts_with("Name:") || line.starts_with("State:"));
                let lines: Vec<_> = lines.collect();
                let _ =
                    writeln!(error, "{} in {}\n{}", lines.join(" "), part("wchan"), part("stack"));
            }
            let _ = writeln!(error, "{}", state());
            std::process::abort();
        });
        let result = work();
        drop(ended);
        result
    })
}

/// The machine's page, in bytes.
pub(crate) fn page() -> usize {
    folio::PageSize::system().bytes()
}

/// `count` pages of bytes that differ from page to page and within each.
pub(crate) fn pattern(count: usize) -> Vec<u8> {
    (0..count * page()).map(|i| (i / page() * 31 + i % 251) as u8 | 1).collect()
}

/// The error of a call that must fail with `errno`. Its text has each of `fragments` and none of
/// `wrong`.
#[track_caller]
pub(crate) fn says<T>(
    result: folio::Result<T>,
    errno: folio::Errno,
    fragments: &[&str],
    wrong: &[&str],
) -> folio::Error {
    let error = result.map(drop).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.errno(), errno, "{text}");
    for fragment in fragments {
        assert!(text.contains(fragment), "{fragment:?} is missing in: {text}");
    }
    for fragment in wrong {
        assert!(!text.contains(fragment), "{fragment:?} is in: {text}");
    }
    error
}

/// A command that runs one of the examples, which cargo builds beside the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let profile = tests.parent().and_then(Path::parent).unwrap();
    Command::new(profile.join("examples").join(name))
}
