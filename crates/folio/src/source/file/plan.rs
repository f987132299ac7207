//! Which of a file's two descriptors an operation goes to, and operations that are done at once.

use super::{LocalFile, past_end};
use crate::source::Source;
use crate::sys::size_limit;
use rustix::io::{Errno, retry_on_intr};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Where a read or a write goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IoPlan {
    /// The descriptor: open for as long as the file is.
    pub(crate) fd: RawFd,
    /// Whether it goes around the page cache.
    pub(crate) direct: bool,
    /// How many bytes from the start of the range go there, at least one. The rest needs a plan of
    /// its own.
    pub(crate) len: usize,
}

impl LocalFile {
    /// The descriptor for a read of `len` bytes from `offset` to `address`. `len` is the room in
    /// the buffer, and may reach past the file's end: a direct read ends short there, so that room
    /// for a whole block keeps the tail direct.
    ///
    /// A file system may refuse direct I/O that it had agreed to, with EINVAL: then
    /// [`give_up_direct`](Self::give_up_direct), and plan again.
    pub(crate) fn plan_read(&self, offset: u64, len: usize, address: usize) -> IoPlan {
        let direct = self
            .direct
            .as_ref()
            .map(|file| (file.as_raw_fd(), file.readable(offset, len, address)));
        self.plan(direct, len)
    }

    /// Where a write of `len` bytes goes, which all lie within the file: a direct write is whole
    /// pages, the rest is buffered.
    pub(crate) fn plan_write(&self, offset: u64, len: usize, address: usize) -> IoPlan {
        let direct = self
            .direct
            .as_ref()
            .map(|file| (file.as_raw_fd(), file.writable(offset, len, address)));
        self.plan(direct, len)
    }

    fn plan(&self, direct: Option<(RawFd, usize)>, len: usize) -> IoPlan {
        match direct {
            Some((fd, aligned)) if aligned > 0 => IoPlan { fd, direct: true, len: aligned },
            _ => IoPlan { fd: self.file.as_raw_fd(), direct: false, len },
        }
    }

    /// All further I/O of this file is buffered.
    pub(crate) fn give_up_direct(&self) {
        if let Some(direct) = &self.direct {
            direct.give_up();
        }
    }

    /// As [`give_up_direct`](Self::give_up_direct); whether there was direct I/O to give up.
    pub(crate) fn stop_direct(&self) -> bool {
        let was = self.is_direct();
        self.give_up_direct();
        was
    }

    /// The descriptor to make durable with fdatasync(2). It reports the lost writes of both.
    pub(crate) fn flush_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Reads until the buffer is full or the file ends, and says how many bytes.
    pub(crate) fn read_now(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let rest = &mut buffer[done..];
            let at = offset.checked_add(done as u64).ok_or(io::ErrorKind::InvalidInput)?;
            let plan = self.plan_read(at, rest.len(), rest.as_ptr().addr());
            match retry_on_intr(|| {
                rustix::io::pread(self.borrowed(plan), &mut rest[..plan.len], at)
            }) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INVAL) if plan.direct => self.give_up_direct(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(done)
    }

    /// Writes all the bytes, which lie within the file: it never makes the file longer, unless
    /// someone else cuts it short meanwhile.
    pub(crate) fn write_now(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.check_writable()?;
        self.check_inside(offset, bytes.len())?;
        let mut done = 0;
        while done < bytes.len() {
            let rest = &bytes[done..];
            let at = offset + done as u64;
            let plan = self.plan_write(at, rest.len(), rest.as_ptr().addr());
            match size_limit::within(|| {
                rustix::io::pwrite(self.borrowed(plan), &rest[..plan.len], at)
            }) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(Errno::INVAL) if plan.direct => self.give_up_direct(),
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Whether a write stays within the file as it is now: it must not make a file longer that
    /// someone has cut.
    pub(crate) fn check_inside(&self, offset: u64, len: usize) -> io::Result<()> {
        let end = self.len()?;
        match offset.checked_add(len as u64) {
            Some(last) if last <= end => Ok(()),
            _ => Err(past_end(offset, len, end)),
        }
    }

    /// fdatasync(2): the written bytes are durable.
    pub(crate) fn flush_now(&self) -> io::Result<()> {
        // Nothing was written through a file that cannot be; some file systems refuse to sync it.
        if !self.writable {
            return Ok(());
        }
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }

    #[allow(clippy::unused_self, reason = "its lifetime is what keeps the descriptor open")]
    fn borrowed(&self, plan: IoPlan) -> BorrowedFd<'_> {
        // SAFETY: it is one of this file's two descriptors, which stay open for as long as `self`
        // is borrowed.
        unsafe { BorrowedFd::borrow_raw(plan.fd) }
    }
}
