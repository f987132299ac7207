//! Properties of a file that a map needs (size, owner, name, holes), and calls that change its size
//! and space.

use crate::page::PageSize;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::Errno;
use rustix::ioctl;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

/// The answer of fstat(2).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Status {
    pub(crate) size: u64,
    /// The space that it uses, in blocks of 512 bytes.
    pub(crate) blocks: u64,
    /// The device that holds the inode, major and minor.
    pub(crate) device: (u32, u32),
    pub(crate) inode: u64,
    pub(crate) owner: u32,
    /// The number of names of the inode.
    #[cfg(feature = "shm")]
    pub(crate) links: u64,
    /// The file system's preferred block, in bytes: for hugetlbfs, its page.
    pub(crate) block: usize,
    pub(crate) kind: rustix::fs::FileType,
    /// Major and minor number, if the file is a device.
    pub(crate) is_device: (u32, u32),
}

impl Status {
    /// Whether it is the kernel's source of zeros, under any name.
    pub(crate) fn is_dev_zero(&self) -> bool {
        self.kind == rustix::fs::FileType::CharacterDevice && self.is_device == (1, 5)
    }
}

impl From<rustix::fs::Stat> for Status {
    fn from(stat: rustix::fs::Stat) -> Self {
        Self {
            size: stat.st_size.cast_unsigned(),
            blocks: stat.st_blocks.cast_unsigned(),
            device: (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev)),
            inode: stat.st_ino,
            owner: stat.st_uid,
            // The width differs between machines.
            #[cfg(feature = "shm")]
            #[allow(clippy::useless_conversion)]
            links: stat.st_nlink.into(),
            block: stat.st_blksize as usize,
            kind: rustix::fs::FileType::from_raw_mode(stat.st_mode),
            is_device: (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)),
        }
    }
}

pub(crate) fn status(fd: BorrowedFd<'_>) -> Result<Status, Errno> {
    rustix::fs::fstat(fd).map(Status::from)
}

/// The status of the file at a path, without a descriptor; of a symbolic link, the link's own.
#[cfg(feature = "shm")]
pub(crate) fn status_of(path: &std::path::Path) -> Result<Status, Errno> {
    rustix::fs::lstat(path).map(Status::from)
}

/// Looks up a path without opening the file: the call waits for no other process, and no device
/// notices it.
pub(crate) fn find(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

/// Whether an error says that this process or the machine has no free descriptor or no memory at
/// the moment.
#[cfg(feature = "shm")]
pub(crate) fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

/// The kernel's name for a descriptor: a path, possibly with " (deleted)", or `memfd:x`, `pipe:[5]`
/// …
pub(crate) fn name(fd: BorrowedFd<'_>) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).ok()
}

/// Whether this process, with its effective ids, may write to the file.
pub(crate) fn may_write(fd: BorrowedFd<'_>) -> bool {
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::WRITE_OK, AtFlags::EACCESS)
        .is_ok()
}

/// The page size of a map of this file, if it is not the machine's base page: for files in
/// hugetlbfs.
pub(crate) fn huge_page_bytes(fd: BorrowedFd<'_>) -> Option<usize> {
    /// `HUGETLBFS_MAGIC` of linux/magic.h.
    const HUGETLBFS: i64 = 0x9584_58f6;
    let stat = rustix::fs::fstatfs(fd).ok()?;
    (stat.f_type as i64 == HUGETLBFS).then_some(stat.f_bsize as usize)
}

/// The length of an object in bytes, by its status. For a block device fstat(2) does not report it.
pub(crate) fn length(fd: BorrowedFd<'_>, status: &Status) -> Result<u64, Errno> {
    match status.kind {
        rustix::fs::FileType::BlockDevice => {
            const BLKGETSIZE64: ioctl::Opcode = ioctl::opcode::read::<usize>(0x12, 114);
            // SAFETY: the kernel writes one u64, for any type with which the opcode was made.
            unsafe { ioctl::ioctl(fd, ioctl::Getter::<BLKGETSIZE64, u64>::new()) }
        }
        _ => Ok(status.size),
    }
}

/// The present length of an object in bytes.
pub(crate) fn present_length(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    length(fd, &status(fd)?)
}

/// `struct fiemap_extent` of linux/fiemap.h: bytes of a file that have space.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct FileExtent {
    start: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    more_reserved: [u32; 3],
}

