//! Address space without memory: a range that nothing else will take, in which regions are placed
//! and memory is committed, so that pointers into it stay valid while it grows.

use super::{Errno, Error, Placement, Region, Request, Result, Subject, stack_conflict};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::sys;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// A range of addresses with nothing behind them (PROT_NONE, NORESERVE): it costs no memory, and
/// nobody else is mapped there.
///
/// Memory comes into it in two ways. [`commit`](Self::commit) takes the next pages in order,
/// zero-filled, for as long as the reservation lives: an arena whose addresses never change.
/// [`MapOptions::within`](crate::MapOptions::within) places any map at any offset that is free;
/// dropping that map makes its place free again. The addresses go back to the kernel when the
/// reservation and all that lies in it are gone.
///
/// **Fork:** a child inherits the reservation and all maps in it, each as its own options say; maps
/// that the child commits or places are its own. If a map in it is
/// [`Fork::Absent`](crate::Fork::Absent), the whole reservation is kept from children, and placing
/// in it there is an error.
///
/// Source: mmap(2).
#[derive(Debug)]
pub struct Reservation {
    space: Arc<Space>,
}

/// The range itself, shared by the reservation and the regions in it.
#[derive(Debug)]
pub(crate) struct Space {
    base: usize,
    len: usize,
    page: PageSize,
    /// Parts in use: start to end, as addresses, apart from each other.
    taken: Mutex<BTreeMap<usize, usize>>,
    /// Parts that another thread's map took in the moment between a call of ours that unmapped them
    /// and the next that reserved them again: no longer ours. They stay in `taken`.
    lost: Mutex<Vec<Range<usize>>>,
    /// The process that has it, if children do not inherit it.
    process: OnceLock<u64>,
}

impl Reservation {
    /// Reserves `length` bytes of addresses, rounded up to whole pages, aligned to pages.
    ///
    /// # Errors
    ///
    /// ENOMEM if no such range is free (RLIMIT_AS counts it), EINVAL for zero.
    pub fn new(length: usize) -> Result<Self> {
        Self::aligned(length, PageSize::system())
    }

    /// The same with whole pages of `page`, aligned to them: for huge pages.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn aligned(length: usize, page: PageSize) -> Result<Self> {
        let base = PageSize::system();
        let page = page.max(base);
        if length == 0 {
            return Err(Error::rule(
                "reserve",
                Subject::named("a reservation").with_length(0),
                "the length must not be zero",
                "ask for at least one byte",
            ));
        }
        let len = page.ceil(length);
        // Reserve enough to find an aligned range inside, and give the ends back.
        let slack = if page > base { page.bytes() } else { 0 };
        let Some((len, whole)) = len.and_then(|len| Some((len, len.checked_add(slack)?))) else {
            return Err(too_long(length));
        };
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
        let request = Request {
            len: whole,
            page: base,
            prot: Prot::NONE,
            flags,
            fd: None,
            offset: 0,
            place: Placement::Anywhere,
        };
        let region = Region::create(&request)?;
        let start = region.as_ptr() as usize;
        let aligned = page.ceil(start).ok_or_else(|| too_long(length))?;
        std::mem::forget(region);
        for (from, to) in [(start, aligned), (aligned + len, start + whole)] {
            if from < to {
                // SAFETY: an end of the range that was just reserved, which nobody knows.
                let _ = unsafe { sys::mm::munmap(from as *mut u8, to - from) };
            }
        }
        let space = Space {
            base: aligned,
            len,
            page,
            taken: Mutex::default(),
            lost: Mutex::default(),
            process: OnceLock::new(),
        };
        Ok(Self { space: Arc::new(space) })
    }

    /// The first address.
    pub fn as_ptr(&self) -> *mut u8 {
        self.space.base as *mut u8
    }

    /// Bytes reserved.
    pub fn len(&self) -> usize {
        self.space.len
    }

    /// Never: a reservation has at least one page.
    pub fn is_empty(&self) -> bool {
        self.space.len == 0
    }

    /// Bytes in use, by commits and by regions.
    pub fn used(&self) -> usize {
        self.space.taken().iter().map(|(start, end)| end - start).sum()
    }

    /// Commits `length` bytes, rounded up to whole pages, behind all that is in use: zero-filled
    /// memory that is yours for as long as the reservation lives. Earlier commits keep their
    /// addresses, and may be in use meanwhile.
    ///
    /// # Errors
    ///
    /// ENOMEM if the reservation has no room behind the part in use, or the kernel does not promise
    /// the memory.
    #[expect(
        clippy::mut_from_ref,
        reason = "each commit is a range that no other call ever returns"
    )]
    pub fn commit(&self, length: usize) -> Result<&mut [u8]> {
        let space = &self.space;
        if length == 0 {
            return Ok(&mut []);
        }
        let rounded = space.page.ceil(length).ok_or_else(|| too_long(length))?;
        let start = space.claim_behind(rounded)?;
        // SAFETY: the claim made the range this call's alone, and nothing is stored there yet.
        match unsafe { sys::mm::mprotect(start as *mut u8, rounded, Prot::READ_WRITE.bits()) } {
            // SAFETY: zero-filled, readable and writable, claimed for nobody else until the space
            // is dropped, which the borrow of the reservation outlives.
            Ok(()) => Ok(unsafe { std::slice::from_raw_parts_mut(start as *mut u8, length) }),
            Err(errno) => {
                // A part may be writable already. A range that cannot be reclaimed stays claimed.
                let _ = space.reclaim(start as *mut u8, rounded);
                let subject = Subject::anonymous()
                    .with_address(start)
                    .with_length(rounded)
                    .with_prot(Prot::READ_WRITE);
                Err(Error::kernel("mprotect", errno, subject))
            }
        }
    }

    pub(crate) fn space(&self) -> &Arc<Space> {
        &self.space
    }
}

