//! An owned address range: the base of every handle. It gives the range back when it is dropped.
//!
//! | file | subject |
//! | --- | --- |
//! | `mod.rs` | making, owning, giving back |
//! | [`protection`] | the protection of its pages, and how it is restored |
//! | [`remap`] | what changes the range itself: unmap, split, merge, protect, resize, relocate, seal |
//! | [`advise`] | what leaves bytes and range alone: write-back, advice, locking, populating, naming |
//! | [`access`] | checked copies in and out |
//! | [`reservation`] | address space without memory, to place regions in |

mod access;
mod advise;
mod protection;
mod remap;
pub(crate) mod reservation;

pub(crate) use access::{Origin, outside};
pub use advise::{Populate, WriteBack};
pub use remap::Resize;
pub use reservation::Reservation;

use crate::error::{ConversionError, Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::{self, PageSize};
use crate::prot::Prot;
use crate::sys;
use std::fmt;
use std::ops::{Range, RangeBounds};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// A forked child's part of a map.
///
/// Source: fork(2), madvise(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Fork {
    /// The same map: shared if it is shared, copied on write if it is private. In the child,
    /// dropping the handle unmaps the child's map only.
    #[default]
    Inherit,
    /// Nothing (MADV_DONTFORK). In the child, the handle's checked accesses and calls are errors,
    /// dropping it does nothing, and its slices must not be touched: the addresses may be
    /// anything's.
    Absent,
    /// The same addresses, zero-filled (MADV_WIPEONFORK; private anonymous memory only).
    Wiped,
}

/// An owned range of addresses, with whatever is mapped there: memory of any kind, with any
/// protection.
///
/// A `Region` never gives out references to its bytes. The handles ([`Anon`](crate::Anon),
/// [`FileMap`](crate::FileMap) …) do, as far as their kind of memory allows, and each can be turned
/// into the region that it stands on. A region offers checked copies, which are safe whatever the
/// protection is, and a pointer.
///
/// Ranges are in bytes from [`as_ptr`](Self::as_ptr). Calls that cannot harm neighbouring bytes
/// round a range outwards to whole pages, within the region; calls that could (unmapping,
/// protecting, discarding) take whole pages only, and their error names the nearest ones.
///
/// Dropping it unmaps it; [`unmap`](Self::unmap) does the same and says if that failed.
///
/// **Fork:** a child inherits the region, shared or copied on write as its memory is, and dropping
/// it there unmaps the child's map only; locks are not inherited. [`set_fork`](Self::set_fork)
/// keeps it from children or wipes it there; in a child that does not have it, calls are errors and
/// dropping it does nothing.
pub struct Region {
    base: NonNull<u8>,
    /// Bytes: a multiple of the page size.
    len: usize,
    page: PageSize,
    /// The protection of its pages, if it is known.
    rights: Option<Prot>,
    /// State that few regions have.
    rare: Option<Box<RareState>>,
}

#[derive(Debug, Default)]
struct RareState {
    /// Parts that were unmapped, ordered, apart from each other, in bytes from the base. Another
    /// map may lie there.
    holes: Vec<Range<usize>>,
    /// The reservation that the region lies in, and that gets its addresses back.
    home: Option<Arc<reservation::Space>>,
    /// For [`Fork::Absent`]: the process that has it.
    process: Option<u64>,
    /// [`Fork::Wiped`] was set on it.
    wiped: bool,
    /// mseal(2) was called on it.
    sealed: bool,
    /// mseal(2) was called on it and failed: a part may be sealed.
    half_sealed: bool,
    /// Parts with another protection than the rest, ordered, apart from each other.
    parts: Vec<(Range<usize>, Option<Prot>)>,
    /// Nobody can take its pages away: it can have views and atomics.
    steady: Option<Steady>,
}

/// Memory whose pages nobody can take away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Steady {
    /// Whether it is private: then it has as many pages as the region, however that is resized.
    private: bool,
}

// SAFETY: a region is a range of addresses and the right to unmap it; neither is tied to a thread,
// and the calls that take `&self` change only state that the kernel itself synchronizes.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// Where a new region is to lie.
#[derive(Debug, Clone, Default)]
pub(crate) enum Placement {
    #[default]
    Anywhere,
    /// Near this address, if that is free.
    Hint(usize),
    /// At this address, or not at all.
    At(usize),
    /// In a reservation, so many bytes from its start.
    Within(Arc<reservation::Space>, usize),
}

