//! The protection of a region's pages. The kernel changes it area by area, and can fail after the
//! first; then the region restores it, so it has to know how it was.

use super::{Error, Prot, Region, Result, stack_conflict};
use crate::sys;
use std::ops::{Range, RangeBounds};

impl Region {
    /// Sets the protection of whole pages. Only this process's pages; the object and other maps of
    /// it are not concerned.
    ///
    /// # Errors
    ///
    /// EINVAL if the range is not whole pages, EACCES where the file was not opened for it, ENOMEM
    /// at `vm.max_map_count`, where a range with holes is named, or where pages without access
    /// would get it in the way of a stack; EPERM for sealed memory. The protection is then as it
    /// was, except that of a region made by [`from_raw_parts`](Self::from_raw_parts), which folio
    /// does not know: a part of it may have the new one.
    ///
    /// Source: mprotect(2).
    #[doc(alias = "mprotect")]
    pub fn protect(&mut self, range: impl RangeBounds<usize>, prot: Prot) -> Result<()> {
        let range = self.whole_pages("mprotect", range)?;
        if range.is_empty() {
            return Ok(());
        }
        let before = self.protection_of(&range);
        // The kernel keeps no gap between a stack and pages without access.
        let opens =
            |(_, rights): &(Range<usize>, Option<Prot>)| rights.is_none_or(|old| old.is_empty());
        if !prot.is_empty()
            && before.iter().any(opens)
            && let Some(stack) = sys::stack::conflicts_with_stack(
                &(self.at(range.start) as usize..self.at(range.end) as usize),
            )
        {
            return Err(stack_conflict("mprotect", self.subject(range).with_prot(prot), &stack));
        }
        let failed = match self.set_protection(&range, prot) {
            Ok(()) => {
                self.note_protection(range, Some(prot));
                return Ok(());
            }
            Err(errno) => Error::kernel("mprotect", errno, self.subject(range).with_prot(prot)),
        };
        for (part, old) in before {
            if old.is_none_or(|old| self.set_protection(&part, old).is_err()) {
                self.note_protection(part, None);
            }
        }
        Err(failed)
    }

    fn set_protection(&self, range: &Range<usize>, prot: Prot) -> Result<(), super::Errno> {
        // SAFETY: a region gives out no references, and its caller has it mutably: nothing else
        // uses it now. Accesses through it are checked.
        unsafe { sys::mm::mprotect(self.at(range.start), range.len(), prot.bits()) }
    }

    /// Whether all pages are known to have at least this protection.
    pub(crate) fn surely_has_protection(&self, prot: Prot) -> bool {
        let known =
            |(_, rights): &(_, Option<Prot>)| rights.is_some_and(|rights| rights.contains(prot));
        self.protection_of(&(0..self.len)).iter().all(known)
    }

    /// Takes the caller's word for the protection of pages of which nothing is known.
    pub(crate) fn assume_protection(&mut self, prot: Prot) {
        for (part, rights) in self.protection_of(&(0..self.len)) {
            if rights.is_none() {
                self.note_protection(part, Some(prot));
            }
        }
    }

    /// The protection of each part of `range`, in order.
    pub(super) fn protection_of(&self, range: &Range<usize>) -> Vec<(Range<usize>, Option<Prot>)> {
        let parts = self.rare.as_deref().map_or(&[][..], |rare| &rare.parts);
        let mut all = Vec::with_capacity(1);
        let mut next = range.start;
        for (part, rights) in parts {
            let part = part.start.max(range.start)..part.end.min(range.end);
            if !part.is_empty() {
                if next < part.start {
                    all.push((next..part.start, self.rights));
                }
                next = part.end;
                all.push((part, *rights));
            }
        }
        if next < range.end {
            all.push((next..range.end, self.rights));
        }
        all
    }

    /// Notes the protection of a part.
    pub(super) fn note_protection(&mut self, range: Range<usize>, rights: Option<Prot>) {
        if range == (0..self.len) {
            self.rights = rights;
            if let Some(rare) = self.rare.as_deref_mut() {
                rare.parts.clear();
            }
            return;
        }
        if rights == self.rights && self.rare.as_deref().is_none_or(|rare| rare.parts.is_empty()) {
            return;
        }
        let whole = self.rights;
        let parts = &mut self.rare().parts;
        let mut kept = Vec::with_capacity(parts.len() + 2);
        for (part, other) in parts.drain(..) {
            for rest in [part.start..part.end.min(range.start), part.start.max(range.end)..part.end]
            {
                if !rest.is_empty() {
                    kept.push((rest, other));
                }
            }
        }
        if rights != whole {
            kept.push((range, rights));
        }
        kept.sort_unstable_by_key(|(part, _)| part.start);
        kept.dedup_by(|next, part| {
            let joined = part.0.end == next.0.start && part.1 == next.1;
            if joined {
                part.0.end = next.0.end;
            }
            joined
        });
        *parts = kept;
    }

    /// Forgets the protection of all bytes from `len` on.
    pub(super) fn cut_protection(&mut self, len: usize) {
        if let Some(rare) = self.rare.as_deref_mut() {
            rare.parts.retain_mut(|(part, _)| {
                part.end = part.end.min(len);
                part.start < part.end
            });
        }
    }
}
