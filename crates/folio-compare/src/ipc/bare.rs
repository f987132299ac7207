//! A bare ring: the rest of a ring of messages that checks nothing and survives nothing. With large
//! messages it is nothing but two copies, one into shared memory and one out of it, and a word for
//! each that marks the moment: the peer `memcpy`.
//!
//! Each slot has a word of its own that says which message is in it, so that a message costs one
//! look at it.

use super::pair::Place;
use super::port::{Inlet, Lane, Outlet, Transport, room};
use super::shared::{APART, Shared};
use anyhow::Result;
use std::hint;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Bare;

/// The same with sleep: a futex for each slot, without a timeout, and a wake for each message.
pub(super) struct Futex;

/// An end that sleeps or wakes.
#[derive(Debug)]
pub(super) struct Asleep<const N: usize>(End<N>);

/// The half of a word that the kernel looks at.
fn half(word: &AtomicU64) -> *const u32 {
    std::ptr::from_ref(word).cast::<u32>().wrapping_add(usize::from(cfg!(target_endian = "big")))
}

impl<const N: usize> Transport<N> for Futex {
    type Outlet = Asleep<N>;
    type Inlet = Asleep<N>;

    fn outlet(place: &Place, lane: Lane) -> Result<Asleep<N>> {
        Ok(Asleep(End::new(place, lane)?))
    }

    fn inlet(place: &Place, lane: Lane) -> Result<Asleep<N>> {
        Ok(Asleep(End::new(place, lane)?))
    }
}

impl<const N: usize> Outlet<N> for Asleep<N> {
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        let word = half(self.0.shared.word(self.0.slot()));
        self.0.send(message)?;
        // SAFETY: the call reads no memory, but wakes waiters for this address.
        unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for Asleep<N> {
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        let word = self.0.shared.word(self.0.slot());
        loop {
            let seen = word.load(Ordering::Acquire);
            if seen == self.0.passed + 1 {
                return self.0.receive(message);
            }
            let no_timeout = std::ptr::null::<libc::timespec>();
            // SAFETY: the word is mapped, and only read.
            unsafe {
                libc::syscall(
                    libc::SYS_futex,
                    half(word),
                    libc::FUTEX_WAIT,
                    seen as u32,
                    no_timeout,
                )
            };
        }
    }
}

/// Either end.
#[derive(Debug)]
pub(super) struct End<const N: usize> {
    shared: Shared,
    /// Where the ring begins.
    start: usize,
    /// Messages that have passed.
    passed: u64,
    /// The reader's position that the writer knows.
    taken: u64,
}

impl<const N: usize> End<N> {
    /// From slot to slot. The word lies before the message, in the same line if that is short.
    const STRIDE: usize = (8 + N * 8).next_multiple_of(APART);
    const SLOTS: u64 = room::<N>() as u64;
    /// The reader says how far it is each time it has taken so many.
    const STEP: u64 = Self::SLOTS / 8;

    fn new(place: &Place, lane: Lane) -> Result<Self> {
        let size = APART + Self::SLOTS as usize * Self::STRIDE;
        let start = if lane == Lane::There { 0 } else { size.next_multiple_of(4096) };
        let shared = Shared::map(place)?;
        shared.at(start, size);
        Ok(Self { shared, start, passed: 0, taken: 0 })
    }

    fn slot(&self) -> usize {
        self.start + APART + (self.passed % Self::SLOTS) as usize * Self::STRIDE
    }
}

impl<const N: usize> Transport<N> for Bare {
    type Outlet = End<N>;
    type Inlet = End<N>;

    fn outlet(place: &Place, lane: Lane) -> Result<End<N>> {
        End::new(place, lane)
    }

    fn inlet(place: &Place, lane: Lane) -> Result<End<N>> {
        End::new(place, lane)
    }
}

impl<const N: usize> Outlet<N> for End<N> {
    #[inline]
    fn send(&mut self, message: &[u64; N]) -> Result<()> {
        while self.passed - self.taken == Self::SLOTS {
            self.taken = self.shared.word(self.start).load(Ordering::Acquire);
            hint::spin_loop();
        }
        let slot = self.slot();
        let to = self.shared.at(slot + 8, N * 8).cast();
        // SAFETY: the slot is inside the map, its words are aligned, and the reader leaves it alone
        // until it is told.
        unsafe { message.as_ptr().copy_to_nonoverlapping(to, N) };
        self.passed += 1;
        self.shared.word(slot).store(self.passed, Ordering::Release);
        Ok(())
    }
}

impl<const N: usize> Inlet<N> for End<N> {
    #[inline]
    fn receive(&mut self, message: &mut [u64; N]) -> Result<()> {
        let slot = self.slot();
        let word = self.shared.word(slot);
        while word.load(Ordering::Acquire) != self.passed + 1 {}
        let from = self.shared.at(slot + 8, N * 8).cast::<u64>();
        // SAFETY: the slot is inside the map, its words are aligned, and the writer leaves it alone
        // until it is told.
        unsafe { from.copy_to_nonoverlapping(message.as_mut_ptr(), N) };
        self.passed += 1;
        if self.passed.is_multiple_of(Self::STEP) {
            self.shared.word(self.start).store(self.passed, Ordering::Release);
        }
        Ok(())
    }
}
