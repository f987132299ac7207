//! The limit for dirty pages: a part of the memory is for clean ones, so that reads of other maps
//! go on.
//!
//! A store over the limit waits until write-back has made room. If none is made within the object's
//! deadline, the store fails for the reason of the failed write-back. Pages that are pinned for
//! stores do not count, since the pins have a limit of their own.

use super::extents::{Disposal, Extent, ExtentId, ExtentState};
use super::page_in::Stalled;
use super::writeback::{WINDOW, dirty_since, may_retry};
use super::{Core, FailureReason, ObjectId, PinnedRange, Ticket};

/// Write-back for waiting stores is started so often, in microseconds.
const PACE: u64 = 1_000;
/// And so often while no write can be started: each look goes through all dirty extents.
const IDLE_PACE: u64 = 20_000;

/// A pin for stores that waits for write-back.
#[derive(Debug)]
pub(crate) struct WaitingPin {
    pub(super) object: ObjectId,
    pub(super) pin: PinnedRange,
    pub(super) ticket: Ticket,
    since: u64,
}

/// The stores that wait for write-back.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    pub(super) stores: std::collections::VecDeque<Stalled>,
    pub(super) pins: std::collections::VecDeque<WaitingPin>,
    /// Stores that failed, and why: their pages leave the map first.
    pub(super) refused: Vec<(ObjectId, u64, FailureReason)>,
    /// When write-back may be started for them again.
    next: u64,
}

impl Throttle {
    /// Whether stores wait for write-back.
    pub(super) fn waits(&self) -> bool {
        !self.stores.is_empty() || !self.pins.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.waits() && self.refused.is_empty()
    }
}

impl Core {
    /// How many more pages of an object may become dirty: one object has three quarters of the
    /// pages that are not pinned, all together seven eighths.
    pub(super) fn may_dirty(&self, object: ObjectId) -> u64 {
        let Some(this) = self.objects.get(&object) else { return 0 };
        let rest = self.limit().saturating_sub(self.pinned);
        let room = |share: u64, unwritten: u64, held: u64| {
            (rest * share / 8).max(1).saturating_sub(unwritten.saturating_sub(held))
        };
        let mine = room(6, this.dirty + this.writing, this.pins.held());
        mine.min(room(7, self.dirty + self.writing, self.held))
    }

    /// Whether a pin for stores has to wait for write-back. With nothing to write, it has not.
    pub(super) fn pin_waits(&self, object: ObjectId, pin: PinnedRange) -> bool {
        let Some(this) = self.objects.get(&object).filter(|this| this.traits.tracked && pin.stores)
        else {
            return false;
        };
        let dirty = this.table.extents_in(pin.first, pin.end).into_iter().map(|id| {
            let Extent { run, dirty, writing, .. } = &self.extents[id];
            let pages = run.end().min(pin.end) - run.first.max(pin.first);
            if *dirty || *writing { pages } else { 0 }
        });
        let more = this.pins.unheld_in(pin.first, pin.end).saturating_sub(dirty.sum());
        more > self.may_dirty(object) && self.dirty + self.writing > self.held
    }

    /// A store to a protected page waits for write-back.
    pub(super) fn throttle(&mut self, object: ObjectId, page: u64, since: u64) {
        if !self.throttle.stores.iter().any(|fault| (fault.object, fault.page) == (object, page)) {
            self.throttle.stores.push_back(Stalled { object, page, write: true, since });
        }
    }

    pub(super) fn hold_back(&mut self, object: ObjectId, pin: PinnedRange, ticket: Ticket) {
        self.throttle.pins.push_back(WaitingPin { object, pin, ticket, since: self.now });
    }

    /// Waiting stores go on, as far as there is room for dirty pages.
    pub(super) fn pump_throttled(&mut self) {
        for _ in 0..self.throttle.stores.len() {
            let Some(fault) = self.throttle.stores.pop_front() else { break };
            let Some(this) = self.objects.get(&fault.object).filter(|object| !object.leaving)
            else {
                continue;
            };
            let extent = this.table.extent_at(fault.page);
            let dirty = extent.is_some_and(|id| self.extents[id].dirty);
            match extent {
                _ if !dirty && self.may_dirty(fault.object) == 0 => {
                    self.throttle.stores.push_back(fault);
                }
                Some(id) => self.fault_in_extent(id, fault.page, true, fault.since),
                None => self.missing(fault),
            }
        }
        for _ in 0..self.throttle.pins.len() {
            let Some(held) = self.throttle.pins.pop_front() else { break };
            if self.pin_waits(held.object, held.pin) {
                self.throttle.pins.push_back(held);
            } else {
                self.pin(held.object, held.pin, held.ticket);
            }
        }
        if self.throttle.waits() && self.throttle.next <= self.now {
            let before = (self.write_number, self.leaving);
            self.write_back_old();
            self.spill_old();
            let started = (self.write_number, self.leaving) != before;
            self.throttle.next = self.now + if started { PACE } else { IDLE_PACE };
        }
        self.pump_refused();
    }

