//! Changes of a region's range, but for its [protection](super::protection). All of them take the
//! region whole or mutably, so that no borrow of its bytes can be in the way.

use super::{
    ConversionError, Errno, Error, Fork, MapFlags, Placement, Prot, Region, Reservation, Result,
    Steady, stack_conflict,
};
use crate::sys;
use std::ops::{Range, RangeBounds};
use std::sync::Arc;

/// Whether a region may move when it is resized.
///
/// Source: mremap(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resize {
    /// It keeps its address, or the call fails with ENOMEM.
    InPlace,
    /// It may get another address (MREMAP_MAYMOVE). Pages move by their table entries; no byte is
    /// copied.
    MayMove,
}

impl Region {
    /// Unmaps the region, and says if that failed: with the region, of which the failing part is
    /// still there.
    ///
    /// # Errors
    ///
    /// ENOMEM at `vm.max_map_count`, EPERM for sealed memory.
    ///
    /// Source: munmap(2).
    #[doc(alias = "munmap")]
    pub fn unmap(mut self) -> Result<(), ConversionError<Self>> {
        match self.release_all() {
            Ok(()) => Ok(()),
            Err(errno) => {
                let error = Error::kernel("munmap", errno, self.subject(0..self.len));
                Err(ConversionError::new(self, error))
            }
        }
    }

    /// Unmaps whole pages out of the region and leaves a hole there, which any later map may take.
    /// The other parts keep their place in the region. Accesses to the hole through the region are
    /// errors.
    ///
    /// Parts that were unmapped before are passed over, as munmap(2) does.
    ///
    /// # Errors
    ///
    /// EINVAL if the range is not whole pages of the region; ENOMEM where a hole would split an
    /// area and the process has `vm.max_map_count` of them; EPERM for sealed memory.
    ///
    /// Source: munmap(2).
    pub fn unmap_range(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        self.adopt_lost_pages();
        let wanted = (range.start_bound().cloned(), range.end_bound().cloned());
        // Holes are no error here: resolve as if there were none, but in the right process.
        let holes = self
            .rare
            .as_deref_mut()
            .map(|rare| std::mem::take(&mut rare.holes))
            .unwrap_or_default();
        let range = self.whole_pages("munmap", wanted);
        if !holes.is_empty() {
            self.rare().holes = holes;
        }
        let range = range?;
        let parts: Vec<_> = self
            .mapped()
            .map(|part| part.start.max(range.start)..part.end.min(range.end))
            .collect();
        for part in parts {
            if !part.is_empty() {
                self.release(part.clone())
                    .map_err(|errno| Error::kernel("munmap", errno, self.subject(part.clone())))?;
                self.add_hole(part);
            }
        }
        Ok(())
    }

    /// Takes note of pages that a call of the kernel's unmapped before it failed: holes from now
    /// on.
    pub(super) fn adopt_lost_pages(&mut self) {
        if sys::lost_pages::any() {
            let addresses = self.addresses();
            for lost in sys::lost_pages::take(&addresses) {
                self.add_hole(lost.start - addresses.start..lost.end - addresses.start);
            }
        }
    }

    pub(super) fn add_hole(&mut self, hole: Range<usize>) {
        let holes = &mut self.rare().holes;
        holes.push(hole);
        holes.sort_unstable_by_key(|hole| hole.start);
        holes.dedup_by(|next, hole| {
            let adjacent = hole.end == next.start;
            if adjacent {
                hole.end = next.end;
            }
            adjacent
        });
    }

