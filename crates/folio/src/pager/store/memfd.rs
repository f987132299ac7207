//! Shared memory: the pages are a memfd's, filled through a second view that no one watches.
//!
//! A run that was taken out of the map keeps its bytes in the memfd until it is punched: a store that was late faults, and
//! none is lost.

use super::{CHUNK, Mode, Place, Pool, Run, Slot, advance, reserve, span};
use crate::sys::uffd::{Uffd, watch};
use crate::sys::{Errno, identity, memfd, mm};
use rustix::fs::FallocateFlags;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct Memfd {
    address: usize,
    alias: usize,
    len: usize,
    fd: OwnedFd,
    uffd: Arc<Uffd>,
    page: usize,
    tracked: bool,
    process: u64,
}

impl Memfd {
    /// A map of `pages`, all missing. `tracked`: stores are watched.
    pub(crate) fn new(pages: usize, uffd: Arc<Uffd>, tracked: bool) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        let align = CHUNK * page;
        let len = pages.div_ceil(CHUNK) * align;
        let fd = memfd::create("folio-pager", None)?;
        rustix::fs::ftruncate(&fd, len as u64)?;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        let alias = reserve(len, align, rights, Some(fd.as_raw_fd()))?;
        let address = match reserve(len, align, rights, Some(fd.as_raw_fd())) {
            Ok(address) => address,
            Err(errno) => {
                // SAFETY: made just now, and seen by nobody.
                let _ = unsafe { mm::munmap(alias as *mut u8, len) };
                return Err(errno);
            }
        };
        let store = Self { address, alias, len, fd, uffd, page, tracked, process: identity::token() };
        // Missing as well: a page that is in no cache would else be zeros.
        let mode = watch::MISSING | watch::MINOR | if tracked { watch::WP } else { 0 };
        // SAFETY: the store's own memory, which nobody uses yet.
        unsafe { store.uffd.register(address, len, mode) }?;
        Ok(store)
    }

    pub(super) fn address(&self) -> usize {
        self.address
    }

    pub(super) fn alias(&self, run: Run) -> Slot {
        Slot { address: self.alias + run.first * self.page, pages: run.pages, place: Place::Alias }
    }

    pub(super) fn watcher(&self) -> (&Uffd, usize) {
        (&self.uffd, self.page)
    }

    pub(super) fn install(
        &mut self,
        _: &mut Pool,
        run: Run,
        _: &Slot,
        mode: Mode,
        _: bool,
    ) -> Result<(), Errno> {
        let (start, len) = span(self.address, self.page, run);
        let protect = mode == Mode::Protected;
        advance(
            len,
            self.page,
            // SAFETY: the bytes were read through the alias, and are what the map must show.
            |done| unsafe { self.uffd.r#continue(start + done, len - done, protect) },
            |done| {
                if self.tracked {
                    self.uffd.write_protect(start + done, self.page, protect)
                } else {
                    self.uffd.wake(start + done, self.page)
                }
            },
        )
        .map_err(|(_, errno)| errno)
    }

    pub(super) fn take_out(&mut self, _: &mut Pool, run: Run) -> Result<Slot, Errno> {
        let (start, len) = span(self.address, self.page, run);
        // For shared memory this empties the page table only.
        // SAFETY: the bytes stay in the memfd.
        unsafe { mm::madvise(start as *mut u8, len, libc::MADV_DONTNEED) }?;
        // Who waits to store to a protected page faults again, on one that is not in the map.
        self.uffd.wake(start, len)?;
        Ok(self.alias(run))
    }

    pub(super) fn snapshot(&mut self, _: &mut Pool, run: Run) -> Result<Slot, Errno> {
        let (start, len) = span(self.address, self.page, run);
        self.uffd.write_protect(start, len, true)?;
        Ok(self.alias(run))
    }

    pub(super) fn unprotect(&mut self, run: Run) -> Result<(), Errno> {
        let (start, len) = span(self.address, self.page, run);
        self.uffd.write_protect(start, len, false)
    }

    pub(super) fn punch(&mut self, run: Run) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, len) = span(0, self.page, run);
        rustix::io::retry_on_intr(|| rustix::fs::fallocate(&self.fd, flags, offset as u64, len as u64))
    }

    pub(super) fn wake(&self, run: Run) -> Result<(), Errno> {
        let (start, len) = span(self.address, self.page, run);
        self.uffd.wake(start, len)
    }
}

impl Drop for Memfd {
    fn drop(&mut self) {
        // A child has not inherited the areas.
        if identity::token() == self.process {
            for start in [self.address, self.alias] {
                // SAFETY: the store's own, which end with it.
                let _ = unsafe { mm::munmap(start as *mut u8, self.len) };
            }
        }
    }
}
