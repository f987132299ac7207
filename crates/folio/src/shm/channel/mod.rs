//! A channel: a ring of messages in shared memory, from one sender or many to one receiver.
//!
//! | file | subject |
//! | --- | --- |
//! | [`ring`] | the ring itself, pure |
//! | [`control`] | what lies beside it |
//! | [`link`] | what both sides have |
//! | [`sender`], [`receiver`] | the two sides |

mod control;
mod link;
mod receiver;
mod ring;
mod sender;

pub use receiver::{Message, Receiver, RecvFuture};
pub use sender::{Batch, Reserved, SendFuture, Sender};

use crate::error::Result;
use crate::map::scm_rights;
use crate::shm::ring::create::RingOptions;
use crate::shm::ring::message_header;
use crate::shm::segment::SegmentOptions;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::file_io::SegmentContents;
use crate::shm::segment::header::SegmentKind;
use control::ChannelControl;
use link::ChannelMemory;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// The base of [`ring`]; its model in the tests puts other atomics there.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

/// Messages between processes: a ring in shared memory, with one sender, or
/// [many](ChannelOptions::many_senders), and one receiver. The processes know a name, or one forks
/// the other, or passes it the descriptor.
///
/// A message is any number of bytes up to the [`max_message_len`](Sender::max_message_len), arrives
/// whole or not at all, and in order. A short one costs one or two cache lines and no system call,
/// unless the other side sleeps. Both sides can work in place: [`Sender::reserve`],
/// [`Receiver::peek`].
///
/// A side that has left or was killed is an error for the other side, after that has received the
/// messages in the channel. The messages that are left stay for the next receiver. A channel ends
/// with the last process that has it open, unless it is a file or
/// [kept](crate::shm::Lifetime::Kept).
///
/// Programs that know folio use it; it is no fifo and no socket in the file system, and a program
/// that can only read and write descriptors needs one of those (mkfifo(3), unix(7)), which folio
/// does not make. Such a program can wait: both sides have a descriptor to poll
/// ([`Receiver::poll_fd`], [`Sender::poll_fd`]).
///
/// Other processes can write over the channel's memory. That can make messages wrong, and calls
/// fail; it never makes safe code unsound.
///
/// **Fork:** a child can use its copy of the `Channel`, as a process of its own. Senders and
/// receivers stay the parent's.
///
/// ```
/// # // SAFETY: nothing else reads the environment meanwhile.
/// # unsafe { std::env::set_var("FOLIO_SHM_DIR", std::env::temp_dir()) };
/// # let name = &format!("channel-doc-{}", std::process::id());
/// use folio::shm::Channel;
///
/// // One process:
/// let mut sender = Channel::open_or_create(name, 1 << 16)?.sender()?;
/// sender.send(b"good morning")?;
///
/// // Another:
/// let mut receiver = Channel::open_or_create(name, 1 << 16)?.receiver()?;
/// let mut message = Vec::new();
/// receiver.recv(&mut message)?;
/// assert_eq!(message, b"good morning");
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Channel {
    link: ChannelMemory,
}

/// How a channel is made and opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct ChannelOptions {
    segment: SegmentOptions,
    bytes: usize,
    many: bool,
}

impl ChannelOptions {
    /// A channel of 64 KiB with one sender.
    pub fn new() -> Self {
        Self { segment: SegmentOptions::new(), bytes: 1 << 16, many: false }
    }

    /// Bytes of a new channel's ring, rounded up to a power of two of at least 64. A message takes
    /// 8 bytes more than it has, rounded up to a multiple of 8, and 8 bytes of the ring stay free.
    /// A channel that is there already is opened with the size it has.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// A channel of up to 128 senders at a time, of any processes, who take turns. All who open it
    /// say so.
    pub fn many_senders(mut self) -> Self {
        self.many = true;
        self
    }

    /// Its users, and its lifetime. Counts and capacities are of no use to a channel.
    pub fn segment(mut self, options: SegmentOptions) -> Self {
        self.segment = options;
        self
    }

    /// Makes a channel.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::create`]; EINVAL for a size that no memory has.
    pub fn create(&self, name: &str) -> Result<Channel> {
        self.channel(self.making().create(name)?)
    }

