//! userfaultfd: the kernel reports a missing page to another thread, and that thread supplies the
//! page.
//!
//! This module is thin: short counts, EAGAIN and EEXIST are results for the caller, which knows
//! their meaning for a page. The numbers of the ioctls are the same on every architecture that
//! folio runs on.
//!
//! Source: userfaultfd(2), ioctl_userfaultfd(2), Documentation/admin-guide/mm/userfaultfd.rst,
//! include/uapi/linux/userfaultfd.h.

use crate::sys::{check, last_errno};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `UFFD_API`.
const API: u64 = 0xAA;

/// The features of userfaultfd, as UFFDIO_API reports them (`UFFD_FEATURE_*`).
pub(crate) mod feature {
    /// Faults on write-protected anonymous memory (5.7; on arm64 6.10).
    pub(crate) const PAGEFAULT_FLAG_WP: u64 = 1 << 0;
    /// Missing pages of shared memory (4.11).
    pub(crate) const MISSING_SHMEM: u64 = 1 << 5;
    /// Each fault names the thread that faulted (4.14).
    pub(crate) const THREAD_ID: u64 = 1 << 8;
    /// Pages of shared memory that are in the page cache, but not in the map (5.14).
    pub(crate) const MINOR_SHMEM: u64 = 1 << 10;
    /// Write-protection of shared memory (5.19).
    pub(crate) const WP_HUGETLBFS_SHMEM: u64 = 1 << 12;
    /// UFFDIO_POISON (6.6).
    pub(crate) const POISON: u64 = 1 << 14;
    /// UFFDIO_MOVE (6.8).
    pub(crate) const MOVE: u64 = 1 << 16;
}

/// The kinds of faults for which a range is registered (`UFFDIO_REGISTER_MODE_*`).
pub(crate) mod watch {
    pub(crate) const MISSING: u64 = 1 << 0;
    pub(crate) const WP: u64 = 1 << 1;
    pub(crate) const MINOR: u64 = 1 << 2;
}

/// The way in which the kernel is asked for a userfaultfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UffdOpen {
    /// userfaultfd(2): for CAP_SYS_PTRACE, or with the sysctl vm.unprivileged_userfaultfd.
    Syscall,
    /// `/dev/userfaultfd` (6.1): for processes that may open it.
    Device,
    /// userfaultfd(2) with UFFD_USER_MODE_ONLY (5.11): a system call on a missing page is EFAULT.
    UserModeOnly,
}

const IOC_NEW: libc::c_ulong = 0xAA00;
const IOC_API: libc::c_ulong = 0xC018_AA3F;
const IOC_REGISTER: libc::c_ulong = 0xC020_AA00;
const IOC_WAKE: libc::c_ulong = 0x8010_AA02;
const IOC_COPY: libc::c_ulong = 0xC028_AA03;
const IOC_MOVE: libc::c_ulong = 0xC028_AA05;
const IOC_WRITEPROTECT: libc::c_ulong = 0xC018_AA06;
const IOC_CONTINUE: libc::c_ulong = 0xC020_AA07;
const IOC_POISON: libc::c_ulong = 0xC020_AA08;

/// `struct uffdio_range`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct UffdRange {
    start: u64,
    len: u64,
}

impl UffdRange {
    fn new(start: usize, len: usize) -> Self {
        Self { start: start as u64, len: len as u64 }
    }
}

