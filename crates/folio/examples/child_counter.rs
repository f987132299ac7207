//! A counter that a parent and its forked child share, in anonymous memory or in a map of
//! `/dev/zero`.
//!
//! Run: `cargo run -p folio --example child_counter -- anonymous` (or `dev-zero`)

use folio::SharedMem;
use rustix::process::{Pid, WaitOptions, waitpid};
use std::error::Error;
use std::process::ExitCode;
use std::sync::atomic::{AtomicI32, Ordering};
use std::{env, io};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("child_counter: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let memory = match env::args().nth(1).as_deref() {
        Some("anonymous") => SharedMem::anonymous(size_of::<AtomicI32>())?,
        Some("dev-zero") => SharedMem::dev_zero(size_of::<AtomicI32>())?,
        _ => return Err("usage: child_counter anonymous|dev-zero".into()),
    };
    let counter: &AtomicI32 = memory.atomic(0)?;
    counter.store(1, Ordering::Relaxed);

    // SAFETY: this process has one thread, so no lock is held by another and the child may use
    // everything.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            println!("child started, value = {}", counter.load(Ordering::Relaxed));
            counter.fetch_add(1, Ordering::Relaxed);
            // The child's map ends with it; the parent's stays.
            Ok(())
        }
        child => {
            let status = waitpid(Pid::from_raw(child), WaitOptions::empty())?.ok_or("no child")?.1;
            if status.exit_status() != Some(0) {
                return Err("the child failed".into());
            }
            println!("in parent, value = {}", counter.load(Ordering::Relaxed));
            Ok(())
        }
    }
}
