//! The sending side of a channel.

use super::control::SENDERS;
use super::link::ChannelMemory;
use super::ring::{MessagePlace, NoPlace, Producer};
use crate::access::ViewMut;
use crate::error::{Errno, Error, Result};
use crate::shm::ring::memory::Unclaimed;
use crate::shm::ring::message_header::{Corrupt, is_before};
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

/// How often a try that finds no room asks whether the receiver still lives.
const ASK: Duration = Duration::from_millis(20);

/// Sends messages into a [`Channel`](super::Channel). Dropping it tells the receiver that nothing
/// more will come from here.
///
/// **Fork:** it stays the parent's. In a child every call is an error, and its drop does nothing.
#[derive(Debug)]
pub struct Sender {
    link: ChannelMemory,
    producer: Producer,
    /// The process whose sender it is.
    process: u64,
    /// Which of the channel's senders this is.
    place: usize,
    /// In a channel of many senders: whether it is this one's turn.
    has_turn: bool,
    wait: Wait,
    parks: u64,
    asked: Option<Instant>,
    notifier: Option<Box<PollHandle>>,
}

/// The obstacle of a try that failed.
#[derive(Debug, Clone, Copy)]
enum WouldBlock {
    /// It is another sender's turn.
    Turn,
    /// There is no room before the receiver is at this position.
    NoRoom(u64),
}

impl WouldBlock {
    /// Whether a try may go better now.
    fn may_be_over(self, link: &ChannelMemory) -> bool {
        let control = link.control();
        has_receiver_left(link)
            || match self {
                Self::Turn => self.holder(link).is_none(),
                Self::NoRoom(position) => {
                    !is_before(control.head.0.load(Ordering::Acquire), position)
                }
            }
    }

    /// The sender that has the turn instead.
    fn holder(self, link: &ChannelMemory) -> Option<Owner> {
        match self {
            Self::Turn => Owner::in_word(link.control().turn.0.lock.word.load()),
            Self::NoRoom(_) => None,
        }
    }

    /// Whether a dead sender has the turn: the next try takes it over.
    fn is_left_by_the_dead(self, link: &ChannelMemory) -> bool {
        self.holder(link).is_some_and(|holder| !link.attachment.is_alive(holder))
    }
}

impl Sender {
    pub(super) fn new(link: ChannelMemory) -> Result<Self> {
        link.attachment.check()?;
        let mut first = None;
        let place = link.senders().iter().position(|place| match link.claim(place) {
            Ok(()) => true,
            Err(why) => {
                first.get_or_insert(why);
                false
            }
        });
        let Some(place) = place else {
            if link.many {
                return Err(Error::rule_as(
                    Errno::AGAIN,
                    "sender",
                    link.subject(),
                    format!("a channel has at most {SENDERS} senders at a time"),
                    "drop senders that are not needed; threads can take turns with one",
                ));
            }
            return Err(link.taken("sender", "sender", first.unwrap_or(Unclaimed::Restless)));
        };
        // From here on the drop gives the place back.
        let producer = Producer::unknown(link.capacity());
        let process = sys::identity::token();
        let mut sender = Self {
            link,
            producer,
            process,
            place,
            has_turn: false,
            wait: Wait::new(),
            parks: 0,
            asked: None,
            notifier: None,
        };
        sender.link.control().sent.0.store(1, Ordering::Release);
        if !sender.link.many {
            sender.resume("sender")?;
        }
        Ok(sender)
    }

