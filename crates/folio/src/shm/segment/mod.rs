//! Segments: shared memory with a name, a type and a checked header, and the builder that makes
//! them.

// | file | subject |
// | --- | --- |
// | this one | segments, and the builder |
// | `name` | names, and the files they stand for |
// | `header` | the first bytes of a segment, and how they are checked |
// | `participant` | who uses a segment: locks that end with their process |
// | `owner` | a participant as a word of shared memory |
// | `attachment` | one process's map, participant and state of a segment |
// | `registry` | all segments with a name: list, remove, collect |

pub(super) mod attachment;
pub(super) mod dead_fifos;
pub(super) mod file_io;
pub(super) mod header;
pub(super) mod name;
pub(super) mod owner;
pub(super) mod participant;
pub(super) mod registry;
pub(super) mod retire;

use crate::access::{View, ViewMut};
use crate::error::{Errno, Error, Result, Subject};
use crate::map::scm_rights;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::file_io::{SegmentContents, is_gone, lifetime};
use crate::shm::segment::header::{Lifetime, SegmentKind};
use crate::shm::segment::retire::{MembershipVerdict, retire};
use crate::shm::value::share::{Plain, Share};
use crate::shm::value::shared_ref::{Shared, SharedRef};
use crate::sys;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, RangeBounds};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

mod sealed {
    pub trait SealedShape {}
}

/// The contents that a [`Segment`] can have: a [`Share`] type, or a slice of one.
pub trait Shape: sealed::SealedShape + 'static {
    #[doc(hidden)]
    const KIND: SegmentKind;
    #[doc(hidden)]
    const FINGERPRINT: u64;
    #[doc(hidden)]
    const ELEMENT: usize;
    #[doc(hidden)]
    const ALIGN: usize;
}

impl<T: Share> sealed::SealedShape for T {}
impl<T: Share> Shape for T {
    const KIND: SegmentKind = SegmentKind::Value;
    const FINGERPRINT: u64 = T::FINGERPRINT.get();
    const ELEMENT: usize = size_of::<T>();
    const ALIGN: usize = align_of::<T>();
}

impl<T: Share> sealed::SealedShape for [T] {}
impl<T: Share> Shape for [T] {
    const KIND: SegmentKind = SegmentKind::Elements;
    const FINGERPRINT: u64 = T::FINGERPRINT.get();
    const ELEMENT: usize = size_of::<T>();
    const ALIGN: usize = align_of::<T>();
}

/// How a segment is made and opened.
///
/// ```
/// use folio::shm::SegmentOptions;
///
/// let samples = SegmentOptions::new().count(1000).capacity(1 << 20).anonymous::<[u64]>()?;
/// samples.grow(2000)?;
/// assert_eq!(samples.len(), 2000);
/// # Ok::<(), folio::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct SegmentOptions {
    mode: u32,
    group: Option<u32>,
    owner: Option<u32>,
    count: Option<usize>,
    reserve: Option<usize>,
    lifetime: Lifetime,
    outlive_name: bool,
}

impl Default for SegmentOptions {
    fn default() -> Self {
        Self {
            mode: 0o600,
            group: None,
            owner: None,
            count: None,
            reserve: None,
            lifetime: Lifetime::WhileUsed,
            outlive_name: false,
        }
    }
}

