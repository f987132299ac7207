//! The base of every handle: a region, and its shown bytes. They differ where an offset was not a
//! page multiple, or a length not a whole number of pages.

use super::settings::{Setting, Settings};
use crate::advice::Advice;
use crate::error::{Error, Result};
use crate::page;
use crate::prot::Prot;
use crate::region::{Fork, Origin, Region, outside};
use crate::residency::Residency;
use crate::sys;
use crate::sys::copy::Trap;
use std::ops::{Range, RangeBounds};

/// A region, and the `len` bytes from `lead` that its handle shows.
#[derive(Debug)]
pub(crate) struct Mapping {
    pub(crate) region: Region,
    pub(crate) lead: usize,
    pub(crate) len: usize,
    /// The bytes that [`is_ready`](Self::is_ready) has nothing against: all, or none where each
    /// access must ask whether this process has the map.
    ready: usize,
    /// The settings that were made while there were no bytes.
    settings: Settings,
    /// Whether it is of a file, whose pages cannot be wiped in children.
    of_file: bool,
}

impl Mapping {
    pub(crate) fn new(region: Region, lead: usize, len: usize) -> Self {
        let mut this =
            Self { region, lead, len, ready: 0, settings: Settings::default(), of_file: false };
        this.settle();
        this
    }

    /// To be called when the region or the length has changed.
    pub(crate) fn settle(&mut self) {
        self.ready = if self.region.is_plain() { self.len } else { 0 };
    }

    /// Says that the map is of a file, for calls that come before it has bytes.
    pub(crate) fn of_file(mut self) -> Self {
        self.of_file = true;
        self
    }

    pub(crate) fn set_fork(&mut self, fork: Fork) -> Result<()> {
        if self.of_file && fork == Fork::Wiped {
            return Err(Error::rule(
                "madvise",
                self.region.subject(0..self.region.len()).with_detail("Fork::Wiped"),
                "the kernel wipes private anonymous memory only, and this is a map of a file",
                "keep it from children with Fork::Absent",
            ));
        }
        let result = self.region.set_fork(fork);
        self.settle();
        result
    }

    /// Whether a setting for `range`, which must lie inside, has to wait until there are bytes.
    fn waits(&self, call: &'static str, range: impl RangeBounds<usize>) -> Result<bool> {
        self.shift(call, range)?;
        self.region.check_present(call, &(0..0))?;
        Ok(self.len == 0)
    }

    pub(crate) fn advise(
        &self,
        range: impl RangeBounds<usize> + Clone,
        advice: Advice,
    ) -> Result<()> {
        if self.waits("madvise", range.clone())? {
            self.settings.remember(Setting::Advice(advice));
            return Ok(());
        }
        self.region.advise(self.shift("madvise", range)?, advice)
    }

    pub(crate) fn lock(
        &self,
        range: impl RangeBounds<usize> + Clone,
        on_fault: bool,
    ) -> Result<()> {
        if self.waits("mlock", range.clone())? {
            self.settings.remember(if on_fault { Setting::LockedOnFault } else { Setting::Locked });
            return Ok(());
        }
        let range = self.shift("mlock", range)?;
        if on_fault { self.region.lock_on_fault(range) } else { self.region.lock(range) }
    }

    pub(crate) fn unlock(&self, range: impl RangeBounds<usize> + Clone) -> Result<()> {
        if self.waits("munlock", range.clone())? {
            self.settings.unlock();
            // A page that is kept to grow from may be locked.
            return self.region.unlock(..);
        }
        self.region.unlock(self.shift("munlock", range)?)
    }

    pub(crate) fn name_area(&self, name: &str) -> Result<bool> {
        let named = self.region.name_area(name)?;
        if self.len == 0 {
            self.settings.remember(Setting::Named(name.to_owned()));
        }
        Ok(named)
    }

    pub(crate) fn protect(
        &mut self,
        range: impl RangeBounds<usize> + Clone,
        prot: Prot,
    ) -> Result<()> {
        if self.waits("mprotect", range.clone())? {
            self.settings.remember(Setting::Protected(prot));
            return Ok(());
        }
        let range = self.shift_whole("mprotect", range)?;
        self.region.protect(range, prot)
    }

    /// Applies to `region`, which is to take the place of this map's without bytes, everything that
    /// was set.
    pub(crate) fn hand_settings_to(&self, region: &mut Region) -> Result<()> {
        let fork = self.region.fork();
        if region.fork() != fork {
            region.set_fork(fork)?;
        }
        self.settings.apply(region)
    }

