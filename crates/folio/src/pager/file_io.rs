//! Reads and writes of local files for the driver: by io_uring where it is allowed, else by a pool
//! of threads with pread and pwrite.

use super::command::CommandQueue;
use crate::pager::sys::io_uring::Ring;
use crate::source::request::Sink;
use crate::source::workers::Workers;
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// Operations that a ring's queue holds before it is submitted.
const ENTRIES: u32 = 256;
/// Threads without a ring: as many as a disk's queue can use.
const THREADS: usize = 16;

pub(super) enum FileIo {
    Ring(Box<Ring>, PollWatch),
    Threads(Workers, Arc<CommandQueue>),
}

/// Descriptors that are waited for at most.
pub(super) const WATCHED: usize = 4;
/// The polls' numbers in the ring: no operation's.
const POLLS: u64 = u64::MAX - 16;

/// The descriptors that the ring polls beside its operations.
#[derive(Default)]
pub(super) struct PollWatch {
    /// By place: the descriptor whose poll goes on.
    armed: [Option<RawFd>; WATCHED],
    fired: [bool; WATCHED],
    /// The kernel's io_uring has no polls that go on, or no waits that end.
    refused: bool,
}

/// One operation on memory that stays the operation's until it ends.
#[derive(Clone, Copy)]
pub(super) enum FileOperation {
    Read { fd: RawFd, to: *mut u8, len: usize, offset: u64 },
    Write { fd: RawFd, from: *const u8, len: usize, offset: u64 },
    Sync { fd: RawFd },
}

// SAFETY: the memory is the operation's alone until it ends, whichever thread performs it.
unsafe impl Send for FileOperation {}

