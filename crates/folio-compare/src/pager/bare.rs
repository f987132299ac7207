//! The bare mechanisms: the smallest loops that supply faults from memory, with no bookkeeping.

use super::uffd::{Area, FEATURE_MOVE, MISSING, PROTECTED, Uffd};
use crate::data::page;
use anyhow::{Result, anyhow};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

/// A map whose faults a thread answers. A touch of the page behind the last one ends the thread.
#[derive(Debug)]
pub(super) struct Bare {
    area: Arc<Area>,
    len: usize,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Bare {
    /// Copies a page a fault.
    pub(super) fn pages(source: Arc<[u8]>) -> Result<Self> {
        let (len, size) = (source.len(), page());
        let area = Arc::new(Area::new(len + size, size)?);
        let uffd = Uffd::open(0)?;
        uffd.register(&area, MISSING)?;
        let start = area.start() as usize;
        let thread = std::thread::spawn(move || {
            loop {
                let address = uffd.next()? & !(size - 1);
                let offset = address - start;
                if offset == len {
                    uffd.copy(address, source.as_ptr(), size)?;
                    return Ok(());
                }
                if !uffd.copy(address, source[offset..].as_ptr(), size)? {
                    uffd.wake(address, size)?;
                }
            }
        });
        Ok(Self { area, len, thread: Some(thread) })
    }

    /// Copies a unit a fault into a pool of huge pages and moves it to its place, and moves the
    /// oldest unit out into the pool when there are as many as `budget` holds.
    pub(super) fn units(source: Arc<[u8]>, budget: usize) -> Result<Self> {
        const UNIT: usize = 2 << 20;
        let len = source.len();
        let area = Arc::new(Area::new(len + UNIT, UNIT)?);
        let pool = Area::new(budget, UNIT)?;
        area.advise(libc::MADV_HUGEPAGE)?;
        pool.advise(libc::MADV_HUGEPAGE)?;
        let uffd = Uffd::open(FEATURE_MOVE)?;
        uffd.register(&area, MISSING)?;
        // Pages that are moved out of it and into it must be one userfaultfd's.
        uffd.register(&pool, PROTECTED)?;
        let start = area.start() as usize;
        let thread = std::thread::spawn(move || {
            let slots = pool.start() as usize;
            let mut free: Vec<usize> = (0..budget / UNIT).map(|slot| slots + slot * UNIT).collect();
            let mut empty = Vec::new();
            let mut resident = VecDeque::new();
            loop {
                let address = uffd.next()? & !(UNIT - 1);
                let offset = address - start;
                let slot = if let Some(slot) = free.pop() {
                    slot
                } else {
                    let (Some(slot), Some(oldest)) = (empty.pop(), resident.pop_front()) else {
                        return Err(io::ErrorKind::OutOfMemory.into());
                    };
                    uffd.shift(slot, oldest, UNIT)?;
                    slot
                };
                let last = offset == len;
                let from = if last { 0 } else { offset };
                // SAFETY: the slot is this thread's, and a unit long; `from` is a unit before the
                // source's end at least.
                unsafe {
                    (slot as *mut u8).copy_from_nonoverlapping(source[from..].as_ptr(), UNIT);
                };
                uffd.shift(address, slot, UNIT)?;
                if last {
                    return Ok(());
                }
                empty.push(slot);
                resident.push_back(address);
            }
        });
        Ok(Self { area, len, thread: Some(thread) })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: the thread supplies the source's bytes, always the same.
        unsafe { &self.area.bytes()[..self.len] }
    }

    /// Lets all pages go.
    pub(super) fn clear(&self) -> Result<()> {
        self.area.advise(libc::MADV_DONTNEED)
    }

    /// Ends the thread, and reports its error.
    pub(super) fn end(mut self) -> Result<()> {
        self.stop()
    }

    fn stop(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        if !thread.is_finished() {
            // SAFETY: as for `bytes`; the page behind the last one is the area's, too.
            std::hint::black_box(unsafe { self.area.bytes() }[self.len]);
        }
        thread.join().map_err(|_| anyhow!("the bare handler thread panicked"))??;
        Ok(())
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        drop(self.stop());
    }
}
