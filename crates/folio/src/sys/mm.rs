//! The system calls on address ranges, unchanged: bytes in, errno out.
//!
//! They use libc and not rustix's typed wrappers, since [`raw`](crate::raw) has to pass values that
//! those types refuse: a closed descriptor, an unknown flag, advice that is newer than the crate.

use super::check;
use rustix::io::Errno;
use std::os::fd::RawFd;

/// mmap(2).
///
/// # Safety
///
/// With FIXED in `flags`, no map that is still in use may lie in the range.
pub(crate) unsafe fn mmap(
    addr: *mut u8,
    len: usize,
    prot: i32,
    flags: i32,
    fd: RawFd,
    offset: i64,
) -> Result<*mut u8, Errno> {
    // SAFETY: the caller answers for FIXED. Without it the kernel picks addresses that nothing
    // uses.
    let start = unsafe { libc::mmap(addr.cast(), len, prot, flags, fd, offset) };
    if start == libc::MAP_FAILED { Err(super::last_errno()) } else { Ok(start.cast()) }
}

/// munmap(2).
///
/// # Safety
///
/// Nothing may use the range any more.
pub(crate) unsafe fn munmap(addr: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: the caller promises that nothing uses the range.
    check(unsafe { libc::munmap(addr.cast(), len) }).map(drop)
}

/// munmap(2) of a range that is not needed again. At the process's limit of VMAs the kernel refuses
/// to cut a VMA in two (ENOMEM). Then the addresses stay taken, and the memory behind them is given
/// back (MADV_DONTNEED).
///
/// # Safety
///
/// Nothing may use the range any more.
pub(crate) unsafe fn release(addr: *mut u8, len: usize) {
    // SAFETY: the caller promises that nothing uses the range.
    if unsafe { munmap(addr, len) }.is_err() {
        // SAFETY: the caller promises that nothing uses the range.
        unsafe { drop_pages(addr, len) };
    }
}

/// Gives back the private pages of a range, including locked ones. The range stays mapped.
///
/// # Safety
///
/// Nothing may use the bytes of the range any more.
pub(crate) unsafe fn drop_pages(addr: *mut u8, len: usize) {
    /// `MADV_DONTNEED_LOCKED` of linux/mman.h, since 5.18.
    const DONTNEED_LOCKED: i32 = 24;
    // SAFETY: the caller promises that nothing uses the bytes.
    if unsafe { libc::madvise(addr.cast(), len, libc::MADV_DONTNEED) } != 0 {
        // SAFETY: the caller promises that nothing uses the bytes.
        unsafe { libc::madvise(addr.cast(), len, DONTNEED_LOCKED) };
    }
}

/// mprotect(2).
///
/// # Safety
///
/// Nothing may go on using the range in a way that `prot` forbids.
pub(crate) unsafe fn mprotect(addr: *mut u8, len: usize, prot: i32) -> Result<(), Errno> {
    // SAFETY: the caller promises that no use of the range needs more than `prot`.
    check(unsafe { libc::mprotect(addr.cast(), len, prot) }).map(drop)
}

/// mremap(2). `target` is used only with MREMAP_FIXED and with MREMAP_DONTUNMAP.
///
/// # Safety
///
/// Nothing may go on using the part of the old range that goes away, nor a map that MREMAP_FIXED
/// replaces.
pub(crate) unsafe fn mremap(
    addr: *mut u8,
    old: usize,
    new: usize,
    flags: i32,
    target: *mut u8,
) -> Result<*mut u8, Errno> {
    // SAFETY: the caller promises that nothing uses the memory that goes away or is replaced.
    let start = unsafe { libc::mremap(addr.cast(), old, new, flags, target) };
    if start == libc::MAP_FAILED { Err(super::last_errno()) } else { Ok(start.cast()) }
}

