//! Dirty pages: how they become so, write-back in the background and by `sync`, and writes that
//! fail.
//!
//! A dirty page is never written from the map: the driver takes it out, or copies it under
//! protection, and only that buffer is written. A page that is stored to meanwhile is dirty again.

use super::chunk_table::Mark;
use super::extents::{Disposal, EvictionQueue, Extent, ExtentId, ExtentState};
use super::{Backing, Core, CoreAction, Failure, FailureReason, ObjectId, PageRun, Ticket};
use std::collections::VecDeque;
use std::sync::Arc;

/// Writes of one object under way at once. An object whose writes never end delays no other.
pub(super) const WINDOW: usize = 128;
/// A failed write is tried again after so long, in microseconds.
const RETRY: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SyncPhase {
    /// Starts the writes.
    Starting,
    /// Waits for those up to this number.
    Writing(u64),
    WantsFlush,
    Flushing,
}

/// A page that was busy is tried again after so long, in microseconds.
pub(super) const BUSY: u64 = 10_000;

/// A sync under way.
#[derive(Debug)]
pub(crate) struct SyncJob {
    object: ObjectId,
    ticket: Ticket,
    first: u64,
    end: u64,
    flush: bool,
    /// First pages of the extents that were dirty when it began.
    pending: VecDeque<u64>,
    phase: SyncPhase,
    failure: Option<Failure>,
    /// When something was last seen to go on.
    progress: u64,
}

impl Core {
    /// The bytes that were stored to extent `id` are not in the source.
    pub(super) fn set_dirty(&mut self, id: ExtentId) {
        let now = self.now;
        let extent = &mut self.extents[id];
        if extent.dirty {
            return;
        }
        (extent.dirty, extent.dirtied) = (true, now);
        self.dirty += u64::from(extent.run.len);
        let object = extent.object;
        let len = u64::from(self.extents[id].run.len);
        let Some(this) = self.objects.get_mut(&object) else { return };
        this.dirty += len;
        if this.traits.private {
            self.dirtied_private(id);
        } else {
            self.dirty_order.push_back((id, now));
        }
    }

    /// A store to `page` of a protected extent in the map.
    pub(super) fn make_writable(&mut self, id: ExtentId, page: u64) {
        let (object, run) = (self.extents[id].object, self.extents[id].run);
        let widest = u64::from(self.max_run()).min(self.may_dirty(object).max(1));
        let Some(this) = self.objects.get_mut(&object) else { return };
        // A stream of stores gets ever longer runs, so that it does not fault at each page.
        let unit = if page == this.last_store.end() {
            (2 * u64::from(this.last_store.len)).clamp(1, widest)
        } else {
            1
        };
        let store = self.let_store(id, page, (page + unit).min(run.end()));
        if let Some(this) = self.objects.get_mut(&object) {
            this.last_store = store;
        }
    }

    /// Pages of an extent in the map, from `first` to before `end`, can be stored to and are dirty:
    /// they are cut off from the rest where that is possible. Returns the whole that became so.
    pub(super) fn let_store(&mut self, id: ExtentId, first: u64, end: u64) -> PageRun {
        let extent = &self.extents[id];
        let (object, run) = (extent.object, extent.run);
        let whole = extent.writing || extent.dirty || run.len == 1;
        let cut = self.objects.get(&object).map_or(1, |object| u64::from(object.traits.cut));
        let first = (first - first % cut).max(run.first);
        let end = end.next_multiple_of(cut).min(run.end());
        let store = if whole { run } else { PageRun { first, len: (end - first) as u32 } };
        let id = if store == run { id } else { self.cut(id, store) };
        self.extents[id].protected = false;
        self.set_dirty(id);
        self.actions.push_back(CoreAction::Unprotect { object, run: store });
        store
    }

