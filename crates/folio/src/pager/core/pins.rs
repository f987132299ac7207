//! The pins of one object: disjoint ranges, each with how many pins it has, so that one pin among
//! many costs as little as the first.

use super::int_hash::IntMap;
use super::{PageRun, PinnedRange};
use std::collections::BTreeMap;

/// Pages that the same pins hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    end: u64,
    pins: u32,
    /// Of these, pins for stores.
    stores: u32,
}

#[derive(Debug, Default)]
pub(super) struct Pins {
    /// By first page.
    parts: BTreeMap<u64, Part>,
    /// How often each pin was given.
    given: IntMap<(u64, u64, bool), u32>,
    /// Pages that are pinned once or more.
    pages: u64,
    /// Of these, pages that are pinned for stores.
    held: u64,
}

impl Pins {
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }

    /// Pages that are pinned for stores.
    pub(super) fn held(&self) -> u64 {
        self.held
    }

    /// The parts that overlap a range, in order.
    fn parts_in(&self, first: u64, end: u64) -> impl Iterator<Item = (u64, Part)> {
        let before = self.parts.range(..first).next_back().filter(|(_, part)| part.end > first);
        let inside = self.parts.range(first..end.max(first));
        before
            .into_iter()
            .chain(inside)
            .map(|(&start, &part)| (start, part))
            .filter(move |_| first < end)
    }

    /// Pages of a range that nothing pins.
    pub(super) fn unpinned_in(&self, first: u64, end: u64) -> u64 {
        let pinned = |(start, part): (u64, Part)| part.end.min(end) - start.max(first);
        end.saturating_sub(first) - self.parts_in(first, end).map(pinned).sum::<u64>()
    }

    /// Pages of a range that nothing pins for stores.
    pub(super) fn unheld_in(&self, first: u64, end: u64) -> u64 {
        let held: u64 = self.held_in(first, end).into_iter().map(|(start, end)| end - start).sum();
        end.saturating_sub(first) - held
    }

    /// No part lies across `at` any more.
    fn split(&mut self, at: u64) {
        if let Some((_, part)) = self.parts.range_mut(..at).next_back()
            && part.end > at
        {
            let right = *part;
            part.end = at;
            self.parts.insert(at, right);
        }
    }

    /// Makes one part of those that meet at `at`, if the same number of pins hold them.
    fn join(&mut self, at: u64) {
        let Some(&right) = self.parts.get(&at) else { return };
        let Some((_, left)) = self.parts.range_mut(..at).next_back() else { return };
        if left.end == at && (left.pins, left.stores) == (right.pins, right.stores) {
            left.end = right.end;
            self.parts.remove(&at);
        }
    }

    pub(super) fn add(&mut self, pin: PinnedRange) {
        let PinnedRange { first, end, stores } = pin;
        *self.given.entry((first, end, stores)).or_default() += 1;
        if first >= end {
            return;
        }
        self.pages += self.unpinned_in(first, end);
        if stores {
            self.held += self.unheld_in(first, end);
        }
        self.split(first);
        self.split(end);
        let mut at = first;
        while at < end {
            match self.parts.range_mut(at..end).next() {
                Some((&start, part)) if start == at => {
                    part.pins += 1;
                    part.stores += u32::from(stores);
                    at = part.end;
                }
                next => {
                    let end = next.map_or(end, |(&start, _)| start);
                    self.parts.insert(at, Part { end, pins: 1, stores: u32::from(stores) });
                    at = end;
                }
            }
        }
        self.join(first);
        self.join(end);
    }

    /// Takes a pin away, if it was given. Whether it was.
    pub(super) fn remove(&mut self, pin: PinnedRange) -> bool {
        let PinnedRange { first, end, stores } = pin;
        let Some(given) = self.given.get_mut(&(first, end, stores)) else { return false };
        *given -= 1;
        if *given == 0 {
            self.given.remove(&(first, end, stores));
        }
        if first >= end {
            return true;
        }
        self.split(first);
        self.split(end);
        let mut at = first;
        while let Some((&start, part)) = self.parts.range_mut(at..end).next() {
            at = part.end;
            part.pins -= 1;
            part.stores -= u32::from(stores);
            if stores && part.stores == 0 {
                self.held -= at - start;
            }
            if part.pins == 0 {
                self.pages -= at - start;
                self.parts.remove(&start);
            }
        }
        self.join(first);
        self.join(end);
        true
    }

    /// Whether pages of a run are pinned.
    pub(super) fn overlap(&self, run: PageRun) -> bool {
        self.parts_in(run.first, run.end()).next().is_some()
    }

    /// Whether pages of a run are pinned for stores.
    pub(super) fn hold(&self, run: PageRun) -> bool {
        self.parts_in(run.first, run.end()).any(|(_, part)| part.stores > 0)
    }

    /// The ranges within a range that are pinned for stores.
    pub(super) fn held_in(&self, first: u64, end: u64) -> Vec<(u64, u64)> {
        let held = self.parts_in(first, end).filter(|(_, part)| part.stores > 0);
        held.map(|(start, part)| (start.max(first), part.end.min(end))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::Pins;
    use crate::pager::core::{PageRun, PinnedRange};
    use std::time::{Duration, Instant};

    #[test]
    fn pins_that_overlap_count_each_page_once() {
        let mut pins = Pins::default();
        let (a, b) = (
            PinnedRange { first: 0, end: 10, stores: false },
            PinnedRange { first: 5, end: 20, stores: true },
        );
        pins.add(a);
        assert_eq!(pins.unpinned_in(5, 20), 10);
        pins.add(b);
        pins.add(b);
        assert_eq!(pins.pages(), 20);
        assert!(
            !pins.hold(PageRun { first: 0, len: 5 }) && pins.hold(PageRun { first: 0, len: 6 })
        );
        assert_eq!(pins.held_in(0, 100), [(5, 10), (10, 20)]);
        assert!(pins.remove(b) && pins.overlap(PageRun::one(19)));
        assert!(pins.remove(b) && !pins.remove(b));
        assert!(!pins.overlap(PageRun::one(10)) && pins.overlap(PageRun::one(9)));
        assert!(pins.remove(a) && pins.parts.is_empty() && pins.given.is_empty());
        assert_eq!(pins.pages(), 0);
    }

    #[test]
    fn any_pins_agree_with_a_count_for_each_page() {
        let (mut pins, mut given, mut n) = (Pins::default(), Vec::new(), 1_u64);
        let mut below = |most: u64| {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (n >> 33) % most
        };
        for _ in 0..5_000 {
            if given.len() > 20 || (!given.is_empty() && below(2) == 0) {
                let pin = given.swap_remove(below(given.len() as u64) as usize);
                assert!(pins.remove(pin));
            } else {
                let first = below(100);
                let pin = PinnedRange { first, end: first + below(20), stores: below(2) == 0 };
                pins.add(pin);
                given.push(pin);
            }
            let on = |page: u64| given.iter().filter(move |pin| pin.overlaps(PageRun::one(page)));
            assert_eq!(pins.pages(), (0..120).filter(|&page| on(page).count() > 0).count() as u64);
            for page in 0..120 {
                assert_eq!(pins.overlap(PageRun::one(page)), on(page).count() > 0, "{page}");
                assert_eq!(pins.hold(PageRun::one(page)), on(page).any(|pin| pin.stores), "{page}");
            }
            let held = (0..120).filter(|&page| on(page).any(|pin| pin.stores)).count() as u64;
            assert_eq!(pins.held(), held);
        }
    }

    /// Counted for each page, or looked through pin by pin, these would take minutes.
    #[test]
    fn a_hundred_thousand_pins_cost_no_more_each_than_a_few() {
        let (mut pins, began) = (Pins::default(), Instant::now());
        let pin =
            |n: u64| PinnedRange { first: 3 * n, end: 3 * n + 2, stores: n.is_multiple_of(2) };
        (0..100_000).for_each(|n| pins.add(pin(n)));
        assert!(
            (0..100_000).all(
                |n| pins.overlap(PageRun::one(3 * n)) && !pins.overlap(PageRun::one(3 * n + 2))
            )
        );
        assert!((0..100_000).rev().all(|n| pins.remove(pin(n))));
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    }
}
