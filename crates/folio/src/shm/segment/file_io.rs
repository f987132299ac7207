//! Reads and writes of a segment's file: its header, its space, its identity.

use crate::error::{Errno, Error, Result, Subject};
use crate::page::PageSize;
use crate::shm::segment::header::{
    FIXED, HeaderError, HeaderFields, Lifetime, MutableHeader, SegmentKind, data_at, short_name,
};
use crate::sys;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// A file, whatever its names.
pub(super) type Inode = ((u32, u32), u64);

/// The contents of a new segment, or the contents that an existing one must have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentContents<'a> {
    pub(crate) kind: SegmentKind,
    pub(crate) fingerprint: u64,
    pub(crate) type_name: &'a str,
    /// Bytes of an element; of a value, its size.
    pub(crate) element: u64,
    /// Bytes of data: at the start, or at least.
    pub(crate) length: u64,
}

pub(super) fn inode_of(file: BorrowedFd<'_>) -> Result<Inode> {
    let status = sys::file::status(file)
        .map_err(|errno| Error::kernel("fstat", errno, Subject::file(file)))?;
    Ok((status.device, status.inode))
}

/// The header of a new segment.
pub(super) fn new_facts(
    contents: &SegmentContents<'_>,
    reserve: u64,
    lifetime: Lifetime,
    subject: &Subject,
) -> Result<HeaderFields> {
    let reserve = reserve.max(contents.length).max(1);
    if reserve > 1 << 56 {
        return Err(too_large("create", subject.clone()));
    }
    Ok(HeaderFields {
        kind: contents.kind,
        lifetime,
        fingerprint: contents.fingerprint,
        id: crate::shm::random(),
        data_at: data_at(PageSize::system().bytes()),
        reserve,
        element: contents.element,
        type_name: short_name(contents.type_name).to_owned(),
    })
}

/// Writes the start of a file, which has space for it.
pub(super) fn write(file: BorrowedFd<'_>, bytes: &[u8], subject: &Subject) -> Result<()> {
    match sys::size_limit::within(|| rustix::io::pwrite(file, bytes, 0)) {
        Ok(count) if count == bytes.len() => Ok(()),
        result => {
            Err(Error::kernel("pwrite", result.err().unwrap_or(Errno::NOSPC), subject.clone()))
        }
    }
}

/// When a file's name goes away, if it is a segment, or was one before pages of it went away.
pub(in crate::shm) fn lifetime(fd: BorrowedFd<'_>) -> Result<Option<Lifetime>, Errno> {
    Ok(read_header(fd)?.map_or_else(|flaw| flaw.lifetime, |(facts, _)| Some(facts.lifetime)))
}

/// Whether the file holds another segment than when `header_fields` were read in it, or a stale
/// one.
pub(super) fn is_outdated(file: BorrowedFd<'_>, facts: &HeaderFields) -> bool {
    match read_header(file) {
        Ok(Ok((now, _))) => now.id != facts.id,
        Ok(Err(flaw)) => flaw.is_gone,
        Err(_) => false,
    }
}

/// Whether the file says that nothing is in it any more, or not yet.
pub(in crate::shm) fn is_gone(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(read_header(fd)?.is_err_and(|flaw| flaw.is_gone))
}

/// Reads and checks a file's header. The outer error is the kernel's.
pub(in crate::shm) fn read_header(
    fd: BorrowedFd<'_>,
) -> Result<Result<(HeaderFields, u64), HeaderError>, Errno> {
    let mut bytes = [0; FIXED + size_of::<MutableHeader>()];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut bytes, 0))?;
    // In this order: a segment that grows meanwhile has a longer file before its header says so.
    let size = sys::file::status(fd)?.size;
    Ok(HeaderFields::parse(&bytes[..count], size, PageSize::system().bytes()))
}