    /// Makes `part` of an extent without a buffer an extent of its own.
    fn cut(&mut self, id: ExtentId, part: PageRun) -> ExtentId {
        let (object, run) = (self.extents[id].object, self.extents[id].run);
        let (queue, doom, protected) =
            (self.extents.queue(id), self.extents[id].doom, self.extents[id].protected);
        let buffer = self.extents[id].buffer;
        let left = PageRun { first: run.first, len: (part.first - run.first) as u32 };
        let right = PageRun { first: part.end(), len: (run.end() - part.end()) as u32 };
        let mut made = id;
        let mut kept = false;
        for piece in [left, part, right].into_iter().filter(|piece| piece.len > 0) {
            let this = if std::mem::replace(&mut kept, true) {
                let this = self.extents.add(object, piece, ExtentState::Installed);
                let extent = &mut self.extents[this];
                (extent.doom, extent.protected, extent.buffer, extent.seen) =
                    (doom, protected, buffer, true);
                self.extents.enqueue(this, queue);
                this
            } else {
                self.extents.reshape(id, piece);
                id
            };
            if let Some(object) = self.objects.get_mut(&object) {
                object.table.set(piece, Some(this));
            }
            if piece == part {
                made = this;
            }
        }
        made
    }

    /// The number of the write that begins with extent `id`.
    fn number(&mut self, id: ExtentId) {
        if self.write_numbers.contains_key(&id) {
            return;
        }
        self.write_number += 1;
        self.write_numbers.insert(id, self.write_number);
        let object = self.extents[id].object;
        if let Some(object) = self.objects.get_mut(&object) {
            object.writes.insert(self.write_number);
        }
    }

    fn numbered_end(&mut self, id: ExtentId, object: ObjectId) {
        if let (Some(number), Some(object)) =
            (self.write_numbers.remove(&id), self.objects.get_mut(&object))
        {
            object.writes.remove(&number);
        }
    }

    /// Takes a copy of a dirty extent in the map, to be written. Whether there was memory for it.
    fn copy(&mut self, id: ExtentId) -> bool {
        let (object, run) = (self.extents[id].object, self.extents[id].run);
        let protect = !self.is_held(object, run);
        // Pages that may be stored to during their write are written from a copy, whatever the
        // store.
        let copied = !self.objects[&object].traits.shares_buffer || !protect;
        if copied {
            if !self.make_room(u64::from(run.len)) {
                return false;
            }
            self.used += u64::from(run.len);
        }
        self.number(id);
        let extent = &mut self.extents[id];
        (extent.place, extent.protected, extent.copied) = (ExtentState::Copying, protect, copied);
        self.actions.push_back(CoreAction::Copy { extent: id, object, run, protect });
        true
    }

    /// There is no memory for a copy of a dirty extent: the extent itself leaves the map to be
    /// written, unless a write or an eviction under way makes room soon.
    fn take_out_to_write(&mut self, id: ExtentId) {
        let (object, run) = (self.extents[id].object, self.extents[id].run);
        let writes = self.objects.get(&object).is_some_and(|object| !object.writes.is_empty());
        if !writes && self.leaving == 0 && !self.is_pinned(object, run) {
            self.take_out(id);
        }
    }

    pub(super) fn copied(&mut self, id: ExtentId, result: Result<(), FailureReason>) {
        let Some(extent) =
            self.extents.get(id).filter(|extent| extent.place == ExtentState::Copying)
        else {
            return;
        };
        let (object, run) = (extent.object, extent.run);
        let now = self.now;
        let waited = self.awaits_write(id);
        let extent = &mut self.extents[id];
        extent.place = ExtentState::Installed;
        if let Err(reason) = result {
            (extent.protected, extent.failed) = (false, now.max(1));
            if std::mem::take(&mut extent.copied) {
                self.used -= u64::from(run.len);
            }
            self.numbered_end(id, object);
            if reason == FailureReason::Busy {
                // Direct I/O lets go of a page in a moment: the sync waits for it.
                for sync in self.syncs.iter_mut().filter(|sync| sync.object == object) {
                    if sync.first < run.end()
                        && run.first < sync.end
                        && sync.phase != SyncPhase::Flushing
                    {
                        sync.pending.push_front(run.first);
                        sync.phase = SyncPhase::Starting;
                    }
                }
            } else {
                self.write_failed(object, run, &reason);
            }
            self.hold_after_write(object, run, waited);
            return self.settle(id);
        }
        (extent.buffer, extent.kept) = (true, true);
        self.start_write(id);
        if !self.extents[id].protected {
            // Stores go on unnoticed.
            self.set_dirty(id);
        }
        self.hold(object, run.first, run.end());
        self.settle(id);
    }