/// Where a segment lies.
enum SegmentTarget<'a> {
    Name(&'a str),
    File(&'a Path),
}

/// The file of a segment.
pub(crate) struct SegmentPath {
    path: PathBuf,
    /// That of a new segment.
    lifetime: Lifetime,
    /// Whether it is a name in the directory of segments, which stale segments lose, and not a file
    /// that its users look after.
    is_name: bool,
}

impl SegmentPath {
    pub(in crate::shm) fn name(call: &'static str, name: &str, lifetime: Lifetime) -> Result<Self> {
        Ok(Self { path: name::path(call, name)?, lifetime, is_name: true })
    }

    pub(in crate::shm) fn file(path: &Path) -> Self {
        Self { path: path.to_owned(), lifetime: Lifetime::Kept, is_name: false }
    }
}

/// The result of an attempt to open.
enum FoundSegment {
    Segment(Arc<Attachment>),
    /// There is nothing, or a stale segment, which is nothing.
    Nothing,
}

/// Whether a path can be had.
enum NameStatus {
    Free,
    Taken,
    /// A stale segment has it, whose name this process may not remove; it may write to the file.
    Stale(OwnedFd),
}

/// The outcome for a segment that may be stale.
enum StaleOutcome {
    /// It is none: it is used, or kept.
    Used,
    /// Its name is free.
    Reclaimed,
    /// It is one, and this process may not take its name away.
    Stays,
}

impl SegmentOptions {
    /// Mode 0600, of a slice no elements and room for one, gone with its last user.
    pub fn new() -> Self {
        Self::default()
    }

    /// The users of a new segment, as chmod(1) writes them; the umask does not narrow the mode. All
    /// users need to read and write. (Recreated from a stale one in its file, see
    /// [`create`](Self::create), it has that one's mode, which may be narrower.) When a segment is
    /// opened that all the world may write to, the mode must say so too.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// The group of a new segment, by number: with mode 0660 its members may use it.
    pub fn group(mut self, group: u32) -> Self {
        self.group = Some(group);
        self
    }

    /// The user, by number, whose segments are accepted besides those of this process's user and
    /// root's. The owner of a segment can truncate it and write any bytes to it.
    pub fn owner(mut self, user: u32) -> Self {
        self.owner = Some(user);
        self
    }

    /// Elements of a new segment of `[T]`. A segment that exists must have that many or more;
    /// without it, any number will do.
    pub fn count(mut self, count: usize) -> Self {
        self.count = Some(count);
        self
    }

    /// The most elements that a new segment of `[T]` can [grow](Segment::grow) to. It costs
    /// addresses, and no memory.
    pub fn capacity(mut self, count: usize) -> Self {
        self.reserve = Some(count);
        self
    }

    /// When the name of a new segment goes away. Files given by path are always
    /// [kept](Lifetime::Kept), whatever they hold.
    pub fn lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Goes on without an error after the segment's name was removed or replaced under it. Without
    /// this, waits and [`check`](Segment::check) return ESTALE then, because a process that comes
    /// by the name later makes another segment, and the two wait for each other for ever. All
    /// handles of a process that have the same segment have this in common: one that came by the
    /// name without it brings the error for all.
    pub fn outlive_name(mut self) -> Self {
        self.outlive_name = true;
        self
    }

    /// Makes a segment. Nobody sees it before it is complete; its bytes are zeros.
    ///
    /// # Errors
    ///
    /// EEXIST if the name is in use (a stale segment of killed processes does not count); ENOSPC
    /// with the number of bytes that were free; EFBIG beyond RLIMIT_FSIZE, and no signal; EINVAL
    /// for a name that cannot be one; EPERM if a stale segment has it that only its owner or root
    /// may remove (as in `/dev/shm`, which has the sticky bit), and that lets in more users than
    /// requested: if not, it is recreated in its file, which keeps its owner, mode and group;
    /// EACCES, EMFILE, ENOMEM.
    pub fn create<T: Shape + ?Sized>(&self, name: &str) -> Result<Segment<T>> {
        self.create_with(name, |_| Ok(()))
    }

    /// As [`create`](Self::create), with values that `init` stores before anyone else can see the
    /// segment.
    ///
    /// # Errors
    ///
    /// Those of [`create`](Self::create), and an error of `init`: then there is no segment.
    pub fn create_with<T: Shape + ?Sized>(
        &self,
        name: &str,
        init: impl FnOnce(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        self.create_target(&SegmentTarget::Name(name), init)
    }

    /// Opens a segment that exists.
    ///
    /// # Errors
    ///
    /// ENOENT if there is none (a stale segment of killed processes is none); EINVAL if it holds
    /// another type or layout (the error shows both) or fewer elements than requested; EUCLEAN if
    /// it is no segment, or damaged; EACCES; EPERM if it belongs to a user that is not trusted, or
    /// all the world may write to it; ELOOP for a symbolic link; EUSERS at 256 processes.
    pub fn open<T: Shape + ?Sized>(&self, name: &str) -> Result<Segment<T>> {
        self.open_target(&SegmentTarget::Name(name))
    }

    /// Opens a segment, or makes it if there is none.
    ///
    /// # Errors
    ///
    /// Those of [`open`](Self::open) and [`create`](Self::create), but for ENOENT and EEXIST.
    pub fn open_or_create<T: Shape + ?Sized>(&self, name: &str) -> Result<Segment<T>> {
        self.open_or_create_with(name, |_| Ok(()))
    }

    /// As [`open_or_create`](Self::open_or_create); if the segment is new, `init` stores its first
    /// values before anyone else can see it.
    ///
    /// # Errors
    ///
    /// Those of [`open_or_create`](Self::open_or_create), and an error of `init`.
    pub fn open_or_create_with<T: Shape + ?Sized>(
        &self,
        name: &str,
        init: impl Fn(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        self.open_or_create_target(&SegmentTarget::Name(name), init)
    }

    /// Makes a segment that is the file at `path`: it survives a restart of the machine where its
    /// file system does.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create).
    pub fn create_file<T: Shape + ?Sized>(&self, path: impl AsRef<Path>) -> Result<Segment<T>> {
        self.create_file_with(path, |_| Ok(()))
    }

    /// As [`create_file`](Self::create_file), with values that `init` stores before anyone else can
    /// see the segment.
    ///
    /// # Errors
    ///
    /// Those of [`create_file`](Self::create_file), and an error of `init`: then there is no file.
    pub fn create_file_with<T: Shape + ?Sized>(
        &self,
        path: impl AsRef<Path>,
        init: impl FnOnce(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        self.create_target(&SegmentTarget::File(path.as_ref()), init)
    }

    /// Opens a segment that is the file at `path`.
    ///
    /// # Errors
    ///
    /// As [`open`](Self::open).
    pub fn open_file<T: Shape + ?Sized>(&self, path: impl AsRef<Path>) -> Result<Segment<T>> {
        self.open_target(&SegmentTarget::File(path.as_ref()))
    }

    /// Opens a segment that is the file at `path`, or makes it.
    ///
    /// # Errors
    ///
    /// As [`open_or_create`](Self::open_or_create).
    pub fn open_or_create_file<T: Shape + ?Sized>(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<Segment<T>> {
        self.open_or_create_file_with(path, |_| Ok(()))
    }

    /// As [`open_or_create_file`](Self::open_or_create_file); if the segment is new, `init` stores
    /// its first values before anyone else can see it.
    ///
    /// # Errors
    ///
    /// Those of [`open_or_create_file`](Self::open_or_create_file), and an error of `init`.
    pub fn open_or_create_file_with<T: Shape + ?Sized>(
        &self,
        path: impl AsRef<Path>,
        init: impl Fn(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        self.open_or_create_target(&SegmentTarget::File(path.as_ref()), init)
    }

    /// Makes a segment without a name, for forked children, and for processes that it is
    /// [sent](Segment::send_to) to. It is a memfd sealed against shrinking: nobody can take its
    /// pages away. (A hole that a participant punches reads as zeros, as if it had stored them.)
    ///
    /// # Errors
    ///
    /// ENOMEM, EMFILE, ENFILE; EFBIG beyond RLIMIT_FSIZE.
    pub fn anonymous<T: Shape + ?Sized>(&self) -> Result<Segment<T>> {
        let shape = self.shape::<T>("anonymous")?;
        let attachment = anonymous(&shape.contents, shape.reserve)?;
        Ok(Segment::new(attachment))
    }

    /// Attaches to the segment behind a descriptor, by a description of its own. It knows of no
    /// name: if the segment has one that goes with its last user, and that is a process that has
    /// only such handles, the segment becomes stale.
    ///
    /// A process that could open the file is trusted: owner and mode are not checked.
    ///
    /// # Errors
    ///
    /// EINVAL if it holds another type or layout or fewer elements than asked for; EUCLEAN if it is
    /// no segment, or damaged; EACCES if this process may not open the file for reading and
    /// writing; ENOENT without `/proc`; EUSERS at 256 processes; EMFILE, ENOMEM.
    pub fn from_fd<T: Shape + ?Sized>(&self, fd: impl AsFd) -> Result<Segment<T>> {
        let shape = self.shape::<T>("from_fd")?;
        let fd = fd.as_fd();
        let own = crate::shm::sys::unnamed_file::reopen(fd)
            .map_err(|errno| by_descriptor("open", errno, Subject::file(fd)))?;
        let attachment = from_own_fd(own, &shape.contents)?;
        Ok(Segment::new(attachment))
    }

    fn shape<T: Shape + ?Sized>(&self, call: &'static str) -> Result<Wanted> {
        let (least, most) = match T::KIND {
            SegmentKind::Elements => {
                let count = self.count.unwrap_or(0);
                (count, self.reserve.unwrap_or(count.max(1)).max(count))
            }
            _ => (1, 1),
        };
        let subject = || Subject::named(format!("shared memory of {}", std::any::type_name::<T>()));
        // Data starts on a page, and nothing is aligned to more than the smallest of these.
        if T::ALIGN > 4096 || T::ELEMENT == 0 {
            let rule = "a type in a segment has bytes, and is aligned to a page at most";
            return Err(Error::rule(call, subject(), rule, "use another type"));
        }
        let bytes = |count: usize| {
            count.checked_mul(T::ELEMENT).filter(|&bytes| isize::try_from(bytes).is_ok())
        };
        let (Some(length), Some(reserve)) = (bytes(least), bytes(most)) else {
            let rule = "a segment must fit into the process's addresses";
            return Err(Error::rule(call, subject(), rule, "ask for fewer elements"));
        };
        let contents = SegmentContents {
            kind: T::KIND,
            fingerprint: T::FINGERPRINT,
            type_name: std::any::type_name::<T>(),
            element: T::ELEMENT as u64,
            length: length as u64,
        };
        Ok(Wanted { contents, reserve: reserve as u64 })
    }

    fn create_target<T: Shape + ?Sized>(
        &self,
        target: &SegmentTarget<'_>,
        init: impl FnOnce(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        let shape = self.shape::<T>("create")?;
        let spot = self.path_of("create", target)?;
        let attachment = self.create_at(&spot, &shape.contents, shape.reserve, |attachment| {
            init(&Segment::new(Arc::clone(attachment)))
        })?;
        attachment.map(Segment::new).ok_or_else(|| exists(self, &spot))
    }

    fn open_target<T: Shape + ?Sized>(&self, target: &SegmentTarget<'_>) -> Result<Segment<T>> {
        let shape = self.shape::<T>("open")?;
        let spot = self.path_of("open", target)?;
        self.open_existing(&spot, &shape.contents).map(Segment::new)
    }

    fn open_or_create_target<T: Shape + ?Sized>(
        &self,
        target: &SegmentTarget<'_>,
        init: impl Fn(&Segment<T>) -> Result<()>,
    ) -> Result<Segment<T>> {
        let shape = self.shape::<T>("open_or_create")?;
        let spot = self.path_of("open_or_create", target)?;
        let attachment =
            self.open_or_create_at(&spot, &shape.contents, shape.reserve, |attachment| {
                init(&Segment::new(Arc::clone(attachment)))
            })?;
        Ok(Segment::new(attachment))
    }

    fn path_of(&self, call: &'static str, target: &SegmentTarget<'_>) -> Result<SegmentPath> {
        match target {
            SegmentTarget::Name(name) => SegmentPath::name(call, name, self.lifetime),
            SegmentTarget::File(path) => Ok(SegmentPath::file(path)),
        }
    }

    /// Makes a segment at a path; `None` if the path is in use.
    pub(crate) fn create_at(
        &self,
        spot: &SegmentPath,
        contents: &SegmentContents<'_>,
        reserve: u64,
        init: impl FnOnce(&Arc<Attachment>) -> Result<()>,
    ) -> Result<Option<Arc<Attachment>>> {
        let path = &*spot.path;
        let subject = || Subject::named(path.display().to_string());
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Cheaper than to make one that gets no name; link(2) decides.
            let leftover = match self.name_status(spot)? {
                NameStatus::Free => break,
                NameStatus::Taken => return Ok(None),
                NameStatus::Stale(fd) => fd,
            };
            self.check_mode_covers(&leftover, path)?;
            if let Some(attachment) =
                Attachment::recreate_in_place(leftover, path, contents, reserve, spot.lifetime)?
            {
                if let Err(error) = init(&attachment) {
                    attachment.give_up();
                    return Err(error);
                }
                attachment.publish(path)?;
                self.follow_name_of(&attachment);
                return Ok(Some(attachment));
            }
            // Somebody else looks at it, or is quicker.
            if Instant::now() > deadline {
                return Ok(None);
            }
        }
        let unnamed =
            crate::shm::sys::unnamed_file::create(name::parent(path), || name::temporary(path))
                .map_err(|errno| Error::kernel("open", errno, subject()))?;
        let own = |errno| Error::kernel("chmod", errno, subject());
        if let Some(group) = self.group {
            let group = rustix::fs::Gid::from_raw(group);
            rustix::fs::fchown(&unnamed.fd, None, Some(group)).map_err(own)?;
        }
        rustix::fs::fchmod(&unnamed.fd, rustix::fs::Mode::from_raw_mode(self.mode & 0o666))
            .map_err(own)?;
        let fd = crate::shm::sys::unnamed_file::reopen(unnamed.fd.as_fd())
            .map_err(|errno| by_descriptor("open", errno, subject()))?;
        let attachment =
            Attachment::create(fd, Some(path.to_owned()), contents, reserve, spot.lifetime)?;
        init(&attachment)?;
        loop {
            match unnamed.link(path) {
                Ok(()) => {
                    attachment.note_name(path);
                    self.follow_name_of(&attachment);
                    return Ok(Some(attachment));
                }
                Err(Errno::EXIST) => {
                    if !matches!(self.name_status(spot)?, NameStatus::Free) {
                        return Ok(None);
                    }
                }
                Err(errno) => return Err(by_descriptor("link", errno, subject())),
            }
        }
    }

    /// To be called when the file has its name.
    fn follow_name_of(&self, attachment: &Attachment) {
        if !self.outlive_name {
            attachment.follow_name();
        }
    }

    /// Whether nothing has the path, once a stale segment that had it is removed.
    fn name_status(&self, spot: &SegmentPath) -> Result<NameStatus> {
        let path = &*spot.path;
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fd = match open_segment(path) {
                Err(Errno::NOENT) => return Ok(NameStatus::Free),
                Err(errno) => match sys::file::status_of(path) {
                    Err(Errno::NOENT) => return Ok(NameStatus::Free),
                    // Not this user's to judge: it has the name.
                    Ok(_) if !sys::file::is_exhausted(errno) => return Ok(NameStatus::Taken),
                    _ => {
                        let subject = Subject::named(path.display().to_string());
                        return Err(Error::kernel("open", errno, subject));
                    }
                },
                Ok(fd) => fd,
            };
            if !spot.is_name || self.check_trusted(&fd, path).is_err() {
                return Ok(NameStatus::Taken);
            }
            match reclaim_stale(&fd, path)? {
                StaleOutcome::Reclaimed => return Ok(NameStatus::Free),
                StaleOutcome::Stays => return Ok(NameStatus::Stale(fd)),
                // Another process examines a stale segment, or recreates it.
                StaleOutcome::Used
                    if is_gone(fd.as_fd()) == Ok(true) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                StaleOutcome::Used => return Ok(NameStatus::Taken),
            }
        }
    }

    /// Whether a file that a segment is to be made of lets nobody in but those that are asked for.
    fn check_mode_covers(&self, fd: &OwnedFd, path: &Path) -> Result<()> {
        let subject = Subject::named(path.display().to_string());
        let stat = rustix::fs::fstat(fd)
            .map_err(|errno| Error::kernel("fstat", errno, subject.clone()))?;
        let group = self.group.unwrap_or_else(|| rustix::process::getegid().as_raw());
        let mode = stat.st_mode & 0o666;
        if mode & !self.mode == 0 && (mode & 0o060 == 0 || stat.st_gid == group) {
            return Ok(());
        }
        Err(Error::rule_as(
            Errno::PERM,
            "create",
            subject,
            format!(
                "it is a stale segment that only its owner (user {}) or root may take away, and recreated it would let in more \
                 users (mode {mode:o}, group {}) than are asked for",
                stat.st_uid, stat.st_gid
            ),
            "ask for that mode and group, or have one of those two remove it (`folio shm gc`)",
        ))
    }

    /// Attaches to the segment at a path.
    fn open_at(&self, spot: &SegmentPath, contents: &SegmentContents<'_>) -> Result<FoundSegment> {
        let path = &*spot.path;
        let subject = || Subject::named(path.display().to_string());
        loop {
            let fd = match open_segment(path) {
                Ok(fd) => fd,
                Err(Errno::NOENT) => return Ok(FoundSegment::Nothing),
                Err(Errno::LOOP) => {
                    let rule = "a segment is a file, and no symbolic link to one is followed";
                    let remedy = "remove the link, and find out who put it there";
                    return Err(Error::rule_as(Errno::LOOP, "open", subject(), rule, remedy));
                }
                Err(errno) => return Err(Error::kernel("open", errno, subject())),
            };
            self.check_trusted(&fd, path)?;
            if spot.is_name {
                match reclaim_stale(&fd, path)? {
                    StaleOutcome::Used if is_gone(fd.as_fd()) != Ok(true) => {}
                    _ => return Ok(FoundSegment::Nothing),
                }
            }
            let own = rustix::io::fcntl_dupfd_cloexec(&fd, 0)
                .map_err(|errno| Error::kernel("dup", errno, subject()))?;
            let Some(attachment) = Attachment::open("open", own, Some(path.to_owned()), contents)?
            else {
                if !spot.is_name && is_gone(fd.as_fd()) == Ok(true) {
                    return Err(stale_error("open", Errno::UCLEAN, subject()));
                }
                // It has become stale just now, or another segment.
                continue;
            };
            // A process that removes a segment holds all its slots meanwhile: with a slot in hand
            // it has its name for good, or never again.
            let links = rustix::fs::fstat(&fd).map_or(1, |stat| stat.st_nlink);
            if links > 0 {
                if spot.is_name {
                    attachment.note_name(path);
                }
                self.follow_name_of(&attachment);
                return Ok(FoundSegment::Segment(attachment));
            }
        }
    }

    /// Opens or makes the segment at a path.
    pub(crate) fn open_or_create_at(
        &self,
        spot: &SegmentPath,
        contents: &SegmentContents<'_>,
        reserve: u64,
        init: impl Fn(&Arc<Attachment>) -> Result<()>,
    ) -> Result<Arc<Attachment>> {
        /// Far more than others can keep making and removing it.
        const PATIENCE: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let FoundSegment::Segment(attachment) = self.open_at(spot, contents)? {
                return Ok(attachment);
            }
            if let Some(attachment) = self.create_at(spot, contents, reserve, &init)? {
                return Ok(attachment);
            }
            if Instant::now() > deadline {
                return Err(exists(self, spot));
            }
        }
    }

    /// Whether a file may be this process's segment: a file, of a user that is trusted.
    fn check_trusted(&self, fd: &OwnedFd, path: &Path) -> Result<()> {
        let subject = || Subject::named(path.display().to_string());
        let stat =
            rustix::fs::fstat(fd).map_err(|errno| Error::kernel("fstat", errno, subject()))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            let rule = "a segment is a regular file, and this is none";
            return Err(Error::rule("open", subject(), rule, "choose another name"));
        }
        let me = rustix::process::geteuid().as_raw();
        let trusted = stat.st_uid == me || stat.st_uid == 0 || self.owner == Some(stat.st_uid);
        if !trusted {
            return Err(Error::rule_as(
                Errno::PERM,
                "open",
                subject(),
                format!(
                    "it belongs to user {}, who could truncate it and store anything in it",
                    stat.st_uid
                ),
                "find out who that is; to trust them, name them with SegmentOptions::owner",
            ));
        }
        if stat.st_mode & 0o002 != 0 && self.mode & 0o002 == 0 {
            return Err(Error::rule_as(
                Errno::PERM,
                "open",
                subject(),
                "all the world may write to it",
                "take that right away (chmod o-w), or say that it is meant so: SegmentOptions::mode(0o666)",
            ));
        }
        Ok(())
    }
}

/// The requested sizes, in bytes.
struct Wanted {
    contents: SegmentContents<'static>,
    reserve: u64,
}

/// How long a process that makes a segment waits for others that examine the stale segment of its
/// name.
const PATIENCE: Duration = Duration::from_secs(1);

/// If the file is a segment that ends with its users, and they have ended: removes its name, or
/// makes sure that everyone takes it for a stale segment.
fn reclaim_stale(fd: &OwnedFd, path: &Path) -> Result<StaleOutcome> {
    let failed = |errno| Error::kernel("fcntl", errno, Subject::named(path.display().to_string()));
    let fd = fd.as_fd();
    // A file that is no segment is not stale either.
    let is_stale = || lifetime(fd) == Ok(Some(Lifetime::WhileUsed));
    if !is_stale() || participant::is_anybody_there(fd).map_err(failed)? {
        return Ok(StaleOutcome::Used);
    }
    let status = sys::file::status(fd).map_err(failed)?;
    let judge = || Ok(if is_stale() { MembershipVerdict::Stale } else { MembershipVerdict::Stays });
    match retire(fd, path, (status.device, status.inode), judge) {
        Ok(true) => Ok(StaleOutcome::Reclaimed),
        Ok(false) => Ok(StaleOutcome::Used),
        Err(Errno::PERM | Errno::ACCESS) => Ok(StaleOutcome::Stays),
        Err(errno) => Err(failed(errno)),
    }
}

/// The segment behind a descriptor of this process's own.
pub(in crate::shm) fn from_own_fd(
    own: OwnedFd,
    contents: &SegmentContents<'_>,
) -> Result<Arc<Attachment>> {
    let subject = Subject::file(own.as_fd());
    let status = sys::file::status(own.as_fd())
        .map_err(|errno| Error::kernel("fstat", errno, subject.clone()))?;
    if status.kind != rustix::fs::FileType::RegularFile {
        let rule = "a segment is a memfd or a regular file, and this is none";
        return Err(Error::rule(
            "from_fd",
            subject,
            rule,
            "pass the descriptor of a segment (Segment::file)",
        ));
    }
    let found = Attachment::open("from_fd", own, None, contents)?;
    found.ok_or_else(|| stale_error("from_fd", Errno::NOENT, subject))
}

/// A file that nothing is in any more.
fn stale_error(call: &'static str, errno: Errno, subject: Subject) -> Error {
    let rule = "it is a stale segment: all processes that had it open have ended";
    Error::rule_as(errno, call, subject, rule, "let the programs make it anew")
}

/// A segment without a name.
pub(crate) fn anonymous(contents: &SegmentContents<'_>, reserve: u64) -> Result<Arc<Attachment>> {
    let subject = || Subject::named("a segment without a name");
    let fd = sys::memfd::create("folio segment", None)
        .map_err(|errno| Error::kernel("memfd_create", errno, subject()))?;
    let seals = sys::memfd::Seals::SHRINK;
    sys::memfd::add_seals(fd.as_fd(), seals)
        .map_err(|errno| Error::kernel("fcntl", errno, subject()))?;
    Attachment::create(fd, None, contents, reserve, Lifetime::WhileUsed)
}

/// EEXIST of [`SegmentOptions::create`], with the present holder of the name.
pub(in crate::shm) fn exists(options: &SegmentOptions, spot: &SegmentPath) -> Error {
    let path = &*spot.path;
    let refuse = |rule: String, remedy: &str| {
        let subject = Subject::named(path.display().to_string());
        Error::rule_as(Errno::EXIST, "create", subject, rule, remedy.to_owned())
    };
    let other = if spot.is_name { "choose another name" } else { "choose another path" };
    let kind =
        rustix::fs::lstat(path).map(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode));
    if kind.is_ok_and(|kind| kind != rustix::fs::FileType::RegularFile) {
        return refuse(
            "the name is taken by something that is no regular file, and so no segment".into(),
            other,
        );
    }
    if let Ok(fd) = crate::shm::sys::unnamed_file::open(path)
        && let Err(error) = options.check_trusted(&fd, path)
        && let Some(refusal) = error.call_error()
    {
        let why = refusal.rule();
        if lifetime(fd.as_fd()) == Ok(Some(Lifetime::WhileUsed))
            && participant::is_anybody_there(fd.as_fd()) == Ok(false)
        {
            return refuse(
                format!(
                    "the name is taken by a stale segment, whose processes have all ended, and this process does not \
                         take it away: {why}"
                ),
                "have its owner or root remove it (`folio shm rm`), or trust the owner (SegmentOptions::owner)",
            );
        }
        return refuse(
            format!("the name is taken by a file that is not accepted: {why}"),
            refusal.remedy(),
        );
    }
    if !spot.is_name {
        return refuse(
            "there is a file at the path".into(),
            "open it, use open_or_create_file, or remove it (rm)",
        );
    }
    refuse(
        "the name is in use".into(),
        "open it, use open_or_create, or remove it (`folio shm rm`) when nobody has it open",
    )
}

/// The error of a call that goes by a descriptor's name in `/proc`: ENOENT says nothing of the
/// file.
pub(in crate::shm) fn by_descriptor(call: &'static str, errno: Errno, subject: Subject) -> Error {
    if errno == Errno::NOENT && !sys::process::has_proc() {
        let rule =
            "shared memory opens its file anew by /proc/self/fd, and no /proc is mounted here";
        return Error::rule_as(errno, call, subject, rule, "mount it (mount -t proc proc /proc)");
    }
    Error::kernel(call, errno, subject)
}

fn missing(spot: &SegmentPath) -> Error {
    Error::rule_as(
        Errno::NOENT,
        "open",
        Subject::named(spot.path.display().to_string()),
        "there is no such segment, or nobody has it open any more",
        "start the program that makes it first, or use open_or_create",
    )
}

/// Memory that processes share: one value of a [`Share`] type (`Segment<T>`), or a number of them
/// (`Segment<[T]>`).
///
/// It is made complete or not at all, opened only as the type that it holds, and its space is there
/// from the start: a later signal is an error at once. The name of a segment ends with the last
/// process that has it open, unless it is [kept](Lifetime::Kept).
///
/// A process that is killed leaves its slot at once, and its locks go to the next process that
/// asks; see [`Mutex`](crate::shm::Mutex). A process that truncates a segment with a name loses it
/// for everyone: pages that are gone read as zeros, and operations that can return an error do. A
/// process that removes the name under the others, or puts another file there, is noticed by all
/// that wait, and by [`check`](Self::check): ESTALE.
///
/// **Fork:** a child has the memory; its copy of a handle becomes a participant of its own at its
/// first operation that can return an error ([`check`](Self::check) is the least). Loads and stores
/// of bare atomics are none: a child that does nothing else is no participant, so that the name may
/// go while it lives, and a truncated page is a signal to threads that it started itself. A child
/// whose first use comes when all participants have left, and the name with them, gets ENOENT; so
/// does one whose segment was stale, and was recreated in its file by another process, where its
/// bare atomics still go. A child made by clone(2) without the C library's fork keeps its parent's
/// lock, and its parent is taken for alive as long as it lives.
///
/// ```
/// use folio::shm::{Segment, Share, field};
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// #[derive(Share)]
/// #[repr(C)]
/// struct Visits {
///     count: AtomicU64,
/// }
///
/// # let name = &format!("visits-{}", std::process::id());
/// let visits = Segment::<Visits>::open_or_create(name)?; // the same line in both programs
/// field!(visits.count).fetch_add(1, Ordering::Relaxed);
/// # Ok::<(), folio::Error>(())
/// ```
#[doc(alias = "shm_open")]
pub struct Segment<T: Shape + ?Sized> {
    attachment: Arc<Attachment>,
    of: PhantomData<fn() -> Box<T>>,
}

impl<T: Shape + ?Sized> Clone for Segment<T> {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.attachment))
    }
}

