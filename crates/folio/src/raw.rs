//! The raw door: mmap(2) and its family with exactly the arguments that the system calls take, for
//! those who need them. Nothing is rounded, checked or remembered; only the error is folio's, and
//! explains itself.
//!
//! Source: mmap(2), mprotect(2), mremap(2), msync(2), madvise(2), mlock(2).

use crate::error::{Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::sys;
use std::os::fd::{BorrowedFd, RawFd};

/// mmap(2): maps `length` bytes, from `offset` of the file `fd`, and returns the address.
///
/// `addr` is a hint, or with FIXED the place. `fd` and `offset` are ignored for ANONYMOUS memory.
///
/// # Errors
///
/// The kernel's, each explained: EACCES, EAGAIN, EBADF, EEXIST, EINVAL, ENFILE, ENODEV, ENOMEM,
/// EOPNOTSUPP, EOVERFLOW, EPERM, ETXTBSY. Two errors of old lists are gone: EAGAIN for a locked
/// file (mandatory locks left in 5.15), ETXTBSY for DENYWRITE (a file in use as swap space still
/// gives it). Some files of `/proc` that cannot be mapped answer EIO, not ENODEV.
///
/// # Safety
///
/// With [`MapFlags::FIXED`] all maps in the range are gone: nothing may use them any more. The
/// allowed uses of the new memory follow from the others that can change it; see the crate's table
/// of types. With [`MapFlags::GROWSDOWN`] the map extends below the address that is returned.
pub unsafe fn mmap(
    addr: *mut u8,
    length: usize,
    prot: Prot,
    flags: MapFlags,
    fd: RawFd,
    offset: i64,
) -> Result<*mut u8> {
    if flags.contains(MapFlags::GROWSDOWN) {
        sys::stack::expect_others();
    }
    // SAFETY: the caller answers for the maps that FIXED replaces.
    unsafe { sys::mm::mmap(addr, length, prot.bits(), flags.bits(), fd, offset) }.map_err(|errno| {
        let object = if flags.contains(MapFlags::ANONYMOUS) {
            Subject::anonymous()
        } else {
            let name = std::fs::read_link(format!("/proc/self/fd/{fd}"));
            Subject::named(
                name.map_or_else(|_| format!("descriptor {fd}"), |name| name.display().to_string()),
            )
        };
        let mut subject =
            object.with_range(offset.cast_unsigned(), length).with_prot(prot).with_flags(flags);
        subject.address = (!addr.is_null()).then_some(addr as usize);
        if !flags.contains(MapFlags::ANONYMOUS) && fd >= 0 {
            // SAFETY: borrowed for the question only; of a closed descriptor the answer is none.
            let huge = sys::file::huge_page_bytes(unsafe { BorrowedFd::borrow_raw(fd) });
            subject.huge = huge.and_then(PageSize::new);
        }
        Error::kernel("mmap", errno, subject)
    })
}

fn explained(
    call: &'static str,
    addr: *mut u8,
    length: usize,
    detail: String,
) -> impl FnOnce(sys::Errno) -> Error {
    move |errno| {
        let mut subject = Subject::mapped_at(addr as usize).with_length(length);
        subject.detail = (!detail.is_empty()).then_some(detail);
        Error::kernel(call, errno, subject)
    }
}

/// munmap(2): unmaps all pages that hold a byte of the range. It is no error if nothing is mapped
/// there.
///
/// # Errors
///
/// EINVAL, ENOMEM, EPERM.
///
/// # Safety
///
/// Nothing may use the range any more.
pub unsafe fn munmap(addr: *mut u8, length: usize) -> Result<()> {
    // SAFETY: as the caller promised.
    unsafe { sys::mm::munmap(addr, length) }.map_err(explained(
        "munmap",
        addr,
        length,
        String::new(),
    ))
}

/// mprotect(2): sets the protection of all pages that hold a byte of the range.
///
/// # Errors
///
/// EACCES, EINVAL, ENOMEM, EPERM. On ENOMEM pages before the first that is not mapped may have
/// changed.
///
/// # Safety
///
/// Nothing may go on using the range in a way that `prot` forbids.
pub unsafe fn mprotect(addr: *mut u8, length: usize, prot: Prot) -> Result<()> {
    // SAFETY: as the caller promised.
    unsafe { sys::mm::mprotect(addr, length, prot.bits()) }.map_err(|errno| {
        Error::kernel(
            "mprotect",
            errno,
            Subject::mapped_at(addr as usize).with_length(length).with_prot(prot),
        )
    })
}

/// mremap(2): grows, shrinks, moves or (from a length of zero) duplicates a map, and returns its
/// address. `flags` are the MREMAP ones; `target` is where to, with MREMAP_FIXED.
///
/// # Errors
///
/// EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM.
///
/// # Safety
///
/// Nothing may go on using memory that goes away: the old range if it moves or shrinks, and the
/// maps that MREMAP_FIXED replaces.
pub unsafe fn mremap(
    addr: *mut u8,
    old: usize,
    new: usize,
    flags: i32,
    target: *mut u8,
) -> Result<*mut u8> {
    // SAFETY: as the caller promised.
    unsafe { sys::mm::mremap(addr, old, new, flags, target) }.map_err(|errno| {
        let subject = Subject::mapped_at(addr as usize).with_length(old).with_new_length(new);
        let subject = subject.with_move(flags & libc::MREMAP_MAYMOVE != 0);
        Error::kernel(
            "mremap",
            errno,
            subject.with_detail(format!("to length {new}, flags {flags:#x}")),
        )
    })
}

/// msync(2): writes changed pages of shared file maps back. `flags` are the MS ones.
///
/// # Errors
///
/// EBUSY, EINVAL, EIO, ENOMEM.
pub fn msync(addr: *mut u8, length: usize, flags: i32) -> Result<()> {
    sys::mm::msync(addr, length, flags).map_err(explained(
        "msync",
        addr,
        length,
        format!("flags {flags:#x}"),
    ))
}

/// madvise(2) with any number: see [`Advice`](crate::Advice), [`Discard`](crate::Discard) and
/// [`UncheckedAdvice`](crate::UncheckedAdvice) for those that exist.
///
/// # Errors
///
/// EACCES, EAGAIN (also at `vm.max_map_count`, where the others say ENOMEM), EBUSY, EFAULT, EINVAL,
/// EIO, ENOMEM, EPERM. EBADF for memory without a file is given by kernels without swap only.
///
/// # Safety
///
/// The bytes that the advice changes or takes away must be the caller's to change.
pub unsafe fn madvise(addr: *mut u8, length: usize, advice: i32) -> Result<()> {
    // SAFETY: as the caller promised.
    unsafe { sys::mm::madvise(addr, length, advice) }.map_err(|errno| {
        let subject = Subject::mapped_at(addr as usize).with_length(length).with_advice(advice);
        Error::kernel("madvise", errno, subject.with_detail(format!("advice {advice}")))
    })
}

/// mlock(2): faults all pages of the range in and keeps them in memory; with `on_fault` (mlock2(2),
/// MLOCK_ONFAULT) it keeps those that are there, and others once they are touched.
///
/// # Errors
///
/// EAGAIN, EINVAL, ENOMEM, EPERM.
pub fn mlock(addr: *mut u8, length: usize, on_fault: bool) -> Result<()> {
    sys::mm::mlock(addr, length, on_fault).map_err(explained("mlock", addr, length, String::new()))
}

/// munlock(2): undoes [`mlock`].
///
/// # Errors
///
/// EINVAL, ENOMEM.
pub fn munlock(addr: *mut u8, length: usize) -> Result<()> {
    sys::mm::munlock(addr, length).map_err(explained("munlock", addr, length, String::new()))
}
