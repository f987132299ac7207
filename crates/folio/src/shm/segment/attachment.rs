//! A process's attachment to a segment: the map, the participant, and whether both are still good.
//! One for each process and segment; all handles share it.
//!
//! A forked child has the map, but is no participant: its first use makes it one
//! ([`Attachment::check`]). The lock of its parent's participant it does not have
//! ([`crate::sys::fork`]).

use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Placement, Region, Request};
use crate::shm::segment::file_io::{
    Inode, SegmentContents, allocate, compare, inode_of, is_outdated, lifetime, new_facts,
    no_segment, read_header, too_large, write,
};
use crate::shm::segment::header::{
    FIXED, GONE, HeaderFields, LOST, Lifetime, MIXED, MutableHeader, ParticipantSlot, READY, SLOTS,
    SLOTS_AT, STATE_AT,
};
use crate::shm::segment::name;
use crate::shm::segment::owner::Owner;
use crate::shm::segment::participant::{self, NoSlot};
use crate::shm::segment::retire::{MembershipVerdict, has_name, retire, say_gone};
use crate::sys;
use crate::sys::fork::OwnFd;
use crate::sys::fork_mutex::ForkMutex;
use crate::sys::guard_table::Guarded;
use crate::sys::shadow::CloneBy;
use crate::sys::spare::Stores;
use std::any::Any;
use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

/// The attachments of this process. Changed while no thread forks only, so that a child finds it
/// whole.
static ALL: ForkMutex<BTreeMap<Inode, Weak<Attachment>>> = ForkMutex::with(BTreeMap::new());

/// The notifier that wakes all futures of a process that wait in a segment. The attachment keeps
/// it, and knows no more of it than this.
pub(in crate::shm) trait FutureNotifier:
    Any + Send + Sync + std::fmt::Debug
{
    /// Whether this process made it. A forked child has its parent's.
    fn is_mine(&self) -> bool;

    /// The attachment ends, and nobody waits any more.
    fn end(&self);

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The file, by a description that holds no lock: forked children keep it.
    file: OwnedFd,
    inode: Inode,
    region: Region,
    facts: HeaderFields,
    /// How the file is called. Set while no thread forks only.
    path: OnceLock<PathBuf>,
    /// The name that goes with the last participant, once the segment is known to have it. Set
    /// while no thread forks only.
    name: OnceLock<PathBuf>,
    /// Whether it is an error that the file has no name any more: it was made or opened by one, and
    /// not by a descriptor only.
    follows_name: AtomicBool,
    /// Where the file lies, if this process can tell. Set while no thread forks only.
    directory: OnceLock<Option<PathBuf>>,
    guarded: Guarded,
    /// How often the guard was opened: once in each process, from the first one to this.
    guards: AtomicUsize,
    /// The process whose participant this is, and the participant.
    process: AtomicU64,
    owner: AtomicU64,
    /// The process that recreates the segment from a stale one, until it has
    /// [published](Attachment::publish) it.
    maker: AtomicU64,
    /// The descriptor that holds the participant's lock. Touched only while forks are blocked (see
    /// `sys::fork`).
    lease: ForkMutex<Option<OwnFd>>,
    /// The notifier of the futures of this process. Set only while forks are blocked (see
    /// `sys::fork`).
    notifier: ForkMutex<Option<Arc<dyn FutureNotifier>>>,
    /// How often threads of this process have parked here.
    pub(in crate::shm) parks: AtomicU64,
}

// A panic leaves nothing half changed: changes are made by atomics, or under a lock that no panic
// can leave.
impl std::panic::UnwindSafe for Attachment {}
impl std::panic::RefUnwindSafe for Attachment {}

impl Attachment {
    /// The first byte of the data. All of the reserve is mapped behind it; pages beyond
    /// [`len`](Self::len) do not exist yet.
    pub(crate) fn base(&self) -> *mut u8 {
        self.region.as_ptr().wrapping_add(self.facts.data_at as usize)
    }

    /// Bytes of data now. Grows, when any process grows the segment; never more than the reserve
    /// that is mapped.
    pub(crate) fn len(&self) -> usize {
        self.changing().length.load(Ordering::Acquire).min(self.facts.reserve) as usize
    }

    /// Bytes of data that there can ever be.
    pub(crate) fn reserve(&self) -> usize {
        self.facts.reserve as usize
    }

    /// The segment's own number, drawn when it was made.
    pub(crate) fn id(&self) -> u64 {
        self.facts.id
    }

    pub(crate) fn header_fields(&self) -> &HeaderFields {
        &self.facts
    }

    /// The file, by a description that holds no lock.
    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    pub(crate) fn path(&self) -> Option<&Path> {
        self.path.get().map(PathBuf::as_path)
    }

