//! Shared memory: the pages are a memfd's, filled through a second view that no one watches.
//!
//! A run that was taken out of the map keeps its bytes in the memfd until it is punched: a store
//! that was late faults, and none is lost.

use super::{
    BufferPlace, BufferSlot, CHUNK, InstallMode, SlotRun, advance, open_up, reserve, span,
};
use crate::pager::sys::discard::discard;
use crate::pager::sys::pager_areas::PagerArea;
use crate::pager::sys::uffd::{Uffd, watch};
use crate::sys::{Errno, file, identity, memfd, mm, size_limit};
use rustix::fs::FallocateFlags;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// A memfd at two addresses: the map, and the view through which it is filled.
#[derive(Debug)]
pub(super) struct Views {
    pub(super) address: usize,
    pub(super) alias: usize,
    pub(super) len: usize,
    pub(super) page: usize,
    fd: OwnedFd,
    process: u64,
}

impl Views {
    /// Whole chunks, `pages` at least. The map has no access rights yet.
    pub(super) fn new(pages: usize) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        let align = CHUNK * page;
        let len = pages.div_ceil(CHUNK) * align;
        let fd = memfd::create("folio-pager", None)?;
        size_limit::set_length(&fd, len as u64)?;
        // Any code of the process can open it through /proc. Shorter, it would have a SIGBUS for
        // the driver.
        memfd::add_seals(fd.as_fd(), memfd::Seals::SHRINK | memfd::Seals::GROW)?;
        if file::status(fd.as_fd())?.size != len as u64 {
            return Err(Errno::IO);
        }
        let alias = reserve(len, align, Some(fd.as_raw_fd()))?;
        let opened = open_up(alias, len, libc::PROT_READ | libc::PROT_WRITE);
        match opened.and_then(|()| reserve(len, align, Some(fd.as_raw_fd()))) {
            Ok(address) => Ok(Self { address, alias, len, page, fd, process: identity::token() }),
            Err(errno) => {
                // SAFETY: made just now, and seen by nobody.
                let _ = unsafe { mm::munmap(alias as *mut u8, len) };
                Err(errno)
            }
        }
    }

    pub(super) fn alias(&self, run: SlotRun) -> BufferSlot {
        BufferSlot {
            address: self.alias + run.first * self.page,
            pages: run.pages as u32,
            place: BufferPlace::Alias,
        }
    }

    pub(super) fn punch(&self, run: SlotRun) -> Result<(), Errno> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let (offset, len) = span(0, self.page, run);
        rustix::io::retry_on_intr(|| {
            rustix::fs::fallocate(&self.fd, flags, offset as u64, len as u64)
        })
    }
}

impl Drop for Views {
    fn drop(&mut self) {
        // A child has not inherited the areas.
        if identity::token() == self.process {
            for start in [self.address, self.alias] {
                // SAFETY: the store's own, which end with it.
                unsafe { mm::release(start as *mut u8, self.len) };
            }
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct MemfdStore {
    // Before the memory, which goes after it.
    area: PagerArea,
    views: Views,
    uffd: Arc<Uffd>,
    tracked: bool,
}

impl MemfdStore {
    /// A map of `pages`, all missing, of the object `name`. `tracked`: stores are watched.
    pub(crate) fn new(
        name: &str,
        pages: usize,
        uffd: Arc<Uffd>,
        tracked: bool,
    ) -> Result<Self, Errno> {
        let views = Views::new(pages)?;
        // Missing as well: a page that is in no cache would else be zeros.
        let mode = watch::MISSING | watch::MINOR | if tracked { watch::WP } else { 0 };
        // SAFETY: the store's own memory, which nobody uses yet.
        unsafe { uffd.register(views.address, views.len, mode) }?;
        // Not before: no page may come without the pager, even if another thread locks memory
        // meanwhile.
        open_up(views.address, views.len, libc::PROT_READ | libc::PROT_WRITE)?;
        let area = PagerArea::new(views.address..views.address + views.len, name);
        Ok(Self { area, views, uffd, tracked })
    }

    pub(super) fn views(&self) -> &Views {
        &self.views
    }

    pub(super) fn area(&mut self) -> &mut PagerArea {
        &mut self.area
    }

    pub(super) fn watcher(&self) -> &Uffd {
        &self.uffd
    }

    pub(super) fn install(&mut self, run: SlotRun, mode: InstallMode) -> Result<(), Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        let protect = mode == InstallMode::Protected;
        advance(
            len,
            self.views.page,
            // SAFETY: the bytes were read through the alias, and the map must show them.
            |done| unsafe { self.uffd.r#continue(start + done, len - done, protect) },
            |done| {
                if self.tracked {
                    self.uffd.write_protect(start + done, self.views.page, protect)
                } else {
                    self.uffd.wake(start + done, self.views.page)
                }
            },
        )
        .map_err(|(_, errno)| errno)
    }

    pub(super) fn take_out(&mut self, run: SlotRun) -> Result<BufferSlot, Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        // For shared memory this empties the page table only.
        // SAFETY: the bytes stay in the memfd.
        unsafe { discard(start, len) }?;
        // A thread that waits to store to a protected page faults again, on one that is not in the
        // map.
        self.uffd.wake(start, len)?;
        Ok(self.views.alias(run))
    }

    pub(super) fn snapshot(&mut self, run: SlotRun) -> Result<BufferSlot, Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        self.uffd.write_protect(start, len, true)?;
        Ok(self.views.alias(run))
    }

    pub(super) fn unprotect(&mut self, run: SlotRun) -> Result<(), Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        self.uffd.write_protect(start, len, false)
    }

    pub(super) fn wake(&self, run: SlotRun) -> Result<(), Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        self.uffd.wake(start, len)
    }
}
