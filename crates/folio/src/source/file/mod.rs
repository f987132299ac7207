//! A local file: direct I/O where the file and the range allow, buffered where not.
//!
//! Both kinds go to one file. They agree on Linux: before a direct read or write the kernel writes
//! back the dirty pages of the range, and a direct write drops the cached pages. So a direct read
//! returns a tail that was written buffered. The one pair that must not be under way at once is a
//! direct and a buffered *write* to the same page, and [`plan_write`](LocalFile::plan_write) never
//! makes such a pair: it splits at pages.
//!
//! | file | subject |
//! | --- | --- |
//! | [`direct`] | the second descriptor, and which ranges it takes |
//! | [`plan`] | which descriptor an operation goes to; reading and writing at once |
//! | [`stamp`] | the times and the size: whether a read may be torn |
//! | [`writers`] | whether the file's times tell of another writer |

mod direct;
mod plan;
pub(crate) mod stamp;
mod writers;

pub(crate) use direct::reopen;
use stamp::{ReadVerdict, Settling, Stamp};

use super::workers::Workers;
use super::{
    ChangedVersion, FastPath, FastPathKind, FlushRequest, Identity, ReadRequest, Source, Version,
    WriteRequest,
};
use crate::sys;
use rustix::fs::{FileType, Mode, OFlags};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How many operations of requests are under way at once.
const THREADS: usize = 8;

/// Whether a file is read and written around the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direct {
    /// Where the file system takes it (`O_DIRECT`, open(2)): bytes are cached once, by folio.
    #[default]
    Auto,
    /// Through the page cache always: for files that the kernel has cached anyway.
    Never,
}

/// A regular file or a block device, read and perhaps written in place. Clones are the same open
/// file.
///
/// **Each page is stable, not the whole file.** A read-only or private map goes on when the file is
/// renamed, replaced, unlinked, touched or appended to, or gets another owner, mode or link; it
/// keeps its length. A page that was shown once is the same bytes ever after, or an error. A page
/// that was never shown is read as the file is then. If the file changes during the read of a page,
/// the read is made again, a few times; if its bytes differ each time, the page is an error. A page
/// that was cut off the file is an error. [`one_version`](Self::one_version) asks for more.
///
/// Both rules see a change by the times of fstat(2), as far as the file system's clock tells them
/// apart (some milliseconds, before Linux 6.13). Two changes within one tick are one, and a store
/// to a shared map of the file moves the times only now and then. Of a block device the times say
/// little.
///
/// The pager reads and writes files of local file systems itself. It reads and writes a file of
/// another one (a network, FUSE, an overlay) on threads of this file's own, since such a file may
/// keep a thread for ever.
///
/// As with every second open of a file, POSIX record locks (fcntl(2), `F_SETLK`) that the process
/// has on it are gone when this is dropped.
#[derive(Clone)]
pub struct LocalFile {
    name: String,
    file: Arc<OwnedFd>,
    direct: Option<Arc<direct::DirectFile>>,
    writable: bool,
    /// All pages of a map are of one version.
    one_version: bool,
    /// On a file system that answers by itself.
    local: bool,
    deadline: Duration,
    workers: Arc<Workers>,
    /// The same file as the pager keeps it.
    shared: OnceLock<Arc<LocalFile>>,
}

