//! The receiving side of a channel.

use super::link::ChannelMemory;
use super::ring::{Consumer, FoundMessage};
use crate::access::View;
use crate::error::{Errno, Error, Result};
use crate::shm::segment::owner::Owner;
use crate::shm::wait::eventcount::{ASLEEP, NOTIFIED};
use crate::shm::wait::poll_handle::{self, PollHandle, Pollable};
use crate::shm::wait::{Check, Wait, WaitPhase};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How often a look that finds nothing asks whether senders still live.
const ASK: Duration = Duration::from_millis(20);

/// Receives messages from a [`Channel`](super::Channel). There is one at a time; dropping it tells
/// the senders.
///
/// A message stays in the channel until it is received or [released](Message::release). If the
/// process dies before, the next receiver gets it again.
///
/// **Fork:** it stays the parent's. In a child every call is an error, and its drop does nothing.
#[derive(Debug)]
pub struct Receiver {
    link: ChannelMemory,
    consumer: Consumer,
    process: u64,
    wait: Wait,
    parks: u64,
    notifier: Option<Box<PollHandle>>,
    asked: Option<Instant>,
}

impl Receiver {
    pub(super) fn new(link: ChannelMemory) -> Result<Self> {
        link.attachment.check()?;
        let control = link.control();
        link.claim(&control.receiver.0.owner)
            .map_err(|why| link.taken("receiver", "receiver", why))?;
        // The last receiver's wishes for a notification are of no use to this one.
        control.receiver.0.event_count.cancel_wait(ASLEEP | NOTIFIED);
        let consumer = match Consumer::resume(&link, link.capacity()) {
            Ok(consumer) => consumer,
            Err(corrupt) => {
                control.receiver.0.owner.store(Owner::NOBODY.word(), Ordering::Release);
                return Err(link.corrupt("receiver", corrupt));
            }
        };
        // A sender may wait for room that the last receiver gave back without a notification.
        link.wake_sender();
        Ok(Self {
            link,
            consumer,
            process: sys::identity::token(),
            wait: Wait::new(),
            parks: 0,
            notifier: None,
            asked: None,
        })
    }

    /// How it waits for messages. [`Wait::new`] at first.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// How often it slept while it waited.
    pub fn parks(&self) -> u64 {
        self.parks
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.link.limit()
    }

    /// Receives a message into `buffer`, whose old contents are dropped. Returns its length. It
    /// waits while there is none, as [`set_wait`](Self::set_wait) says.
    ///
    /// # Errors
    ///
    /// EPIPE when the channel is empty and all senders have left or died (not if there has been
    /// none yet). ETIMEDOUT. EBADMSG if some process has written over the channel; an error that
    /// says so if one has truncated it.
    #[inline]
    pub fn recv(&mut self, buffer: &mut Vec<u8>) -> Result<usize> {
        let found = self.wait_for("recv")?;
        self.take(found, buffer)
    }

    /// Receives a message, if there is one.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), but for ETIMEDOUT. That a sender was killed is found out every 20
    /// milliseconds.
    #[inline]
    pub fn try_recv(&mut self, buffer: &mut Vec<u8>) -> Result<Option<usize>> {
        match self.check_for_message("try_recv")? {
            Some(found) => self.take(found, buffer).map(Some),
            None => Ok(None),
        }
    }

    /// Receives a message into a slice. Returns its length.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv). EMSGSIZE if the message is longer than `buffer`: then it stays
    /// where it is.
    #[inline]
    pub fn recv_into(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let found = self.wait_for("recv_into")?;
        self.take_into(found, buffer)
    }

    /// Receives a message into a slice, if there is one.
    ///
    /// # Errors
    ///
    /// As [`recv_into`](Self::recv_into) and [`try_recv`](Self::try_recv).
    #[inline]
    pub fn try_recv_into(&mut self, buffer: &mut [u8]) -> Result<Option<usize>> {
        match self.check_for_message("try_recv_into")? {
            Some(found) => self.take_into(found, buffer).map(Some),
            None => Ok(None),
        }
    }

