//! The protection of each page of an area whose faults come as signals: two bits for each page. The
//! driver thread changes them, and the signal handler reads them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The state that an access to a page meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PageProt {
    /// The page is missing.
    Missing = 0,
    Readable = 1,
    Writable = 2,
    /// The page is missing for ever: an access ends the process.
    Poisoned = 3,
}

impl PageProt {
    /// The protection that mprotect(2) gives such a page.
    pub(crate) fn protection(self) -> i32 {
        match self {
            Self::Missing | Self::Poisoned => libc::PROT_NONE,
            Self::Readable => libc::PROT_READ,
            Self::Writable => libc::PROT_READ | libc::PROT_WRITE,
        }
    }
}

const PAGES_A_WORD: usize = usize::BITS as usize / 2;

/// The protection of every page of an area.
#[derive(Debug)]
pub(crate) struct PageProtTable(Box<[AtomicUsize]>);

impl PageProtTable {
    /// A table of `pages` pages, all missing.
    pub(crate) fn new(pages: usize) -> Self {
        // The kernel zeroes the table, and a page of it becomes resident only when it is used.
        let words = Box::into_raw(vec![0_usize; pages.div_ceil(PAGES_A_WORD)].into_boxed_slice());
        // SAFETY: `AtomicUsize` has the size, the alignment and the bits of `usize`.
        Self(unsafe { Box::from_raw(words as *mut [AtomicUsize]) })
    }

    pub(crate) fn get(&self, page: usize) -> PageProt {
        match self.0[page / PAGES_A_WORD].load(Ordering::Acquire) >> (page % PAGES_A_WORD * 2) & 3 {
            0 => PageProt::Missing,
            1 => PageProt::Readable,
            2 => PageProt::Writable,
            _ => PageProt::Poisoned,
        }
    }

    /// Only the driver thread calls this; no other thread changes the table.
    pub(crate) fn set(&self, pages: Range<usize>, prot: PageProt) {
        for page in pages {
            let (word, shift) = (&self.0[page / PAGES_A_WORD], page % PAGES_A_WORD * 2);
            let others = word.load(Ordering::Relaxed) & !(3 << shift);
            word.store(others | (prot as usize) << shift, Ordering::Release);
        }
    }
}
