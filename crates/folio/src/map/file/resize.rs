//! A file map of another length.

use super::{FileAccess, FileMapMut, MappedFile, present_length};
use crate::advice::Discard;
use crate::error::{ConversionError, Errno, Error, Result};
use crate::map::file_object;
use crate::map::mapping::Mapping;
use crate::map::options::MapOptions;
use crate::page::PageSize;
use crate::region::{Placement, Resize};
use std::ops::{Range, RangeBounds};

impl FileMapMut {
    /// Makes the *file* longer, and shows it: `length` bytes from the map's offset. First the file
    /// gets its new length (or keeps its own, if that is greater), then its space, if the map was
    /// made with [`MapOptions::preallocate`], as [`create`](Self::create) makes it; last the map
    /// grows, as by [`resize`](Self::resize). New bytes of the file are zeros.
    ///
    /// Bytes that another process appends meanwhile stay. Only a file system without fallocate(2)
    /// has no such call: there they are cut off, if they come between the look at the length and
    /// the change of it.
    ///
    /// If the space or the map cannot be had, the file is cut to its old length again, unless
    /// another process has given it yet another one meanwhile. Bytes that others wrote to the new
    /// part in that time go with it.
    ///
    /// # Errors
    ///
    /// EINVAL for fewer bytes than the map has; EBADF if it keeps no descriptor; EFBIG beyond the
    /// longest file (RLIMIT_FSIZE); EPERM for a file sealed against growing; ENOSPC; those of
    /// [`resize`](Self::resize). Map and file are as before then.
    ///
    /// Source: ftruncate(2), fallocate(2), mremap(2).
    pub fn grow(&mut self, length: usize) -> Result<()> {
        if length < self.len() {
            return Err(Error::rule(
                "grow",
                self.mapping.region.subject(0..self.mapping.region.len()).with_length(length),
                format!("the map has {} bytes already", self.len()),
                "use resize to show less of the file",
            ));
        }
        let fd = file_object::kept(&self.keep, "grow", &self.mapping.region)?;
        let old = present_length(fd)?;
        let new = self.offset().saturating_add(length as u64);
        if new > old {
            file_object::lengthen(fd, new)?;
        }
        let reserves = self.made.as_deref().is_some_and(MapOptions::reserves);
        let more = self.offset().saturating_add(self.len() as u64)..new;
        let grown = if reserves { file_object::fill_holes(fd, more) } else { Ok(()) };
        let result = grown.and_then(|()| self.resize(length));
        if result.is_err() && new > old {
            let fd = file_object::kept(&self.keep, "grow", &self.mapping.region)?;
            if present_length(fd).is_ok_and(|now| now == new) {
                file_object::set_length(fd, old)?;
            }
        }
        result
    }

    /// Gives pages of the file back: a hole in the file, zeros for everyone (MADV_REMOVE). The
    /// range must consist of whole pages of the map. A page that the map shows only a part of may
    /// hold other bytes of the file: of that one, the shown bytes are zeroed, and the page stays.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not whole pages, EOPNOTSUPP on file systems without holes.
    pub fn punch(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let Mapping { region, lead, len, .. } = &self.mapping;
        let Range { start, end } = self.mapping.shift("madvise", range)?;
        let page = region.page_size();
        // Whole pages, but for those that the map's ends cut.
        let whole = |at, cut| page.divides(at) || at == cut;
        let (mut first, mut last) = (start, end);
        if whole(start, *lead) && whole(end, lead + len) {
            first = page.ceil(start).unwrap_or(end).min(end);
            last = page.floor(end).max(first);
        }
        let parts = [start - lead..first - lead, last - lead..end - lead];
        if first < last {
            self.mapping.region.discard(first..last, Discard::Remove)?;
        }
        for part in parts {
            self.write_at_as("punch", &vec![0; part.len()], part.start)?;
        }
        Ok(())
    }
}

