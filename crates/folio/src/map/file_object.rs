//! The object behind a map: opened, measured, lengthened, its holes filled; with errors that
//! explain themselves.

use super::fd_ownership::FdOwnership;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Placement, Region, Request};
use crate::sys;
use rustix::fs::{FileType, Mode, OFlags};
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many bytes the object has, by its kind.
pub(super) fn size(fd: BorrowedFd<'_>, status: &sys::file::Status) -> Result<u64> {
    match status.kind {
        FileType::RegularFile if sys::file::is_of_the_kernel(fd, status) => {
            // The kernel says which cannot be mapped at all: nearly every one.
            probe(fd, PageSize::system(), Prot::READ, MapFlags::PRIVATE)?;
            Err(no_file(fd))
        }
        FileType::RegularFile | FileType::BlockDevice => sys::file::length(fd, status)
            .map_err(|errno| Error::kernel("ioctl", errno, Subject::file(fd))),
        FileType::CharacterDevice if status.is_dev_zero() => Err(Error::rule_as(
            Errno::NODEV,
            "map",
            Subject::file(fd),
            "/dev/zero is memory, and no file of bytes",
            "map it privately with Anon::from_dev_zero, or shared with SharedMem::dev_zero or Device",
        )),
        FileType::Fifo | FileType::Socket | FileType::Directory | FileType::Symlink => {
            // The kernel says it: ENODEV.
            probe(fd, PageSize::system(), Prot::READ, MapFlags::PRIVATE)?;
            Err(no_file(fd))
        }
        FileType::CharacterDevice => Err(no_file(fd)),
        // An anonymous inode (io_uring, KVM, perf, BPF …) has no kind. Some cannot be mapped at
        // all.
        FileType::Unknown => Err(unmappable(fd).unwrap_or_else(|| no_file(fd))),
    }
}

/// The kernel's word that an object has no map at all.
fn unmappable(fd: BorrowedFd<'_>) -> Option<Error> {
    let answer = probe(fd, PageSize::system(), Prot::READ, MapFlags::PRIVATE);
    answer.err().filter(|error| error.errno() == Errno::NODEV)
}

fn no_file(fd: BorrowedFd<'_>) -> Error {
    Error::rule_as(
        Errno::NODEV,
        "map",
        Subject::file(fd),
        "a file map shows a regular file or a block device, and this is neither: a store could have any effect",
        "map it with Device",
    )
}

/// Refuses a device through which the kernel or hardware could write to memory that the program did
/// not name. Files, block devices and the zero device are no such.
pub(super) fn check_device(fd: BorrowedFd<'_>, status: &sys::file::Status) -> Result<()> {
    let harmless = match status.kind {
        FileType::RegularFile => !sys::file::is_of_the_kernel(fd, status),
        FileType::CharacterDevice => status.is_dev_zero() || status.is_device == NULL,
        // Some sockets have rings (packet(7), AF_XDP), by which the kernel writes to memory; most
        // have no map at all.
        FileType::Unknown | FileType::Socket => match unmappable(fd) {
            Some(error) => return Err(error),
            None => false,
        },
        // Of these the kernel maps block devices only, whose bytes are in the page cache.
        FileType::BlockDevice | FileType::Fifo | FileType::Directory | FileType::Symlink => true,
    };
    if harmless {
        return Ok(());
    }
    Err(Error::rule_as(
        Errno::PERM,
        "map",
        Subject::file(fd),
        "a store to this device may make the kernel or hardware write anywhere in memory, which safe code must not do",
        "use the unsafe Device::map_unchecked, and answer for the stores",
    ))
}

/// Major and minor number of `/dev/null`, which never change.
const NULL: (u32, u32) = (1, 3);

/// Refuses an object that is not the zero device, whatever its path says.
pub(super) fn check_zero(fd: BorrowedFd<'_>) -> Result<()> {
    if status(fd)?.is_dev_zero() {
        return Ok(());
    }
    Err(Error::rule_as(
        Errno::NODEV,
        "map",
        Subject::file(fd),
        "the object at /dev/zero is not the zero device (character device 1:5), so others could change or cut its bytes",
        "mount the device there, or use SharedMem::anonymous",
    ))
}

/// Refuses a file in memory that others made shorter or longer than `size` before a seal held its
/// length.
pub(super) fn check_sealed_length(fd: BorrowedFd<'_>, size: u64) -> Result<()> {
    let now = status(fd)?.size;
    if now == size {
        return Ok(());
    }
    Err(Error::rule_as(
        Errno::IO,
        "map",
        Subject::file(fd),
        format!(
            "another thread or process changed the length of the new memfd from {size} to {now} bytes"
        ),
        "find the code that opens memfds of this process through /proc",
    ))
}

/// Adds seals to a file in memory.
pub(super) fn seal(fd: BorrowedFd<'_>, seals: sys::memfd::Seals) -> Result<()> {
    sys::memfd::add_seals(fd, seals).map_err(|errno| {
        Error::kernel("fcntl", errno, Subject::file(fd).with_detail("F_ADD_SEALS"))
    })
}

