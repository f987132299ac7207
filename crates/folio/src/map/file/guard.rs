//! Guards: a closure over the bytes of a file map, whose faults are errors.

use super::{FileAccess, MappedFile, WriteAccess};
use crate::access::{NoResult, View, ViewMut, guarded};
use crate::error::{Errno, Error, Result};
use crate::page::PageSize;
use crate::prot::Prot;
use crate::sys::copy::Trap;
use crate::sys::guard_table::NotOpened;
use crate::sys::shadow::CloneBy;
use crate::sys::spare::Stores;
use std::ops::RangeBounds;

impl<A: FileAccess> MappedFile<A> {
    /// Runs `work` over a view of all bytes. A page that cannot be supplied meanwhile reads as
    /// zero, and `work`'s result is thrown away for the error.
    ///
    /// Guards may nest, and run in many threads at once. A fault of any thread in the map is served
    /// while one is open, and every guard whose bytes it concerns fails. A fault elsewhere goes to
    /// the handler that was there before folio's.
    ///
    /// In a process that has reached its limit of areas (`vm.max_map_count`) or of address space
    /// (RLIMIT_AS), a page cannot be replaced by itself. Then the whole map is given up: the guard
    /// fails, and so does every access afterwards. The file loses nothing; a
    /// [`FileMapPrivate`](crate::FileMapPrivate) loses its own changes.
    ///
    /// For that case the first guard of a map takes as many spare addresses as the map has, and
    /// some VMAs. They stay until the map is dropped. Where the kernel refuses them, the guard is
    /// an error (ENOMEM) and `work` does not run.
    ///
    /// # Errors
    ///
    /// A [`Fault`](crate::Fault) that names the first page of the map that could not be supplied,
    /// and the cause. EPERM for a map that was [sealed](Self::seal), whose pages cannot be
    /// replaced.
    pub fn guard<R>(&self, work: impl FnOnce(&View<'_>) -> R) -> Result<R> {
        self.guard_range(.., work)
    }

    /// [`guard`](Self::guard) over a part of the map.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard), for pages of the range only; EINVAL for a range outside the map.
    pub fn guard_range<R>(
        &self,
        range: impl RangeBounds<usize>,
        work: impl FnOnce(&View<'_>) -> R,
    ) -> Result<R> {
        self.in_guard(range, |start, len| {
            // SAFETY: guarded until `work` has returned, and a view cannot leave `work`.
            work(&unsafe { View::new(start, len) })
        })
    }

    /// Runs `work` over a slice of all bytes, for parsers that want `&[u8]`. As
    /// [`guard`](Self::guard), a page that cannot be supplied reads as zero, and the result becomes
    /// an error: truncation does no harm.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    ///
    /// # Safety
    ///
    /// While `work` runs, nobody changes the mapped bytes of the file: no other process, and no
    /// other map in this one. Truncation is allowed for pages whose bytes `work` has not read yet.
    /// A slice whose bytes change is undefined behaviour, even if it is thrown away afterwards.
    pub unsafe fn guard_slice<R>(&self, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: guarded until `work` has returned; the caller promises that the bytes do not
            // change.
            work(unsafe { std::slice::from_raw_parts(start, len) })
        })
    }

    pub(super) fn in_guard<R>(
        &self,
        range: impl RangeBounds<usize>,
        work: impl FnOnce(*mut u8, usize) -> R,
    ) -> Result<R> {
        let region = &self.mapping.region;
        let range = self.mapping.shift("guard", range)?;
        region.check_present("guard", &range)?;
        if region.may_be_sealed() && !range.is_empty() {
            return Err(Error::rule_as(
                Errno::PERM,
                "guard",
                region.subject(range),
                "the map was sealed (mseal), so a page that cannot be supplied could not be replaced",
                "use read_at, or do not seal the map",
            ));
        }
        if self.promised && !range.is_empty() {
            return Err(Error::rule_as(
                Errno::PERM,
                "guard",
                region.subject(range),
                "the map is a Stable one: a guard would replace a page that cannot be supplied, under the slice that the \
                 map derefs to",
                "use read_at, or turn the map back with into_inner first",
            ));
        }
        let pages = region.addresses();
        let bytes = pages.start + range.start..pages.start + range.end;
        let page = region.page_size();
        let by = CloneBy::best(A::SHARED, page > PageSize::system());
        let stores = match (A::PROT.contains(Prot::WRITE), A::SHARED) {
            (false, _) => Stores::None,
            (true, true) => Stores::Shared,
            (true, false) => Stores::Private,
        };
        guarded(&self.guarded, &pages, page.shift(), by, stores, &bytes, || {
            work(region.as_ptr().wrapping_add(range.start), range.len())
        })
        .map_err(|failure| match failure {
            NoResult::Replaced(trap) => self.fault("guard", trap, range),
            NoResult::NotOpened(NotOpened::GivenUp(trap)) => {
                let at = trap.address.wrapping_sub(pages.start);
                let address = pages.start + if range.contains(&at) { at } else { range.start };
                self.fault("guard", Trap { address, ..trap }, range)
            }
            NoResult::NotOpened(why) => why.error("guard", region.subject(range)),
        })
    }
}

impl<A: WriteAccess> MappedFile<A> {
    /// Runs `work` over a view that can be stored to. As [`guard`](Self::guard); if it fails,
    /// stores to the page that could not be supplied, and possibly to others after it, are lost;
    /// stores before the fault stay.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub fn guard_mut<R>(&self, work: impl FnOnce(&ViewMut<'_>) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: as for `guard_range`; the map is writable, or the store faults and is served.
            work(&unsafe { ViewMut::new(start, len) })
        })
    }

    /// [`guard_slice`](Self::guard_slice) with a slice that can be stored to.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    ///
    /// # Safety
    ///
    /// As for [`guard_slice`](Self::guard_slice), and nobody reads the bytes meanwhile through
    /// another map in this process.
    pub unsafe fn guard_slice_mut<R>(&mut self, work: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: as for `guard_slice`, borrowed alone.
            work(unsafe { std::slice::from_raw_parts_mut(start, len) })
        })
    }
}
