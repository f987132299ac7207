//! A log: a queue with history, in a segment or a file, from one writer to any number of readers.
//!
//! | file | subject |
//! | --- | --- |
//! | [`chain`] | the entries in their ring, pure |
//! | [`checksum`] | of an entry |
//! | [`link`] | what writer and readers have |
//! | [`writer`], [`reader`] | the two sides |

mod checksum;
mod entries;
mod link;
mod reader;
mod writer;

pub use reader::{LogReader, NextFuture, Read, Start};
pub use writer::LogWriter;

use crate::error::Result;
use crate::map::scm_rights;
use crate::shm::ring::create::RingOptions;
use crate::shm::ring::message_header;
use crate::shm::segment::SegmentOptions;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::file_io::SegmentContents;
use crate::shm::segment::header::{Lifetime, SegmentKind};
use link::{LogControl, LogMemory};
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

/// The base of [`entries`]; its model in the tests puts other atomics there.
mod atomics {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

/// Entries that can be read any number of times: one writer appends, any number of readers read,
/// each from any point, again and again. A fifo gives each message once and to one reader. A log
/// gives it to all readers, also to those that come later; as a file, also after a restart.
/// Programs that use folio read and write it; for others folio makes no fifo.
///
/// Entries have sequence numbers from 0. The log has a fixed size: the newest entries push out the
/// oldest, and the writer waits for no reader. One that is too slow is told exactly which entries
/// it missed.
///
/// An entry is any number of bytes up to the [`max_entry_len`](LogWriter::max_entry_len), and is
/// seen whole or not at all, whatever instruction the writer is killed at. A new writer goes on
/// with the next number.
///
/// **Fork:** a child can use its copy of the `Log`, as a process of its own, and its copy of a
/// reader. A writer stays the parent's.
///
/// ```
/// use folio::shm::{Log, Read, Start};
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("events");
/// let log = Log::open_or_create_file(&path, 1 << 16)?;
/// let mut writer = log.writer()?;
/// writer.append(b"started")?;
/// writer.append(b"ready")?;
///
/// // Any process, now or after a restart, as often as it likes:
/// let mut entry = Vec::new();
/// for _ in 0..2 {
///     let mut reader = Log::open_or_create_file(&path, 1 << 16)?.reader(Start::Oldest)?;
///     assert_eq!(reader.next(&mut entry)?, Read::Entry(0));
///     assert_eq!(entry, b"started");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Log {
    link: LogMemory,
}

/// How a log is made and opened.
#[derive(Debug, Clone)]
#[must_use]
pub struct LogOptions {
    segment: SegmentOptions,
    bytes: usize,
}

impl LogOptions {
    /// A log of 1 MiB that is [kept](Lifetime::Kept) when nobody uses it.
    pub fn new() -> Self {
        Self { segment: SegmentOptions::new().lifetime(Lifetime::Kept), bytes: 1 << 20 }
    }

    /// Bytes of a new log's ring, rounded up to a power of two of at least 1024. An entry takes 24
    /// bytes more than it has, rounded up to a multiple of 8. A log that is there already is opened
    /// with the size it has.
    pub fn bytes(mut self, bytes: usize) -> Self {
        self.bytes = bytes;
        self
    }

    /// Its users, and its lifetime. Counts and capacities are of no use to a log.
    pub fn segment(mut self, options: SegmentOptions) -> Self {
        self.segment = options;
        self
    }

    /// Makes a log.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::create`]; EINVAL for a size that no memory has.
    pub fn create(&self, name: &str) -> Result<Log> {
        Log::new(self.making().create(name)?)
    }

    /// Opens a log that exists, of any size.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open`].
    pub fn open(&self, name: &str) -> Result<Log> {
        Log::new(self.making().open(name)?)
    }

    /// Opens a log, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_or_create`].
    pub fn open_or_create(&self, name: &str) -> Result<Log> {
        Log::new(self.making().open_or_create(name)?)
    }

    /// Makes a log that is the file at `path`. It is there again after a restart.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::create_file`]; EINVAL for a size that no memory has.
    pub fn create_file(&self, path: impl AsRef<Path>) -> Result<Log> {
        Log::new(self.making().create_file(path.as_ref())?)
    }

