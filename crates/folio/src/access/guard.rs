//! A guard: while a closure runs, a page of the map that cannot be supplied is replaced by a zero
//! page instead of killing the process; then the closure's result is thrown away, and the fault
//! returned instead.
//!
//! Wayland's `wl_shm_buffer_begin_access` is the model. The replacement is seen by the whole
//! process, and undone when the last guard of the map ends; checked copies meanwhile notice it and
//! never return its zeros.

use crate::error::{Errno, Error, Subject};
use crate::sys::copy::Trap;
use crate::sys::guard_table::{Guarded, NotOpened};
use crate::sys::shadow::CloneBy;
use crate::sys::signal;
use crate::sys::spare::Stores;
use std::ops::Range;

impl NotOpened {
    /// The error of a call whose guard could not be opened.
    #[cold]
    pub(crate) fn error(self, call: &'static str, subject: Subject) -> Error {
        match self {
            Self::NoSpare(errno) => Error::rule_as(
                errno,
                call,
                subject,
                "a guard needs as many spare addresses as the map has, for the case that pages are missing at a limit of the \
                 process, and the kernel refuses them",
                "raise RLIMIT_AS (or RLIMIT_MEMLOCK under mlockall), map a smaller part, or use read_at",
            ),
            Self::NoAreas(errno) => Error::rule_as(
                errno,
                call,
                subject,
                "a guard needs some spare VMAs, for the case that pages are missing, and the process is at a limit of them or \
                 of its addresses",
                "raise vm.max_map_count or RLIMIT_AS, unmap something, or use read_at",
            ),
            Self::GivenUp(_) => Error::rule_as(
                Errno::IO,
                call,
                subject,
                "the map was given up at a limit of the process when pages were missing",
                "make the map anew",
            ),
        }
    }
}

/// Why a guard has no result.
pub(crate) enum NoResult {
    /// `work` did not run.
    NotOpened(NotOpened),
    /// `work` saw a zero page.
    Replaced(Trap),
}

/// Runs `work` with the pages of `pages` guarded. `Err` if one that holds a byte of `range` was
/// replaced meanwhile, by whatever thread's access. `by` is how the map's areas can be cloned
/// meanwhile, and `stores` which stores they take.
pub(crate) fn guarded<R>(
    guard: &Guarded,
    pages: &Range<usize>,
    shift: u32,
    by: CloneBy,
    stores: Stores,
    range: &Range<usize>,
    work: impl FnOnce() -> R,
) -> Result<R, NoResult> {
    /// Ends the guard on every way out, a panic included.
    struct GuardScope<'a> {
        guard: &'a Guarded,
        range: &'a Range<usize>,
    }
    impl GuardScope<'_> {
        fn close(self) -> Option<Trap> {
            let this = std::mem::ManuallyDrop::new(self);
            this.guard.close(this.range)
        }
    }
    impl Drop for GuardScope<'_> {
        fn drop(&mut self) {
            self.guard.close(self.range);
        }
    }

    if pages.is_empty() {
        return Ok(work());
    }
    signal::ensure();
    guard.open(pages, shift, by, stores).map_err(NoResult::NotOpened)?;
    let open = GuardScope { guard, range };
    let result = work();
    match open.close() {
        None => Ok(result),
        Some(trap) => Err(NoResult::Replaced(trap)),
    }
}