    /// Splits the region at `offset`, a multiple of its page size: it keeps the part before, and
    /// returns the rest. Memory and kernel notice nothing.
    ///
    /// # Errors
    ///
    /// EINVAL if `offset` is no multiple of the page size, or past the end.
    pub fn split_off(&mut self, offset: usize) -> Result<Self> {
        self.adopt_lost_pages();
        if offset > self.len || !self.page.divides(offset) {
            let page = self.page;
            return Err(Error::rule(
                "split_off",
                self.subject(0..self.len).with_detail(format!("at {offset} of {}", self.len)),
                format!("a region is split at a multiple of its page size ({page}) inside it"),
                format!(
                    "use {} or {}",
                    page.floor(offset).min(self.len),
                    page.ceil(offset).unwrap_or(0).min(self.len)
                ),
            ));
        }
        let mut rest = Self {
            // SAFETY: `offset` is at most the length, so the address lies in the range or just
            // behind it, and is not null.
            base: unsafe { self.base.add(offset) },
            len: self.len - offset,
            page: self.page,
            rights: self.rights,
            rare: None,
        };
        for (part, rights) in self.protection_of(&(offset..self.len)) {
            rest.note_protection(part.start - offset..part.end - offset, rights);
        }
        self.cut_protection(offset);
        if let Some(rare) = self.rare.as_deref_mut() {
            let cut = |hole: &Range<usize>, from: usize, to: usize| {
                hole.start.max(from)..hole.end.min(to)
            };
            let (all, whole) = (std::mem::take(&mut rare.holes), self.len);
            let part = |from, to| {
                all.iter().map(move |hole| cut(hole, from, to)).filter(|hole| !hole.is_empty())
            };
            rare.holes = part(0, offset).collect();
            let (home, process, wiped, sealed) =
                (rare.home.clone(), rare.process, rare.wiped, rare.sealed);
            let (half_sealed, steady) = (rare.half_sealed, rare.steady);
            let other = rest.rare();
            other.holes =
                part(offset, whole).map(|hole| hole.start - offset..hole.end - offset).collect();
            (other.home, other.process, other.wiped, other.sealed) = (home, process, wiped, sealed);
            (other.half_sealed, other.steady) = (half_sealed, steady);
        }
        self.len = offset;
        Ok(rest)
    }

    /// Joins `next`, which must start where this region ends. Memory and kernel notice nothing;
    /// areas with the same rights are one to the kernel already.
    ///
    /// # Errors
    ///
    /// EINVAL, with `next`, if it is not adjacent, has another page size, or does not share this
    /// region's reservation, process and seal.
    pub fn merge(&mut self, mut next: Self) -> Result<(), ConversionError<Self>> {
        self.adopt_lost_pages();
        next.adopt_lost_pages();
        let owner = |region: &Self| {
            region.rare.as_deref().map_or((None, None, false), |rare| {
                (rare.home.as_ref().map(Arc::as_ptr), rare.process, rare.sealed)
            })
        };
        let adjacent = self.addresses().end == next.addresses().start;
        if !adjacent || self.page != next.page || owner(self) != owner(&next) {
            let error = Error::rule(
                "merge",
                next.subject(0..next.len),
                format!(
                    "a region is joined with one that starts where it ends ({:#x})",
                    self.addresses().end
                ),
                "split and merge in order, and keep reservation, page size and fork option the same",
            );
            return Err(ConversionError::new(next, error));
        }
        let steady = |region: &Self| region.rare.as_deref().and_then(|rare| rare.steady);
        let joined = steady(self)
            .zip(steady(&next))
            .map(|(one, other)| Steady { private: one.private && other.private });
        if self.rare.is_some() {
            self.rare().steady = joined;
        }
        let offset = self.len;
        let rights = next.protection_of(&(0..next.len));
        self.len += next.len;
        next.len = 0;
        for (part, rights) in rights {
            self.note_protection(part.start + offset..part.end + offset, rights);
        }
        if let Some(rare) = next.rare.take() {
            if rare.half_sealed {
                self.rare().half_sealed = true;
            }
            if rare.wiped {
                // Memory that grows behind the joined region holds the same kind of bytes as its
                // end.
                self.rare().wiped = true;
            }
            for hole in rare.holes {
                self.add_hole(hole.start + offset..hole.end + offset);
            }
        }
        Ok(())
    }