/// `struct fiemap`. Room for extents follows it.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct FileExtents {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    room: u32,
    reserved: u32,
}

/// The first hole at or after `from`, up to `end`, or `None` if there is none. An error if the file
/// system cannot report it (tmpfs). It uses FIEMAP, because lseek(2) would move the position at
/// which all holders of the descriptor read and write.
pub(crate) fn next_hole(
    fd: BorrowedFd<'_>,
    from: u64,
    end: u64,
) -> Result<Option<std::ops::Range<u64>>, Errno> {
    const MAX_EXTENTS: usize = 64;
    const FIEMAP: ioctl::Opcode = ioctl::opcode::read_write::<FileExtents>(b'f', 11);
    let mut next = from;
    while next < end {
        let head = FileExtents {
            start: next,
            length: end - next,
            room: MAX_EXTENTS as u32,
            ..FileExtents::default()
        };
        let mut answer = (head, [FileExtent::default(); MAX_EXTENTS]);
        // SAFETY: the kernel reads and writes one `struct fiemap`, and behind it at most as many
        // extents as `room` says. Both structs are whole multiples of eight bytes, and aligned to
        // eight.
        unsafe { ioctl::ioctl(fd, ioctl::Updater::<FIEMAP, _>::new(&mut answer)) }?;
        let (head, extents) = &answer;
        let before = next;
        for extent in extents.iter().take(head.mapped as usize) {
            if extent.start > next {
                return Ok(Some(next..extent.start.min(end)));
            }
            next = next.max(extent.start.saturating_add(extent.length));
        }
        // The kernel returned fewer extents than there was room for, so no extent follows them.
        if (head.mapped as usize) < MAX_EXTENTS || next == before {
            return Ok((next < end).then_some(next..end));
        }
    }
    Ok(None)
}

/// Whether a regular file lies on a file system whose files are the kernel's own data or a device's
/// registers. A map of such a file can be more than bytes of a file.
pub(crate) fn is_of_the_kernel(fd: BorrowedFd<'_>, status: &Status) -> bool {
    /// procfs, sysfs, debugfs, tracefs, anonymous inodes and DMA buffers (linux/magic.h).
    const KERNEL_FILE_SYSTEMS: [rustix::fs::FsWord; 6] =
        [0x9fa0, 0x6265_6572, 0x6462_6720, 0x7472_6163, 0x0904_1934, 0x444d_4142];
    // Such files lie on no device and use no space. For any other file this avoids a further call,
    // to which a server might have to reply.
    let may_be = status.device.0 == 0 && status.blocks == 0;
    may_be && rustix::fs::fstatfs(fd).is_ok_and(|stat| KERNEL_FILE_SYSTEMS.contains(&stat.f_type))
}

/// The statistics of the file system, if the file is only in memory.
pub(crate) fn tmpfs(fd: BorrowedFd<'_>) -> Option<rustix::fs::StatFs> {
    /// `TMPFS_MAGIC` of linux/magic.h.
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    rustix::fs::fstatfs(fd).ok().filter(|stat| stat.f_type == TMPFS)
}

/// Whether a file is only in memory.
pub(crate) fn is_on_tmpfs(fd: BorrowedFd<'_>) -> bool {
    tmpfs(fd).is_some()
}

/// Whether a file is on a file system that answers by itself: no server, local or remote, can delay
/// a call on it, and fstat(2) waits for no disk. An unknown file system is not local. overlayfs
/// reports nothing about the file systems below it.
#[cfg(feature = "pager")]
pub(crate) fn is_on_local_file_system(fd: BorrowedFd<'_>) -> bool {
    /// The magic numbers of statfs(2): ext2/3/4, XFS, Btrfs, F2FS, tmpfs, ramfs, hugetlbfs, ZFS,
    /// bcachefs, EROFS, SquashFS, ISO 9660, FAT, exFAT, NTFS3, JFS, NILFS.
    const LOCAL: [u32; 17] = [
        0xEF53,
        0x5846_5342,
        0x9123_683E,
        0xF2F5_2010,
        0x0102_1994,
        0x8584_58F6,
        0x9584_58F6,
        0x2FC1_2FC1,
        0xCA45_1A4E,
        0xE0F5_E1E2,
        0x7371_7368,
        0x9660,
        0x4D44,
        0x2011_BAB0,
        0x7366_746E,
        0x3153_464A,
        0x3434,
    ];
    // Only the low 32 bits are the number; the word's width and sign differ between machines.
    rustix::fs::fstatfs(fd).is_ok_and(|stat| LOCAL.contains(&(stat.f_type as u32)))
}

