//! Shared memory whose faults come as signals: pages of a memfd, which the map shows as far as
//! mprotect(2) lets it.
//!
//! Neighbouring pages with unlike rights are areas of their own, of which a process has few:
//! [`MprotectStore::area_cost`] counts them. Once mprotect(2) has taken a right, no thread has it
//! any more: so a page is protected first, and read or punched then.

use super::memfd::Views;
use super::{BufferSlot, InstallMode, SlotRun, span};
use crate::pager::sys::page_prot::PageProt;
use crate::pager::sys::pager_areas::PagerArea;
use crate::pager::sys::sigsegv_faults::{SigsegvFaults, WatchedArea};
use crate::sys::{Errno, mm};
use std::ops::Range;
use std::sync::Arc;

/// See the module.
#[derive(Debug)]
pub(crate) struct MprotectStore {
    // Before the memory, which goes after it.
    area: PagerArea,
    views: Views,
    watched: Arc<WatchedArea>,
    /// Neighbouring pages with unlike rights.
    borders: usize,
    /// Runs that have fewer rights than they should.
    owed: Vec<(SlotRun, PageProt)>,
}

impl MprotectStore {
    /// A map of `pages`, all missing, of the object `name`. `tracked`: the program may store to it.
    pub(crate) fn new(
        name: &str,
        pages: usize,
        queue: &SigsegvFaults,
        tracked: bool,
    ) -> Result<Self, Errno> {
        let views = Views::new(pages)?;
        let watched =
            Arc::new(WatchedArea::new(queue.cells_of_process(), views.len / views.page, tracked));
        let area = PagerArea::watched(
            views.address..views.address + views.len,
            name,
            Arc::clone(&watched),
        );
        Ok(Self { area, views, watched, borders: 0, owed: Vec::new() })
    }

    /// How many of the process's areas (`vm.max_map_count`) the map takes, beside one for its other
    /// view.
    pub(crate) fn area_cost(&self) -> usize {
        self.borders + 1
    }

    pub(super) fn views(&self) -> &Views {
        &self.views
    }

    pub(super) fn area(&mut self) -> &mut PagerArea {
        &mut self.area
    }

    fn protection(&self, page: usize) -> i32 {
        self.watched.page_prots().get(page).protection()
    }

    /// Borders between the pages of a range, and to those beside it.
    fn borders_of(&self, pages: &Range<usize>) -> usize {
        let last = (self.views.len / self.views.page - 1).min(pages.end);
        (pages.start.max(1)..=last)
            .filter(|&page| self.protection(page - 1) != self.protection(page))
            .count()
    }

    /// The part of a range, from its start, whose pages have the same protection.
    fn alike(&self, pages: &Range<usize>) -> Range<usize> {
        let first = self.protection(pages.start);
        let end = pages.clone().find(|&page| self.protection(page) != first).unwrap_or(pages.end);
        pages.start..end
    }

    /// Gives a whole run a right. After an error it has those that it had.
    fn give(&mut self, run: SlotRun, right: PageProt) -> Result<(), Errno> {
        let pages = run.first..run.first + run.pages;
        let before = self.borders_of(&pages);
        let mut given: Vec<(SlotRun, PageProt)> = Vec::new();
        let mut rest = pages.clone();
        let mut result = Ok(());
        while !rest.is_empty() {
            // One area a call: it fails before it changes anything.
            let part = self.alike(&rest);
            rest.start = part.end;
            let part = SlotRun { first: part.start, pages: part.len() };
            let had = self.watched.page_prots().get(part.first);
            result = self.give_alike(part, had, right);
            if result.is_err() {
                break;
            }
            given.push((part, had));
        }
        if result.is_err() {
            for (part, had) in given.into_iter().rev() {
                if self.give_alike(part, right, had).is_err() {
                    // Other threads took the areas meanwhile. A fault there asks for them again.
                    self.watched.page_prots().set(part.first..part.first + part.pages, right);
                    self.owed.push((part, had));
                }
            }
        }
        self.borders = self.borders + self.borders_of(&pages) - before;
        result
    }

    /// Gives pages a right that have the same one now.
    fn give_alike(&self, run: SlotRun, had: PageProt, right: PageProt) -> Result<(), Errno> {
        let (start, len) = span(self.views.address, self.views.page, run);
        let pages = run.first..run.first + run.pages;
        let rights = self.watched.page_prots();
        let adds = (had.protection() | right.protection()) != had.protection();
        // The handler believes in a right only while it is there.
        if !adds {
            rights.set(pages.clone(), right);
        }
        if had.protection() != right.protection() {
            // SAFETY: the map's own pages. A thread that uses one that loses a right waits for it,
            // or has got the message that it ends.
            if let Err(errno) = unsafe { mm::mprotect(start as *mut u8, len, right.protection()) } {
                if !adds {
                    rights.set(pages, had);
                }
                return Err(errno);
            }
        }
        if adds {
            rights.set(pages, right);
        }
        Ok(())
    }

    pub(super) fn install(&mut self, run: SlotRun, mode: InstallMode) -> Result<(), Errno> {
        let right =
            if mode == InstallMode::Writable { PageProt::Writable } else { PageProt::Readable };
        self.give(run, right)?;
        self.settle(run);
        self.wake_all(run);
        Ok(())
    }

    pub(super) fn take_out(&mut self, run: SlotRun) -> Result<BufferSlot, Errno> {
        self.give(run, PageProt::Missing)?;
        self.settle(run);
        // A thread that waits to store to a protected page faults again, on one that is not in the
        // map.
        self.wake_all(run);
        Ok(self.views.alias(run))
    }

    pub(super) fn snapshot(&mut self, run: SlotRun) -> Result<BufferSlot, Errno> {
        self.give(run, PageProt::Readable)?;
        self.settle(run);
        Ok(self.views.alias(run))
    }

    pub(super) fn unprotect(&mut self, run: SlotRun) -> Result<(), Errno> {
        self.give(run, PageProt::Writable)?;
        self.settle(run);
        self.wake_all(run);
        Ok(())
    }

    pub(super) fn poison(&mut self, page: usize) -> Result<(), Errno> {
        let run = SlotRun { first: page, pages: 1 };
        self.give(run, PageProt::Poisoned)?;
        self.settle(run);
        self.wake_all(run);
        Ok(())
    }

    pub(super) fn unpoison(&mut self, page: usize) -> Result<(), Errno> {
        if self.watched.page_prots().get(page) == PageProt::Poisoned {
            self.give(SlotRun { first: page, pages: 1 }, PageProt::Missing)?;
        }
        Ok(())
    }

    pub(super) fn wake(&mut self, run: SlotRun) {
        for (part, right) in std::mem::take(&mut self.owed) {
            if self.give(part, right).is_err() {
                self.owed.push((part, right));
            }
        }
        self.wake_all(run);
    }

    /// The run has the protection of the last request: an earlier one that is still due does not
    /// count.
    fn settle(&mut self, run: SlotRun) {
        let end = run.first + run.pages;
        for (part, right) in std::mem::take(&mut self.owed) {
            let part_end = part.first + part.pages;
            for kept in [part.first..part_end.min(run.first), part.first.max(end)..part_end] {
                if !kept.is_empty() {
                    self.owed.push((SlotRun { first: kept.start, pages: kept.len() }, right));
                }
            }
        }
    }

    fn wake_all(&self, run: SlotRun) {
        let (start, len) = span(self.views.address, self.views.page, run);
        self.watched.wake(&(start..start + len));
    }
}
