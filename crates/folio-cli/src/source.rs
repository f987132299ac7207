//! The printed source: a file, by checked copies out of a map of it (the kernel's or the pager's);
//! or, where there is no map, a stream that is read.

use crate::descriptors;
use crate::failure::{Failure, Kind, words};
use crate::holes::{bytes_of_data, end_of_data, end_of_hole};
use crate::name::shown;
use crate::paging::Paging;
use folio::{FaultCause, FileMap, MapOptions, Pattern};
use rustix::event::{PollFd, PollFlags, poll};
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::Path;
use std::sync::Arc;

/// Bytes that are copied at a time: large enough for few system calls, small enough for a CPU's
/// cache.
pub(crate) const CHUNK: usize = 1 << 20;

/// Bytes of the file that are mapped at a time: whatever the file's size, memory and address space
/// stay bounded.
const WINDOW: u64 = 64 << 20;

/// An open source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) metadata: Metadata,
    pub(crate) engine: Engine,
    /// The pager's map, if that is the engine.
    pub(crate) paging: Option<Paging>,
    file: Arc<File>,
}

/// The engine that maps a source.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mapper {
    Kernel,
    /// With a budget in bytes.
    Pager(Option<u64>),
}

/// How the bytes are got.
#[derive(Debug, Clone)]
pub(crate) enum Engine {
    /// Out of a map of the kernel, of a file with so many bytes.
    Map { size: u64 },
    /// Out of a map of folio's pager, of a file with so many bytes.
    Pager { size: u64 },
    /// Read, and why.
    Read { reason: String },
}

impl Source {
    /// Opens a file, or takes standard input for `-`.
    pub(crate) fn open(path: &Path, mapper: Mapper) -> Result<Self, Failure> {
        let stdin = path == Path::new("-");
        let name = if stdin { "standard input".to_owned() } else { shown(path) };
        let failed = |error: io::Error| Failure::io(Kind::Source, &name, &error);
        let file = if stdin {
            descriptors::inherited(0, Kind::Source, &name)?
        } else {
            File::open(path).map_err(failed)?
        };
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_dir() {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        let engine = if stdin {
            Engine::Read { reason: "it is a stream, read from where it stands".into() }
        } else {
            engine(&file, &metadata, mapper).map_err(failed)?
        };
        let mut source = Self { name, metadata, engine, paging: None, file: Arc::new(file) };
        if let (Engine::Pager { size }, Mapper::Pager(budget)) = (&mut source.engine, mapper) {
            let paging = Paging::open(&source.file, &source.name, budget)?;
            *size = paging.size();
            source.paging = Some(paging);
        }
        Ok(source)
    }

    /// Sets out to read `length` bytes from `offset`, or all to the end.
    pub(crate) fn bytes(
        &self,
        offset: Option<u64>,
        length: Option<u64>,
    ) -> Result<Bytes<'_>, Failure> {
        let start = offset.unwrap_or(0);
        let way = match &self.engine {
            Engine::Map { size } | Engine::Pager { size } => {
                // Every source has a start, also an empty one. Its end is a place to print nothing
                // from.
                let must_have = start > 0 && length != Some(0);
                if start > *size || (start == *size && must_have) {
                    return Err(self.past_end(start, Some(*size)));
                }
                let left = (size - start).min(length.unwrap_or(u64::MAX));
                match &self.paging {
                    Some(paging) => {
                        Way::Pager { paging, started: start as usize, end: start + left }
                    }
                    None => Way::Map { window: None, end: start + left },
                }
            }
            Engine::Read { .. } => {
                self.skip(start)?;
                // The stream's end is known when it is met.
                Way::Stream { left: length, must_have: start > 0 && length != Some(0) }
            }
        };
        Ok(Bytes { source: self, at: start, data_end: 0, way })
    }