/// Whether tmpfs has a page for every byte of the range, in memory or in swap. There the page cache
/// is the file, and cachestat(2) (since 6.5) counts it.
pub(crate) fn is_full_tmpfs(fd: BorrowedFd<'_>, range: &std::ops::Range<u64>) -> bool {
    let page = PageSize::system().bytes() as u64;
    let pages = range.end.div_ceil(page) - range.start / page;
    is_on_tmpfs(fd)
        && super::mm::cachestat(fd.as_raw_fd(), range.start, range.end - range.start)
            .is_ok_and(|stat| stat.cache + stat.evicted >= pages)
}

/// The largest possible number of bytes of the range that have no page yet, in a file in memory.
pub(crate) fn missing(fd: BorrowedFd<'_>, range: &std::ops::Range<u64>) -> u64 {
    let page = PageSize::system().bytes() as u64;
    let len = range.end.saturating_sub(range.start);
    let present = match super::mm::cachestat(fd.as_raw_fd(), range.start, len) {
        Ok(stat) if len > 0 => (stat.cache + stat.evicted) * page,
        // Before 6.5 only the number of pages of the whole file is known, and all pages outside the
        // range may exist.
        _ => rustix::fs::fstat(fd).map_or(0, |stat| {
            let outside = stat.st_size.cast_unsigned().saturating_sub(len);
            (stat.st_blocks.cast_unsigned() * 512).saturating_sub(outside)
        }),
    };
    len.saturating_sub(present)
}

/// Whether lseek(2) finds no hole in the range. It moves the descriptor's position for a moment, so
/// it is for file systems where no other call reports holes.
pub(crate) fn seeks_no_hole(
    fd: BorrowedFd<'_>,
    range: std::ops::Range<u64>,
) -> Result<bool, Errno> {
    let position = rustix::fs::seek(fd, SeekFrom::Current(0))?;
    let hole = rustix::fs::seek(fd, SeekFrom::Hole(range.start));
    rustix::fs::seek(fd, SeekFrom::Start(position))?;
    hole.map(|hole| hole >= range.end)
}

/// fallocate(2): allocates space for the range. The bytes and the size stay unchanged.
pub(crate) fn allocate(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> Result<(), Errno> {
    super::size_limit::within(|| {
        rustix::fs::fallocate(fd, FallocateFlags::KEEP_SIZE, range.start, range.end - range.start)
    })
}

/// Makes a file at least `length` bytes long (`length` is not zero), and allocates space for the
/// last byte. Unlike ftruncate(2) it never cuts off bytes that another process has appended
/// meanwhile.
pub(crate) fn extend(fd: BorrowedFd<'_>, length: u64) -> Result<(), Errno> {
    super::size_limit::within(|| rustix::fs::fallocate(fd, FallocateFlags::empty(), length - 1, 1))
}

/// The largest length that this process may give to a file, if it is limited (RLIMIT_FSIZE).
#[cfg(feature = "shm")]
pub(crate) fn size_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Fsize).current
}

/// Sets the bytes from `start` on to zero; there are `size - start` of them, and they may lose
/// their space. The file keeps its length if the file system can make holes. Otherwise it ends at
/// `start`.
#[cfg(feature = "shm")]
pub(crate) fn zero_behind(fd: BorrowedFd<'_>, start: u64, size: u64) -> Result<(), Errno> {
    let Some(len) = size.checked_sub(start).filter(|&len| len > 0) else { return Ok(()) };
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match rustix::io::retry_on_intr(|| rustix::fs::fallocate(fd, flags, start, len)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => super::size_limit::set_length(fd, start),
        result => result,
    }
}

/// Whether fs-verity protects the file's bytes from changes (`FS_IOC_GETFLAGS`, `FS_VERITY_FL`).
pub(crate) fn is_verity(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    const VERITY: u32 = 0x0010_0000;
    rustix::fs::ioctl_getflags(fd).map(|flags| flags.bits() & VERITY != 0)
}

/// pread(2). It reads fewer bytes than requested only at the end of the file.
pub(crate) fn read_at(fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut done = 0;
    while done < buffer.len() {
        let rest = &mut buffer[done..];
        match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut *rest, offset + done as u64))
        {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(errno) => return Err(errno),
        }
    }
    Ok(done)
}
