//! A log's control block, beside the ring, and the parts of its writer and readers: its memory, and
//! the notifiers.

use super::entries::{self, LogRing};
use crate::shm::ring::memory::{CachePadded, ControlBlock, RING_AT, RingMemory};
use crate::shm::wait::eventcount::EventCount;
use crate::shm::wait::notifier::NotifierSlot;
use std::sync::atomic::{AtomicU64, Ordering};

/// How many readers can have a notifier at a time. All others are not known to anyone.
pub(super) const NOTIFIERS: usize = 128;

/// The control block beside the ring. All of it is zero at first.
#[repr(C)]
#[derive(Debug)]
pub(super) struct LogControl {
    /// See [`LogRing`].
    oldest: CachePadded<AtomicU64>,
    last: CachePadded<AtomicU64>,
    /// The writer reads this after each entry.
    pub(super) readers: CachePadded<EventCount>,
    pub(super) writer: CachePadded<Appending>,
    pub(super) notifiers: [NotifierSlot; NOTIFIERS],
}

#[repr(C)]
#[derive(Debug)]
pub(super) struct Appending {
    /// Zero: there was no writer yet. [`NOBODY`](crate::shm::segment::owner::Owner::NOBODY): it has
    /// left. Else the owner.
    pub(super) owner: AtomicU64,
    /// The boot of the machine that the last writer wrote in.
    pub(super) boot: AtomicU64,
}

// SAFETY: atomics alone.
unsafe impl ControlBlock for LogControl {
    const NOUN: &'static str = "log";
    const SMALLEST: usize = 1024;
    const COPIES: [&'static str; 2] = ["append", "next"];
    const LOST: [&'static str; 2] = [
        "a page of the log cannot be supplied",
        "see that no process truncates the file, and that its device works",
    ];
    const CORRUPT: [&'static str; 2] = [
        "some process has written over it, or the machine went down",
        "read what can be read of it, remove it, and create it anew",
    ];
    const FOREIGN: [&'static str; 2] = [
        "a writer stays with the process that made it, and this is a forked child",
        "drop the parent's, and make one in the child, from the `Log`",
    ];
    const TOO_LARGE: &'static str = "start a new one now and then";
}

const _: () = assert!(size_of::<LogControl>() <= RING_AT);

/// A hold on a log's memory.
pub(super) type LogMemory = RingMemory<LogControl>;

impl LogMemory {
    /// The longest entry.
    pub(super) fn limit(&self) -> usize {
        entries::limit(self.capacity()) as usize
    }

    /// Tells the readers that want to be told.
    #[inline]
    pub(super) fn wake_readers(&self) {
        self.wake_side(&self.control().readers.0, u32::MAX, || &self.control().notifiers);
    }
}

impl LogRing for LogMemory {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        self.word_at(at)
    }

    #[inline]
    fn oldest(&self) -> &AtomicU64 {
        &self.control().oldest.0
    }

    #[inline]
    fn last(&self) -> &AtomicU64 {
        &self.control().last.0
    }
}

/// A number of the machine's boot: memory that was written in another one may have been torn by its
/// end.
pub(super) fn boot() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    // Zero is the boot of no log that was written to; without the file nothing is believed.
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Whether the memory is as the last writer left it.
pub(super) fn is_of_this_boot(control: &LogControl) -> bool {
    let boot = boot();
    boot != 0 && control.writer.0.boot.load(Ordering::Relaxed) == boot
}