    /// Makes the region `length` bytes long, rounded up to whole pages. A part that is cut off is
    /// unmapped; a new part shows more of the file, or zeros.
    ///
    /// # Errors
    ///
    /// ENOMEM if it cannot grow in place, or memory, areas or address space do not suffice; EINVAL
    /// for a length of zero, a region that is empty, has holes, or lies in a reservation (place the
    /// further part there, and [`merge`](Self::merge) it); EAGAIN when it is locked and
    /// RLIMIT_MEMLOCK is reached; EFAULT if it grows and its parts differ; EPERM for sealed memory.
    /// The region is unchanged then.
    ///
    /// Source: mremap(2).
    #[doc(alias = "mremap")]
    pub fn resize(&mut self, length: usize, how: Resize) -> Result<()> {
        self.adopt_lost_pages();
        let new = self.resizable(length)?;
        self.check_present("mremap", &(0..self.len))?;
        let flags = match how {
            Resize::InPlace => 0,
            Resize::MayMove => libc::MREMAP_MAYMOVE,
        };
        let subject = || {
            let subject =
                self.subject(0..self.len).with_new_length(new).with_move(how == Resize::MayMove);
            subject.with_detail(format!("to length {new}, {how:?}"))
        };
        let start = self.as_ptr() as usize;
        let stack = (new > self.len)
            .then(|| {
                sys::stack::conflicts_with_stack(&(start + self.len..start.saturating_add(new)))
            })
            .flatten();
        let base = match (stack, how) {
            (None, _) => {
                // SAFETY: the range is this region's, and `&mut self` says that nothing uses it
                // now.
                unsafe {
                    sys::mm::mremap(self.as_ptr(), self.len, new, flags, std::ptr::null_mut())
                }
            }
            (Some(stack), Resize::InPlace) => {
                return Err(stack_conflict("mremap", subject(), &stack));
            }
            (Some(_), Resize::MayMove) => self.move_away(new),
        };
        let base = base.map_err(|errno| Error::kernel("mremap", errno, subject()))?;
        // SAFETY: mremap(2) returned a mapped address, which is never null.
        self.base = unsafe { std::ptr::NonNull::new_unchecked(base) };
        let steady = self.rare.as_deref().and_then(|rare| rare.steady);
        if new > self.len && steady.is_some_and(|steady| !steady.private) {
            // The object behind it does not grow.
            self.pages_may_go();
        }
        let old = std::mem::replace(&mut self.len, new);
        if new > old {
            // It grew as one area.
            let rights = self.protection_of(&(old - 1..old)).pop().and_then(|(_, rights)| rights);
            self.note_protection(old..new, rights);
        } else {
            self.cut_protection(new);
        }
        Ok(())
    }

    /// Moves the region to where the kernel has room for `new` bytes: left to itself it would try
    /// in place first.
    fn move_away(&self, new: usize) -> Result<*mut u8, Errno> {
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
        // SAFETY: no FIXED, so nothing is replaced.
        let room = unsafe {
            sys::mm::mmap(std::ptr::null_mut(), new, Prot::NONE.bits(), flags.bits(), -1, 0)
        }?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        // SAFETY: the target was made just now for this; the region's bytes are used by nothing
        // else, as its caller has it mutably. On an error the target stays, or its addresses may be
        // another's already.
        unsafe { sys::mm::mremap(self.as_ptr(), self.len, new, flags, room) }
    }

    /// The length in whole pages that the region is to get, if it can be resized at all.
    fn resizable(&self, length: usize) -> Result<usize> {
        let (empty, inside) =
            ((Vec::new(), None), |rare: &super::RareState| (rare.holes.clone(), rare.home.clone()));
        let (holes, home) = self.rare.as_deref().map_or(empty, inside);
        let refuse = |errno, rule: &'static str, remedy: &'static str| {
            let subject = self.subject(0..self.len).with_detail(format!("to length {length}"));
            Err(Error::rule_as(errno, "mremap", subject, rule, remedy))
        };
        if self.len == 0 {
            return refuse(
                Errno::INVAL,
                "the region is empty, and has nothing to grow from",
                "map it anew",
            );
        }
        if length == 0 {
            return refuse(
                Errno::INVAL,
                "the new length must not be zero",
                "ask for at least one byte, or unmap it",
            );
        }
        if !holes.is_empty() {
            return refuse(
                Errno::INVAL,
                "a part of the region was unmapped, and a region that is resized is one whole",
                "split it at its holes",
            );
        }
        if home.is_some() {
            return refuse(
                Errno::INVAL,
                "the region lies in a reservation, which keeps its place",
                "place the further part behind it, and merge the two",
            );
        }
        match self.page.ceil(length) {
            Some(new) => Ok(new),
            None => refuse(Errno::NOMEM, "no range of addresses is that long", "ask for less"),
        }
    }

    /// The place behind the region, if it lies in a reservation and this process has it.
    pub(crate) fn behind(&self) -> Result<Option<Placement>> {
        self.check_present("grow", &(0..0))?;
        let home = self.rare.as_deref().and_then(|rare| rare.home.as_ref());
        Ok(home
            .map(|home| Placement::Within(Arc::clone(home), self.addresses().end - home.start())))
    }