    /// How it waits for room, and for its turn among many senders. [`Wait::new`] at first.
    pub fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
    }

    /// How often it slept while it waited for room. (While it waited for its turn among many
    /// senders [`Wait::parks`] counts.)
    pub fn parks(&self) -> u64 {
        self.parks
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.link.limit()
    }

    /// Sends a message. It waits while there is no room, as [`set_wait`](Self::set_wait) says.
    ///
    /// A message of no bytes is a message.
    ///
    /// # Errors
    ///
    /// EMSGSIZE beyond the [`max_message_len`](Self::max_message_len). EPIPE if the receiver has
    /// left, or died while this waited. ETIMEDOUT. EBADMSG if some process has written over the
    /// channel; an error that says so if one has truncated it. Nothing was sent then.
    #[inline]
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        let place = self.place("send", bytes.len())?;
        let copied = self.link.copy_in(self.producer.bytes_at(place), bytes);
        self.end(copied.is_ok().then_some((place, bytes.len())));
        copied
    }

    /// Sends a message if there is room for it now. Whether there was.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), but for ETIMEDOUT. That the receiver was killed is found out every
    /// 20 milliseconds.
    #[inline]
    pub fn try_send(&mut self, bytes: &[u8]) -> Result<bool> {
        let Some(place) = self.try_place("try_send", bytes.len())? else { return Ok(false) };
        let copied = self.link.copy_in(self.producer.bytes_at(place), bytes);
        self.end(copied.is_ok().then_some((place, bytes.len())));
        copied.map(|()| true)
    }

    /// Room for a message of `len` bytes in the channel itself, to be filled and
    /// [committed](Reserved::commit). The bytes of the room are unspecified at first.
    ///
    /// In a channel of many senders the others wait until it is committed or dropped.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn reserve(&mut self, len: usize) -> Result<Reserved<'_>> {
        let place = self.place("reserve", len)?;
        Ok(Reserved::new(self, place, len))
    }

    /// As [`reserve`](Self::reserve), if there is room now.
    ///
    /// # Errors
    ///
    /// As [`try_send`](Self::try_send).
    pub fn try_reserve(&mut self, len: usize) -> Result<Option<Reserved<'_>>> {
        let place = self.try_place("try_reserve", len)?;
        Ok(place.map(|place| Reserved::new(self, place, len)))
    }

    /// A descriptor for poll(2), select(2) or epoll(7): readable when a try that found no room, or
    /// that it was another sender's turn, may succeed now, or when the receiver has gone. It
    /// belongs to the sender.
    ///
    /// It can be readable for nothing, and is made unreadable by a `try_` call that finds no room:
    /// so call one of them until it does, then wait for the descriptor. Until this is called for
    /// the first time the channel costs nothing more; afterwards the receiver makes a system call
    /// when it makes room that a sender waits for, and in a channel of many senders so does a
    /// sender that gives the turn back.
    ///
    /// ```
    /// let channel = folio::shm::Channel::anonymous(64)?;
    /// let (mut sender, mut receiver) = (channel.sender()?, channel.receiver()?);
    /// sender.poll_fd()?;
    /// while sender.try_send(b"good morning")? {}
    /// receiver.recv(&mut Vec::new())?;
    /// let mut fds = [rustix::event::PollFd::from_borrowed_fd(sender.poll_fd()?, rustix::event::PollFlags::IN)];
    /// assert_eq!(rustix::event::poll(&mut fds, None)?, 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// EPERM in a forked child. EMFILE, ENFILE.
    pub fn poll_fd(&mut self) -> Result<BorrowedFd<'_>> {
        Ok(self.poll_handle()?.as_fd())
    }

    /// A future that sends a message when there is room. It needs no runtime: a thread of its own,
    /// one for the process, waits for the notifiers.
    ///
    /// Dropping the future sends nothing, if it has not been ready: the message is sent whole, by
    /// the poll that is. Errors are those of [`try_send`](Self::try_send) and
    /// [`poll_fd`](Self::poll_fd).
    pub fn send_async<'a>(&'a mut self, bytes: &'a [u8]) -> SendFuture<'a> {
        SendFuture { sender: self, bytes: Some(bytes) }
    }

    /// Messages that the receiver will see together or not at all; published with one store.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn batch(&mut self) -> Result<Batch<'_>> {
        self.forget_batch();
        self.start("batch", 0)?;
        if self.link.many {
            self.take_turn("batch")?;
        }
        self.producer.begin();
        Ok(Batch { sender: self })
    }

    /// Whether this process may send, and the channel is whole.
    #[inline]
    fn check(&self, call: &'static str) -> Result<()> {
        self.link.check(call, self.process)
    }

    /// The checks of every message.
    #[inline]
    fn start(&mut self, call: &'static str, len: usize) -> Result<()> {
        self.check(call)?;
        if len > self.link.limit() {
            return Err(self.link.too_long(call, len));
        }
        if has_receiver_left(&self.link) {
            return Err(self.disconnected(call, false));
        }
        Ok(())
    }

    #[cold]
    fn disconnected(&self, call: &'static str, died: bool) -> Error {
        self.ring();
        self.link.disconnected(call, "receiver", died)
    }

    /// Room for a message, waited for.
    #[inline]
    fn place(&mut self, call: &'static str, len: usize) -> Result<MessagePlace> {
        self.forget_batch();
        self.place_further(call, len)
    }

    /// A batch that was forgotten and not dropped must not keep this message back.
    #[inline]
    fn forget_batch(&mut self) {
        if self.producer.in_batch() {
            self.producer.abandon();
        }
    }

    /// The same, in a batch.
    #[inline]
    fn place_further(&mut self, call: &'static str, len: usize) -> Result<MessagePlace> {
        self.start(call, len)?;
        let mut start = None;
        if self.link.many {
            start = self.wait.start();
            self.take_turn(call)?;
        }
        match self.producer.find(&self.link, len as u64) {
            Ok(place) => Ok(place),
            Err(_) => self.wait_for_room(call, len, start),
        }
    }

    fn try_place(&mut self, call: &'static str, len: usize) -> Result<Option<MessagePlace>> {
        self.forget_batch();
        self.start(call, len)?;
        match self.attempt(call, len)? {
            Ok(place) => Ok(Some(place)),
            Err(met) => self.recheck_after_arming(call, len, met),
        }
    }

    /// Room for a message, or the obstacle. The turn is kept only with the room.
    #[inline]
    fn attempt(
        &mut self,
        call: &'static str,
        len: usize,
    ) -> Result<Result<MessagePlace, WouldBlock>> {
        if self.link.many && !self.has_turn {
            let attachment = &self.link.attachment;
            match self.link.control().turn.0.lock.try_lock(attachment, attachment.me())? {
                Some(torn) => self.begin_turn(call, torn)?,
                None => return Ok(Err(WouldBlock::Turn)),
            }
        }
        match self.producer.find(&self.link, len as u64) {
            Ok(place) => Ok(Ok(place)),
            Err(blocked) => {
                // Part of the room may have been taken by the end of the ring, which the receiver
                // has to pass.
                self.link.wake_receiver();
                self.end(None);
                match blocked {
                    NoPlace::Until(position) => Ok(Err(WouldBlock::NoRoom(position))),
                    other => Err(refuse(&self.link, call, len, other)),
                }
            }
        }
    }

    #[cold]
    /// There was no room. Is there now, can there ever be, and does the notifier have to ring?
    fn recheck_after_arming(
        &mut self,
        call: &'static str,
        len: usize,
        met: WouldBlock,
    ) -> Result<Option<MessagePlace>> {
        if let Some(notifier) = &self.notifier {
            notifier.clear();
            self.arm(met);
            if met.may_be_over(&self.link) || met.is_left_by_the_dead(&self.link) {
                // A descriptor that is readable once too often does no harm.
                self.ring();
                if let Ok(place) = self.attempt(call, len)? {
                    return Ok(Some(place));
                }
            }
        }
        if self.is_time_to_ask() {
            if is_receiver_dead(&self.link) {
                self.asked = None;
                return Err(self.disconnected(call, true));
            }
            self.link.attachment.check_name()?;
        }
        Ok(None)
    }

    /// From here on it rings when a try may go better than the last one.
    fn arm(&mut self, met: WouldBlock) {
        let Self { link, notifier, .. } = self;
        let Some(notifier) = notifier else { return };
        notifier.arm(&link.attachment, link.sender_notifiers());
        let control = link.control();
        let event_count = match met {
            WouldBlock::Turn => &control.turn.0.event_count,
            WouldBlock::NoRoom(_) => &control.room.0,
        };
        event_count.prepare_wait_and_settle(NOTIFIED, || met.may_be_over(link));
        let receiver = Owner::in_word(control.receiver.0.owner.load(Ordering::Acquire));
        notifier.watch(&link.attachment, receiver.into_iter().chain(met.holder(link)));
    }

    fn ring(&self) {
        if let Some(notifier) = &self.notifier {
            notifier.signal();
        }
    }

    /// Whether a try that found no room asks the kernel for the receiver: a system call, so not
    /// each time.
    fn is_time_to_ask(&mut self) -> bool {
        let now = Instant::now();
        let ask = self.asked.is_none_or(|asked| now - asked >= ASK) || self.notifier.is_some();
        if ask {
            self.asked = Some(now);
        }
        ask
    }

    fn take_turn(&mut self, call: &'static str) -> Result<()> {
        // A reservation that was forgotten and not dropped has left it here.
        if self.has_turn {
            return Ok(());
        }
        let attachment = &self.link.attachment;
        let torn = self.link.control().turn.0.lock.lock(attachment, self.wait, attachment.me())?;
        self.begin_turn(call, torn)
    }

    /// The turn was taken, from a dead sender if `torn`.
    fn begin_turn(&mut self, call: &'static str, torn: bool) -> Result<()> {
        self.has_turn = true;
        // The last holder has noted its position.
        if !torn && self.producer.follow(&self.link) {
            return Ok(());
        }
        let resumed = self.resume(call);
        match resumed {
            Ok(()) => self.link.control().turn.0.lock.mend(),
            Err(_) => self.end(None),
        }
        resumed
    }

    /// Finds out where the last sender stopped.
    fn resume(&mut self, call: &'static str) -> Result<()> {
        let resumed = Producer::resume(&self.link, self.link.capacity());
        self.producer = resumed.map_err(|corrupt| self.link.corrupt(call, corrupt))?;
        // A sender that was killed may have published a message, and told nobody.
        self.link.wake_receiver();
        Ok(())
    }

    #[inline]
    fn end(&mut self, message: Option<(MessagePlace, usize)>) {
        if let Some((place, len)) = message {
            self.producer.publish(&self.link, place, len as u64);
        }
        if self.link.many {
            self.end_turn();
        }
        if message.is_some() {
            self.link.wake_receiver();
        }
    }

    fn end_turn(&mut self) {
        // In a forked child the turn is the parent's.
        if std::mem::take(&mut self.has_turn) && sys::identity::token() == self.process {
            self.link.control().turn.0.lock.unlock(self.link.attachment.me());
            self.link.wake_next_turn();
        }
    }

    #[cold]
    fn wait_for_room(
        &mut self,
        call: &'static str,
        len: usize,
        start: Option<Instant>,
    ) -> Result<MessagePlace> {
        let found = self.wait_for_space(call, len, start);
        if found.is_err() && self.link.many && !self.producer.in_batch() {
            self.end_turn();
        }
        found
    }

    /// A sender that has waited for its turn since `start` has so much less time.
    fn wait_for_space(
        &mut self,
        call: &'static str,
        len: usize,
        start: Option<Instant>,
    ) -> Result<MessagePlace> {
        // The end of the ring may have been published, for the receiver to pass.
        self.link.wake_receiver();
        let Self { link, producer, parks, wait, .. } = self;
        let event_count = &link.control().room.0;
        let mut first = true;
        let wait = wait.since(start);
        wait.until_counted(&link.attachment, call, &event_count.0, parks, |phase| {
            let found = producer.find(link, len as u64);
            match (found, phase) {
                (Ok(place), _) => return Ok(Check::Done(place)),
                (Err(NoPlace::Until(_)), WaitPhase::Spin) => {
                    // Seldom enough that the receiver gives back some messages in between.
                    (0..4).for_each(|_| std::hint::spin_loop());
                    return Ok(Check::Again);
                }
                (Err(NoPlace::Until(_)), WaitPhase::Park { .. }) => {}
                (Err(other), _) => return Err(refuse(link, call, len, other)),
            }
            if has_receiver_left(link) {
                return Err(link.disconnected(call, "receiver", false));
            }
            let ask = phase == WaitPhase::Park { ask: true } && !std::mem::take(&mut first);
            if ask && is_receiver_dead(link) {
                return Err(link.disconnected(call, "receiver", true));
            }
            if wait.never_parks() {
                return Ok(Check::Again);
            }
            // A message that was published just before may have to be notified once more: its end
            // of the ring may have come since.
            let slept = event_count
                .prepare_wait_and_settle(ASLEEP, || producer.find(link, len as u64).is_ok());
            let Some(word) = slept else {
                event_count.cancel_wait(ASLEEP);
                return Ok(Check::Again);
            };
            link.wake_receiver();
            Ok(Check::Sleep(word))
        })
    }
}

