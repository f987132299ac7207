//! What both sides of a channel have: the segment, where everything lies in it, and the errors that name it.

use super::control::{Control, RING_AT};
use super::ring::{self, Ring};
use crate::error::{Errno, Error, Result, Subject};
use crate::shm::attachment::Attachment;
use crate::shm::bell::party;
use crate::shm::doze::{ASLEEP, BELL, Doze};
use crate::shm::owner::Owner;
use crate::shm::word::Corrupt;
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::futex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One side's hold on a channel's memory.
#[derive(Debug, Clone)]
pub(super) struct Link {
    pub(super) attachment: Arc<Attachment>,
    control: *const Control,
    data: *mut u8,
    /// Bytes of the ring, a power of two.
    capacity: usize,
    pub(super) many: bool,
}

// SAFETY: the pointers are to memory that the attachment keeps mapped, in which everything is atomic or copied by routines
// that expect others to change it.
unsafe impl Send for Link {}
// SAFETY: as above.
unsafe impl Sync for Link {}

/// Bytes of data of a channel whose ring has `capacity` bytes.
pub(super) fn data_len(capacity: usize) -> usize {
    RING_AT + capacity
}

impl Link {
    /// The channel in a segment of its kind.
    pub(super) fn new(attachment: Arc<Attachment>, many: bool) -> Result<Self> {
        let len = attachment.len();
        let capacity = len.saturating_sub(RING_AT);
        if !capacity.is_power_of_two() || capacity < super::SMALLEST {
            return Err(Error::rule_as(
                Errno::BADMSG,
                "open",
                attachment.subject().with_length(len),
                "a channel's ring is a power of two long",
                "the segment was not made by this version of folio; remove it, and create the channel anew",
            ));
        }
        let base = attachment.base();
        Ok(Self {
            control: base.cast::<Control>(),
            data: base.wrapping_add(RING_AT),
            capacity,
            attachment,
            many,
        })
    }

    /// Whether the process that `process` names is this one, and the channel whole.
    #[inline]
    pub(super) fn check(&self, call: &'static str, process: u64) -> Result<()> {
        if sys::identity::token() == process { self.attachment.check() } else { Err(self.foreign(call)) }
    }

    #[cold]
    fn foreign(&self, call: &'static str) -> Error {
        Error::rule_as(
            Errno::PERM,
            call,
            self.subject(),
            "a sender or a receiver stays with the process that made it, and this is a forked child",
            "make one in the child, from the `Channel`; drop the parent's first if there can be only one",
        )
    }

    #[inline]
    pub(super) fn control(&self) -> &Control {
        // SAFETY: `new` has seen that the attachment is long enough; it is aligned to a page, any bits are valid for atomics, and the
        // attachment keeps it mapped while `self` lives, with zeros for pages that cannot be supplied.
        unsafe { &*self.control }
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    /// The longest message.
    pub(super) fn limit(&self) -> usize {
        ring::limit(self.capacity()) as usize
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.data as usize;
        start..start + self.capacity
    }

    /// The address of `len` bytes of the ring. They lie inside, whatever the numbers are.
    #[inline]
    pub(super) fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.capacity && len <= self.capacity - at, "a message outside its ring");
        self.data.wrapping_add(at)
    }

    #[inline]
    pub(super) fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.bytes(at, bytes.len());
        // SAFETY: `bytes` is a slice, and `to` lies in the ring, where only mappings are; the attachment has installed the handler.
        let copied = unsafe { sys::copy::copy(to, bytes.as_ptr(), bytes.len(), self.addresses()) };
        copied.map_err(|trap| self.lost("send", trap))
    }

    /// # Safety
    ///
    /// `len` bytes can be stored at `to`.
    #[inline]
    pub(super) unsafe fn copy_out(&self, at: usize, to: *mut u8, len: usize) -> Result<()> {
        let from = self.bytes(at, len);
        // SAFETY: as for `copy_in`; `to` is the caller's.
        let copied = unsafe { sys::copy::copy(to, from, len, self.addresses()) };
        copied.map_err(|trap| self.lost("receive", trap))
    }

    /// Tells the other side, if it wants to be told, that there is something for it.
    #[inline]
    pub(super) fn rouse(&self, doze: &Doze) {
        let how = doze.rouse();
        if how != 0 {
            self.tell(doze, how);
        }
    }

    #[cold]
    fn tell(&self, doze: &Doze, how: u32) {
        if how & ASLEEP != 0 {
            futex::wake_shared(&doze.0, 1);
        }
        if how & BELL != 0 {
            self.control().bell.0.pull(&self.attachment);
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

    /// Pages of the channel went away.
    #[cold]
    fn lost(&self, call: &'static str, trap: Trap) -> Error {
        match self.attachment.check_file() {
            Err(error) => error,
            Ok(()) => Error::rule_as(
                Errno::FAULT,
                call,
                self.subject().with_address(trap.address),
                "a page of the channel cannot be supplied: some process has truncated it",
                "remove the channel, and create it anew",
            ),
        }
    }

    #[cold]
    pub(super) fn corrupt(&self, call: &'static str, corrupt: Corrupt) -> Error {
        // A page that is gone shows zeros, which are no ring either.
        if let Err(error) = self.attachment.check_file() {
            return error;
        }
        Error::rule_as(
            Errno::BADMSG,
            call,
            self.subject().with_detail(format!("position {:#x}", corrupt.at)),
            format!("{}: some process has written over it", corrupt.what),
            "remove the channel, and create it anew",
        )
    }

    #[cold]
    pub(super) fn too_long(&self, call: &'static str, len: usize) -> Error {
        Error::rule_as(
            Errno::MSGSIZE,
            call,
            self.subject().with_length(len),
            format!("a message of this channel has at most {} bytes", self.limit()),
            "send it in parts, or create the channel with more bytes",
        )
    }

    /// The other side is not there any more.
    #[cold]
    pub(super) fn alone(&self, call: &'static str, who: &'static str, died: bool) -> Error {
        let how = if died { "has died" } else { "has left" };
        Error::rule_as(
            Errno::PIPE,
            call,
            self.subject(),
            format!("the {who} {how}"),
            format!("what is in the channel stays there; go on when there is a new {who}"),
        )
    }

    #[cold]
    pub(super) fn taken(&self, call: &'static str, who: &'static str, holder: Owner) -> Error {
        Error::rule_as(
            Errno::BUSY,
            call,
            self.subject(),
            format!("the channel has a {who}: {}", party(&self.attachment, holder)),
            format!("a channel has one {who} at a time; wait until it is dropped, or its process has ended"),
        )
    }

    /// Claims a place for this process, or tells who has it.
    pub(super) fn claim(&self, place: &AtomicU64) -> Result<(), Owner> {
        let me = self.attachment.me();
        loop {
            let found = place.load(Ordering::Acquire);
            if let Some(holder) = Owner::in_word(found)
                && self.attachment.is_alive(holder)
            {
                return Err(holder);
            }
            if place.compare_exchange(found, me.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
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
    fn head(&self) -> &AtomicU64 {
        &self.control().head.0
    }

    #[inline]
    fn tail(&self) -> &AtomicU64 {
        &self.control().tail.0
    }
}
