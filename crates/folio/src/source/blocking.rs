//! A blocking reader as a source, with a pool of threads.

use super::function::{caught, power_of_two};
use super::workers::Workers;
use super::{ReadRequest, Source, Version};
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// An object that can be read at an offset, from several threads at once.
pub trait ReadAt: Send + Sync + 'static {
    /// Its length in bytes, now. It answers at once.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Reads some bytes from an offset, and says how many. It may block. Fewer than there is room
    /// for are ordinary; zero is the end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Which version of the bytes this is, as [`Source::version`] says. It answers at once.
    fn version(&self) -> io::Result<Version> {
        Ok(Version::CONSTANT)
    }
}

impl ReadAt for File {
    fn len(&self) -> io::Result<u64> {
        Ok(crate::sys::file::present_length(self.as_fd())?)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buffer, offset)
    }

    /// The time of the last change of its bytes, and its size: a new name, owner, mode or link is
    /// no new version.
    fn version(&self) -> io::Result<Version> {
        Ok(super::file::stamp::Stamp::of(self.as_fd())?.content())
    }
}

/// A reader that has to seek: one read at a time. Made by [`Blocking::seekable`].
pub struct Seekable<R> {
    len: u64,
    reader: Mutex<R>,
}

impl<R: Read + Seek + Send + 'static> ReadAt for Seekable<R> {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        // Every read seeks first, so a panic in the last one leaves nothing that matters here.
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        reader.seek(SeekFrom::Start(offset))?;
        reader.read(buffer)
    }
}

impl<R> fmt::Debug for Seekable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seekable({} bytes)", self.len)
    }
}

/// A blocking reader, read by threads of its own: 4, and for a reader that has to seek one.
pub struct Blocking<R> {
    name: String,
    reader: Arc<R>,
    threads: usize,
    block: usize,
    deadline: Duration,
    workers: OnceLock<Workers>,
}

impl<R: ReadAt> Blocking<R> {
    /// A source of the bytes that `reader` reads. No thread runs before the first read.
    pub fn new(name: impl Into<String>, reader: R) -> Self {
        let (reader, workers) = (Arc::new(reader), OnceLock::new());
        Self {
            name: name.into(),
            reader,
            threads: 4,
            block: 4096,
            deadline: Duration::from_secs(30),
            workers,
        }
    }

    /// How many reads are under way at once; at least one.
    #[must_use]
    pub fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// The natural unit of a read, as [`Source::block`] says. Rounded up to a power of two.
    #[must_use]
    pub fn block(mut self, bytes: usize) -> Self {
        self.block = power_of_two(bytes);
        self
    }

    /// How long a read may take, as [`Source::deadline`] says. 30 seconds if it is not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

impl<R: Read + Seek + Send + 'static> Blocking<Seekable<R>> {
    /// A source of the bytes of a reader that has to seek. Its length is asked for here, once,
    /// since a later question might wait for a read that is under way.
    pub fn seekable(name: impl Into<String>, mut reader: R) -> io::Result<Self> {
        let len = reader.seek(SeekFrom::End(0))?;
        Ok(Self::new(name, Seekable { len, reader: Mutex::new(reader) }).threads(1))
    }
}

impl<R: ReadAt> Source for Blocking<R> {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> io::Result<u64> {
        self.reader.len()
    }

    fn version(&self) -> io::Result<Version> {
        self.reader.version()
    }

    fn block(&self) -> usize {
        self.block
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        let workers = self.workers.get_or_init(|| Workers::new(self.threads));
        for mut request in requests {
            let reader = Arc::clone(&self.reader);
            workers.run(move || {
                let offset = request.offset();
                let result = caught(|| fill(&*reader, request.buffer(), offset));
                request.complete(result);
            });
        }
    }
}

/// Reads until the buffer is full or the reader ends.
fn fill(reader: &impl ReadAt, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        let at = offset.checked_add(done as u64).ok_or(io::ErrorKind::InvalidInput)?;
        match reader.read_at(&mut buffer[done..], at) {
            Ok(0) => break,
            // A reader that claims more than there was room for lies, about these bytes too.
            Ok(count) if count > buffer.len() - done => {
                return Err(io::Error::other(
                    "the reader says it read more bytes than there was room for",
                ));
            }
            Ok(count) => done += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

impl<R> fmt::Debug for Blocking<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocking({:?}, {} threads)", self.name, self.threads)
    }
}
