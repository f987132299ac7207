//! Memory: the budget, which pages are taken out of their maps, and which are dropped.
//!
//! Replacement is S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
//! 2023), with a soft fault in place of its access bit, which user space does not see. A page that
//! leaves the map stays in memory for a while (the inactive queue). If it is accessed again it goes
//! to the main queue, at the cost of a fault without a read.

use super::extents::{Disposal, EvictionQueue, ExtentId, ExtentState};
use super::int_hash::IntSet;
use super::{Core, CoreAction, FailureReason, ObjectId, PageRun, Stability};
use std::collections::VecDeque;

/// Runs longer than this leave no ghost: they were a scan's.
const GHOST_RUN: u32 = 16;
/// Take-outs under way at once: a batch, so that a fault seldom waits for one.
const LEAVING: u64 = 512;
/// Extents that are looked at to find one that may go.
const LOOKS: usize = 512;

/// Lately dropped pages, by first page.
#[derive(Debug, Default)]
pub(crate) struct Ghosts {
    order: VecDeque<(ObjectId, u64)>,
    set: IntSet<(ObjectId, u64)>,
}

impl Ghosts {
    fn add(&mut self, key: (ObjectId, u64), most: usize) {
        if self.set.insert(key) {
            self.order.push_back(key);
        }
        while self.order.len() > most {
            if let Some(old) = self.order.pop_front() {
                self.set.remove(&old);
            }
        }
    }

    /// Whether it was dropped lately; once.
    pub(crate) fn take(&mut self, key: (ObjectId, u64)) -> bool {
        self.set.remove(&key)
    }

    pub(crate) fn bytes(&self) -> usize {
        (self.order.capacity() + 2 * self.set.capacity()) * size_of::<(ObjectId, u64)>()
    }
}

impl Core {
    /// Pages that may be in use, beside the records and the memory that a copy needs for a moment.
    pub(super) fn limit(&self) -> u64 {
        let records = (self.record_bytes() / self.limits.page) as u64;
        let reserve = u64::from(self.max_run());
        self.limits.budget.saturating_sub(records + reserve).max(4)
    }

    /// The share that is kept free or ready to be dropped.
    pub(super) fn inactive_target(&self) -> u64 {
        self.limit() / 8
    }

    /// Makes room for so many pages by dropping pages that are outside the map and clean, but none
    /// that was read ahead and may still be used. Whether there is room.
    pub(super) fn make_room(&mut self, pages: u64) -> bool {
        let mut limit = self.limit();
        while self.used + pages > limit {
            let Some(extent) = self.unused_for_long().or_else(|| self.droppable()) else {
                return false;
            };
            self.drop_extent(extent);
            limit = self.limit();
        }
        true
    }

    fn droppable(&self) -> Option<ExtentId> {
        let mut next = self.extents.front(EvictionQueue::Inactive);
        for _ in 0..LOOKS {
            let extent = next?;
            if self.may_drop(extent) {
                return Some(extent);
            }
            next = self.extents.after(extent);
        }
        None
    }

    pub(super) fn may_drop(&self, extent: ExtentId) -> bool {
        let this = &self.extents[extent];
        this.place == ExtentState::Buffered
            && !this.writing
            && this.waiters.is_empty()
            && !this.eager
            && (!this.dirty || this.doom == Disposal::Now)
    }

    /// An extent that is outside the map goes away with its bytes.
    pub(super) fn drop_extent(&mut self, id: ExtentId) {
        let extent = self.extents.remove(id);
        let Some(object) = self.objects.get_mut(&extent.object) else { return };
        object.table.set(extent.run, None);
        if extent.ahead {
            object.readahead.wasted(extent.run.first);
            self.ahead -= u64::from(extent.run.len);
            self.counts.ahead_wasted += u64::from(extent.run.len);
        }
        if extent.dirty {
            self.dirty -= u64::from(extent.run.len);
            object.dirty -= u64::from(extent.run.len);
        }
        if extent.buffer {
            self.used -= u64::from(extent.run.len);
        }
        self.counts.pages_evicted += u64::from(extent.run.len);
        if extent.run.len <= GHOST_RUN && !extent.ahead && !object.leaving {
            let most = (self.limits.budget as usize).clamp(16, 1 << 20) / 2;
            self.ghosts.add((extent.object, extent.run.first), most);
        }
        let shown = extent.seen && !extent.dirty && !object.leaving;
        let (object, run) = (extent.object, extent.run);
        self.actions.push_back(CoreAction::Discard { extent: id, object, run, last: true, shown });
    }

    pub(super) fn is_pinned(&self, object: ObjectId, run: PageRun) -> bool {
        let Some(object) = self.objects.get(&object) else { return false };
        object.pins.overlap(run)
    }

