//! Anonymous memory: a page is moved into the map, or copied where stores to it are watched, and
//! leaves it in one step.
//!
//! UFFDIO_MOVE installs a page writable, and a store that lands before the protection would go
//! unseen: so a watched page comes by UFFDIO_COPY. Without MOVE a page leaves by protection, copy
//! and MADV_DONTNEED, in that order.

use super::{
    BufferSlot, CHUNK, COPIED, InstallMode, Pool, SlotRun, advance, copy_in, open_up, reserve, span,
};
use crate::pager::sys::discard::discard;
use crate::pager::sys::pager_areas::PagerArea;
use crate::pager::sys::uffd::{Uffd, watch};
use crate::sys::{Errno, identity, mm};
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct AnonStore {
    // Before the memory, which goes after it.
    area: PagerArea,
    memory: AnonMemory,
    uffd: Arc<Uffd>,
    page: usize,
    /// Stores are watched.
    tracked: bool,
    moves: bool,
}

/// The map's addresses.
#[derive(Debug)]
struct AnonMemory {
    address: usize,
    len: usize,
    process: u64,
}

impl AnonStore {
    /// A map of `pages`, all missing, of the object `name`. `moves`: UFFDIO_MOVE is there, and the
    /// pool was made for it. `huge`: ask for huge pages.
    pub(crate) fn new(
        name: &str,
        pages: usize,
        uffd: Arc<Uffd>,
        tracked: bool,
        moves: bool,
        huge: bool,
    ) -> Result<Self, Errno> {
        let page = rustix::param::page_size();
        let len = pages.div_ceil(CHUNK) * CHUNK * page;
        let address = reserve(len, CHUNK * page, None)?;
        let memory = AnonMemory { address, len, process: identity::token() };
        if moves && huge && !tracked {
            // Else a fault that comes before a huge page makes a table of small ones, and splits
            // it. SAFETY: new memory; the advice changes no byte.
            let _ = unsafe { mm::madvise(address as *mut u8, len, libc::MADV_HUGEPAGE) };
        }
        let mode = if tracked { watch::MISSING | watch::WP } else { watch::MISSING };
        // SAFETY: the store's own memory, which nobody uses yet.
        unsafe { uffd.register(address, len, mode) }?;
        // Not before: no page may come without the pager, even if another thread locks memory
        // meanwhile.
        open_up(address, len, libc::PROT_READ | libc::PROT_WRITE)?;
        let area = PagerArea::new(address..address + len, name);
        Ok(Self { area, memory, uffd, page, tracked, moves })
    }

    pub(super) fn address(&self) -> usize {
        self.memory.address
    }

    pub(super) fn page(&self) -> usize {
        self.page
    }

    pub(super) fn area(&mut self) -> &mut PagerArea {
        &mut self.area
    }

    pub(super) fn watcher(&self) -> &Uffd {
        &self.uffd
    }

    pub(super) fn install(
        &mut self,
        pool: &mut Pool,
        run: SlotRun,
        slot: &BufferSlot,
        mode: InstallMode,
        keep: bool,
    ) -> Result<(), Errno> {
        let (to, len) = span(self.memory.address, self.page, run);
        let mut done = 0;
        if self.moves && mode == InstallMode::ReadOnly && !keep && run.pages > COPIED {
            match self.shift(to, slot.address, len) {
                Ok(()) => done = len,
                // A read's pins may last a little longer than the read: the rest is copied.
                Err((moved, _)) => done = moved,
            }
            pool.note(slot, 0..done / self.page, false);
        }
        copy_in(&self.uffd, to + done, slot.address + done, len - done, mode, self.page)
            .map_err(|(_, errno)| errno)
    }

    /// Puts back what was dropped of a run before the call was refused, out of the copy in its
    /// slot.
    pub(super) fn restore(&self, run: SlotRun, slot: &BufferSlot) -> Result<(), Errno> {
        let (to, len) = span(self.memory.address, self.page, run);
        let mode = if self.tracked { InstallMode::Protected } else { InstallMode::ReadOnly };
        copy_in(&self.uffd, to, slot.address, len, mode, self.page).map_err(|(_, errno)| errno)
    }

