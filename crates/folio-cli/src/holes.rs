//! Holes of sparse files (lseek(2), SEEK_DATA and SEEK_HOLE).

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::File;
use std::ops::Range;

/// Pieces of data that are counted. The count of a file with more pieces would take too long, and
/// is left out.
const PIECES: usize = 4096;

/// The end of the hole in which `range` starts, as far as the range goes. `None` if there is data,
/// or if the file system does not tell.
pub(crate) fn end_of_hole(file: &File, range: Range<u64>) -> Option<u64> {
    let end = match seek(file, SeekFrom::Data(range.start)) {
        Ok(data) => data.min(range.end),
        // There is no data up to the file's end.
        Err(Errno::NXIO) => range.end,
        Err(_) => return None,
    };
    // A truncated file has no hole past its end: its bytes are missing.
    let len = file.metadata().ok()?.len();
    (range.start < end && end <= len).then_some(end)
}

/// The end of the data in which `range` starts, as far as the range goes.
pub(crate) fn end_of_data(file: &File, range: Range<u64>) -> u64 {
    let hole = seek(file, SeekFrom::Hole(range.start)).ok().filter(|&hole| hole > range.start);
    hole.map_or(range.end, |hole| hole.min(range.end))
}

/// How many bytes of the range are no holes. `None` if that would take too long to count.
pub(crate) fn bytes_of_data(file: &File, range: Range<u64>) -> Option<u64> {
    let (mut at, mut count) = (range.start, 0);
    for _ in 0..PIECES {
        let start = end_of_hole(file, at..range.end).unwrap_or(at);
        if start == range.end {
            return Some(count);
        }
        at = end_of_data(file, start..range.end);
        count += at - start;
    }
    None
}