    /// Takes pages out of maps while too little is free or ready to be dropped.
    pub(super) fn replenish(&mut self) {
        let (limit, target) = (self.limit(), self.inactive_target());
        let ready = |core: &Self| {
            // A source that takes no writes never gives back the pages that it is to write.
            let writing = core.writing.min(target / 2);
            limit.saturating_sub(core.used)
                + core.extents.pages(EvictionQueue::Inactive)
                + core.leaving
                + writing
        };
        let (mut looks, mut refused) = (0, 0);
        let asked = self.stalled.len() as u64
            + if self.hopes() || self.throttle.waits() { u64::from(self.max_run()) } else { 0 };
        // Batches: nothing is taken out before a quarter of the share is used up.
        if ready(self) >= target.max(asked) - target / 4 {
            return;
        }
        while ready(self) < target.max(asked)
            && self.leaving < LEAVING.max(2 * u64::from(self.max_run()))
            && looks < LOOKS
        {
            looks += 1;
            let small = self.extents.pages(EvictionQueue::Small);
            let main = self.extents.pages(EvictionQueue::Main);
            // Of a map whose writes never end all extents in the main queue may have to stay.
            let barren = small > 0 && refused >= main.min(LOOKS as u64 / 2);
            let from_small = small > limit / 10 || main == 0 || barren;
            let queue = if from_small { EvictionQueue::Small } else { EvictionQueue::Main };
            let Some(victim) = self.extents.front(queue) else { break };
            let extent = &self.extents[victim];
            let (object, run) = (extent.object, extent.run);
            let may = extent.place == ExtentState::Installed
                && !extent.writing
                && extent.waiters.is_empty();
            if !may || self.is_pinned(object, run) {
                refused += u64::from(!from_small);
                self.extents.enqueue(victim, EvictionQueue::Main);
                continue;
            }
            looks = 0;
            self.take_out(victim);
        }
    }

    /// Takes the oldest extents out of their maps.
    pub(super) fn relieve(&mut self, extents: u32) {
        let mut left = extents;
        for queue in [EvictionQueue::Small, EvictionQueue::Main] {
            let mut next = self.extents.front(queue);
            while let Some(id) = next.filter(|_| left > 0) {
                next = self.extents.after(id);
                let extent = &self.extents[id];
                let (object, run) = (extent.object, extent.run);
                let may = extent.place == ExtentState::Installed
                    && !extent.writing
                    && extent.waiters.is_empty();
                if may && !self.is_pinned(object, run) {
                    self.take_out(id);
                    left -= 1;
                }
            }
        }
    }

    pub(super) fn take_out(&mut self, id: ExtentId) {
        let extent = &mut self.extents[id];
        extent.place = ExtentState::Leaving;
        self.leaving += u64::from(extent.run.len);
        let (object, run) = (extent.object, extent.run);
        let tracked = self.objects.get(&object).is_some_and(|object| object.traits.tracked);
        let bytes = match (extent.doom, extent.dirty) {
            (Disposal::Now, _) => Stability::Unneeded,
            (_, false) if extent.protected || !tracked => Stability::Unchanging,
            _ => Stability::MayChange,
        };
        self.extents.enqueue(id, EvictionQueue::None);
        self.actions.push_back(CoreAction::TakeOut { extent: id, object, run, bytes });
    }

    pub(super) fn taken_out(&mut self, id: ExtentId, result: &Result<(), FailureReason>) {
        let Some(extent) =
            self.extents.get(id).filter(|extent| extent.place == ExtentState::Leaving)
        else {
            return;
        };
        let (len, tracked) =
            (u64::from(extent.run.len), self.objects[&extent.object].traits.tracked);
        self.leaving -= len;
        let extent = &mut self.extents[id];
        if result.is_err() {
            // Held by direct I/O: it stays, and counts as written to. Advice to evict does not wait
            // for it. A necessary eviction is tried again by a tick.
            extent.place = ExtentState::Installed;
            extent.failed = self.now.max(1);
            if extent.doom == Disposal::WhenClean {
                extent.doom = Disposal::None;
            }
            self.extents.enqueue(id, EvictionQueue::Main);
            if tracked {
                self.extents[id].protected = false;
                self.set_dirty(id);
            }
            return self.settle(id);
        }
        (extent.place, extent.buffer, extent.protected) = (ExtentState::Buffered, true, false);
        let wanted = !extent.waiters.is_empty() || extent.eager;
        match (extent.doom, extent.dirty) {
            (Disposal::Now, _) | (Disposal::WhenClean, false)
                if !wanted || extent.doom == Disposal::Now =>
            {
                self.drop_extent(id);
            }
            _ if wanted => self.install(id),
            (_, true) => self.queue_write(id),
            _ => self.extents.enqueue(id, EvictionQueue::Inactive),
        }
    }
}
