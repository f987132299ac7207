//! The actions of the core on maps and buffers.

use super::{Driver, DriverObject, PendingEviction, run_of};
use crate::pager::core::{
    CoreAction, CoreEvent, ExtentId, FailureReason, ObjectId, PageRun, Stability, StoreAccess,
};
use crate::pager::merge::PreImages;
use crate::pager::store::{self, BufferSlot};
use crate::sys::Errno;

impl Driver {
    /// Does what the core wants; an outcome that is known at once is returned.
    pub(super) fn perform(&mut self, action: CoreAction) -> Option<CoreEvent> {
        match action {
            CoreAction::Read { extent, object, run, from } => {
                let result = self.read(extent, object, run, from);
                result.transpose().map(|result| CoreEvent::ReadDone { extent, result })
            }
            CoreAction::Install { extent, object, run, mode, keep } => {
                let result = self.install(extent, object, run, mode, keep);
                Some(CoreEvent::Installed { extent, result })
            }
            CoreAction::TakeOut { extent, object, run, bytes } => {
                let this = self.objects.get_mut(&object)?;
                let together = match bytes {
                    Stability::MayChange => false,
                    Stability::Unchanging => this.store.copies(run_of(run)),
                    Stability::Unneeded => this.store.forgets(),
                };
                if together {
                    let wanted = bytes != Stability::Unneeded;
                    self.departing.push(PendingEviction { extent, object, run, wanted });
                    return None;
                }
                let taken = this.store.take_out(&mut self.pool, run_of(run));
                let result = self.fill(extent, taken);
                Some(CoreEvent::TakenOut { extent, result })
            }
            CoreAction::Copy { extent, object, run, protect } => {
                let this = self.objects.get_mut(&object)?;
                let copied = this.store.snapshot(&mut self.pool, run_of(run), protect);
                if let Some(images) = this.images.as_mut().filter(|_| !protect && copied.is_ok()) {
                    images.copied_unprotected(extent);
                }
                let result = self.fill(extent, copied);
                Some(CoreEvent::Copied { extent, result })
            }
            CoreAction::Unprotect { object, run } => {
                self.keep_image(object, run);
                // A page that left the map meanwhile faults again.
                let _ = self.objects.get_mut(&object)?.store.unprotect(run_of(run));
                None
            }
            CoreAction::Write { extent, object, run, to } => {
                let result = self.write(extent, object, run, to);
                if !matches!(result, Ok(None)) {
                    self.write_ended(object, extent, result.is_ok());
                }
                result.transpose().map(|result| CoreEvent::WriteDone { extent, result })
            }
            CoreAction::Discard { extent, object, run, last, shown } => {
                self.discard(extent, object, run, last, shown);
                None
            }
            CoreAction::Flush { object } => {
                self.flush(object).map(|result| CoreEvent::Flushed { object, result })
            }
            CoreAction::Poison { object, page, reason } => {
                let marks = self.config.marks;
                let _ = self.objects.get_mut(&object)?.store.poison(
                    page as usize,
                    marks,
                    &reason.to_string(),
                );
                None
            }
            CoreAction::Unpoison { object, page } => {
                let _ = self.objects.get_mut(&object)?.store.unpoison(page as usize);
                None
            }
            CoreAction::Wake { object, run } => {
                let _ = self.objects.get_mut(&object)?.store.wake(run_of(run));
                None
            }
            CoreAction::Reply { ticket, result } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    // The caller may have gone.
                    let _ = reply.send(result);
                }
                None
            }
            CoreAction::Detached { object } => {
                if let Some(object) = self.objects.remove(&object) {
                    self.areas.remove(&object.store.address());
                    let DriverObject { caller, reach, records, hash_file, spill, held, .. } =
                        object;
                    caller.drop_all(held, (reach, records, hash_file, spill));
                }
                None
            }
        }
    }

    pub(super) fn fill(
        &mut self,
        extent: ExtentId,
        slot: Result<BufferSlot, Errno>,
    ) -> Result<(), FailureReason> {
        match slot {
            Ok(slot) => {
                self.slots.insert(extent, slot);
                Ok(())
            }
            Err(_) => Err(FailureReason::Busy),
        }
    }

    pub(super) fn install(
        &mut self,
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        mode: StoreAccess,
        keep: bool,
    ) -> Result<(), FailureReason> {
        let (Some(object), Some(slot)) = (self.objects.get_mut(&object), self.slots.remove(extent))
        else {
            return Err(FailureReason::PastEnd);
        };
        if mode == StoreAccess::Writable
            && let Some(images) = object.images.as_mut().filter(|images| images.lacks(run))
        {
            // SAFETY: the slot holds the run's bytes, outside the map, and only this thread has it.
            images.keep(run, unsafe {
                std::slice::from_raw_parts(slot.buffer(), slot.pages() * self.page)
            });
            self.imaged = true;
        }
        let mode = match mode {
            StoreAccess::ReadOnly => store::InstallMode::ReadOnly,
            StoreAccess::Protected => store::InstallMode::Protected,
            StoreAccess::Writable => store::InstallMode::Writable,
        };
        match object.store.install(&mut self.pool, run_of(run), slot, mode, keep) {
            Ok(kept) => {
                if let Some(slot) = kept {
                    self.slots.insert(extent, slot);
                }
                Ok(())
            }
            Err((slot, errno)) => {
                self.slots.insert(extent, slot);
                Err(FailureReason::Refused { errno: errno.raw_os_error() })
            }
        }
    }

    pub(super) fn discard(
        &mut self,
        extent: ExtentId,
        id: ObjectId,
        run: PageRun,
        last: bool,
        shown: bool,
    ) {
        if let Some(images) =
            self.objects.get_mut(&id).and_then(|object| object.images.as_mut()).filter(|_| last)
        {
            images.forget(extent, run);
        }
        let Some(slot) = self.slots.remove(extent) else { return };
        let Some(object) = self.objects.get_mut(&id) else { return self.pool.give(slot) };
        if shown && !object.constant {
            // SAFETY: the slot holds the run's bytes, outside the map, and only this thread has it.
            let bytes =
                unsafe { std::slice::from_raw_parts(slot.buffer(), slot.pages() * self.page) };
            object.records.insert(run, bytes);
            self.spill_hashes(id);
        }
        let Some(object) = self.objects.get_mut(&id) else { return self.pool.give(slot) };
        if last {
            let _ = object.store.discard(&mut self.pool, run_of(run), slot);
        } else {
            self.pool.give(slot);
        }
    }

    /// Idle slots hold memory that the core takes for free: it is given back before the budget is
    /// passed.
    pub(super) fn keep_budget(&mut self) {
        let images = self.objects.values().filter_map(|object| object.images.as_ref());
        let images: usize = if self.config.merges { images.map(PreImages::bytes).sum() } else { 0 };
        self.core.set_other_records(self.hash_bytes + self.slots.bytes() + images);
        let records = self.core.record_bytes();
        let used = self.core.used() as usize * self.page + records + self.pool.resident_idle();
        if used > self.config.budget {
            self.pool.trim((used - self.config.budget).max(256 << 10));
        }
    }
}