    /// Opens a channel that exists.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open`].
    pub fn open(&self, name: &str) -> Result<Channel> {
        self.channel(self.making().open(name)?)
    }

    /// Opens a channel, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_or_create`].
    pub fn open_or_create(&self, name: &str) -> Result<Channel> {
        self.channel(self.making().open_or_create(name)?)
    }

    /// Makes a channel that is the file at `path`. It is there again after a restart.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::create_file`]; EINVAL for a size that no memory has.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<Channel> {
        self.channel(self.making().create_file(path.as_ref())?)
    }

    /// Opens a channel that is the file at `path`, of any size.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_file`].
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<Channel> {
        self.channel(self.making().open_file(path.as_ref())?)
    }

    /// Opens a channel that is the file at `path`, or makes it. Messages that were sent and not
    /// received are there again after a restart.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_or_create_file`].
    pub fn open_or_create_file(&self, path: impl AsRef<Path>) -> Result<Channel> {
        self.channel(self.making().open_or_create_file(path.as_ref())?)
    }

    /// Makes a channel without a name: for forked children, and for processes that it is
    /// [sent](Channel::send_to) to. Nobody can truncate it.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::anonymous`].
    pub fn anonymous(&self) -> Result<Channel> {
        self.channel(self.making().anonymous()?)
    }

    /// The channel behind a descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::from_fd`].
    pub fn from_fd(&self, fd: impl AsFd) -> Result<Channel> {
        self.channel(self.making().behind(fd.as_fd())?)
    }

    /// Takes what [`Channel::send_to`] passed.
    ///
    /// # Errors
    ///
    /// The errors of recvmsg(2); those of [`from_fd`](Self::from_fd).
    pub fn receive_from(&self, socket: &UnixStream) -> Result<Channel> {
        self.from_fd(scm_rights::receive(socket)?)
    }

    fn making(&self) -> RingOptions<'_, ChannelControl> {
        let (type_name, fingerprint) =
            if self.many { ("channel of many senders", 2) } else { ("channel of one sender", 1) };
        let any = SegmentContents {
            kind: SegmentKind::Channel,
            fingerprint,
            type_name,
            element: 1,
            length: 0,
        };
        RingOptions { segment: &self.segment, any, bytes: self.bytes, beside: PhantomData }
    }

    fn channel(&self, attachment: Arc<Attachment>) -> Result<Channel> {
        Ok(Channel { link: ChannelMemory::new(attachment, self.many)? })
    }
}

impl Default for ChannelOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Channel {
    /// As [`ChannelOptions::create`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::create`].
    pub fn create(name: &str, bytes: usize) -> Result<Self> {
        ChannelOptions::new().bytes(bytes).create(name)
    }

    /// As [`ChannelOptions::open`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::open`].
    pub fn open(name: &str) -> Result<Self> {
        ChannelOptions::new().open(name)
    }

    /// As [`ChannelOptions::open_or_create`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::open_or_create`].
    pub fn open_or_create(name: &str, bytes: usize) -> Result<Self> {
        ChannelOptions::new().bytes(bytes).open_or_create(name)
    }

    /// As [`ChannelOptions::create_file`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::create_file`].
    pub fn create_file(path: impl AsRef<Path>, bytes: usize) -> Result<Self> {
        ChannelOptions::new().bytes(bytes).create_file(path)
    }

