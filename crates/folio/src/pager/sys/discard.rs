//! Giving the pages of many ranges back at once.
//!
//! Each madvise(2) interrupts the other processors that run the process, so that they forget the
//! addresses. One call for many ranges does so once.
//!
//! Source: process_madvise(2); the kernel takes MADV_DONTNEED in it for the caller's own memory
//! since 6.13.

use crate::sys::{Errno, check, identity, mm};
use std::os::fd::{AsRawFd, OwnedFd};

/// The ranges of one call: `IOV_MAX` is 1024, and a long call holds others up.
const MOST: usize = 256;

/// Gives pages back, by one call for many ranges where the kernel has it.
#[derive(Debug)]
pub(crate) struct Discarder {
    /// This process, as process_madvise(2) wants it; `None` where it does not take the advice.
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

    /// MADV_DONTNEED for each range (start and length); `failed` is told of each that was refused,
    /// by its place.
    ///
    /// # Safety
    ///
    /// Nobody needs the bytes of these ranges, and all lie in memory of the caller's.
    pub(crate) unsafe fn discard(
        &mut self,
        ranges: impl ExactSizeIterator<Item = (usize, usize)> + Clone,
        mut failed: impl FnMut(usize, Errno),
    ) {
        let mut done = 0;
        let mut doubt = false;
        while ranges.len() - done > 1 {
            let Some(process) = self.process.as_ref().filter(|_| identity::token() == self.token)
            else {
                break;
            };
            self.ranges.clear();
            self.ranges.extend(ranges.clone().skip(done).take(MOST).map(|(start, len)| {
                libc::iovec { iov_base: start as *mut libc::c_void, iov_len: len }
            }));
            let (first, count) = (self.ranges.as_ptr(), self.ranges.len());
            // SAFETY: the kernel reads `count` ranges; the caller may give their memory back.
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
                // One by one says which range it is, or that the kernel does not take the advice at
                // all.
                doubt = done == 0;
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
        for (place, (start, len)) in ranges.enumerate().skip(done) {
            // SAFETY: passed on.
            match unsafe { discard(start, len) } {
                Ok(true) if doubt && place == 0 => self.process = None,
                Ok(_) => {}
                Err(errno) => failed(place, errno),
            }
        }
    }
}

/// MADV_DONTNEED, and where memory of the range is locked, MADV_DONTNEED_LOCKED (5.18). Whether the
/// first was enough.
///
/// # Safety
///
/// Nobody needs the bytes of the range, which lies in memory of the caller's.
pub(crate) unsafe fn discard(start: usize, len: usize) -> Result<bool, Errno> {
    const DONTNEED_LOCKED: i32 = 24;
    // SAFETY: passed on.
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
        // SAFETY: a new map, which the test keeps.
        let start =
            unsafe { mm::mmap(std::ptr::null_mut(), count * size, prot, flags, -1, 0) }.unwrap();
        // SAFETY: just mapped, writable.
        unsafe { start.write_bytes(7, count * size) };
        (start as usize, size)
    }

    fn first_bytes(start: usize, size: usize, count: usize) -> Vec<u8> {
        // SAFETY: pages of the test's map.
        (0..count).map(|page| unsafe { ((start + page * size) as *const u8).read() }).collect()
    }

    /// Every other page, by one call where there is one, and by many.
    #[test]
    fn each_range_is_given_back_and_nothing_else() {
        let (start, size) = pages(1000);
        for process in [Discarder::new().process, None] {
            // SAFETY: the test's map.
            unsafe { (start as *mut u8).write_bytes(7, 1000 * size) };
            let mut discarder = Discarder { process, token: identity::token(), ranges: Vec::new() };
            let ranges = (0..500).map(|n| (start + 2 * n * size, size));
            // SAFETY: pages of the test's map.
            unsafe { discarder.discard(ranges, |place, errno| panic!("{place}: {errno}")) };
            let want: Vec<u8> = (0..1000).map(|page| if page % 2 == 0 { 0 } else { 7 }).collect();
            assert_eq!(first_bytes(start, size, 1000), want);
        }
    }

    #[test]
    fn locked_memory_is_given_back_too_and_the_next_call_is_one_for_many_still() {
        let (start, size) = pages(4);
        mm::mlock(start as *mut u8, size, false).unwrap();
        mm::mlock((start + 2 * size) as *mut u8, size, false).unwrap();
        let mut discarder = Discarder::new();
        let had = discarder.process.is_some();
        let ranges = (0..2).map(|half| (start + 2 * half * size, 2 * size));
        // SAFETY: pages of the test's map.
        unsafe { discarder.discard(ranges, |place, errno| panic!("{place}: {errno}")) };
        assert_eq!(first_bytes(start, size, 4), [0; 4]);
        assert_eq!(discarder.process.is_some(), had);
    }

    #[test]
    fn a_refused_range_is_reported_and_the_others_are_given_back() {
        let (start, size) = pages(4);
        // SAFETY: the test's own page.
        unsafe { mm::munmap((start + size) as *mut u8, size) }.unwrap();
        let mut refused = Vec::new();
        let ranges = (0..4).map(|page| (start + page * size, size));
        // SAFETY: pages of the test's map, one of which is gone.
        unsafe { Discarder::new().discard(ranges, |place, _| refused.push(place)) };
        assert_eq!(refused, [1]);
        let left = [0, 2, 3].map(|page| first_bytes(start + page * size, size, 1)[0]);
        assert_eq!(left, [0; 3]);
    }
}
