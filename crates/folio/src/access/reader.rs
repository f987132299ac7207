//! A map as a stream: `Read`, `BufRead` and `Seek` by checked copies, so that a truncation in
//! mid-read is an error.

use crate::error::Result;
use std::io::{self, BufRead, Read, Seek, SeekFrom};

/// Bytes to hold at a time: large enough to make the copy's overhead small, small enough to stay in
/// a CPU's cache.
const BUFFER: usize = 16 << 10;

/// Reads a map from a position to its end. Made by
/// [`MappedFile::reader`](crate::MappedFile::reader).
pub struct Reader<'a> {
    read_at: Box<ReadFn<'a>>,
    len: usize,
    /// Where the buffer starts in the map.
    start: usize,
    buffer: Vec<u8>,
    /// Bytes of the buffer that were consumed.
    consumed: usize,
}

/// The checked copy of the map that is read.
type ReadFn<'a> = dyn Fn(&mut [u8], usize) -> Result<()> + Send + Sync + 'a;

impl<'a> Reader<'a> {
    pub(crate) fn new(
        len: usize,
        read_at: impl Fn(&mut [u8], usize) -> Result<()> + Send + Sync + 'a,
    ) -> Self {
        Self { read_at: Box::new(read_at), len, start: 0, buffer: Vec::new(), consumed: 0 }
    }

    fn position(&self) -> usize {
        self.start + self.consumed
    }
}

impl std::fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("position", &self.position())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let at = self.position();
        let count = out.len().min(self.len.saturating_sub(at));
        if self.consumed == self.buffer.len() && count >= BUFFER {
            // Large reads go straight to their place.
            (self.read_at)(&mut out[..count], at)?;
            (self.start, self.consumed) = (at + count, 0);
            self.buffer.clear();
            return Ok(count);
        }
        let available = self.fill_buf()?;
        let count = count.min(available.len());
        out[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Reader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.consumed == self.buffer.len() {
            let at = self.position();
            self.buffer.clear();
            (self.start, self.consumed) = (at, 0);
            let mut buffer = vec![0; BUFFER.min(self.len.saturating_sub(at))];
            // A seek past the end is allowed, and then there is nothing to read.
            if !buffer.is_empty() {
                (self.read_at)(&mut buffer, at)?;
            }
            self.buffer = buffer;
        }
        Ok(&self.buffer[self.consumed..])
    }

    fn consume(&mut self, count: usize) {
        self.consumed = (self.consumed + count).min(self.buffer.len());
    }
}

impl Seek for Reader<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (from, by) = match to {
            SeekFrom::Start(at) => (0, i128::from(at)),
            SeekFrom::End(by) => (self.len as i128, i128::from(by)),
            SeekFrom::Current(by) => (self.position() as i128, i128::from(by)),
        };
        let to = from + by;
        let at = usize::try_from(to).map_err(|_| {
            let why = if to < 0 {
                "seek to before the start of the map"
            } else {
                "seek past the last position that can be counted (2^64 - 1)"
            };
            io::Error::new(io::ErrorKind::InvalidInput, why)
        })?;
        self.buffer.clear();
        (self.start, self.consumed) = (at, 0);
        Ok(at as u64)
    }
}
