//! The writing side of a log.

use super::checksum::checksum;
use super::entries::{self, Trust};
use super::link::{self, LogMemory};
use crate::error::{Errno, Error, Result};
use crate::shm::segment::owner::Owner;
use crate::sys;
use std::sync::atomic::Ordering;

/// Appends to a [`Log`](super::Log). There is one at a time; dropping it tells the readers.
///
/// It waits for nobody: when the log is full the oldest entries go.
///
/// **Fork:** it stays the parent's. In a child every call is an error, and its drop does nothing.
#[derive(Debug)]
pub struct LogWriter {
    link: LogMemory,
    chain: entries::EntryWriter,
    process: u64,
}

impl LogWriter {
    pub(super) fn new(link: LogMemory) -> Result<Self> {
        link.attachment.check()?;
        let control = link.control();
        let owner = &control.writer.0.owner;
        link.claim(owner).map_err(|why| link.taken("writer", "writer", why))?;
        let trust = if link::is_of_this_boot(control) { Trust::Memory } else { Trust::Nothing };
        let is_whole = |found: &entries::FoundEntry| {
            let mut bytes = Vec::new();
            link.copy_to(found.at, found.len, &mut bytes).is_ok()
                && checksum(found.seq, &bytes) == found.checksum
        };
        let resumed = entries::EntryWriter::resume(&link, link.capacity(), trust, is_whole)
            .map_err(|corrupt| link.corrupt("writer", corrupt))
            .and_then(|chain| {
                // Entries in memory alone do not outlive the machine.
                let outlives =
                    trust == Trust::Nothing && !sys::file::is_on_tmpfs(link.attachment.file());
                if outlives && chain.erase(&link) {
                    sync(&link)?;
                }
                Ok(chain)
            });
        match resumed {
            Ok(chain) => {
                control.writer.0.boot.store(link::boot(), Ordering::Relaxed);
                // The last writer may have been killed before it told anyone.
                link.wake_readers();
                Ok(Self { chain, link, process: sys::identity::token() })
            }
            Err(error) => {
                owner.store(Owner::NOBODY.word(), Ordering::Release);
                Err(error)
            }
        }
    }

    /// The longest entry, in bytes: a quarter of the log, less 32.
    pub fn max_entry_len(&self) -> usize {
        self.link.limit()
    }

    /// The sequence number of the next entry. The log's first one has 0.
    pub fn next_seq(&self) -> u64 {
        self.chain.seq()
    }

    /// Appends an entry. Returns its sequence number.
    ///
    /// # Errors
    ///
    /// EMSGSIZE beyond the [`max_entry_len`](Self::max_entry_len). EBADMSG if some process has
    /// written over the log; an error that says so if one has truncated it. Nothing was appended
    /// then.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Result<u64> {
        self.link.check("append", self.process)?;
        if bytes.len() > self.link.limit() {
            return Err(self.too_long(bytes.len()));
        }
        let len = bytes.len() as u64;
        let place = self.chain.make_room(&self.link, len);
        let place = place.map_err(|corrupt| self.link.corrupt("append", corrupt))?;
        self.link.copy_in(place.at, bytes)?;
        self.chain.publish(&self.link, place, len, checksum(place.seq, bytes));
        self.link.wake_readers();
        Ok(place.seq)
    }

    /// Writes appended entries to the device, for a log that is a file on one, and waits until they
    /// are there. Without it, a machine that goes down keeps the pages that it had written by
    /// itself, some and not others. The next writer then keeps the first whole entry and those that
    /// follow it without a gap, and goes on behind them; if none is whole, the log begins anew with
    /// a number that no entry had. Entries that it does not keep never come back. Readers get a
    /// report of the missed entries before the first.
    ///
    /// # Errors
    ///
    /// EIO.
    pub fn sync(&self) -> Result<()> {
        self.link.check("sync", self.process)?;
        sync(&self.link)
    }

    #[cold]
    fn too_long(&self, len: usize) -> Error {
        Error::rule_as(
            Errno::MSGSIZE,
            "append",
            self.link.subject().with_length(len),
            format!(
                "an entry of this log has at most {} bytes, a quarter of it",
                self.max_entry_len()
            ),
            "append it in parts, or create the log with more bytes",
        )
    }
}

fn sync(link: &LogMemory) -> Result<()> {
    rustix::fs::fsync(link.attachment.file())
        .map_err(|errno| Error::kernel("fsync", errno, link.subject()))
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if sys::identity::token() != self.process {
            return;
        }
        let (me, nobody) = (self.link.attachment.me().word(), Owner::NOBODY.word());
        let owner = &self.link.control().writer.0.owner;
        if owner.compare_exchange(me, nobody, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.link.wake_readers();
        }
    }
}
