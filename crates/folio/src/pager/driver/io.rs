//! Reads, writes and flushes of sources: their start, the checks of versions, and their end.

use super::{
    Driver, DriverObject, Operation, OperationKind, gave_up_direct, object_stamp, reason_of,
    run_of, spill_file,
};
use crate::pager::core::{Backing, CoreEvent, ExtentId, FailureReason, ObjectId, PageRun};
use crate::pager::file_io::{FileIo, FileOperation};
use crate::pager::foreign_writes::Admission;
use crate::pager::merge::WriteParts;
use crate::pager::source_facts::{SourceAccess, VersionRule};
use crate::source::file::stamp::{ReadVerdict, Settling, Stamp};
use crate::source::request::{FlushRequest, ReadRequest, Sink, WriteRequest};
use crate::source::{LocalFile, Version};
use crate::sys::Errno;
use std::io;
use std::ops::Range;
use std::sync::Arc;

impl Driver {
    /// Starts to read a run; `Some` if it ended at once.
    pub(super) fn read(
        &mut self,
        extent: ExtentId,
        id: ObjectId,
        run: PageRun,
        from: Backing,
    ) -> Result<Option<()>, FailureReason> {
        let refused = |errno: Errno| FailureReason::Refused { errno: errno.raw_os_error() };
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        if from == Backing::Source
            && let Some(slot) = object.in_source(run, self.page)
        {
            self.slots.insert(extent, slot);
            self.keep_budget();
            return Ok(Some(()));
        }
        let slot = object.store.stage(&mut self.pool, run_of(run)).map_err(refused)?;
        let buffer = slot.buffer();
        let room = slot.pages() * self.page;
        self.slots.insert(extent, slot);
        self.keep_budget();
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        let offset = run.first * self.page as u64;
        let len = (object.len - offset.min(object.len)).min(room as u64) as usize;
        let op = Operation {
            extent,
            object: id,
            kind: OperationKind::Read,
            buffer,
            offset,
            len,
            done: 0,
            run,
            backing: from,
            file: None,
            settling: None,
        };
        if from == Backing::Spill {
            return self.start(op).map(|()| None);
        }
        match object.reach {
            SourceAccess::File(_) => self.start(op).map(|()| None),
            SourceAccess::Zeros => {
                // SAFETY: the slot is `room` bytes, and this thread's alone.
                unsafe { buffer.write_bytes(0, room) };
                self.finish_read(op).transpose()
            }
            SourceAccess::Bytes(address, all) => {
                if offset as usize + len > all {
                    return Err(FailureReason::Short);
                }
                // SAFETY: as above. The source's bytes are there while it lives, which the object
                // sees to, and are not the pool's.
                unsafe {
                    buffer
                        .copy_from_nonoverlapping((address as *const u8).add(offset as usize), len);
                };
                self.finish_read(op).transpose()
            }
            SourceAccess::Requests | SourceAccess::Constant | SourceAccess::SlowFile(_) => {
                self.next += 1;
                let number = self.next;
                let sink = object.caller.reads();
                self.ops.insert(number, op);
                // SAFETY: the slot is the operation's until it ends, and anonymous memory is
                // initialised. The driver, and with it the pool, lives until every operation has
                // ended.
                let request = unsafe { ReadRequest::new(offset, buffer, len, sink, number) };
                self.batches.entry(id).or_default().reads.push(request);
                Ok(None)
            }
        }
    }

    /// Starts what is left of an operation on a file.
    pub(super) fn start(&mut self, mut op: Operation) -> Result<(), FailureReason> {
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        let file = match op.backing {
            Backing::Spill => object.spill.as_ref(),
            Backing::Source => object.file(),
        };
        let file = Arc::clone(file.ok_or(FailureReason::PastEnd)?);
        let settles = op.kind == OperationKind::Read
            && op.backing == Backing::Source
            && object.shows == VersionRule::Pages;
        if settles && op.settling.is_none() {
            op.settling = Some(Settling::new(self.stamp(op.object)?));
        }
        let at = op.buffer.wrapping_add(op.done);
        let offset = op.offset + op.done as u64;
        let operation = match op.kind {
            OperationKind::Read => {
                // Room for whole blocks keeps the tail of the file direct.
                let room = op.run.len as usize * self.page - op.done;
                let plan = file.plan_read(offset, room, at as usize);
                FileOperation::Read { fd: plan.fd, to: at, len: plan.len, offset }
            }
            OperationKind::Write => {
                if op.backing == Backing::Source {
                    file.check_inside(offset, op.len - op.done)
                        .map_err(|error| reason_of(&error))?;
                }
                let plan = file.plan_write(offset, op.len - op.done, at as usize);
                FileOperation::Write { fd: plan.fd, from: at, len: plan.len, offset }
            }
            OperationKind::Flush => FileOperation::Sync { fd: file.flush_fd() },
        };
        self.next += 1;
        let number = self.next;
        // SAFETY: the slot stays until the operation has ended, and so does the file, which the
        // operation has.
        let started = unsafe {
            if file.is_local() {
                self.disk.start(operation, number)
            } else {
                // A spill file: a source that is not local is called by its own threads.
                FileIo::start_on(file.threads(), operation, number, &self.inbox);
                Ok(())
            }
        };
        started.map_err(|error| reason_of(&error))?;
        op.file = Some(file);
        self.ops.insert(number, op);
        Ok(())
    }