    fn past_end(&self, offset: u64, size: Option<u64>) -> Failure {
        let name = &self.name;
        let has = match size {
            None => String::new(),
            Some(1) => ": there is 1 byte".to_owned(),
            Some(size) => format!(": there are {size} bytes"),
        };
        let failure =
            Failure::new(Kind::Source, format!("{name}: offset {offset} is past the end{has}"))
                .at(offset);
        match size.and_then(|size| size.checked_sub(1)) {
            Some(last) => failure.remedy(format!("the last byte is at offset {last}")),
            None => failure,
        }
    }

    /// Leaves out the first bytes of a stream.
    fn skip(&self, count: u64) -> Result<(), Failure> {
        if count == 0 || self.seek(count)? {
            return Ok(());
        }
        let mut scrap = vec![0; CHUNK.min(usize::try_from(count).unwrap_or(CHUNK))];
        let mut left = count;
        while left > 0 {
            let want = usize::try_from(left).map_or(scrap.len(), |left| left.min(scrap.len()));
            match read(&self.file, &mut scrap[..want]) {
                Ok(0) => return Err(self.past_end(count, Some(count - left))),
                Ok(got) => left -= got as u64,
                Err(error) => {
                    return Err(Failure::io(Kind::Source, &self.name, &error).at(count - left));
                }
            }
        }
        Ok(())
    }

    /// Tries to leave bytes out without reading them. Some files in /proc can be read nowhere else
    /// than where they were asked for. Devices that ignore a seek are no regular files.
    fn seek(&self, count: u64) -> Result<bool, Failure> {
        let mut file = &*self.file;
        let Ok(by) = i64::try_from(count) else { return Ok(false) };
        // A seek goes past the end as well. A byte that can be read before the place shows that the
        // place exists.
        if !self.metadata.is_file() || file.seek(SeekFrom::Current(by - 1)).is_err() {
            return Ok(false);
        }
        match read(&self.file, &mut [0]) {
            Ok(0) => Err(self.past_end(count, None)),
            Ok(_) => Ok(true),
            // Some files of /proc give no single bytes.
            Err(_) => Ok(file.seek(SeekFrom::Current(1)).is_ok()),
        }
    }
}

/// How to get at the bytes of an open file.
fn engine(file: &File, metadata: &Metadata, mapper: Mapper) -> io::Result<Engine> {
    let read = |reason: &str| Ok(Engine::Read { reason: reason.to_owned() });
    let kind = metadata.file_type();
    let size = if kind.is_file() {
        metadata.len()
    } else if kind.is_block_device() {
        let mut file = file;
        let size = file.seek(SeekFrom::End(0))?;
        file.rewind()?;
        size
    } else if kind.is_fifo() {
        return read("it is a pipe");
    } else if kind.is_char_device() {
        return read("it is a character device");
    } else {
        return read("it is neither a file nor a block device");
    };
    // The last byte is missing, and so would be pages before it: a map would show zeros there.
    let estimates = || -> io::Result<bool> {
        let none = size > 0 && matches!(file.read_at(&mut [0], size - 1), Ok(0));
        Ok(none && file.metadata()?.len() == metadata.len())
    };
    if kind.is_file() && estimates()? {
        return read("it has fewer bytes than it tells");
    }
    if let Mapper::Pager(_) = mapper {
        return match file.read_at(&mut [0], size.saturating_sub(1)) {
            Ok(count) if count > 0 && size == 0 => read("it tells no size"),
            // An error is not the end of an empty file: the reads that follow report it, or
            // succeed.
            Err(_) if size == 0 => {
                read("it tells no size, and its first byte cannot be read alone")
            }
            _ => Ok(Engine::Pager { size }),
        };
    }
    // A file of /proc or /sys tells a size that means nothing, so it must not be believed before
    // something was mapped.
    match MapOptions::new().len(size.min(1) as usize).map(file) {
        Err(error) => {
            let why = words(&io::Error::from(error.errno()));
            let usual = matches!(error.errno(), folio::Errno::NODEV | folio::Errno::IO);
            let usual = if usual { ", as for most of /proc and /sys" } else { "" };
            return Ok(Engine::Read { reason: format!("the kernel answers: {why}{usual}") });
        }
        Ok(_) if size > 0 => {}
        Ok(_) => match file.read_at(&mut [0], 0) {
            Ok(0) => {}
            Ok(_) => return read("it tells no size"),
            Err(_) => return read("it tells no size, and its first byte cannot be read alone"),
        },
    }
    Ok(Engine::Map { size })
}

