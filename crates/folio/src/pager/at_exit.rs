//! Stored bytes reach their source when the program ends by exit(3), or by the end of `main`.
//!
//! Kernel maps keep their stores however the process ends. A pager's dirty pages are memory of the
//! process: so a function of atexit(3) writes them, for at most [`BOUND`]. It is registered with
//! the first writable map, and such functions run in the reverse order of their registration: those
//! that the program registered later run before.
//!
//! Source: atexit(3), exit(3).

use super::command::{Command, CommandQueue, CommandResult};
use super::core::{CoreEvent, ObjectId};
use crate::sys::per_process::PerProcess;
use crate::sys::{self, identity, thread};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long the end of the program waits for all maps together.
const BOUND: Duration = Duration::from_secs(10);

/// A writable object that is mapped, or whose last handle is being dropped.
struct WritableObjects {
    number: u64,
    inbox: Arc<CommandQueue>,
    object: ObjectId,
    name: String,
}

static WRITTEN: PerProcess<Mutex<Vec<WritableObjects>>> = PerProcess::new();

/// An object whose stores are written at the end of the program. It ends when they are written, or
/// lost.
#[derive(Debug)]
pub(super) struct ExitFlush {
    number: u64,
    process: u64,
}

impl ExitFlush {
    pub(super) fn new(inbox: &Arc<CommandQueue>, object: ObjectId, name: &str) -> Self {
        static LAST: AtomicU64 = AtomicU64::new(0);
        // A forked child inherits the function with this.
        static REGISTERED: AtomicBool = AtomicBool::new(false);
        if !REGISTERED.swap(true, Ordering::AcqRel) {
            // SAFETY: the function takes and returns nothing, does not unwind, and lives as long as
            // the process. Where there is no memory to note it, stores are written by `sync` and on
            // drop only.
            let _ = unsafe { libc::atexit(flush_all) };
        }
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let written =
            WritableObjects { number, inbox: Arc::clone(inbox), object, name: name.to_owned() };
        WRITTEN.get().lock().unwrap_or_else(PoisonError::into_inner).push(written);
        Self { number, process: identity::token() }
    }
}

impl Drop for ExitFlush {
    fn drop(&mut self) {
        // A child has a list of its own.
        if self.process == identity::token() {
            let mut all = WRITTEN.get().lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|written| written.number != self.number);
        }
    }
}

/// The C library calls this. A thread that serves a source cannot wait for that source, so an exit
/// from there writes nothing.
extern "C" fn flush_all() {
    if !thread::is_own() && catch_unwind(AssertUnwindSafe(flush_within_bound)).is_err() {
        sys::say(format_args!("the program ended before stored bytes were written"));
    }
}

fn flush_within_bound() {
    let end = Instant::now() + BOUND;
    let all = loop {
        match WRITTEN.get().try_lock() {
            Ok(all) => break all,
            Err(TryLockError::Poisoned(all)) => break all.into_inner(),
            // The list's lock is held for moments, unless its holder is the very thread that exits,
            // in a signal handler.
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => return,
        }
    };
    let asked: Vec<(String, Receiver<CommandResult>)> =
        all.iter().map(WritableObjects::sync).collect();
    drop(all);
    for (name, outcome) in asked {
        match outcome.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => {
                sys::say(format_args!("{name}: stored bytes are lost: {}", failure.reason));
            }
            Err(_) => {
                sys::say(format_args!(
                    "{name}: stored bytes may be lost: they were not written in time"
                ));
            }
        }
    }
}

impl WritableObjects {
    /// Starts to make all that was stored durable.
    fn sync(&self) -> (String, Receiver<CommandResult>) {
        let object = self.object;
        let make =
            move |ticket| CoreEvent::Sync { object, first: 0, end: u64::MAX, flush: true, ticket };
        let (reply, outcome) = sync_channel(1);
        self.inbox.send(Command::Ask(Box::new(make), reply));
        (self.name.clone(), outcome)
    }
}
