//! Files that live in memory (memfd_create(2)), and their seals, by which the kernel promises that
//! they do not change (fcntl(2)).

use crate::flags::HugePage;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};

pub(crate) use rustix::fs::SealFlags as Seals;

/// A new, empty memfd that can be sealed and that exec closes. `name` is shown in `/proc`, and need
/// not be unique.
pub(crate) fn create(name: &str, huge: Option<HugePage>) -> Result<OwnedFd, Errno> {
    let mut flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    if let Some(huge) = huge {
        // memfd_create(2) takes the page size in the same bits as mmap(2), with a flag of its own.
        let size = huge.flags().bits() & (libc::MAP_HUGE_MASK << libc::MAP_HUGE_SHIFT);
        flags |= MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(size.cast_unsigned());
    }
    // The file is never executed. The flag is known since 6.3; it also avoids a warning of the
    // kernel.
    match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }
}

/// A new memfd with the first `size` bytes of another.
pub(crate) fn copy(from: BorrowedFd<'_>, name: &str, size: u64) -> Result<OwnedFd, Errno> {
    let copy = create(name, None)?;
    let mut next = 0;
    while next < size {
        let rest = usize::try_from(size - next).unwrap_or(usize::MAX);
        if super::size_limit::within(|| rustix::fs::sendfile(&copy, from, Some(&mut next), rest))?
            == 0
        {
            // The other file was truncated.
            return Err(Errno::IO);
        }
    }
    Ok(copy)
}

/// Adds seals, which can never be removed. EBUSY for [`Seals::WRITE`] while a writable map exists
/// anywhere.
pub(crate) fn add_seals(fd: BorrowedFd<'_>, seals: SealFlags) -> Result<(), Errno> {
    rustix::fs::fcntl_add_seals(fd, seals)
}

/// The seals with which no process can ever change, lengthen or shorten the bytes.
pub(crate) const UNCHANGING: SealFlags = Seals::WRITE.union(Seals::GROW).union(Seals::SHRINK);

/// The seals on a descriptor; `EINVAL` if it is no memfd.
pub(crate) fn seals(fd: BorrowedFd<'_>) -> Result<SealFlags, Errno> {
    rustix::fs::fcntl_get_seals(fd)
}
