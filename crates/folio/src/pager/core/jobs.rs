//! Requests of more than one step: pins, and evictions that a caller asked for.

use super::chunk_table::CHUNK;
use super::extents::{Disposal, ExtentId, ExtentState};
use super::{Core, CoreAction, Failure, FailureReason, ObjectId, PageRun, PinnedRange, Ticket};
use std::collections::VecDeque;

/// Pages that are read at once for the pins of an object.
const PIN_READS: u64 = 256;

/// Pages that are wanted in the map without a fault.
#[derive(Debug)]
pub(crate) struct WantedPages {
    pub(super) next: u64,
    pub(super) end: u64,
}

/// A pin whose pages are not all there yet.
#[derive(Debug)]
pub(crate) struct PinJob {
    pub(crate) object: ObjectId,
    pub(crate) ticket: Ticket,
    pin: PinnedRange,
    missing: u64,
    progress: u64,
}

impl PinJob {
    /// How many pages of `run` it waits for.
    fn overlap(&self, run: PageRun) -> u64 {
        run.end().min(self.pin.end).saturating_sub(run.first.max(self.pin.first))
    }

    pub(crate) fn missing_in(&self, run: PageRun) -> bool {
        self.missing > 0 && self.overlap(run) > 0
    }
}

/// An eviction under way.
#[derive(Debug)]
pub(crate) struct EvictJob {
    object: ObjectId,
    /// Nobody, if the object goes away with its pages.
    ticket: Option<Ticket>,
    pending: VecDeque<u64>,
    since: u64,
}

impl Core {
    /// The most that may be pinned: faults need the rest.
    pub(super) fn pinnable(&self) -> u64 {
        self.budget() / 4 * 3
    }

    pub(super) fn pin(&mut self, object: ObjectId, pin: PinnedRange, ticket: Ticket) {
        let PinnedRange { first, end, .. } = pin;
        let pages = end.saturating_sub(first);
        let (now, pinnable, pinned) = (self.now, self.pinnable(), self.pinned);
        let Some(this) =
            self.objects.get_mut(&object).filter(|object| end <= object.pages && !object.leaving)
        else {
            return self.reply(ticket, Err(Self::failure(first, &FailureReason::PastEnd)));
        };
        // Pages that are pinned already cost nothing more.
        let more = this.pins.unpinned_in(first, end);
        if pinned + more > pinnable {
            return self.reply(ticket, Err(Self::failure(first, &FailureReason::NoMemory)));
        }
        if self.pin_waits(object, pin) {
            return self.hold_back(object, pin, ticket);
        }
        let Some(this) = self.objects.get_mut(&object) else { return };
        let held = this.pins.held();
        this.pins.add(pin);
        self.held += this.pins.held() - held;
        let extents = this.table.extents_in(first, end);
        for &id in &extents {
            let extent = &mut self.extents[id];
            if extent.doom == Disposal::WhenClean {
                extent.doom = Disposal::None;
            }
        }
        let present: u64 = extents
            .into_iter()
            .filter(|&id| {
                matches!(self.extents[id].place, ExtentState::Installed | ExtentState::Copying)
            })
            .filter(|&id| !pin.stores || !self.awaits_write(id))
            .map(|id| {
                let run = self.extents[id].run;
                run.end().min(end) - run.first.max(first)
            })
            .sum();
        self.pinned += more;
        self.hold(object, first, end);
        if present == pages {
            return self.reply(ticket, Ok(()));
        }
        self.pin_jobs.push(PinJob { object, ticket, pin, missing: pages - present, progress: now });
        self.wants.entry(object).or_default().push_back(WantedPages { next: first, end });
    }

    pub(super) fn unpin(&mut self, object: ObjectId, pin: PinnedRange) {
        let Some(this) = self.objects.get_mut(&object) else { return };
        let (pages, held) = (this.pins.pages(), this.pins.held());
        this.pins.remove(pin);
        self.pinned -= pages - this.pins.pages();
        self.held -= held - this.pins.held();
    }

    /// Pages of these that are pinned for stores can be stored to from now on, and are dirty.
    pub(super) fn hold(&mut self, object: ObjectId, first: u64, end: u64) {
        let Some(this) = self.objects.get(&object).filter(|this| this.traits.tracked) else {
            return;
        };
        for (first, end) in this.pins.held_in(first, end) {
            for id in self.objects[&object].table.extents_in(first, end) {
                let extent = &self.extents[id];
                let held = extent.dirty && !extent.protected;
                if extent.place == ExtentState::Installed && !held && !self.awaits_write(id) {
                    self.let_store(id, first, end);
                }
            }
        }
    }

