//! The second descriptor of a file, whose reads and writes go around the page cache, and which
//! ranges it takes.

use crate::page::PageSize;
use crate::sys::Errno;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where nobody says better: the greatest logical block that disks have.
const UNIT: u32 = 4096;

/// A file open for direct I/O (`O_DIRECT`, open(2)).
#[derive(Debug)]
pub(super) struct DirectFile {
    fd: OwnedFd,
    /// Offsets and lengths are multiples of this, in bytes.
    offset: u32,
    /// Addresses are multiples of this.
    memory: u32,
    /// The file system took the flag, and then refused an operation all the same.
    refused: AtomicBool,
}

/// Opens what a descriptor stands for once more: its flags are then nobody else's.
pub(crate) fn reopen(fd: BorrowedFd<'_>, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let again = rustix::fs::open(path, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())?;
    let (ours, theirs) = (rustix::fs::fstat(&again)?, rustix::fs::fstat(fd)?);
    // A file at /proc is not always the kernel's.
    let same =
        (ours.st_dev, ours.st_ino, ours.st_rdev) == (theirs.st_dev, theirs.st_ino, theirs.st_rdev);
    if same { Ok(again) } else { Err(Errno::STALE) }
}

impl DirectFile {
    /// Opens the file for direct I/O too, if its file system takes that.
    pub(super) fn open(fd: BorrowedFd<'_>, writable: bool) -> Option<Self> {
        /// `TMPFS_MAGIC` of linux/magic.h.
        const TMPFS: rustix::fs::FsWord = 0x0102_1994;
        // There the page cache is the file: the flag is accepted since 6.6, and changes nothing.
        if rustix::fs::fstatfs(fd).ok()?.f_type == TMPFS {
            return None;
        }
        let units = told_units(fd);
        if units == Some((0, 0)) {
            return None;
        }
        let access = if writable { OFlags::RDWR } else { OFlags::RDONLY };
        let again = reopen(fd, access | OFlags::DIRECT).ok()?;
        let (memory, offset) = if let Some(units) = units {
            units
        } else {
            let units = (UNIT, block_of_device(fd).unwrap_or(UNIT));
            is_probed(again.as_fd()).then_some(units)?
        };
        // Whatever is no power of two, or greater than any block, would break the sums below.
        let sound = |unit: u32| unit.is_power_of_two() && unit <= 1 << 21;
        (sound(memory) && sound(offset)).then_some(Self {
            fd: again,
            offset,
            memory,
            refused: AtomicBool::new(false),
        })
    }

    pub(super) fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Offsets and lengths are multiples of this, in bytes.
    pub(super) fn offset_unit(&self) -> usize {
        self.offset as usize
    }

    pub(super) fn is_usable(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    /// No more direct I/O.
    pub(super) fn give_up(&self) {
        self.refused.store(true, Ordering::Relaxed);
    }

    /// How many bytes from `offset` can be read directly to `address`.
    pub(super) fn readable(&self, offset: u64, len: usize, address: usize) -> usize {
        self.aligned(offset, len, address, self.offset as usize)
    }

    /// How many bytes can be written directly: whole pages, so that no buffered write has a part of
    /// one of them.
    pub(super) fn writable(&self, offset: u64, len: usize, address: usize) -> usize {
        self.aligned(offset, len, address, PageSize::system().bytes().max(self.offset as usize))
    }

    fn aligned(&self, offset: u64, len: usize, address: usize, unit: usize) -> usize {
        let fits =
            offset.is_multiple_of(unit as u64) && address.is_multiple_of(self.memory as usize);
        if fits && self.is_usable() { len & !(unit - 1) } else { 0 }
    }
}

/// The alignment of memory and of offsets that statx(2) reports (`STATX_DIOALIGN`, since 6.1):
/// zeros where the file takes no direct I/O, `None` where the kernel or the file system does not
/// report it.
fn told_units(fd: BorrowedFd<'_>) -> Option<(u32, u32)> {
    let wanted = StatxFlags::DIOALIGN;
    let told = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, wanted).ok()?;
    if told.stx_mask & wanted.bits() == 0 {
        return None;
    }
    let units = (told.stx_dio_mem_align, told.stx_dio_offset_align);
    Some(if units.0 == 0 || units.1 == 0 { (0, 0) } else { units })
}

/// The logical block of a block device (`BLKSSZGET`).
fn block_of_device(fd: BorrowedFd<'_>) -> Option<u32> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    (kind == FileType::BlockDevice).then(|| rustix::fs::ioctl_blksszget(fd).ok())?
}

/// Whether a direct read works here: some file systems take the flag and refuse the reads.
fn is_probed(fd: BorrowedFd<'_>) -> bool {
    #[repr(C, align(4096))]
    struct Aligned([u8; UNIT as usize]);
    let mut buffer = Box::new(Aligned([0; UNIT as usize]));
    rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut buffer.0, 0)).is_ok()
}