    /// UFFDIO_MOVE of the whole range, or how far it came.
    fn shift(&self, to: usize, from: usize, len: usize) -> Result<(), (usize, Errno)> {
        advance(
            len,
            self.page,
            // SAFETY: map and pool are the driver's to change.
            |done| unsafe { self.uffd.r#move(to + done, from + done, len - done) },
            |_| Err(Errno::EXIST),
        )
    }

    pub(super) fn take_out(&mut self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        let (from, len) = span(self.memory.address, self.page, run);
        if !self.moves {
            return self.copy_and_drop(pool, run);
        }
        let slot = pool.take_empty(run.pages).ok_or(Errno::NOBUFS)?;
        let Err((moved, errno)) = self.shift(slot.address, from, len) else {
            pool.note(&slot, 0..run.pages, true);
            return Ok(slot);
        };
        let put_back = self.put_back(pool, run, &slot, moved);
        if errno == Errno::EXIST {
            pool.note(&slot, 0..run.pages, true);
        }
        pool.give(slot);
        match put_back {
            // Locked memory is not moved to where it would not be locked, nor to a page that
            // mlockall(2) has put into the pool.
            Ok(()) if matches!(errno, Errno::INVAL | Errno::EXIST) => self.copy_and_drop(pool, run),
            put_back => Err(put_back.err().unwrap_or(errno)),
        }
    }

    /// Takes a run out without UFFDIO_MOVE: by protection, a copy, and MADV_DONTNEED.
    fn copy_and_drop(&self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        let (from, len) = span(self.memory.address, self.page, run);
        let slot = self.protected_copy(pool, run)?;
        // SAFETY: the bytes are in the slot, and no store came since.
        let dropped = unsafe { discard(from, len) };
        // A thread that waits to store to the page that was protected faults again, on a missing
        // page.
        self.uffd.wake(from, len)?;
        match dropped {
            Ok(_) => Ok(slot),
            Err(errno) => {
                let restored = self.restore(run, &slot);
                pool.give(slot);
                restored?;
                Err(errno)
            }
        }
    }

    /// Undoes a move that did not come to its end. Watched pages come back protected, dirty or not.
    fn put_back(
        &self,
        pool: &mut Pool,
        run: SlotRun,
        slot: &BufferSlot,
        moved: usize,
    ) -> Result<(), Errno> {
        let (to, _) = span(self.memory.address, self.page, run);
        pool.note(slot, 0..moved / self.page, true);
        let mut done = 0;
        if self.tracked {
            match copy_in(&self.uffd, to, slot.address, moved, InstallMode::Protected, self.page) {
                Ok(()) => return Ok(()),
                Err((copied, _)) => done = copied,
            }
        }
        // Needs no memory, so it is the last resort for watched pages, too.
        let back = self.shift(to + done, slot.address + done, moved - done);
        let back_to = done + back.map_or_else(|(bytes, _)| bytes, |()| moved - done);
        pool.note(slot, done / self.page..back_to / self.page, false);
        match back {
            Ok(()) if self.tracked => Err(Errno::NOMEM),
            other => other.map_err(|(_, errno)| errno),
        }
    }

    pub(super) fn snapshot(&mut self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        if !self.moves {
            return self.protected_copy(pool, run);
        }
        // Out first: a protection does not stop a device that stores to the page.
        let slot = self.take_out(pool, run)?;
        let (to, len) = span(self.memory.address, self.page, run);
        match copy_in(&self.uffd, to, slot.address, len, InstallMode::Protected, self.page) {
            Ok(()) => Ok(slot),
            Err((copied, errno)) => {
                let rest = self.shift(to + copied, slot.address + copied, len - copied);
                if rest.is_ok() {
                    pool.note(&slot, copied / self.page..run.pages, false);
                }
                pool.give(slot);
                rest.map_err(|(_, errno)| errno)?;
                Err(errno)
            }
        }
    }

    /// A copy of a run that is in the map and protected from now on.
    fn protected_copy(&self, pool: &mut Pool, run: SlotRun) -> Result<BufferSlot, Errno> {
        let (from, len) = span(self.memory.address, self.page, run);
        let slot = pool.take(run.pages).ok_or(Errno::NOBUFS)?;
        if self.tracked
            && let Err(errno) = self.uffd.write_protect(from, len, true)
        {
            pool.give(slot);
            return Err(errno);
        }
        // SAFETY: the run is in the map, so no fault waits for this thread; nobody stores to it;
        // the slot is this call's.
        unsafe { slot.buffer().copy_from_nonoverlapping(from as *const u8, len) };
        pool.note(&slot, 0..run.pages, true);
        Ok(slot)
    }

    pub(super) fn unprotect(&mut self, run: SlotRun) -> Result<(), Errno> {
        let (start, len) = span(self.memory.address, self.page, run);
        self.uffd.write_protect(start, len, false)
    }

    pub(super) fn wake(&self, run: SlotRun) -> Result<(), Errno> {
        let (start, len) = span(self.memory.address, self.page, run);
        self.uffd.wake(start, len)
    }
}

impl Drop for AnonMemory {
    fn drop(&mut self) {
        // A child has not inherited the area.
        if identity::token() == self.process {
            // SAFETY: the store's own, which ends with it.
            unsafe { mm::release(self.address as *mut u8, self.len) };
        }
    }
}
