//! The pages that a program used, in the order in which it used them: kept in a file, and
//! prefetched the next time.

use crate::error::{Errno, Error, Result, Subject};
use crate::sys;
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::ops::Range;
use std::os::fd::AsFd;
use std::path::Path;

/// The first line of a file.
const HEADER: &str = "folio working set 1";

/// Ranges of bytes of a map, in the order in which they came into memory.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// use folio::{Pager, WorkingSet, source::Memory};
///
/// let pager = Pager::builder().build()?;
/// let map = pager.map(Memory::from(vec![1; 1 << 20]))?;
/// map.record(true)?;
/// let _used = map[123_456]; // what the program does at its start
/// map.recorded()?.save(dir.path().join("start"))?;
///
/// // The next time:
/// map.prefetch(WorkingSet::load(dir.path().join("start"))?.ranges())?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WorkingSet {
    ranges: Vec<Range<usize>>,
}

impl WorkingSet {
    pub(crate) fn new(ranges: Vec<Range<usize>>) -> Self {
        Self { ranges }
    }

    /// The ranges, in bytes of the map.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// Writes it to a file, which is replaced: lines of text, an offset and a length in bytes each.
    ///
    /// # Errors
    ///
    /// The file system's errors.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut text = format!("{HEADER}\n");
        for range in &self.ranges {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {}", range.start, range.len());
        }
        let path = path.as_ref();
        let mut file = open("save", path, OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC)?;
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            // A limit on the size of files is an error, and no signal.
            let written = sys::size_limit::within(|| {
                file.write(rest).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            });
            match written {
                Ok(0) => return Err(refused("save", path, &io::ErrorKind::WriteZero.into())),
                Ok(count) => rest = &rest[count..],
                Err(errno) => return Err(refused("save", path, &errno.into())),
            }
        }
        Ok(())
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// The file system's errors; EINVAL if it is no such file, with the wrong line; EFBIG if it has
    /// more than 256 MiB, which is 8 million ranges.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        const MOST: u64 = 256 << 20;
        let mut text = String::new();
        let file = open("load", path.as_ref(), OFlags::RDONLY)?;
        let count = file.take(MOST + 1).read_to_string(&mut text);
        let count = count.map_err(|error| refused("load", path.as_ref(), &error))?;
        if count as u64 > MOST {
            let subject = Subject::named(path.as_ref().display().to_string());
            let rule = format!("a working set has at most {MOST} bytes, and the file has more");
            return Err(Error::rule_as(
                Errno::FBIG,
                "load",
                subject,
                rule,
                "load a file that WorkingSet::save wrote",
            ));
        }
        let wrong = |line: usize| {
            let subject = Subject::named(path.as_ref().display().to_string());
            let rule = format!("line {line} is not that of a working set");
            Error::rule("load", subject, rule, "load a file that WorkingSet::save wrote")
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            return Err(wrong(1));
        }
        let range = |line: &str| {
            let (start, len) = line.split_once(' ')?;
            let start: usize = start.parse().ok()?;
            Some(start..start.checked_add(len.parse().ok()?)?)
        };
        let ranges = lines.enumerate().map(|(n, line)| range(line).ok_or_else(|| wrong(n + 2)));
        Ok(Self { ranges: ranges.collect::<Result<_>>()? })
    }
}

/// Opens a regular file. Nothing is waited for: a FIFO is an error.
fn open(call: &'static str, path: &Path, flags: OFlags) -> Result<File> {
    let opened = sys::open::open(path, flags, Mode::from_raw_mode(0o666));
    let fd = opened.map_err(|errno| refused(call, path, &errno.into()))?;
    let status =
        sys::file::status(fd.as_fd()).map_err(|errno| refused(call, path, &errno.into()))?;
    if status.kind != FileType::RegularFile {
        let subject = Subject::named(path.display().to_string());
        let rule = "a working set lies in a regular file, and this is none";
        return Err(Error::rule(call, subject, rule, "name a file"));
    }
    Ok(fd.into())
}

fn refused(call: &'static str, path: &Path, error: &std::io::Error) -> Error {
    let subject = Subject::named(path.display().to_string());
    match Errno::from_io_error(error) {
        Some(errno) => Error::kernel(call, errno, subject),
        None if error.kind() == std::io::ErrorKind::InvalidData => {
            let rule = "the file is no text, and so no working set";
            Error::rule(call, subject, rule, "load a file that WorkingSet::save wrote")
        }
        // A path that the kernel was not asked about.
        None => Error::kernel(call, Errno::INVAL, subject),
    }
}