/// A request to map, ready for the kernel.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) len: usize,
    pub(crate) page: PageSize,
    pub(crate) prot: Prot,
    pub(crate) flags: MapFlags,
    pub(crate) fd: Option<BorrowedFd<'a>>,
    pub(crate) offset: u64,
    pub(crate) place: Placement,
}

impl Request<'_> {
    fn subject(&self, address: Option<usize>) -> Subject {
        let object = self.fd.map_or_else(Subject::anonymous, Subject::file);
        let mut subject = object
            .with_range(self.offset, self.len)
            .with_prot(self.prot)
            .with_flags(self.flags)
            .with_page(self.page);
        if self.fd.is_none() {
            subject.offset = None;
        }
        subject.address = address;
        subject
    }

    /// # Safety
    ///
    /// With FIXED in `flags`, the range at `address` is the caller's to replace.
    unsafe fn call(&self, address: usize, flags: MapFlags) -> Result<NonNull<u8>, Errno> {
        let fd = self.fd.map_or(-1, |fd| fd.as_raw_fd());
        let (prot, flags) = (self.prot.bits(), (self.flags | flags).bits());
        // SAFETY: as the caller promised.
        let start = unsafe {
            sys::mm::mmap(address as *mut u8, self.len, prot, flags, fd, self.offset.cast_signed())
        }?;
        NonNull::new(start).ok_or(Errno::NOMEM)
    }

    fn range(&self, base: NonNull<u8>) -> Range<usize> {
        let start = base.as_ptr() as usize;
        start..start.saturating_add(self.len)
    }

    /// Maps it at a claimed address of a reservation. On an error the claim is given back.
    ///
    /// It is mapped elsewhere first, and moved: nearly all that the kernel can say against it it
    /// says while the place still reserves.
    fn place_within(
        &self,
        space: &reservation::Space,
        address: usize,
    ) -> Result<NonNull<u8>, Errno> {
        // SAFETY: no FIXED, so nothing is replaced.
        match unsafe { self.call(0, MapFlags::empty()) } {
            Ok(elsewhere) => {
                let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
                let (from, to) = (elsewhere.as_ptr(), address as *mut u8);
                // SAFETY: the claim made the target ours alone, and nobody knows the new map yet.
                if let Ok(base) = unsafe { sys::mm::mremap(from, self.len, self.len, flags, to) } {
                    return NonNull::new(base).ok_or(Errno::NOMEM);
                }
                // SAFETY: made just now, and seen by nobody.
                let _ = unsafe { sys::mm::munmap(from, self.len) };
                // It may have unmapped the target.
                if !space.plug(address, self.len) {
                    return Err(Errno::NOMEM);
                }
            }
            // The limit has no addresses for both, and needs none: the place has its own.
            Err(Errno::NOMEM) if sys::process::passes_address_limit(self.len) => {}
            Err(errno) => {
                space.give_back(address, self.len);
                return Err(errno);
            }
        }
        // Before 5.16 huge pages do not move.
        // SAFETY: the claim made this part of the reservation ours alone.
        unsafe { self.call(address, MapFlags::FIXED) }.inspect_err(|_| {
            // FIXED may have unmapped the place before it failed.
            space.restore(address, self.len);
        })
    }
}

impl Region {
    /// The region of a request that the kernel mapped at `base`.
    fn made(base: NonNull<u8>, request: &Request<'_>) -> Self {
        Self { base, len: request.len, page: request.page, rights: Some(request.prot), rare: None }
    }

    /// A region of no bytes: the map of an empty file.
    pub(crate) fn empty(page: PageSize) -> Self {
        let aligned =
            std::num::NonZero::new(page.bytes()).unwrap_or(std::num::NonZero::<usize>::MIN);
        Self { base: NonNull::without_provenance(aligned), len: 0, page, rights: None, rare: None }
    }