    /// As [`ChannelOptions::open_file`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::open_file`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        ChannelOptions::new().open_file(path)
    }

    /// As [`ChannelOptions::open_or_create_file`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::open_or_create_file`].
    pub fn open_or_create_file(path: impl AsRef<Path>, bytes: usize) -> Result<Self> {
        ChannelOptions::new().bytes(bytes).open_or_create_file(path)
    }

    /// As [`ChannelOptions::anonymous`], with one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::anonymous`].
    pub fn anonymous(bytes: usize) -> Result<Self> {
        ChannelOptions::new().bytes(bytes).anonymous()
    }

    /// A sender. In a channel of one sender there is one at a time.
    ///
    /// # Errors
    ///
    /// EBUSY, with the process that has it, while there is another; EAGAIN at 128 in a channel of
    /// many. EBADMSG if some process has written over the channel.
    pub fn sender(&self) -> Result<Sender> {
        Sender::new(self.link.clone())
    }

    /// The receiver: there is one at a time. It begins at the first message that the last one has
    /// not given back.
    ///
    /// # Errors
    ///
    /// EBUSY, with the process that has it, while there is another. EBADMSG if some process has
    /// written over the channel.
    pub fn receiver(&self) -> Result<Receiver> {
        Receiver::new(self.link.clone())
    }

    /// Bytes of the ring.
    pub fn bytes(&self) -> usize {
        self.link.capacity() as usize
    }

    /// The longest message, in bytes.
    pub fn max_message_len(&self) -> usize {
        self.link.limit()
    }

    /// Whether the channel's memory is whole, this process a participant of it, and its name still
    /// there, as [`Segment::check`](crate::shm::Segment::check). Calls that wait find out as much
    /// by themselves.
    ///
    /// # Errors
    ///
    /// Those of [`Segment::check`](crate::shm::Segment::check).
    pub fn check(&self) -> Result<()> {
        self.link.attachment.check_name()
    }

    /// The file, to be passed on: [`ChannelOptions::from_fd`].
    pub fn file(&self) -> BorrowedFd<'_> {
        self.link.attachment.file()
    }

    /// Passes the channel to the process at the other end of a Unix socket (SCM_RIGHTS), with one
    /// byte of data. The other end takes it by [`receive_from`](Self::receive_from); one of many
    /// senders by [`ChannelOptions::receive_from`].
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub fn send_to(&self, socket: &UnixStream) -> Result<()> {
        scm_rights::send(socket, self.file())
    }

    /// Takes what [`send_to`](Self::send_to) passed: a channel of one sender.
    ///
    /// # Errors
    ///
    /// Those of [`ChannelOptions::receive_from`].
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        ChannelOptions::new().receive_from(socket)
    }
}