impl<T: Shape + ?Sized> fmt::Debug for Segment<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("object", &self.attachment.subject().to_string())
            .field("type", &std::any::type_name::<T>())
            .field("bytes", &self.attachment.len())
            .finish_non_exhaustive()
    }
}

macro_rules! short {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty)?);)*) => {$(
        $(#[$doc])*
        pub fn $name($($arg: $type)?) -> Result<Self> {
            SegmentOptions::new().$name($($arg)?)
        }
    )*};
}

impl<T: Shape + ?Sized> Segment<T> {
    short! {
        /// As [`SegmentOptions::create`], with the options' defaults.
        ///
        /// # Errors
        ///
        /// Those of [`SegmentOptions::create`].
        create(name: &str);
        /// As [`SegmentOptions::open`], with the options' defaults.
        ///
        /// # Errors
        ///
        /// Those of [`SegmentOptions::open`].
        open(name: &str);
        /// As [`SegmentOptions::open_or_create`], with the options' defaults.
        ///
        /// # Errors
        ///
        /// Those of [`SegmentOptions::open_or_create`].
        open_or_create(name: &str);
        /// As [`SegmentOptions::anonymous`], with the options' defaults.
        ///
        /// # Errors
        ///
        /// Those of [`SegmentOptions::anonymous`].
        anonymous();
    }

