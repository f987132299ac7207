//! A channel's control block, beside the ring: the positions, the two sides, and the sleepers.
//! Everything that another processor writes has one cache line or two.
//!
//! All of it is zero at first, so that a new segment is a channel as it is.

use crate::shm::ring::memory::{CachePadded, ControlBlock, RING_AT};
use crate::shm::sync::lock::Lock;
use crate::shm::wait::eventcount::EventCount;
use crate::shm::wait::notifier::NotifierSlot;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// How many senders a channel of many can have at a time.
pub(super) const SENDERS: usize = 128;

#[repr(C)]
#[derive(Debug)]
pub(super) struct ChannelControl {
    /// See [`ChannelRing`](super::ring::ChannelRing).
    pub(super) tail: CachePadded<AtomicU64>,
    pub(super) head: CachePadded<AtomicU64>,
    /// Senders read this after each message.
    pub(super) receiver: CachePadded<Side>,
    /// The receiver reads this after each message: whether a sender waits for room.
    pub(super) room: CachePadded<EventCount>,
    /// The turn to send, in a channel of many senders.
    pub(super) turn: CachePadded<Turn>,
    /// The receiver's.
    pub(super) notifier: CachePadded<NotifierSlot>,
    /// Whether there ever was a sender. One that is among `senders` counts without it.
    pub(super) sent: CachePadded<AtomicU32>,
    /// The senders: each zero, or an owner. A channel of one sender uses the first alone.
    pub(super) senders: [AtomicU64; SENDERS],
    /// The senders' notifiers, each at its sender's place.
    pub(super) notifiers: [NotifierSlot; SENDERS],
}

/// The receiver, as the senders see it.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Side {
    /// Zero: there was none yet. [`NOBODY`](crate::shm::segment::owner::Owner::NOBODY): it has
    /// left. Else the owner.
    pub(super) owner: AtomicU64,
    pub(super) event_count: EventCount,
}

/// The turn to send.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) lock: Lock,
    /// Whether a sender that found the turn taken wants its notifier signalled. The sender that
    /// gives the turn back has the line at hand.
    pub(super) event_count: EventCount,
}

// SAFETY: atomics alone.
unsafe impl ControlBlock for ChannelControl {
    const NOUN: &'static str = "channel";
    const SMALLEST: usize = 64;
    const COPIES: [&'static str; 2] = ["send", "receive"];
    const LOST: [&'static str; 2] = [
        "a page of the channel cannot be supplied: some process has truncated it",
        "remove the channel, and create it anew",
    ];
    const CORRUPT: [&'static str; 2] =
        ["some process has written over it", "remove the channel, and create it anew"];
    const FOREIGN: [&'static str; 2] = [
        "a sender or a receiver stays with the process that made it, and this is a forked child",
        "make one in the child, from the `Channel`; drop the parent's first if there can be only one",
    ];
    const TOO_LARGE: &'static str = "a few of the longest messages are enough";
}

const _: () = assert!(size_of::<ChannelControl>() <= RING_AT);