    /// The addresses that the handler of faults answers for.
    pub(crate) fn addresses(&self) -> Range<usize> {
        self.region.addresses()
    }

    fn changing(&self) -> &MutableHeader {
        // SAFETY: inside the map, aligned, atomics only, and mapped for as long as `self` is.
        unsafe { &*self.region.as_ptr().add(FIXED).cast::<MutableHeader>() }
    }

    pub(in crate::shm) fn slots(&self) -> &[ParticipantSlot; SLOTS] {
        // SAFETY: as above.
        unsafe { &*self.region.as_ptr().add(SLOTS_AT).cast::<[ParticipantSlot; SLOTS]>() }
    }

    /// Slots from here on have never had a notifier.
    pub(in crate::shm) fn process_notifiers(&self) -> &AtomicU32 {
        &self.changing().notifiers
    }

    /// This process's notifier for the futures of the segment. `make` makes it if there is none.
    pub(in crate::shm) fn future_notifier(
        &self,
        make: impl FnOnce(&Self) -> Result<Arc<dyn FutureNotifier>>,
    ) -> Result<Arc<dyn FutureNotifier>> {
        let found =
            || self.notifier.lock().as_ref().filter(|notifier| notifier.is_mine()).map(Arc::clone);
        if let Some(notifier) = found() {
            return Ok(notifier);
        }
        let fresh = make(self)?;
        Ok(sys::fork::held_off(|_| {
            // Another thread may have been first.
            found().unwrap_or_else(|| {
                // A forked child leaves its parent's notifier as it is.
                std::mem::forget(self.notifier.lock().replace(Arc::clone(&fresh)));
                Arc::clone(&fresh)
            })
        }))
    }

    /// The number of a participant's process. The process itself stored it.
    pub(in crate::shm) fn pid_of(&self, participant: Owner) -> Option<u32> {
        let pid = self.slots()[participant.slot()?].pid.load(Ordering::Relaxed);
        (pid != 0).then_some(pid)
    }

    /// How errors name a participant.
    pub(in crate::shm) fn participant_name(&self, participant: Owner) -> String {
        let me = if participant == self.me() { ", which is this one" } else { "" };
        match self.pid_of(participant) {
            Some(pid) => format!("process {pid}{me}"),
            None => "a process that has no number here".to_owned(),
        }
    }