/// The bytes of the range of a file in memory that have no page yet, if there is memory for them.
pub(super) fn check_room(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> Result<u64> {
    let subject = || Subject::file(fd).with_range(range.start, (range.end - range.start) as usize);
    sys::memory_room::check(fd, &range).map_err(|short| Error::short(subject(), short))
}

/// Writes all of `bytes` to `offset` of a file.
pub(super) fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> Result<()> {
    while !bytes.is_empty() {
        let failed = |errno| {
            Error::kernel("pwrite", errno, Subject::file(fd).with_range(offset, bytes.len()))
        };
        match sys::size_limit::within(|| rustix::io::pwrite(fd, bytes, offset)).map_err(failed)? {
            0 => return Err(failed(Errno::IO)),
            count => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
        }
    }
    Ok(())
}

/// Maps the first page and lets it go again: the kernel's word on whether the object can be mapped
/// so.
pub(super) fn probe(fd: BorrowedFd<'_>, page: PageSize, prot: Prot, flags: MapFlags) -> Result<()> {
    let (len, place) = (page.bytes(), Placement::Anywhere);
    Region::create(&Request { len, page, prot, flags, fd: Some(fd), offset: 0, place }).map(drop)
}

/// The size of the pages that a map of the object has.
pub(super) fn page_size(fd: BorrowedFd<'_>) -> PageSize {
    sys::file::huge_page_bytes(fd).and_then(PageSize::new).unwrap_or_else(PageSize::system)
}

pub(super) fn status(fd: BorrowedFd<'_>) -> Result<sys::file::Status> {
    sys::file::status(fd).map_err(|errno| {
        Error::kernel("fstat", errno, Subject::named(format!("descriptor {}", fd.as_raw_fd())))
    })
}

/// The longest file that the kernel can count.
const LONGEST: u64 = i64::MAX as u64;

/// Refuses a length that no file can have. The kernel would take it for a negative number.
pub(super) fn check_length(subject: impl FnOnce() -> Subject, length: u64) -> Result<()> {
    if length <= LONGEST {
        return Ok(());
    }
    Err(Error::rule_as(
        Errno::FBIG,
        "ftruncate",
        subject().with_range(0, usize::try_from(length).unwrap_or(usize::MAX)),
        format!("a file has at most {LONGEST} bytes (2^63 - 1)"),
        "ask for less",
    ))
}

pub(super) fn set_length(fd: BorrowedFd<'_>, length: u64) -> Result<()> {
    check_length(|| Subject::file(fd), length)?;
    sys::size_limit::set_length(fd, length).map_err(|errno| {
        Error::kernel("ftruncate", errno, Subject::file(fd).with_range(0, length as usize))
    })
}

/// Makes a file at least `length` bytes long. Bytes that another process appends meanwhile stay,
/// where the file system has fallocate(2).
pub(super) fn lengthen(fd: BorrowedFd<'_>, length: u64) -> Result<()> {
    check_length(|| Subject::file(fd), length)?;
    match sys::file::extend(fd, length) {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::NOMEM | Errno::IO)) => {
            Err(Error::kernel("fallocate", errno, Subject::file(fd).with_range(length - 1, 1)))
        }
        // It cannot do this, or the file may not grow: ftruncate(2) says the latter again.
        Err(_) => set_length(fd, length),
    }
}

/// Backs the holes of a file range with space; nothing else of the file changes.
pub(super) fn fill_holes(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> Result<()> {
    let subject = |hole: &std::ops::Range<u64>| {
        Subject::file(fd).with_range(hole.start, (hole.end - hole.start) as usize)
    };
    // A block device has no holes (and fallocate(2) drops what its page cache holds, on some
    // kernels); a shared map of huge pages takes them from the pool by itself.
    if status(fd)?.kind != FileType::RegularFile || sys::file::huge_page_bytes(fd).is_some() {
        return Ok(());
    }
    check_room(fd, range.clone())?;
    let mut next = range.start;
    while next < range.end {
        let (hole, told) = match sys::file::next_hole(fd, next, range.end) {
            Ok(Some(hole)) => (hole, true),
            Ok(None) => return Ok(()),
            Err(_) if sys::file::is_full_tmpfs(fd, &(next..range.end)) => return Ok(()),
            // A file system that does not tell its holes: ask for all of it.
            Err(_) => (next..range.end, false),
        };
        match sys::file::allocate(fd, hole.clone()) {
            Ok(()) => next = hole.end,
            // It can do neither (NFS before 4.2): no harm if there is no hole.
            Err(Errno::OPNOTSUPP)
                if !told && sys::file::seeks_no_hole(fd, hole.clone()) == Ok(true) =>
            {
                return Ok(());
            }
            Err(errno) => return Err(Error::kernel("fallocate", errno, subject(&hole))),
        }
    }
    Ok(())
}

/// Opens a file for a map: to read, or to read and write. A FIFO is no file for a map, and nothing
/// waits for its other end.
pub(super) fn open(path: impl AsRef<std::path::Path>, write: bool) -> Result<std::fs::File> {
    open_with(path.as_ref(), if write { OFlags::RDWR } else { OFlags::RDONLY })
}

/// The same with the flags of open(2).
pub(super) fn open_with(path: &std::path::Path, flags: OFlags) -> Result<std::fs::File> {
    let opened = sys::open::open(path, flags, Mode::from_raw_mode(0o666));
    let file = opened.map_err(|errno| {
        Error::kernel("open", errno, Subject::named(path.display().to_string()))
    })?;
    Ok(file.into())
}

/// Descriptors that a map was made from and keeps, for those that need one.
pub(super) fn kept<'a>(
    keep: &'a FdOwnership,
    call: &'static str,
    region: &Region,
) -> Result<BorrowedFd<'a>> {
    keep.descriptor().ok_or_else(|| {
        Error::rule_as(
            Errno::BADF,
            call,
            region.subject(0..region.len()),
            "the map was made from a borrowed descriptor, and keeps none",
            "make it from a File, an OwnedFd or an Arc<File>, or with `open`",
        )
    })
}
