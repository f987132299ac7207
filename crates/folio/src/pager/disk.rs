//! Reads and writes of local files for a shard: by io_uring where it is allowed, else by a pool of threads with pread and
//! pwrite.

use super::inbox::Inbox;
use crate::source::request::Sink;
use crate::source::workers::Workers;
use crate::sys::ring::Ring;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

/// Operations that a ring's queue holds before it is submitted.
const ENTRIES: u32 = 256;
/// Threads without a ring: what a disk's queue can use.
const THREADS: usize = 16;

pub(super) enum Disk {
    Ring(Box<Ring>),
    Threads(Workers, Arc<Inbox>),
}

/// One operation on memory that stays the operation's until it ends.
#[derive(Clone, Copy)]
pub(super) enum Operation {
    Read { fd: RawFd, to: *mut u8, len: usize, offset: u64 },
    Write { fd: RawFd, from: *const u8, len: usize, offset: u64 },
    Sync { fd: RawFd },
}

// SAFETY: the memory is the operation's alone until it ends, whichever thread performs it.
unsafe impl Send for Operation {}

impl Operation {
    fn perform(self) -> io::Result<usize> {
        loop {
            // SAFETY: `Disk::start`'s caller promised the memory and the descriptor.
            let done = unsafe {
                match self {
                    Self::Read { fd, to, len, offset } => {
                        libc::pread64(fd, to.cast(), len, offset.cast_signed())
                    }
                    Self::Write { fd, from, len, offset } => {
                        libc::pwrite64(fd, from.cast(), len, offset.cast_signed())
                    }
                    Self::Sync { fd } => libc::fdatasync(fd) as isize,
                }
            };
            match usize::try_from(done) {
                Ok(done) => return Ok(done),
                Err(_) if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Err(io::Error::last_os_error()),
            }
        }
    }
}

impl Disk {
    pub(super) fn new(ring: bool, inbox: &Arc<Inbox>) -> Self {
        match ring.then(|| Ring::new(ENTRIES)) {
            Some(Ok(ring)) => Self::Ring(Box::new(ring)),
            _ => Self::Threads(Workers::new(THREADS), Arc::clone(inbox)),
        }
    }

    /// Starts an operation. Its end comes by [`completed`](Self::completed), or to the inbox.
    ///
    /// # Safety
    ///
    /// Until it ends, the memory is mapped and the operation's alone, and the descriptor stays open.
    pub(super) unsafe fn start(&mut self, operation: Operation, id: u64) -> io::Result<()> {
        match self {
            Self::Ring(ring) => match operation {
                // SAFETY: the caller's promise. The kernel takes at most a 32-bit length; a run is 2 MiB.
                Operation::Read { fd, to, len, offset } => unsafe {
                    ring.push_read(fd, to, len as u32, offset, id)
                },
                // SAFETY: as above.
                Operation::Write { fd, from, len, offset } => unsafe {
                    ring.push_write(fd, from, len as u32, offset, id)
                },
                Operation::Sync { fd } => ring.push_fdatasync(fd, id),
            },
            Self::Threads(workers, inbox) => {
                let inbox = Arc::clone(inbox);
                workers.run(move || inbox.ended(id, operation.perform()));
                Ok(())
            }
        }
    }

    /// Hands over what was started.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Ring(ring) => ring.submit(),
            Self::Threads(..) => Ok(()),
        }
    }

    /// An operation that has ended.
    pub(super) fn completed(&mut self) -> Option<(u64, io::Result<usize>)> {
        let Self::Ring(ring) = self else { return None };
        let done = ring.completed()?;
        let result = usize::try_from(done.result)
            .map_err(|_| io::Error::from(Errno::from_raw_os_error(done.result.saturating_neg())));
        Some((done.user, result))
    }

    pub(super) fn poll_fd(&self) -> Option<RawFd> {
        match self {
            Self::Ring(ring) => Some(ring.as_raw_fd()),
            Self::Threads(..) => None,
        }
    }
}
