//! The hashes of evicted pages: a part of the budget holds them, a file holds the rest, and a page
//! that is read again must agree with them.

use super::{Driver, DriverObject, IDLE, Operation, OperationKind, reason_of};
use crate::pager::core::int_hash::IntMap;
use crate::pager::core::{FailureReason, ObjectId};
use crate::pager::page_hashes::{FILE_BYTES, Verification};
use std::io;
use std::time::{Duration, Instant};

/// Bytes of leaves that are given to the file at once, at most.
const BATCH: usize = 1 << 20;
/// Many pages may leave memory at once, and the file takes their hashes a moment later. A file that
/// needs longer than this is too slow.
const SLOW: Duration = Duration::from_millis(500);

impl Driver {
    /// Keeps the hashes within a sixteenth of the budget: the rest goes to a file. Where the file
    /// takes none, or takes them too slowly, they have a quarter of the budget, and the oldest are
    /// given up.
    pub(super) fn spill_hashes(&mut self, id: ObjectId) {
        let bytes = hashes(&self.objects);
        let most = self.config.budget / 16;
        let retry = self.shed_failed.is_none_or(|failed| failed.elapsed() >= IDLE);
        if bytes > most && retry {
            // A little more at once than has to be: a hand-over to the thread costs more than a
            // leaf.
            let excess = (bytes - most / 8 * 7).min(BATCH);
            let victims = self.victims(id);
            let dir = &self.config.spill_dir;
            for id in victims {
                let Some(object) = self.objects.get_mut(&id) else { continue };
                let writes = object.records.spill(excess);
                if !writes.is_empty() {
                    object.hash_file.write(dir, writes);
                    break;
                }
            }
        }
        self.hash_bytes = self.give_up_hashes(id, bytes);
    }

    /// Gives up the oldest hashes, if they take more than a quarter of the budget and the file
    /// refuses them or is too slow. Returns the bytes of the rest.
    fn give_up_hashes(&mut self, id: ObjectId, mut bytes: usize) -> usize {
        let most = self.config.budget / 4;
        if bytes <= most {
            self.hashes_over = None;
            return bytes;
        }
        let since = *self.hashes_over.get_or_insert_with(Instant::now);
        let refused = self.shed_failed.is_some();
        if !refused && since.elapsed() < SLOW {
            return bytes;
        }
        let victims = self.victims(id);
        let mut lost = false;
        while bytes > most
            && victims
                .iter()
                .any(|id| self.objects.get_mut(id).is_some_and(|object| object.records.lose()))
        {
            lost = true;
            bytes = hashes(&self.objects);
        }
        if lost && !refused {
            self.hashes_refused += 1;
            self.hash_refusal = self.hash_refusal.or(Some(libc::ETIMEDOUT));
        }
        bytes
    }

    /// Objects whose hashes may leave memory: this one, and the one with the most.
    fn victims(&self, id: ObjectId) -> [ObjectId; 2] {
        let most = self.objects.iter().max_by_key(|(_, object)| object.records.bytes());
        [id, most.map_or(id, |(&most, _)| most)]
    }

    pub(super) fn leaves_written(
        &mut self,
        id: ObjectId,
        leaves: &[(u64, u64)],
        result: &io::Result<()>,
    ) {
        match result {
            Ok(()) => self.shed_failed = None,
            Err(error) => {
                self.shed_failed = Some(Instant::now());
                self.hashes_refused += 1;
                self.hash_refusal = error.raw_os_error().or(self.hash_refusal);
            }
        }
        if let Some(object) = self.objects.get_mut(&id) {
            for &(leaf, number) in leaves {
                object.records.written(leaf, number, result.is_ok());
            }
        }
        self.spill_hashes(id);
        self.keep_budget();
    }

    /// The bytes of a read are there: the rest of the last page is zeroed, and pages that the
    /// program has seen must not have changed. `None` if a leaf of hashes has to be read first.
    pub(super) fn finish_read(&mut self, op: Operation) -> Option<Result<(), FailureReason>> {
        let Some(object) = self.objects.get_mut(&op.object) else {
            return Some(Err(FailureReason::PastEnd));
        };
        let room = op.run.len as usize * self.page;
        // SAFETY: the slot is `room` bytes, and this thread's alone again.
        let bytes = unsafe {
            op.buffer.add(op.len).write_bytes(0, room - op.len);
            std::slice::from_raw_parts(op.buffer, room)
        };
        if object.constant || object.leaving {
            return Some(Ok(()));
        }
        match object.records.verify(op.run, bytes) {
            Verification::Same => Some(Ok(())),
            Verification::Other => Some(Err(FailureReason::Changed)),
            Verification::Lost => {
                let rule = "the budget has no room for the hashes of pages, and the spill directory takes none in time: whether \
                            this page is as it was shown cannot be known";
                Some(Err(reason_of(&io::Error::new(io::ErrorKind::StorageFull, rule))))
            }
            Verification::Unloaded(leaf) => {
                if object.unjudged.iter().all(|&(other, _)| other != leaf) {
                    object.hash_file.load(leaf);
                }
                object.unjudged.push((leaf, op));
                None
            }
        }
    }

    /// The reads that waited for a leaf are judged, or fail with it.
    pub(super) fn leaf_loaded(
        &mut self,
        id: ObjectId,
        leaf: u64,
        bytes: io::Result<Box<[u8; FILE_BYTES]>>,
    ) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let result = bytes.map(|bytes| object.records.loaded(leaf, &bytes)).map_err(|error| {
            let text =
                format!("the hashes of its pages cannot be read from the spill directory: {error}");
            reason_of(&io::Error::new(error.kind(), text))
        });
        let waited =
            object.unjudged.extract_if(.., |&mut (other, _)| other == leaf).map(|(_, op)| op);
        for op in waited.collect::<Vec<_>>() {
            let extent = op.extent;
            let outcome = match &result {
                Ok(()) => self.finish_read(op),
                Err(reason) => Some(Err(reason.clone())),
            };
            if let Some(outcome) = outcome {
                self.report(extent, id, OperationKind::Read, outcome);
            }
        }
        self.spill_hashes(id);
        self.keep_budget();
    }

    /// The reads of an object without handles wait for no hashes.
    pub(super) fn end_unjudged(&mut self, id: ObjectId) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        for (_, op) in std::mem::take(&mut object.unjudged) {
            self.report(op.extent, id, OperationKind::Read, Err(FailureReason::PastEnd));
        }
    }
}

fn hashes(objects: &IntMap<ObjectId, DriverObject>) -> usize {
    objects.values().map(|object| object.records.bytes()).sum()
}