    /// Whether an extent is being written from the map's own memory, which must not change before
    /// that has ended.
    pub(super) fn awaits_write(&self, id: ExtentId) -> bool {
        let extent = &self.extents[id];
        let tracked =
            |object: &super::CoreObject| object.traits.tracked && object.traits.shares_buffer;
        self.objects.get(&extent.object).is_some_and(tracked)
            && (extent.writing || extent.place == ExtentState::Copying)
            && !extent.copied
    }

    /// A write has ended; if it was from the map's own memory (`waited`), the pins for stores that
    /// waited for it go on.
    pub(super) fn hold_after_write(&mut self, object: ObjectId, run: PageRun, waited: bool) {
        self.hold(object, run.first, run.end());
        if waited {
            self.pin_progress(object, run, |pin| pin.stores);
        }
    }

    /// Whether pages of a run are pinned for stores.
    pub(super) fn is_held(&self, object: ObjectId, run: PageRun) -> bool {
        let Some(object) = self.objects.get(&object) else { return false };
        object.pins.hold(run)
    }

    /// `run` has come into the map, or can be stored to at last: progress for the pins that
    /// `counts` tells.
    pub(super) fn pin_progress(
        &mut self,
        object: ObjectId,
        run: PageRun,
        counts: impl Fn(&PinnedRange) -> bool,
    ) {
        let mut ended = Vec::new();
        for pin in self.pin_jobs.iter_mut().filter(|job| job.object == object && counts(&job.pin)) {
            let came = pin.overlap(run);
            if came > 0 {
                pin.missing = pin.missing.saturating_sub(came);
                pin.progress = self.now;
                if pin.missing == 0 {
                    ended.push(pin.ticket);
                }
            }
        }
        if !ended.is_empty() {
            self.pin_jobs.retain(|pin| pin.missing > 0);
            for ticket in ended {
                self.reply(ticket, Ok(()));
            }
        }
    }

    /// A page cannot be supplied: pins that wait for it are refused.
    pub(super) fn pin_failed(&mut self, object: ObjectId, page: u64, reason: &FailureReason) {
        let fails = |job: &PinJob| job.object == object && job.pin.overlaps(PageRun::one(page));
        if self.pin_jobs.iter().any(fails) {
            let (failed, others) = std::mem::take(&mut self.pin_jobs).into_iter().partition(fails);
            self.pin_jobs = others;
            self.refuse(failed, page, reason);
        }
    }

    fn refuse(&mut self, pins: Vec<PinJob>, page: u64, reason: &FailureReason) {
        for PinJob { object, pin, ticket, .. } in pins {
            self.unpin(object, pin);
            let page = page.max(pin.first);
            self.reply(ticket, Err(Failure { page, reason: reason.clone() }));
        }
    }

    pub(super) fn expire_pins(&mut self) {
        let now = self.now;
        let late = |pin: &PinJob| {
            self.objects
                .get(&pin.object)
                .is_none_or(|object| pin.progress + object.traits.deadline <= now)
        };
        if self.pin_jobs.iter().any(late) {
            let pins = std::mem::take(&mut self.pin_jobs);
            let (failed, others): (Vec<_>, Vec<_>) = pins.into_iter().partition(late);
            self.pin_jobs = others;
            let reason = if self.make_room(1) { FailureReason::Deadline } else { self.no_memory() };
            self.refuse(failed, 0, &reason);
        }
    }

    /// Reads what pins wait for. No object waits for another's source.
    pub(super) fn pump_wants(&mut self) {
        self.pins_lack = false;
        let mut all = std::mem::take(&mut self.wants);
        all.retain(|&object, wants| {
            while let Some(want) = wants.front_mut() {
                if !self.advance_want(object, want, PIN_READS) {
                    return true;
                }
                wants.pop_front();
            }
            false
        });
        self.wants = all;
    }

    /// Whether all of a want was asked for. An object has at most `most` pages under way for it, or
    /// a quarter of the budget.
    fn advance_want(&mut self, object: ObjectId, want: &mut WantedPages, most: u64) -> bool {
        loop {
            let Some(this) = self
                .objects
                .get(&object)
                .filter(|this| want.next < want.end && want.next < this.pages)
            else {
                return true;
            };
            want.next = if let Some(id) = this.table.extent_at(want.next) {
                self.bring(id)
            } else {
                let reading = this.reading;
                let run = self.next_part(object, want);
                let len = u64::from(run.len);
                if reading >= most && reading + len > self.budget() / 4 {
                    return false;
                }
                if !self.make_room(len) {
                    self.pins_lack = true;
                    return false;
                }
                let id = self.read(object, run);
                self.extents[id].eager = true;
                run.end()
            };
        }
    }

