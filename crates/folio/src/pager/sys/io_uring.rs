//! io_uring(7): reads, writes and polls in flight, without a thread for each.

use crate::sys::identity;
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Operations in flight. One thread pushes and submits them: when a thread ends, the kernel cancels
/// the operations that it submitted.
///
/// [`as_raw_fd`](Self::as_raw_fd) can be polled, and is readable when completions are there. Take
/// all of them ([`completed`](Self::completed)) before sleeping: some may already have been taken
/// from the kernel.
///
/// Dropping the ring cancels the operations that can be cancelled and waits for the rest, since
/// other values own the buffers.
pub(crate) struct Ring {
    inner: ManuallyDrop<IoUring>,
    /// Completions that were taken to make room.
    ready: VecDeque<Completion>,
    in_flight: usize,
    /// Polls that are armed. They end only when they are removed.
    polls: Vec<u64>,
    /// The process that made the ring. In a forked child the ring belongs to the parent.
    process: u64,
}

/// The end of an operation, or one event of a multishot poll.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The value with which the operation was pushed.
    pub(crate) user: u64,
    /// The result of the system call: a count, or a negative errno.
    pub(crate) result: i32,
    /// The poll stays armed. Without it the operation has ended, and a poll has to be pushed again.
    pub(crate) more: bool,
}

/// The `user` of the ring's own operations. Their completions are not reported.
const INTERNAL: u64 = u64::MAX;

