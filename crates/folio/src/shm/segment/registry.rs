//! All segments with a name: their participants, the stale ones, and the removal of those.

use crate::error::{Errno, Error, Result, Subject};
use crate::shm::segment::file_io::{lifetime, read_header};
use crate::shm::segment::header::{
    FIXED, HEAD, HeaderFields, Lifetime, ParticipantSlot, SLOTS, SLOTS_AT, SegmentKind,
};
use crate::shm::segment::name;
use crate::shm::segment::owner::Owner;
use crate::shm::segment::participant;
use crate::shm::segment::retire::{MembershipVerdict, retire};
use crate::sys;
use rustix::fs::{Mode, OFlags};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// A file without a lock that is younger may be one that its maker is about to lock.
const SETTLED: Duration = Duration::from_secs(10);

/// The state of a segment's name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SegmentState {
    /// Processes have it open.
    InUse,
    /// Nobody has it open, and it is to be [kept](Lifetime::Kept).
    Idle,
    /// Nobody has it open, and it should have gone with its last user, who was killed, or was not
    /// its owner in a directory with the sticky bit; or it is a file that was on its way to
    /// becoming a segment, or the notifier of a process that was killed.
    Stale,
    /// It is no segment that can be used; why.
    Damaged(String),
    /// This process may not look; why.
    Closed(String),
}

impl SegmentState {
    /// The word for it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Idle => "idle",
            Self::Stale => "stale",
            Self::Damaged(_) => "damaged",
            Self::Closed(_) => "closed",
        }
    }
}

/// The role of a file in the directory of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// A segment, or a file with the name of one.
    Segment,
    /// A file on its way to becoming a segment.
    Unfinished,
    /// A FIFO by which a process is told of messages by others that its socket cannot be reached
    /// by: of other network namespaces. It goes with the process that reads it.
    Notifier {
        /// The name of its segment, if that is in the directory and this process may read it.
        of: Option<OsString>,
    },
}

/// A process that has a segment open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The number in its slot: its pid, in its own pid namespace. A label for people, which nobody
    /// vouches for.
    pub pid: u32,
}

/// A name in the directory of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SegmentEntry {
    /// The name that programs use; of a file that is no segment, its file name. It need not be
    /// UTF-8.
    pub name: OsString,
    /// Its role.
    pub role: Role,
    /// The file.
    pub path: PathBuf,
    /// Bytes of memory (or disk) that it takes.
    pub size: u64,
    /// Its contents.
    pub kind: Option<SegmentKind>,
    /// The type, as the program that made it calls it.
    pub type_name: Option<String>,
    /// When its name goes away.
    pub lifetime: Option<Lifetime>,
    /// The processes that have it open; of a notifier FIFO, its owner, if that process lives.
    pub users: Vec<User>,
    /// Its state.
    pub state: SegmentState,
    /// The user it belongs to, and its mode.
    pub owner: u32,
    /// The users that may open it, as in chmod(1).
    pub mode: u32,
}

/// A segment in the directory, and its participants, by their own labels.
struct KnownSegment {
    id: u64,
    name: OsString,
    participants: Vec<(Owner, User)>,
}