    /// Whether the segment can be used: by this process (a forked child becomes a participant of
    /// its own here), and with nothing of it lost. A few loads.
    ///
    /// # Errors
    ///
    /// EIO if a process truncated the segment; those of becoming a participant.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let here = self.process.load(Ordering::Acquire) == sys::identity::token();
        if here && self.is_whole() { Ok(()) } else { self.check_closely() }
    }

    /// The half of [`check`](Self::check) that goes before an access: this process is a
    /// participant, and a page that is gone becomes zeros in it, and no signal.
    #[inline]
    pub(in crate::shm) fn ensure_joined(&self) -> Result<()> {
        if self.process.load(Ordering::Acquire) == sys::identity::token() {
            Ok(())
        } else {
            self.join()
        }
    }

    /// The half of [`check`](Self::check) that tells after an access of how it went: whether
    /// nothing of the segment is lost.
    #[inline]
    pub(in crate::shm) fn check_whole(&self) -> Result<()> {
        // The loads come before the look.
        fence(Ordering::Acquire);
        if self.is_whole() { Ok(()) } else { self.check_closely() }
    }

    /// [`check`](Self::check), and the parts with which a lock is taken: the participant, and the
    /// number of this process.
    #[inline]
    pub(crate) fn enter(&self) -> Result<(Owner, u64)> {
        let token = sys::identity::token();
        if self.process.load(Ordering::Acquire) != token || !self.is_whole() {
            self.check_closely()?;
        }
        let owner = Owner::in_word(self.owner.load(Ordering::Relaxed)).unwrap_or(Owner::NOBODY);
        Ok((owner, token))
    }

    #[inline]
    fn is_whole(&self) -> bool {
        // The load goes first: it notices that the header's own page is gone.
        let state = self.changing().state.load(Ordering::Relaxed);
        state == READY && self.guarded.epoch() & 1 == 0
    }

    #[cold]
    fn check_closely(&self) -> Result<()> {
        // First: its maker stores all first values by this way.
        if self.is_in_the_making() {
            return Ok(());
        }
        self.join()?;
        if self.is_whole() {
            return Ok(());
        }
        // For the others, if there is still a header that they can see.
        self.note_loss();
        let size = sys::file::status(self.file()).map_or(0, |status| status.size);
        let (wanted, subject) = (self.facts.data_at + self.len() as u64, self.subject());
        Err(Error::rule_as(
            Errno::IO,
            "use",
            subject.with_detail(format!("{size} bytes of {wanted}")),
            "a process truncated the segment or wrote over its header, and what it held is lost",
            "remove it (`folio shm rm`), and let the programs make it anew",
        ))
    }

    /// Says to all that pages of it are gone.
    fn note_loss(&self) {
        let _ = self.changing().state.compare_exchange(
            READY,
            LOST,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// Whether this process makes it anew: to the others it is gone until then.
    fn is_in_the_making(&self) -> bool {
        self.maker.load(Ordering::Relaxed) == sys::identity::token()
            && self.changing().state.load(Ordering::Relaxed) == GONE
            && self.guarded.epoch() & 1 == 0
    }

    /// As [`check`](Self::check), and asks the kernel whether the file is as long as it should be.
    /// For those who wait, and have the time.
    pub(crate) fn check_file(&self) -> Result<()> {
        self.look_at_file().map(|_| ())
    }

    /// [`check_file`](Self::check_file), and how many names the file has, if the kernel says it.
    fn look_at_file(&self) -> Result<Option<u64>> {
        self.check()?;
        // A process that grows it lengthens the file first, and says so then. So this reads the
        // header first, and the file, which only grows, after that.
        let wanted = self.facts.data_at + self.len() as u64;
        let status = sys::file::status(self.file()).ok();
        if status.is_some_and(|status| status.size < wanted) {
            self.note_loss();
        }
        self.check()?;
        Ok(status.map(|status| status.links))
    }

    /// As [`check_file`](Self::check_file), and asks with the same system call whether the file
    /// still has a name, if this process came by one. Without it nobody who comes later finds the
    /// segment: they make another one, and wait there for this process, and this process here for
    /// them. For those who found nothing to do, and for the program's own call of `check`.
    ///
    /// # Errors
    ///
    /// Those of [`check_file`](Self::check_file); ESTALE.
    pub(crate) fn check_name(&self) -> Result<()> {
        match self.look_at_file()? {
            Some(0) if self.follows_name.load(Ordering::Relaxed) => Err(self.cut_off()),
            _ => Ok(()),
        }
    }

    /// From here on it is an error that the file has no name.
    pub(crate) fn follow_name(&self) {
        self.follows_name.store(true, Ordering::Relaxed);
    }

    #[cold]
    fn cut_off(&self) -> Error {
        // A relative path may lead elsewhere by now.
        let path = self.path().filter(|path| path.is_absolute());
        let how = match path.map(sys::file::status_of) {
            Some(Ok(_)) => "its name was replaced: another file has it now",
            Some(Err(Errno::NOENT)) => "its name was removed",
            _ => "its name was removed or replaced",
        };
        Error::rule_as(
            Errno::STALE,
            "use",
            self.subject(),
            format!("{how}, and processes that come by the name do not find this segment any more"),
            "open or create it anew; to go on with those that have it open, make it with SegmentOptions::outlive_name",
        )
    }

    /// This process's participant. In a forked child that cannot become one it is nobody;
    /// [`check`](Self::check) says why.
    #[inline]
    pub(crate) fn me(&self) -> Owner {
        if self.process.load(Ordering::Acquire) != sys::identity::token() && self.join().is_err() {
            return Owner::NOBODY;
        }
        Owner::in_word(self.owner.load(Ordering::Relaxed)).unwrap_or(Owner::NOBODY)
    }

    /// Whether a participant still has the segment open. A number that no participant ever had is
    /// not alive. The kernel is asked, unless it is this process's own.
    pub(crate) fn is_alive(&self, owner: Owner) -> bool {
        let Some(slot) = owner.slot() else { return false };
        if owner == self.me() {
            return true;
        }
        // A kernel that cannot answer takes nobody's lock away.
        self.slots()[slot].generation.load(Ordering::Acquire) == owner.generation()
            && participant::is_taken(self.file(), slot).unwrap_or(true)
    }

    /// How errors name the segment.
    pub(crate) fn subject(&self) -> Subject {
        match self.path() {
            Some(path) => Subject::named(path.display().to_string()),
            None => Subject::file(self.file()),
        }
    }

    /// Makes this process a participant, unless it is one.
    fn join(&self) -> Result<()> {
        sys::signal::ensure();
        let start = Instant::now();
        let mut is_guarded = false;
        loop {
            match self.try_join(&mut is_guarded)? {
                // Meanwhile others may fork, and use other segments.
                Some(NoSlot::Barred) if start.elapsed() < participant::PATIENCE => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Some(no_slot) => return Err(self.cannot_join(&no_slot)),
                None => return Ok(()),
            }
        }
    }

    /// One attempt to make this process a participant, unless it is one; or why it cannot be now.
    /// The first one opens the guard.
    fn try_join(&self, is_guarded: &mut bool) -> Result<Option<NoSlot>> {
        sys::fork::held_off(|forks| {
            let token = sys::identity::token();
            if self.process.load(Ordering::Acquire) == token {
                return Ok(None);
            }
            let fd = crate::shm::sys::unnamed_file::reopen(self.file())
                .map_err(|errno| super::by_descriptor("open", errno, self.subject()))?;
            let lease = forks.keep_from_children(fd);
            if !*is_guarded {
                if let Err(error) = self.open_guard() {
                    forks.close(lease);
                    return Err(error);
                }
                *is_guarded = true;
            }
            match participant::claim(lease.as_fd(), self.slots(), || self.is_past()) {
                // A child that comes late. With a slot in hand, as in opening: from here on nobody
                // takes the name away.
                Ok(owner) if self.name_is_gone() || self.is_past() => {
                    participant::leave(lease.as_fd(), self.slots(), owner);
                    forks.close(lease);
                    Err(self.name_gone())
                }
                Ok(owner) => {
                    self.record_membership(owner, lease, token);
                    Ok(None)
                }
                Err(no_slot) => {
                    forks.close(lease);
                    Ok(Some(no_slot))
                }
            }
        })
    }

    /// Notes which network namespace this process is of, which has just become a participant with
    /// `lease`.
    fn note_network(&self, lease: BorrowedFd<'_>) {
        let network = &self.changing().network;
        let mine = sys::process::network().unwrap_or(MIXED);
        match network.compare_exchange(0, mine, Ordering::AcqRel, Ordering::Acquire) {
            Err(found) if found != mine => {
                // No participant that has left needs to be reached. One that comes after the second
                // look finds this one's number.
                let is_alone = || participant::is_anybody_there(lease) == Ok(false);
                if is_alone() {
                    network.store(mine, Ordering::SeqCst);
                    if is_alone() {
                        return;
                    }
                }
                network.store(MIXED, Ordering::SeqCst);
            }
            _ => {}
        }
    }

    /// Whether participants may be of several network namespaces, with that of this thread, which
    /// may have left its process's.
    pub(in crate::shm) fn is_mixed_with_this_thread(&self) -> bool {
        let network = &self.changing().network;
        if sys::process::network() != Some(network.load(Ordering::Acquire)) {
            network.store(MIXED, Ordering::SeqCst);
        }
        self.is_mixed()
    }

    /// Whether participants may be of several network namespaces.
    pub(in crate::shm) fn is_mixed(&self) -> bool {
        self.changing().network.load(Ordering::Acquire) == MIXED
    }

    /// The directory that the file lies in. `None` if it has no name, or none that this process can
    /// tell. An error if it has nothing left to look with: then it can ask again.
    pub(in crate::shm) fn directory(&self) -> Result<Option<&Path>, Errno> {
        let is_there = |path: &Path| match has_name(path, self.inode) {
            Err(errno) if sys::file::is_exhausted(errno) => Err(errno),
            found => Ok(found == Ok(true)),
        };
        let find = || {
            let given = self.path().and_then(|path| std::path::absolute(path).ok());
            // Of one that came by a descriptor the kernel knows the name that it was opened by.
            for path in given.into_iter().chain(sys::file::name(self.file())) {
                if is_there(&path)? {
                    return Ok(Some(name::parent(&path).to_owned()));
                }
            }
            Ok(None)
        };
        if let Some(known) = self.directory.get() {
            return Ok(known.as_deref());
        }
        sys::fork::held_off(|_| {
            let found = find()?;
            Ok(self.directory.get_or_init(|| found).as_deref())
        })
    }

    fn open_guard(&self) -> Result<()> {
        let (shift, range) = (PageSize::system().shift(), self.region.addresses());
        let opened = self.guarded.open(&range, shift, CloneBy::best(true, false), Stores::Shared);
        opened.map_err(|why| why.error("attach", self.subject()))?;
        self.guards.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Notes what this process is a participant by. While no thread forks.
    fn record_membership(&self, owner: Owner, lease: OwnFd, token: u64) {
        self.note_network(lease.as_fd());
        self.owner.store(owner.word(), Ordering::Relaxed);
        // The descriptor in the parent's field is closed in this process.
        *self.lease.lock() = Some(lease);
        self.process.store(token, Ordering::Release);
    }

    /// Whether the file holds another segment than when its header was read, or a stale one. With a
    /// slot in hand the answer stays true.
    fn is_past(&self) -> bool {
        is_outdated(self.file(), &self.facts)
    }

    /// Whether the file holds another segment than when its header was read.
    fn is_another(&self) -> bool {
        matches!(read_header(self.file()), Ok(Ok((facts, _))) if facts.id != self.facts.id)
    }

    /// Whether this is a forked child's copy of the contents before the file was recreated, as
    /// `header_fields`.
    fn is_stale(&self, facts: &HeaderFields) -> bool {
        self.facts.id != facts.id && self.process.load(Ordering::Acquire) != sys::identity::token()
    }

    /// Whether the segment had a name that goes with its last user, and has none any more.
    fn name_is_gone(&self) -> bool {
        self.facts.lifetime == Lifetime::WhileUsed
            && self.name.get().is_some()
            && rustix::fs::fstat(self.file()).is_ok_and(|stat| stat.st_nlink == 0)
    }

    #[cold]
    fn name_gone(&self) -> Error {
        Error::rule_as(
            Errno::NOENT,
            "attach",
            self.subject(),
            "all processes that had it open have left before this forked child first used it, and its name went with them",
            "call `check` in the child at once, while its parent has the segment; or open it anew",
        )
    }

    /// Notes that the segment has this name, which goes away with its last participant if that is
    /// its lifetime.
    pub(crate) fn note_name(&self, path: &Path) {
        let (path, name) = (path.to_owned(), path.to_owned());
        sys::fork::held_off(|_| {
            let _ = (self.path.set(path), self.name.set(name));
        });
    }

    #[cold]
    fn cannot_join(&self, no_slot: &NoSlot) -> Error {
        match no_slot {
            NoSlot::Full => Error::rule_as(
                Errno::USERS,
                "attach",
                self.subject(),
                format!("a segment has room for {SLOTS} processes, and as many use it"),
                "end one of them (`folio shm ls` names them)",
            ),
            NoSlot::Barred => Error::rule_as(
                Errno::BUSY,
                "attach",
                self.subject(),
                "a process holds all slots of the segment, as if to remove it, and does not let go",
                "end that process (the lock shows in /proc/PID/fdinfo of its descriptor)",
            ),
            NoSlot::Past => self.name_gone(),
            NoSlot::Failed(errno) => Error::kernel("fcntl", *errno, self.subject()),
        }
    }

    /// Makes the segment `length` bytes long, if it is shorter. Everyone sees the new bytes, which
    /// are zeros, at once.
    pub(crate) fn grow(&self, length: usize) -> Result<()> {
        // A file that was cut short would be as long as before again, and its bytes zeros.
        self.check_file()?;
        let subject = || self.subject().with_length(length);
        if length as u64 > self.facts.reserve {
            return Err(Error::rule(
                "grow",
                subject(),
                format!("the segment was made to hold at most {} bytes", self.facts.reserve),
                "make it with a larger reserve, which costs addresses and no memory",
            ));
        }
        let now = self.len();
        if length > now {
            // The process that published the present length gave it its space.
            let start = self.facts.data_at;
            allocate(self.file(), start + now as u64..start + length as u64, &subject())?;
            let changing = self.changing();
            changing.length.fetch_max(length as u64, Ordering::AcqRel);
            changing.growths.fetch_add(1, Ordering::AcqRel);
        }
        Ok(())
    }

    /// How often the segment has grown.
    pub(crate) fn growths(&self) -> u32 {
        self.changing().growths.load(Ordering::Acquire)
    }

    /// Makes a segment of a new file that has no name that matters. Nobody else sees it yet; its
    /// bytes are zeros.
    pub(crate) fn create(
        file: OwnedFd,
        path: Option<PathBuf>,
        contents: &SegmentContents<'_>,
        reserve: u64,
        lifetime: Lifetime,
    ) -> Result<Arc<Self>> {
        let subject = path.as_ref().map_or_else(
            || Subject::file(file.as_fd()),
            |path| Subject::named(path.display().to_string()),
        );
        let subject = subject.with_length(contents.length as usize);
        let facts = new_facts(contents, reserve, lifetime, &subject)?;
        allocate(file.as_fd(), 0..facts.data_at + contents.length, &subject)?;
        write(file.as_fd(), &facts.to_bytes(contents.length), &subject)?;
        let fresh = Arc::new(Self::map(file, path, facts)?);
        fresh.join()?;
        fresh.register();
        Ok(fresh)
    }

    /// Makes a segment of a stale one whose name this process may not take away, in the same file.
    /// `None` if it is not stale any more. Until it is [published](Self::publish) nobody else can
    /// come, and a visitor finds a stale segment, which it is if this process is killed.
    pub(crate) fn recreate_in_place(
        file: OwnedFd,
        path: &Path,
        contents: &SegmentContents<'_>,
        reserve: u64,
        lifetime: Lifetime,
    ) -> Result<Option<Arc<Self>>> {
        let opened = sys::fork::held_off(|forks| {
            crate::shm::sys::unnamed_file::reopen(file.as_fd())
                .map(|fd| forks.keep_from_children(fd))
        });
        let subject = || Subject::named(path.display().to_string());
        let lease = opened.map_err(|errno| super::by_descriptor("open", errno, subject()))?;
        match Self::rebuild(lease.as_fd(), file, path, contents, reserve, lifetime) {
            Ok(Some(fresh)) => {
                sys::signal::ensure();
                sys::fork::held_off(|_| {
                    let token = sys::identity::token();
                    fresh.open_guard()?;
                    fresh.maker.store(token, Ordering::Relaxed);
                    fresh.record_membership(participant::claim_locked(fresh.slots()), lease, token);
                    Ok::<_, Error>(())
                })?;
                let fresh = Arc::new(fresh);
                fresh.register();
                Ok(Some(fresh))
            }
            // The bar ends with its description.
            other => {
                sys::fork::held_off(|forks| forks.close(lease));
                other.map(|_| None)
            }
        }
    }

    /// All of [`recreate_in_place`](Self::recreate_in_place) that can fail: `lease` is to bar
    /// everybody, and then the file is recreated.
    fn rebuild(
        lease: BorrowedFd<'_>,
        file: OwnedFd,
        path: &Path,
        contents: &SegmentContents<'_>,
        reserve: u64,
        duration: Lifetime,
    ) -> Result<Option<Self>> {
        let subject =
            Subject::named(path.display().to_string()).with_length(contents.length as usize);
        let failed = |call| {
            let subject = subject.clone();
            move |errno| Error::kernel(call, errno, subject)
        };
        if !participant::lock_all(lease).map_err(failed("fcntl"))? {
            return Ok(None);
        }
        // From here on it grows no more.
        let status = sys::file::status(lease).map_err(failed("fstat"))?;
        if !has_name(path, (status.device, status.inode)).map_err(failed("open"))?
            || lifetime(lease).map_err(failed("pread"))? != Some(Lifetime::WhileUsed)
        {
            return Ok(None);
        }
        let facts = new_facts(contents, reserve, duration, &subject)?;
        let end = facts.data_at + contents.length;
        // From here on it is a stale segment to everyone, whatever else is written and wherever
        // this ends.
        say_gone(lease).map_err(failed("pwrite"))?;
        sys::file::zero_behind(lease, SLOTS_AT as u64, status.size).map_err(failed("fallocate"))?;
        allocate(lease, 0..end, &subject)?;
        let mut head = [0; SLOTS_AT];
        let bytes = facts.to_bytes(contents.length);
        head[..bytes.len()].copy_from_slice(&bytes);
        head[STATE_AT..STATE_AT + 4].copy_from_slice(&GONE.to_ne_bytes());
        write(lease, &head, &subject)?;
        Self::map(file, Some(path.to_owned()), facts).map(Some)
    }

    /// Lets the others find what [`recreate_in_place`](Self::recreate_in_place) made.
    pub(crate) fn publish(&self, name: &Path) -> Result<()> {
        if self.process.load(Ordering::Acquire) == sys::identity::token() {
            // This process's slot stays taken meanwhile. A process that comes before the state says
            // so finds a stale segment, and goes.
            self.admit_others().map_err(|errno| Error::kernel("fcntl", errno, self.subject()))?;
            self.changing().state.store(READY, Ordering::Release);
            self.maker.store(0, Ordering::Relaxed);
        } else {
            // A child that was forked while it was made.
            self.check()?;
        }
        self.note_name(name);
        Ok(())
    }

    /// Gives up the segment that [`recreate_in_place`](Self::recreate_in_place) made.
    pub(crate) fn give_up(&self) {
        if self.process.load(Ordering::Acquire) == sys::identity::token() {
            self.maker.store(0, Ordering::Relaxed);
            let _ = self.admit_others();
        }
    }

    fn admit_others(&self) -> Result<(), Errno> {
        sys::fork::held_off(|_| match &*self.lease.lock() {
            Some(lease) => participant::admit_others(lease.as_fd()),
            None => Ok(()),
        })
    }

    /// Attaches to a segment that exists, if it has the right contents. `None` if it is stale, or
    /// has become another one meanwhile.
    pub(crate) fn open(
        call: &'static str,
        file: OwnedFd,
        path: Option<PathBuf>,
        contents: &SegmentContents<'_>,
    ) -> Result<Option<Arc<Self>>> {
        let subject = || {
            path.as_ref().map_or_else(
                || Subject::file(file.as_fd()),
                |path| Subject::named(path.display().to_string()),
            )
        };
        let header =
            read_header(file.as_fd()).map_err(|errno| Error::kernel("pread", errno, subject()))?;
        let (facts, length) = match header {
            Err(flaw) if flaw.is_gone => return Ok(None),
            header => header.map_err(|flaw| no_segment(call, subject(), path.as_deref(), &flaw))?,
        };
        compare(call, subject, &facts, length, contents)?;
        Self::attach(file, path, facts)
    }

    /// The process's one attachment to a file that holds `header_fields`; `None` if it does not any
    /// more.
    fn attach(
        file: OwnedFd,
        path: Option<PathBuf>,
        facts: HeaderFields,
    ) -> Result<Option<Arc<Self>>> {
        let inode = inode_of(file.as_fd())?;
        let found = sys::fork::held_off(|_| ALL.lock().get(&inode).and_then(Weak::upgrade));
        if let Some(found) = found.filter(|found| !found.is_stale(&facts)) {
            match found.agreed(&facts) {
                Err(_) if is_outdated(found.file(), &facts) => return Ok(None),
                agreed => agreed?,
            }
            if let Some(path) = path {
                // It may have come by a descriptor.
                sys::fork::held_off(|_| drop(found.path.set(path)));
            }
            return Ok(Some(found));
        }
        let fresh = Arc::new(Self::map(file, path, facts)?);
        if let Err(error) = fresh.join() {
            return if fresh.is_past() { Ok(None) } else { Err(error) };
        }
        // Another thread may have been first: then this one's participant leaves again.
        match fresh.register() {
            Some(first) => first.agreed(&fresh.facts).map(|()| Some(first)),
            None => Ok(Some(fresh)),
        }
    }

    /// Maps a file that holds `header_fields`.
    fn map(file: OwnedFd, path: Option<PathBuf>, facts: HeaderFields) -> Result<Self> {
        let inode = inode_of(file.as_fd())?;
        let page = PageSize::system();
        let end =
            usize::try_from(facts.data_at + facts.reserve).ok().and_then(|end| page.ceil(end));
        let Some(len) = end else { return Err(too_large("attach", Subject::file(file.as_fd()))) };
        let region = Region::create(&Request {
            len,
            page,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::SHARED,
            fd: Some(file.as_fd()),
            offset: 0,
            place: Placement::Anywhere,
        })?;
        Ok(Self {
            file,
            inode,
            region,
            facts,
            path: path.map_or_else(OnceLock::new, OnceLock::from),
            name: OnceLock::new(),
            follows_name: AtomicBool::new(false),
            directory: OnceLock::new(),
            guarded: Guarded::default(),
            guards: AtomicUsize::new(0),
            process: AtomicU64::new(0),
            owner: AtomicU64::new(Owner::NOBODY.word()),
            maker: AtomicU64::new(0),
            lease: ForkMutex::with(None),
            notifier: ForkMutex::with(None),
            parks: AtomicU64::new(0),
        })
    }

    /// Makes this the process's attachment to its file, or returns the one that is.
    fn register(self: &Arc<Self>) -> Option<Arc<Self>> {
        let (first, mine) = sys::fork::held_off(|_| {
            let mut all = ALL.lock();
            let first = all.get(&self.inode).and_then(Weak::upgrade);
            let mine = first.as_ref().is_none_or(|first| first.is_stale(&self.facts));
            if mine {
                all.insert(self.inode, Arc::downgrade(self));
            }
            (first, mine)
        });
        first.filter(|_| !mine)
    }

    /// Whether this attachment fits a caller that has read `header_fields` in the file: its map was
    /// made for the header of that time.
    fn agreed(&self, facts: &HeaderFields) -> Result<()> {
        self.check()?;
        if self.facts == *facts {
            return Ok(());
        }
        Err(Error::rule_as(
            Errno::UCLEAN,
            "attach",
            self.subject(),
            "a process changed its header while this one has it open",
            "find that process, and make the segment anew",
        ))
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let mine = self.process.load(Ordering::Acquire) == sys::identity::token();
        let this: *const Self = self;
        match sys::fork::held_off(|_| self.notifier.lock().take()) {
            Some(notifier) if notifier.is_mine() => notifier.end(),
            parents => std::mem::forget(parents),
        }
        sys::fork::held_off(|forks| {
            let mut all = ALL.lock();
            if all.get(&self.inode).is_some_and(|other| std::ptr::eq(other.as_ptr(), this)) {
                all.remove(&self.inode);
            }
            drop(all);
            let lease = self.lease.lock().take();
            if let Some(lease) = lease.filter(|_| mine) {
                let owner =
                    Owner::in_word(self.owner.load(Ordering::Relaxed)).unwrap_or(Owner::NOBODY);
                participant::leave(lease.as_fd(), self.slots(), owner);
                if let Some(name) = self.name.get()
                    && self.facts.lifetime == Lifetime::WhileUsed
                {
                    // Somebody may have made another segment of the same file since this process
                    // left.
                    let judge = || {
                        Ok(if self.is_another() {
                            MembershipVerdict::Stays
                        } else {
                            MembershipVerdict::Stale
                        })
                    };
                    let _ = retire(lease.as_fd(), name, self.inode, judge);
                }
                forks.close(lease);
            }
        });
        for _ in 0..self.guards.load(Ordering::Relaxed) {
            self.guarded.close(&self.region.addresses());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Attachment, Lifetime, MembershipVerdict, SegmentContents, Subject, retire};
    use super::{compare, inode_of, new_facts};
    use crate::shm::segment::anonymous;
    use crate::shm::segment::header::SegmentKind;
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;
    use std::sync::Arc;

    const NUMBERS: SegmentContents<'static> = SegmentContents {
        kind: SegmentKind::Elements,
        fingerprint: 1,
        type_name: "u64",
        element: 8,
        length: 8,
    };

    /// A segment that is to go with its last user, who does not know its name.
    fn nameless(path: &Path) -> Arc<Attachment> {
        let file =
            std::fs::File::options().read(true).write(true).create_new(true).open(path).unwrap();
        Attachment::create(OwnedFd::from(file), None, &NUMBERS, 8, Lifetime::WhileUsed).unwrap()
    }

    #[test]
    fn a_peers_type_name_reaches_no_terminal_unescaped() {
        let evil = SegmentContents {
            type_name: "Vec\u{1b}]0;owned\u{7}\u{202e}",
            fingerprint: 2,
            ..NUMBERS
        };
        let facts = new_facts(&evil, 8, Lifetime::Kept, &Subject::named("peer")).unwrap();
        let error = compare("open", || Subject::named("peer"), &facts, 8, &NUMBERS).unwrap_err();
        for text in [error.to_string(), error.call_error().unwrap().rule().to_owned()] {
            assert!(text.contains(r"`Vec\u{1b}]0;owned\u{7}\u{202e}`"), "{text:?}");
            assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
        }
    }

    #[test]
    fn what_grows_while_it_is_asked_whether_it_was_cut_short_was_not() {
        const GROWTHS: usize = 20_000;
        let segment = anonymous(&NUMBERS, 1 << 28).unwrap();
        std::thread::scope(|scope| {
            let grower =
                scope.spawn(|| (1..=GROWTHS).for_each(|times| segment.grow(times * 4096).unwrap()));
            while !grower.is_finished() {
                segment.check_file().expect("nobody cut it short");
            }
        });
        assert_eq!(segment.len(), GROWTHS * 4096);
    }

    #[test]
    fn a_process_without_a_spare_descriptor_can_name_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let segment = nameless(&dir.path().join("folio.name"));
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the kernel reads the limit; the child has one thread, and ends by a system call.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                let is_limited = libc::setrlimit(libc::RLIMIT_NOFILE, &raw const none) == 0;
                let is_told = segment.directory() == Ok(Some(dir.path()));
                libc::_exit(i32::from(!(is_limited && is_told)));
            }
            let mut status = 0;
            assert_eq!((libc::waitpid(child, &raw mut status, 0), status), (child, 0));
        }
    }

    #[test]
    fn a_name_is_taken_from_its_file_only_and_when_nobody_is_at_it() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("folio.name"), dir.path().join("folio.other"));
        let segment = nameless(&path);
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let inode = inode_of(file.as_fd()).unwrap();
        // In use: it is not even asked.
        assert_eq!(retire(file.as_fd(), &path, inode, || unreachable!()), Ok(false));
        drop(segment);
        assert_eq!(retire(file.as_fd(), &path, inode, || Ok(MembershipVerdict::Stays)), Ok(false));
        // Something else has the name by now.
        drop(nameless(&other));
        std::fs::rename(&other, &path).unwrap();
        assert_eq!(retire(file.as_fd(), &path, inode, || unreachable!()), Ok(false));
        assert!(path.exists());
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let inode = inode_of(file.as_fd()).unwrap();
        assert_eq!(retire(file.as_fd(), &path, inode, || Ok(MembershipVerdict::Goes)), Ok(true));
        assert!(!path.exists());
    }
}
