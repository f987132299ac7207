//! The pages of a map that are in memory (mincore(2)), and the part of a file that the page cache
//! holds (cachestat(2)).

use crate::error::{Error, Result, Subject};
use crate::page::PageSize;
use crate::region::Region;
use crate::sys;
use std::ops::{Range, RangeBounds};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

/// Which pages of a range are resident, at one moment that has passed.
///
/// Source: mincore(2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Residency {
    /// For each page, in order, whether it is in memory.
    Known(Pages),
    /// The kernel hides it: since 5.2 it answers only the file's owner and processes that may write
    /// to it, and says "all resident" to everyone else. folio does not pass that answer on.
    NotOwner,
}

/// Residency of pages, in order. It takes memory for each run of resident pages, and none for the
/// pages themselves: a sparse map of terabytes costs as much as its resident runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pages {
    page: PageSize,
    count: usize,
    runs: Vec<Range<usize>>,
}

impl Pages {
    /// The size of the pages that are counted: the machine's base page, even of a huge map.
    pub fn page_size(&self) -> PageSize {
        self.page
    }

    /// The runs of resident pages, in order: each from the number of its first page to the number
    /// behind its last. Between two runs lies a page at least.
    pub fn runs(&self) -> &[Range<usize>] {
        &self.runs
    }

    /// One flag a page, in order.
    pub fn iter(&self) -> impl Iterator<Item = bool> + '_ {
        let mut runs = self.runs.iter().peekable();
        (0..self.count).map(move |page| {
            runs.next_if(|run| run.end <= page);
            runs.peek().is_some_and(|run| run.contains(&page))
        })
    }

    /// Whether the page with this number, counted from the start of the range, is resident.
    pub fn is_resident(&self, page: usize) -> bool {
        let next = self.runs.partition_point(|run| run.end <= page);
        self.runs.get(next).is_some_and(|run| run.contains(&page))
    }

    /// Bytes in pages that are resident.
    pub fn resident_bytes(&self) -> usize {
        self.runs.iter().map(ExactSizeIterator::len).sum::<usize>() * self.page.bytes()
    }

    /// Bytes in all pages that were asked about.
    pub fn total_bytes(&self) -> usize {
        self.count * self.page.bytes()
    }

    /// Adds pages behind those that are there.
    fn extend(&mut self, flags: &[u8]) -> Result<(), std::collections::TryReserveError> {
        for &flag in flags {
            let page = self.count;
            self.count += 1;
            match self.runs.last_mut() {
                _ if flag & 1 == 0 => {}
                Some(run) if run.end == page => run.end += 1,
                _ => {
                    self.runs.try_reserve(1)?;
                    self.runs.push(page..page + 1);
                }
            }
        }
        Ok(())
    }
}

impl Residency {
    /// The pages, if the kernel tells.
    pub fn known(self) -> Option<Pages> {
        match self {
            Self::Known(pages) => Some(pages),
            Self::NotOwner => None,
        }
    }

    /// The residency of the pages of a region that hold a byte of `range`. `file` says whether the
    /// process may know, if the handle knows it; else the VMA is looked up.
    pub(crate) fn of(
        region: &Region,
        range: Range<usize>,
        file: Option<BorrowedFd<'_>>,
    ) -> Result<Self> {
        region.check_present("mincore", &range)?;
        let page = PageSize::system();
        let pages = page.outward(range, region.len());
        let start = region.as_ptr().wrapping_add(pages.start);
        if !pages.is_empty() && !may_know(start as usize, file) {
            return Ok(Self::NotOwner);
        }
        Self::ask(start, pages.len())
    }

    /// The same for memory that is sure to be this process's own.
    pub(crate) fn of_own(region: &Region, range: Range<usize>) -> Result<Self> {
        region.check_present("mincore", &range)?;
        let pages = PageSize::system().outward(range, region.len());
        Self::ask(region.as_ptr().wrapping_add(pages.start), pages.len())
    }