    /// Opens a log that is the file at `path`, of any size.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_file`].
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<Log> {
        Log::new(self.making().open_file(path.as_ref())?)
    }

    /// Opens a log that is the file at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_or_create_file`].
    pub fn open_or_create_file(&self, path: impl AsRef<Path>) -> Result<Log> {
        Log::new(self.making().open_or_create_file(path.as_ref())?)
    }

    /// Makes a log without a name: for forked children, and for processes that it is
    /// [sent](Log::send_to) to. Nobody can truncate it.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::anonymous`].
    pub fn anonymous(&self) -> Result<Log> {
        Log::new(self.making().anonymous()?)
    }

    /// The log behind a descriptor.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::from_fd`].
    pub fn from_fd(&self, fd: impl AsFd) -> Result<Log> {
        Log::new(self.making().behind(fd.as_fd())?)
    }

    /// Takes what [`Log::send_to`] passed.
    ///
    /// # Errors
    ///
    /// The errors of recvmsg(2); those of [`from_fd`](Self::from_fd).
    pub fn receive_from(&self, socket: &UnixStream) -> Result<Log> {
        self.from_fd(scm_rights::receive(socket)?)
    }

    fn making(&self) -> RingOptions<'_, LogControl> {
        let any = SegmentContents {
            kind: SegmentKind::Log,
            fingerprint: 1,
            type_name: "log",
            element: 1,
            length: 0,
        };
        RingOptions { segment: &self.segment, any, bytes: self.bytes, beside: PhantomData }
    }
}

impl Default for LogOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl Log {
    fn new(attachment: Arc<Attachment>) -> Result<Self> {
        Ok(Self { link: LogMemory::new(attachment)? })
    }

    /// As [`LogOptions::create`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::create`].
    pub fn create(name: &str, bytes: usize) -> Result<Self> {
        LogOptions::new().bytes(bytes).create(name)
    }

    /// As [`LogOptions::open`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::open`].
    pub fn open(name: &str) -> Result<Self> {
        LogOptions::new().open(name)
    }

    /// As [`LogOptions::open_or_create`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::open_or_create`].
    pub fn open_or_create(name: &str, bytes: usize) -> Result<Self> {
        LogOptions::new().bytes(bytes).open_or_create(name)
    }

    /// As [`LogOptions::create_file`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::create_file`].
    pub fn create_file(path: impl AsRef<Path>, bytes: usize) -> Result<Self> {
        LogOptions::new().bytes(bytes).create_file(path)
    }

    /// As [`LogOptions::open_file`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::open_file`].
    pub fn open_file(path: impl AsRef<Path>) -> Result<Self> {
        LogOptions::new().open_file(path)
    }

    /// As [`LogOptions::open_or_create_file`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::open_or_create_file`].
    pub fn open_or_create_file(path: impl AsRef<Path>, bytes: usize) -> Result<Self> {
        LogOptions::new().bytes(bytes).open_or_create_file(path)
    }