    /// Takes over the map [behind](Self::behind) the region. Children get of it the same part as of
    /// the region.
    pub(crate) fn append(&mut self, mut next: Self) -> Result<()> {
        let (process, wiped) =
            self.rare.as_deref().map_or((None, false), |rare| (rare.process, rare.wiped));
        if let (Some(_), Some(home)) = (process, next.rare().home.clone()) {
            // The whole space is kept from children if this region is.
            home.keep_from_children().map_err(|errno| {
                Error::kernel(
                    "madvise",
                    errno,
                    next.subject(0..next.len).with_advice(libc::MADV_DONTFORK),
                )
            })?;
            next.rare().process = process;
        } else if wiped {
            next.set_fork(Fork::Wiped)?;
        }
        Ok(self.merge(next)?)
    }

    /// Moves the region to `offset` of a reservation, without copying a byte (MREMAP_FIXED). Its
    /// old addresses are free afterwards.
    ///
    /// # Errors
    ///
    /// With the region unchanged: ENOMEM or EEXIST if there is no room at that place, EINVAL if the
    /// place is not aligned to the region's pages or the region is no single whole, EFAULT if its
    /// parts differ (in rights, advice or object, so that they are several areas to the kernel),
    /// EPERM for sealed memory.
    ///
    /// Source: mremap(2).
    pub fn relocate(
        mut self,
        reservation: &Reservation,
        offset: usize,
    ) -> Result<Self, ConversionError<Self>> {
        self.adopt_lost_pages();
        let place = || {
            let whole = self
                .rare
                .as_deref()
                .is_none_or(|rare| rare.holes.is_empty() && rare.process.is_none());
            if !whole || self.len == 0 || !self.page.divides(offset) {
                return Err(Error::rule(
                    "mremap",
                    self.subject(0..self.len)
                        .with_detail(format!("to offset {offset} of a reservation")),
                    "a region that moves is one whole that children inherit, and its place is aligned to its pages",
                    "split it at its holes, and round the offset",
                ));
            }
            if !sys::process::is_one_vma(&self.addresses()) {
                // Since 6.17 the kernel moves several areas one by one, and can fail after the
                // first.
                return Err(Error::rule_as(
                    Errno::FAULT,
                    "mremap",
                    self.subject(0..self.len)
                        .with_detail(format!("to offset {offset} of a reservation")),
                    "a region that moves must be one area to the kernel, or it could be torn apart: the same object, \
                     rights and advice throughout",
                    "give its parts the same rights and advice, or split it and move each part by itself",
                ));
            }
            if sys::process::may_have_seals() && sys::process::is_sealed(&self.addresses()) {
                return Err(Error::rule_as(
                    Errno::PERM,
                    "mremap",
                    self.subject(0..self.len)
                        .with_detail(format!("to offset {offset} of a reservation")),
                    "a part of the region is sealed (mseal), and stays where it is",
                    "move it before it is sealed",
                ));
            }
            let space = reservation.space();
            let target = space.claim(offset, self.len)?;
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            // SAFETY: the target is claimed, so nobody uses it; the region is owned, so nothing
            // refers to its bytes.
            match unsafe {
                sys::mm::mremap(self.as_ptr(), self.len, self.len, flags, target as *mut u8)
            } {
                Ok(base) => Ok((base, Arc::clone(space))),
                Err(errno) => {
                    // A failed mremap(2) may have unmapped its target.
                    space.restore(target, self.len);
                    let subject =
                        self.subject(0..self.len).with_detail(format!("to address {target:#x}"));
                    Err(Error::kernel("mremap", errno, subject))
                }
            }
        };
        match place() {
            Err(error) => Err(ConversionError::new(self, error)),
            Ok((base, space)) => {
                if let Some(old) = self.rare().home.replace(space) {
                    old.restore(self.base.as_ptr() as usize, self.len);
                }
                // SAFETY: mremap(2) returned a mapped address, which is never null.
                self.base = unsafe { std::ptr::NonNull::new_unchecked(base) };
                Ok(self)
            }
        }
    }

