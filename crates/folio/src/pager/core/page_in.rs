//! Faults, the reads that serve them, and putting pages into maps.

use super::chunk_table::{CHUNK, Mark};
use super::extents::{Disposal, EvictionQueue, ExtentId, ExtentState, FaultWaiter};
use super::readahead::AccessPattern;
use super::{Backing, Core, CoreAction, Failure, FailureReason, ObjectId, PageRun, StoreAccess};

/// Runs that a recording holds at most.
const RECORDED: usize = 1 << 20;

/// A part that was wanted, of the surroundings of a page, for which the rest is read as well.
const FILL_SHARE: u64 = 64;

/// A fault that waits for memory.
#[derive(Debug)]
pub(crate) struct Stalled {
    pub(crate) object: ObjectId,
    pub(crate) page: u64,
    pub(crate) write: bool,
    pub(crate) since: u64,
}

impl Core {
    pub(super) fn fault(&mut self, object: ObjectId, page: u64, write: bool) {
        let Some(this) = self.objects.get(&object).filter(|object| !object.leaving) else { return };
        if page >= this.pages {
            return self.past_end(object, page);
        }
        match this.table.extent_at(page) {
            None => {
                self.counts.faults_missing += 1;
                self.missing(Stalled { object, page, write, since: self.now });
            }
            Some(extent) => self.fault_in_extent(extent, page, write, self.now),
        }
    }

