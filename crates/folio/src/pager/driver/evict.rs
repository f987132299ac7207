//! Extents that leave their maps together, at the end of a turn.

use super::{Driver, PendingEviction, object_stamp, run_of};
use crate::pager::core::{CoreEvent, FailureReason, ObjectId};
use crate::pager::foreign_writes::ForeignWrites;
use crate::pager::store::BufferSlot;
use crate::sys::Errno;

impl Driver {
    /// Areas are scarce where each run is one: the oldest runs leave before there are none.
    pub(super) fn limit_vma_count(&mut self) {
        let runs: usize = self.objects.values().map(|object| object.store.vma_cost()).sum();
        if runs > self.most_areas {
            let extents = (runs - self.most_areas * 3 / 4) as u32;
            self.event(CoreEvent::Relieve { extents });
        }
    }

    /// Runs that nobody stores to leave their maps: copied where their bytes are wanted, then given
    /// back together. Whether there were any.
    pub(super) fn queue_eviction(&mut self) -> bool {
        let departing = std::mem::take(&mut self.departing);
        // The copies are memory beside the budget's: no more at a time than the core leaves for
        // such.
        let most = (self.core.max_run() as usize).min(128);
        let mut left = &departing[..];
        while !left.is_empty() {
            let mut pages = 0;
            let fits = |departure: &&PendingEviction| {
                pages += departure.run.len as usize;
                pages <= most
            };
            let (now, later) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = later;
            self.flush_evictions(now);
        }
        !departing.is_empty()
    }

    pub(super) fn flush_evictions(&mut self, departing: &[PendingEviction]) {
        let mut outcomes = Vec::with_capacity(departing.len());
        for departure in departing {
            let run = run_of(departure.run);
            let object = self.objects.get(&departure.object);
            outcomes.push(object.filter(|_| departure.wanted).map_or(Ok(None), |object| {
                let here = object.in_source(departure.run, self.page).filter(|_| object.constant);
                here.map_or_else(|| object.store.copy_out(&mut self.pool, run), Ok).map(Some)
            }));
        }
        let leaves =
            |(departure, outcome): &(&PendingEviction, &Result<Option<BufferSlot>, Errno>)| {
                outcome.is_ok() && self.objects.contains_key(&departure.object)
            };
        let going: Vec<usize> = departing
            .iter()
            .zip(&outcomes)
            .enumerate()
            .filter(|(_, pair)| leaves(pair))
            .map(|(place, _)| place)
            .collect();
        let ranges = going.iter().map(|&place| {
            let PendingEviction { object, run, .. } = departing[place];
            self.objects[&object].store.addresses(run_of(run))
        });
        let mut refused = Vec::new();
        // SAFETY: the bytes were copied, or nobody wants them, and nobody stores to these runs of
        // this driver's maps.
        unsafe { self.discarder.discard(ranges, |place, _| refused.push(going[place])) };
        for (place, (departure, outcome)) in departing.iter().zip(outcomes).enumerate() {
            let &PendingEviction { extent, object: id, run, .. } = departure;
            let outcome = match (outcome, self.objects.get_mut(&id)) {
                (Ok(Some(slot)), Some(object)) if refused.contains(&place) => {
                    // A part of it may be gone.
                    let restored = object.store.restore(run_of(run), &slot);
                    self.pool.give(slot);
                    restored.and(Err(Errno::BUSY))
                }
                // No memory for a copy, or nothing that was copied: as it is done with a run that
                // may be stored to.
                (outcome, Some(object)) if outcome.is_err() || refused.contains(&place) => {
                    object.store.take_out(&mut self.pool, run_of(run)).map(Some)
                }
                (outcome, Some(object)) => {
                    if object.tracked || !departure.wanted {
                        // A thread that waits to store to a page that was protected faults again,
                        // on a missing page.
                        let _ = object.store.wake(run_of(run));
                    }
                    outcome
                }
                (outcome, None) => outcome,
            };
            let result = match outcome {
                Ok(slot) => {
                    if let Some(slot) = slot {
                        self.slots.insert(extent, slot);
                    }
                    Ok(())
                }
                Err(_) => Err(FailureReason::Busy),
            };
            self.event(CoreEvent::TakenOut { extent, result });
        }
    }

    /// A write that [`begin_writes`](Self::begin_writes) started has ended. Whether the version is
    /// being asked for: the write's end is told after that, so that others' writes after a `sync`
    /// are not taken for this one.
    pub(super) fn eviction_done(&mut self, id: ObjectId) -> bool {
        let Some(object) = self.objects.get_mut(&id) else { return false };
        if !object.guard.as_mut().is_some_and(ForeignWrites::ended) {
            return false;
        }
        if let Some(version) = object_stamp(object.file().map(|file| &**file)) {
            self.version_checked(id, version);
            return false;
        }
        self.check_version(id);
        true
    }
}
