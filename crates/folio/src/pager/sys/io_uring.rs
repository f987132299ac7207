//! io_uring(7): reads, writes and polls under way without a thread each.

use crate::sys::identity;
use io_uring::{IoUring, opcode, squeue, types};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

/// Operations under way. One thread pushes and submits: the kernel ends what a thread has submitted
/// when the thread ends.
///
/// [`as_raw_fd`](Self::as_raw_fd) can be polled, and is readable when completions are there. Take
/// all of them ([`completed`](Self::completed)) before sleeping: some may have been taken from the
/// kernel already.
///
/// Dropping it cancels what can be cancelled and waits for the rest, since the buffers are others'.
pub(crate) struct Ring {
    inner: ManuallyDrop<IoUring>,
    /// Completions taken to make room.
    ready: VecDeque<Completion>,
    in_flight: usize,
    /// Polls that are armed: they end only if they are removed.
    polls: Vec<u64>,
    /// The process that made it: in a forked child the ring is the parent's.
    process: u64,
}

/// The end of an operation, or one event of a poll that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Completion {
    /// The number that the operation was pushed with.
    pub(crate) user: u64,
    /// As of the system call: a count, or an errno less than zero.
    pub(crate) result: i32,
    /// The poll stays armed. Without it the operation has ended, and a poll has to be pushed again.
    pub(crate) more: bool,
}

/// An operation that the ring pushes on its own behalf: its end is reported to nobody.
const OWN: u64 = u64::MAX;

impl Ring {
    /// A ring whose submission queue has room for so many operations; any number can be in flight.
    pub(crate) fn new(entries: u32) -> io::Result<Self> {
        let mut plain = IoUring::builder();
        // A child would otherwise have the parent's queues writable.
        plain.dontfork().setup_clamp().setup_cqsize(entries.saturating_mul(4).clamp(8, 32_768));
        // Since 5.19: a completion does not interrupt the thread that computes, yet still ends its
        // poll(2). DEFER_TASKRUN (6.1) is not used: completions would wait for the thread to ask
        // the ring, whatever it does meanwhile.
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
    /// `len` bytes from `start` are writable and nobody else's until the operation completes, and
    /// `fd` is open until it is submitted.
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
    /// `len` bytes from `start` are readable and nobody changes them until the operation completes,
    /// and `fd` is open until it is submitted.
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

    /// Adds a poll that goes on: each time that `events` come to a descriptor is a completion, as
    /// long as those say that there are more to come (5.13; EINVAL before).
    pub(crate) fn push_poll(&mut self, fd: RawFd, events: i16, user: u64) -> io::Result<()> {
        let poll =
            opcode::PollAdd::new(types::Fd(fd), u32::from(events.cast_unsigned())).multi(true);
        self.push(&poll.build(), user)?;
        self.polls.push(user);
        Ok(())
    }

    /// Whether [`wait`](Self::wait) can end at a time (5.11).
    pub(crate) fn can_wait(&self) -> bool {
        self.inner.params().is_feature_ext_arg()
    }

    /// Starts all that was added, and waits until a completion is there or the time is over.
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
        // SAFETY: the buffers and the descriptor are good, as the callers promise; the entry itself
        // is copied.
        while unsafe { self.inner.submission().push(&entry) }.is_err() {
            self.submit()?;
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Starts all that was added.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        if self.inner.submission().is_empty() {
            return Ok(());
        }
        loop {
            match self.inner.submit() {
                // The kernel stops behind an entry that it refuses; the entries behind it are for
                // the next call.
                Ok(count) if count > 0 && !self.inner.submission().is_empty() => {}
                Ok(_) if self.inner.submission().is_empty() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::ResourceBusy.into()),
                Err(error) => self.make_room(error)?,
            }
        }
    }

    /// Starts all that was added, and waits until `count` completions are there, or all that are in
    /// flight if those are fewer.
    pub(crate) fn submit_and_wait(&mut self, count: usize) -> io::Result<()> {
        self.submit()?;
        loop {
            self.take_all();
            if self.ready.len() >= count || self.in_flight == 0 {
                return Ok(());
            }
            // As many as are known to come: a poll may never fire, but then the caller waits for
            // it.
            let wanted = (count - self.ready.len())
                .min(self.in_flight)
                .min(self.inner.params().cq_entries() as usize);
            match self.inner.submit_and_wait(wanted) {
                Ok(_) => {}
                Err(error) => self.make_room(error)?,
            }
        }
    }

    /// After a call that failed for want of room: takes completions, so that it can be made again.
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
                // The kernel has no memory for more, and something is under way: it ends, and frees
                // some.
                std::thread::sleep(std::time::Duration::from_millis(1));
                Ok(())
            }
            _ => Err(error),
        }
    }

    /// Moves all completions that are there out of the kernel's queue.
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
                if let Some(place) = self.polls.iter().position(|&poll| poll == user) {
                    self.polls.swap_remove(place);
                }
            }
            if user != OWN {
                self.ready.push_back(Completion { user, result: entry.result(), more });
            }
        }
        count
    }

    /// The next completion, if one is there.
    pub(crate) fn completed(&mut self) -> Option<Completion> {
        if self.ready.is_empty() && self.take_all() == 0 {
            let queue = self.inner.submission();
            // Some are with the kernel, which gives them out when it is asked: they did not fit, or
            // wait for this thread.
            if queue.cq_overflow() || queue.taskrun() {
                drop(queue);
                // An error here is met again by the next submit; nothing is lost.
                let _ = self.inner.submit();
                self.take_all();
            }
        }
        self.ready.pop_front()
    }

    fn cancel_all(&mut self) -> io::Result<()> {
        for poll in self.polls.clone() {
            self.push(&opcode::PollRemove::new(poll).build(), OWN)?;
        }
        // Since 5.19; elsewhere it is an error that nobody is told of, and all but polls end by
        // themselves.
        let all = types::CancelBuilder::any().all();
        self.push(&opcode::AsyncCancel2::new(all).build(), OWN)?;
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
            // An operation that was not submitted counts as in flight, and is submitted here: its
            // buffers are still there.
            let _ = self.cancel_all();
        }
        while self.in_flight > self.inner.submission().len() {
            self.ready.clear();
            if self.submit_and_wait(1).is_err() {
                // Giving up would free memory that the kernel still writes to. Completions come
                // without being asked for, too.
                std::thread::sleep(std::time::Duration::from_millis(1));
                self.take_all();
            }
        }
        // SAFETY: not used again.
        unsafe { ManuallyDrop::drop(&mut self.inner) };
    }
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ring({} in flight)", self.in_flight)
    }
}
