//! The object behind a map: opened, measured, lengthened, its holes filled; with errors that explain themselves.

use super::keep::Keep;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Place, Region, Request};
use crate::sys;
use rustix::fs::FileType;
use std::os::fd::{AsRawFd, BorrowedFd};

/// How many bytes the object has, by its kind.
pub(super) fn size(fd: BorrowedFd<'_>, status: &sys::file::Status) -> Result<u64> {
    match status.kind {
        FileType::RegularFile | FileType::BlockDevice => {
            sys::file::length(fd, status).map_err(|errno| Error::kernel("ioctl", errno, Subject::file(fd)))
        }
        FileType::CharacterDevice if status.is_dev_zero() => Err(Error::rule_as(
            Errno::NODEV,
            "map",
            Subject::file(fd),
            "/dev/zero is memory, and no file of bytes",
            "map it privately with Anon::from_dev_zero, or shared with SharedMem::dev_zero or Device",
        )),
        FileType::CharacterDevice => Err(Error::rule_as(
            Errno::NODEV,
            "map",
            Subject::file(fd),
            "a character device is not a file of bytes",
            "map it with Device",
        )),
        _ => {
            // The kernel says which: ENODEV for pipes, sockets and directories.
            probe(fd, PageSize::system(), Prot::READ, MapFlags::PRIVATE)?;
            Ok(status.size)
        }
    }
}

/// Maps the first page and lets it go again: the kernel's word on whether the object can be mapped so.
pub(super) fn probe(fd: BorrowedFd<'_>, page: PageSize, prot: Prot, flags: MapFlags) -> Result<()> {
    let (len, place) = (page.bytes(), Place::Anywhere);
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
    if let Some(limit) = sys::process::limit(rustix::process::Resource::Fsize).filter(|&limit| length > limit)
        && status(fd)?.size < length
    {
        // The kernel would send a signal (SIGXFSZ), which ends the process.
        return Err(Error::rule_as(
            Errno::FBIG,
            "ftruncate",
            Subject::file(fd).with_range(0, usize::try_from(length).unwrap_or(usize::MAX)),
            format!("this process may make no file longer than {limit} bytes (RLIMIT_FSIZE)"),
            "make it shorter, or raise the limit (ulimit -f)",
        ));
    }
    rustix::fs::ftruncate(fd, length)
        .map_err(|errno| Error::kernel("ftruncate", errno, Subject::file(fd).with_range(0, length as usize)))
}

/// Backs the holes of a file range with space; nothing else of the file changes.
pub(super) fn fill_holes(fd: BorrowedFd<'_>, range: std::ops::Range<u64>) -> Result<()> {
    let subject = |hole: &std::ops::Range<u64>| {
        Subject::file(fd).with_range(hole.start, (hole.end - hole.start) as usize)
    };
    // A block device has no holes (and fallocate(2) drops what its page cache holds, on some kernels); a shared map of
    // huge pages takes them from the pool by itself.
    if status(fd)?.kind != FileType::RegularFile || sys::file::huge_page_bytes(fd).is_some() {
        return Ok(());
    }
    if let Err(short) = sys::room::check(fd, sys::file::missing(fd, &range)) {
        return Err(Error::short(subject(&range), range.end - range.start, short));
    }
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
            Err(Errno::OPNOTSUPP) if !told && sys::file::seeks_no_hole(fd, hole.clone()) == Ok(true) => {
                return Ok(());
            }
            Err(errno) => return Err(Error::kernel("fallocate", errno, subject(&hole))),
        }
    }
    Ok(())
}

/// Opens a file for a map: to read, or to read and write.
pub(super) fn open(path: impl AsRef<std::path::Path>, write: bool) -> Result<std::fs::File> {
    let path = path.as_ref();
    std::fs::OpenOptions::new().read(true).write(write).open(path).map_err(|error| opening(&error, path))
}

pub(super) fn opening(error: &std::io::Error, path: &std::path::Path) -> Error {
    // Without an errno the kernel was not asked: of a path, the library refuses a NUL byte only.
    let errno = Errno::from_io_error(error).unwrap_or(Errno::INVAL);
    Error::kernel("open", errno, Subject::named(path.display().to_string()))
}

/// Descriptors that a map was made from and keeps, for those that need one.
pub(super) fn kept<'a>(keep: &'a Keep, call: &'static str, region: &Region) -> Result<BorrowedFd<'a>> {
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