/// The bytes that were asked for, a buffer at a time.
#[derive(Debug)]
pub(crate) struct Bytes<'a> {
    source: &'a Source,
    /// Where the next byte lies in the source.
    at: u64,
    /// Where the data ends that starts at or before `at`, if holes are looked for.
    data_end: u64,
    way: Way<'a>,
}

#[derive(Debug)]
enum Way<'a> {
    Map { window: Option<Box<FileMap>>, end: u64 },
    Pager { paging: &'a Paging, started: usize, end: u64 },
    Stream { left: Option<u64>, must_have: bool },
}

impl Bytes<'_> {
    /// How many bytes are left, if that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        match &self.way {
            Way::Map { end, .. } | Way::Pager { end, .. } => Some(end - self.at),
            Way::Stream { left, .. } => *left,
        }
    }

    /// How many bytes are left that are no holes, if that is known.
    pub(crate) fn data(&self) -> Option<u64> {
        match &self.way {
            Way::Map { end, .. } | Way::Pager { end, .. } if self.source.metadata.is_file() => {
                bytes_of_data(&self.source.file, self.at..*end)
            }
            _ => self.left(),
        }
    }

    /// Leaves a hole out that starts here, and tells its length: 0 for none. The next bytes end
    /// before the hole that follows.
    pub(crate) fn skip_hole(&mut self) -> u64 {
        let end = match &self.way {
            Way::Map { end, .. } | Way::Pager { end, .. } if self.source.metadata.is_file() => *end,
            _ => return 0,
        };
        let from = self.at;
        if from < self.data_end {
            return 0;
        }
        let file = &self.source.file;
        self.at = end_of_hole(file, from..end).unwrap_or(from);
        self.data_end = end_of_data(file, self.at..end);
        self.at - from
    }

    /// The next bytes; none at the end. With a failure come the bytes that could still be had
    /// before it.
    pub(crate) fn next(&mut self, buffer: &mut [u8]) -> (usize, Option<Failure>) {
        let before_hole = self.data_end.checked_sub(self.at).filter(|&left| left > 0);
        let left = self.left().into_iter().chain(before_hole).min();
        let want = left.map_or(buffer.len(), |left| left.min(buffer.len() as u64) as usize);
        if want == 0 {
            return (0, None);
        }
        let buffer = &mut buffer[..want];
        let (count, failure) = match &mut self.way {
            Way::Map { window, end } => match checked(self.source, window, self.at..*end, buffer) {
                Ok(count) => (count, None),
                Err((count, error)) => {
                    (count, Some(self.source.lost(&error, self.at + count as u64)))
                }
            },
            Way::Pager { paging, started, end } => {
                match paging.copy(self.at as usize..*end as usize, started, buffer) {
                    Ok(count) => (count, None),
                    Err((count, error)) => {
                        (count, Some(self.source.lost(&error, self.at + count as u64)))
                    }
                }
            }
            Way::Stream { left, must_have } => match read(&self.source.file, buffer) {
                Ok(0) if *must_have => (0, Some(self.source.past_end(self.at, None))),
                Ok(count) => {
                    *must_have = false;
                    *left = left.map(|left| left - count as u64);
                    (count, None)
                }
                Err(error) => {
                    (0, Some(Failure::io(Kind::Source, &self.source.name, &error).at(self.at)))
                }
            },
        };
        self.at += count as u64;
        (count, failure)
    }
}