    /// Writes a dirty extent from its buffer.
    fn start_write(&mut self, id: ExtentId) {
        self.number(id);
        let extent = &mut self.extents[id];
        let (object, run) = (extent.object, extent.run);
        (extent.dirty, extent.writing, extent.failed) = (false, true, 0);
        self.dirty -= u64::from(run.len);
        self.writing += u64::from(run.len);
        if let Some(object) = self.objects.get_mut(&object) {
            object.dirty -= u64::from(run.len);
            object.writing += u64::from(run.len);
        }
        self.counts.writes += 1;
        let private = self.objects[&object].traits.private;
        let to = if private { Backing::Spill } else { Backing::Source };
        self.actions.push_back(CoreAction::Write { extent: id, object, run, to });
    }

    pub(super) fn write_done(&mut self, id: ExtentId, result: Result<(), FailureReason>) {
        if self.extents.get(id).is_none_or(|extent| !extent.writing) {
            return;
        }
        let waited = self.awaits_write(id);
        let extent = &mut self.extents[id];
        extent.writing = false;
        let (object, run) = (extent.object, extent.run);
        self.writing -= u64::from(run.len);
        if let Some(object) = self.objects.get_mut(&object) {
            object.writing -= u64::from(run.len);
        }
        self.numbered_end(id, object);
        for sync in &mut self.syncs {
            if sync.object == object {
                sync.progress = self.now;
            }
        }
        match result {
            Ok(()) => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.unwritten = None;
                }
                let private = self.objects[&object].traits.private;
                self.counts.pages_written += if private { 0 } else { u64::from(run.len) };
                self.counts.pages_spilled += if private { u64::from(run.len) } else { 0 };
                if private && let Some(object) = self.objects.get_mut(&object) {
                    (run.first..run.end())
                        .for_each(|page| object.table.mark(Mark::Spilled, page, true));
                }
            }
            Err(reason) => {
                self.counts.write_errors += 1;
                self.retries = true;
                self.set_dirty(id);
                self.extents[id].failed = self.now.max(1);
                self.write_failed(object, run, &reason);
            }
        }
        let extent = &self.extents[id];
        match extent.place {
            ExtentState::Installed => {
                self.release_copy(id);
                self.hold_after_write(object, run, waited);
                self.settle(id);
            }
            ExtentState::Buffered => {
                let wanted = !extent.waiters.is_empty() || extent.eager;
                match (extent.doom, extent.dirty) {
                    (Disposal::Now, _) => self.drop_extent(id),
                    (Disposal::WhenClean, false) if !wanted => self.drop_extent(id),
                    _ if wanted => self.install(id),
                    (_, false) => self.extents.enqueue(id, EvictionQueue::Inactive),
                    // Tried again by a tick.
                    (_, true) => {}
                }
            }
            // `installed` sees that the write has ended.
            _ => {}
        }
    }

    /// The buffer of an extent in the map is not needed any more.
    pub(super) fn release_copy(&mut self, id: ExtentId) {
        let extent = &mut self.extents[id];
        let (object, run) = (extent.object, extent.run);
        let shares = self.objects[&object].traits.shares_buffer;
        if extent.place == ExtentState::Installed && extent.kept && !extent.writing {
            extent.kept = false;
            extent.buffer = shares;
            if std::mem::take(&mut extent.copied) {
                self.used -= u64::from(run.len);
            }
            self.actions.push_back(CoreAction::Discard {
                extent: id,
                object,
                run,
                last: false,
                shown: false,
            });
        }
    }

    /// Why there is no memory: where a write-back failed, that is the cause.
    pub(super) fn no_memory(&self) -> FailureReason {
        let failed = self.objects.values().find_map(|object| object.unwritten.as_ref());
        failed.map_or(FailureReason::NoMemory, Self::unwritten)
    }

    /// That pages are still dirty, by the reason for which their write-back failed.
    pub(super) fn unwritten(failed: &FailureReason) -> FailureReason {
        match failed {
            FailureReason::Source { message, errno } => {
                FailureReason::Unwritten { message: Arc::clone(message), errno: *errno }
            }
            reason => FailureReason::Unwritten { message: reason.to_string().into(), errno: None },
        }
    }

    fn write_failed(&mut self, object: ObjectId, run: PageRun, reason: &FailureReason) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.unwritten = Some(reason.clone());
        }
        for sync in &mut self.syncs {
            if sync.object == object && sync.first < run.end() && run.first < sync.end {
                sync.failure.get_or_insert_with(|| Self::failure(run.first, reason));
            }
        }
    }

    /// A dirty extent outside the map is written as soon as its object may write.
    pub(super) fn queue_write(&mut self, id: ExtentId) {
        self.to_write.entry(self.extents[id].object).or_default().push_back(id);
    }

    /// Whether one more write of an object may be under way.
    pub(super) fn may_write(&self, object: ObjectId) -> bool {
        self.objects.get(&object).is_some_and(|object| object.writes.len() < WINDOW)
    }

    /// Writes the dirty extents outside their maps.
    pub(super) fn pump_writes(&mut self) {
        if self.to_write.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.to_write);
        waiting.retain(|&object, extents| {
            while self.may_write(object) {
                let Some(id) = extents.pop_front() else { return false };
                // The extent's number may be another extent's by now.
                if self.extents.get(id).is_some_and(|extent| {
                    extent.object == object
                        && extent.place == ExtentState::Buffered
                        && extent.dirty
                        && !extent.writing
                }) {
                    self.start_write(id);
                }
            }
            self.objects.contains_key(&object)
        });
        self.to_write = waiting;
    }

    /// Writes what has been dirty for long, or all if too much is; tries failed writes again.
    pub(super) fn write_back_old(&mut self) {
        let now = self.now;
        for _ in 0..self.dirty_order.len() {
            let Some((id, dirtied)) = self.dirty_order.pop_front() else { return };
            let Some(extent) = self.extents.get(id).filter(|extent| dirty_since(extent, dirtied))
            else {
                continue;
            };
            // Pinned pages are not written before somebody asks.
            let many = self.throttle.waits()
                || self.dirty.saturating_sub(self.pinned) > self.limits.budget / 4;
            let old = dirtied + self.limits.dirty_age <= now;
            let due = may_retry(extent, now);
            let window = self.may_write(extent.object) && !self.is_held(extent.object, extent.run);
            if due && window && (old || many || extent.failed != 0) && !extent.writing {
                match extent.place {
                    // Copies leave room for reads, should the writes never end.
                    ExtentState::Installed => {
                        let spare = u64::from(extent.run.len) + self.limit() / 16;
                        if !(self.make_room(spare) && self.copy(id)) && self.throttle.waits() {
                            self.take_out_to_write(id);
                        }
                    }
                    ExtentState::Buffered => self.queue_write(id),
                    _ => {}
                }
            }
            self.dirty_order.push_back((id, dirtied));
            if !(old || many || !due)
                && self.dirty_order.front().is_some_and(|first| first.1 >= dirtied)
            {
                break;
            }
        }
        // Private pages that could not be spilled are in no order: all that are outside the map and
        // dirty.
        if !self.retries {
            return;
        }
        let failed = |extent: &Extent| {
            extent.place == ExtentState::Buffered
                && extent.dirty
                && !extent.writing
                && extent.failed != 0
        };
        let all: Vec<(ExtentId, u64)> = self
            .extents
            .iter()
            .filter(|(_, extent)| failed(extent))
            .map(|(id, extent)| (id, extent.failed))
            .collect();
        self.retries = !all.is_empty();
        let due = all.into_iter().filter(|(_, failed)| failed + RETRY <= now);
        due.for_each(|(id, _)| self.queue_write(id));
    }

    pub(super) fn sync(
        &mut self,
        object: ObjectId,
        first: u64,
        end: u64,
        flush: bool,
        ticket: Ticket,
    ) {
        let Some(this) = self.objects.get(&object) else {
            return self.reply(ticket, Err(Self::failure(first, &FailureReason::PastEnd)));
        };
        let private = this.traits.private;
        let pending = this
            .table
            .extents_in(first, end)
            .into_iter()
            .filter(|&id| {
                let extent = &self.extents[id];
                // One that is leaving may come back stored to.
                !private && (extent.dirty || extent.writing || extent.place == ExtentState::Leaving)
            })
            .map(|id| self.extents[id].run.first)
            .collect();
        self.syncs.push(SyncJob {
            object,
            ticket,
            first,
            end,
            flush: flush && !private,
            pending,
            phase: SyncPhase::Starting,
            failure: None,
            progress: self.now,
        });
    }

    pub(super) fn pump_syncs(&mut self) {
        let mut jobs = std::mem::take(&mut self.syncs);
        jobs.retain_mut(|job| !self.advance(job));
        jobs.append(&mut self.syncs);
        self.syncs = jobs;
    }

    /// Goes on with a sync; whether it has ended.
    fn advance(&mut self, job: &mut SyncJob) -> bool {
        if job.phase == SyncPhase::Starting {
            while let Some(&page) = job.pending.front() {
                let Some(object) = self.objects.get(&job.object) else { break };
                let Some(id) = object.table.extent_at(page) else {
                    job.pending.pop_front();
                    continue;
                };
                let extent = &self.extents[id];
                let window = self.may_write(job.object);
                let done = match (extent.dirty, extent.writing, extent.place) {
                    (false, _, ExtentState::Leaving) => false,
                    (false, ..) => true,
                    // A copy of pages that may be stored to meanwhile is not enough.
                    (true, _, ExtentState::Copying) if extent.protected => true,
                    (true, false, ExtentState::Installed)
                        if extent.failed > 0 && extent.failed + BUSY > self.now =>
                    {
                        false
                    }
                    (true, false, ExtentState::Installed) if window => {
                        let copied = self.copy(id);
                        if !copied {
                            self.take_out_to_write(id);
                        }
                        copied
                    }
                    (true, false, ExtentState::Buffered) if window => {
                        self.start_write(id);
                        true
                    }
                    _ => false,
                };
                if !done {
                    break;
                }
                job.pending.pop_front();
            }
            if job.pending.is_empty() {
                job.phase = SyncPhase::Writing(self.write_number);
            }
        }
        if let SyncPhase::Writing(last) = job.phase {
            let Some(object) = self.objects.get(&job.object) else { return true };
            if object.writes.first().is_none_or(|&first| first > last) {
                if job.failure.is_some() || !job.flush {
                    self.reply(job.ticket, job.failure.take().map_or(Ok(()), Err));
                    return true;
                }
                job.phase = SyncPhase::WantsFlush;
            }
        }
        if job.phase == SyncPhase::WantsFlush
            && let Some(object) = self.objects.get_mut(&job.object)
            && !object.flushing
        {
            object.flushing = true;
            job.phase = SyncPhase::Flushing;
            self.actions.push_back(CoreAction::Flush { object: job.object });
        }
        let Some(object) = self.objects.get(&job.object) else { return true };
        if job.progress + object.traits.deadline <= self.now {
            self.reply(job.ticket, Err(Self::failure(job.first, &FailureReason::Deadline)));
            return true;
        }
        false
    }

    pub(super) fn flushed(&mut self, object: ObjectId, result: &Result<(), FailureReason>) {
        if let Some(object) = self.objects.get_mut(&object) {
            object.flushing = false;
        }
        let jobs = std::mem::take(&mut self.syncs);
        for job in jobs {
            if job.object == object && job.phase == SyncPhase::Flushing {
                let result = result.clone().map_err(|reason| Failure { page: job.first, reason });
                self.reply(job.ticket, result);
            } else {
                self.syncs.push(job);
            }
        }
    }
}

/// Whether an extent is dirty since then: else its entry in an order of dirty extents is stale.
pub(super) fn dirty_since(extent: &Extent, then: u64) -> bool {
    extent.dirty && extent.dirtied == then
}

/// Whether an extent may be written: its last write has not failed, or long ago.
pub(super) fn may_retry(extent: &Extent, now: u64) -> bool {
    extent.failed == 0 || extent.failed + RETRY <= now
}