    /// A private page became dirty. Entries whose extents are clean again go away in time.
    pub(super) fn dirtied_private(&mut self, id: ExtentId) {
        if self.private_order.len() as u64 > 64 + 2 * self.dirty {
            let extents = &self.extents;
            self.private_order
                .retain(|&(id, at)| extents.get(id).is_some_and(|extent| dirty_since(extent, at)));
        }
        self.private_order.push_back((id, self.now));
    }

    /// Takes old dirty private pages out of their maps, so that they are written.
    fn spill_old(&mut self) {
        let mut room = WINDOW;
        for _ in 0..self.private_order.len() {
            if room == 0 {
                break;
            }
            let Some((id, at)) = self.private_order.pop_front() else { break };
            let Some(extent) = self.extents.get(id).filter(|extent| dirty_since(extent, at)) else {
                continue;
            };
            self.private_order.push_back((id, at));
            let due = may_retry(extent, self.now);
            let idle = extent.place == ExtentState::Installed
                && !extent.writing
                && extent.waiters.is_empty();
            let free =
                idle && self.may_write(extent.object) && !self.is_pinned(extent.object, extent.run);
            if due && free {
                self.take_out(id);
                room -= 1;
            }
        }
    }

    /// Waiting stores that waited too long fail.
    pub(super) fn expire_throttled(&mut self) {
        let now = self.now;
        let late = |core: &Self, object: ObjectId, since: u64| {
            core.objects.get(&object).is_none_or(|this| since + this.traits.deadline <= now)
        };
        for fault in std::mem::take(&mut self.throttle.stores) {
            if late(self, fault.object, fault.since) {
                let reason = self.still_dirty(fault.object);
                self.throttle.refused.push((fault.object, fault.page, reason));
            } else {
                self.throttle.stores.push_back(fault);
            }
        }
        for held in std::mem::take(&mut self.throttle.pins) {
            if late(self, held.object, held.since) {
                let reason = self.still_dirty(held.object);
                self.reply(held.ticket, Err(Self::failure(held.pin.first, &reason)));
            } else {
                self.throttle.pins.push_back(held);
            }
        }
    }

    /// Why no page of an object may become dirty.
    pub(super) fn still_dirty(&self, object: ObjectId) -> FailureReason {
        let own = self.objects.get(&object).and_then(|object| object.unwritten.as_ref());
        match own.map_or_else(|| self.no_memory(), Self::unwritten) {
            FailureReason::NoMemory => FailureReason::Deadline,
            reason => reason,
        }
    }

    /// The pages of failed stores leave their maps and are poisoned: only a missing page can be.
    fn pump_refused(&mut self) {
        for (object, page, reason) in std::mem::take(&mut self.throttle.refused) {
            let Some(this) = self.objects.get(&object).filter(|object| !object.leaving) else {
                continue;
            };
            let Some(id) = this.table.extent_at(page) else {
                self.fail(object, page, true, &reason);
                continue;
            };
            let extent = &self.extents[id];
            let idle = !extent.writing && extent.waiters.is_empty();
            let pinned = self.is_pinned(object, extent.run);
            match extent.place {
                // Another store made it dirty meanwhile.
                ExtentState::Installed if !extent.protected => {
                    self.fault_in_extent(id, page, true, self.now);
                    continue;
                }
                ExtentState::Buffered if extent.dirty => {
                    self.fault_in_extent(id, page, true, self.now);
                    continue;
                }
                // The page cannot leave. As a dirty page it takes no more memory.
                ExtentState::Installed if pinned && idle => {
                    self.make_writable(id, page);
                    continue;
                }
                ExtentState::Installed if idle => {
                    self.extents[id].doom = Disposal::WhenClean;
                    self.take_out(id);
                }
                ExtentState::Buffered if idle => {
                    self.no_longer_ahead(id);
                    self.drop_extent(id);
                    self.fail(object, page, true, &reason);
                    continue;
                }
                _ => {}
            }
            self.throttle.refused.push((object, page, reason));
        }
    }
}
