//! The pager's tests again, in each way in which faults can come and pages can move: this test
//! program runs itself, with `FOLIO_DELIVERY` and `FOLIO_FEATURES` set.
//!
//! The first run is as the machine is; every delivery and every feature's second way is in one of
//! the others. With `FOLIO_THOROUGH=1` they run all tests, with fewer steps each; else those of
//! [`PART`]. All tests in one way: `FOLIO_DELIVERY=signal cargo test -p folio --test pager`.

use crate::common::effort::is_thorough;
use crate::common::skip;
use crate::given::is_one_way;
use folio::Pager;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The tests that run in each way by default.
const PART: [&str; 4] =
    ["contract::", "differential::", "stress::writers_of", "stress::private_writers"];

/// One after the other: each run has threads enough of its own.
static ONE: Mutex<()> = Mutex::new(());

/// Long after any run has ended.
const PATIENCE: Duration = Duration::from_secs(900);

/// Runs the tests with faults that come as `delivery`, without `features`.
fn all_tests_pass(delivery: &str, features: &str) {
    if is_one_way() {
        return;
    }
    if let Err(error) = Pager::builder().delivery(delivery).features(features).build() {
        return skip(&error.to_string());
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = tempfile::NamedTempFile::new().unwrap();
    let writer = || Stdio::from(File::options().append(true).open(output.path()).unwrap());
    let (tests, effort, fewest): (&[&str], _, _) =
        if is_thorough() { (&["--skip", "ways::"], "25", 150) } else { (&PART, "3", 40) };
    let effort = std::env::var("FOLIO_EFFORT").unwrap_or_else(|_| effort.to_owned());
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(tests)
        .env("FOLIO_DELIVERY", delivery)
        .env("FOLIO_FEATURES", features)
        .env("FOLIO_EFFORT", effort)
        .stdin(Stdio::null())
        .stdout(writer())
        .stderr(writer())
        .spawn()
        .unwrap();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        match run.try_wait().unwrap() {
            Some(status) => break Some(status),
            None if Instant::now() > end => {
                run.kill().unwrap();
                run.wait().unwrap();
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let said = String::from_utf8_lossy(&std::fs::read(output.path()).unwrap()).into_owned();
    let passed = said.lines().filter(|line| line.ends_with("... ok")).count();
    let way = format!("FOLIO_DELIVERY={delivery} FOLIO_FEATURES={features}");
    match status {
        None => panic!("{way}: no end after {PATIENCE:?}\n{said}"),
        Some(status) if !status.success() => panic!("{way}: {status}\n{said}"),
        Some(_) => assert!(passed >= fewest, "{way}: only {passed} tests ran\n{said}"),
    }
    // Its skipped tests, straight to the descriptor, as `skip` writes them.
    for line in said.lines().filter(|line| line.starts_with("skipped ")) {
        let _ = writeln!(std::io::stderr(), "{line} ({way})");
    }
}

#[test]
fn all_tests_pass_with_faults_from_the_device_and_files_read_by_threads() {
    all_tests_pass("device", "-io_uring");
}

#[test]
fn all_tests_pass_where_faults_are_of_user_code_only() {
    all_tests_pass("user-mode-only", "");
}

#[test]
fn all_tests_pass_where_faults_are_signals() {
    all_tests_pass("signal", "");
}

#[test]
fn all_tests_pass_without_moving_pages() {
    all_tests_pass("uffd", "-move");
}

#[test]
fn all_tests_pass_without_poison_huge_pages_and_wp_of_shared_memory() {
    all_tests_pass("uffd", "-poison,-huge,-thread_id,-wp_shmem");
}

#[test]
fn all_tests_pass_where_all_stores_are_signals_and_loads_are_not() {
    all_tests_pass("uffd", "-wp,-minor");
}