impl Ring {
    /// A ring whose submission queue has room for `entries` operations. Any number can be in
    /// flight.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let mut plain = IoUring::builder();
        // Otherwise a child could write to the parent's queues.
        plain.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(4).clamp(8, 32_768));
        // Since 5.19: a completion does not interrupt the thread while it computes, yet still ends
        // its poll(2). DEFER_TASKRUN (6.1) is not used: completions would wait until the thread
        // asks the ring, even while it does other work.
        let ring = plain.clone().setup_coop_taskrun().setup_taskrun_flag().build(entries);
        let ring = ring.or_else(|_| plain.build(entries))?;
        if !ring.params().is_feature_nodrop() {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this kernel's io_uring loses completions",
            ));
        }
        Ok(Self {
            inner: ManuallyDrop::new(ring),
            ready: VecDeque::new(),
            in_flight: 0,
            polls: Vec::new(),
            process: identity::token(),
        })
    }

    /// Adds a read, which [`submit`](Self::submit) starts.
    ///
    /// # Safety
    ///
    /// Until the operation completes, the `len` bytes from `start` are writable and nothing else
    /// uses them. `fd` is open until the operation is submitted.
    pub(crate) unsafe fn push_read(
        &mut self,
        fd: RawFd,
        start: *mut u8,
        len: u32,
        offset: u64,
        user: u64,
    ) -> io::Result<()> {
        self.push(&opcode::Read::new(types::Fd(fd), start, len).offset(offset).build(), user)
    }

    /// Adds a write.
    ///
    /// # Safety
    ///
    /// Until the operation completes, the `len` bytes from `start` are readable and no thread
    /// changes them. `fd` is open until the operation is submitted.
    pub(crate) unsafe fn push_write(
        &mut self,
        fd: RawFd,
        start: *const u8,
        len: u32,
        offset: u64,
        user: u64,
    ) -> io::Result<()> {
        self.push(&opcode::Write::new(types::Fd(fd), start, len).offset(offset).build(), user)
    }

    /// Adds an fdatasync(2). It waits for no operation of the ring.
    pub(crate) fn push_fdatasync(&mut self, fd: RawFd, user: u64) -> io::Result<()> {
        let sync = opcode::Fsync::new(types::Fd(fd)).flags(types::FsyncFlags::DATASYNC);
        self.push(&sync.build(), user)
    }

    /// Adds a multishot poll: each time that `events` occur at a descriptor there is a completion,
    /// for as long as the completions say that more will come (5.13; EINVAL before).
    pub(crate) fn push_poll(&mut self, fd: RawFd, events: i16, user: u64) -> io::Result<()> {
        let poll =
            opcode::PollAdd::new(types::Fd(fd), u32::from(events.cast_unsigned())).multi(true);
        self.push(&poll.build(), user)?;
        self.polls.push(user);
        Ok(())
    }

    /// Whether [`wait`](Self::wait) can end after a time (5.11).
    pub(crate) fn can_wait(&self) -> bool {
        self.inner.params().is_feature_ext_arg()
    }

    /// Starts all added operations, and waits until a completion is there or the time is over.
    pub(crate) fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        if !self.ready.is_empty() || self.take_all() > 0 {
            return self.submit();
        }
        let time = types::Timespec::from(timeout);
        let until = types::SubmitArgs::new().timespec(&time);
        match self.inner.submitter().submit_with_args(1, &until) {
            Ok(_) => Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => Ok(()),
            Err(error) => self.make_room(error),
        }
    }

    fn push(&mut self, entry: &squeue::Entry, user: u64) -> io::Result<()> {
        let entry = entry.clone().user_data(user);
        // SAFETY: the callers promise that buffers and descriptor stay valid; the entry itself is
        // copied.
        while unsafe { self.inner.submission().push(&entry) }.is_err() {
            self.submit()?;
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Starts all added operations.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        if self.inner.submission().is_empty() {
            return Ok(());
        }
        loop {
            match self.inner.submit() {
                // The kernel stops behind an entry that it refuses; the next call submits the rest.
                Ok(count) if count > 0 && !self.inner.submission().is_empty() => {}
                Ok(_) if self.inner.submission().is_empty() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::ResourceBusy.into()),
                Err(error) => self.make_room(error)?,
            }
        }
    }

    /// Starts all added operations, and waits until `count` completions are there, or all
    /// operations in flight have completed if those are fewer.
    pub(crate) fn submit_and_wait(&mut self, count: usize) -> io::Result<()> {
        self.submit()?;
        loop {
            self.take_all();
            if self.ready.len() >= count || self.in_flight == 0 {
                return Ok(());
            }
            // Wait for at most as many as are known to come. A poll may never fire, but then the
            // caller waits for it.
            let wanted = (count - self.ready.len())
                .min(self.in_flight)
                .min(self.inner.params().cq_entries() as usize);
            match self.inner.submit_and_wait(wanted) {
                Ok(_) => {}
                Err(error) => self.make_room(error)?,
            }
        }
    }

    /// After a call that failed for lack of room: takes completions, so that the call can be
    /// repeated.
    fn make_room(&mut self, error: io::Error) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::EINTR) => Ok(()),
            Some(libc::EBUSY | libc::EAGAIN) => {
                if self.take_all() > 0 {
                    return Ok(());
                }
                if self.in_flight <= self.inner.submission().len() {
                    return Err(error);
                }
                // The kernel has no memory for more. An operation in flight completes some time,
                // and frees some.
                std::thread::sleep(std::time::Duration::from_millis(1));
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Moves all present completions out of the kernel's queue.
    fn take_all(&mut self) -> usize {
        let mut count = 0;
        let mut queue = self.inner.completion();
        queue.sync();
        for entry in &mut queue {
            count += 1;
            let more = io_uring::cqueue::more(entry.flags());
            let user = entry.user_data();
            if !more {
                self.in_flight -= 1;
                if let Some(index) = self.polls.iter().position(|&poll| poll == user) {
                    self.polls.swap_remove(index);
                }
            }
            if user != INTERNAL {
                self.ready.push_back(Completion { user, result: entry.result(), more });
            }
        }
        count
    }

    /// The next completion, if there is one.
    pub(crate) fn completed(&mut self) -> Option<Completion> {
        if self.ready.is_empty() && self.take_all() == 0 {
            let queue = self.inner.submission();
            // The kernel holds some back until it is asked: they did not fit, or they wait for this
            // thread.
            if queue.cq_overflow() || queue.taskrun() {
                drop(queue);
                // The next submit meets the same error again; nothing is lost.
                let _ = self.inner.submit();
                self.take_all();
            }
        }
        self.ready.pop_front()
    }

    fn cancel_all(&mut self) -> io::Result<()> {
        for poll in self.polls.clone() {
            self.push(&opcode::PollRemove::new(poll).build(), INTERNAL)?;
        }
        // Since 5.19. On older kernels it is an error, which is not reported, and all operations
        // but polls end by themselves.
        let all = types::CancelBuilder::any().all();
        self.push(&opcode::AsyncCancel2::new(all).build(), INTERNAL)?;
        self.submit()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.inner.as_raw_fd()
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // A forked child has the descriptor, but neither the queues nor the operations.
        if self.process != identity::token() {
            return;
        }
        if self.in_flight > 0 {
            // Entries that were not submitted count as in flight, and are submitted here: their
            // buffers are still there.
            let _ = self.cancel_all();
        }
        while self.in_flight > self.inner.submission().len() {
            self.ready.clear();
            if self.submit_and_wait(1).is_err() {
                // Giving up would free memory to which the kernel still writes. Completions also
                // come without a call.
                std::thread::sleep(std::time::Duration::from_millis(1));
                self.take_all();
            }
        }
        // SAFETY: the field is not used again.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} in flight)", self.in_flight)
    }
}
