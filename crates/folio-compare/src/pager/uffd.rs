//! userfaultfd(2) by raw calls, and the anonymous memory that it watches: the parts of the bare
//! mechanisms.

use anyhow::{Context, Result, ensure};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

pub(super) const MISSING: u64 = 1;
pub(super) const PROTECTED: u64 = 2;

/// A missing page is a SIGBUS in the thread that touches it, instead of a message.
pub(super) const FEATURE_SIGBUS: u64 = 1 << 7;
pub(super) const FEATURE_MOVE: u64 = 1 << 16;

const API: u64 = 0xaa;

const fn ioctl_number(direction: u64, number: u64, size: usize) -> libc::Ioctl {
    (direction << 30 | (size as u64) << 16 | 0xaa << 8 | number) as libc::Ioctl
}

const BOTH: u64 = 3;
const READ: u64 = 2;

/// Pages that are this process's own, all of them missing at first.
#[derive(Debug)]
pub(super) struct Area {
    start: *mut u8,
    len: usize,
    whole: (*mut u8, usize),
}

// SAFETY: an area is plain memory, whichever thread holds it.
unsafe impl Send for Area {}
// SAFETY: as above; a shared reference gives shared slices and addresses only.
unsafe impl Sync for Area {}

impl Area {
    /// `len` bytes whose start is a multiple of `align`, a power of two.
    pub(super) fn new(len: usize, align: usize) -> Result<Self> {
        let all = len + align;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new map, without FIXED.
        let whole = unsafe {
            libc::mmap(std::ptr::null_mut(), all, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        ensure!(whole != libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
        let whole = whole.cast::<u8>();
        let skip = whole.align_offset(align);
        Ok(Self { start: whole.wrapping_add(skip), len, whole: (whole, all) })
    }

    pub(super) fn start(&self) -> *mut u8 {
        self.start
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// madvise(2) on all of it.
    pub(super) fn advise(&self, advice: i32) -> Result<()> {
        // SAFETY: the range is this value's. From now on the supplier decides its bytes.
        let done = unsafe { libc::madvise(self.start.cast(), self.len, advice) };
        ensure!(done == 0, "madvise: {}", io::Error::last_os_error());
        Ok(())
    }

    /// # Safety
    ///
    /// Each page always shows the same bytes, once one supplies it.
    pub(super) unsafe fn bytes(&self) -> &[u8] {
        // SAFETY: mapped for as long as `self` lives; the caller promises that the bytes stay.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: the map is this value's own, and nothing borrows it any more.
        unsafe { libc::munmap(self.whole.0.cast(), self.whole.1) };
    }
}

#[derive(Debug)]
pub(super) struct Uffd(OwnedFd);

impl Uffd {
    pub(super) fn open(features: u64) -> Result<Self> {
        // SAFETY: the call takes flags only.
        let mut fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) } as i32;
        if fd < 0 {
            // The copies here are never the kernel's.
            let user_mode_only = 1;
            // SAFETY: as above.
            fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | user_mode_only) }
                as i32;
        }
        ensure!(fd >= 0, "userfaultfd: {}", io::Error::last_os_error());
        // SAFETY: just opened, and nobody else's.
        let uffd = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        uffd.call(ioctl_number(BOTH, 0x3f, 24), &mut [API, features, 0])
            .context("userfaultfd: this kernel lacks a feature")?;
        Ok(uffd)
    }

    pub(super) fn register(&self, area: &Area, mode: u64) -> Result<()> {
        let mut arguments = [area.start as u64, area.len as u64, mode, 0];
        self.call(ioctl_number(BOTH, 0x00, 32), &mut arguments).context("UFFDIO_REGISTER")
    }

    /// Waits for a fault, and returns its address.
    pub(super) fn next(&self) -> io::Result<usize> {
        let mut message = [0_u64; 4];
        // SAFETY: `message` has room for the 32 bytes.
        let got = unsafe { libc::read(self.0.as_raw_fd(), message.as_mut_ptr().cast(), 32) };
        if got == 32 { Ok(message[2] as usize) } else { Err(io::Error::last_os_error()) }
    }

    /// Puts bytes where pages are missing, and wakes who waits for them. False if there is a page
    /// by now.
    pub(super) fn copy(&self, to: usize, from: *const u8, len: usize) -> io::Result<bool> {
        let mut arguments = [to as u64, from as u64, len as u64, 0, 0];
        match self.call(ioctl_number(BOTH, 0x03, 40), &mut arguments) {
            Ok(()) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn wake(&self, start: usize, len: usize) -> io::Result<()> {
        self.call(ioctl_number(READ, 0x02, 16), &mut [start as u64, len as u64])
    }

    /// Moves pages to where there are none, and wakes who waits for them.
    pub(super) fn shift(&self, to: usize, from: usize, len: usize) -> io::Result<()> {
        let mut done = 0;
        loop {
            let (to, from) = ((to + done) as u64, (from + done) as u64);
            let mut arguments = [to, from, (len - done) as u64, 0, 0];
            let result = self.call(ioctl_number(BOTH, 0x05, 40), &mut arguments);
            // How far it came, or an error.
            done += usize::try_from(arguments[4] as i64).unwrap_or(0);
            match result {
                Err(error) if !matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EBUSY)) => {
                    return Err(error);
                }
                _ if done >= len => return Ok(()),
                _ => std::hint::spin_loop(),
            }
        }
    }

    fn call<const N: usize>(
        &self,
        number: libc::Ioctl,
        arguments: &mut [u64; N],
    ) -> io::Result<()> {
        // SAFETY: the arguments are those of this call, which writes within them. The memory that
        // they name belongs to areas that only ever show the bytes which are put there.
        let done = unsafe { libc::ioctl(self.0.as_raw_fd(), number, arguments.as_mut_ptr()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}
