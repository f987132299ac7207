//! The program's advice to the kernel about its use of memory: madvise(2), sorted by the effect of
//! the advice on the bytes.
//!
//! * [`Advice`] changes no byte: safe through a shared reference.
//! * [`Discard`] changes bytes at once: it needs `&mut`.
//! * [`UncheckedAdvice`] changes bytes, or their users, at a time that nobody can predict:
//!   `unsafe`.
//!
//! The treatment of a map by fork(2) is not advice here but an option of the map:
//! [`Fork`](crate::Fork).

/// Advice that changes no byte of the map, only cost and time.
///
/// Source: madvise(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Advice {
    /// No pattern: the kernel's default readahead.
    Normal,
    /// Pages are used in random order: a fault reads one page and nothing around it.
    Random,
    /// Pages are used in order: read far ahead, and let go early what was read.
    Sequential,
    /// The pages will be used soon: start reading them now, in the background. Files, and
    /// swapped-out memory.
    WillNeed,
    /// The pages will not be used soon: first to be reclaimed under memory pressure (since 5.4).
    Cold,
    /// Reclaim the pages now: write them back, or out to swap (since 5.4). Their bytes stay.
    PageOut,
    /// Fault the pages in for reading, now (since 5.14). EFAULT for a page that cannot be supplied,
    /// without any signal.
    PopulateRead,
    /// Fault the pages in for writing, now (since 5.14): copies private pages, allocates holes of
    /// shared files. EFAULT for a page that cannot be supplied, without any signal.
    PopulateWrite,
    /// The memory may get transparent huge pages, and khugepaged will collapse it. EINVAL where the
    /// kernel was built without them.
    HugePage,
    /// The memory never gets transparent huge pages.
    NoHugePage,
    /// Collapse the range into transparent huge pages now (since 6.1).
    Collapse,
    /// Identical anonymous pages may be merged (KSM). EINVAL where the kernel was built without it.
    Mergeable,
    /// Undo [`Mergeable`](Self::Mergeable) and give every page its own copy.
    Unmergeable,
    /// Leave the range out of core dumps.
    DontDump,
    /// Undo [`DontDump`](Self::DontDump).
    DoDump,
}

impl Advice {
    /// The number that madvise(2) takes.
    pub const fn raw(self) -> i32 {
        match self {
            Self::Normal => libc::MADV_NORMAL,
            Self::Random => libc::MADV_RANDOM,
            Self::Sequential => libc::MADV_SEQUENTIAL,
            Self::WillNeed => libc::MADV_WILLNEED,
            Self::Cold => libc::MADV_COLD,
            Self::PageOut => libc::MADV_PAGEOUT,
            Self::PopulateRead => libc::MADV_POPULATE_READ,
            Self::PopulateWrite => libc::MADV_POPULATE_WRITE,
            Self::HugePage => libc::MADV_HUGEPAGE,
            Self::NoHugePage => libc::MADV_NOHUGEPAGE,
            Self::Collapse => 25,
            Self::Mergeable => libc::MADV_MERGEABLE,
            Self::Unmergeable => libc::MADV_UNMERGEABLE,
            Self::DontDump => libc::MADV_DONTDUMP,
            Self::DoDump => libc::MADV_DODUMP,
        }
    }
}

/// How a map will be read, told at its creation
/// ([`MapOptions::pattern`](crate::MapOptions::pattern)): the three kinds of [`Advice`] that stay
/// with a map and set the kernel's readahead.
///
/// It can be the difference of a hundred times: on a device with a large `read_ahead_kb`, a random
/// read through a map without [`Pattern::Random`] reads megabytes around each page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Pattern {
    /// The kernel guesses.
    #[default]
    Normal,
    /// In order: [`Advice::Sequential`].
    Sequential,
    /// In random order: [`Advice::Random`].
    Random,
}

impl From<Pattern> for Advice {
    fn from(pattern: Pattern) -> Self {
        match pattern {
            Pattern::Normal => Self::Normal,
            Pattern::Sequential => Self::Sequential,
            Pattern::Random => Self::Random,
        }
    }
}

/// Advice that throws bytes away at once, and so needs the only reference.
///
/// Source: madvise(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Discard {
    /// Drop the pages from this map (MADV_DONTNEED). Anonymous memory reads as zero afterwards; a
    /// private file map shows the file again, its own changes lost; a shared file map loses
    /// nothing. EINVAL for locked pages.
    DontNeed,
    /// The same for locked pages too (since 5.18).
    DontNeedLocked,
    /// Give the pages back in the object itself (MADV_REMOVE): a hole in the file, zeros for
    /// everyone who maps it. Only for shared writable maps of files that support holes (EACCES,
    /// EOPNOTSUPP).
    Remove,
}

impl Discard {
    /// The number that madvise(2) takes.
    pub const fn raw(self) -> i32 {
        match self {
            Self::DontNeed => libc::MADV_DONTNEED,
            Self::DontNeedLocked => 24,
            Self::Remove => libc::MADV_REMOVE,
        }
    }
}

/// Advice with a later or outside effect on the bytes, or on their users, so that the compiler's
/// picture of memory breaks: `unsafe`
/// ([`Region::advise_unchecked`](crate::Region::advise_unchecked)).
///
/// Source: madvise(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UncheckedAdvice {
    /// The kernel may take the pages at any later moment, and they read as zero from then on, until
    /// they are stored to.
    Free,
    /// Every access is a SIGSEGV from now on, at no cost in areas (guard regions, since 6.13). The
    /// bytes are lost.
    GuardInstall,
    /// Undo [`GuardInstall`](Self::GuardInstall): the pages read as zero (since 6.13).
    GuardRemove,
    /// A forked child has nothing there, while the handle's record of it says otherwise. Prefer
    /// [`Fork::Absent`](crate::Fork::Absent).
    DontFork,
    /// Undo [`DontFork`](Self::DontFork).
    DoFork,
    /// A forked child sees zeros there. Prefer [`Fork::Wiped`](crate::Fork::Wiped).
    WipeOnFork,
    /// Undo [`WipeOnFork`](Self::WipeOnFork).
    KeepOnFork,
    /// Poison the pages as a memory error would (CAP_SYS_ADMIN; for tests). The machine loses the
    /// page frame.
    HwPoison,
    /// Move the pages' contents elsewhere and stop using the frames (CAP_SYS_ADMIN; for tests).
    SoftOffline,
}

impl UncheckedAdvice {
    /// The number that madvise(2) takes.
    pub const fn raw(self) -> i32 {
        match self {
            Self::Free => libc::MADV_FREE,
            Self::GuardInstall => 102,
            Self::GuardRemove => 103,
            Self::DontFork => libc::MADV_DONTFORK,
            Self::DoFork => libc::MADV_DOFORK,
            Self::WipeOnFork => libc::MADV_WIPEONFORK,
            Self::KeepOnFork => libc::MADV_KEEPONFORK,
            Self::HwPoison => libc::MADV_HWPOISON,
            Self::SoftOffline => libc::MADV_SOFT_OFFLINE,
        }
    }
}
