//! Where the bytes go: standard output, or a file that appears when all of it was written and not
//! before.

use crate::failure::{Failure, Kind};
use crate::name::shown;
use crate::source::{Source, wait};
use crate::{attributes, descriptors, unfinished};
use rustix::event::PollFlags;
use rustix::fs::{Access, AtFlags, CWD, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, IsTerminal, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where the bytes are to go. It is known before the source is opened, so that no number of a
/// descriptor can mean a file that the command itself has opened.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A descriptor that the command was started with.
    Descriptor { name: String, file: File },
    /// A file by its path.
    Path(PathBuf),
}

impl Destination {
    /// Standard output, for no path and for `-`; a descriptor, for a name of one such as
    /// /dev/stderr; else the path.
    pub(crate) fn of(path: Option<&Path>) -> Result<Self, Failure> {
        let (number, name) = match path {
            Some(path) if path != Path::new("-") => match descriptor_of(path) {
                Some(number) => (number, shown(path)),
                None => return Ok(Self::Path(path.to_owned())),
            },
            _ => (1, "standard output".to_owned()),
        };
        let file = descriptors::inherited(number, Kind::Output, &name)?;
        let flags = rustix::fs::fcntl_getfl(&file);
        if flags.is_ok_and(|flags| flags & OFlags::RWMODE == OFlags::RDONLY) {
            let message = format!("{name}: descriptor {number} is open for reading only");
            return Err(
                Failure::new(Kind::Output, message).remedy(format!("open it by `{number}>FILE`"))
            );
        }
        Ok(Self::Descriptor { name, file })
    }
}

/// The number of the descriptor that a path names: /dev/stdout, /dev/fd/3, /proc/self/fd/3, and
/// links to these.
fn descriptor_of(path: &Path) -> Option<RawFd> {
    let own: Vec<_> = ["/proc/self/fd", "/proc/thread-self/fd"]
        .iter()
        .filter_map(|dir| Path::new(dir).canonicalize().ok())
        .collect();
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        if directory(&path).canonicalize().is_ok_and(|dir| own.contains(&dir)) {
            return path.file_name()?.to_str()?.parse().ok();
        }
        path = directory(&path).join(path.read_link().ok()?);
    }
    None
}

/// As many symbolic links as the kernel follows.
const MOST_LINKS: usize = 40;

/// An open output.
#[derive(Debug)]
pub(crate) struct Output {
    name: String,
    file: File,
    replacement: Option<Replacement>,
    /// The bytes that RLIMIT_FSIZE leaves. Past it the kernel would send a signal instead of an
    /// error.
    room: Option<u64>,
    pub(crate) written: u64,
    /// Whether the file ends with a hole, which no write has made part of it yet.
    ends_with_hole: bool,
    /// Whether the reader of the other end went away: enough was printed.
    pub(crate) closed: bool,
}

/// A file that is to take a name when it is complete.
#[derive(Debug)]
struct Replacement {
    target: PathBuf,
    /// The file that has the name now.
    old: Option<Metadata>,
}

impl Output {
    /// Opens the output, which must not be the source.
    pub(crate) fn open(destination: Destination, source: &Source) -> Result<Self, Failure> {
        match destination {
            Destination::Path(path) => Self::to_path(&path, source),
            Destination::Descriptor { name, file } => Self::to_descriptor(name, file, source),
        }
    }

    fn to_descriptor(name: String, mut file: File, source: &Source) -> Result<Self, Failure> {
        let metadata = file.metadata().map_err(|error| Failure::io(Kind::Output, &name, &error))?;
        // Between sockets and terminals, one object for both ends is the usual thing.
        if metadata.is_file() && same(&metadata, &source.metadata) {
            return Err(is_source(&name));
        }
        let appends =
            rustix::fs::fcntl_getfl(&file).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        let at = if appends { metadata.len() } else { file.stream_position().unwrap_or(0) };
        let mut output = Self::new(name, file);
        output.room =
            output.room.filter(|_| metadata.is_file()).map(|room| room.saturating_sub(at));
        Ok(output)
    }

    fn new(name: String, file: File) -> Self {
        let room = getrlimit(Resource::Fsize).current;
        Self {
            name,
            file,
            replacement: None,
            room,
            written: 0,
            ends_with_hole: false,
            closed: false,
        }
    }