    /// As [`SegmentOptions::create_with`], with the options' defaults.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::create_with`].
    pub fn create_with(name: &str, init: impl FnOnce(&Self) -> Result<()>) -> Result<Self> {
        SegmentOptions::new().create_with(name, init)
    }

    /// As [`SegmentOptions::open_or_create_with`], with the options' defaults.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::open_or_create_with`].
    pub fn open_or_create_with(name: &str, init: impl Fn(&Self) -> Result<()>) -> Result<Self> {
        SegmentOptions::new().open_or_create_with(name, init)
    }

    /// As [`SegmentOptions::from_fd`], with the options' defaults.
    ///
    /// # Errors
    ///
    /// Those of [`SegmentOptions::from_fd`].
    pub fn from_fd(fd: impl AsFd) -> Result<Self> {
        SegmentOptions::new().from_fd(fd)
    }

    fn new(attachment: Arc<Attachment>) -> Self {
        Self { attachment, of: PhantomData }
    }

    /// The segment's own number, drawn when it was made: no two have the same.
    pub fn id(&self) -> u64 {
        self.attachment.id()
    }

    /// When its name goes away.
    pub fn lifetime(&self) -> Lifetime {
        self.attachment.header_fields().lifetime
    }

    /// Passes the segment to the process at the other end of a Unix socket (SCM_RIGHTS), with one
    /// byte of data.
    ///
    /// # Errors
    ///
    /// The errors of sendmsg(2).
    pub fn send_to(&self, socket: &UnixStream) -> Result<()> {
        scm_rights::send(socket, self.attachment.file())
    }