    /// An operation ended, or a part of it.
    pub(super) fn ended(&mut self, number: u64, result: io::Result<usize>) {
        let Some(mut op) = self.ops.remove(&number) else { return };
        let (extent, object, kind) = (op.extent, op.object, op.kind);
        let op_counts = op.backing == Backing::Source
            && (kind == OperationKind::Write
                || (kind == OperationKind::Flush && op.file.is_none()));
        let outcome = match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && gave_up_direct(&op) => None,
            Err(error) => Some(Err(reason_of(&error))),
            Ok(count)
                if op.file.is_none()
                    && kind != OperationKind::Flush
                    && count > op.len - op.done =>
            {
                let message = "it claims more bytes than there was room for".into();
                Some(Err(FailureReason::Source { message, errno: None }))
            }
            Ok(count) => {
                op.done = (op.done + count).min(op.len.max(op.done));
                let goes_on = count > 0 && op.file.is_some();
                match kind {
                    OperationKind::Flush => Some(Ok(())),
                    OperationKind::Read if op.done >= op.len => match self.judge(&mut op) {
                        Ok(ReadVerdict::Settled) => {
                            if let Some(outcome) = self.finish_read(op) {
                                self.report(extent, object, kind, outcome);
                            }
                            return;
                        }
                        Ok(ReadVerdict::Again) => {
                            op.done = 0;
                            None
                        }
                        Ok(ReadVerdict::Torn) => Some(Err(FailureReason::Changed)),
                        Err(reason) => Some(Err(reason)),
                    },
                    OperationKind::Write if op.done >= op.len => Some(Ok(())),
                    _ if goes_on => None,
                    _ => Some(Err(FailureReason::Short)),
                }
            }
        };
        if let Some(outcome) = outcome.or_else(|| self.start(op).err().map(Err)) {
            // The disk's flush is not counted.
            if op_counts && self.eviction_done(object) {
                if let Some(this) = self.objects.get_mut(&object) {
                    this.late = Some((extent, kind, outcome));
                }
                return;
            }
            self.report(extent, object, kind, outcome);
        }
    }

    pub(super) fn report(
        &mut self,
        extent: ExtentId,
        object: ObjectId,
        kind: OperationKind,
        result: Result<(), FailureReason>,
    ) {
        if kind == OperationKind::Write {
            self.write_ended(object, extent, result.is_ok());
        }
        self.event(match kind {
            OperationKind::Read => CoreEvent::ReadDone { extent, result },
            OperationKind::Write => CoreEvent::WriteDone { extent, result },
            OperationKind::Flush => CoreEvent::Flushed { object, result },
        });
    }

    /// The stamp of an object's file, asked for since the last operation ended. The file is on a
    /// local file system, so the answer comes at once.
    pub(super) fn stamp(&mut self, id: ObjectId) -> Result<Stamp, FailureReason> {
        if let Some(stamp) = self.stamps.get(&id) {
            return Ok(*stamp);
        }
        let file =
            self.objects.get(&id).and_then(DriverObject::file).ok_or(FailureReason::PastEnd)?;
        let stamp = file.stamp().map_err(|error| reason_of(&error))?;
        self.stamps.insert(id, stamp);
        Ok(stamp)
    }

    /// Whether the bytes that were read are the source's at one moment, and of the version that the
    /// map shows.
    pub(super) fn judge(&mut self, op: &mut Operation) -> Result<ReadVerdict, FailureReason> {
        if op.backing == Backing::Spill {
            return Ok(ReadVerdict::Settled);
        }
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        // The callers of other sources look at their versions.
        if object.file().is_none() {
            return Ok(ReadVerdict::Settled);
        }
        match object.shows {
            VersionRule::Version(version) => {
                let same = self.stamp(op.object)?.version() == version;
                if same { Ok(ReadVerdict::Settled) } else { Err(FailureReason::Changed) }
            }
            VersionRule::Pages => {
                let after = self.stamp(op.object)?;
                // SAFETY: the slot is as long as the run, and this thread's alone again; `len`
                // bytes of it were read.
                let bytes = unsafe { std::slice::from_raw_parts(op.buffer, op.len) };
                Ok(op
                    .settling
                    .as_mut()
                    .map_or(ReadVerdict::Settled, |settling| settling.judge(after, bytes)))
            }
            VersionRule::Any => Ok(ReadVerdict::Settled),
        }
    }

    /// Starts to write a run; `Some` if it ended at once.
    pub(super) fn write(
        &mut self,
        extent: ExtentId,
        id: ObjectId,
        run: PageRun,
        to: Backing,
    ) -> Result<Option<()>, FailureReason> {
        let offset = run.first * self.page as u64;
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        let buffer = self.slots.get(extent).ok_or(FailureReason::PastEnd)?.buffer();
        let mut len = (object.len - offset.min(object.len))
            .min(u64::from(run.len) * self.page as u64) as usize;
        if to == Backing::Spill {
            len = run.len as usize * self.page;
        }
        let op = Operation {
            extent,
            object: id,
            kind: OperationKind::Write,
            buffer,
            offset,
            len,
            done: 0,
            run,
            backing: to,
            file: None,
            settling: None,
        };
        if to == Backing::Spill && object.spill.is_none() {
            object.awaiting.push(op);
            if object.awaiting.len() == 1 {
                let (dir, len) =
                    (self.config.spill_dir.clone(), object.len.next_multiple_of(self.page as u64));
                object.caller.make_spill(id, move || spill_file(&dir, len));
            }
            return Ok(None);
        }
        if to == Backing::Source && object.images.is_some() {
            return self.write_parts(op);
        }
        self.begin_writes(op).map(|()| None)
    }

    /// Starts a write, or keeps it until it is known that nobody else has written. A write that
    /// waits ends as any other.
    pub(super) fn begin_writes(&mut self, op: Operation) -> Result<(), FailureReason> {
        let id = op.object;
        let Some(object) = self.objects.get_mut(&id) else { return Err(FailureReason::PastEnd) };
        let file = object.file().cloned();
        let guard = object.guard.as_mut().filter(|_| op.backing == Backing::Source);
        let Some(guard) = guard else { return self.launch(op) };
        let op = match guard.admit(op) {
            Admission::Now(op) => op,
            Admission::Later { look: false } => return Ok(()),
            Admission::Later { look: true } => match object_stamp(file.as_deref()) {
                None => {
                    self.check_version(id);
                    return Ok(());
                }
                // Only this one waits.
                Some(version) => match guard.looked(version) {
                    Ok(mut writes) => writes.pop().ok_or(FailureReason::PastEnd)?,
                    Err((_, reason)) => return Err(reason),
                },
            },
            Admission::Never => return Err(FailureReason::Changed),
        };
        self.launch(op).inspect_err(|_| _ = self.eviction_done(id))
    }

    /// Asks for the version of a source that is written: on another thread, since the source may
    /// block.
    pub(super) fn check_version(&self, id: ObjectId) {
        if let Some(object) = self.objects.get(&id) {
            object.caller.ask_version(id, object.reach.file().cloned());
        }
    }

    pub(super) fn version_checked(
        &mut self,
        id: ObjectId,
        version: Result<Version, FailureReason>,
    ) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let late = object.late.take();
        let Some(guard) = object.guard.as_mut() else { return };
        match guard.looked(version) {
            Ok(writes) => {
                for op in writes {
                    let (extent, kind) = (op.extent, op.kind);
                    if let Err(reason) = self.launch(op) {
                        self.eviction_done(id);
                        self.report(extent, id, kind, Err(reason));
                    }
                }
            }
            Err((writes, reason)) => {
                for op in writes {
                    self.report(op.extent, id, op.kind, Err(reason.clone()));
                }
            }
        }
        if let Some((extent, kind, outcome)) = late {
            self.report(extent, id, kind, outcome);
        }
    }

    /// An extent's write has ended, whichever way it was made.
    pub(super) fn write_ended(&mut self, id: ObjectId, extent: ExtentId, written: bool) {
        if let Some(images) = self.objects.get_mut(&id).and_then(|object| object.images.as_mut()) {
            images.ended(extent, written);
        }
    }

    /// Keeps the bytes of a run in the map that can be stored to from now on.
    pub(super) fn keep_image(&mut self, id: ObjectId, run: PageRun) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let Some(images) = object.images.as_mut().filter(|images| images.lacks(run)) else {
            return;
        };
        if let Ok(bytes) = object.store.bytes_of(run_of(run)) {
            images.keep(run, &bytes);
        }
        self.imaged = true;
    }

    /// Writes the bytes of a run that were stored; `Some` if there are none.
    pub(super) fn write_parts(&mut self, op: Operation) -> Result<Option<()>, FailureReason> {
        let object = self.objects.get_mut(&op.object).ok_or(FailureReason::PastEnd)?;
        let images = object.images.as_mut().ok_or(FailureReason::PastEnd)?;
        let (buffer, len, offset) = (op.buffer, op.len, op.offset);
        // SAFETY: nobody changes a buffer that is being written.
        let bytes = unsafe { std::slice::from_raw_parts(buffer, op.run.len as usize * self.page) };
        let ranges = images.begin(op.extent, op.run, bytes, len);
        if ranges.is_empty() {
            return Ok(Some(()));
        }
        self.next += 1;
        let number = self.next;
        let id = op.object;
        self.ops.insert(number, op);
        let lengths = ranges.iter().map(Range::len).collect();
        let sink = Arc::clone(&self.inbox) as Arc<dyn Sink>;
        let parts = Arc::new(WriteParts::new(sink, number, len, lengths)) as Arc<dyn Sink>;
        let requests = ranges.iter().zip(0..).map(|(range, part)| {
            let (at, sink) = (offset + range.start as u64, Arc::clone(&parts));
            // SAFETY: the range lies in the buffer, which nobody changes before the last of these
            // writes has ended.
            unsafe { WriteRequest::new(at, buffer.add(range.start), range.len(), sink, part) }
        });
        self.batches.entry(id).or_default().writes.extend(requests);
        Ok(None)
    }

    /// Gives an operation to the disk, or a write or a flush to the source.
    pub(super) fn launch(&mut self, op: Operation) -> Result<(), FailureReason> {
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        if op.backing == Backing::Spill || object.file().is_some() {
            return self.start(op);
        }
        let (id, kind, offset, buffer, len) = (op.object, op.kind, op.offset, op.buffer, op.len);
        self.next += 1;
        let number = self.next;
        let sink = object.caller.writes();
        self.ops.insert(number, op);
        let batch = self.batches.entry(id).or_default();
        if kind == OperationKind::Flush {
            batch.flush = Some(FlushRequest::new(sink, number));
            return Ok(());
        }
        // SAFETY: nobody changes a buffer that is being written, and it stays until the operation
        // has ended.
        batch.writes.push(unsafe { WriteRequest::new(offset, buffer, len, sink, number) });
        Ok(())
    }

    /// An object's spill file was made, or cannot be made.
    pub(super) fn spill_made(&mut self, id: ObjectId, file: io::Result<LocalFile>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let awaiting = std::mem::take(&mut object.awaiting);
        let made =
            file.map(|file| object.spill = Some(Arc::new(file))).map_err(|error| reason_of(&error));
        for op in awaiting {
            let extent = op.extent;
            if let Err(reason) = made.clone().and_then(|()| self.start(op)) {
                self.report(extent, id, OperationKind::Write, Err(reason));
            }
        }
    }

    /// Starts to make an object's writes durable; `Some` if that ended at once.
    pub(super) fn flush(&mut self, id: ObjectId) -> Option<Result<(), FailureReason>> {
        let object = self.objects.get(&id)?;
        let op = Operation {
            extent: ExtentId(u32::MAX),
            object: id,
            kind: OperationKind::Flush,
            buffer: std::ptr::null_mut(),
            offset: 0,
            len: 0,
            done: 0,
            run: PageRun::default(),
            backing: Backing::Source,
            file: None,
            settling: None,
        };
        if object.file().is_some() {
            // Changes no time of the file.
            return self.start(op).err().map(Err);
        }
        self.begin_writes(op).err().map(Err)
    }

    /// Gives what was started to the sources.
    pub(super) fn dispatch_requests(&mut self) {
        for (id, batch) in std::mem::take(&mut self.batches) {
            if let Some(object) = self.objects.get(&id) {
                object.caller.give(batch);
            }
        }
    }
}
