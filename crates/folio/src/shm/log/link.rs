//! What a log's writer and readers have: the segment, where everything lies in it, and the errors that name it.

use super::chain::{self, Ring};
use crate::error::{Errno, Error, Result, Subject};
use crate::shm::attachment::Attachment;
use crate::shm::bell::BellCord;
use crate::shm::doze::{ASLEEP, BELL, Doze};
use crate::shm::word::Corrupt;
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::futex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two cache lines: processors fetch them in pairs.
#[repr(C, align(128))]
#[derive(Debug)]
pub(super) struct Apart<T>(pub(super) T);

/// How many readers can have a bell at a time. All others are not known to anyone.
pub(super) const BELLS: usize = 128;

/// What lies beside the ring. All of it is zero at first.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Control {
    /// See [`Ring`].
    oldest: Apart<AtomicU64>,
    last: Apart<AtomicU64>,
    /// What the writer looks at after each entry.
    pub(super) readers: Apart<Doze>,
    pub(super) writer: Apart<Appending>,
    pub(super) bells: [BellCord; BELLS],
}

#[repr(C)]
#[derive(Debug)]
pub(super) struct Appending {
    /// Zero: there was no writer yet. [`NOBODY`](crate::shm::owner::Owner::NOBODY): it has left. Else the owner.
    pub(super) owner: AtomicU64,
    /// The boot of the machine that the last writer wrote in.
    pub(super) boot: AtomicU64,
}

/// Where the ring starts.
const RING_AT: usize = 4096;

const _: () = assert!(size_of::<Control>() <= RING_AT);

/// Bytes of data of a log whose ring has `capacity` bytes.
pub(super) fn data_len(capacity: usize) -> usize {
    RING_AT + capacity
}

/// A hold on a log's memory.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) attachment: Arc<Attachment>,
    control: *const Control,
    data: *mut u8,
    /// Bytes of the ring, a power of two.
    capacity: usize,
}

// SAFETY: the pointers are to memory that the attachment keeps mapped, in which everything is atomic or copied by routines
// that expect others to change it.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

impl Link {
    pub(super) fn new(attachment: Arc<Attachment>) -> Result<Self> {
        let len = attachment.len();
        let capacity = len.saturating_sub(RING_AT);
        if !capacity.is_power_of_two() || capacity < super::SMALLEST {
            return Err(Error::rule_as(
                Errno::BADMSG,
                "open",
                attachment.subject().with_length(len),
                "a log's ring is a power of two long",
                "the segment was not made by this version of folio; remove it, and create the log anew",
            ));
        }
        let base = attachment.base();
        Ok(Self { control: base.cast::<Control>(), data: base.wrapping_add(RING_AT), capacity, attachment })
    }

    #[inline]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: `new` has seen that the attachment is long enough; it is aligned to a page, any bits are valid for atomics, and
        // the attachment keeps it mapped while `self` lives, with zeros for pages that cannot be supplied.
        unsafe { &*self.control }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    pub(super) fn limit(&self) -> usize {
        chain::limit(self.capacity()) as usize
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.data as usize;
        start..start + self.capacity
    }

    #[inline]
    fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.capacity && len <= self.capacity - at, "an entry outside its ring");
        self.data.wrapping_add(at)
    }

    #[inline]
    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.bytes(at, bytes.len());
        // SAFETY: `bytes` is a slice, and `to` lies in the ring, where only mappings are; the attachment has installed the
        // handler.
        let copied = unsafe { sys::copy::copy(to, bytes.as_ptr(), bytes.len(), self.addresses()) };
        copied.map_err(|trap| self.lost("append", trap))
    }

    /// Copies `len` bytes into `buffer`, in place of what it held.
    #[inline]
    pub(super) fn copy_out(&self, at: usize, len: usize, buffer: &mut Vec<u8>) -> Result<()> {
        let from = self.bytes(at, len);
        buffer.clear();
        buffer.reserve(len);
        // SAFETY: the buffer has room for `len` bytes, which are there when the copy has gone well; else as for `copy_in`.
        unsafe {
            sys::copy::copy(buffer.as_mut_ptr(), from, len, self.addresses())
                .map_err(|trap| self.lost("next", trap))?;
            buffer.set_len(len);
        }
        Ok(())
    }

    /// Tells the readers that want to be told.
    #[inline]
    pub(super) fn rouse(&self) {
        let how = self.control().readers.0.rouse();
        if how != 0 {
            self.tell(how);
        }
    }

    #[cold]
    fn tell(&self, how: u32) {
        let control = self.control();
        if how & ASLEEP != 0 {
            futex::wake_shared(&control.readers.0.0, u32::MAX);
        }
        if how & BELL != 0 {
            for cord in &control.bells {
                cord.pull(&self.attachment);
            }
        }
    }

    /// Writes over a word of the data, as another process might.
    #[cfg(any(test, fuzzing))]
    pub(super) fn scribble(&self, at: usize, bytes: &[u8]) {
        let word = bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        assert!(at.is_multiple_of(8) && at + 8 <= self.attachment.len());
        // SAFETY: inside the data, aligned, and mapped; it is accessed by atomics and copies that expect it.
        unsafe { &*self.attachment.base().add(at).cast::<AtomicU64>() }.store(word, Ordering::Relaxed);
    }

    pub(super) fn subject(&self) -> Subject {
        self.attachment.subject()
    }

    #[cold]
    fn lost(&self, call: &'static str, trap: Trap) -> Error {
        match self.attachment.check_file() {
            Err(error) => error,
            Ok(()) => Error::rule_as(
                Errno::FAULT,
                call,
                self.subject().with_address(trap.address),
                "a page of the log cannot be supplied",
                "see that no process truncates the file, and that its device works",
            ),
        }
    }

    #[cold]
    pub(super) fn corrupt(&self, call: &'static str, corrupt: Corrupt) -> Error {
        // A page that is gone shows zeros, which are no log either.
        if let Err(error) = self.attachment.check_file() {
            return error;
        }
        Error::rule_as(
            Errno::BADMSG,
            call,
            self.subject().with_detail(format!("position {:#x}", corrupt.at)),
            format!("{}: some process has written over it, or the machine went down", corrupt.what),
            "read what can be read of it, remove it, and create it anew",
        )
    }
}

impl Ring for Link {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        // The mask changes nothing for an offset that is one.
        let at = at & (self.capacity - 1) & !7;
        // SAFETY: eight bytes inside the ring, which starts on a page; else as for `control`.
        unsafe { &*self.data.add(at).cast::<AtomicU64>() }
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

/// A number of the machine's boot: memory that was written in another one may have been torn by its end.
pub(super) fn boot() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).take(16).collect();
    // Zero is the boot of no log that was written to; without the file nothing is believed.
    u64::from_str_radix(&digits, 16).unwrap_or(0)
}

/// Whether the memory is as the last writer left it.
pub(super) fn is_of_this_boot(control: &Control) -> bool {
    let boot = boot();
    boot != 0 && control.writer.0.boot.load(Ordering::Relaxed) == boot
}
