//! All the pager's tests again, in each way in which faults can come and pages can move: this test program runs itself, with
//! `FOLIO_DELIVERY` and `FOLIO_FEATURES` set.
//!
//! The first run is as the machine is; every delivery and every feature's second way is in one of the others. They take fewer steps
//! each (`FOLIO_EFFORT`, in percent). One way alone: `FOLIO_DELIVERY=signal cargo test -p folio --test pager`.

use crate::common::skip;
use folio::Pager;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One after the other: each run has threads enough of its own.
static ONE: Mutex<()> = Mutex::new(());

/// Long after any run has ended.
const PATIENCE: Duration = Duration::from_secs(900);

fn set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// Runs every test but these with faults that come as `delivery`, without `features`.
fn all_tests_pass(delivery: &str, features: &str) {
    if set("FOLIO_DELIVERY") || set("FOLIO_FEATURES") {
        return skip("this run is one way already");
    }
    if let Err(error) = Pager::builder().delivery(delivery).features(features).build() {
        return skip(&error.to_string());
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let output = tempfile::NamedTempFile::new().unwrap();
    let writer = || Stdio::from(File::options().append(true).open(output.path()).unwrap());
    let effort = std::env::var("FOLIO_EFFORT").unwrap_or_else(|_| "25".to_owned());
    let mut run = Command::new(std::env::current_exe().unwrap())
        .args(["--skip", "ways::"])
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
        Some(_) => assert!(passed > 80, "{way}: only {passed} tests ran\n{said}"),
    }
    // What it skipped, straight to the descriptor, as `skip` does.
    for line in said.lines().filter(|line| line.starts_with("skipped ")) {
        let _ = writeln!(std::io::stderr(), "{line} ({way})");
    }
}

#[test]
fn all_tests_pass_where_faults_come_from_the_device_and_files_are_read_by_threads() {
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
fn all_tests_pass_without_poison_and_huge_pages_where_stores_to_shared_memory_are_signals() {
    all_tests_pass("uffd", "-poison,-huge,-thread_id,-wp_shmem");
}

#[test]
fn all_tests_pass_where_all_stores_are_signals_and_loads_are_not() {
    all_tests_pass("uffd", "-wp,-minor");
}