#[inline]
fn has_receiver_left(link: &ChannelMemory) -> bool {
    link.control().receiver.0.owner.load(Ordering::Relaxed) == Owner::NOBODY.word()
}

fn is_receiver_dead(link: &ChannelMemory) -> bool {
    let receiver = link.control().receiver.0.owner.load(Ordering::Acquire);
    Owner::in_word(receiver).is_some_and(|receiver| !link.attachment.is_alive(receiver))
}

#[cold]
fn refuse(link: &ChannelMemory, call: &'static str, len: usize, blocked: NoPlace) -> Error {
    match blocked {
        NoPlace::Corrupt(corrupt) => link.corrupt(call, corrupt),
        NoPlace::Never => Error::rule_as(
            Errno::MSGSIZE,
            call,
            link.subject().with_length(len),
            format!(
                "the messages of a batch have room in the ring together, which has {} bytes, 8 of them for \
                 each message",
                link.capacity()
            ),
            "commit it in parts, or create the channel with more bytes",
        ),
        NoPlace::Until(at) => {
            link.corrupt(call, Corrupt { what: "there is no room where some was seen", at })
        }
    }
}

impl Pollable for Sender {
    fn poll_handle(&mut self) -> Result<&mut PollHandle> {
        self.check("poll_fd")?;
        if self.notifier.is_none() {
            let notifier = PollHandle::with_own_slot(
                &self.link.attachment,
                self.link.sender_notifiers(),
                self.place,
            )?;
            self.notifier = Some(Box::new(notifier));
            // Whether there is room or not: the first try is the caller's, and arms it.
            self.ring();
        }
        // It was just made, if there was none.
        Ok(self.notifier.as_mut().expect("a notifier that was just made"))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if sys::identity::token() != self.process {
            return;
        }
        self.producer.abandon();
        self.end_turn();
        // Before the attachment: its files in the directory go before the segment's name.
        if let Some(mut notifier) = self.notifier.take() {
            notifier.end(&self.link.attachment, self.link.sender_notifiers());
        }
        let control = self.link.control();
        let me = self.link.attachment.me().word();
        let place = &control.senders[self.place];
        if place.compare_exchange(me, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.link.wake_receiver();
        }
    }
}

