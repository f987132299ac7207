//! A guard: while a closure runs, a page of the map that cannot be supplied is replaced by a zero page instead of killing
//! the process; then the closure's result is thrown away, and the fault returned instead.
//!
//! Wayland's `wl_shm_buffer_begin_access` is the model. The replacement is seen by the whole process, and undone when
//! the last guard of the map ends; checked copies meanwhile notice it and never return its zeros.

use crate::sys::copy::Trap;
use crate::sys::replace::Guarded;
use crate::sys::replaced::CloneBy;
use crate::sys::signal;
use std::ops::Range;

/// Runs `work` with the pages of `pages` guarded. `Err` if one that holds a byte of `range` was replaced meanwhile, by
/// whatever thread's access. `by` is how the map's areas can be cloned meanwhile.
pub(crate) fn guarded<R>(
    guard: &Guarded,
    pages: &Range<usize>,
    shift: u32,
    by: CloneBy,
    range: &Range<usize>,
    work: impl FnOnce() -> R,
) -> Result<R, Trap> {
    /// Ends the guard on every way out, a panic included.
    struct Open<'a> {
        guard: &'a Guarded,
        range: &'a Range<usize>,
    }
    impl Open<'_> {
        fn close(self) -> Option<Trap> {
            let this = std::mem::ManuallyDrop::new(self);
            this.guard.close(this.range)
        }
    }
    impl Drop for Open<'_> {
        fn drop(&mut self) {
            self.guard.close(self.range);
        }
    }

    if pages.is_empty() {
        return Ok(work());
    }
    signal::ensure();
    guard.open(pages, shift, by);
    let open = Open { guard, range };
    let result = work();
    match open.close() {
        None => Ok(result),
        Some(trap) => Err(trap),
    }
}