/// All segments with a name, and folio's other files in their directory, in the order of their
/// names.
///
/// # Errors
///
/// Those of reading the [directory](crate::shm::directory).
pub fn list() -> Result<Vec<SegmentEntry>> {
    let dir = name::directory();
    let failed = |error: &std::io::Error| {
        let errno = Errno::from_io_error(error).unwrap_or(Errno::IO);
        let subject = Subject::named(dir.display().to_string());
        if !matches!(errno, Errno::NOENT | Errno::NOTDIR) {
            return Error::kernel("open", errno, subject);
        }
        let rule = "segments lie in a directory, and this is none";
        let remedy = "see what the environment variable FOLIO_SHM_DIR says; without it, mount a tmpfs at /dev/shm";
        Error::rule_as(errno, "open", subject, rule, remedy)
    };
    // All names before any file is examined: the maker of a notifier is a participant before the
    // notifier has its name.
    let mut files = Vec::new();
    for entry in std::fs::read_dir(&dir).map_err(|error| failed(&error))? {
        let entry = entry.map_err(|error| failed(&error))?;
        files.push((entry.file_name(), entry.path()));
    }
    let (mut entries, mut known) = (Vec::new(), Vec::new());
    for (file, path) in &files {
        if name::is_temporary(file) {
            entries.extend(examine(file, path, Role::Unfinished, &mut known));
        } else if let Some(name) = name::of_file(file) {
            entries.extend(examine(name, path, Role::Segment, &mut known));
        }
    }
    for (file, path) in &files {
        entries.extend(
            name::of_notifier_fifo(file).and_then(|of| examine_fifo(file, path, of, &known)),
        );
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

/// A file of the directory, which nothing is known of yet; `None` if it went away.
fn find(
    name: &OsStr,
    path: &Path,
    role: Role,
) -> Option<(SegmentEntry, rustix::fs::FileType, OwnedFd)> {
    let found = sys::file::find(path).ok()?;
    let stat = rustix::fs::fstat(&found).ok()?;
    let entry = SegmentEntry {
        name: name.to_owned(),
        role,
        path: path.to_owned(),
        size: stat.st_blocks.cast_unsigned() * 512,
        kind: None,
        type_name: None,
        lifetime: None,
        users: Vec::new(),
        state: SegmentState::Stale,
        owner: stat.st_uid,
        mode: stat.st_mode & 0o7777,
    };
    Some((entry, rustix::fs::FileType::from_raw_mode(stat.st_mode), found))
}

/// The role of a notifier's FIFO, by the numbers in its name. The file was there before the
/// participants were examined.
fn examine_fifo(
    file: &OsStr,
    path: &Path,
    (segment, owner): (u64, u64),
    known: &[KnownSegment],
) -> Option<SegmentEntry> {
    let mut segments = known.iter().filter(|known| known.id == segment).peekable();
    let of = segments.peek().map(|known| known.name.clone());
    let is_known = of.is_some();
    let (mut entry, kind, found) = find(file, path, Role::Notifier { of })?;
    if kind != rustix::fs::FileType::Fifo {
        entry.state = SegmentState::Damaged("it is no FIFO".into());
        return Some(entry);
    }
    let participant = segments
        .flat_map(|known| &known.participants)
        .find(|(participant, _)| participant.word() == owner);
    entry.users.extend(participant.map(|(_, user)| user.clone()));
    entry.state = match crate::shm::sys::fifo::is_read(path) {
        Ok(true) => SegmentState::InUse,
        // A living process is about to read it, or to remove it. A dead participant never comes
        // back.
        Ok(false) if participant.is_some() || (!is_known && is_young(found.as_fd())) => {
            SegmentState::InUse
        }
        Ok(false) => SegmentState::Stale,
        Err(Errno::NOENT) => return None,
        Err(errno) => closed(errno),
    };
    Some(entry)
}

fn closed(errno: Errno) -> SegmentState {
    SegmentState::Closed(Error::kernel("open", errno, Subject::default()).errno().to_string())
}

/// The role of a file of the directory; `None` if it went away.
fn examine(
    name: &OsStr,
    path: &Path,
    role: Role,
    known: &mut Vec<KnownSegment>,
) -> Option<SegmentEntry> {
    let (mut entry, kind, _) = find(name, path, role)?;
    if kind != rustix::fs::FileType::RegularFile {
        entry.state = SegmentState::Damaged("it is no regular file".into());
        return Some(entry);
    }
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let looked =
        rustix::fs::open(path, flags, Mode::empty()).and_then(|fd| look(&mut entry, &fd, known));
    if let Err(errno) = looked {
        if errno == Errno::NOENT {
            return None;
        }
        entry.state = closed(errno);
    }
    Some(entry)
}

fn look(
    entry: &mut SegmentEntry,
    fd: &OwnedFd,
    known: &mut Vec<KnownSegment>,
) -> Result<(), Errno> {
    let fd = fd.as_fd();
    // First who it is: that waits for those who only remove it.
    let participants = participants(fd)?;
    entry.users = participants.iter().map(|(_, user)| user.clone()).collect();
    let anybody = !entry.users.is_empty() || participant::is_anybody_there(fd)?;
    if entry.role == Role::Unfinished {
        entry.state =
            if anybody || is_young(fd) { SegmentState::InUse } else { SegmentState::Stale };
        return Ok(());
    }
    match read_header(fd)? {
        Ok((HeaderFields { kind, lifetime, type_name, id, .. }, _)) => {
            known.push(KnownSegment { id, name: entry.name.clone(), participants });
            (entry.kind, entry.lifetime, entry.type_name) =
                (Some(kind), Some(lifetime), Some(type_name));
            entry.state = match lifetime {
                _ if anybody => SegmentState::InUse,
                Lifetime::Kept => SegmentState::Idle,
                Lifetime::WhileUsed => SegmentState::Stale,
            };
        }
        // The users' own labels may be as wrong, but for people to see they are good enough.
        Err(flaw) => {
            entry.lifetime = flaw.lifetime;
            entry.state = match flaw.lifetime {
                Some(Lifetime::WhileUsed) if !anybody => SegmentState::Stale,
                // Somebody makes it anew.
                _ if flaw.is_gone => SegmentState::InUse,
                _ => SegmentState::Damaged(flaw.to_string()),
            };
        }
    }
    Ok(())
}

fn is_young(fd: BorrowedFd<'_>) -> bool {
    let changed = rustix::fs::fstat(fd).map_or(0, |stat| stat.st_mtime);
    let changed = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).unwrap_or(0));
    SystemTime::now().duration_since(changed).is_ok_and(|age| age < SETTLED)
}