    /// Takes what [`send_to`](Self::send_to) passed, and attaches to it; of its name it knows as
    /// much as [`from_fd`](Self::from_fd).
    ///
    /// # Errors
    ///
    /// The errors of recvmsg(2); those of [`from_fd`](Self::from_fd).
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        Self::from_fd(scm_rights::receive(socket)?)
    }

    /// The file's path, if this process has made or opened it by one.
    pub fn path(&self) -> Option<&Path> {
        self.attachment.path()
    }

    /// The file, by a description that holds no lock: closing it ends nothing.
    pub fn file(&self) -> std::os::fd::BorrowedFd<'_> {
        self.attachment.file()
    }

    /// Bytes of data now.
    pub fn bytes(&self) -> usize {
        self.attachment.len()
    }

    /// How often the segment has grown: by this and other processes.
    pub fn generation(&self) -> u32 {
        self.attachment.growths()
    }

    /// Whether the segment is whole, this process a participant of it, and its name still there:
    /// one system call. The check of every operation is less, and costs a few loads. Of the
    /// operations only those that wait notice that the name has gone.
    ///
    /// # Errors
    ///
    /// EIO if a process truncated the segment; ESTALE if its name was removed or replaced, unless
    /// it was made or opened by a descriptor only, or [goes on without
    /// one](SegmentOptions::outlive_name); in a forked child those of attaching, and ENOENT if it
    /// comes too late.
    pub fn check(&self) -> Result<()> {
        self.attachment.check_name()
    }

    /// How often threads of this process have parked in waits for this segment.
    pub fn parks(&self) -> u64 {
        self.attachment.parks.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Writes what has changed to the device, for a segment that is a file on one, and waits until
    /// it is there.
    ///
    /// # Errors
    ///
    /// EIO.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::fsync(self.file())
            .map_err(|errno| Error::kernel("fsync", errno, self.attachment.subject()))
    }
}