    /// The next message where it lies, waited for. It stays until it is
    /// [released](Message::release).
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    #[inline]
    pub fn peek(&mut self) -> Result<Message<'_>> {
        let found = self.wait_for("peek")?;
        Ok(Message::new(self, found))
    }

    /// The next message where it lies, if there is one.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    #[inline]
    pub fn try_peek(&mut self) -> Result<Option<Message<'_>>> {
        let found = self.check_for_message("try_peek")?;
        Ok(found.map(|found| Message::new(self, found)))
    }

    /// A descriptor for poll(2), select(2) or epoll(7): readable when there is a message, or when
    /// all senders have gone. It belongs to the receiver.
    ///
    /// It can be readable for nothing, and is made unreadable by a `try_` call that finds nothing:
    /// so call one of them until it does, then wait for the descriptor. Until this is called for
    /// the first time the channel costs nothing more; afterwards the senders make a system call for
    /// each message that finds the channel empty.
    ///
    /// A sender in another network namespace (a container with a volume in common) makes it
    /// readable, too, by a FIFO beside the channel's file, which the descriptor's process makes and
    /// takes away. Where there can be none it becomes readable by itself, every half second: for a
    /// channel without a name, one that its maker passed, a directory in which this process may
    /// make no file.
    ///
    /// ```
    /// use std::os::fd::AsFd;
    ///
    /// let channel = folio::shm::Channel::anonymous(4096)?;
    /// let (mut sender, mut receiver) = (channel.sender()?, channel.receiver()?);
    /// let mut message = Vec::new();
    /// receiver.poll_fd()?;
    /// while receiver.try_recv(&mut message)?.is_some() {}
    /// sender.send(b"good morning")?;
    /// let mut fds = [rustix::event::PollFd::from_borrowed_fd(receiver.poll_fd()?, rustix::event::PollFlags::IN)];
    /// assert_eq!(rustix::event::poll(&mut fds, None)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>> {
        Ok(self.poll_handle()?.as_fd())
    }

    /// A future of the next message. It needs no runtime: a thread of its own, one for the process,
    /// waits for the notifiers of all receivers.
    ///
    /// Dropping the future loses no message. Errors are those of [`try_recv`](Self::try_recv) and
    /// [`poll_fd`](Self::poll_fd).
    pub fn recv_async<'a>(&'a mut self, buffer: &'a mut Vec<u8>) -> RecvFuture<'a> {
        RecvFuture { receiver: self, buffer }
    }

    fn ring(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.signal();
        }
    }

    #[inline]
    fn check_for_message(&mut self, call: &'static str) -> Result<Option<FoundMessage>> {
        self.link.check(call, self.process)?;
        match next(&self.link, &mut self.consumer, call)? {
            Some(found) => Ok(Some(found)),
            None => self.recheck_after_arming(call),
        }
    }

    /// There was nothing. Has it come meanwhile, can it still come, and does it have to ring?
    fn recheck_after_arming(&mut self, call: &'static str) -> Result<Option<FoundMessage>> {
        // The look may have passed the end of the ring, for which a sender waits.
        self.link.wake_sender();
        if let Some(notifier) = &self.notifier {
            notifier.clear();
            self.arm();
            if self.consumer.is_ready(&self.link) {
                // A descriptor that is readable once too often does no harm.
                self.ring();
                return next(&self.link, &mut self.consumer, call);
            }
        }
        let now = Instant::now();
        let ask = self.asked.is_none_or(|asked| now - asked >= ASK) || self.notifier.is_some();
        if ask {
            self.asked = Some(now);
        }
        match senders(&self.link, ask) {
            Senders::Expected if ask => self.link.attachment.check_name().map(|()| None),
            Senders::Expected => Ok(None),
            Senders::Gone { died } => {
                // Messages that they sent before they went are there by now.
                let found = next(&self.link, &mut self.consumer, call)?;
                if found.is_some() {
                    return Ok(found);
                }
                self.ring();
                Err(disconnected(&self.link, call, died))
            }
        }
    }

    /// From here on the next message rings.
    fn arm(&mut self) {
        let Self { link, consumer, notifier, .. } = self;
        let Some(notifier) = notifier else { return };
        notifier.arm(&link.attachment, link.receiver_notifier());
        link.control()
            .receiver
            .0
            .event_count
            .prepare_wait_and_settle(NOTIFIED, || consumer.is_ready(link));
        let senders = link.senders().iter();
        notifier.watch(
            &link.attachment,
            senders.filter_map(|place| Owner::in_word(place.load(Ordering::Acquire))),
        );
    }

    #[inline]
    fn wait_for(&mut self, call: &'static str) -> Result<FoundMessage> {
        self.link.check(call, self.process)?;
        match next(&self.link, &mut self.consumer, call)? {
            Some(found) => Ok(found),
            None => self.wait(call),
        }
    }

    #[cold]
    fn wait(&mut self, call: &'static str) -> Result<FoundMessage> {
        let Self { link, consumer, parks, wait, .. } = self;
        let event_count = &link.control().receiver.0.event_count;
        let mut first = true;
        // The look before this may have passed the end of the ring, for which a sender may wait; so
        // may those below.
        link.wake_sender();
        wait.until_counted(&link.attachment, call, &event_count.0, parks, |phase| {
            let before = consumer.position();
            if let Some(found) = next(link, consumer, call)? {
                return Ok(Check::Done(found));
            }
            if consumer.position() != before {
                link.wake_sender();
            }
            let WaitPhase::Park { ask } = phase else { return Ok(Check::Again) };
            // The first time is no slice: those who sent lately live.
            let ask = ask && !std::mem::take(&mut first);
            if let Senders::Gone { died } = senders(link, ask) {
                // Messages that they sent before they went are there by now.
                let found = next(link, consumer, call)?;
                return found.map(Check::Done).ok_or_else(|| disconnected(link, call, died));
            }
            if wait.never_parks() {
                return Ok(Check::Again);
            }
            // A sender that left before the announcement told nobody.
            let is_ready =
                || consumer.is_ready(link) || matches!(senders(link, false), Senders::Gone { .. });
            let Some(word) = event_count.prepare_wait_and_settle(ASLEEP, is_ready) else {
                event_count.cancel_wait(ASLEEP);
                return Ok(Check::Again);
            };
            Ok(Check::Sleep(word))
        })
    }

    #[inline]
    fn take(&mut self, found: FoundMessage, buffer: &mut Vec<u8>) -> Result<usize> {
        self.link.copy_to(found.at, found.len, buffer)?;
        self.release(found);
        Ok(found.len)
    }

    #[inline]
    fn take_into(&mut self, found: FoundMessage, buffer: &mut [u8]) -> Result<usize> {
        if found.len > buffer.len() {
            return Err(self.short(found.len, buffer.len()));
        }
        // SAFETY: the buffer is long enough.
        unsafe { self.link.copy_out(found.at, buffer.as_mut_ptr(), found.len)? };
        self.release(found);
        Ok(found.len)
    }

    #[cold]
    fn short(&self, len: usize, room: usize) -> Error {
        Error::rule_as(
            Errno::MSGSIZE,
            "recv_into",
            self.link.subject().with_length(room),
            format!("the next message has {len} bytes"),
            format!(
                "bring a buffer of as many; a message of this channel has at most {}",
                self.max_message_len()
            ),
        )
    }

    #[inline]
    fn release(&mut self, found: FoundMessage) {
        self.consumer.release(&self.link, found);
        self.link.wake_sender();
    }
}