impl<A: FileAccess> MappedFile<A> {
    /// Shows `length` bytes from the map's offset, more or fewer than now. The map may move; the
    /// file does not change. In a [`Reservation`](crate::Reservation) the map keeps its place, and
    /// grows into the part behind it, if that is free: the new pages come as the map was made.
    ///
    /// A map that is cut to no bytes stays what it was made and set to be: it keeps its first page
    /// (all of them in a reservation, or if they are huge), to grow from.
    ///
    /// # Errors
    ///
    /// Those of [`Region::resize`](crate::Region::resize); for a map that was made without bytes,
    /// those of [`MapOptions::map`], and EBADF if it keeps no descriptor. In a reservation: EEXIST
    /// if something lies behind the map, ENOMEM where the reservation ends, EBADF if the map keeps
    /// no descriptor. The map is unchanged then.
    #[doc(alias = "mremap")]
    pub fn resize(&mut self, length: usize) -> Result<()> {
        let page = self.page_size();
        if self.mapping.region.is_empty() {
            if length == 0 {
                return Ok(());
            }
            let fd = file_object::kept(&self.keep, "resize", &self.mapping.region)?;
            let options = self.made.as_deref().cloned().unwrap_or_default();
            let mut fresh: Self = options.offset(self.start).len(length).map_file(fd)?;
            self.mapping.hand_settings_to(&mut fresh.mapping.region)?;
            fresh.mapping.settle();
            (self.mapping, self.start, self.made) = (fresh.mapping, fresh.start, fresh.made);
            return Ok(());
        }
        if length == 0 {
            // Neither kind of region could grow back.
            let fixed = page > PageSize::system() || self.mapping.region.behind()?.is_some();
            if !fixed && self.mapping.region.len() > page.bytes() {
                self.mapping.region.resize(page.bytes(), Resize::MayMove)?;
            }
            return self.mapping.show(0);
        }
        let Some(whole) = length.checked_add(self.mapping.lead) else {
            return Err(Error::rule_as(
                Errno::OVERFLOW,
                "mremap",
                self.mapping.region.subject(0..0).with_length(length),
                "offset and length pass the end of what can be counted",
                "ask for less",
            ));
        };
        if page.ceil(whole) != Some(self.mapping.region.len()) {
            match self.mapping.region.behind()? {
                Some(place) => self.resize_in_place(whole, place)?,
                None => self.mapping.region.resize(whole, Resize::MayMove)?,
            }
        }
        self.mapping.show(length)
    }

    /// Makes the region of a map in a reservation `whole` bytes long, rounded up to pages: the
    /// kernel would not let it grow over the addresses that are reserved for it.
    pub(super) fn resize_in_place(&mut self, whole: usize, place: Placement) -> Result<()> {
        let region = &mut self.mapping.region;
        let Some(new) = region.page_size().ceil(whole) else {
            return region.resize(whole, Resize::InPlace);
        };
        if new < region.len() {
            return match region.split_off(new)?.unmap() {
                Ok(()) => Ok(()),
                Err(ConversionError { map: rest, error }) => {
                    region.merge(rest)?;
                    Err(error)
                }
            };
        }
        let fd = file_object::kept(&self.keep, "resize", region)?;
        let options = self.made.as_deref().cloned().unwrap_or_default();
        let more = self.start + region.len() as u64..self.start + new as u64;
        let next = options.more_file::<A>(fd, more, region.page_size(), place)?;
        region.append(next)
    }

    /// Shows the file as long as it is now, from the map's offset on. Returns the new length.
    ///
    /// # Errors
    ///
    /// EBADF if the map keeps no descriptor; those of [`resize`](Self::resize).
    pub fn resize_to_file(&mut self) -> Result<usize> {
        let fd = file_object::kept(&self.keep, "resize", &self.mapping.region)?;
        let length = present_length(fd)?.saturating_sub(self.offset());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.resize(length)?;
        Ok(length)
    }
}
