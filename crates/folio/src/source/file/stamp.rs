//! The changes of a file that fstat(2) shows, and how a read is made again that a change may have
//! torn.

use crate::source::Version;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::fd::BorrowedFd;

/// How often one read is made at most.
const READS: u32 = 8;

/// The times of a file's last change, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Nanoseconds: of the bytes.
    modified: u64,
    /// Nanoseconds: of the bytes, the owner, the mode, the links. Unlike `modified` it cannot be
    /// set.
    changed: u64,
    size: u64,
}

impl Stamp {
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Self> {
        let status = rustix::fs::fstat(fd)?;
        let nanoseconds = |seconds: i64, rest: u64| {
            seconds.cast_unsigned().wrapping_mul(1_000_000_000).wrapping_add(rest)
        };
        Ok(Self {
            modified: nanoseconds(status.st_mtime, status.st_mtime_nsec),
            changed: nanoseconds(status.st_ctime, status.st_ctime_nsec),
            size: status.st_size.cast_unsigned(),
        })
    }

    /// All of it.
    pub(crate) fn version(self) -> Version {
        Version(self.modified, self.changed.wrapping_add(self.spread_size()))
    }

    /// The part that changes with the bytes, and not with the owner, the mode, the links or the
    /// name.
    pub(crate) fn content(self) -> Version {
        Version(self.modified, self.spread_size())
    }

    /// An odd factor spreads the size over all bits, so that it and a time do not cancel out.
    fn spread_size(self) -> u64 {
        self.size.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

/// A read whose bytes must be the file's at one moment.
///
/// It is settled if the file's stamp is the same before and after it. If the stamp moves, the read
/// is made again: it is settled as soon as two reads in a row give the same bytes. So a change of
/// other bytes (an append), of the mode or of a link costs one more read, and is no error.
#[derive(Debug)]
pub(crate) struct Settling {
    before: Stamp,
    /// The hash of the bytes of the last read, if there was one.
    seen: Option<u64>,
    reads: u32,
    hash: RandomState,
}

/// The verdict after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadVerdict {
    Settled,
    /// The read has to be made again.
    Again,
    /// The bytes changed during each of so many reads.
    Torn,
}

impl Settling {
    /// A read that begins after `before`.
    pub(crate) fn new(before: Stamp) -> Self {
        Self { before, seen: None, reads: 0, hash: RandomState::new() }
    }

    /// A read has ended, with these bytes; `after` was asked for later.
    pub(crate) fn judge(&mut self, after: Stamp, bytes: &[u8]) -> ReadVerdict {
        let before = std::mem::replace(&mut self.before, after);
        if before == after {
            return ReadVerdict::Settled;
        }
        self.reads += 1;
        let hash = Some(self.hash.hash_one(bytes));
        if std::mem::replace(&mut self.seen, hash) == hash {
            return ReadVerdict::Settled;
        }
        if self.reads < READS { ReadVerdict::Again } else { ReadVerdict::Torn }
    }
}

#[cfg(test)]
mod tests {
    use super::{READS, ReadVerdict, Settling, Stamp};

    fn stamp(modified: u64, changed: u64, size: u64) -> Stamp {
        Stamp { modified, changed, size }
    }

    #[test]
    fn a_read_between_two_equal_stamps_is_settled() {
        let mut settling = Settling::new(stamp(1, 1, 1));
        assert_eq!(settling.judge(stamp(1, 1, 1), b"bytes"), ReadVerdict::Settled);
    }

    #[test]
    fn a_read_during_a_change_is_settled_by_a_second_one_of_the_same_bytes() {
        for moved in [stamp(2, 2, 1), stamp(1, 2, 1), stamp(1, 1, 2)] {
            let mut settling = Settling::new(stamp(1, 1, 1));
            assert_eq!(settling.judge(moved, b"bytes"), ReadVerdict::Again);
            assert_eq!(settling.judge(stamp(3, 3, 3), b"bytes"), ReadVerdict::Settled);
        }
    }

    #[test]
    fn a_read_that_is_made_again_is_compared_with_the_stamp_after_the_last_one() {
        let mut settling = Settling::new(stamp(1, 1, 1));
        assert_eq!(settling.judge(stamp(2, 2, 1), b"torn"), ReadVerdict::Again);
        assert_eq!(settling.judge(stamp(2, 2, 1), b"whole"), ReadVerdict::Settled);
    }

    #[test]
    fn bytes_that_differ_in_each_of_many_reads_are_torn() {
        let mut settling = Settling::new(stamp(0, 0, 0));
        for n in 1..u64::from(READS) {
            assert_eq!(settling.judge(stamp(n, n, 0), &n.to_le_bytes()), ReadVerdict::Again);
        }
        assert_eq!(settling.judge(stamp(99, 99, 0), b"other"), ReadVerdict::Torn);
    }

    #[test]
    fn a_change_of_the_mode_is_another_version_and_the_same_content() {
        assert_ne!(stamp(1, 1, 1).version(), stamp(1, 2, 1).version());
        assert_eq!(stamp(1, 1, 1).content(), stamp(1, 2, 1).content());
        assert_ne!(stamp(1, 1, 1).content(), stamp(2, 2, 1).content());
        assert_ne!(stamp(1, 1, 1).content(), stamp(1, 1, 2).content());
    }
}