#[inline]
fn next(
    link: &ChannelMemory,
    consumer: &mut Consumer,
    call: &'static str,
) -> Result<Option<FoundMessage>> {
    consumer.next(link).map_err(|corrupt| link.corrupt(call, corrupt))
}

/// Whether anyone can still send. Asking the kernel about the living takes a system call for each.
fn senders(link: &ChannelMemory, ask: bool) -> Senders {
    let control = link.control();
    let mut died = false;
    for place in link.senders() {
        if let Some(owner) = Owner::in_word(place.load(Ordering::Acquire)) {
            if !ask || link.attachment.is_alive(owner) {
                return Senders::Expected;
            }
            died = true;
        }
    }
    // One that was killed while it became one counts, though it has not said so yet.
    if !died && control.sent.0.load(Ordering::Acquire) == 0 {
        return Senders::Expected;
    }
    Senders::Gone { died }
}

#[cold]
fn disconnected(link: &ChannelMemory, call: &'static str, died: bool) -> Error {
    link.disconnected(call, if link.many { "last sender" } else { "sender" }, died)
}

/// The messages that may still come.
enum Senders {
    /// There is one, or there was none yet.
    Expected,
    Gone {
        died: bool,
    },
}

impl Pollable for Receiver {
    fn poll_handle(&mut self) -> Result<&mut PollHandle> {
        self.link.check("poll_fd", self.process)?;
        if self.notifier.is_none() {
            let notifier =
                PollHandle::with_own_slot(&self.link.attachment, self.link.receiver_notifier(), 0)?;
            self.notifier = Some(Box::new(notifier));
            if !self.consumer.is_ready(&self.link) {
                self.arm();
            }
            // Whatever there is or not: the first look is the caller's.
            self.ring();
        }
        // It was just made, if there was none.
        Ok(self.notifier.as_mut().expect("a notifier that was just made"))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if sys::identity::token() != self.process {
            return;
        }
        let control = self.link.control();
        // Before the attachment: its files in the directory go before the segment's name.
        if let Some(mut notifier) = self.notifier.take() {
            notifier.end(&self.link.attachment, self.link.receiver_notifier());
        }
        let (me, nobody) = (self.link.attachment.me().word(), Owner::NOBODY.word());
        let owner = &control.receiver.0.owner;
        if owner.compare_exchange(me, nobody, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.link.wake_sender();
            self.link.wake_next_turn();
        }
    }
}