impl LocalFile {
    /// Opens a file to read it.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), OFlags::RDONLY)
    }

    /// Opens a file to read and write it.
    pub fn open_writable(path: impl AsRef<Path>) -> io::Result<Self> {
        Self::open_with(path.as_ref(), OFlags::RDWR)
    }

    /// Makes a file of `len` zero bytes, to read and write it. A file that was there is emptied
    /// first.
    pub fn create(path: impl AsRef<Path>, len: u64) -> io::Result<Self> {
        let file = Self::open_with(path.as_ref(), OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC)?;
        sys::size_limit::set_length(&file.file, len)?;
        Ok(file)
    }

    /// Takes an open file: it can be written if its descriptor can. A descriptor that cannot be
    /// read, or that writes at the end only (`O_APPEND`), is refused.
    pub fn from_file(file: File) -> io::Result<Self> {
        let file = OwnedFd::from(file);
        let name = sys::file::name(file.as_fd());
        let name = name.map_or_else(|| "a file".into(), |path| path.display().to_string());
        let flags = rustix::fs::fcntl_getfl(&file)?;
        let refuse =
            |why: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name} {why}")));
        if flags.contains(OFlags::PATH) {
            return refuse("is open as a path only (O_PATH): open it for reading");
        }
        let access = flags & OFlags::RWMODE;
        if access == OFlags::WRONLY {
            return refuse(
                "is open for writing only: a page has to be read before a part of it is written",
            );
        }
        if access == OFlags::RDWR && flags.contains(OFlags::APPEND) {
            return refuse("is open for appending (O_APPEND): pwrite(2) would ignore the offset");
        }
        // A regular file's reads would give EAGAIN (io_uring before 5.15), or refuse what is not
        // aligned. The flags belong to everyone who has this open file, so they are left alone.
        let wrong = flags & (OFlags::DIRECT | OFlags::NONBLOCK);
        let file = match direct::reopen(file.as_fd(), access) {
            _ if wrong.is_empty() => file,
            Ok(plain) => plain,
            Err(error) if wrong.contains(OFlags::DIRECT) => return Err(error.into()),
            Err(_) => file,
        };
        Self::of(name, file, access == OFlags::RDWR)
    }

    fn open_with(path: &Path, flags: OFlags) -> io::Result<Self> {
        let name = path.display().to_string();
        let named = |error: sys::Errno| {
            let error = io::Error::from(error);
            io::Error::new(error.kind(), format!("{name}: {error}"))
        };
        let file = sys::open::open(path, flags, Mode::from_raw_mode(0o666)).map_err(named)?;
        Self::of(name, file, flags.contains(OFlags::RDWR))
    }

    fn of(name: String, file: OwnedFd, writable: bool) -> io::Result<Self> {
        let status = sys::file::status(file.as_fd())?;
        let what = match status.kind {
            FileType::RegularFile | FileType::BlockDevice => None,
            FileType::Directory => Some((io::ErrorKind::IsADirectory, "is a directory")),
            FileType::Fifo => Some((io::ErrorKind::NotSeekable, "is a pipe")),
            FileType::Socket => Some((io::ErrorKind::NotSeekable, "is a socket")),
            FileType::CharacterDevice => {
                Some((io::ErrorKind::NotSeekable, "is a character device"))
            }
            _ => Some((io::ErrorKind::InvalidInput, "is no file")),
        };
        if let Some((kind, what)) = what {
            let text = format!(
                "{name} {what}: only a regular file or a block device has bytes at offsets"
            );
            return Err(io::Error::new(kind, text));
        }
        let direct = direct::DirectFile::open(file.as_fd(), writable).map(Arc::new);
        let local = sys::file::is_on_local_file_system(file.as_fd());
        Ok(Self {
            name,
            file: Arc::new(file),
            direct,
            writable,
            one_version: false,
            local,
            deadline: Duration::from_secs(30),
            workers: Arc::new(Workers::new(THREADS)),
            shared: OnceLock::new(),
        })
    }

    /// Whether direct I/O is used; [`Direct::Auto`] unless this says otherwise.
    #[must_use]
    pub fn direct(mut self, direct: Direct) -> Self {
        self.shared = OnceLock::new();
        match direct {
            Direct::Never => self.direct = None,
            Direct::Auto if self.direct.is_none() => {
                self.direct =
                    direct::DirectFile::open(self.file.as_fd(), self.writable).map(Arc::new);
            }
            Direct::Auto => {}
        }
        self
    }

    /// Has read-only and private maps show one version of the whole file: after any change of the
    /// file (of its owner, mode or links too), a page that is not in memory is an error. Without
    /// this, each page is stable by itself.
    #[must_use]
    pub fn one_version(mut self) -> Self {
        self.shared = OnceLock::new();
        self.one_version = true;
        self
    }

    /// How long a read may take, as [`Source::deadline`] says. 30 seconds if it is not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.shared = OnceLock::new();
        self.deadline = deadline;
        self
    }

    /// Whether aligned reads and writes go around the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct.as_ref().is_some_and(|direct| direct.is_usable())
    }
}