/// msync(2). It changes no byte of memory, so no range makes it unsafe.
pub(crate) fn msync(addr: *mut u8, len: usize, flags: i32) -> Result<(), Errno> {
    // SAFETY: msync(2) only writes pages back; a range that is not mapped is ENOMEM. MS_INVALIDATE
    // changes no byte on Linux, where all maps of a file share the page cache.
    check(unsafe { libc::msync(addr.cast(), len, flags) }).map(drop)
}

/// madvise(2).
///
/// # Safety
///
/// The caller must own the bytes that `advice` changes or takes away.
pub(crate) unsafe fn madvise(addr: *mut u8, len: usize, advice: i32) -> Result<(), Errno> {
    // SAFETY: the caller promises that it owns the bytes that the advice changes.
    check(unsafe { libc::madvise(addr.cast(), len, advice) }).map(drop)
}

/// mlock(2), or mlock2(MLOCK_ONFAULT) if `on_fault`. It changes no byte.
pub(crate) fn mlock(addr: *mut u8, len: usize, on_fault: bool) -> Result<(), Errno> {
    let flags: libc::c_uint = if on_fault { libc::MLOCK_ONFAULT } else { 0 };
    // SAFETY: locking changes no byte and no protection; a range that is not mapped is ENOMEM.
    check(unsafe { libc::mlock2(addr.cast(), len, flags) }).map(drop)
}

/// munlock(2).
pub(crate) fn munlock(addr: *mut u8, len: usize) -> Result<(), Errno> {
    // SAFETY: unlocking changes no byte and no protection; a range that is not mapped is ENOMEM.
    check(unsafe { libc::munlock(addr.cast(), len) }).map(drop)
}

/// mincore(2): stores one byte for each base page in `pages`. The lowest bit says whether the page
/// is resident.
pub(crate) fn mincore(addr: *mut u8, pages: &mut [u8], page_bytes: usize) -> Result<(), Errno> {
    // SAFETY: the kernel writes one byte for each page of the range, and `pages` has room for them.
    check(unsafe { libc::mincore(addr.cast(), pages.len() * page_bytes, pages.as_mut_ptr()) })
        .map(drop)
}

/// mseal(2), since 6.10: afterwards the range can never be unmapped or moved, nor its protection
/// changed.
pub(crate) fn mseal(addr: *mut u8, len: usize) -> Result<(), Errno> {
    /// The number is the same on every architecture: the call came after the tables were unified.
    const SYS_MSEAL: libc::c_long = 462;
    // SAFETY: sealing forbids later changes of the map, and changes no byte.
    check(unsafe { libc::syscall(SYS_MSEAL, addr, len, 0_usize) }).map(drop)
}

/// prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME): names an anonymous VMA in `/proc/PID/maps`.
pub(crate) fn name_area(addr: *mut u8, len: usize, name: &std::ffi::CStr) -> Result<(), Errno> {
    const PR_SET_VMA: i32 = 0x5356_4d41;
    const PR_SET_VMA_ANON_NAME: usize = 0;
    // SAFETY: the kernel copies the name, which `CStr` ends with a NUL. It changes no byte of the
    // range.
    check(unsafe {
        libc::prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, addr as usize, len, name.as_ptr() as usize)
    })
    .map(drop)
}

/// The counts of cachestat(2) (since 6.5), in base pages.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct RawCacheStat {
    pub(crate) cache: u64,
    pub(crate) dirty: u64,
    pub(crate) writeback: u64,
    pub(crate) evicted: u64,
    pub(crate) recently_evicted: u64,
}

/// cachestat(2): the page cache's state over `len` bytes from `offset` of a file. A `len` of zero
/// means the rest of the file.
pub(crate) fn cachestat(fd: RawFd, offset: u64, len: u64) -> Result<RawCacheStat, Errno> {
    const SYS_CACHESTAT: libc::c_long = 451;
    let range = [offset, len];
    let mut stat = RawCacheStat::default();
    // SAFETY: the kernel reads two u64 from `range`. It writes one `struct cachestat`, five u64, to
    // `stat`.
    check(unsafe { libc::syscall(SYS_CACHESTAT, fd, range.as_ptr(), &raw mut stat, 0) })?;
    Ok(stat)
}