    pub(crate) fn create(request: &Request<'_>) -> Result<Self> {
        let refused = |errno, address| Err(Error::kernel("mmap", errno, request.subject(address)));
        if matches!(request.place, Placement::At(0)) {
            // The kernel gives it to the privileged; but nothing in Rust lies at null, nor can a
            // region.
            return Err(Error::rule_as(
                Errno::PERM,
                "mmap",
                request.subject(Some(0)),
                "nothing may lie at address zero, so that null pointers fault",
                "choose another address",
            ));
        }
        let base = match &request.place {
            Placement::Anywhere | Placement::Hint(_) => {
                let hint = if let Placement::Hint(address) = request.place { address } else { 0 };
                // SAFETY: no FIXED, so nothing is replaced.
                let anywhere = |hint| unsafe { request.call(hint, MapFlags::empty()) };
                let mut base = anywhere(hint);
                if hint != 0
                    && let Ok(near) = base
                    && sys::stack::conflicts_with_stack(&request.range(near)).is_some()
                {
                    drop(Self::made(near, request));
                    base = anywhere(0);
                }
                match base {
                    Ok(base) => base,
                    Err(errno) => return refused(errno, None),
                }
            }
            &Placement::At(address) => {
                let refused = |errno| {
                    let flags = request.flags | MapFlags::FIXED_NOREPLACE;
                    Err(Error::kernel(
                        "mmap",
                        errno,
                        request.subject(Some(address)).with_flags(flags),
                    ))
                };
                // SHARED_VALIDATE refuses NOREPLACE as a flag it does not know (tried: 6.18);
                // without it the address is a hint, which is taken where the place is free.
                let validate = request.flags.contains(MapFlags::SHARED_VALIDATE);
                let exactly = if validate { MapFlags::empty() } else { MapFlags::FIXED_NOREPLACE };
                // SAFETY: neither NOREPLACE nor a hint replaces anything.
                let base = match unsafe { request.call(address, exactly) } {
                    Ok(base) => base,
                    Err(errno) => return refused(errno),
                };
                if base.as_ptr() as usize != address {
                    drop(Self::made(base, request));
                    return refused(if request.page.divides(address) {
                        Errno::EXIST
                    } else {
                        Errno::INVAL
                    });
                }
                // Only now, since the stack may grow as long as nothing lies below it.
                if let Some(stack) = sys::stack::chosen_conflicts_with_stack(&request.range(base)) {
                    drop(Self::made(base, request));
                    return Err(stack_conflict("mmap", request.subject(Some(address)), &stack));
                }
                base
            }
            Placement::Within(space, offset) => {
                let address = space.claim(*offset, request.len)?;
                match request.place_within(space, address) {
                    Ok(base) => base,
                    Err(errno) => return refused(errno, Some(address)),
                }
            }
        };
        let mut region = Self::made(base, request);
        if let Placement::Within(space, _) = &request.place {
            region.rare().home = Some(Arc::clone(space));
        }
        Ok(region)
    }

    /// Takes over a range that was mapped by other means, such as [`raw::mmap`](crate::raw::mmap).
    /// `page` is the size of its pages.
    ///
    /// # Errors
    ///
    /// EINVAL if address or length are no multiples of `page`, or one is zero.
    ///
    /// # Safety
    ///
    /// The whole range is mapped with pages of that size, belongs to nobody else, and no reference
    /// to its bytes is in use.
    pub unsafe fn from_raw_parts(address: *mut u8, length: usize, page: PageSize) -> Result<Self> {
        match NonNull::new(address) {
            Some(base) if length > 0 && page.divides(address as usize) && page.divides(length) => {
                Ok(Self { base, len: length, page, rights: None, rare: None })
            }
            _ => Err(Error::rule(
                "from_raw_parts",
                Subject::default().with_address(address as usize).with_length(length),
                format!(
                    "address and length must be multiples of the page size ({page}), and not zero"
                ),
                "pass the range as it was mapped, in whole pages",
            )),
        }
    }

    /// Gives the range out of folio's hands: nobody unmaps it any more.
    ///
    /// # Errors
    ///
    /// EINVAL, with the region, if parts of it were unmapped or it lies in a [`Reservation`]: then
    /// it is no single range of its own.
    pub fn into_raw_parts(mut self) -> Result<(*mut u8, usize), ConversionError<Self>> {
        self.adopt_lost_pages();
        if let Some(RareState { holes, home, .. }) = self.rare.as_deref()
            && (!holes.is_empty() || home.is_some())
        {
            let error = Error::rule(
                "into_raw_parts",
                self.subject(0..self.len),
                "the region has holes, or lies in a reservation that will unmap it",
                "split it at its holes; map it outside a reservation",
            );
            return Err(ConversionError::new(self, error));
        }
        let mut this = std::mem::ManuallyDrop::new(self);
        drop(this.rare.take());
        Ok((this.base.as_ptr(), this.len))
    }

    /// The first byte. Valid for the accesses that the protection allows, until the region is
    /// changed or dropped; for nothing if it is empty.
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Bytes from the first to the last, unmapped parts included: a multiple of
    /// [`page_size`](Self::page_size).
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no bytes: the map of an empty file.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The size of its pages: the machine's, or that of the huge pages it was made with.
    pub fn page_size(&self) -> PageSize {
        self.page
    }

