//! Where the bytes go: standard output, or a file that appears when all of it was written and not before.

use crate::failure::{Failure, Kind, shown};
use crate::source::{Source, wait};
use rustix::event::PollFlags;
use rustix::fs::{Access, AtFlags, CWD, OFlags};
use rustix::process::{Resource, getrlimit};
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, IsTerminal, Seek, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// An open output.
#[derive(Debug)]
pub(crate) struct Output {
    name: String,
    file: File,
    replacement: Option<Replacement>,
    /// What RLIMIT_FSIZE leaves. Past it the kernel would send a signal instead of an error.
    room: Option<u64>,
    pub(crate) written: u64,
    /// Whether who read the other end went away: enough was printed.
    pub(crate) closed: bool,
}

/// A file that is to take a name when it is complete.
#[derive(Debug)]
struct Replacement {
    target: PathBuf,
    /// The name it has until then. A file without any vanishes by itself, even if the process is killed.
    temporary: Option<PathBuf>,
    /// The file that has the name now.
    old: Option<Metadata>,
}

impl Output {
    /// Standard output, for no path and for `-`; else the file. It must not be the source.
    pub(crate) fn open(path: Option<&Path>, source: &Source) -> Result<Self, Failure> {
        match path {
            Some(path) if path != Path::new("-") => Self::to_file(path, source),
            _ => {
                let name = "standard output";
                let failed = |error: io::Error| Failure::io(Kind::Output, name, &error);
                let file = io::stdout().as_fd().try_clone_to_owned().map(File::from).map_err(failed)?;
                let metadata = file.metadata().map_err(failed)?;
                // Between sockets and terminals, one object for both ends is the usual thing.
                if metadata.is_file() && same(&metadata, &source.metadata) {
                    return Err(is_source(name));
                }
                let mut output = Self::new(name.to_owned(), file);
                output.room = output.room.filter(|_| metadata.is_file());
                if let Some(room) = &mut output.room {
                    let appends = rustix::fs::fcntl_getfl(&output.file)
                        .is_ok_and(|flags| flags.contains(OFlags::APPEND));
                    let at =
                        if appends { metadata.len() } else { output.file.stream_position().unwrap_or(0) };
                    *room = room.saturating_sub(at);
                }
                Ok(output)
            }
        }
    }

    fn new(name: String, file: File) -> Self {
        let room = getrlimit(Resource::Fsize).current;
        Self { name, file, replacement: None, room, written: 0, closed: false }
    }

    fn to_file(path: &Path, source: &Source) -> Result<Self, Failure> {
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
            // Renaming over it would need no right to the file itself; whoever took it away meant something by that.
            rustix::fs::accessat(CWD, path, Access::WRITE_OK, AtFlags::EACCESS)
                .map_err(|errno| failed(errno.into()))?;
        } else if path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(failed(io::ErrorKind::IsADirectory.into()));
        }
        // A symbolic link stays one: the file it names is replaced.
        let target = if old.is_some() { path.canonicalize().map_err(failed)? } else { follow(path) };
        // Nobody reads the new file who could not read the old one.
        let mode = if old.is_some() { 0o600 } else { 0o666 };
        let made = nameless(&target, mode).map(|file| (file, None)).or_else(|_| named(&target, mode));
        let (file, temporary) = made.map_err(|error| match (error.kind(), &old) {
            (io::ErrorKind::PermissionDenied, Some(_)) => failed(error).remedy(
                "a new file is written beside it first, and its directory forbids that; use `> FILE`",
            ),
            _ => failed(error),
        })?;
        let mut output = Self::new(name, file);
        output.replacement = Some(Replacement { target, temporary, old });
        Ok(output)
    }

    /// Whether the bytes, or what another program makes of them behind a pipe, may appear on the terminal: a progress bar
    /// would lie in between.
    pub(crate) fn may_be_seen(&self) -> bool {
        self.file.is_terminal() || self.file.metadata().is_ok_and(|metadata| metadata.file_type().is_fifo())
    }

    /// Writes all of it, unless the reader goes away.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() && !self.closed {
            let some = match self.room {
                Some(0) => return Err(self.failed(&io::ErrorKind::FileTooLarge.into())),
                Some(room) => {
                    &bytes[..usize::try_from(room).map_or(bytes.len(), |room| room.min(bytes.len()))]
                }
                None => bytes,
            };
            match self.file.write(some) {
                Ok(0) => return Err(self.failed(&io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    bytes = &bytes[count..];
                    self.written += count as u64;
                    self.room = self.room.map(|room| room.saturating_sub(count as u64));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted => {}
                    io::ErrorKind::WouldBlock => {
                        wait(self.file.as_fd(), PollFlags::OUT).map_err(|error| self.failed(&error))?;
                    }
                    io::ErrorKind::BrokenPipe => self.closed = true,
                    _ => return Err(self.failed(&error)),
                },
            }
        }
        Ok(())
    }

    /// All is written: gives a new file its name.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        let Some(replacement) = &mut self.replacement else { return Ok(()) };
        replacement.put(&self.file).map_err(|error| Failure::io(Kind::Output, &self.name, &error))
    }

    fn failed(&self, error: &io::Error) -> Failure {
        Failure::io(Kind::Output, &self.name, error)
    }
}

impl Replacement {
    fn put(&mut self, file: &File) -> io::Result<()> {
        if let Some(old) = &self.old {
            let new = file.metadata()?;
            let owned = (new.uid(), new.gid()) == (old.uid(), old.gid())
                || fchown(file, Some(old.uid()), Some(old.gid())).is_ok();
            // Set-user-ID is for the user it was given by.
            let mode = old.mode() & if owned { 0o7777 } else { 0o777 };
            file.set_permissions(Permissions::from_mode(mode))?;
        }
        // Some disks and servers tell only now that they have no room; and a crash must not leave an empty file behind the
        // name of a full one.
        match file.sync_data() {
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {}
            result => result?,
        }
        if self.temporary.is_none() {
            let place = format!("/proc/self/fd/{}", file.as_raw_fd());
            let link = |name: &Path| rustix::fs::linkat(CWD, &place, CWD, name, AtFlags::SYMLINK_FOLLOW);
            self.temporary = Some(first_free(&self.target, |name| Ok(link(name)?))?.1);
        }
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Whether two are one file, by whatever names.
fn same(a: &Metadata, b: &Metadata) -> bool {
    let same_device =
        a.file_type().is_block_device() && b.file_type().is_block_device() && a.rdev() == b.rdev();
    same_device || (a.dev(), a.ino()) == (b.dev(), b.ino())
}

fn is_source(name: &str) -> Failure {
    Failure::new(Kind::Output, format!("{name}: is the source itself")).remedy("write to another file")
}

/// Where a path leads that names nothing yet: symbolic links may lead to nothing too.
fn follow(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as the kernel follows.
    for _ in 0..40 {
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
fn named(target: &Path, mode: u32) -> io::Result<(File, Option<PathBuf>)> {
    let create = |name: &Path| OpenOptions::new().write(true).create_new(true).mode(mode).open(name);
    first_free(target, create).map(|(file, name)| (file, Some(name)))
}

/// Makes something of a name beside the target that nothing has yet.
fn first_free<T>(target: &Path, mut make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<(T, PathBuf)> {
    for attempt in 0_u32.. {
        let name = directory(target).join(format!(".folio-{}-{attempt}", std::process::id()));
        match make(&name) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempt < 1000 => {}
            result => return result.map(|made| (made, name)),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}