/// `struct uffdio_api`.
#[repr(C)]
struct ApiCall {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct RegisterCall {
    range: UffdRange,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy` and `struct uffdio_move`.
#[repr(C)]
struct TransferCall {
    to: u64,
    from: u64,
    len: u64,
    mode: u64,
    done: i64,
}

/// `struct uffdio_continue` and `struct uffdio_poison`.
#[repr(C)]
struct FillCall {
    range: UffdRange,
    mode: u64,
    done: i64,
}

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct ProtectCall {
    range: UffdRange,
    mode: u64,
}

/// The extent to which a call succeeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes from the start of the range for which the call is done.
    pub(crate) bytes: usize,
    /// The errno that ended the call before the end of the range. EAGAIN after some bytes means
    /// only that there are more.
    pub(crate) stopped: Option<Errno>,
}

/// A fault that waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UffdFault {
    /// The exact address, or the start of the page.
    pub(crate) address: usize,
    /// The access is a store. A load that the kernel makes on its way to a store counts as one.
    pub(crate) write: bool,
    /// The page is there and write-protected.
    pub(crate) wp: bool,
    /// The page is in the page cache, but not in the map.
    pub(crate) minor: bool,
    /// The thread that faulted, if that feature was requested.
    pub(crate) thread: u32,
}

/// `struct uffd_msg`, as far as a fault fills it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct RawUffdMessage {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u32,
    padding: u32,
}

/// A userfaultfd. It is closed on drop and by exec.
#[derive(Debug)]
pub(crate) struct Uffd(OwnedFd);

impl AsFd for Uffd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Uffd {
    /// A new userfaultfd. It does nothing before its [`handshake`](Self::handshake).
    pub(crate) fn open(way: UffdOpen) -> Result<Self, Errno> {
        const USER_MODE_ONLY: i32 = 1;
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = match way {
            // SAFETY: the call makes a descriptor, and accesses no memory.
            UffdOpen::Syscall => check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?,
            UffdOpen::UserModeOnly => {
                let flags = flags | USER_MODE_ONLY;
                // SAFETY: the call makes a descriptor, and accesses no memory.
                check(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })?
            }
            UffdOpen::Device => {
                let device = rustix::fs::open(
                    "/dev/userfaultfd",
                    OFlags::RDWR | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                // SAFETY: the call makes a descriptor, and its argument is a number.
                check(unsafe { libc::ioctl(device.as_raw_fd(), IOC_NEW as _, flags) })?
            }
        };
        // SAFETY: the kernel just made the descriptor, and nothing else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
    }

    /// UFFDIO_API: requests features, once. Returns all features of the kernel. EINVAL for a
    /// feature that the kernel does not have.
    pub(crate) fn handshake(&self, features: u64) -> Result<u64, Errno> {
        let mut call = ApiCall { api: API, features, ioctls: 0 };
        // SAFETY: the struct is the one of this ioctl, which changes no other memory.
        unsafe { self.call(IOC_API, &raw mut call) }?;
        Ok(call.features)
    }

    /// UFFDIO_REGISTER: from now on faults of these kinds wait for an answer.
    ///
    /// # Safety
    ///
    /// Accesses to the range block until they are answered. The range must be memory of the code
    /// that answers, and other code must not rely on it.
    pub(crate) unsafe fn register(&self, start: usize, len: usize, mode: u64) -> Result<(), Errno> {
        let mut call = RegisterCall { range: UffdRange::new(start, len), mode, ioctls: 0 };
        // SAFETY: the struct is the one of this ioctl. The caller promises that the range is its
        // own.
        unsafe { self.call(IOC_REGISTER, &raw mut call) }
    }

    /// UFFDIO_WAKE: threads that wait in the range try their access again.
    pub(crate) fn wake(&self, start: usize, len: usize) -> Result<(), Errno> {
        let mut range = UffdRange::new(start, len);
        // SAFETY: the struct is the one of this ioctl, which changes no memory.
        unsafe { self.call(IOC_WAKE, &raw mut range) }
    }

    /// UFFDIO_COPY: copies bytes to missing pages, write-protected if `protect`, and wakes. EEXIST:
    /// a page is there.
    ///
    /// # Safety
    ///
    /// No thread changes the `len` bytes at `from` meanwhile, and the caller may fill the target.
    pub(crate) unsafe fn copy(
        &self,
        to: usize,
        from: usize,
        len: usize,
        protect: bool,
    ) -> Progress {
        const MODE_WP: u64 = 1 << 1;
        let mode = if protect { MODE_WP } else { 0 };
        // SAFETY: the caller promises the conditions of this function, which are those of the
        // ioctl.
        unsafe { self.transfer(IOC_COPY, to, from, len, mode) }
    }

    /// UFFDIO_MOVE: the pages themselves leave one range for another, each in one step. They are
    /// writable, and waiting threads are woken. EBUSY: a page is pinned, or shared. EEXIST: the
    /// target has a page. ENOENT: the source has none.
    ///
    /// # Safety
    ///
    /// The caller may change both ranges.
    pub(crate) unsafe fn r#move(&self, to: usize, from: usize, len: usize) -> Progress {
        // SAFETY: the caller promises that it may change both ranges.
        unsafe { self.transfer(IOC_MOVE, to, from, len, 0) }
    }

    /// UFFDIO_CONTINUE: puts the page cache's pages into the map, write-protected if `protect`
    /// (6.4, otherwise EINVAL), and wakes.
    ///
    /// # Safety
    ///
    /// The range must show the bytes that are in the page cache.
    pub(crate) unsafe fn r#continue(&self, start: usize, len: usize, protect: bool) -> Progress {
        const MODE_WP: u64 = 1 << 1;
        let mode = if protect { MODE_WP } else { 0 };
        // SAFETY: the caller promises that the range must show the page cache's bytes.
        unsafe { self.fill(IOC_CONTINUE, start, len, mode) }
    }

    /// UFFDIO_POISON: every access to these missing pages is a SIGBUS, and in a system call EFAULT.
    /// Wakes.
    ///
    /// # Safety
    ///
    /// Nothing may rely on accesses to the range.
    pub(crate) unsafe fn poison(&self, start: usize, len: usize) -> Progress {
        // SAFETY: the caller promises that nothing relies on accesses to the range.
        unsafe { self.fill(IOC_POISON, start, len, 0) }
    }

    /// UFFDIO_WRITEPROTECT. With `protect`, stores to resident pages of the range wait for an
    /// answer. Without it they no longer wait, and waiting threads are woken.
    pub(crate) fn write_protect(
        &self,
        start: usize,
        len: usize,
        protect: bool,
    ) -> Result<(), Errno> {
        const MODE_WP: u64 = 1 << 0;
        let mode = if protect { MODE_WP } else { 0 };
        loop {
            let mut call = ProtectCall { range: UffdRange::new(start, len), mode };
            // SAFETY: the struct is the one of this ioctl, which changes no byte.
            match unsafe { self.call(IOC_WRITEPROTECT, &raw mut call) } {
                // Another thread changed the address space meanwhile.
                Err(Errno::AGAIN | Errno::INTR) => std::thread::yield_now(),
                result => return result,
            }
        }
    }

    /// The faults that no thread has read yet, up to `limit`. Never waits.
    pub(crate) fn read(&self, limit: usize, mut take: impl FnMut(UffdFault)) -> Result<(), Errno> {
        const BATCH: usize = 64;
        const EVENT_PAGEFAULT: u8 = 0x12;
        let mut messages = [RawUffdMessage::default(); BATCH];
        let mut left = limit;
        while left > 0 {
            let wanted = left.min(BATCH);
            let room = wanted * size_of::<RawUffdMessage>();
            // SAFETY: the kernel writes whole messages, at most `room` bytes, for which `messages`
            // has room.
            let got = check(unsafe {
                libc::read(self.0.as_raw_fd(), messages.as_mut_ptr().cast(), room) as i64
            });
            let count = match got {
                Ok(bytes) => bytes as usize / size_of::<RawUffdMessage>(),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno),
            };
            // No other event was requested.
            for raw in messages[..count].iter().filter(|raw| raw.event == EVENT_PAGEFAULT) {
                take(UffdFault {
                    address: raw.address as usize,
                    write: raw.flags & 1 != 0,
                    wp: raw.flags & 2 != 0,
                    minor: raw.flags & 4 != 0,
                    thread: raw.thread,
                });
            }
            left -= count;
            if count < wanted {
                break;
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// The conditions of the ioctl `request`, which [`copy`](Self::copy) and [`move`](Self::move)
    /// state.
    unsafe fn transfer(
        &self,
        request: libc::c_ulong,
        to: usize,
        from: usize,
        len: usize,
        mode: u64,
    ) -> Progress {
        let mut call =
            TransferCall { to: to as u64, from: from as u64, len: len as u64, mode, done: 0 };
        // SAFETY: the struct is the one of both ioctls. The caller promises the conditions of
        // `request`.
        let result = unsafe { self.call(request, &raw mut call) };
        Progress::of(result, len, call.done)
    }

    /// # Safety
    ///
    /// The conditions of the ioctl `request`, which [`continue`](Self::continue) and
    /// [`poison`](Self::poison) state.
    unsafe fn fill(&self, request: libc::c_ulong, start: usize, len: usize, mode: u64) -> Progress {
        let mut call = FillCall { range: UffdRange::new(start, len), mode, done: 0 };
        // SAFETY: the struct is the one of both ioctls. The caller promises the conditions of
        // `request`.
        let result = unsafe { self.call(request, &raw mut call) };
        Progress::of(result, len, call.done)
    }

    /// # Safety
    ///
    /// `argument` is the struct that `request` takes, and the caller keeps the conditions of the
    /// request.
    unsafe fn call<T>(&self, request: libc::c_ulong, argument: *mut T) -> Result<(), Errno> {
        // SAFETY: the caller promises that `argument` is the struct of `request`, and that it keeps
        // the conditions of the request.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request as _, argument) };
        if result == -1 { Err(last_errno()) } else { Ok(()) }
    }
}

impl Progress {
    fn of(result: Result<(), Errno>, len: usize, done: i64) -> Self {
        match result {
            Ok(()) => Self { bytes: len, stopped: None },
            // A negative count repeats the errno.
            Err(errno) => Self { bytes: usize::try_from(done).unwrap_or(0), stopped: Some(errno) },
        }
    }
}

const _: () = assert!(size_of::<RawUffdMessage>() == 32);