/// The processes whose slots are locked, by their labels.
fn users(fd: BorrowedFd<'_>) -> Result<Vec<User>, Errno> {
    Ok(participants(fd)?.into_iter().map(|(_, user)| user).collect())
}

/// The participants whose slots are locked, and their processes' labels.
fn participants(fd: BorrowedFd<'_>) -> Result<Vec<(Owner, User)>, Errno> {
    const EACH: usize = size_of::<ParticipantSlot>();
    let taken = participant::taken(fd)?;
    let mut bytes = vec![0; HEAD];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut bytes, 0))?;
    debug_assert!(FIXED < SLOTS_AT && taken.iter().all(|&slot| slot < SLOTS));
    let word = |slot: usize, at: usize| {
        let at = SLOTS_AT + slot * EACH + at;
        let word = bytes[..count].get(at..at + 4).and_then(|word| word.try_into().ok());
        word.map_or(0, u32::from_ne_bytes)
    };
    let (generation, pid) = (
        std::mem::offset_of!(ParticipantSlot, generation),
        std::mem::offset_of!(ParticipantSlot, pid),
    );
    let participant =
        |slot| (Owner::new(slot, word(slot, generation)), User { pid: word(slot, pid) });
    Ok(taken.into_iter().map(participant).collect())
}

/// Removes a segment's name, if nobody has it open. Nothing is deleted while a process lives that
/// uses it. The FIFOs of killed processes' [notifiers](Role::Notifier) go too.
///
/// # Errors
///
/// EBUSY with the processes that have it open; ENOENT; EACCES; EPERM in a directory with the sticky
/// bit, if it is another user's; EINVAL if it is no regular file. Any name of the directory can be
/// given, also one that no segment can have.
pub fn remove(name: impl AsRef<OsStr>) -> Result<()> {
    let path = name::path_of_entry("remove", name.as_ref())?;
    remove_file(&path)
}

fn remove_file(path: &Path) -> Result<()> {
    /// Far more than those who leave, or remove it too, need.
    const PATIENCE: Duration = Duration::from_secs(1);
    let start = Instant::now();
    let mut again = false;
    while !again || start.elapsed() < PATIENCE {
        match retire_or_users(path) {
            // Whatever has the name from now on is another segment.
            Ok(None) => return Ok(()),
            // It was in use a moment ago, and by nobody now.
            Ok(Some(users)) if users.is_empty() => std::thread::sleep(Duration::from_millis(1)),
            Ok(Some(users)) => {
                let pids: Vec<_> = users.iter().map(|user| user.pid.to_string()).collect();
                return Err(busy(path, format!("processes have it open: {}", pids.join(", "))));
            }
            // Its last user, or another who removes it, was quicker.
            Err(error) if again && error.errno() == Errno::NOENT => return Ok(()),
            Err(error) => return Err(error),
        }
        again = true;
    }
    Err(busy(
        path,
        "a process holds all of its slots, as if to remove it, and does not let go".into(),
    ))
}

fn busy(path: &Path, rule: String) -> Error {
    let remedy = "end them first; or let it go with the last of them (Lifetime::WhileUsed)";
    Error::rule_as(Errno::BUSY, "remove", Subject::named(path.display().to_string()), rule, remedy)
}