    /// Sets what forked children get of the whole region.
    ///
    /// # Errors
    ///
    /// EINVAL for [`Fork::Wiped`] on anything but private anonymous memory, and for
    /// [`Fork::Absent`] in a reservation that others share; ENOMEM for a region with holes.
    pub fn set_fork(&mut self, fork: Fork) -> Result<()> {
        self.check_present("madvise", &(0..self.len))?;
        let advise = |region: &Self, advice: i32| {
            // SAFETY: concerns children only; their part is recorded below, or is inherited memory.
            unsafe { sys::mm::madvise(region.as_ptr(), region.len, advice) }.map_err(|errno| {
                let subject = region.subject(0..region.len).with_advice(advice);
                Error::kernel("madvise", errno, subject.with_detail(format!("{fork:?}")))
            })
        };
        if self.len == 0 {
            // There is nothing to advise. The map that gets bytes in its place is set so.
            let process = (fork == Fork::Absent).then(sys::identity::token);
            if fork != Fork::Inherit || self.rare.is_some() {
                let rare = self.rare();
                (rare.process, rare.wiped) = (process, fork == Fork::Wiped);
            }
            return Ok(());
        }
        match fork {
            Fork::Inherit => {
                advise(self, libc::MADV_DOFORK)?;
                // Only private anonymous memory can have been wiped, and other memory refuses to be
                // kept.
                if let Err(error) = advise(self, libc::MADV_KEEPONFORK)
                    && error.errno() != Errno::INVAL
                {
                    return Err(error);
                }
                if let Some(rare) = self.rare.as_deref_mut() {
                    (rare.process, rare.wiped) = (None, false);
                }
            }
            Fork::Absent => {
                if let Some(home) = self.rare.as_deref().and_then(|rare| rare.home.as_ref()) {
                    if Arc::strong_count(home) > 1 {
                        return Err(Error::rule(
                            "madvise",
                            self.subject(0..self.len).with_detail("Fork::Absent"),
                            "a reservation that others use too is inherited by children, with all that lies in it",
                            "map the region by itself",
                        ));
                    }
                    home.keep_from_children().map_err(|errno| {
                        let subject = self.subject(0..self.len).with_advice(libc::MADV_DONTFORK);
                        Error::kernel("madvise", errno, subject.with_detail("Fork::Absent"))
                    })?;
                } else if let Err(error) = advise(self, libc::MADV_DONTFORK) {
                    // A part may be absent from children. If that stays, they must know.
                    let before = self.rare.as_deref().is_some_and(|rare| rare.process.is_some());
                    if !before && advise(self, libc::MADV_DOFORK).is_err() {
                        self.rare().process = Some(sys::identity::token());
                    }
                    return Err(error);
                }
                self.rare().process = Some(sys::identity::token());
            }
            Fork::Wiped => {
                if let Err(error) = advise(self, libc::MADV_WIPEONFORK) {
                    if self.rare.as_deref().is_none_or(|rare| !rare.wiped) {
                        // A part may be wiped. The kernel refuses this only where it refused that.
                        let _ = advise(self, libc::MADV_KEEPONFORK);
                    }
                    return Err(error);
                }
                if self.rare.as_deref().is_some_and(|rare| rare.process.is_some()) {
                    // It was absent from children before, which else would go first.
                    advise(self, libc::MADV_DOFORK)?;
                }
                let rare = self.rare();
                (rare.process, rare.wiped) = (None, true);
            }
        }
        Ok(())
    }

    /// Records that the kernel keeps the region from children by itself, as it does with the memory
    /// of some devices.
    pub(crate) fn record_absent_in_children(&mut self) {
        self.rare().process = Some(sys::identity::token());
    }

    /// Seals the region for the life of the process (mseal(2), since 6.10): it can never be
    /// unmapped, moved, resized or protected otherwise, by anyone in the process. Its bytes are as
    /// changeable as before.
    ///
    /// # Errors
    ///
    /// With the region: ENOSYS before 6.10, ENOMEM if it has holes or the process has
    /// `vm.max_map_count` areas. A part of it may be sealed then.
    pub fn seal(self) -> Result<&'static Self, ConversionError<Self>> {
        let mut this = self;
        match this.seal_in_place() {
            Ok(()) => Ok(Box::leak(Box::new(this))),
            Err(error) => Err(ConversionError::new(this, error)),
        }
    }

    /// mseal(2), for a caller that leaks the region next.
    pub(crate) fn seal_in_place(&mut self) -> Result<()> {
        self.check_present("mseal", &(0..self.len))?;
        if self.len > 0 {
            sys::mm::mseal(self.as_ptr(), self.len).map_err(|errno| {
                // It seals area by area, and can fail after the first.
                self.rare().half_sealed |= errno != Errno::NOSYS;
                Error::kernel("mseal", errno, self.subject(0..self.len))
            })?;
        }
        self.rare().sealed = true;
        Ok(())
    }
}
