//! Prefetches: hints about pages that will be wanted. Nothing waits for them, and nothing waits
//! because of them.
//!
//! All that is asked for of an object is at most as much as may be pinned: more would push itself
//! out again. Few pages are under way at once, so that a fault or a pin never waits behind many,
//! and none is read while a fault or a pin lacks memory.

use super::jobs::WantedPages;
use super::{Core, ObjectId};
use std::collections::VecDeque;

/// Pages under way at once for the prefetches of an object: 8 MiB of 4 KiB pages.
const READS: u64 = 2048;
/// Pages that are asked for before the driver looks for faults: 4 MiB of 4 KiB pages.
pub(super) const TURN: u64 = 1024;

/// The pages of an object that are still to be prefetched.
#[derive(Debug, Default)]
pub(super) struct Prefetch {
    wants: VecDeque<WantedPages>,
    pages: u64,
}

impl Core {
    pub(super) fn prefetch(&mut self, object: ObjectId, runs: Vec<(u64, u64)>) {
        let Some(this) = self.objects.get(&object).filter(|object| !object.leaving) else { return };
        let (pages, most) = (this.pages, self.pinnable());
        let prefetch = self.prefetches.entry(object).or_default();
        for (first, end) in runs {
            let len = end.min(pages).saturating_sub(first).min(most.saturating_sub(prefetch.pages));
            if len > 0 {
                prefetch.wants.push_back(WantedPages { next: first, end: first + len });
                prefetch.pages += len;
            }
        }
    }

    /// Nothing from `end` on is prefetched any more.
    pub(super) fn cut_prefetch(&mut self, object: ObjectId, end: u64) {
        let Some(prefetch) = self.prefetches.get_mut(&object) else { return };
        prefetch.wants.retain_mut(|want| {
            want.end = want.end.min(end);
            want.next < want.end
        });
        prefetch.pages = prefetch.wants.iter().map(|want| want.end - want.next).sum();
    }

    /// Whether something is wanted without a fault, for which memory has to be found.
    pub(super) fn hopes(&self) -> bool {
        !self.wants.is_empty() || !self.prefetches.is_empty()
    }

    /// Whether prefetches only wait for [`CoreEvent::GoOn`](super::CoreEvent::GoOn).
    pub(crate) fn paused(&self) -> bool {
        self.turn == 0 && !self.prefetches.is_empty()
    }

    pub(super) fn pump_prefetches(&mut self) {
        let mut all = std::mem::take(&mut self.prefetches);
        all.retain(|&object, prefetch| {
            while let Some(want) = prefetch.wants.front_mut() {
                if !self.stalled.is_empty() || self.pins_lack || self.turn == 0 {
                    return true;
                }
                let Some(this) = self.objects.get(&object).filter(|this| want.next < this.pages)
                else {
                    return false;
                };
                let next = if let Some(id) = this.table.extent_at(want.next) {
                    self.bring(id).min(want.end)
                } else {
                    let reading = this.reading;
                    let run = self.next_part(object, want);
                    let len = u64::from(run.len);
                    let most = READS.min(self.budget() / 8);
                    if reading > 0 && reading + len > most || !self.make_room(len) {
                        return true;
                    }
                    let id = self.read(object, run);
                    self.extents[id].eager = true;
                    run.end()
                };
                let came = next - want.next;
                want.next = next;
                self.turn = self.turn.saturating_sub(came);
                prefetch.pages -= came;
                if want.next >= want.end {
                    prefetch.wants.pop_front();
                }
            }
            false
        });
        self.prefetches = all;
    }
}
