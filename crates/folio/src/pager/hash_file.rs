//! The file to which the hashes of pages go that memory has no room for. A thread of its own opens, reads,
//! writes and closes it, in the order of the calls: the spill directory may be slow, or stuck.

use super::core::ObjectId;
use super::inbox::{Inbox, Message};
use super::records::{FILE_BYTES, LeafWrite};
use crate::source::workers::Workers;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// See the module. Made without a file: most objects need none.
pub(super) struct HashFile {
    object: ObjectId,
    inbox: Arc<Inbox>,
    open: Option<Open>,
}

struct Open {
    threads: Workers,
    file: Arc<Slot>,
}

/// The file, once the thread has made it.
#[derive(Default)]
struct Slot(Mutex<Option<File>>);

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Option<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, dir: &Path, writes: &[LeafWrite]) -> io::Result<()> {
        let mut slot = self.lock();
        let file = match slot.take() {
            Some(file) => file,
            None => unnamed_file(dir)?,
        };
        let file = slot.insert(file);
        let mut pieces = writes.iter().flat_map(|write| &write.pieces);
        pieces.try_for_each(|(offset, bytes)| file.write_all_at(bytes, *offset))
    }

    fn load(&self, leaf: u64) -> io::Result<Box<[u8; FILE_BYTES]>> {
        let slot = self.lock();
        let file = slot.as_ref().ok_or(io::ErrorKind::NotFound)?;
        let mut bytes = Box::new([0; FILE_BYTES]);
        file.read_exact_at(&mut bytes[..], leaf * FILE_BYTES as u64)?;
        Ok(bytes)
    }
}

impl HashFile {
    pub(super) fn new(object: ObjectId, inbox: &Arc<Inbox>) -> Self {
        Self { object, inbox: Arc::clone(inbox), open: None }
    }

    fn open(&mut self) -> &Open {
        self.open.get_or_insert_with(|| Open { threads: Workers::new(1), file: Arc::default() })
    }

    /// Writes leaves into a file in `dir`. Their end is a [`Message::LeavesWritten`].
    pub(super) fn write(&mut self, dir: &Path, writes: Vec<LeafWrite>) {
        let (object, inbox, dir) = (self.object, Arc::clone(&self.inbox), dir.to_owned());
        let open = self.open();
        let file = Arc::clone(&open.file);
        open.threads.post(move |thread| {
            let result = thread.and_then(|()| file.write(&dir, &writes));
            let leaves = writes.into_iter().map(|write| (write.leaf, write.number)).collect();
            inbox.send(Message::LeavesWritten { object, leaves, result });
        });
    }

    /// Reads a leaf that was written. The end is a [`Message::LeafLoaded`].
    pub(super) fn load(&mut self, leaf: u64) {
        let (object, inbox) = (self.object, Arc::clone(&self.inbox));
        let open = self.open();
        let file = Arc::clone(&open.file);
        open.threads.post(move |thread| {
            let bytes = thread.and_then(|()| file.load(leaf));
            inbox.send(Message::LeafLoaded { object, leaf, bytes });
        });
    }
}

/// A file without a name.
pub(super) fn unnamed_file(dir: &std::path::Path) -> io::Result<std::fs::File> {
    use rustix::fs::{Mode, OFlags};
    let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(rustix::fs::open(dir, unnamed, Mode::RUSR | Mode::WUSR)?.into())
}