impl Source for LocalFile {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(sys::file::present_length(self.file.as_fd())?)
    }

    /// The times of its last change and its size: changes of its owner, mode or links count too.
    fn version(&self) -> io::Result<Version> {
        Ok(self.stamp()?.version())
    }

    /// A page, or the unit of direct I/O where that is more. Not `st_blksize`: that is megabytes on
    /// some file systems, and a random read costs no more than a page on all of them.
    fn block(&self) -> usize {
        self.direct.as_ref().map_or(4096, |direct| direct.offset_unit().max(4096))
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    /// The device and the inode.
    fn identity(&self) -> Option<Identity> {
        let status = rustix::fs::fstat(&self.file).ok()?;
        Some(Identity(status.st_dev, status.st_ino))
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for mut request in requests {
            let file = self.for_job();
            self.workers.run(move || {
                let offset = request.offset();
                let result = file.read_now(offset, request.buffer());
                request.complete(result);
            });
        }
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        for request in requests {
            let file = self.for_job();
            self.workers.run(move || {
                let result = file.write_now(request.offset(), request.bytes());
                request.complete(result);
            });
        }
    }

    fn flush(&self, request: FlushRequest) {
        let file = self.for_job();
        self.workers.run(move || request.complete(file.flush_now()));
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        Ok(sys::size_limit::set_length(&self.file, len)?)
    }

    fn fast_path(&self) -> FastPath<'_> {
        FastPath(FastPathKind::File(self.shared.get_or_init(|| Arc::new(self.for_job()))))
    }
}

impl LocalFile {
    /// The same open file, for a thread that may outlive this one.
    fn for_job(&self) -> Self {
        Self { shared: OnceLock::new(), ..self.clone() }
    }

    /// Whether maps of it show one version only.
    pub(crate) fn has_one_version(&self) -> bool {
        self.one_version
    }

    /// Whether its reads and writes end, and fstat(2) of it answers at once, whatever other
    /// processes do.
    pub(crate) fn is_local(&self) -> bool {
        self.local
    }

    /// Threads that wait for this file alone.
    pub(crate) fn threads(&self) -> &Workers {
        &self.workers
    }

    pub(crate) fn stamp(&self) -> io::Result<Stamp> {
        Stamp::of(self.file.as_fd())
    }

    /// As [`Source::read`]; a read during which the file changes is made again. The last one is
    /// made by the calling thread.
    pub(crate) fn read_settled(&self, mut requests: Vec<ReadRequest>) {
        let last = requests.pop();
        for mut request in requests {
            let file = self.for_job();
            self.workers.run(move || {
                let offset = request.offset();
                let result = file.read_settled_now(offset, request.buffer());
                request.complete(result);
            });
        }
        if let Some(mut request) = last {
            let offset = request.offset();
            let result = self.read_settled_now(offset, request.buffer());
            request.complete(result);
        }
    }

    fn read_settled_now(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut settling = Settling::new(self.stamp()?);
        loop {
            let count = self.read_now(offset, buffer)?;
            match settling.judge(self.stamp()?, &buffer[..count]) {
                ReadVerdict::Settled => return Ok(count),
                ReadVerdict::Again => {}
                ReadVerdict::Torn => return Err(io::Error::other(ChangedVersion)),
            }
        }
    }

    fn check_writable(&self) -> io::Result<()> {
        if self.writable {
            return Ok(());
        }
        let text = format!("{} is open for reading only", self.name);
        Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, text))
    }
}

/// A write that would make the file longer.
pub(super) fn past_end(offset: u64, len: usize, end: u64) -> io::Error {
    let text = format!(
        "a write of {len} bytes at {offset} ends past the source's end at {end}: resize it first"
    );
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

impl AsFd for LocalFile {
    /// The buffered descriptor.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl fmt::Debug for LocalFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalFile")
            .field("name", &self.name)
            .field("fd", &self.file.as_raw_fd())
            .field("writable", &self.writable)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}