impl FileOperation {
    fn perform(self) -> io::Result<usize> {
        loop {
            // SAFETY: `FileIo::start`'s caller promised the memory and the descriptor.
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

impl FileIo {
    pub(super) fn new(ring: bool, inbox: &Arc<CommandQueue>) -> Self {
        match ring.then(|| Ring::new(ENTRIES)) {
            Some(Ok(ring)) => Self::Ring(Box::new(ring), PollWatch::default()),
            _ => Self::Threads(Workers::new(THREADS), Arc::clone(inbox)),
        }
    }

    /// Starts an operation. Its end comes by [`completed`](Self::completed), or to the command
    /// queue.
    ///
    /// # Safety
    ///
    /// Until it ends, the memory is mapped and the operation's alone, and the descriptor stays
    /// open.
    pub(super) unsafe fn start(&mut self, operation: FileOperation, id: u64) -> io::Result<()> {
        match self {
            Self::Ring(ring, _) => match operation {
                // SAFETY: the caller's promise. The kernel takes at most a 32-bit length; a run is
                // 2 MiB.
                FileOperation::Read { fd, to, len, offset } => unsafe {
                    ring.push_read(fd, to, len as u32, offset, id)
                },
                // SAFETY: as above.
                FileOperation::Write { fd, from, len, offset } => unsafe {
                    ring.push_write(fd, from, len as u32, offset, id)
                },
                FileOperation::Sync { fd } => ring.push_fdatasync(fd, id),
            },
            Self::Threads(workers, inbox) => {
                let inbox = Arc::clone(inbox);
                workers.run(move || inbox.ended(id, operation.perform()));
                Ok(())
            }
        }
    }

    /// Starts an operation on these threads, for a file that may keep a call waiting. Its end comes
    /// to the command queue.
    ///
    /// # Safety
    ///
    /// As for [`start`](Self::start).
    pub(super) unsafe fn start_on(
        threads: &Workers,
        operation: FileOperation,
        id: u64,
        inbox: &Arc<CommandQueue>,
    ) {
        let inbox = Arc::clone(inbox);
        threads.post(move |thread| inbox.ended(id, thread.and_then(|()| operation.perform())));
    }

    /// Hands over started operations.
    pub(super) fn submit(&mut self) -> io::Result<()> {
        match self {
            Self::Ring(ring, _) => ring.submit(),
            Self::Threads(..) => Ok(()),
        }
    }

    /// Hands over started operations, and waits until one ends, the time is over, or these
    /// descriptors (with events; a negative one is none) are ready. [`fired`](Self::fired) names
    /// the descriptors, once [`completed`](Self::completed) has nothing more. False where the ring
    /// cannot wait so: there was no wait.
    ///
    /// A descriptor that has something is told of once: it has to be emptied before the next wait.
    pub(super) fn wait(&mut self, watched: [(RawFd, i16); WATCHED], timeout: Duration) -> bool {
        let Self::Ring(ring, watch) = self else { return false };
        if watch.refused || !ring.can_wait() {
            return false;
        }
        for (place, (fd, events)) in watched.into_iter().enumerate() {
            if fd >= 0 && watch.armed[place] != Some(fd) {
                if ring.push_poll(fd, events, POLLS + place as u64).is_err() {
                    return false;
                }
                watch.armed[place] = Some(fd);
            }
        }
        // The kernel takes an operation that it refuses now with the next.
        let _ = ring.wait(timeout);
        true
    }

    /// Which descriptors have had something since this was asked last; `None` where only poll(2)
    /// knows.
    pub(super) fn fired(&mut self) -> Option<[bool; WATCHED]> {
        match self {
            Self::Ring(ring, watch) if !watch.refused && ring.can_wait() => {
                Some(std::mem::take(&mut watch.fired))
            }
            _ => None,
        }
    }

    /// An operation that has ended.
    pub(super) fn completed(&mut self) -> Option<(u64, io::Result<usize>)> {
        let Self::Ring(ring, watch) = self else { return None };
        let done = loop {
            let done = ring.completed()?;
            let Some(place) = done.user.checked_sub(POLLS).filter(|&place| place < WATCHED as u64)
            else {
                break done;
            };
            let place = place as usize;
            watch.fired[place] = true;
            if !done.more {
                watch.armed[place] = None;
                watch.refused |= done.result < 0;
            }
        };
        let result = usize::try_from(done.result)
            .map_err(|_| io::Error::from(Errno::from_raw_os_error(done.result.saturating_neg())));
        Some((done.user, result))
    }

    pub(super) fn poll_fd(&self) -> Option<RawFd> {
        match self {
            Self::Ring(ring, _) => Some(ring.as_raw_fd()),
            Self::Threads(..) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FileIo, WATCHED};
    use crate::pager::command::CommandQueue;
    use rustix::event::{EventfdFlags, eventfd};
    use std::os::fd::AsRawFd;
    use std::sync::Arc;
    use std::time::Duration;

    fn told(disk: &mut FileIo) -> [bool; WATCHED] {
        assert!(disk.completed().is_none(), "no operation was started");
        disk.fired().unwrap()
    }

    #[test]
    fn a_wait_ends_with_whichever_descriptor_has_something_each_time() {
        let mut disk = FileIo::new(true, &Arc::new(CommandQueue::new().unwrap()));
        let bells = [0; 2].map(|_| eventfd(0, EventfdFlags::NONBLOCK).unwrap());
        let none = (-1, libc::POLLIN);
        let watched = [
            (bells[0].as_raw_fd(), libc::POLLIN),
            none,
            (bells[1].as_raw_fd(), libc::POLLIN),
            none,
        ];
        for round in 0..1000 {
            let place = 2 * (round % 2);
            std::thread::scope(|scope| {
                let bell = &bells[place / 2];
                scope.spawn(move || rustix::io::write(bell, &1_u64.to_ne_bytes()).unwrap());
                let mut fired = [false; WATCHED];
                while fired == [false; WATCHED] {
                    if !disk.wait(watched, Duration::from_secs(60)) {
                        return crate::skip::skip("the ring cannot wait for descriptors here");
                    }
                    fired = told(&mut disk);
                }
                assert_eq!(fired, std::array::from_fn(|other| other == place), "round {round}");
                rustix::io::read(bell, &mut [0; 8]).unwrap();
            });
        }
    }

    #[test]
    fn a_wait_ends_when_its_time_is_over() {
        let mut disk = FileIo::new(true, &Arc::new(CommandQueue::new().unwrap()));
        if disk.wait([(-1, 0); WATCHED], Duration::from_millis(1)) {
            assert_eq!(told(&mut disk), [false; WATCHED]);
        }
    }
}
