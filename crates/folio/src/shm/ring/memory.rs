//! The memory of a ring in a segment, alike in channels and logs: the control block beside the
//! ring, the ring itself, and the errors that name both.

use crate::error::{Errno, Error, Result, Subject};
use crate::shm::ring::message_header::Corrupt;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::owner::Owner;
use crate::shm::wait::eventcount::{ASLEEP, EventCount, NOTIFIED};
use crate::shm::wait::notifier::NotifierSlot;
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::futex;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Two cache lines: processors fetch them in pairs.
#[repr(C, align(128))]
#[derive(Debug)]
pub(in crate::shm) struct CachePadded<T>(pub(in crate::shm) T);

/// Where the ring starts.
pub(in crate::shm) const RING_AT: usize = 4096;

/// The control block beside a ring, zero at first; and the words of errors about the whole.
///
/// # Safety
///
/// It is made of atomics alone, so that any bits are one, and is aligned to a page at most.
pub(in crate::shm) unsafe trait ControlBlock: Sized {
    /// Its noun.
    const NOUN: &'static str;
    /// Bytes of the smallest ring.
    const SMALLEST: usize;
    /// The calls that copy into the ring, and out of it.
    const COPIES: [&'static str; 2];
    /// A page is gone: the meaning, and the remedy.
    const LOST: [&'static str; 2];
    /// The memory makes no sense: the cause, and the remedy.
    const CORRUPT: [&'static str; 2];
    /// A forked child uses its parent's ring: the reason why not, and the remedy.
    const FOREIGN: [&'static str; 2];
    /// The remedy for a ring that is too large.
    const TOO_LARGE: &'static str;
}

/// One side's hold on a ring and its control block.
#[derive(Debug)]
pub(in crate::shm) struct RingMemory<C> {
    pub(in crate::shm) attachment: Arc<Attachment>,
    control: *const C,
    data: *mut u8,
    /// Bytes of the ring, a power of two.
    capacity: usize,
}

// SAFETY: the pointers are to memory that the attachment keeps mapped, in which everything is
// atomic or copied by routines that expect others to change it.
unsafe impl<C> Send for RingMemory<C> {}
// SAFETY: as above.
unsafe impl<C> Sync for RingMemory<C> {}

impl<C> Clone for RingMemory<C> {
    fn clone(&self) -> Self {
        Self { attachment: Arc::clone(&self.attachment), ..*self }
    }
}

/// Bytes of data of a segment whose ring has `capacity` bytes.
pub(in crate::shm) fn data_len(capacity: usize) -> usize {
    RING_AT + capacity
}

/// Why a place was not claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::shm) enum Unclaimed {
    Held(Owner),
    /// Whenever it was looked at it was someone else's.
    Restless,
}

/// Claims a place for `me`, unless who has it lives.
fn claim(place: &AtomicU64, me: Owner, is_alive: impl Fn(Owner) -> bool) -> Result<(), Unclaimed> {
    /// Far more than there are participants that could claim it at the same time.
    const TRIES: usize = 1000;
    for _ in 0..TRIES {
        let found = place.load(Ordering::Acquire);
        if let Some(holder) = Owner::in_word(found)
            && is_alive(holder)
        {
            return Err(Unclaimed::Held(holder));
        }
        if place.compare_exchange(found, me.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return Ok(());
        }
    }
    Err(Unclaimed::Restless)
}

impl<C: ControlBlock> RingMemory<C> {
    /// The ring in a segment of its kind.
    pub(in crate::shm) fn new(attachment: Arc<Attachment>) -> Result<Self> {
        const { assert!(size_of::<C>() <= RING_AT && align_of::<C>() <= RING_AT) };
        let len = attachment.len();
        let capacity = len.saturating_sub(RING_AT);
        if !capacity.is_power_of_two() || capacity < C::SMALLEST {
            return Err(Error::rule_as(
                Errno::BADMSG,
                "open",
                attachment.subject().with_length(len),
                format!("a {}'s ring is a power of two long", C::NOUN),
                format!(
                    "the segment was not made by this version of folio; remove it, and create the {} anew",
                    C::NOUN
                ),
            ));
        }
        let base = attachment.base();
        Ok(Self {
            control: base.cast::<C>(),
            data: base.wrapping_add(RING_AT),
            capacity,
            attachment,
        })
    }

    /// Whether the process that `process` names is this one, and the memory whole.
    #[inline]
    pub(in crate::shm) fn check(&self, call: &'static str, process: u64) -> Result<()> {
        if sys::identity::token() == process {
            self.attachment.check()
        } else {
            Err(self.foreign(call))
        }
    }

    #[cold]
    fn foreign(&self, call: &'static str) -> Error {
        let [rule, remedy] = C::FOREIGN;
        Error::rule_as(Errno::PERM, call, self.subject(), rule, remedy)
    }

    #[inline]
    pub(in crate::shm) fn control(&self) -> &C {
        // SAFETY: `new` has seen that the attachment is long enough; it is aligned to a page, any
        // bits are valid for a `ControlBlock`, and the attachment keeps it mapped while `self`
        // lives, with zeros for pages that cannot be supplied.
        unsafe { &*self.control }
    }

    pub(in crate::shm) fn capacity(&self) -> u64 {
        self.capacity as u64
    }

    fn addresses(&self) -> Range<usize> {
        let start = self.data as usize;
        start..start + self.capacity
    }

    /// The word at a byte offset of the ring, a multiple of eight.
    #[inline]
    pub(in crate::shm) fn word_at(&self, at: usize) -> &AtomicU64 {
        // The mask changes nothing for an offset that is one.
        let at = at & (self.capacity - 1) & !7;
        // SAFETY: eight bytes inside the ring, which starts on a page; else as for `control`.
        unsafe { &*self.data.add(at).cast::<AtomicU64>() }
    }

    /// The address of `len` bytes of the ring. They lie inside, whatever the numbers are.
    #[inline]
    pub(in crate::shm) fn bytes(&self, at: usize, len: usize) -> *mut u8 {
        assert!(at <= self.capacity && len <= self.capacity - at, "bytes outside their ring");
        self.data.wrapping_add(at)
    }

    #[inline]
    pub(in crate::shm) fn copy_in(&self, at: usize, bytes: &[u8]) -> Result<()> {
        let to = self.bytes(at, bytes.len());
        // SAFETY: `bytes` is a slice, and `to` lies in the ring, where only mappings are; the
        // attachment has installed the handler.
        let copied = unsafe { sys::copy::copy(to, bytes.as_ptr(), bytes.len(), self.addresses()) };
        copied.map_err(|trap| self.lost(C::COPIES[0], trap))
    }

    /// # Safety
    ///
    /// `len` bytes can be stored at `to`.
    #[inline]
    pub(in crate::shm) unsafe fn copy_out(&self, at: usize, to: *mut u8, len: usize) -> Result<()> {
        let from = self.bytes(at, len);
        // SAFETY: as for `copy_in`; `to` is the caller's.
        let copied = unsafe { sys::copy::copy(to, from, len, self.addresses()) };
        copied.map_err(|trap| self.lost(C::COPIES[1], trap))
    }

    /// Copies `len` bytes into `buffer`, in place of its contents.
    #[inline]
    pub(in crate::shm) fn copy_to(
        &self,
        at: usize,
        len: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<()> {
        buffer.clear();
        buffer.reserve(len);
        // SAFETY: the buffer has room for `len` bytes, which are there when the copy has gone well.
        unsafe {
            self.copy_out(at, buffer.as_mut_ptr(), len)?;
            buffer.set_len(len);
        }
        Ok(())
    }

    /// Notifies the waiters that the word names: `wakes` of the sleepers, and all whose notifiers
    /// are armed.
    #[inline]
    pub(in crate::shm) fn wake_side<'a>(
        &'a self,
        event_count: &EventCount,
        wakes: u32,
        notifier_slots: impl FnOnce() -> &'a [NotifierSlot],
    ) {
        let how = event_count.notify();
        if how != 0 {
            self.tell(event_count, how, wakes, notifier_slots());
        }
    }

    #[cold]
    fn tell(
        &self,
        event_count: &EventCount,
        how: u32,
        wakes: u32,
        notifier_slots: &[NotifierSlot],
    ) {
        if how & ASLEEP != 0 {
            futex::wake_shared(&event_count.0, wakes);
        }
        if how & NOTIFIED != 0 {
            for notifier_slot in notifier_slots {
                notifier_slot.notify(&self.attachment);
            }
        }
    }

    /// Writes over a word of the data, as another process might.
    #[cfg(any(test, fuzzing))]
    pub(in crate::shm) fn scribble(&self, at: usize, bytes: &[u8]) {
        let word = bytes.first_chunk::<8>().map_or(0, |bytes| u64::from_ne_bytes(*bytes));
        assert!(at.is_multiple_of(8) && at + 8 <= self.attachment.len());
        // SAFETY: inside the data, aligned, and mapped; it is accessed by atomics and copies that
        // expect it.
        unsafe { &*self.attachment.base().add(at).cast::<AtomicU64>() }
            .store(word, Ordering::Relaxed);
    }

    pub(in crate::shm) fn subject(&self) -> Subject {
        self.attachment.subject()
    }

    /// Pages of it went away.
    #[cold]
    fn lost(&self, call: &'static str, trap: Trap) -> Error {
        if let Err(error) = self.attachment.check_file() {
            return error;
        }
        let [rule, remedy] = C::LOST;
        Error::rule_as(Errno::FAULT, call, self.subject().with_address(trap.address), rule, remedy)
    }

    #[cold]
    pub(in crate::shm) fn corrupt(&self, call: &'static str, corrupt: Corrupt) -> Error {
        // A page that is gone shows zeros, which are no ring either.
        if let Err(error) = self.attachment.check_file() {
            return error;
        }
        let [how, remedy] = C::CORRUPT;
        Error::rule_as(
            Errno::BADMSG,
            call,
            self.subject().with_detail(format!("position {:#x}", corrupt.at)),
            format!("{}: {how}", corrupt.what),
            remedy,
        )
    }

    /// The other side, `who`, is not there any more.
    #[cold]
    pub(in crate::shm) fn alone(
        &self,
        call: &'static str,
        who: &str,
        died: bool,
        remedy: String,
    ) -> Error {
        let how = if died { "has died" } else { "has left" };
        Error::rule_as(Errno::PIPE, call, self.subject(), format!("{who} {how}"), remedy)
    }

    /// Claims a place for this process, or tells why not.
    pub(in crate::shm) fn claim(&self, place: &AtomicU64) -> Result<(), Unclaimed> {
        claim(place, self.attachment.me(), |holder| self.attachment.is_alive(holder))
    }

    /// The place of `who` was not claimed.
    #[cold]
    pub(in crate::shm) fn taken(
        &self,
        call: &'static str,
        who: &'static str,
        why: Unclaimed,
    ) -> Error {
        let noun = C::NOUN;
        match why {
            Unclaimed::Held(holder) => Error::rule_as(
                Errno::BUSY,
                call,
                self.subject(),
                format!("the {noun} has a {who}: {}", self.attachment.participant_name(holder)),
                format!(
                    "a {noun} has one {who} at a time; wait until it is dropped, or its process has ended"
                ),
            ),
            Unclaimed::Restless => Error::rule_as(
                Errno::AGAIN,
                call,
                self.subject(),
                format!("another process keeps changing who is the {noun}'s {who}"),
                format!(
                    "find out which process writes over it; folio changes it once for each {who}"
                ),
            ),
        }
    }
}

/// Does something again and again while a thread keeps storing dead owners at these offsets, as
/// another process might.
#[cfg(test)]
pub(in crate::shm) fn while_scribbled<C: ControlBlock>(
    memory: &RingMemory<C>,
    at: &[usize],
    mut work: impl FnMut(),
) {
    /// Also when the work panics: the thread ends.
    struct ScribbleEnd<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for ScribbleEnd<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let end = ScribbleEnd(&done);
        scope.spawn(|| {
            for generation in 0.. {
                for &at in at {
                    memory.scribble(at, &Owner::new(200, generation).word().to_ne_bytes());
                }
                if done.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        (0..300).for_each(|_| work());
        drop(end);
    });
}

#[cfg(test)]
mod tests {
    use super::{Unclaimed, claim};
    use crate::shm::segment::owner::Owner;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn who_changes_a_place_whenever_it_is_looked_at_keeps_nobody() {
        let (place, looks) = (AtomicU64::new(Owner::new(3, 0).word()), Cell::new(0));
        let claimed = claim(&place, Owner::new(1, 1), |_| {
            looks.set(looks.get() + 1);
            assert!(looks.get() < 1_000_000, "it is looked at without end");
            place.store(Owner::new(3, looks.get()).word(), Ordering::Relaxed);
            false
        });
        assert_eq!(claimed, Err(Unclaimed::Restless));
    }

    #[test]
    fn a_place_of_the_dead_is_claimed_and_one_of_the_living_is_not() {
        let (me, other) = (Owner::new(1, 1), Owner::new(2, 1));
        let place = AtomicU64::new(other.word());
        assert_eq!(claim(&place, me, |_| true), Err(Unclaimed::Held(other)));
        assert_eq!(claim(&place, me, |holder| holder != other), Ok(()));
        assert_eq!(place.load(Ordering::Relaxed), me.word());
    }
}