    /// The parts that are mapped, in order: one, unless some were unmapped.
    pub fn mapped(&self) -> impl Iterator<Item = Range<usize>> {
        let holes = self.rare.as_deref().map_or(&[][..], |rare| &rare.holes);
        let starts = std::iter::once(0).chain(holes.iter().map(|hole| hole.end));
        let ends = holes.iter().map(|hole| hole.start).chain(std::iter::once(self.len));
        starts.zip(ends).map(|(start, end)| start..end).filter(|part| !part.is_empty())
    }

    /// Whether [`seal`](Self::seal) was called on it.
    pub fn is_sealed(&self) -> bool {
        self.rare.as_deref().is_some_and(|rare| rare.sealed)
    }

    /// Whether a part of it may be sealed: the kernel may refuse to replace, move or unmap it.
    pub(crate) fn may_be_sealed(&self) -> bool {
        self.rare.as_deref().is_some_and(|rare| rare.sealed || rare.half_sealed)
    }

    /// The children's part of it. A region without bytes answers its last setting.
    pub(crate) fn fork(&self) -> Fork {
        match self.rare.as_deref() {
            Some(RareState { process: Some(_), .. }) => Fork::Absent,
            Some(RareState { wiped: true, .. }) => Fork::Wiped,
            _ => Fork::Inherit,
        }
    }

    /// Records that nobody can take the pages away.
    pub(crate) fn with_steady_pages(mut self, private: bool) -> Self {
        if self.len > 0 {
            self.rare().steady = Some(Steady { private });
        }
        self
    }

    /// Records that pages can be missing from now on.
    fn pages_may_go(&mut self) {
        if let Some(rare) = self.rare.as_deref_mut() {
            rare.steady = None;
        }
    }

    /// The protection that all pages are known to have, if nobody can take them away.
    pub(crate) fn steady_protection(&self) -> Option<Prot> {
        self.rare.as_deref()?.steady?;
        let rights = self.protection_of(&(0..self.len));
        let known = rights.into_iter().map(|(_, rights)| rights.unwrap_or(Prot::NONE));
        Some(known.fold(Prot::all(), |all, rights| all & rights))
    }

