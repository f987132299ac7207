//! The temporary file of an output that is not complete: a signal that ends the process removes it
//! first.
#![allow(unsafe_code)]

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

/// The file, while it has its temporary name. The thread that a signal wakes keeps the lock until
/// the process ends, so no file is made or renamed behind it.
static FILE: Mutex<Option<PathBuf>> = Mutex::new(None);

fn file() -> MutexGuard<'static, Option<PathBuf>> {
    FILE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes a file with a temporary name, and has it removed if a signal ends the process before
/// [`rename`] or [`remove`].
pub(crate) fn make<T>(create: impl FnOnce() -> io::Result<(T, PathBuf)>) -> io::Result<T> {
    watch();
    let mut file = file();
    let (made, path) = create()?;
    *file = Some(path);
    Ok(made)
}

/// Gives the file its name; `false` if none has been made.
pub(crate) fn rename(target: &Path) -> io::Result<bool> {
    let mut file = file();
    let Some(temporary) = &*file else { return Ok(false) };
    std::fs::rename(temporary, target)?;
    *file = None;
    Ok(true)
}

/// Removes the file, if it still has its temporary name.
pub(crate) fn remove() {
    if let Some(temporary) = file().take() {
        let _ = std::fs::remove_file(temporary);
    }
}

/// Starts the thread that the signals wake.
fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let deadly = [SIGHUP, SIGINT, SIGTERM].into_iter().filter(|&signal| !is_ignored(signal));
        // Without the thread a signal only leaves the temporary file behind.
        let Ok(mut signals) = Signals::new(deadly) else { return };
        let wait = move || {
            let Some(signal) = signals.forever().next() else { return };
            let mut file = file();
            if let Some(temporary) = file.take() {
                let _ = std::fs::remove_file(temporary);
            }
            let _ = emulate_default_handler(signal);
        };
        let _ = std::thread::Builder::new().name("folio-signals".into()).spawn(wait);
    });
}

/// Whether the starter had the signal ignored, as nohup(1) does with SIGHUP: then it stays ignored.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: all bytes zero is a `sigaction`.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action the call only stores the present one to `action`, which lives
    // here.
    let result = unsafe { libc::sigaction(signal, std::ptr::null(), &raw mut action) };
    result == 0 && action.sa_sigaction == libc::SIG_IGN
}
