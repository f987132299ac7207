//! The pages that a program used, in the order in which it used them: kept in a file, and prefetched the next time.

use crate::error::{Errno, Error, Result, Subject};
use std::fmt::Write as _;
use std::ops::Range;
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
    /// What the file system says.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut text = format!("{HEADER}\n");
        for range in &self.ranges {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{} {}", range.start, range.len());
        }
        std::fs::write(&path, text).map_err(|error| refused("save", path.as_ref(), &error))
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    ///
    /// What the file system says; EINVAL if it is no such file, with the line that is wrong.
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let text = std::fs::read_to_string(&path).map_err(|error| refused("load", path.as_ref(), &error))?;
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
