//! Giving back the pages of many ranges at once.
//!
//! Each madvise(2) interrupts the other processors that run the process, because they have to flush
//! the addresses from their TLBs. One call for many ranges does so once.
//!
//! Source: process_madvise(2); since 6.13 the kernel accepts MADV_DONTNEED in it for the caller's
//! own memory.

use crate::sys::{Errno, check, identity, mm};
use std::os::fd::{AsRawFd, OwnedFd};

/// The most ranges of one call. `IOV_MAX` is 1024, and a long call delays other threads.
const MAX_RANGES: usize = 256;

/// Gives pages back, by one call for many ranges if the kernel has it.
#[derive(Debug)]
pub(crate) struct Discarder {
    /// This process, for process_madvise(2); `None` if the kernel does not accept the advice.
    process: Option<OwnedFd>,
    token: u64,
    ranges: Vec<libc::iovec>,
}

impl Discarder {
    pub(crate) fn new() -> Self {
        let me = rustix::process::getpid();
        let process = rustix::process::pidfd_open(me, rustix::process::PidfdFlags::empty()).ok();
        Self { process, token: identity::token(), ranges: Vec::new() }
    }

    /// MADV_DONTNEED for each range (start and length). Calls `failed` for each range that the
    /// kernel refused, with its index.
    ///
    /// # Safety
    ///
    /// Nothing needs the bytes of these ranges, and all of them lie in memory of the caller.
    pub(crate) unsafe fn discard(
        &mut self,
        ranges: impl ExactSizeIterator<Item = (usize, usize)> + Clone,
        mut failed: impl FnMut(usize, Errno),
    ) {
        let mut done = 0;
        let mut is_uncertain = false;
        while ranges.len() - done > 1 {
            let Some(process) = self.process.as_ref().filter(|_| identity::token() == self.token)
            else {
                break;
            };
            self.ranges.clear();
            self.ranges.extend(ranges.clone().skip(done).take(MAX_RANGES).map(|(start, len)| {
                libc::iovec { iov_base: start as *mut libc::c_void, iov_len: len }
            }));
            let (first, count) = (self.ranges.as_ptr(), self.ranges.len());
            // SAFETY: the kernel reads `count` ranges. The caller promises that nothing needs their
            // bytes.
            let result = check(unsafe {
                libc::syscall(
                    libc::SYS_process_madvise,
                    process.as_raw_fd(),
                    first,
                    count,
                    libc::MADV_DONTNEED,
                    0,
                )
            });
            let Ok(bytes) = result else {
                // The single calls show which range failed, or that the kernel does not accept the
                // advice at all.
                is_uncertain = done == 0;
                break;
            };
            let mut bytes = bytes as usize;
            let whole = self.ranges.iter().take_while(|range| {
                let inside = range.iov_len <= bytes;
                bytes -= if inside { range.iov_len } else { 0 };
                inside
            });
            let whole = whole.count();
            if whole == 0 {
                break;
            }
            done += whole;
        }
        for (index, (start, len)) in ranges.enumerate().skip(done) {
            // SAFETY: the caller promises that nothing needs the bytes of the range.
            match unsafe { discard(start, len) } {
                Ok(true) if is_uncertain && index == 0 => self.process = None,
                Ok(_) => {}
                Err(errno) => failed(index, errno),
            }
        }
    }
}

/// MADV_DONTNEED, and MADV_DONTNEED_LOCKED (5.18) if memory of the range is locked. Returns whether
/// the first was enough.
///
/// # Safety
///
/// Nothing needs the bytes of the range, which lies in memory of the caller.
pub(crate) unsafe fn discard(start: usize, len: usize) -> Result<bool, Errno> {
    const DONTNEED_LOCKED: i32 = 24;
    // SAFETY: the caller promises that nothing needs the bytes of the range.
    unsafe {
        match mm::madvise(start as *mut u8, len, libc::MADV_DONTNEED) {
            Ok(()) => Ok(true),
            Err(Errno::INVAL) => {
                mm::madvise(start as *mut u8, len, DONTNEED_LOCKED).map(|()| false)
            }
            Err(errno) => Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Discarder;
    use crate::sys::{identity, mm};

    fn pages(count: usize) -> (usize, usize) {
        let size = rustix::param::page_size();
        let (prot, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: the call makes a new map, which the test keeps.
        let start =
            unsafe { mm::mmap(std::ptr::null_mut(), count * size, prot, flags, -1, 0) }.unwrap();
        // SAFETY: the map was just made, and is writable.
        unsafe { start.write_bytes(7, count * size) };
        (start as usize, size)
    }

    fn first_bytes(start: usize, size: usize, count: usize) -> Vec<u8> {
        // SAFETY: the bytes lie in the test's map.
        (0..count).map(|page| unsafe { ((start + page * size) as *const u8).read() }).collect()
    }

    /// Every second page, by one call if the kernel has it, and by many.
    #[test]
    fn each_range_is_given_back_and_nothing_else() {
        let (start, size) = pages(1000);
        for process in [Discarder::new().process, None] {
            // SAFETY: the bytes lie in the test's map.
            unsafe { (start as *mut u8).write_bytes(7, 1000 * size) };
            let mut discarder = Discarder { process, token: identity::token(), ranges: Vec::new() };
            let ranges = (0..500).map(|n| (start + 2 * n * size, size));
            // SAFETY: the pages lie in the test's map.
            unsafe { discarder.discard(ranges, |index, errno| panic!("{index}: {errno}")) };
            let want: Vec<u8> = (0..1000).map(|page| if page % 2 == 0 { 0 } else { 7 }).collect();
            assert_eq!(first_bytes(start, size, 1000), want);
        }
    }

    #[test]
    fn locked_memory_is_given_back_and_later_calls_take_many_ranges() {
        let (start, size) = pages(4);
        mm::mlock(start as *mut u8, size, false).unwrap();
        mm::mlock((start + 2 * size) as *mut u8, size, false).unwrap();
        let mut discarder = Discarder::new();
        let had = discarder.process.is_some();
        let ranges = (0..2).map(|half| (start + 2 * half * size, 2 * size));
        // SAFETY: the pages lie in the test's map.
        unsafe { discarder.discard(ranges, |index, errno| panic!("{index}: {errno}")) };
        assert_eq!(first_bytes(start, size, 4), [0; 4]);
        assert_eq!(discarder.process.is_some(), had);
    }

    #[test]
    fn a_refused_range_is_reported_and_the_others_are_given_back() {
        let (start, size) = pages(4);
        // SAFETY: the page is the test's own.
        unsafe { mm::munmap((start + size) as *mut u8, size) }.unwrap();
        let mut refused = Vec::new();
        let ranges = (0..4).map(|page| (start + page * size, size));
        // SAFETY: the pages lie in the test's map, and one of them is unmapped.
        unsafe { Discarder::new().discard(ranges, |index, _| refused.push(index)) };
        assert_eq!(refused, [1]);
        let left = [0, 2, 3].map(|page| first_bytes(start + page * size, size, 1)[0]);
        assert_eq!(left, [0; 3]);
    }
}