    fn rare(&mut self) -> &mut RareState {
        self.rare.get_or_insert_default()
    }

    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.base.as_ptr() as usize;
        start..start + self.len
    }

    fn at(&self, offset: usize) -> *mut u8 {
        self.base.as_ptr().wrapping_add(offset)
    }

    pub(crate) fn subject(&self, range: Range<usize>) -> Subject {
        if self.is_empty() {
            // Its address is nobody's.
            return Subject::named("an empty map").with_length(range.len());
        }
        let mut subject = Subject::mapped_at(self.at(range.start.min(self.len)) as usize)
            .with_length(range.len())
            .with_page(self.page);
        subject.detail =
            Some(format!("bytes {}..{} of the map's {}", range.start, range.end, self.len));
        subject
    }

    /// The bytes that `range` means, if they lie inside, are mapped, and this process has them.
    pub(crate) fn resolve(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
    ) -> Result<Range<usize>> {
        let wanted = (range.start_bound().cloned(), range.end_bound().cloned());
        let Some(range) = page::resolve(range, self.len) else {
            return Err(Error::rule(
                call,
                self.subject(0..self.len).with_detail(format!(
                    "{} of {} bytes",
                    page::written(&wanted),
                    self.len
                )),
                "the range must lie inside the map, and start before it ends",
                format!("keep to 0..{}", self.len),
            ));
        };
        self.check_present(call, &range)?;
        Ok(range)
    }

    /// Whether all of it is mapped, in every process that has it: then no range of it needs a look
    /// at the rest.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.rare.as_deref().is_none_or(|rare| rare.holes.is_empty() && rare.process.is_none())
    }

    /// Whether every byte of `range` is mapped, in this process. The common case is one comparison.
    #[inline]
    pub(crate) fn check_present(&self, call: &'static str, range: &Range<usize>) -> Result<()> {
        match &self.rare {
            Some(rare) if !self.is_plain() => self.check_rare(rare, call, range)?,
            _ => {}
        }
        if sys::lost_pages::any() { self.check_lost(call, range) } else { Ok(()) }
    }

    /// Pages that were lost, and that the region has not taken note of yet.
    #[cold]
    fn check_lost(&self, call: &'static str, range: &Range<usize>) -> Result<()> {
        let start = self.addresses().start;
        let Some(lost) = sys::lost_pages::first_in(&(start + range.start..start + range.end))
        else {
            return Ok(());
        };
        let (first, end) = (lost.start.saturating_sub(start), lost.end - start);
        Err(Error::rule_as(
            Errno::NOMEM,
            call,
            self.subject(range.clone()),
            format!("bytes {first}..{end} were lost when the kernel had no memory to end a guard"),
            "drop the map, and make it anew",
        ))
    }

    #[cold]
    fn check_rare(&self, rare: &RareState, call: &'static str, range: &Range<usize>) -> Result<()> {
        // No bytes lie in no hole.
        let touches = |hole: &&Range<usize>| {
            !range.is_empty() && hole.start < range.end && range.start < hole.end
        };
        if let Some(hole) = rare.holes.iter().find(touches) {
            let (start, end) = (hole.start, hole.end);
            return Err(Error::rule_as(
                Errno::NOMEM,
                call,
                self.subject(range.clone()),
                format!("bytes {start}..{end} of the map were unmapped"),
                "keep to the parts that `mapped` lists",
            ));
        }
        if rare.process.is_some_and(|process| process != sys::identity::token()) {
            return Err(Error::rule_as(
                Errno::NOMEM,
                call,
                self.subject(range.clone()),
                "the map was made with Fork::Absent in another process, and this child does not have it",
                "make the child's own map, or make it with Fork::Inherit",
            ));
        }
        Ok(())
    }

    /// All pages that hold a byte of `range`.
    fn pages_around(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
    ) -> Result<Range<usize>> {
        let range = self.resolve(call, range)?;
        Ok(self.page.outward(range, self.len))
    }

    /// `range`, which must consist of whole pages.
    fn whole_pages(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
    ) -> Result<Range<usize>> {
        let range = self.resolve(call, range)?;
        self.page.exact(range.clone(), self.len).map_err(|near| {
            let (page, outer, inner) = (near.page, near.outer, near.inner);
            Error::rule(
                call,
                self.subject(range),
                format!("the range must consist of whole pages of {page}"),
                if inner.is_empty() {
                    format!("the nearest is {}..{}", outer.start, outer.end)
                } else {
                    let (outer, inner) = (outer.start..outer.end, inner.start..inner.end);
                    format!("the nearest are {outer:?} (outside) and {inner:?} (inside)")
                },
            )
        })
    }

    /// Gives a mapped part back: to the reservation it lies in, else to the kernel.
    fn release(&self, part: Range<usize>) -> Result<(), Errno> {
        let (start, len) = (self.at(part.start), part.len());
        match self.rare.as_deref().and_then(|rare| rare.home.as_ref()) {
            Some(home) => home.reclaim(start, len),
            // SAFETY: the region owns the range, which is mapped, and the caller ends its use.
            None => unsafe { sys::mm::munmap(start, len) },
        }
    }

    /// Unmaps all that is mapped. On an error the part that failed, and those after it, are still
    /// there.
    fn release_all(&mut self) -> Result<(), Errno> {
        self.adopt_lost_pages();
        let process = self.rare.as_deref().and_then(|rare| rare.process);
        if process.is_none_or(|process| process == sys::identity::token()) {
            for part in self.mapped().collect::<Vec<_>>() {
                self.release(part.clone())?;
                self.add_hole(part);
            }
        }
        self.len = 0;
        Ok(())
    }
}

/// The error for a map that would lie where a stack grows.
#[cold]
fn stack_conflict(
    call: &'static str,
    subject: Subject,
    stack: &sys::stack::StackConflict,
) -> Error {
    let Range { start, end } = stack.range;
    Error::rule_as(
        Errno::NOMEM,
        call,
        subject,
        format!(
            "the addresses {start:#x}..{end:#x} are a stack's, to grow into, with the gap below it"
        ),
        format!("end at or below {start:#x}, or let the kernel choose the address"),
    )
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.addresses();
        let mut this = f.debug_struct("Region");
        this.field("addresses", &format_args!("{start:#x}..{end:#x}")).field("page", &self.page);
        if let Some(rare) = &self.rare {
            this.field("holes", &rare.holes).field("sealed", &rare.sealed);
        }
        this.finish_non_exhaustive()
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        self.adopt_lost_pages();
        if self.rare.is_none() {
            // SAFETY: the region owns the range, and its handle's borrows have ended.
            unsafe { sys::mm::release(self.base.as_ptr(), self.len) };
        } else if self.release_all().is_err() {
            for part in self.mapped() {
                // SAFETY: the region owns its mapped parts, and its handle's borrows have ended.
                unsafe { sys::mm::drop_pages(self.at(part.start), part.len()) };
            }
        }
    }
}