/// Removes the name (`None`), or returns the processes that have it open.
fn retire_or_users(path: &Path) -> Result<Option<Vec<User>>> {
    let subject = || Subject::named(path.display().to_string());
    let failed = |call| move |errno| Error::kernel(call, errno, subject());
    let fd = match crate::shm::sys::unnamed_file::open(path) {
        Err(Errno::LOOP) => {
            let rule = "it is a symbolic link, and no segment";
            return Err(Error::rule("remove", subject(), rule, "remove it with rm(1)"));
        }
        Err(Errno::NXIO) => {
            let rule = "it is a socket, or a device without a driver, and so no segment";
            return Err(Error::rule_as(
                Errno::NXIO,
                "remove",
                subject(),
                rule,
                "remove it with rm(1)",
            ));
        }
        Err(Errno::ISDIR) => {
            let rule = "it is a directory, and so no segment";
            return Err(Error::rule("remove", subject(), rule, "remove it with rmdir(1)"));
        }
        Err(Errno::NOENT) => {
            let remedy = "see `folio shm ls` for the names that there are";
            return Err(Error::rule_as(
                Errno::NOENT,
                "remove",
                subject(),
                "there is no such segment",
                remedy,
            ));
        }
        result => result.map_err(failed("open"))?,
    };
    let status = sys::file::status(fd.as_fd()).map_err(failed("fstat"))?;
    if status.kind != rustix::fs::FileType::RegularFile {
        let rule = "it is no regular file, and so no segment";
        return Err(Error::rule("remove", subject(), rule, "remove it with rm(1)"));
    }
    let inode = (status.device, status.inode);
    if retire(fd.as_fd(), path, inode, || Ok(MembershipVerdict::Goes))
        .map_err(|errno| stays(path, errno))?
    {
        return Ok(None);
    }
    users(fd.as_fd()).map(Some).map_err(failed("fcntl"))
}

/// Why a name could not be taken away.
fn stays(path: &Path, errno: Errno) -> Error {
    let subject = Subject::named(path.display().to_string());
    match sys::file::status_of(path) {
        Ok(status) if errno == Errno::PERM => Error::rule_as(
            errno,
            "unlink",
            subject,
            format!(
                "in a directory with the sticky bit only a file's owner (user {}) or root may take it away",
                status.owner
            ),
            "have one of them do it; a process that creates it recreates your group's stale segment",
        ),
        _ => Error::kernel("unlink", errno, subject),
    }
}

/// The result of [`remove_stale`].
#[derive(Debug, Default)]
pub struct RemovedStale {
    /// The stale segments that are gone, or would be.
    pub removed: Vec<SegmentEntry>,
    /// Those that could not be removed, and why.
    pub failed: Vec<(SegmentEntry, Error)>,
}

/// Removes all stale files: names of segments that should have gone with their last user, which was
/// killed, files that were on their way to becoming segments, and [notifier FIFOs](Role::Notifier)
/// of killed processes. With `dry_run` it only lists them.
///
/// # Errors
///
/// Those of [`list`]. Files that cannot be removed are in the answer.
pub fn remove_stale(dry_run: bool) -> Result<RemovedStale> {
    let mut collected = RemovedStale::default();
    for entry in list()?.into_iter().filter(|entry| entry.state == SegmentState::Stale) {
        let retired = match entry.role {
            _ if dry_run => Ok(true),
            Role::Notifier { .. } => remove_dead_fifo(&entry.path),
            _ => remove_stale_segment(&entry.path),
        };
        match retired {
            Ok(true) => collected.removed.push(entry),
            // Somebody else was quicker, or has it open by now, or has made another segment of that
            // name.
            Ok(false) | Err(Errno::NOENT) => {}
            Err(errno) => {
                let error = stays(&entry.path, errno);
                collected.failed.push((entry, error));
            }
        }
    }
    Ok(collected)
}

/// Takes the FIFO of a notifier away whose owner is dead, and so stays unread. Whether it did.
fn remove_dead_fifo(path: &Path) -> Result<bool, Errno> {
    match crate::shm::sys::fifo::remove_unread(path) {
        Err(Errno::BUSY | Errno::INVAL) => Ok(false),
        result => result.map(|()| true),
    }
}

/// Removes a name if its segment is stale, which is checked once nobody can come any more. Returns
/// whether it did.
fn remove_stale_segment(path: &Path) -> Result<bool, Errno> {
    let fd = crate::shm::sys::unnamed_file::open(path)?;
    let fd = fd.as_fd();
    let status = sys::file::status(fd)?;
    if status.kind != rustix::fs::FileType::RegularFile {
        return Ok(false);
    }
    let file = path.file_name().unwrap_or_default();
    retire(fd, path, (status.device, status.inode), || {
        if name::is_temporary(file) {
            return Ok(if is_young(fd) {
                MembershipVerdict::Stays
            } else {
                MembershipVerdict::Goes
            });
        }
        let is_stale = lifetime(fd)? == Some(Lifetime::WhileUsed);
        Ok(if is_stale { MembershipVerdict::Stale } else { MembershipVerdict::Stays })
    })
}

