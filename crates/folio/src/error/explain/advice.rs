//! madvise(2): which errno means what depends on the advice that was asked for.

use super::{Text, addresses, aligned, areas, file, fixed, huge_pool_of, not_mapped};
use crate::error::Subject;
use crate::sys::process;
use rustix::io::Errno;

/// Newer than the oldest C library that folio builds with.
const DONTNEED_LOCKED: i32 = 24;
const COLLAPSE: i32 = 25;
const GUARD_INSTALL: i32 = 102;
const GUARD_REMOVE: i32 = 103;

/// The kernel that has an advice, where 5.10 has not.
fn since(advice: i32) -> Option<(u32, u32)> {
    Some(match advice {
        libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE => (5, 14),
        DONTNEED_LOCKED => (5, 18),
        COLLAPSE => (6, 1),
        GUARD_INSTALL | GUARD_REMOVE => (6, 13),
        _ => return None,
    })
}

fn populates(advice: Option<i32>) -> bool {
    matches!(advice, Some(libc::MADV_POPULATE_READ | libc::MADV_POPULATE_WRITE))
}

pub(super) fn explain(errno: Errno, subject: &Subject) -> (Text, Text) {
    match errno {
        Errno::ACCESS => fixed(
            "only a shared map of a file that is open for writing can give the file's pages back",
            "open the file for writing and map it shared (FileMapMut), or use DontNeed, which drops them from the map \
             only",
        ),
        Errno::AGAIN => areas().unwrap_or_else(|| {
            fixed(
                "a page of the range is pinned or busy, or memory was short for a moment",
                "try again later",
            )
        }),
        Errno::BADF => fixed("the map is not of a file", "give this advice to file maps only"),
        Errno::BUSY => fixed(
            "a page of the range is in use elsewhere (pinned, or being moved), or userfaultfd watches for missing \
             pages",
            "try again later, or populate the range first",
        ),
        Errno::FAULT => fixed(
            "a page of the range cannot be supplied: it lies past the end of the file, or without backing",
            "keep to the pages that the file has",
        ),
        Errno::INVAL => aligned(subject).unwrap_or_else(|| invalid(subject)),
        Errno::IO if subject.advice == Some(libc::MADV_REMOVE) => {
            fixed("the device failed to free the pages", "check the device")
        }
        Errno::IO => fixed("the device failed to read or to free the pages", "check the device"),
        Errno::NOMEM => not_mapped(subject).unwrap_or_else(|| match subject.huge {
            Some(page) if populates(subject.advice) => huge_pool_of(Some(page), subject),
            _ => fixed(
                "there is not enough memory for the pages",
                "free memory, or ask for fewer pages",
            ),
        }),
        Errno::OPNOTSUPP => {
            fixed("the file's file system cannot punch holes", "write zeros instead")
        }
        Errno::PERM if process::is_sealed(&addresses(subject)) => fixed(
            "the advice would destroy the contents of memory that is sealed (mseal) and not writable",
            "leave the advice out: the contents stay for the life of the process",
        ),
        Errno::PERM if subject.advice == Some(libc::MADV_REMOVE) => fixed(
            "the file is sealed against writing, or is append-only, immutable or in use as swap space",
            "F_GET_SEALS and lsattr(1) show which; or use DontNeed, which drops the pages from the map only",
        ),
        Errno::PERM => fixed(
            "the advice needs CAP_SYS_ADMIN",
            "run with the capability, or leave the advice out",
        ),
        Errno::HWPOISON => {
            fixed("a page of the range is poisoned by a memory failure", "give the range up")
        }
        _ => file(errno, subject),
    }
}

/// EINVAL: the version of the kernel first, then the memory that the advice was given for.
fn invalid(subject: &Subject) -> (Text, Text) {
    let Some(advice) = subject.advice else { return unknown() };
    if let Some((major, minor)) = since(advice).filter(|&needed| process::kernel_version() < needed)
    {
        return (
            format!("the advice needs Linux {major}.{minor}, and this kernel is older").into(),
            "leave the advice out, or use a newer kernel".into(),
        );
    }
    let range = addresses(subject);
    let areas = process::vmas_with_flags(&range);
    let any = |test: &dyn Fn(&str) -> bool| areas.iter().any(|area| test(&area.rights));
    let drops = matches!(
        advice,
        libc::MADV_DONTNEED
            | libc::MADV_FREE
            | libc::MADV_REMOVE
            | libc::MADV_COLD
            | libc::MADV_PAGEOUT
            | GUARD_INSTALL
    );
    match advice {
        libc::MADV_POPULATE_READ if any(&|rights| !rights.starts_with('r')) => fixed(
            "the pages are populated for reading, and the protection of some of them forbids reading",
            "make the pages readable first (protect)",
        ),
        libc::MADV_POPULATE_WRITE if any(&|rights| !rights[1..].starts_with('w')) => fixed(
            "the pages are populated for writing, and the protection of some of them forbids writing",
            "populate them for reading, or make them writable first (protect)",
        ),
        libc::MADV_FREE | libc::MADV_WIPEONFORK
            if !areas.iter().all(process::Vma::is_private_anonymous) =>
        {
            fixed(
                "the advice (FREE, WIPEONFORK) is for private anonymous memory, and some of the range is not this kind of memory",
                "leave it out here",
            )
        }
        libc::MADV_REMOVE if areas.iter().any(process::Vma::is_private_anonymous) => fixed(
            "REMOVE gives back pages of shared files and of shared memory, and the range has no file",
            "use DontNeed",
        ),
        _ if drops && process::is_locked(&range) => fixed(
            "locked pages are not dropped and not paged out, and the range has some",
            "unlock them first, or drop them with Discard::DontNeedLocked (since 5.18)",
        ),
        libc::MADV_MERGEABLE | libc::MADV_UNMERGEABLE => fixed(
            "this kernel was built without the merging of pages (KSM)",
            "leave the advice out",
        ),
        libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE => fixed(
            "this kernel was built without transparent huge pages, or the memory is of a kind that cannot have them",
            "leave the advice out",
        ),
        COLLAPSE => fixed(
            "the range has no aligned huge page that could be put together: it is too short, or its kind of memory \
             or the kernel has no transparent huge pages",
            "pass a range that holds a whole aligned huge page, or leave the advice out",
        ),
        libc::MADV_COLD | libc::MADV_PAGEOUT | GUARD_INSTALL if subject.huge.is_some() => {
            fixed("pages of the hugetlb pool do not take the advice", "leave the advice out here")
        }
        libc::MADV_DONTNEED | DONTNEED_LOCKED | libc::MADV_REMOVE if subject.huge.is_some() => {
            fixed(
                "pages of the hugetlb pool are dropped whole only",
                "pass a range of whole huge pages",
            )
        }
        libc::MADV_DOFORK | libc::MADV_DODUMP => fixed(
            "the memory is a device's, whose driver keeps it from children and from core dumps",
            "leave the advice out here",
        ),
        _ => unknown(),
    }
}

fn unknown() -> (Text, Text) {
    fixed(
        "this kernel does not know the advice, was built without it, or does not take it for this kind of memory",
        "leave it out here",
    )
}