impl<T: Share> Segment<T> {
    /// The value, by a handle of its own.
    pub fn value(&self) -> Shared<T> {
        // SAFETY: a segment of `T` has the bytes of one, from a page on; `shape` saw to the
        // alignment.
        unsafe { Shared::new(Arc::clone(&self.attachment), self.attachment.base().cast()) }
    }

    /// The value's place, borrowed from the segment.
    #[inline]
    pub fn shared_ref(&self) -> SharedRef<'_, T> {
        // SAFETY: as above.
        unsafe { SharedRef::new(&self.attachment, self.attachment.base().cast()) }
    }

    /// A field of the value, as [`Shared::field`].
    ///
    /// # Panics
    ///
    /// As [`SharedRef::field`].
    pub fn field<F: Share>(&self, pick: impl FnOnce(&T) -> &F) -> Shared<F> {
        self.value().field(pick)
    }
}

impl<T: Plain> Segment<T> {
    /// As [`SharedRef::load`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::load`].
    pub fn load(&self) -> Result<T> {
        self.shared_ref().load()
    }

    /// As [`SharedRef::store`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::store`].
    pub fn store(&self, value: T) -> Result<()> {
        self.shared_ref().store(value)
    }

    /// As [`SharedRef::view`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view`].
    pub fn view(&self) -> Result<View<'_>> {
        self.shared_ref().view()
    }

    /// As [`SharedRef::view_mut`].
    ///
    /// # Errors
    ///
    /// Those of [`SharedRef::view_mut`].
    pub fn view_mut(&self) -> Result<ViewMut<'_>> {
        self.shared_ref().view_mut()
    }
}