    /// As [`LogOptions::anonymous`].
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::anonymous`].
    pub fn anonymous(bytes: usize) -> Result<Self> {
        LogOptions::new().bytes(bytes).anonymous()
    }

    /// The writer: there is one at a time. It goes on where the last one stopped. The first one
    /// after the machine was started anew reads all of the log, and waits for its device once.
    ///
    /// # Errors
    ///
    /// EBUSY, with the process that has it, while there is another. EBADMSG if some process has
    /// written over the log. EIO.
    pub fn writer(&self) -> Result<LogWriter> {
        LogWriter::new(self.link.clone())
    }

    /// A reader. There can be any number.
    ///
    /// # Errors
    ///
    /// EBADMSG if some process has written over the log.
    pub fn reader(&self, start: Start) -> Result<LogReader> {
        LogReader::new(self.link.clone(), start)
    }

    /// Bytes of the ring.
    pub fn bytes(&self) -> usize {
        self.link.capacity() as usize
    }

    /// The longest entry, in bytes.
    pub fn max_entry_len(&self) -> usize {
        self.link.limit()
    }

    /// Whether the log's memory is whole, this process a participant of it, and its name still
    /// there, as [`Segment::check`](crate::shm::Segment::check). Calls that wait find out as much
    /// by themselves.
    ///
    /// # Errors
    ///
    /// Those of [`Segment::check`](crate::shm::Segment::check).
    pub fn check(&self) -> Result<()> {
        self.link.attachment.check_name()
    }

    /// The file, to be passed on: [`LogOptions::from_fd`].
    pub fn file(&self) -> BorrowedFd<'_> {
        self.link.attachment.file()
    }

    /// Passes the log to the process at the other end of a Unix socket (SCM_RIGHTS), with one byte
    /// of data. The other end takes it by [`receive_from`](Self::receive_from).
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub fn send_to(&self, socket: &UnixStream) -> Result<()> {
        scm_rights::send(socket, self.file())
    }

    /// Takes what [`send_to`](Self::send_to) passed.
    ///
    /// # Errors
    ///
    /// Those of [`LogOptions::receive_from`].
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        LogOptions::new().receive_from(socket)
    }
}

/// Uses a log while `input` is written over it: pairs of an operation and a place, with the eight
/// bytes to write. Calls may fail, and entries be missing; nothing may be read or written outside,
/// and nothing may panic or hang.
#[cfg(any(test, fuzzing))]
pub(crate) fn survive(input: &[u8]) {
    use crate::shm::ring::memory::data_len;
    use crate::shm::wait::Wait;
    use std::time::Duration;

    const RING: usize = 1024;
    let Ok(log) = Log::anonymous(RING) else { return };
    let (mut writer, mut reader) = (log.writer().ok(), log.reader(Start::Oldest).ok());
    let mut buffer = Vec::new();
    for step in input.chunks_exact(11) {
        let (what, at, bytes) = (step[0], u16::from_le_bytes([step[1], step[2]]), &step[3..]);
        // The control block's lines, or the ring.
        let at = match at & 1 {
            0 => usize::from(at / 2) % (6 * 128),
            _ => data_len(0) + usize::from(at / 2) % RING,
        };
        let at = at / 8 * 8;
        match what % 8 {
            0..3 => log.link.scribble(at, bytes),
            3 | 4 => drop(
                writer.as_mut().map(|writer| writer.append(&bytes.repeat(usize::from(what / 8)))),
            ),
            5 => {
                if let Some(reader) = &mut reader {
                    reader.set_wait(Wait::new().spin(0).timeout(Duration::ZERO));
                    if let Ok(Read::Entry(_)) = reader.next(&mut buffer) {
                        assert!(buffer.len() < RING);
                    }
                }
            }
            6 => {
                let seq = u64::from_le_bytes(bytes.try_into().unwrap_or_default());
                let start =
                    [Start::Oldest, Start::Newest, Start::At(seq)][usize::from(what / 8) % 3];
                drop(reader.as_mut().map(|reader| reader.seek(start)));
            }
            _ => {
                drop(writer.take());
                (writer, reader) = (log.writer().ok(), log.reader(Start::Newest).ok());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Log, LogControl};
    use crate::error::Errno;
    use proptest::strategy::Strategy;

    #[test]
    fn constant_changes_of_the_writer_keep_nobody_from_an_answer() {
        let log = Log::anonymous(1024).unwrap();
        let writer = [std::mem::offset_of!(LogControl, writer)];
        crate::shm::ring::memory::while_scribbled(&log.link, &writer, || {
            if let Err(error) = log.writer() {
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
            proptest::prop_oneof![0_u64..3000, (0_u32..64).prop_map(|bit| 1 << bit)],
        );
        proptest::proptest!(|(steps in proptest::collection::vec(step, 0..80))| {
            let bytes = steps.iter().flat_map(|(what, at, word)| {
                [&[*what][..], &at.to_le_bytes(), &word.to_le_bytes()].concat()
            });
            super::survive(&bytes.collect::<Vec<u8>>());
        });
    }
}
