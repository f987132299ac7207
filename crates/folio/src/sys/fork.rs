//! What fork(2) must not cut in two, and descriptors that a child must not have.
//!
//! A descriptor that holds a [lock](super::byte_lock) for its process is shared with forked
//! children: the lock would outlive a killed parent as long as one of them lives. So a child closes
//! its copies before anything else runs in it (pthread_atfork(3)). A child made by clone(2) without
//! the C library keeps them until it ends or calls exec.

use super::fork_mutex::ForkMutex;
use std::cell::Cell;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// What forks find.
struct Forks {
    /// Whether the handlers are there.
    handled: bool,
    /// How many forks have begun.
    #[cfg(feature = "pager")]
    begun: u64,
    /// The descriptors that children do not keep.
    own: Vec<RawFd>,
}

/// Held by a thread that forks, and by whoever changes what a child finds.
static FORKING: ForkMutex<Forks> = ForkMutex::with(Forks {
    handled: false,
    #[cfg(feature = "pager")]
    begun: 0,
    own: Vec::new(),
});

/// Runs `work` while no thread of this process forks, and no other thread is in here. Short, and
/// never from within itself.
pub(crate) fn held_off<R>(work: impl FnOnce(&mut NotForked) -> R) -> R {
    let mut held = FORKING.lock();
    if !held.handled {
        // SAFETY: the three functions have the signature that is asked for, and live as long as the
        // process. Where there is no memory to note them a child keeps its copies, which is what a
        // program without the call would have.
        let noted = unsafe { libc::pthread_atfork(Some(before), Some(after), Some(in_child)) };
        // Not before: the call waits for a thread that forks, whose child has none of them. One
        // that is forked in between may have them twice, which they bear.
        held.handled = noted == 0;
    }
    work(&mut NotForked(&mut held))
}

/// Opens a descriptor that forked children do not keep. Threads may fork while `open` runs, since
/// it may wait for a file system; it runs again if one did.
#[cfg(feature = "pager")]
pub(crate) fn open_own<E>(open: impl Fn() -> Result<OwnedFd, E>) -> Result<OwnFd, E> {
    /// Forks in a row that are waited out.
    const TRIES: usize = 64;
    for _ in 0..TRIES {
        let begun = held_off(|forks| forks.0.begun);
        let fd = open()?;
        let kept = held_off(|forks| {
            if forks.0.begun == begun { Ok(forks.keep_from_children(fd)) } else { Err(fd) }
        });
        match kept {
            Ok(own) => return Ok(own),
            // Some child has a copy.
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

    /// From now on forked children keep the descriptor again: for one that it may take long to
    /// close.
    pub(crate) fn release(&mut self, mut fd: OwnFd) -> Option<OwnedFd> {
        let number = fd.0.as_raw_fd();
        let at = self.0.own.iter().position(|&own| own == number)?;
        self.0.own.swap_remove(at);
        // SAFETY: taken out once, here, and `fd` is not used again.
        Some(unsafe { std::mem::ManuallyDrop::take(&mut fd.0) })
    }
}

/// A descriptor of this process alone. In a forked child it is closed already, and its number may
/// be anyone's. It has no `Drop`: [`NotForked::close`] closes it.
#[derive(Debug)]
pub(crate) struct OwnFd(std::mem::ManuallyDrop<OwnedFd>);

impl OwnFd {
    /// The descriptor, for the process that opened it.
    pub(crate) fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&*self.0)
    }
}

thread_local! {
    /// Whether this thread forks, and holds the gate for it.
    static FORKS: Cell<bool> = const { Cell::new(false) };
}

extern "C" fn before() {
    if !FORKS.replace(true) {
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
    if FORKS.replace(false) {
        // SAFETY: `before` took it, in this thread.
        unsafe { FORKING.unlock() };
    }
}

extern "C" fn in_child() {
    FORKS.set(false);
    // The holder was the parent, and so is no holder here.
    let mut forks = FORKING.lock();
    for fd in forks.own.drain(..) {
        // SAFETY: this process's copy of a descriptor that `keep_from_children` took; no value of
        // this process closes it.
        drop(unsafe { OwnedFd::from_raw_fd(fd) });
    }
}

#[cfg(test)]
mod tests {
    use super::{after, before, held_off, in_child};

    #[test]
    fn a_child_that_has_the_handlers_twice_forks_like_any_other() {
        // SAFETY: each child has one thread, and ends by a system call; it is not to wait for ever.
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