    fn to_path(path: &Path, source: &Source) -> Result<Self, Failure> {
        let name = shown(path);
        let failed = |error: io::Error| Failure::io(Kind::Output, &name, &error);
        let old = match path.metadata() {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if let Some(old) = &old {
            if old.is_dir() {
                return Err(failed(io::ErrorKind::IsADirectory.into()));
            }
            if !old.file_type().is_char_device() && same(old, &source.metadata) {
                return Err(is_source(&name));
            }
            if !old.is_file() {
                let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
                let mut output = Self::new(name, file);
                output.room = None;
                return Ok(output);
            }
            // A rename over the file would need no right to the file itself. Its owner may have
            // taken that right away on purpose.
            rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)
                .map_err(|errno| failed(errno.into()))?;
        } else if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        // A symbolic link stays one: the file it names is replaced.
        let target =
            if old.is_some() { path.canonicalize().map_err(failed)? } else { follow(path) };
        // While the new file is made, nobody reads it who could not read the old one.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let file = nameless(&target, mode).or_else(|_| named(&target, mode)).map_err(|error| {
            match (error.kind(), &old) {
                (io::ErrorKind::PermissionDenied, Some(_)) => failed(error).remedy(
                    "a new file is written beside it first, and its directory forbids that; use `> FILE`",
                ),
                _ => failed(error),
            }
        })?;
        let mut output = Self::new(name, file);
        let replacement = output.replacement.insert(Replacement { target, old });
        replacement.prepare(&output.file, &output.name)?;
        Ok(output)
    }

    /// Whether a hole of the source stays a hole here.
    pub(crate) fn takes_holes(&self) -> bool {
        self.replacement.is_some()
    }

    /// Refuses an output for which the file system has no room: `bytes` are to be written, holes
    /// left out.
    pub(crate) fn needs(&self, bytes: u64) -> Result<(), Failure> {
        let Ok(stat) = rustix::fs::fstatfs(&self.file) else { return Ok(()) };
        let block = u64::try_from(stat.f_bsize).unwrap_or(0);
        let privileged = rustix::process::geteuid().is_root();
        let free = (if privileged { stat.f_bfree } else { stat.f_bavail }).saturating_mul(block);
        // Some file systems tell no size, and some compress.
        let tells =
            stat.f_blocks > 0 && !COMPRESSING.contains(&u64::try_from(stat.f_type).unwrap_or(0));
        if !tells || bytes <= free {
            return Ok(());
        }
        let full = self.failed(&Errno::NOSPC.into());
        Err(full.because(format!("{bytes} bytes are to be written, and {free} are free")))
    }

    /// Leaves a hole of `count` bytes.
    pub(crate) fn skip(&mut self, count: u64) -> Result<(), Failure> {
        if count == 0 {
            return Ok(());
        }
        if self.room.is_some_and(|room| room < count) {
            return Err(self.failed(&io::ErrorKind::FileTooLarge.into()));
        }
        let by =
            i64::try_from(count).map_err(|_| self.failed(&io::ErrorKind::FileTooLarge.into()))?;
        self.file.seek(SeekFrom::Current(by)).map_err(|error| self.failed(&error))?;
        self.room = self.room.map(|room| room - count);
        self.written += count;
        self.ends_with_hole = true;
        Ok(())
    }

    /// Whether the bytes, or another program's output of them behind a pipe, may appear on the
    /// terminal: a progress bar would lie in between.
    pub(crate) fn may_be_seen(&self) -> bool {
        self.file.is_terminal()
            || self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
    }

    /// Writes all of it, unless the reader goes away.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() && !self.closed {
            let some = match self.room {
                Some(0) => return Err(self.failed(&io::ErrorKind::FileTooLarge.into())),
                Some(room) => {
                    &bytes
                        [..usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()))]
                }
                None => bytes,
            };
            match self.file.write(some) {
                Ok(0) => return Err(self.failed(&io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.written += count as u64;
                    self.ends_with_hole = false;
                    self.room = self.room.map(|room| room.saturating_sub(count as u64));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        wait(self.file.as_fd(), PollFlags::OUT)
                            .map_err(|error| self.failed(&error))?;
                    }
                    io::ErrorKind::BrokenPipe => self.closed = true,
                    _ => return Err(self.failed(&error)),
                },
            }
        }
        Ok(())
    }

    /// All is written: gives a new file its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        let Self { name, file, replacement, ends_with_hole, written, closed, .. } = self;
        let failed = |error: io::Error| Failure::io(Kind::Output, &name, &error);
        if ends_with_hole {
            file.set_len(written).map_err(failed)?;
        }
        if let Some(replacement) = &replacement {
            replacement.put(&file, &name)?;
        }
        match descriptors::close(file) {
            Err(error) if !closed => Err(failed(error)),
            _ => Ok(()),
        }
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(Kind::Output, &self.name, error)
    }
}

