//! Calls that leave a region's bytes and range alone, and change the place, the time and the cost
//! of the bytes: write-back, advice, locking, populating, naming. (Discarding is here too, since it
//! is advice to the kernel.)

use super::{Errno, Error, Region, Result};
use crate::advice::{Advice, Discard, UncheckedAdvice};
use crate::page::PageSize;
use crate::sys;
use std::ops::{ControlFlow, Range, RangeBounds};

/// How a range of a shared file map is written back.
///
/// Source: msync(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WriteBack {
    /// Write changed pages and wait until the device has them (MS_SYNC), as fdatasync(2) does for
    /// the range.
    Wait,
    /// Schedule the write (MS_ASYNC). Linux has always scheduled it by then, so it checks the range
    /// and returns; not even the file's times move.
    Start,
    /// Wait, and ask other maps of the file to take over the new bytes (MS_SYNC and MS_INVALIDATE).
    /// On Linux all maps show the same pages already; EBUSY for locked memory.
    Invalidate,
}

/// For what pages are faulted in.
///
/// Source: madvise(2), MADV_POPULATE_READ and MADV_POPULATE_WRITE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Populate {
    /// For reading: holes of a file stay holes, private pages stay uncopied.
    Read,
    /// For writing: holes are allocated, private pages copied, anonymous pages there for good.
    Write,
}

impl Region {
    /// Writes changed pages back to the file. For maps that are not shared with a file, only checks
    /// the range.
    ///
    /// Closing the descriptor or unmapping does not lose changes: they are in the page cache, and
    /// reach the device later. This call says when they are there.
    ///
    /// # Errors
    ///
    /// EIO if the device failed: changes may be lost. EBUSY for [`WriteBack::Invalidate`] of locked
    /// memory.
    #[doc(alias = "msync")]
    #[doc(alias = "flush")]
    pub fn sync(&self, range: impl RangeBounds<usize>, how: WriteBack) -> Result<()> {
        let flags = match how {
            WriteBack::Wait => libc::MS_SYNC,
            WriteBack::Start => libc::MS_ASYNC,
            WriteBack::Invalidate => libc::MS_SYNC | libc::MS_INVALIDATE,
        };
        self.advise_range("msync", range, format_args!("{how:?}"), None, |at, len| {
            sys::mm::msync(at, len, flags)
        })
    }

    /// Gives advice on all pages that hold a byte of the range.
    ///
    /// # Errors
    ///
    /// EINVAL where the kernel does not know the advice or does not take it for this memory, EFAULT
    /// (populating) for a page that cannot be supplied; see each [`Advice`].
    #[doc(alias = "madvise")]
    pub fn advise(&self, range: impl RangeBounds<usize>, advice: Advice) -> Result<()> {
        self.advise_range(
            "madvise",
            range,
            format_args!("{advice:?}"),
            Some(advice.raw()),
            |at, len| {
                // SAFETY: none of `Advice` changes a byte.
                unsafe { sys::mm::madvise(at, len, advice.raw()) }
            },
        )
    }

    /// Throws the bytes of whole pages away.
    ///
    /// # Errors
    ///
    /// EINVAL if the range is not whole pages, or they are locked; see each [`Discard`].
    ///
    /// Source: madvise(2).
    pub fn discard(&mut self, range: impl RangeBounds<usize>, discard: Discard) -> Result<()> {
        let range = self.whole_pages("madvise", range)?;
        if range.is_empty() {
            return Ok(());
        }
        if discard == Discard::Remove || self.page > PageSize::system() {
            // A full machine, or an empty pool of huge pages, may have no other page to put there.
            self.pages_may_go();
        }
        // SAFETY: `&mut self` says that nothing refers to the bytes now.
        unsafe { sys::mm::madvise(self.at(range.start), range.len(), discard.raw()) }.map_err(
            |errno| {
                let subject = self.subject(range).with_advice(discard.raw());
                Error::kernel("madvise", errno, subject.with_detail(format!("{discard:?}")))
            },
        )
    }

    /// Gives advice whose effect on the bytes comes later or from outside, on whole pages.
    ///
    /// # Errors
    ///
    /// EINVAL if the range is not whole pages; see each [`UncheckedAdvice`].
    ///
    /// # Safety
    ///
    /// From now on nothing may rely on the bytes in a way that the advice breaks: no reference to
    /// them may exist while they can vanish ([`Free`](UncheckedAdvice::Free)), fault
    /// ([`GuardInstall`](UncheckedAdvice::GuardInstall)), or, in a child, be absent or zero.
    pub unsafe fn advise_unchecked(
        &self,
        range: impl RangeBounds<usize>,
        advice: UncheckedAdvice,
    ) -> Result<()> {
        let range = self.whole_pages("madvise", range)?;
        if range.is_empty() {
            return Ok(());
        }
        // SAFETY: the caller answers for the bytes.
        unsafe { sys::mm::madvise(self.at(range.start), range.len(), advice.raw()) }.map_err(
            |errno| {
                let subject = self.subject(range).with_advice(advice.raw());
                Error::kernel("madvise", errno, subject.with_detail(format!("{advice:?}")))
            },
        )
    }

    /// Faults all pages of the range in and keeps them in memory until [`unlock`](Self::unlock),
    /// the unmapping, or the process's end (mlock(2)). Children do not inherit the lock.
    ///
    /// # Errors
    ///
    /// ENOMEM at RLIMIT_MEMLOCK or for a page past the end of the file, EPERM where the limit is
    /// zero. mlock(2) also names EAGAIN, for a page that cannot be faulted in; outside a full
    /// memory cgroup it could not be provoked.
    ///
    /// Source: mlock(2).
    #[doc(alias = "mlock")]
    pub fn lock(&self, range: impl RangeBounds<usize>) -> Result<()> {
        self.advise_range("mlock", range, format_args!("lock"), None, |at, len| {
            sys::mm::mlock(at, len, false)
        })
    }

