//! How the driver learns of faults: by userfaultfd, or as signals where that is not allowed.

use crate::pager::sys::sigsegv_faults::SigsegvFaults;
use crate::pager::sys::uffd::Uffd;
use crate::sys::Errno;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

pub(crate) use crate::pager::sys::sigsegv_faults::RawFault;

/// See the module.
#[derive(Debug)]
pub(crate) enum FaultSource {
    Uffd(Arc<Uffd>),
    /// The driver's own thread asks it for faults.
    Signal(SigsegvFaults),
}

impl FaultSource {
    /// Faults of one call at most.
    pub(crate) const MOST: usize = 1024;

    /// Readable, for poll(2), while there are faults to take.
    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Uffd(uffd) => uffd.as_fd(),
            Self::Signal(queue) => queue.as_fd(),
        }
    }

    /// Appends the faults that came since, up to a bound for one call. Never waits.
    pub(crate) fn faults(&mut self, out: &mut Vec<RawFault>) -> Result<(), Errno> {
        match self {
            Self::Uffd(uffd) => uffd.read(Self::MOST, |message| {
                out.push(RawFault {
                    address: message.address,
                    write: message.write,
                    protected: message.wp,
                    thread: Some(message.thread).filter(|&thread| thread != 0),
                });
            }),
            Self::Signal(queue) => queue.take(out),
        }
    }
}
