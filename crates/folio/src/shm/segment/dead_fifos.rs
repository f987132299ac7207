//! The FIFOs that notifiers of ended processes left in a segment's directory.

use crate::shm::segment::name;
use crate::shm::segment::owner::Owner;
use crate::shm::sys::fifo;
use std::path::Path;

/// Removes the FIFOs of a segment whose owners have ended.
pub(in crate::shm) fn remove(directory: &Path, segment: u64, is_alive: impl Fn(Owner) -> bool) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if let Some((id, owner)) = name::of_notifier_fifo(&entry.file_name())
            && id == segment
            && !Owner::in_word(owner).is_some_and(&is_alive)
        {
            // A FIFO with a reader belongs to a process that is no participant any more, and is
            // about to remove it.
            let _ = fifo::remove_unread(&entry.path());
        }
    }
}