    /// Keeps in memory the pages of the range that are there, and others from their first touch on
    /// (mlock2(2), MLOCK_ONFAULT, since 4.4).
    ///
    /// # Errors
    ///
    /// As [`lock`](Self::lock).
    pub fn lock_on_fault(&self, range: impl RangeBounds<usize>) -> Result<()> {
        self.advise_range("mlock", range, format_args!("lock on fault"), None, |at, len| {
            sys::mm::mlock(at, len, true)
        })
    }

    /// Undoes [`lock`](Self::lock), however often it was called.
    ///
    /// # Errors
    ///
    /// ENOMEM if a part is not mapped.
    #[doc(alias = "munlock")]
    pub fn unlock(&self, range: impl RangeBounds<usize>) -> Result<()> {
        self.advise_range("munlock", range, format_args!("unlock"), None, sys::mm::munlock)
    }

    fn advise_range(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
        detail: std::fmt::Arguments<'_>,
        advice: Option<i32>,
        kernel: impl FnOnce(*mut u8, usize) -> Result<(), Errno>,
    ) -> Result<()> {
        let range = self.pages_around(call, range)?;
        if range.is_empty() {
            return Ok(());
        }
        kernel(self.at(range.start), range.len()).map_err(|errno| {
            let bytes =
                format!("{detail}, bytes {}..{} of the map's {}", range.start, range.end, self.len);
            let mut subject = self.subject(range).with_detail(bytes);
            subject.advice = advice;
            Error::kernel(call, errno, subject)
        })
    }

    /// Faults the pages of the range in, at most `step` bytes (rounded up to whole pages) at a
    /// time, so that it neither blocks for ever nor hides what it does: `progress` is told the
    /// bytes done and the bytes in all after each step, and ends the work early with
    /// [`ControlFlow::Break`]. Returns the bytes that were populated.
    ///
    /// Needs nothing newer than Linux 5.10: MADV_POPULATE is used where it exists (5.14), else each
    /// page is touched by a checked access.
    ///
    /// # Errors
    ///
    /// A fault for a page that cannot be supplied (past the end of the file, no huge page free):
    /// pages before it are in. The same, with
    /// [`FaultCause::Protection`](crate::FaultCause::Protection), if the pages' protection forbids
    /// it.
    ///
    /// Source: madvise(2).
    pub fn populate(
        &self,
        range: impl RangeBounds<usize>,
        how: Populate,
        step: usize,
        mut progress: impl FnMut(usize, usize) -> ControlFlow<()>,
    ) -> Result<usize> {
        let range = self.pages_around("populate", range)?;
        let step = self.page.ceil(step.max(1)).unwrap_or(range.len());
        let mut next = range.start;
        while next < range.end {
            let end = range.end.min(next.saturating_add(step));
            self.populate_step(next..end, how)?;
            next = end;
            if progress(next - range.start, range.len()).is_break() {
                break;
            }
        }
        Ok(next - range.start)
    }

    fn populate_step(&self, range: Range<usize>, how: Populate) -> Result<()> {
        let advice = match how {
            Populate::Read => Advice::PopulateRead,
            Populate::Write => Advice::PopulateWrite,
        };
        loop {
            // SAFETY: changes no byte.
            match unsafe { sys::mm::madvise(self.at(range.start), range.len(), advice.raw()) } {
                Ok(()) => return Ok(()),
                // A signal came, or memory was short for a moment: pages that are in are in, the
                // rest again.
                Err(Errno::INTR | Errno::AGAIN) => {}
                // No such advice before 5.14; and for an error, touching tells which page and why.
                Err(errno) => {
                    self.touch(range.clone(), how)?;
                    return match errno {
                        Errno::INVAL | Errno::FAULT => Ok(()),
                        errno => Err(Error::kernel(
                            "madvise",
                            errno,
                            self.subject(range)
                                .with_advice(advice.raw())
                                .with_detail(format!("{advice:?}")),
                        )),
                    };
                }
            }
        }
    }

    /// Faults pages in one by one, with accesses that report.
    fn touch(&self, range: Range<usize>, how: Populate) -> Result<()> {
        for page in range.step_by(self.page.bytes()) {
            match how {
                Populate::Read => self.read_at_as("populate", &mut [0], page)?,
                Populate::Write => self.touch_for_writing(page)?,
            }
        }
        Ok(())
    }

    /// Names the area in `/proc/PID/maps` as `[anon:NAME]` (PR_SET_VMA_ANON_NAME, since 5.17):
    /// private anonymous memory. Names are at most 79 printable characters without ``[]\$` ``.
    /// `false` where the kernel was built without names, or the memory is of a kind that has none.
    ///
    /// # Errors
    ///
    /// EINVAL for a name that is not one.
    pub fn name_area(&self, name: &str) -> Result<bool> {
        let printable = |byte: &u8| (0x20..0x7f).contains(byte) && !b"[]\\$`".contains(byte);
        let valid = name.len() < 80 && name.as_bytes().iter().all(printable);
        let Some(name) = std::ffi::CString::new(name).ok().filter(|_| valid) else {
            return Err(Error::rule(
                "prctl",
                self.subject(0..self.len).with_detail(format!("name {name:?}")),
                "an area's name is at most 79 printable ASCII characters, without [ ] \\ $ `",
                "choose another name",
            ));
        };
        // In a child that does not have the region, the addresses may be another map's.
        self.check_present("prctl", &(0..0))?;
        let mut named = !self.is_empty();
        for part in self.mapped() {
            named &= sys::mm::name_area(self.at(part.start), part.len(), &name).is_ok();
        }
        Ok(named)
    }
}