/// Room for a message in a channel, to be filled by [`copy_from`](Self::copy_from) or through a
/// [view](Self::view), which ends before it is committed. Dropped without [`commit`](Self::commit),
/// nothing is seen of it.
///
/// **Fork:** in a child every call is an error, and its drop does nothing.
///
/// A view does not outlive the commit, when the message is the receiver's:
///
/// ```compile_fail,E0505
/// # let channel = folio::shm::Channel::anonymous(4096)?;
/// # let mut sender = channel.sender()?;
/// let mut reserved = sender.reserve(5)?;
/// let view = reserved.view()?;
/// reserved.commit()?;
/// view.copy_from(b"later", 0)?;
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "a message is seen when it is committed"]
pub struct Reserved<'a> {
    sender: &'a mut Sender,
    place: MessagePlace,
    len: usize,
}

impl<'a> Reserved<'a> {
    fn new(sender: &'a mut Sender, place: MessagePlace, len: usize) -> Self {
        Self { sender, place, len }
    }

    /// Bytes of room.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    fn start(&self) -> *mut u8 {
        self.sender.link.bytes(self.sender.producer.bytes_at(self.place), self.len)
    }

    /// The room, to write to.
    ///
    /// # Errors
    ///
    /// EPERM in a forked child. An error that says so if some process has truncated the channel.
    pub fn view(&mut self) -> Result<ViewMut<'_>> {
        self.sender.check("view")?;
        // SAFETY: it lies in the ring, which the attachment keeps mapped and guarded for as long as
        // the sender lives; no Rust allocation is there.
        Ok(unsafe { ViewMut::new(self.start(), self.len) })
    }

    /// Fills a part of it, from `offset` on.
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view); EINVAL if the bytes do not lie inside.
    pub fn copy_from(&mut self, bytes: &[u8], offset: usize) -> Result<()> {
        self.view()?.copy_from(bytes, offset)
    }

    /// The bytes as a slice.
    ///
    /// # Safety
    ///
    /// No process writes to the channel's memory but by folio's own calls while the slice lives,
    /// and none truncates it. (Processes that use folio do not touch room that is reserved.) The
    /// slice is not used in a forked child.
    ///
    /// # Errors
    ///
    /// As [`view`](Self::view).
    pub unsafe fn as_mut_slice(&mut self) -> Result<&mut [u8]> {
        self.sender.check("as_mut_slice")?;
        // SAFETY: mapped while the sender lives, and nobody else's, as the caller promises.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.start(), self.len) })
    }

    /// Sends all of it.
    ///
    /// # Errors
    ///
    /// If some process has truncated the channel.
    pub fn commit(self) -> Result<()> {
        let len = self.len;
        self.commit_first(len)
    }

    /// Sends its first `len` bytes: for messages whose length is known only when they are written.
    ///
    /// # Errors
    ///
    /// EINVAL if it has not so many; else as [`commit`](Self::commit). Nothing is sent then.
    pub fn commit_first(self, len: usize) -> Result<()> {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: read once, and `this` is not dropped.
        let sender = unsafe { std::ptr::read(&raw const this.sender) };
        let most = this.len;
        let checked = if len <= most {
            sender.check("commit")
        } else {
            Err(Error::rule(
                "commit",
                sender.link.subject().with_length(len),
                format!("the room that was reserved has {most} bytes"),
                "reserve as much as there may be",
            ))
        };
        sender.end(checked.is_ok().then_some((this.place, len)));
        checked
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.sender.end(None);
    }
}

