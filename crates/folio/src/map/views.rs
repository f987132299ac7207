//! Views and atomics of regions whose pages nobody can take away: regions that handles gave up, and
//! regions joined of them. A ring whose pages are mapped twice, back to back, is one.

use super::shared::Atom;
use crate::access::{View, ViewMut};
use crate::error::{Errno, Error, Result};
use crate::prot::Prot;
use crate::region::{Region, outside};
use crate::{page, sys};
use std::ops::{Range, RangeBounds};

impl Region {
    /// The bytes of a range, for volatile reads.
    ///
    /// The region must be one whose pages stay: it was made of anonymous, sealed or shared memory
    /// (an [`Anon`](crate::Anon), a [`Sealed`](crate::Sealed), a [`SharedMem`](crate::SharedMem),
    /// [`MapOptions::region`](crate::MapOptions::region)), or joined of such. Pages of a file can
    /// go away; read those by [`read_at`](Self::read_at), or guard them with the file map.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the region; EOPNOTSUPP for other memory, and for shared memory
    /// that was resized beyond its object; EACCES if the region is not readable throughout; ENOMEM
    /// for a part that was unmapped, and in a child that does not have the region.
    pub fn view(&self, range: impl RangeBounds<usize>) -> Result<View<'_>> {
        let range = self.steady("view", range, Prot::READ)?;
        // SAFETY: inside the region, mapped readable, and nobody can take the pages away.
        // Unmapping, protecting and resizing take the region whole or mutably, which the view's
        // borrow forbids.
        Ok(unsafe { View::new(self.as_ptr().wrapping_add(range.start), range.len()) })
    }

    /// The bytes of a range, for volatile reads and writes.
    ///
    /// A magic ring buffer: the same pages twice, back to back, so that a message that wraps around
    /// lies in one piece.
    ///
    /// ```
    /// use folio::{MapOptions, Reservation, SharedMem};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let size = folio::PageSize::system().bytes();
    /// let memory = SharedMem::memfd("ring", size)?;
    /// let fd = memory.file().ok_or("a memfd has a descriptor")?;
    /// let place = Reservation::new(2 * size)?;
    /// let half = |at| -> Result<_, Box<dyn std::error::Error>> {
    ///     Ok(MapOptions::new().within(&place, at).shared_from_fd(fd.try_clone_to_owned()?)?.into_region())
    /// };
    /// let mut ring = half(0)?;
    /// ring.merge(half(size)?)?;
    /// let view = ring.view_mut(..)?;
    /// view.copy_from(b"around", size - 3)?; // three bytes at the end, three at the start
    /// assert_eq!(view.get(2), Some(b'd'));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view); EACCES if the region is not writable throughout.
    pub fn view_mut(&self, range: impl RangeBounds<usize>) -> Result<ViewMut<'_>> {
        let range = self.steady("view_mut", range, Prot::READ_WRITE)?;
        // SAFETY: as for `view`, and writable.
        Ok(unsafe { ViewMut::new(self.as_ptr().wrapping_add(range.start), range.len()) })
    }

    /// The atomic at `offset`, shared with everyone who has the memory; see
    /// [`SharedMem::atomic`](crate::SharedMem::atomic).
    ///
    /// # Errors
    ///
    /// As [`view_mut`](Self::view_mut); EINVAL if `offset` is no multiple of the atomic's size.
    pub fn atomic<A: Atom>(&self, offset: usize) -> Result<&A> {
        Ok(&self.atomics::<A>(offset, 1)?[0])
    }

    /// `count` atomics from `offset`.
    ///
    /// # Errors
    ///
    /// As [`atomic`](Self::atomic).
    pub fn atomics<A: Atom>(&self, offset: usize, count: usize) -> Result<&[A]> {
        let bytes = count.checked_mul(size_of::<A>());
        let range = bytes.and_then(|bytes| page::within(offset, bytes, self.len()));
        let Some(range) = range else {
            let subject = self.subject(0..self.len());
            return Err(outside(
                "atomics",
                subject,
                offset,
                bytes.unwrap_or(usize::MAX),
                self.len(),
            ));
        };
        let align = align_of::<A>();
        if !offset.is_multiple_of(align) {
            return Err(Error::rule(
                "atomics",
                self.subject(0..self.len()).with_detail(format!("offset {offset}")),
                format!("an atomic of {align} bytes lies at a multiple of {align}"),
                format!("use {} or {}", offset - offset % align, offset.next_multiple_of(align)),
            ));
        }
        let range = self.steady("atomics", range, Prot::READ_WRITE)?;
        // SAFETY: as for `view_mut`; aligned, since the region starts on a page; any bits are
        // valid, and all that safe code gets of these bytes are atomics, volatile accesses and
        // checked copies.
        Ok(unsafe { std::slice::from_raw_parts(self.as_ptr().add(range.start).cast::<A>(), count) })
    }

    /// The range, if accesses to it cannot fault.
    fn steady(
        &self,
        call: &'static str,
        range: impl RangeBounds<usize>,
        rights: Prot,
    ) -> Result<Range<usize>> {
        let range = self.resolve(call, range)?;
        let has = self.steady_protection();
        let refuse = |errno, rule: &'static str, remedy: &'static str| {
            Err(Error::rule_as(
                errno,
                call,
                self.subject(range.clone()).with_prot(rights),
                rule,
                remedy,
            ))
        };
        match has {
            None => refuse(
                Errno::OPNOTSUPP,
                "pages of the region can go away (a file's can, and those past the end of shared memory), or it is not known \
                 whether they can",
                "use read_at and write_at, whose faults are errors; or make the region of anonymous or shared memory",
            ),
            Some(has) if !has.contains(rights) => refuse(
                Errno::ACCESS,
                "a part of the region has no protection that allows this",
                "protect all of it so that it does",
            ),
            Some(_) => {
                // Copies in and out of a view are checked ones.
                sys::signal::install();
                Ok(range)
            }
        }
    }
}