/// Gives a range of a file space, and makes it as long as that. A full file system is an error
/// here, and never a signal later.
pub(super) fn allocate(file: BorrowedFd<'_>, range: Range<u64>, subject: &Subject) -> Result<()> {
    let Range { start, end } = range;
    if let Some(limit) = sys::file::size_limit().filter(|&limit| end > limit) {
        return Err(Error::rule_as(
            Errno::FBIG,
            "fallocate",
            subject.clone(),
            format!(
                "this process may make no file longer than {limit} bytes (RLIMIT_FSIZE), and {end} are needed in all"
            ),
            "make it smaller, or raise the limit (ulimit -f)",
        ));
    }
    let flags = rustix::fs::FallocateFlags::empty();
    let errno = match sys::memory_room::check(file, &range) {
        Err(short) if short.errno == Errno::NOMEM => {
            return Err(Error::short(subject.clone(), short));
        }
        Err(short) => short.errno,
        Ok(_) => {
            match sys::size_limit::within(|| rustix::fs::fallocate(file, flags, start, end - start))
            {
                Ok(()) => return Ok(()),
                Err(errno) => errno,
            }
        }
    };
    if !matches!(errno, Errno::NOSPC | Errno::DQUOT) {
        return Err(Error::kernel("fallocate", errno, subject.clone()));
    }
    let free = rustix::fs::fstatvfs(file).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let free = free.map_or_else(|_| "an unknown number of".to_owned(), |free| free.to_string());
    Err(Error::rule_as(
        errno,
        "fallocate",
        subject.clone(),
        format!("its file system has {free} bytes free, and {end} are needed in all"),
        "make it smaller, free space there (`folio shm gc`), or give it more (a container's /dev/shm has 64 MB by default: --shm-size)",
    ))
}

pub(super) fn too_large(call: &'static str, subject: Subject) -> Error {
    let rule = "the segment and its reserve must fit into the process's addresses";
    Error::rule(call, subject, rule, "ask for a smaller reserve")
}

#[cold]
pub(super) fn no_segment(
    call: &'static str,
    subject: Subject,
    path: Option<&Path>,
    flaw: &HeaderError,
) -> Error {
    let other_version = flaw.field == "layout version";
    let errno = if other_version { Errno::INVAL } else { Errno::UCLEAN };
    // The command knows the names of the directory, and no others.
    let is_name = path.is_some_and(|path| path.parent() == Some(&*super::name::directory()));
    let remedy = match (other_version, path) {
        (true, Some(_)) if is_name => {
            "use the same version of folio in all programs, or remove it (`folio shm rm`)"
        }
        (true, _) => "use the same version of folio in all programs",
        (false, Some(_)) if is_name => {
            "remove it (`folio shm rm`), and let the programs make it anew"
        }
        (false, Some(_)) => {
            "check the path; a file that was a segment is removed with rm(1) and made anew"
        }
        (false, None) => "pass the descriptor of a segment (Segment::file, Segment::send)",
    };
    Error::rule_as(
        errno,
        call,
        subject,
        format!("it is no segment that can be used: {flaw}"),
        remedy,
    )
}

/// Whether a segment holds what is wanted.
pub(super) fn compare(
    call: &'static str,
    subject: impl Fn() -> Subject,
    facts: &HeaderFields,
    length: u64,
    wanted: &SegmentContents<'_>,
) -> Result<()> {
    let SegmentContents { kind, fingerprint, type_name, element, length: least } = *wanted;
    let refuse = |rule: String| {
        let remedy = "build both programs with the same type, or use another name";
        Err(Error::rule(call, subject(), rule, remedy))
    };
    if facts.kind != kind {
        return refuse(format!("it holds {}, and {kind} is asked for", facts.kind));
    }
    let of = |name: &str, bytes: u64, print: u64| {
        format!("`{name}` ({bytes} bytes, layout {print:016x})")
    };
    if (facts.fingerprint, facts.element) != (fingerprint, element) {
        let there = of(&facts.type_name, facts.element, facts.fingerprint);
        let asked = of(type_name, element, fingerprint);
        return refuse(format!("it holds {there}, and {asked} is asked for"));
    }
    if length < least {
        return refuse(format!("it has {length} bytes of data, and {least} are asked for"));
    }
    Ok(())
}