#[cfg(test)]
mod tests {
    use super::{
        Role, SETTLED, SegmentState, examine, examine_fifo, name, remove_dead_fifo,
        remove_stale_segment,
    };
    use crate::shm::segment::attachment::Attachment;
    use crate::shm::segment::file_io::SegmentContents;
    use crate::shm::{Lifetime, Segment, SegmentKind, SegmentOptions};
    use rustix::fs::{CWD, FileType, Mode};
    use std::path::Path;
    use std::time::SystemTime;

    /// The state of a FIFO before its maker has opened it, as a collection sees it.
    fn state_of(
        dir: &Path,
        segment: u64,
        owner: u64,
        known: &[super::KnownSegment],
    ) -> (SegmentState, Role) {
        let file = name::notifier_fifo(segment, owner, 2);
        let path = dir.join(&file);
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let found = examine_fifo(file.as_ref(), &path, (segment, owner), known).unwrap();
        std::fs::remove_file(path).unwrap();
        (found.state, found.role)
    }

    #[test]
    fn a_fifo_that_a_party_is_about_to_open_is_no_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folio.used");
        let segment: Segment<u64> = SegmentOptions::new().create_file(&path).unwrap();
        let mut known = Vec::new();
        examine("used".as_ref(), &path, Role::Segment, &mut known).unwrap();
        let (id, me) = (segment.id(), known[0].participants[0].0.word());
        let of = || Role::Notifier { of: Some("used".into()) };
        assert_eq!(state_of(dir.path(), id, me, &known), (SegmentState::InUse, of()));
        // One of an earlier participant of the same slot.
        assert_eq!(state_of(dir.path(), id, me ^ 1 << 40, &known), (SegmentState::Stale, of()));
        // Of a segment that is not here nobody can tell who its participants are.
        let of = || Role::Notifier { of: None };
        assert_eq!(state_of(dir.path(), id ^ 1, me, &known), (SegmentState::InUse, of()));
        let old = SystemTime::now() - 2 * SETTLED;
        let (file, since) = (
            name::notifier_fifo(id ^ 1, me, 4),
            old.duration_since(SystemTime::UNIX_EPOCH).unwrap(),
        );
        let fifo = dir.path().join(&file);
        rustix::fs::mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let time = rustix::fs::Timespec { tv_sec: since.as_secs().cast_signed(), tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, &fifo, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
        let found = examine_fifo(file.as_ref(), &fifo, (id ^ 1, me), &known).unwrap();
        assert_eq!(found.state, SegmentState::Stale);
        assert_eq!((remove_dead_fifo(&fifo), fifo.exists()), (Ok(true), false));
    }

    #[test]
    fn a_file_with_the_name_of_a_bell_that_is_none_is_not_collected() {
        let dir = tempfile::tempdir().unwrap();
        let file = name::notifier_fifo(1, 2, 4);
        let path = dir.path().join(&file);
        std::fs::write(&path, "bytes").unwrap();
        let found = examine_fifo(file.as_ref(), &path, (1, 2), &[]).unwrap();
        assert!(matches!(found.state, SegmentState::Damaged(_)), "{:?}", found.state);
        assert_eq!((remove_dead_fifo(&path), path.exists()), (Ok(false), true));
    }

    #[test]
    fn a_segment_in_the_place_of_a_leftover_is_not_collected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folio.kept");
        drop(SegmentOptions::new().create_file::<u64>(&path).unwrap());
        assert_eq!(remove_stale_segment(&path), Ok(false));
        assert!(path.exists());
    }

    #[test]
    fn a_leftover_that_is_used_by_the_time_it_is_collected_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("folio.used");
        let numbers = SegmentContents {
            kind: SegmentKind::Value,
            fingerprint: 1,
            type_name: "u64",
            element: 8,
            length: 8,
        };
        let open = |options: &mut std::fs::OpenOptions| {
            options.read(true).write(true).open(&path).unwrap()
        };
        let file = open(std::fs::File::options().create_new(true)).into();
        // Its maker does not know its name, and leaves it behind.
        drop(Attachment::create(file, None, &numbers, 8, Lifetime::WhileUsed).unwrap());
        let again = open(&mut std::fs::File::options()).into();
        let user = Attachment::open("open", again, None, &numbers).unwrap().unwrap();
        assert_eq!(remove_stale_segment(&path), Ok(false));
        assert!(path.exists() && user.check().is_ok());
        drop(user);
        assert_eq!(remove_stale_segment(&path), Ok(true));
        assert!(!path.exists());
    }
}