/// Copies from the front of `range` of the file, by way of a map of a part of it. An error comes
/// with the number of bytes before it.
fn checked(
    source: &Source,
    window: &mut Option<Box<FileMap>>,
    range: std::ops::Range<u64>,
    buffer: &mut [u8],
) -> Result<usize, (usize, folio::Error)> {
    let inside = |map: &FileMap| range.start < map.offset() + map.len() as u64;
    let map = match window.take().filter(|map| inside(map)) {
        Some(map) => map,
        None => Box::new(map_window(&source.file, &range).map_err(|error| (0, error))?),
    };
    let map = window.insert(map);
    let at = (range.start - map.offset()) as usize;
    let mut want = buffer.len().min(map.len() - at);
    let mut lost = None;
    while want > 0 {
        let buffer = &mut buffer[..want];
        // Truncation inside a page shows zeros and no fault: one fstat a chunk sees it. A device
        // has no such end.
        let result = if source.metadata.is_file() {
            map.read_at_verified(buffer, at)
        } else {
            map.read_at(buffer, at)
        };
        match result {
            Ok(()) => break,
            Err(error) => {
                let good = error.fault().map_or(0, |fault| fault.range().start.saturating_sub(at));
                want = good.min(want - 1);
                lost = Some(error);
            }
        }
    }
    lost.map_or(Ok(want), |error| Err((want, error)))
}

/// Maps the front of `range`: less of it where address space is short.
fn map_window(file: &Arc<File>, range: &std::ops::Range<u64>) -> folio::Result<FileMap> {
    let mut length = (range.end - range.start).min(WINDOW) as usize;
    loop {
        let options =
            MapOptions::new().offset(range.start).len(length).pattern(Pattern::Sequential);
        match options.map(file) {
            Err(error) if error.errno() == folio::Errno::NOMEM && length > CHUNK => length /= 2,
            result => return result,
        }
    }
}

impl Source {
    /// Bytes from `offset` on could not be supplied.
    fn lost(&self, error: &folio::Error, offset: u64) -> Failure {
        let name = &self.name;
        let Some(fault) = error.fault() else {
            return Failure::new(Kind::Source, format!("{name}: offset {offset}: {error}"))
                .at(offset);
        };
        let offset = fault.file_offset().unwrap_or(offset);
        let failed = |why: &dyn std::fmt::Display| {
            let message =
                format!("{name}: the bytes at offset {offset} could not be supplied: {why}");
            Failure::new(Kind::Fault, message).at(offset)
        };
        let now = self.file.metadata();
        let shorter = now.as_ref().is_ok_and(|now| now.len() < self.metadata.len());
        if fault.cause() == FaultCause::Changed && !shorter {
            let message = format!(
                "{name}: changed while it was printed: the bytes from offset {offset} on cannot be had as they were"
            );
            return Failure::new(Kind::Fault, message).at(offset).remedy(
                "what was printed is what the file had; print it again, or use `--engine kernel` for a file that changes",
            );
        }
        if !self.metadata.is_file() {
            return failed(&"the device cannot read them, or is gone")
                .remedy("see the kernel's log (dmesg)");
        }
        let gone = matches!(fault.cause(), FaultCause::PastEnd | FaultCause::Changed)
            || (shorter && self.paging.is_some());
        if !gone {
            return match fault.detail() {
                Some(detail) => failed(&format!("{} ({})", fault.cause(), shown(detail))),
                None => failed(&fault.cause()),
            };
        }
        // The pager shows one version of a file: the rest is of another.
        let what = match &now {
            Ok(now) if now.len() > offset => "cannot be had as they were",
            _ => "are gone",
        };
        let now =
            now.map_or_else(|_| String::new(), |now| format!(" (it has {} bytes now)", now.len()));
        let message = format!(
            "{name}: truncated while it was printed: the bytes from offset {offset} on {what}{now}"
        );
        Failure::new(Kind::Fault, message)
            .at(offset)
            .remedy("what was printed is all there was before that offset; print again what the file has now")
    }
}

/// read(2), again after a signal, and patient with a descriptor that does not block.
fn read(mut file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match file.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(file.as_fd(), PollFlags::IN)?;
            }
            result => return result,
        }
    }
}

/// Waits until a descriptor is ready.
pub(crate) fn wait(fd: BorrowedFd<'_>, flags: PollFlags) -> io::Result<()> {
    match poll(&mut [PollFd::from_borrowed_fd(fd, flags)], None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