    /// The part of a want's next pages that is read at once. The pages are in no extent.
    pub(super) fn next_part(&self, object: ObjectId, want: &WantedPages) -> PageRun {
        let widest = u64::from(self.max_run());
        let unit_end = (want.next / widest + 1) * widest;
        let len = (unit_end.min(want.end) - want.next).min(CHUNK) as u32;
        self.absent_run(object, want.next, len)
    }

    /// Puts an extent into the map as soon as that can be; returns the page behind it.
    pub(super) fn bring(&mut self, id: ExtentId) -> u64 {
        let extent = &mut self.extents[id];
        let end = extent.run.end();
        match extent.place {
            ExtentState::Buffered => {
                extent.eager = true;
                self.install(id);
            }
            ExtentState::Reading | ExtentState::Leaving => extent.eager = true,
            _ => {}
        }
        end
    }

    /// Pages leave memory: as soon as they are clean, or with `discard` at once.
    pub(super) fn evict(
        &mut self,
        object: ObjectId,
        first: u64,
        end: u64,
        discard: bool,
        ticket: Option<Ticket>,
    ) {
        if discard {
            self.unpoison(object, first, end);
        }
        let Some(this) = self.objects.get_mut(&object) else {
            if let Some(ticket) = ticket {
                self.reply(ticket, Ok(()));
            }
            return;
        };
        if discard {
            this.table.forget_marks(first, end);
            // Pages that were still to be prefetched there, or in the page that is cut, would come
            // back.
            let last = first.saturating_sub(1);
            self.wants
                .get_mut(&object)
                .into_iter()
                .flatten()
                .for_each(|want| want.end = want.end.min(last));
            self.cut_prefetch(object, last);
        }
        let ids = self.objects[&object].table.extents_in(first, end);
        let mut pending = VecDeque::new();
        for id in ids {
            let run = self.extents[id].run;
            if !discard && self.is_pinned(object, run) {
                continue;
            }
            pending.push_back(run.first);
            self.extents[id].doom = if discard { Disposal::Now } else { Disposal::WhenClean };
            self.hasten(id);
        }
        self.evictions.push(EvictJob { object, ticket, pending, since: self.now });
    }

    /// Lets a disposed extent go, if nothing is under way with it.
    fn hasten(&mut self, id: ExtentId) {
        let extent = &self.extents[id];
        match extent.place {
            ExtentState::Installed if !extent.writing => self.take_out(id),
            ExtentState::Buffered
                if !extent.writing && (!extent.dirty || extent.doom == Disposal::Now) =>
            {
                self.drop_extent(id);
            }
            ExtentState::Buffered if !extent.writing => self.queue_write(id),
            _ => {}
        }
    }

    /// Tries again to take out what was busy.
    pub(super) fn retry_evictions(&mut self) {
        let due: Vec<ExtentId> = (self.evictions.iter())
            .filter_map(|job| self.objects.get(&job.object)?.table.extent_at(*job.pending.front()?))
            .filter(|&id| {
                let extent = &self.extents[id];
                let busy = extent.failed != 0 && extent.failed + super::writeback::BUSY <= self.now;
                busy && extent.doom != Disposal::None
                    && extent.place == ExtentState::Installed
                    && !extent.writing
            })
            .collect();
        for id in due {
            // Two evictions may want the same.
            if self.extents[id].place == ExtentState::Installed {
                self.take_out(id);
            }
        }
    }

    pub(super) fn pump_evictions(&mut self) {
        let mut jobs = std::mem::take(&mut self.evictions);
        jobs.retain_mut(|job| !self.advance_eviction(job));
        jobs.append(&mut self.evictions);
        self.evictions = jobs;
    }

    /// Whether an eviction has ended.
    fn advance_eviction(&mut self, job: &mut EvictJob) -> bool {
        let Some(object) = self.objects.get(&job.object) else { return true };
        while let Some(&page) = job.pending.front() {
            let extent = object.table.extent_at(page).and_then(|id| self.extents.get(id));
            if extent.is_some_and(|extent| extent.doom != Disposal::None) {
                break;
            }
            job.pending.pop_front();
        }
        if let Some(ticket) = job.ticket {
            if job.pending.is_empty() {
                self.reply(ticket, Ok(()));
                return true;
            }
            if job.since + object.traits.deadline <= self.now {
                self.reply(ticket, Err(Self::failure(job.pending[0], &FailureReason::Deadline)));
                return true;
            }
            return false;
        }
        if job.pending.is_empty()
            && object.table.is_empty()
            && object.writes.is_empty()
            && !object.flushing
        {
            self.objects.remove(&job.object);
            self.actions.push_back(CoreAction::Detached { object: job.object });
            return true;
        }
        false
    }
}