/// Uses a channel while `input` is written over it: pairs of an operation and a place, with the
/// eight bytes to write. Calls may fail, and messages be wrong; nothing may be read or written
/// outside, and nothing may panic or hang.
#[cfg(any(test, fuzzing))]
pub(crate) fn survive(input: &[u8]) {
    use crate::shm::ring::memory::data_len;
    use crate::shm::wait::Wait;
    use std::time::Duration;

    const RING: usize = 256;
    let Some((&first, steps)) = input.split_first() else { return };
    let options = ChannelOptions::new().bytes(RING);
    let options = if first & 1 == 1 { options.many_senders() } else { options };
    let Ok(channel) = options.anonymous() else { return };
    let at_once = Wait::new().spin(0).timeout(Duration::ZERO);
    let (mut sender, mut receiver) = (channel.sender().ok(), channel.receiver().ok());
    let mut buffer = Vec::new();
    for step in steps.chunks_exact(11) {
        let (what, at, bytes) = (step[0], u16::from_le_bytes([step[1], step[2]]), &step[3..]);
        // The control block's lines, or the ring.
        let at = match at & 1 {
            0 if what & 64 == 0 => usize::from(at / 2) % (10 * 128),
            0 => usize::from(at / 2) % size_of::<ChannelControl>(),
            _ => data_len(0) + usize::from(at / 2) % RING,
        };
        let at = at / 8 * 8;
        if let Some(sender) = &mut sender {
            sender.set_wait(at_once);
        }
        if let Some(receiver) = &mut receiver {
            receiver.set_wait(at_once);
        }
        match what % 8 {
            0..4 => channel.link.scribble(at, bytes),
            4 if what & 64 == 0 => {
                drop(
                    sender.as_mut().map(|sender| sender.send(&bytes.repeat(usize::from(what / 8)))),
                );
            }
            4 => {
                if let Some(sender) = &mut sender {
                    let _ = sender.poll_fd().map(drop);
                    let _ = sender.try_send(&bytes.repeat(usize::from(what % 32)));
                }
            }
            5 => {
                if let Some(Ok(len)) = receiver.as_mut().map(|receiver| receiver.recv(&mut buffer))
                {
                    assert!(len == buffer.len() && len <= RING);
                }
            }
            6 => {
                if let Some(Ok(Some(message))) = receiver.as_mut().map(Receiver::try_peek) {
                    assert!(message.to_vec().is_ok_and(|bytes| bytes.len() == message.len()));
                }
                if let Some(Ok(Some(mut room))) =
                    sender.as_mut().map(|sender| sender.try_reserve(usize::from(what)))
                {
                    let _ = room.copy_from(bytes, 0);
                    let _ = room.commit();
                }
            }
            _ => {
                drop((sender.take(), receiver.take()));
                (sender, receiver) = (channel.sender().ok(), channel.receiver().ok());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::control::ChannelControl;
    use super::{Channel, ChannelOptions};
    use crate::error::Errno;
    use crate::shm::segment::owner::Owner;
    use crate::shm::wait::Wait;
    use proptest::strategy::Strategy;
    use std::time::Duration;

    #[test]
    fn a_sender_that_was_killed_while_it_became_one_has_died() {
        let channel = Channel::anonymous(256).unwrap();
        let mut receiver = channel.receiver().unwrap();
        receiver.set_wait(Wait::new().timeout(Duration::from_secs(60)));
        // It has its place and said nothing yet: a participant that has never lived.
        let dead = Owner::new(200, 7).word();
        channel.link.scribble(std::mem::offset_of!(ChannelControl, senders), &dead.to_ne_bytes());
        let error = receiver.recv(&mut Vec::new()).unwrap_err();
        assert!(error.errno() == Errno::PIPE && error.to_string().contains("has died"), "{error}");
    }

    #[test]
    fn a_cord_that_was_written_over_is_tied_anew() {
        let channel = ChannelOptions::new().bytes(64).many_senders().anonymous().unwrap();
        let (_first, mut sender) = (channel.sender().unwrap(), channel.sender().unwrap());
        let mut receiver = channel.receiver().unwrap();
        let is_readable = |sender: &mut super::Sender| {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                sender.poll_fd().unwrap(),
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())).unwrap() == 1
        };
        sender.poll_fd().unwrap();
        let notifier_slot = std::mem::offset_of!(ChannelControl, notifiers)
            + size_of::<crate::shm::wait::notifier::NotifierSlot>();
        for garbage in [0, u64::MAX, 1, 0x0123_4567_89ab_cdef] {
            for word in [notifier_slot, notifier_slot + 8] {
                while sender.try_send(&[7; 20]).unwrap() {}
                channel.link.scribble(word, &garbage.to_ne_bytes());
                // It goes off by itself, or something else makes it look again: that heals it.
                assert!(!sender.try_send(&[7; 20]).unwrap());
                while receiver.try_recv(&mut Vec::new()).unwrap().is_some() {}
                assert!(is_readable(&mut sender), "{garbage:#x}");
            }
        }
    }

    #[test]
    fn constant_changes_of_the_two_sides_keep_nobody_from_an_answer() {
        let channel = Channel::anonymous(256).unwrap();
        let sides = [
            std::mem::offset_of!(ChannelControl, senders),
            std::mem::offset_of!(ChannelControl, receiver),
        ];
        crate::shm::ring::memory::while_scribbled(&channel.link, &sides, || {
            let answers = [channel.sender().map(drop), channel.receiver().map(drop)];
            for error in answers.into_iter().filter_map(Result::err) {
                assert_eq!(error.errno(), Errno::AGAIN, "{error}");
            }
        });
    }

    #[test]
    fn bytes_from_anywhere_are_survived() {
        proptest::proptest!(|(bytes in proptest::collection::vec(0_u8.., 0..600))| super::survive(&bytes));
        // Small numbers and lone bits, which lengths and positions are.
        let step = (
            0_u8..,
            0_u16..,
            proptest::prop_oneof![0_u64..600, (0_u32..64).prop_map(|bit| 1 << bit)],
        );
        proptest::proptest!(|(first: u8, steps in proptest::collection::vec(step, 0..80))| {
            let bytes = steps.iter().flat_map(|(what, at, word)| {
                [&[*what][..], &at.to_le_bytes(), &word.to_le_bytes()].concat()
            });
            super::survive(&[first].into_iter().chain(bytes).collect::<Vec<u8>>());
        });
    }
}
