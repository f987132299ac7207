//! Sections that fork(2) must not interrupt, and descriptors that a child must not have.
//!
//! Forked children share a descriptor that holds a [lock](super::ofd_lock) for its process. The
//! lock would outlive a killed parent as long as one of them lives. So a child closes its copies
//! before anything else runs in it (pthread_atfork(3)). A child made by clone(2) without the C
//! library keeps them until it ends or calls exec.

use super::fork_mutex::ForkMutex;
use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The state that forks use.
struct Forks {
    /// Whether the fork handlers are registered.
    handled: bool,
    /// The number of forks that have begun.
    #[cfg(feature = "pager")]
    begun: u64,
    /// The descriptors that children do not keep.
    own: Vec<RawFd>,
}

/// A thread holds this lock while it forks, or while it changes state that a child inherits.
static FORKING: ForkMutex<Forks> = ForkMutex::with(Forks {
    handled: false,
    #[cfg(feature = "pager")]
    begun: 0,
    own: Vec::new(),
});

/// Runs `work` while no thread of this process forks, and while no other thread runs such a
/// section. `work` must be short, and must not call this function.
pub(crate) fn held_off<R>(work: impl FnOnce(&mut NotForked) -> R) -> R {
    let mut held = FORKING.lock();
    if !held.handled {
        // SAFETY: the three functions have the signature that pthread_atfork(3) requires, and live
        // as long as the process. Without memory to register them a child keeps its copies, as in a
        // program without the call.
        let noted = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
        // Set after the call, because the call waits for a thread that forks, and the child of that
        // thread has no handlers. A child that is forked between the call and this line may
        // register them twice; the handlers allow that.
        held.handled = noted == 0;
    }
    work(&mut NotForked(&mut held))
}

/// Opens a descriptor that forked children do not keep. Threads may fork while `open` runs, since
/// it may wait for a file system. If one did, `open` runs again.
#[cfg(feature = "pager")]
pub(crate) fn open_own<E>(open: impl Fn() -> Result<OwnedFd, E>) -> Result<OwnFd, E> {
    /// The number of forks in a row after which the function blocks forks.
    const MAX_FORKS: usize = 64;
    for _ in 0..MAX_FORKS {
        let begun = held_off(|forks| forks.0.begun);
        let fd = open()?;
        let kept = held_off(|forks| {
            if forks.0.begun == begun { Ok(forks.keep_from_children(fd)) } else { Err(fd) }
        });
        match kept {
            Ok(own) => return Ok(own),
            // A child has a copy.
            Err(shared) => drop(shared),
        }
    }
    held_off(|forks| open().map(|fd| forks.keep_from_children(fd)))
}

/// The list of descriptors that forked children do not keep.
pub(crate) struct NotForked<'a>(&'a mut Forks);

impl NotForked<'_> {
    /// From now on every forked child closes its copy of `fd` at once. No thread may have forked
    /// since it was opened, as within one [`held_off`].
    pub(crate) fn keep_from_children(&mut self, fd: OwnedFd) -> OwnFd {
        self.0.own.push(fd.as_raw_fd());
        OwnFd(std::mem::ManuallyDrop::new(fd))
    }

    /// Closes a descriptor that children did not get.
    #[cfg(feature = "shm")]
    pub(crate) fn close(&mut self, fd: OwnFd) {
        drop(self.release(fd));
    }

    /// From now on forked children keep the descriptor again. For a descriptor that may take long
    /// to close.
    pub(crate) fn release(&mut self, mut fd: OwnFd) -> Option<OwnedFd> {
        let number = fd.0.as_raw_fd();
        let at = self.0.own.iter().position(|&own| own == number)?;
        self.0.own.swap_remove(at);
        // SAFETY: the descriptor is taken out only here, and `fd` is not used again.
        Some(unsafe { std::mem::ManuallyDrop::take(&mut fd.0) })
    }
}

/// A descriptor of this process alone. In a forked child it is closed already, and its number may
/// name any other file. It has no `Drop`: [`NotForked::close`] closes it.
#[derive(Debug)]
pub(crate) struct OwnFd(std::mem::ManuallyDrop<OwnedFd>);

impl OwnFd {
    /// The descriptor, for the process that opened it.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&*self.0)
    }
}

thread_local! {
    /// Whether this thread forks, and holds `FORKING` for it.
    static IS_FORKING: Cell<bool> = const { Cell::new(false) };
}

extern "C" fn before() {
    if !IS_FORKING.replace(true) {
        #[cfg_attr(
            not(feature = "pager"),
            expect(unused_mut, reason = "only the pager counts forks")
        )]
        let mut held = FORKING.lock();
        #[cfg(feature = "pager")]
        {
            held.begun += 1;
        }
        std::mem::forget(held);
    }
}

extern "C" fn after() {
    if IS_FORKING.replace(false) {
        // SAFETY: `before` took the lock in this thread, and its guard was forgotten.
        unsafe { FORKING.unlock() };
    }
}

extern "C" fn in_child() {
    IS_FORKING.set(false);
    // The parent process held the lock. The lock does not count it as a holder in this process.
    let mut forks = FORKING.lock();
    for fd in forks.own.drain(..) {
        // SAFETY: the descriptor is this process's copy of one that `keep_from_children` took; no
        // value of this process closes it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

#[cfg(test)]
mod tests {
    use super::{after, before, held_off, in_child};

    #[test]
    fn a_child_that_registers_the_handlers_twice_can_fork() {
        // SAFETY: each child has one thread, and ends by a system call. The alarm ends a child that
        // waits for ever.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::alarm(20);
                held_off(|_| ());
                libc::pthread_atfork(Some(before), Some(after), Some(in_child));
                let grandchild = libc::fork();
                held_off(|_| ());
                let mut status = 0;
                let is_well = grandchild == 0
                    || (libc::waitpid(grandchild, &raw mut status, 0) == grandchild && status == 0);
                libc::_exit(i32::from(!is_well));
            }
            let mut status = 0;
            assert_eq!((libc::waitpid(child, &raw mut status, 0), status), (child, 0));
        }
    }
}