    /// Shows `len` bytes, which the region has. The first ones get what was set while there were
    /// none. On an error nothing is shown.
    pub(crate) fn show(&mut self, len: usize) -> Result<()> {
        if self.len == 0 && len > 0 {
            self.settings.apply(&mut self.region)?;
            self.settings.forget();
        }
        self.len = len;
        self.settle();
        Ok(())
    }

    /// The first shown byte.
    #[inline]
    pub(crate) fn start(&self) -> *mut u8 {
        self.region.as_ptr().wrapping_add(self.lead)
    }

    /// The shown bytes that `range` means, as bytes of the region.
    pub(crate) fn shift(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
    ) -> Result<Range<usize>> {
        let wanted = (range.start_bound().cloned(), range.end_bound().cloned());
        match page::resolve(range, self.len) {
            Some(range) => Ok(range.start + self.lead..range.end + self.lead),
            None => Err(Error::rule(
                call,
                self.region.subject(0..self.region.len()).with_detail(format!(
                    "{} of {} bytes",
                    page::written(&wanted),
                    self.len
                )),
                "the range must lie inside the map, and start before it ends",
                format!("keep to 0..{}", self.len),
            )),
        }
    }

    /// The shown bytes that `range` means, as bytes of the region that may be changed as a whole: a
    /// range that starts or ends where the map does takes the rest of that page along, whose
    /// addresses are the map's alone.
    pub(crate) fn shift_whole(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
    ) -> Result<Range<usize>> {
        let range = self.shift(call, range)?;
        if range.is_empty() {
            return Ok(0..0);
        }
        let start = if range.start == self.lead { 0 } else { range.start };
        let end = if range.end == self.lead + self.len { self.region.len() } else { range.end };
        Ok(start..end)
    }

    /// Whether [`bytes`](Self::bytes) has nothing to do for this range but to say where it lies,
    /// once the handler of faults is installed.
    #[inline]
    pub(crate) fn is_ready(&self, offset: usize, count: usize) -> bool {
        page::within(offset, count, self.ready).is_some()
    }

    /// `offset..offset + count` as bytes of the region, ready for a checked access.
    #[inline]
    pub(crate) fn bytes(
        &self,
        call: &'static str,
        offset: usize,
        count: usize,
    ) -> Result<Range<usize>> {
        match page::within(offset, count, self.len) {
            Some(range) => {
                let range = range.start + self.lead..range.end + self.lead;
                self.region.check_present(call, &range)?;
                sys::signal::install();
                Ok(range)
            }
            None => Err(self.outside(call, offset, count)),
        }
    }

    #[cold]
    fn outside(&self, call: &'static str, offset: usize, count: usize) -> Error {
        outside(call, self.region.subject(0..self.region.len()), offset, count, self.len)
    }

    /// A checked copy out, for memory that has no guards.
    #[inline]
    pub(crate) fn read_at(
        &self,
        call: &'static str,
        buffer: &mut [u8],
        offset: usize,
    ) -> Result<()> {
        let range = self.bytes(call, offset, buffer.len())?;
        let from = self.start().wrapping_add(offset);
        // SAFETY: `bytes` installed the handler; the region is mapped memory, to which this handle
        // gives no references.
        unsafe { sys::copy::copy(buffer.as_mut_ptr(), from, buffer.len(), self.region.addresses()) }
            .map_err(|trap| self.fault(call, trap, range))
    }

    /// A checked copy in, for memory that has no guards.
    #[inline]
    pub(crate) fn write_at(&self, call: &'static str, bytes: &[u8], offset: usize) -> Result<()> {
        let range = self.bytes(call, offset, bytes.len())?;
        let to = self.start().wrapping_add(offset);
        // SAFETY: as for reading.
        unsafe { sys::copy::copy(to, bytes.as_ptr(), bytes.len(), self.region.addresses()) }
            .map_err(|trap| self.fault(call, trap, range))
    }

    #[cold]
    pub(crate) fn fault(&self, call: &'static str, trap: Trap, range: Range<usize>) -> Error {
        self.region
            .fault(call, trap, range, &Origin { lead: self.lead, ..Origin::default() })
            .into()
    }

    /// Which of the shown pages are resident.
    pub(crate) fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        let range = self.shift("mincore", range)?;
        Residency::of(&self.region, range, None)
    }
}
