//! Pages that a region owned and lost: the kernel unmapped them in a call that then failed, and
//! nothing could be mapped there. Another map may lie there by now. The region takes note of the
//! loss at its next change; until then it asks here.
//!
//! The pages are kept in a list that only grows, of entries that are used again. It has no lock: a
//! child that is forked at any moment finds it consistent.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};

static ANY: AtomicBool = AtomicBool::new(false);
static FIRST: LostRange = LostRange::new();

/// A range. Its `end` is zero while the entry is free, and one while the entry is written.
///
/// # Invariants
///
/// A linked entry is leaked and never freed, so references to it stay valid.
#[derive(Debug)]
struct LostRange {
    start: AtomicUsize,
    end: AtomicUsize,
    next: AtomicPtr<Self>,
}

impl LostRange {
    const fn new() -> Self {
        let (start, end) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { start, end, next: AtomicPtr::new(ptr::null_mut()) }
    }

    fn next(&self) -> Option<&'static Self> {
        // SAFETY: by the invariants of `LostRange`, `next` is null or points to an entry that is
        // never freed.
        unsafe { self.next.load(Ordering::Acquire).as_ref() }
    }

    fn range(&self) -> Option<Range<usize>> {
        let end = self.end.load(Ordering::Acquire);
        (end > 1).then(|| self.start.load(Ordering::Relaxed)..end)
    }

    /// Stores a range if the entry is free.
    fn insert(&self, range: &Range<usize>) -> bool {
        let free = self.end.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok();
        if free {
            self.start.store(range.start, Ordering::Relaxed);
            self.end.store(range.end, Ordering::Release);
        }
        free
    }
}

fn entries() -> impl Iterator<Item = &'static LostRange> {
    std::iter::successors(Some(&FIRST), |entry| entry.next())
}

/// Whether any page of any region was ever lost. One load.
#[inline]
pub(crate) fn any() -> bool {
    ANY.load(Ordering::Relaxed)
}

/// Notes that `range` was lost. For ordinary code.
pub(crate) fn record(range: &Range<usize>) {
    ANY.store(true, Ordering::SeqCst);
    if entries().any(|entry| entry.insert(range)) {
        return;
    }
    let fresh = LostRange::new();
    fresh.insert(range);
    let fresh: *mut LostRange = Box::leak(Box::new(fresh));
    let mut last = &FIRST;
    loop {
        match last.next.compare_exchange(
            ptr::null_mut(),
            fresh,
            Ordering::AcqRel,
            Ordering::Acquire,
        ) {
            Ok(_) => return,
            // SAFETY: by the invariants of `LostRange`, a linked entry is never freed.
            Err(next) => last = unsafe { &*next },
        }
    }
}

/// The lowest lost range that shares an address with `range`.
#[cold]
pub(crate) fn first_in(range: &Range<usize>) -> Option<Range<usize>> {
    let touches = |lost: &Range<usize>| lost.start < range.end && range.start < lost.end;
    entries().filter_map(LostRange::range).filter(touches).min_by_key(|lost| lost.start)
}

/// Removes the lost ranges that lie in `range`, for the region that owns it.
#[cold]
pub(crate) fn take(range: &Range<usize>) -> Vec<Range<usize>> {
    let inside = |lost: &Range<usize>| range.start <= lost.start && lost.end <= range.end;
    let mut taken = Vec::new();
    for entry in entries() {
        if let Some(lost) = entry.range().filter(inside) {
            taken.push(lost);
            entry.end.store(0, Ordering::Release);
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::{first_in, record, take};

    #[test]
    fn a_lost_range_is_found_until_its_region_takes_it() {
        // Addresses that no region has.
        for start in [0x1000, 0x5000, 0x3000] {
            record(&(start..start + 0x1000));
        }
        assert_eq!(first_in(&(0x2000..0x6000)), Some(0x3000..0x4000));
        assert_eq!(first_in(&(0x2000..0x3000)), None);
        let mut taken = take(&(0x2000..0x6000));
        taken.sort_by_key(|range| range.start);
        assert_eq!(taken, [0x3000..0x4000, 0x5000..0x6000]);
        assert_eq!(first_in(&(0x2000..0x6000)), None);
        assert!(take(&(0..0x2000)).into_iter().eq(std::iter::once(0x1000..0x2000)));
    }
}
