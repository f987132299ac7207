//! The parts of both sides of a channel: its memory, its kind, and the errors that name it.

use super::control::{ChannelControl, SENDERS};
use super::ring::{self, ChannelRing};
use crate::error::{Errno, Error, Result};
use crate::shm::ring::memory::RingMemory;
use crate::shm::segment::attachment::Attachment;
use crate::shm::wait::notifier::NotifierSlot;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// One side's hold on a channel's memory.
#[derive(Debug, Clone)]
pub(super) struct ChannelMemory {
    memory: RingMemory<ChannelControl>,
    pub(super) many: bool,
}

impl Deref for ChannelMemory {
    type Target = RingMemory<ChannelControl>;

    #[inline]
    fn deref(&self) -> &RingMemory<ChannelControl> {
        &self.memory
    }
}

impl ChannelMemory {
    /// The channel in a segment of its kind.
    pub(super) fn new(attachment: Arc<Attachment>, many: bool) -> Result<Self> {
        Ok(Self { memory: RingMemory::new(attachment)?, many })
    }

    /// The longest message.
    pub(super) fn limit(&self) -> usize {
        ring::limit(self.capacity()) as usize
    }

    /// The senders: zero, or an owner, for each place.
    pub(super) fn senders(&self) -> &[AtomicU64] {
        &self.control().senders[..if self.many { SENDERS } else { 1 }]
    }

    /// The slot of the sender at each place.
    pub(super) fn sender_notifiers(&self) -> &[NotifierSlot] {
        &self.control().notifiers[..if self.many { SENDERS } else { 1 }]
    }

    pub(super) fn receiver_notifier(&self) -> &[NotifierSlot] {
        std::slice::from_ref(&self.control().notifier.0)
    }

    /// Tells the receiver, if it wants to be told, that there is something for it.
    #[inline]
    pub(super) fn wake_receiver(&self) {
        let event_count = &self.control().receiver.0.event_count;
        self.wake_side(event_count, 1, || self.receiver_notifier());
    }

    /// Notifies the senders that wait for room, if they asked for it, that there may be some. One
    /// at most sleeps: the holder of the turn.
    #[inline]
    pub(super) fn wake_sender(&self) {
        self.wake_side(&self.control().room.0, 1, || self.sender_notifiers());
    }

    /// Notifies the senders that found the turn taken, if they asked for it, that it may be theirs.
    /// A sender that sleeps for it sleeps on the lock.
    #[inline]
    pub(super) fn wake_next_turn(&self) {
        self.wake_side(&self.control().turn.0.event_count, 1, || self.sender_notifiers());
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
    pub(super) fn disconnected(&self, call: &'static str, who: &'static str, died: bool) -> Error {
        // Of the last sender, too, a new one is a sender.
        let role = who.trim_start_matches("last ");
        let remedy =
            format!("what is in the channel stays there; go on when there is a new {role}");
        self.memory.alone(call, &format!("the {who}"), died, remedy)
    }
}

impl ChannelRing for ChannelMemory {
    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        self.word_at(at)
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