/// Of file systems that may need fewer bytes on the disk than a file has: btrfs, bcachefs, F2FS and
/// ZFS.
const COMPRESSING: [u64; 4] = [0x9123_683e, 0xca45_1a4e, 0xf2f5_2010, 0x2fc1_2fc1];

impl Replacement {
    /// Refuses, before the work, a replacement that could not be made after it.
    fn prepare(&self, new: &File, name: &str) -> Result<(), Failure> {
        let Some(old) = &self.old else { return Ok(()) };
        let refused = |why: String| {
            Failure::new(Kind::Output, format!("{name}: a new file cannot take its place: {why}"))
                .remedy("use `> FILE`, which writes into the file itself")
        };
        let stat =
            rustix::fs::statx(CWD, &self.target, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        if stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT)) {
            return Err(refused("something is mounted on it (a bind mount)".to_owned()));
        }
        // For rmdir(2) the kernel checks the same rights as for a rename over the file, and refuses
        // a file only then.
        match rustix::fs::unlinkat(CWD, &self.target, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOTDIR) => {}
            Err(Errno::PERM | Errno::ACCESS) => {
                let why = "its directory has the sticky bit and the file is another user's, or it may not be removed at all";
                return Err(refused(why.to_owned()));
            }
            Err(errno) => return Err(refused(crate::failure::words(&errno.into()))),
        }
        attributes::adopt(new, &self.target, old, name)
    }

    fn put(&self, file: &File, name: &str) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::io(Kind::Output, name, &error);
        // Again: each write has taken set-user-ID away.
        if let Some(old) = &self.old {
            attributes::adopt(file, &self.target, old, name)?;
        }
        // Some disks and servers tell only now that they have no room. A crash must not leave an
        // empty file behind the name of a full one either.
        match file.sync_data() {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
                ) => {}
            result => result.map_err(failed)?,
        }
        if unfinished::rename(&self.target).map_err(failed)? {
            return Ok(());
        }
        let place = format!("/proc/self/fd/{}", file.as_raw_fd());
        let link =
            |name: &Path| rustix::fs::linkat(CWD, &place, CWD, name, AtFlags::SYMLINK_FOLLOW);
        unfinished::make(|| first_free(&self.target, |name| Ok(link(name)?))).map_err(failed)?;
        unfinished::rename(&self.target).map_err(failed)?;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        unfinished::remove();
    }
}

/// Whether two are one file, by whatever names.
fn same(a: &Metadata, b: &Metadata) -> bool {
    let same_device =
        a.file_type().is_block_device() && b.file_type().is_block_device() && a.rdev() == b.rdev();
    same_device || (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn is_source(name: &str) -> Failure {
    Failure::new(Kind::Output, format!("{name}: is the source itself"))
        .remedy("write to another file")
}

/// Where a path leads that names nothing yet: symbolic links may lead to nothing too.
fn follow(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..MOST_LINKS {
        let Ok(link) = path.read_link() else { break };
        path = directory(&path).join(link);
    }
    path
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in the target's directory that has no name.
fn nameless(target: &Path, mode: u32) -> io::Result<File> {
    // It is named later by way of /proc.
    Path::new("/proc/self/fd").metadata()?;
    let flags = OFlags::TMPFILE.bits().cast_signed();
    OpenOptions::new().write(true).mode(mode).custom_flags(flags).open(directory(target))
}

/// A file beside the target, where file systems have none without a name.
fn named(target: &Path, mode: u32) -> io::Result<File> {
    let create =
        |name: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(name);
    unfinished::make(|| first_free(target, create))
}

/// Makes something of a name beside the target that nothing has yet.
fn first_free<T>(
    target: &Path,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(T, PathBuf)> {
    for attempt in 0_u32.. {
        let name = directory(target).join(format!(".folio-{}-{attempt}", std::process::id()));
        match make(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            result => return result.map(|made| (made, name)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