/// A segment of atomics is used as such; see [`SharedRef`]'s.
impl<T: crate::shm::value::share::InPlace> Deref for Segment<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: as for a place; the attachment is kept while `self` is borrowed.
        unsafe { &*self.attachment.base().cast::<T>() }
    }
}

impl<T: Share> Segment<[T]> {
    /// Elements now. Other processes may grow it.
    pub fn len(&self) -> usize {
        self.attachment.len() / size_of::<T>()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most elements that it can grow to.
    pub fn capacity(&self) -> usize {
        self.attachment.reserve() / size_of::<T>()
    }

    /// An element, or `None` past the end.
    #[inline]
    pub fn get(&self, index: usize) -> Option<SharedRef<'_, T>> {
        let at = self.attachment.base().cast::<T>().wrapping_add(index);
        // SAFETY: inside the data, which is in the reserve; aligned, as the first element is.
        (index < self.len()).then(|| unsafe { SharedRef::new(&self.attachment, at) })
    }

    /// An element by a handle of its own, or `None` past the end.
    pub fn shared(&self, index: usize) -> Option<Shared<T>> {
        let place = self.get(index)?;
        // SAFETY: as the place.
        Some(unsafe { Shared::new(Arc::clone(&self.attachment), place.as_ptr()) })
    }

