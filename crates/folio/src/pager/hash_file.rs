//! The file for the hashes of pages that memory has no room for. A thread opens, reads, writes and
//! closes it, in the order of the calls: the spill directory may be slow, or stuck.

use super::command::{Command, CommandQueue};
use super::core::ObjectId;
use super::page_hashes::{FILE_BYTES, LeafWrite};
use crate::source::workers::Workers;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// See the module. The file is made at the first write: most objects need none.
pub(super) struct HashFile {
    object: ObjectId,
    inbox: Arc<CommandQueue>,
    /// One at a time, so that a call finds the work of all earlier ones done.
    threads: Workers,
    file: Arc<Mutex<Option<File>>>,
}

impl HashFile {
    pub(super) fn new(object: ObjectId, inbox: &Arc<CommandQueue>) -> Self {
        Self { object, inbox: Arc::clone(inbox), threads: Workers::new(1), file: Arc::default() }
    }

    /// Calls `work` with the file on the thread, and sends the message that `done` makes of the
    /// result.
    fn post<R>(
        &self,
        work: impl FnOnce(&mut Option<File>) -> io::Result<R> + Send + 'static,
        done: impl FnOnce(io::Result<R>) -> Command + Send + 'static,
    ) {
        let (inbox, file) = (Arc::clone(&self.inbox), Arc::clone(&self.file));
        self.threads.post(move |thread| {
            let result = thread
                .and_then(|()| work(&mut file.lock().unwrap_or_else(PoisonError::into_inner)));
            inbox.send(done(result));
        });
    }

    /// Writes leaves into a file in `dir`. The end is a [`Command::LeavesWritten`].
    pub(super) fn write(&self, dir: &Path, writes: Vec<LeafWrite>) {
        let (object, dir) = (self.object, dir.to_owned());
        let leaves = writes.iter().map(|write| (write.leaf, write.number)).collect();
        let work = move |slot: &mut Option<File>| {
            let file = match slot.take() {
                Some(file) => file,
                None => unnamed_file(&dir)?,
            };
            let file = slot.insert(file);
            let mut pieces = writes.iter().flat_map(LeafWrite::pieces);
            pieces.try_for_each(|(offset, bytes)| file.write_all_at(&bytes, offset))
        };
        self.post(work, move |result| Command::LeavesWritten { object, leaves, result });
    }

    /// Reads a leaf that was written. The end is a [`Command::LeafLoaded`].
    pub(super) fn load(&self, leaf: u64) {
        let object = self.object;
        let work = move |slot: &mut Option<File>| {
            let file = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
            let mut bytes = Box::new([0; FILE_BYTES]);
            file.read_exact_at(&mut bytes[..], leaf * FILE_BYTES as u64)?;
            Ok(bytes)
        };
        self.post(work, move |bytes| Command::LeafLoaded { object, leaf, bytes });
    }
}

/// A file without a name.
pub(super) fn unnamed_file(dir: &Path) -> io::Result<File> {
    use rustix::fs::{Mode, OFlags};
    let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, unnamed, Mode::RUSR | Mode::WUSR)?.into())
}