fn too_long(length: usize) -> Error {
    let subject = Subject::named("a reservation").with_length(length);
    Error::rule_as(
        Errno::NOMEM,
        "reserve",
        subject,
        "no range of addresses is that long",
        "ask for less",
    )
}

impl Space {
    fn taken(&self) -> MutexGuard<'_, BTreeMap<usize, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn start(&self) -> usize {
        self.base
    }

    /// Takes `len` bytes at `offset` to replace what reserves them, and returns their address.
    pub(crate) fn claim(&self, offset: usize, len: usize) -> Result<usize> {
        self.claim_in(&mut self.taken(), offset, len)
    }

    /// Takes `len` bytes behind all that is taken, and returns their address.
    fn claim_behind(&self, len: usize) -> Result<usize> {
        // One lock for both steps: another commit must not come between them.
        let mut taken = self.taken();
        let offset = taken.last_key_value().map_or(0, |(_, end)| end - self.base);
        self.claim_in(&mut taken, offset, len)
    }

    fn claim_in(
        &self,
        taken: &mut BTreeMap<usize, usize>,
        offset: usize,
        len: usize,
    ) -> Result<usize> {
        let subject = || {
            Subject::named("a reservation").with_address(self.base).with_range(offset as u64, len)
        };
        if self.process.get().is_some_and(|&process| process != sys::identity::token()) {
            return Err(Error::rule_as(
                Errno::NOMEM,
                "place",
                subject(),
                "the reservation was kept from children (Fork::Absent), and this child does not have it",
                "make the child's own",
            ));
        }
        let end = offset.checked_add(len).filter(|&end| end <= self.len);
        let Some(end) = end else {
            return Err(Error::rule_as(
                Errno::NOMEM,
                "place",
                subject(),
                format!("the reservation has {} bytes", self.len),
                "place it lower, or reserve more",
            ));
        };
        let page = PageSize::system();
        if !page.divides(offset) || !page.divides(len) {
            return Err(Error::rule(
                "place",
                subject(),
                format!("a place in a reservation must be a multiple of the page size ({page})"),
                format!("use {} or {}", page.floor(offset), page.floor(offset) + page.bytes()),
            ));
        }
        let (start, end) = (self.base + offset, self.base + end);
        if let Some((&from, &to)) = taken.range(..end).next_back().filter(|&(_, &to)| to > start) {
            let (from, to) = (from - self.base, to - self.base);
            return Err(Error::rule_as(
                Errno::EXIST,
                "place",
                subject(),
                format!("bytes {from}..{to} of the reservation are in use"),
                "choose a free place, or drop what lies there",
            ));
        }
        // The kernel keeps no gap between a stack and a reservation, which has no access.
        if let Some(stack) = sys::stack::conflicts_with_stack(&(start..end)) {
            return Err(stack_conflict("place", subject(), &stack));
        }
        taken.insert(start, end);
        Ok(start)
    }

    /// Makes a claimed range, or a part of one, free again. Nothing must be mapped there but the
    /// reservation's own.
    pub(crate) fn give_back(&self, start: usize, len: usize) {
        let end = start + len;
        let mut taken = self.taken();
        while let Some((&from, &to)) = taken.range(..end).next_back().filter(|&(_, &to)| to > start)
        {
            taken.remove(&from);
            if to > end {
                taken.insert(end, to);
            }
            if from < start {
                taken.insert(from, start);
            }
        }
    }

    /// Takes mapped addresses back from a region: they reserve again, and are free.
    pub(crate) fn reclaim(&self, start: *mut u8, len: usize) -> Result<(), Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the range is a region's in this reservation, and its use has ended.
        unsafe { sys::mm::mmap(start, len, Prot::NONE.bits(), flags.bits(), -1, 0) }?;
        self.give_back(start as usize, len);
        Ok(())
    }

    /// Reserves a claimed range again that a failed call may have unmapped. If something is mapped
    /// there it may be another thread's map, which no mark tells from the reservation for sure:
    /// nothing is replaced then, and the range is lost to the space.
    pub(crate) fn plug(&self, start: usize, len: usize) -> bool {
        let flags = MapFlags::PRIVATE
            | MapFlags::ANONYMOUS
            | MapFlags::NORESERVE
            | MapFlags::FIXED_NOREPLACE;
        // SAFETY: NOREPLACE replaces nothing.
        let filled =
            unsafe { sys::mm::mmap(start as *mut u8, len, Prot::NONE.bits(), flags.bits(), -1, 0) };
        if filled.is_err() {
            self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(start..start + len);
        }
        filled.is_ok()
    }

    /// The same, and makes the range free.
    pub(crate) fn restore(&self, start: usize, len: usize) {
        if self.plug(start, len) {
            self.give_back(start, len);
        }
    }

    /// Keeps the whole space from children (MADV_DONTFORK).
    pub(crate) fn keep_from_children(&self) -> Result<(), Errno> {
        // SAFETY: the advice changes nothing in this process.
        let advise = |advice| unsafe { sys::mm::madvise(self.base as *mut u8, self.len, advice) };
        match advise(libc::MADV_DONTFORK) {
            Err(errno) if self.process.get().is_none() && advise(libc::MADV_DOFORK).is_ok() => {
                Err(errno)
            }
            // If it cannot be undone, a part is absent from children, and they must know.
            result => {
                self.process.get_or_init(sys::identity::token);
                result
            }
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if self.process.get().is_none_or(|&process| process == sys::identity::token()) {
            let lost = self.lost.get_mut().unwrap_or_else(PoisonError::into_inner);
            lost.sort_unstable_by_key(|part| part.start);
            let starts = std::iter::once(self.base).chain(lost.iter().map(|part| part.end));
            let ends =
                lost.iter().map(|part| part.start).chain(std::iter::once(self.base + self.len));
            for (start, end) in starts.zip(ends).filter(|(start, end)| start < end) {
                // SAFETY: the reservation and all regions in it are gone, commits borrowed the
                // reservation, and ranges that others took are left out.
                unsafe { sys::mm::release(start as *mut u8, end - start) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strangers_area_is_never_taken_for_the_reservation() {
        let page = PageSize::system().bytes();
        let reservation = Reservation::new(4 * page).unwrap();
        let space = Arc::clone(reservation.space());
        let start = space.claim(page, page).unwrap();
        // A call that replaces the claim unmaps it and fails; and another thread reserves there,
        // with any mark that the kernel can be asked for.
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE | MapFlags::FIXED;
        // SAFETY: the claimed range, which nobody uses.
        unsafe {
            sys::mm::munmap(start as *mut u8, page).unwrap();
            sys::mm::mmap(start as *mut u8, page, Prot::NONE.bits(), flags.bits(), -1, 0).unwrap();
            sys::mm::madvise(start as *mut u8, page, libc::MADV_RANDOM).unwrap();
        }
        space.restore(start, page);
        assert_eq!(reservation.used(), page, "it is not handed out again");
        drop((reservation, space));
        // SAFETY: as above; the stranger's area.
        unsafe { sys::mm::mprotect(start as *mut u8, page, Prot::READ.bits()) }
            .expect("it is still mapped");
        // SAFETY: as above.
        unsafe { sys::mm::munmap(start as *mut u8, page) }.unwrap();
    }

    #[test]
    fn a_place_that_a_call_unmapped_reserves_again_and_is_free() {
        let page = PageSize::system().bytes();
        let reservation = Reservation::new(4 * page).unwrap();
        let space = reservation.space();
        let start = space.claim(page, page).unwrap();
        // SAFETY: the claimed range, which nobody uses.
        unsafe { sys::mm::munmap(start as *mut u8, page) }.unwrap();
        space.restore(start, page);
        assert_eq!(reservation.used(), 0);
        assert_eq!(sys::process::first_gap(start..start + page), None);
    }
}