    /// Makes the segment `count` elements long, if it is shorter: zeros that all processes see at
    /// once. Nobody maps anything anew, and nothing moves.
    ///
    /// # Errors
    ///
    /// EINVAL beyond the [reserve](SegmentOptions::capacity); ENOSPC; EFBIG beyond RLIMIT_FSIZE.
    pub fn grow(&self, count: usize) -> Result<()> {
        self.attachment.grow(count.saturating_mul(size_of::<T>()))
    }
}

impl<T: Plain> Segment<[T]> {
    /// All bytes that there are now, for volatile reads; [`SharedRef::view`] describes the bytes
    /// that they show.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check).
    pub fn view(&self) -> Result<View<'_>> {
        self.view_mut().map(|view| *view)
    }

    /// All bytes that there are now, for volatile reads and writes.
    ///
    /// # Errors
    ///
    /// Those of [`check`](Self::check).
    pub fn view_mut(&self) -> Result<ViewMut<'_>> {
        self.attachment.check()?;
        // SAFETY: mapped and guarded while the segment is borrowed; the handler was installed when
        // it was attached.
        Ok(unsafe { ViewMut::new(self.attachment.base(), self.attachment.len()) })
    }

    /// The bytes of a range, for volatile reads.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside; those of [`check`](Self::check).
    pub fn view_range(&self, range: impl RangeBounds<usize>) -> Result<View<'_>> {
        self.view()?.slice(range)
    }
}

/// For what is made and opened as segments are: channels and logs.
impl SegmentOptions {
    pub(in crate::shm) fn chosen_lifetime(&self) -> Lifetime {
        self.lifetime
    }

    /// Opens the segment at a path, which is there.
    pub(in crate::shm) fn open_existing(
        &self,
        spot: &SegmentPath,
        contents: &SegmentContents<'_>,
    ) -> Result<Arc<Attachment>> {
        match self.open_at(spot, contents)? {
            FoundSegment::Segment(attachment) => Ok(attachment),
            FoundSegment::Nothing => Err(missing(spot)),
        }
    }
}

/// Opens a file for reading and writing, and no symbolic link. Only a holder of a lease on the file
/// is waited for.
fn open_segment(path: &Path) -> Result<OwnedFd, Errno> {
    sys::open::open(
        path,
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOFOLLOW,
        rustix::fs::Mode::empty(),
    )
}
