//! Whether a file's times show a writer that someone else has written.

use super::LocalFile;
use rustix::fs::{FileType, FsWord};

/// File systems whose files someone else keeps (linux/magic.h and their own sources): a time that
/// is shown there may be set anew some time after the write. NFS, SMB (three numbers), 9P, FUSE,
/// Ceph, AFS, Coda, VirtualBox.
const ELSEWHERE: [u32; 10] = [
    0x6969,
    0x517B,
    0xFF53_4D42,
    0xFE53_4D42,
    0x0102_1997,
    0x6573_5546,
    0x00C3_6400,
    0x5346_414F,
    0x7375_7245,
    0x786F_4256,
];

impl LocalFile {
    /// Whether the file's time of modification shows each write, and nothing later.
    pub(crate) fn tells_of_writes(&self) -> bool {
        let kind =
            rustix::fs::fstat(&self.file).map(|status| FileType::from_raw_mode(status.st_mode));
        let system = rustix::fs::fstatfs(&self.file).map(|system| system.f_type);
        kind == Ok(FileType::RegularFile)
            && system.is_ok_and(|system: FsWord| !ELSEWHERE.contains(&(system as u32)))
    }
}