    fn ask(start: *mut u8, len: usize) -> Result<Self> {
        /// Pages of one call: mincore(2) takes a byte for each.
        const PIECE: usize = 64 << 10;
        let page = PageSize::system();
        let mut pages = Pages { page, count: 0, runs: Vec::new() };
        let mut flags = vec![0_u8; PIECE.min(len >> page.shift())];
        let mut done = 0;
        while done < len {
            let count = flags.len().min((len - done) >> page.shift());
            let (at, piece) = (start.wrapping_add(done), &mut flags[..count]);
            let subject = || Subject::mapped_at(at as usize).with_length(count * page.bytes());
            sys::mm::mincore(at, piece, page.bytes())
                .map_err(|errno| Error::kernel("mincore", errno, subject()))?;
            pages.extend(piece).map_err(|_| Error::no_heap("mincore", subject()))?;
            done += count * page.bytes();
        }
        Ok(Self::Known(pages))
    }
}

impl Region {
    /// Which pages of the range are in memory, if the kernel tells this process (mincore(2)).
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the region, ENOMEM for a part that was unmapped.
    #[doc(alias = "mincore")]
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        Residency::of(self, self.resolve("mincore", range)?, None)
    }
}

/// The kernel's own rule (`can_do_mincore`): anonymous memory, own files, files that may be written
/// to.
fn may_know(address: usize, file: Option<BorrowedFd<'_>>) -> bool {
    if let Some(fd) = file {
        let own =
            |owner| owner == rustix::process::geteuid().as_raw() || sys::process::owns_every_file();
        return sys::file::status(fd).is_ok_and(|status| own(status.owner))
            || sys::file::may_write(fd);
    }
    let Some(area) = sys::process::vma_at(address) else { return false };
    if area.inode == 0 {
        return true;
    }
    // The descriptor may be closed; the file is found by its name, if that still names it. By now a
    // pipe or a device may lie there, so it is not opened: O_PATH finds it only. (On Btrfs fstat(2)
    // gives another device than the list of VMAs does; an unsure answer is not given.)
    let same =
        |status: sys::file::Status| (status.device, status.inode) == (area.device, area.inode);
    let file = area
        .object
        .and_then(|path| sys::file::find(&path).ok())
        .filter(|file| sys::file::status(file.as_fd()).is_ok_and(same));
    match file {
        Some(file) => may_know(address, Some(file.as_fd())),
        // Deleted, renamed, or not readable by name: only an owner of every file is sure to get an
        // answer.
        None => sys::process::owns_every_file(),
    }
}

/// The part of a range of a file that the page cache holds, in bytes. Not tied to a map.
///
/// Source: cachestat(2), since 6.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheStat {
    /// Bytes in the page cache.
    pub cached: u64,
    /// Bytes changed and not yet written back.
    pub dirty: u64,
    /// Bytes being written back.
    pub write_back: u64,
    /// Bytes that were in the cache and were evicted.
    pub evicted: u64,
    /// Bytes that were evicted so lately that their return means memory is short.
    pub recently_evicted: u64,
}

impl CacheStat {
    /// Asks for `length` bytes from `offset` of a file; a length of zero means to the end.
    ///
    /// # Errors
    ///
    /// ENOSYS before 6.5, EPERM for a process that neither owns the file nor may write to it (since
    /// 6.14), EOPNOTSUPP for hugetlb files.
    pub fn of(file: impl AsFd, offset: u64, length: u64) -> Result<Self> {
        let fd = file.as_fd();
        let stat = sys::mm::cachestat(fd.as_raw_fd(), offset, length).map_err(|errno| {
            Error::kernel("cachestat", errno, Subject::file(fd).with_range(offset, length as usize))
        })?;
        let page = PageSize::system().bytes() as u64;
        Ok(Self {
            cached: stat.cache * page,
            dirty: stat.dirty * page,
            write_back: stat.writeback * page,
            evicted: stat.evicted * page,
            recently_evicted: stat.recently_evicted * page,
        })
    }
}