/// Messages that are seen together; see [`Sender::batch`]. Dropped without
/// [`commit`](Self::commit), none is seen.
#[derive(Debug)]
#[must_use = "messages are seen when the batch is committed"]
pub struct Batch<'a> {
    sender: &'a mut Sender,
}

impl Batch<'_> {
    /// Adds a message. It waits while there is no room.
    ///
    /// # Errors
    ///
    /// As [`Sender::send`]; EMSGSIZE too if the batch has no room in the ring. The messages before
    /// stay in the batch.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let sender = &mut *self.sender;
        let place = sender.place_further("push", bytes.len())?;
        sender.link.copy_in(sender.producer.bytes_at(place), bytes)?;
        sender.producer.publish(&sender.link, place, bytes.len() as u64);
        Ok(())
    }

    /// Sends all of them.
    ///
    /// # Errors
    ///
    /// If some process has truncated the channel.
    pub fn commit(self) -> Result<()> {
        let sender = &mut *self.sender;
        sender.check("commit")?;
        let any = sender.producer.commit(&sender.link);
        sender.end_turn();
        if any {
            sender.link.wake_receiver();
        }
        Ok(())
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.sender.producer.abandon();
        self.sender.end_turn();
    }
}

/// A message on its way; see [`Sender::send_async`].
#[derive(Debug)]
#[must_use = "a future does nothing until it is polled"]
pub struct SendFuture<'a> {
    sender: &'a mut Sender,
    /// The message, until it is sent: a further poll does not send it again.
    bytes: Option<&'a [u8]>,
}

impl Future for SendFuture<'_> {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        let Self { sender, bytes } = self.get_mut();
        let Some(message) = *bytes else { return Poll::Ready(Ok(())) };
        poll_handle::poll(*sender, context, |sender| {
            let sent = sender.try_send(message)?.then(|| *bytes = None);
            Ok(sent)
        })
    }
}