/// A message in the channel, to be read through a [view](Self::view), which ends before it is
/// released. It stays there, and is the next one again, until it is [released](Self::release).
///
/// **Fork:** in a child every call is an error.
///
/// A view does not outlive the release, when the room is the sender's:
///
/// ```compile_fail,E0505
/// # let channel = folio::shm::Channel::anonymous(4096)?;
/// # let mut receiver = channel.receiver()?;
/// let message = receiver.peek()?;
/// let view = message.view()?;
/// message.release()?;
/// view.get(0);
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug)]
pub struct Message<'a> {
    receiver: &'a mut Receiver,
    found: FoundMessage,
}

impl<'a> Message<'a> {
    fn new(receiver: &'a mut Receiver, found: FoundMessage) -> Self {
        Self { receiver, found }
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.found.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.found.len == 0
    }

    fn start(&self) -> *mut u8 {
        self.receiver.link.bytes(self.found.at, self.found.len)
    }

    fn check(&self, call: &'static str) -> Result<()> {
        self.receiver.link.check(call, self.receiver.process)
    }

    /// The message, to read.
    ///
    /// # Errors
    ///
    /// EPERM in a forked child. An error that says so if some process has truncated the channel.
    pub fn view(&self) -> Result<View<'_>> {
        self.check("view")?;
        // SAFETY: it lies in the ring, which the attachment keeps mapped and guarded while the
        // receiver lives; no Rust allocation is there.
        Ok(unsafe { View::new(self.start(), self.found.len) })
    }

    /// A copy of its bytes.
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view).
    pub fn to_vec(&self) -> Result<Vec<u8>> {
        self.check("to_vec")?;
        let mut bytes = Vec::new();
        self.receiver.link.copy_to(self.found.at, self.found.len, &mut bytes)?;
        Ok(bytes)
    }

    /// The bytes as a slice.
    ///
    /// # Safety
    ///
    /// No process writes to the channel's memory but by folio's own calls while the slice lives,
    /// and none truncates it. (Processes that use folio do not touch a message before it is
    /// released.) The slice is not used in a forked child.
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view).
    pub unsafe fn as_slice(&self) -> Result<&[u8]> {
        self.check("as_slice")?;
        // SAFETY: mapped while the receiver lives, and unchanged, as the caller promises.
        Ok(unsafe { std::slice::from_raw_parts(self.start(), self.found.len) })
    }

    /// Gives the message back: it is received, and its room is the sender's again.
    ///
    /// # Errors
    ///
    /// If some process has truncated the channel: then parts of the bytes may have been read as
    /// zeros.
    pub fn release(self) -> Result<()> {
        self.check("release")?;
        self.receiver.release(self.found);
        Ok(())
    }
}

/// The next message, when it comes; see [`Receiver::recv_async`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct RecvFuture<'a> {
    receiver: &'a mut Receiver,
    buffer: &'a mut Vec<u8>,
}

impl Future for RecvFuture<'_> {
    type Output = Result<usize>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<usize>> {
        let Self { receiver, buffer } = self.get_mut();
        poll_handle::poll(*receiver, context, |receiver| receiver.try_recv(buffer))
    }
}
