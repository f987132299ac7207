//! The protection of each page of an area whose faults come as signals: two bits a page. The driver
//! changes them, and the signal handler reads them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The result of an access to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PageProt {
    /// Nothing is there.
    Missing = 0,
    Readable = 1,
    Writable = 2,
    /// Nothing is there, nor ever will be: an access ends.
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

/// See the module.
#[derive(Debug)]
pub(crate) struct PageProtTable(Box<[AtomicUsize]>);

impl PageProtTable {
    /// As many pages, all missing.
    pub(crate) fn new(pages: usize) -> Self {
        // Zeroed by the kernel, and not resident before a page of it is used.
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

    /// For the shard, which is the only one to change them.
    pub(crate) fn set(&self, pages: Range<usize>, right: PageProt) {
        for page in pages {
            let (word, shift) = (&self.0[page / PAGES_A_WORD], page % PAGES_A_WORD * 2);
            let others = word.load(Ordering::Relaxed) & !(3 << shift);
            word.store(others | (right as usize) << shift, Ordering::Release);
        }
    }
}