    fn past_end(&mut self, object: ObjectId, page: u64) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.table.mark(Mark::Poisoned, page, true);
        }
        self.actions.push_back(CoreAction::Poison { object, page, reason: FailureReason::PastEnd });
    }

    /// Pages from `first` to before `end` that were poisoned are simply missing from now on.
    pub(super) fn unpoison(&mut self, object: ObjectId, first: u64, end: u64) {
        let Some(this) = self.objects.get_mut(&object).filter(|this| !this.leaving) else { return };
        for page in this.table.marked(Mark::Poisoned, first, end) {
            this.table.mark(Mark::Poisoned, page, false);
            self.actions.push_back(CoreAction::Unpoison { object, page });
        }
    }

    pub(super) fn fault_in_extent(&mut self, id: ExtentId, page: u64, write: bool, since: u64) {
        let waiter = FaultWaiter { page, write, since };
        match self.extents[id].place {
            ExtentState::Installed
                if write && (self.extents[id].protected || self.extents[id].dirty) =>
            {
                self.counts.faults_write += 1;
                self.wait(id, waiter);
                self.settle(id);
            }
            ExtentState::Installed => {
                // It came while the page was being put there.
                self.counts.faults_spurious += 1;
                let object = self.extents[id].object;
                self.actions.push_back(CoreAction::Wake { object, run: PageRun::one(page) });
            }
            ExtentState::Buffered => {
                self.counts.faults_soft += 1;
                self.wait(id, waiter);
                self.first_use(id, page);
                self.install(id);
            }
            ExtentState::Reading => {
                self.counts.faults_missing += 1;
                self.wait(id, waiter);
                self.first_use(id, page);
            }
            _ => {
                self.counts.faults_soft += 1;
                self.wait(id, waiter);
            }
        }
    }

    fn wait(&mut self, id: ExtentId, waiter: FaultWaiter) {
        let extent = &mut self.extents[id];
        if extent.doom == Disposal::WhenClean {
            extent.doom = Disposal::None;
        }
        extent.waiters.push(waiter);
        if let Some(object) = self.objects.get(&extent.object) {
            self.waiting.push_back((waiter.since + object.traits.deadline, id));
        }
    }

    /// A page that is in no extent is wanted.
    pub(super) fn missing(&mut self, fault: Stalled) {
        let Stalled { object, page, write, since, .. } = fault;
        let window = self.ahead_window();
        let Some(this) = self.objects.get_mut(&object) else { return };
        if page >= this.pages {
            return self.past_end(object, page);
        }
        let plan = this.readahead.access(page, true, window);
        let run = plan.wanted.map_or(PageRun::one(page), |run| self.absent(object, page, run));
        let run = if self.make_room(u64::from(run.len)) { run } else { PageRun::one(page) };
        if !self.make_room(1) {
            self.stalled.push_back(fault);
            return;
        }
        let id = self.read(object, run);
        self.wait(id, FaultWaiter { page, write, since });
        let sequential = self.objects[&object].readahead.pattern() == AccessPattern::Sequential;
        if sequential {
            self.drop_behind(object, page);
        }
        if plan.ahead.is_empty() {
            self.fill(object, page);
        } else {
            self.read_ahead(object, &plan);
        }
    }

    /// Reads the rest of the page's surroundings, up to 2 MiB, if a part of them was wanted
    /// already, in whatever order, and there is memory that nobody uses: nothing leaves for it.
    fn fill(&mut self, object: ObjectId, page: u64) {
        let window = u64::from(self.max_run());
        let this = &self.objects[&object];
        let block = u64::from(this.readahead.block());
        let (first, end) = (page - page % window, (page - page % window + window).min(this.pages));
        let dense = block * (window / FILL_SHARE).max(2);
        if this.readahead.pattern() != AccessPattern::Normal || window < 4 * dense {
            return;
        }
        let spare = self.limit() - self.inactive_target();
        if self.used + window > spare
            || self.reading + window > self.budget() / 4
            || self.objects[&object].table.count_in(first, end) < dense
        {
            return;
        }
        let mut page = first;
        while page < end {
            if self.objects[&object].table.extent_at(page).is_none() {
                let run =
                    self.absent(object, page, PageRun { first: page, len: (end - page) as u32 });
                let id = self.read(object, run);
                self.extents[id].eager = true;
                page = run.end();
            } else {
                page += 1;
            }
        }
    }

    /// The part of `run` around `page` that is inside the object and the page's chunk, in no
    /// extent, and on the same backing.
    fn absent(&self, object: ObjectId, page: u64, run: PageRun) -> PageRun {
        let object = &self.objects[&object];
        let chunk = page - page % CHUNK;
        let low = run.first.max(chunk);
        let high = run.end().min(chunk + CHUNK).min(object.pages);
        let spilled = object.table.is_marked(Mark::Spilled, page);
        let same = |&page: &u64| {
            object.table.extent_at(page).is_none()
                && object.table.is_marked(Mark::Spilled, page) == spilled
                && !object.table.is_marked(Mark::Poisoned, page)
        };
        let first = (low..page).rev().take_while(same).last().unwrap_or(page);
        let end = (page + 1..high).take_while(same).last().map_or(page + 1, |last| last + 1);
        PageRun { first, len: (end - first) as u32 }
    }

    /// Starts to read a run, all of whose pages are in no extent. There is room.
    pub(super) fn read(&mut self, object: ObjectId, run: PageRun) -> ExtentId {
        let id = self.extents.add(object, run, ExtentState::Reading);
        let this = self.objects.get_mut(&object).expect("only objects that are attached are read");
        this.table.set(run, Some(id));
        let from = if this.table.is_marked(Mark::Spilled, run.first) {
            Backing::Spill
        } else {
            Backing::Source
        };
        this.reading += u64::from(run.len);
        self.extents[id].buffer = true;
        self.used += u64::from(run.len);
        self.reading += u64::from(run.len);
        self.counts.reads += 1;
        self.counts.pages_read += u64::from(run.len);
        self.actions.push_back(CoreAction::Read { extent: id, object, run, from });
        id
    }

    /// Pages well behind a sequential access are the next to go.
    fn drop_behind(&mut self, object: ObjectId, page: u64) {
        let Some(behind) = page.checked_sub(2 * u64::from(self.max_run())) else { return };
        let Some(id) = self.objects[&object].table.extent_at(behind) else { return };
        let extent = &self.extents[id];
        if extent.place == ExtentState::Installed {
            self.extents.enqueue_first(id, EvictionQueue::Small);
        } else if extent.place == ExtentState::Buffered
            && self.extents.queue(id) == EvictionQueue::Inactive
        {
            self.extents.enqueue_first(id, EvictionQueue::Inactive);
        }
    }

    pub(super) fn read_done(&mut self, id: ExtentId, result: Result<(), FailureReason>) {
        let Some(extent) =
            self.extents.get(id).filter(|extent| extent.place == ExtentState::Reading)
        else {
            return;
        };
        let len = u64::from(extent.run.len);
        let object = extent.object;
        self.reading -= len;
        if let Some(object) = self.objects.get_mut(&object) {
            object.reading -= len;
        }
        if let Err(reason) = result {
            return self.read_failed(id, &reason);
        }
        let extent = &mut self.extents[id];
        extent.place = ExtentState::Buffered;
        if extent.doom == Disposal::Now
            || (extent.doom == Disposal::WhenClean && extent.waiters.is_empty())
        {
            return self.drop_extent(id);
        }
        if extent.waiters.is_empty() && !extent.eager {
            let queue = if extent.ahead { EvictionQueue::Ahead } else { EvictionQueue::Inactive };
            return self.extents.enqueue(id, queue);
        }
        self.install(id);
    }

    /// A wide read failed: the pages that are wanted are read alone, so that one bad page spoils no
    /// other.
    fn read_failed(&mut self, id: ExtentId, reason: &FailureReason) {
        self.counts.read_errors += 1;
        let extent = &mut self.extents[id];
        extent.place = ExtentState::Buffered;
        let (object, run) = (extent.object, extent.run);
        let eager = extent.eager && extent.doom != Disposal::Now;
        let waiters = std::mem::take(&mut extent.waiters);
        extent.eager = false;
        self.no_longer_ahead(id);
        self.drop_extent(id);
        if self.objects.get(&object).is_none_or(|object| object.leaving) {
            return;
        }
        let block = u64::from(self.objects[&object].readahead.block());
        if u64::from(run.len) <= block {
            for page in run.first..run.end() {
                let mine = waiters.iter().any(|waiter| waiter.page == page);
                self.fail(object, page, mine, reason);
            }
            return;
        }
        let pinned = self.pin_jobs.iter().any(|pin| pin.object == object && pin.missing_in(run));
        if eager || pinned {
            // Asked for as a whole: again, block by block.
            let mut page = run.first;
            while page < run.end() {
                let part = self.absent(
                    object,
                    page,
                    PageRun { first: page, len: (block as u32).min((run.end() - page) as u32) },
                );
                if self.objects[&object].table.extent_at(page).is_none()
                    && self.make_room(u64::from(part.len))
                {
                    let id = self.read(object, part);
                    self.extents[id].eager = true;
                }
                page = part.end().max(page + 1);
            }
        }
        for FaultWaiter { page, write, since } in waiters {
            if let Some(extent) = self.objects[&object].table.extent_at(page) {
                self.wait(extent, FaultWaiter { page, write, since });
                continue;
            }
            let run = self.absent(
                object,
                page,
                PageRun { first: page - page % block, len: block as u32 },
            );
            if self.make_room(u64::from(run.len)) {
                let id = self.read(object, run);
                self.wait(id, FaultWaiter { page, write, since });
            } else {
                self.stalled.push_back(Stalled { object, page, write, since });
            }
        }
    }

    /// A page cannot be supplied: all its waiters get the reason.
    pub(super) fn fail(
        &mut self,
        object: ObjectId,
        page: u64,
        faulted: bool,
        reason: &FailureReason,
    ) {
        if faulted {
            self.counts.poisoned += 1;
            if let Some(object) = self.objects.get_mut(&object) {
                object.table.mark(Mark::Poisoned, page, true);
            }
            self.actions.push_back(CoreAction::Poison { object, page, reason: reason.clone() });
        }
        self.pin_failed(object, page, reason);
    }

    /// Puts an extent that is outside the map into it.
    pub(super) fn install(&mut self, id: ExtentId) {
        if self.extents[id].place != ExtentState::Buffered {
            return;
        }
        if self.no_longer_ahead(id) {
            self.counts.ahead_used += u64::from(self.extents[id].run.len);
        }
        let extent = &self.extents[id];
        let (object, run) = (extent.object, extent.run);
        let Some(this) = self.objects.get_mut(&object) else { return };
        let traits = this.traits;
        let keep = extent.writing;
        let len = u64::from(run.len);
        if keep && !traits.shares_buffer && !self.make_room(len) {
            // The write's end makes room, and installs it.
            return;
        }
        let Some(this) = self.objects.get_mut(&object) else { return };
        if this.table.has_marks(Mark::Poisoned) {
            for page in run.first..run.end() {
                if this.table.is_marked(Mark::Poisoned, page) {
                    this.table.mark(Mark::Poisoned, page, false);
                    self.actions.push_back(CoreAction::Unpoison { object, page });
                }
            }
        }
        let extent = &self.extents[id];
        let stored = run.len == 1 && extent.waiters.iter().any(|waiter| waiter.write);
        let mode = match (traits.tracked, extent.writing) {
            (false, _) => StoreAccess::ReadOnly,
            (true, false) if extent.dirty || (stored && self.may_dirty(object) > 0) => {
                StoreAccess::Writable
            }
            (true, _) => StoreAccess::Protected,
        };
        let extent = &mut self.extents[id];
        extent.place = ExtentState::Installing;
        extent.protected = mode == StoreAccess::Protected;
        (extent.kept, extent.copied) = (keep, keep && !traits.shares_buffer);
        let again = extent.seen;
        if keep && !traits.shares_buffer {
            self.used += len;
        }
        let ghost = run.len <= 16 && self.ghosts.take((object, run.first));
        let main = ghost || (again && !self.extents[id].eager);
        self.extents.enqueue(id, if main { EvictionQueue::Main } else { EvictionQueue::Small });
        if mode == StoreAccess::Writable {
            // From here on a store goes unnoticed.
            self.set_dirty(id);
        }
        self.actions.push_back(CoreAction::Install { extent: id, object, run, mode, keep });
    }

    pub(super) fn installed(&mut self, id: ExtentId, result: Result<(), FailureReason>) {
        let Some(extent) =
            self.extents.get(id).filter(|extent| extent.place == ExtentState::Installing)
        else {
            return;
        };
        let (object, run) = (extent.object, extent.run);
        let shares = self.objects[&object].traits.shares_buffer;
        if let Err(reason) = result {
            return self.install_failed(id, &reason);
        }
        let extent = &mut self.extents[id];
        (extent.place, extent.seen) = (ExtentState::Installed, true);
        extent.buffer = extent.kept || shares;
        if std::mem::take(&mut extent.eager) {
            self.counts.pages_prefetched += u64::from(run.len);
        }
        for waiter in &self.extents[id].waiters {
            let took = self.now.saturating_sub(waiter.since);
            self.latency[((u64::BITS - took.leading_zeros()) as usize).min(super::BUCKETS - 1)] +=
                1;
        }
        if let Some(recording) =
            self.objects.get_mut(&object).and_then(|object| object.recording.as_mut())
            && recording.len() < RECORDED
        {
            recording.push(run);
        }
        self.hold(object, run.first, run.end());
        let waits = self.awaits_write(id);
        self.pin_progress(object, run, |pin| !pin.stores || !waits);
        self.release_copy(id);
        self.settle(id);
    }

    fn install_failed(&mut self, id: ExtentId, reason: &FailureReason) {
        let extent = &mut self.extents[id];
        let (object, writing, len) = (extent.object, extent.writing, u64::from(extent.run.len));
        extent.place = ExtentState::Buffered;
        extent.eager = false;
        let waiters = std::mem::take(&mut extent.waiters);
        let (dirty, run) = (extent.dirty, extent.run);
        if std::mem::take(&mut extent.copied) {
            self.used -= len;
        }
        for page in run.first..run.end() {
            let mine = waiters.iter().any(|waiter| waiter.page == page);
            self.fail(object, page, mine, reason);
        }
        self.extents.enqueue(id, EvictionQueue::None);
        match (dirty, writing) {
            (true, false) => self.queue_write(id),
            (_, true) => {}
            (false, false) => self.extents.enqueue(id, EvictionQueue::Inactive),
        }
    }

    /// Serves who waits for an extent that is in the map.
    pub(super) fn settle(&mut self, id: ExtentId) {
        let extent = &mut self.extents[id];
        if extent.place != ExtentState::Installed {
            return;
        }
        let object = extent.object;
        let waiters = std::mem::take(&mut extent.waiters);
        let mut id = id;
        for waiter in waiters {
            // An extent may have been cut by the store before.
            let Some(this) = self.objects[&object].table.extent_at(waiter.page) else { continue };
            id = this;
            if !waiter.write {
                continue;
            }
            let extent = &self.extents[id];
            if extent.writing && self.objects[&object].traits.shares_buffer {
                // Bytes must not change while they are written: the write's end lets the store go
                // on.
                self.extents[id].waiters.push(waiter);
            } else if extent.protected && !extent.dirty && self.may_dirty(object) == 0 {
                self.throttle(object, waiter.page, waiter.since);
            } else if extent.protected {
                self.make_writable(id, waiter.page);
            } else {
                self.actions
                    .push_back(CoreAction::Unprotect { object, run: PageRun::one(waiter.page) });
            }
        }
        let extent = &self.extents[id];
        let tried = extent.failed != 0 && extent.failed + super::writeback::BUSY > self.now;
        if extent.doom != Disposal::None && extent.waiters.is_empty() && !extent.writing && !tried {
            self.take_out(id);
        }
    }

    pub(super) fn failure(page: u64, reason: &FailureReason) -> Failure {
        Failure { page, reason: reason.clone() }
    }

    /// As [`absent`](Self::absent), for the pages of a request from `page` on.
    pub(super) fn absent_run(&self, object: ObjectId, page: u64, len: u32) -> PageRun {
        self.absent(object, page, PageRun { first: page, len })
    }

    /// Faults that found no memory, again.
    pub(super) fn pump_stalled(&mut self) {
        for _ in 0..self.stalled.len() {
            let Some(fault) = self.stalled.pop_front() else { return };
            let Some(object) = self.objects.get(&fault.object).filter(|object| !object.leaving)
            else {
                continue;
            };
            match object.table.extent_at(fault.page) {
                Some(extent) => self.fault_in_extent(extent, fault.page, fault.write, fault.since),
                None if self.make_room(1) => self.missing(fault),
                None => {
                    self.stalled.push_front(fault);
                    return;
                }
            }
        }
    }

    /// Ends the waits that took too long.
    pub(super) fn expire(&mut self) {
        let now = self.now;
        let mut late = Vec::new();
        let extents = &self.extents;
        self.waiting.retain(|&(deadline, id)| {
            if deadline <= now {
                late.push(id);
            }
            // A waiter that was served since is not looked at again.
            deadline > now && extents.get(id).is_some_and(|extent| !extent.waiters.is_empty())
        });
        for id in late {
            let Some(extent) = self.extents.get(id) else { continue };
            let Some(object) = self.objects.get(&extent.object) else { continue };
            let (object_id, deadline) = (extent.object, object.traits.deadline);
            let place = self.extents[id].place;
            let reason = match place {
                ExtentState::Reading => FailureReason::Deadline,
                // The bytes are there: the driver has only to finish the page's way into the map.
                ExtentState::Installing | ExtentState::Leaving => {
                    self.waiting.push_back((now + super::writeback::BUSY, id));
                    continue;
                }
                ExtentState::Installed | ExtentState::Copying => self.still_dirty(object_id),
                ExtentState::Buffered => self.no_memory(),
            };
            let (old, young): (Vec<FaultWaiter>, Vec<FaultWaiter>) =
                self.extents[id].waiters.iter().partition(|waiter| waiter.since + deadline <= now);
            self.extents[id].waiters = young;
            // Only a missing page can be poisoned.
            let inside = matches!(place, ExtentState::Installed | ExtentState::Copying);
            for waiter in old {
                if inside {
                    self.throttle.refused.push((object_id, waiter.page, reason.clone()));
                } else {
                    self.fail(object_id, waiter.page, true, &reason);
                }
            }
        }
        let mut kept = std::collections::VecDeque::new();
        for fault in std::mem::take(&mut self.stalled) {
            let late = self
                .objects
                .get(&fault.object)
                .is_some_and(|o| fault.since + o.traits.deadline <= now);
            if late {
                let reason = self.no_memory();
                self.fail(fault.object, fault.page, true, &reason);
            } else {
                kept.push_back(fault);
            }
        }
        self.stalled = kept;
        self.expire_throttled();
        self.expire_pins();
    }
}
