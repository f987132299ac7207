//! A process's attachment to a segment: the map, the party, and whether both are still good. One for each process and
//! segment; all handles share it.
//!
//! A forked child has the map, but is no party: its first use makes it one ([`Attachment::check`]). The lock of its parent's
//! party it does not have ([`crate::sys::fork`]).

use super::header::{
    Changing, FIXED, Facts, Flaw, Kind, LOST, Lifetime, READY, SLOTS, SLOTS_AT, Slot, data_at, short_name,
};
use super::owner::Owner;
use super::party::{self, NoSlot};
use super::party_bell::PartyBell;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Place, Region, Request};
use crate::sys;
use crate::sys::fork::OwnFd;
use crate::sys::gate::Gate;
use crate::sys::replace::Guarded;
use crate::sys::replaced::CloneBy;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock, Weak};

/// What is to lie in a segment that is made, or must lie in one that is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Contents<'a> {
    pub(crate) kind: Kind,
    pub(crate) fingerprint: u64,
    pub(crate) type_name: &'a str,
    /// Bytes of an element; of a value, its size.
    pub(crate) element: u64,
    /// Bytes of data: at the start, or at least.
    pub(crate) length: u64,
}

/// A file, whatever its names.
type Inode = ((u32, u32), u64);

/// The attachments of this process. Changed while no thread forks only, so that a child finds it whole.
static ALL: Gate<BTreeMap<Inode, Weak<Attachment>>> = Gate::with(BTreeMap::new());

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Attachment {
    /// The file, by a description that holds no lock: forked children keep it.
    file: OwnedFd,
    inode: Inode,
    region: Region,
    facts: Facts,
    /// How the file is called. Set while no thread forks only.
    path: OnceLock<PathBuf>,
    /// The name that goes with the last party, once the segment is known to have it. Set while no thread forks only.
    name: OnceLock<PathBuf>,
    guarded: Guarded,
    /// How often the guard was opened: once in each process, from the first one to this.
    guards: AtomicUsize,
    /// The process whose party this is, and the party.
    process: AtomicU64,
    owner: AtomicU64,
    /// What holds the party's lock. Touched while no thread forks only.
    lease: Gate<Option<OwnFd>>,
    /// What wakes the futures of the process whose it is. Set while no thread forks only.
    bell: Gate<Option<Arc<PartyBell>>>,
    /// How often threads of this process have parked here.
    pub(super) parks: AtomicU64,
}

// A panic cuts nothing of it in two: what changes does so by atomics, or under a lock that no panic can leave.
impl std::panic::UnwindSafe for Attachment {}
impl std::panic::RefUnwindSafe for Attachment {}

impl Attachment {
    /// The first byte of the data. All of the reserve is mapped behind it; pages beyond [`len`](Self::len) do not exist yet.
    pub(crate) fn base(&self) -> *mut u8 {
        self.region.as_ptr().wrapping_add(self.facts.data_at as usize)
    }

    /// Bytes of data now. Grows, when any process grows the segment; never more than the reserve that is mapped.
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

    pub(crate) fn facts(&self) -> &Facts {
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
    pub(crate) fn addresses(&self) -> std::ops::Range<usize> {
        self.region.addresses()
    }

    fn changing(&self) -> &Changing {
        // SAFETY: inside the map, aligned, atomics only, and mapped for as long as `self` is.
        unsafe { &*self.region.as_ptr().add(FIXED).cast::<Changing>() }
    }

    pub(super) fn slots(&self) -> &[Slot; SLOTS] {
        // SAFETY: as above.
        unsafe { &*self.region.as_ptr().add(SLOTS_AT).cast::<[Slot; SLOTS]>() }
    }

    /// Slots from here on have never had a bell.
    pub(super) fn bells(&self) -> &AtomicU32 {
        &self.changing().bells
    }

    /// This process's bell for the segment, made if there is none.
    pub(super) fn bell(&self) -> Result<Arc<PartyBell>> {
        let found = || self.bell.lock().as_ref().filter(|bell| bell.is_mine()).map(Arc::clone);
        if let Some(bell) = found() {
            return Ok(bell);
        }
        let fresh = Arc::new(PartyBell::new(self)?);
        Ok(sys::fork::held_off(|_| {
            // Another thread may have been first.
            found().unwrap_or_else(|| {
                // What a forked child has of its parent's is left as it is.
                std::mem::forget(self.bell.lock().replace(Arc::clone(&fresh)));
                Arc::clone(&fresh)
            })
        }))
    }

    /// Whether the segment can be used: by this process (a forked child becomes a party of its own here), and with nothing of
    /// it lost. A few loads.
    ///
    /// # Errors
    ///
    /// EIO if a process truncated the segment; those of becoming a party.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        let here = self.process.load(Ordering::Acquire) == sys::identity::token();
        if here && self.is_whole() { Ok(()) } else { self.check_closely() }
    }

    /// The half of [`check`](Self::check) that goes before an access: this process is a party, and a page that is gone becomes zeros in
    /// it, and no signal.
    #[inline]
    pub(super) fn attend(&self) -> Result<()> {
        if self.process.load(Ordering::Acquire) == sys::identity::token() { Ok(()) } else { self.join() }
    }

    /// The half of [`check`](Self::check) that tells after an access of how it went: whether nothing of the segment is lost.
    #[inline]
    pub(super) fn check_whole(&self) -> Result<()> {
        // What was loaded comes before the look.
        fence(Ordering::Acquire);
        if self.is_whole() { Ok(()) } else { self.check_closely() }
    }

    /// [`check`](Self::check), and what a lock is taken with: the party, and the number of this process.
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
        // The load goes first: where the header's own page is gone, it is what finds out.
        let state = self.changing().state.load(Ordering::Relaxed);
        state == READY && self.guarded.epoch() & 1 == 0
    }

    #[cold]
    fn check_closely(&self) -> Result<()> {
        self.join()?;
        if self.is_whole() {
            return Ok(());
        }
        // For the others, if there is still a header that they can see.
        self.changing().state.store(LOST, Ordering::Relaxed);
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

    /// As [`check`](Self::check), and asks the kernel whether the file is as long as it should be. For those who wait, and have
    /// the time.
    pub(crate) fn check_file(&self) -> Result<()> {
        self.check()?;
        // Who grows it lengthens the file first, and says so then. What is lost stays lost: it is asked twice.
        if self.is_cut_short() && self.is_cut_short() {
            self.changing().state.store(LOST, Ordering::Relaxed);
        }
        self.check()
    }

    /// Whether the file is shorter than the header says: the header is looked at first, for files of segments only grow.
    fn is_cut_short(&self) -> bool {
        let wanted = self.facts.data_at + self.len() as u64;
        sys::file::status(self.file()).is_ok_and(|status| status.size < wanted)
    }

    /// This process's party. In a forked child that cannot become one it is nobody; [`check`](Self::check) says why.
    #[inline]
    pub(crate) fn me(&self) -> Owner {
        if self.process.load(Ordering::Acquire) != sys::identity::token() && self.join().is_err() {
            return Owner::NOBODY;
        }
        Owner::in_word(self.owner.load(Ordering::Relaxed)).unwrap_or(Owner::NOBODY)
    }

    /// Whether a party still has the segment open. What no party ever was is not alive. The kernel is asked, unless it is
    /// this process's own.
    pub(crate) fn is_alive(&self, owner: Owner) -> bool {
        let Some(slot) = owner.slot() else { return false };
        if owner == self.me() {
            return true;
        }
        // A kernel that cannot answer takes nobody's lock away.
        self.slots()[slot].generation.load(Ordering::Acquire) == owner.generation()
            && party::is_taken(self.file(), slot).unwrap_or(true)
    }

    /// How errors name the segment.
    pub(crate) fn subject(&self) -> Subject {
        match self.path() {
            Some(path) => Subject::named(path.display().to_string()),
            None => Subject::file(self.file()),
        }
    }

    /// Makes this process a party, unless it is one.
    fn join(&self) -> Result<()> {
        sys::signal::ensure();
        sys::fork::held_off(|forks| {
            let token = sys::identity::token();
            if self.process.load(Ordering::Acquire) == token {
                return Ok(());
            }
            let fd = sys::naming::reopen(self.file())
                .map_err(|errno| Error::kernel("open", errno, self.subject()))?;
            let lease = forks.keep_from_children(fd);
            let shift = PageSize::system().shift();
            self.guarded.open(&self.region.addresses(), shift, CloneBy::best(true, false));
            self.guards.fetch_add(1, Ordering::Relaxed);
            match party::claim(lease.as_fd(), self.slots()) {
                // A child that comes late. With a slot in hand, as in opening: from here on nobody takes the name away.
                Ok(owner) if self.name_is_gone() => {
                    party::leave(lease.as_fd(), self.slots(), owner);
                    forks.close(lease);
                    Err(self.name_gone())
                }
                Ok(owner) => {
                    self.owner.store(owner.word(), Ordering::Relaxed);
                    // What the parent's field named is closed in this process.
                    *self.lease.lock() = Some(lease);
                    self.process.store(token, Ordering::Release);
                    Ok(())
                }
                Err(no_slot) => {
                    forks.close(lease);
                    Err(self.cannot_join(&no_slot))
                }
            }
        })
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

    /// Notes that the segment has this name, which goes away with its last party if that is its lifetime.
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
            NoSlot::Failed(errno) => Error::kernel("fcntl", *errno, self.subject()),
        }
    }

    /// Makes the segment `length` bytes long, if it is shorter. Everyone sees the new bytes, which are zeros, at once.
    pub(crate) fn grow(&self, length: usize) -> Result<()> {
        self.check()?;
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
            let end = self.facts.data_at + length as u64;
            allocate(self.file(), end, &subject())?;
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

    /// Makes a segment of a new file that has no name that matters. Nobody else sees it yet; its bytes are zeros.
    pub(crate) fn create(
        file: OwnedFd,
        path: Option<PathBuf>,
        contents: &Contents<'_>,
        reserve: u64,
        lifetime: Lifetime,
    ) -> Result<Arc<Self>> {
        let facts = Facts {
            kind: contents.kind,
            lifetime,
            fingerprint: contents.fingerprint,
            id: super::random(),
            data_at: data_at(PageSize::system().bytes()),
            reserve: reserve.max(contents.length).max(1),
            element: contents.element,
            type_name: short_name(contents.type_name).to_owned(),
        };
        let subject = path
            .as_ref()
            .map_or_else(|| Subject::file(file.as_fd()), |path| Subject::named(path.display().to_string()));
        let subject = subject.with_length(contents.length as usize);
        if facts.reserve > 1 << 56 {
            return Err(too_large("create", subject));
        }
        allocate(file.as_fd(), facts.data_at + contents.length, &subject)?;
        let bytes = facts.to_bytes(contents.length);
        match rustix::io::pwrite(&file, &bytes, 0) {
            Ok(count) if count == bytes.len() => {}
            result => {
                return Err(Error::kernel("pwrite", result.err().unwrap_or(Errno::NOSPC), subject));
            }
        }
        Self::attach(file, path, facts)
    }

    /// Attaches to a segment that exists, if it holds what it should.
    pub(crate) fn open(
        call: &'static str,
        file: OwnedFd,
        path: Option<PathBuf>,
        contents: &Contents<'_>,
    ) -> Result<Arc<Self>> {
        let subject = || {
            path.as_ref().map_or_else(
                || Subject::file(file.as_fd()),
                |path| Subject::named(path.display().to_string()),
            )
        };
        let (facts, length) = read_header(file.as_fd())
            .map_err(|errno| Error::kernel("pread", errno, subject()))?
            .map_err(|flaw| no_segment(call, subject(), &flaw))?;
        compare(call, subject, &facts, length, contents)?;
        Self::attach(file, path, facts)
    }

    /// The process's one attachment to a file.
    fn attach(file: OwnedFd, path: Option<PathBuf>, facts: Facts) -> Result<Arc<Self>> {
        let subject = Subject::file(file.as_fd());
        let status = sys::file::status(file.as_fd())
            .map_err(|errno| Error::kernel("fstat", errno, subject.clone()))?;
        let inode = (status.device, status.inode);
        let page = PageSize::system();
        let found = sys::fork::held_off(|_| ALL.lock().get(&inode).and_then(Weak::upgrade));
        if let Some(found) = found {
            let found = found.agreed(&facts)?;
            if let Some(path) = path {
                // It may have come by a descriptor.
                sys::fork::held_off(|_| drop(found.path.set(path)));
            }
            return Ok(found);
        }
        let end = usize::try_from(facts.data_at + facts.reserve).ok().and_then(|end| page.ceil(end));
        let Some(len) = end else { return Err(too_large("attach", subject)) };
        let region = Region::create(&Request {
            len,
            page,
            prot: Prot::READ | Prot::WRITE,
            flags: MapFlags::SHARED,
            fd: Some(file.as_fd()),
            offset: 0,
            place: Place::Anywhere,
        })?;
        let fresh = Arc::new(Self {
            file,
            inode,
            region,
            facts,
            path: path.map_or_else(OnceLock::new, OnceLock::from),
            name: OnceLock::new(),
            guarded: Guarded::default(),
            guards: AtomicUsize::new(0),
            process: AtomicU64::new(0),
            owner: AtomicU64::new(Owner::NOBODY.word()),
            lease: Gate::with(None),
            bell: Gate::with(None),
            parks: AtomicU64::new(0),
        });
        fresh.join()?;
        // Another thread may have been first: then this one's party leaves again.
        let first = sys::fork::held_off(|_| {
            let mut all = ALL.lock();
            let first = all.get(&inode).and_then(Weak::upgrade);
            if first.is_none() {
                all.insert(inode, Arc::downgrade(&fresh));
            }
            first
        });
        match first {
            Some(first) => first.agreed(&fresh.facts),
            None => Ok(fresh),
        }
    }

    /// This attachment, for who has read `facts` in the file: its map was made by what the header said then.
    fn agreed(self: Arc<Self>, facts: &Facts) -> Result<Arc<Self>> {
        self.check()?;
        if self.facts == *facts {
            return Ok(self);
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
        match sys::fork::held_off(|_| self.bell.lock().take()) {
            Some(bell) if bell.is_mine() => bell.end(),
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
                let owner = Owner::in_word(self.owner.load(Ordering::Relaxed)).unwrap_or(Owner::NOBODY);
                party::leave(lease.as_fd(), self.slots(), owner);
                if let Some(name) = self.name.get()
                    && self.facts.lifetime == Lifetime::WhileUsed
                {
                    let _ = retire(lease.as_fd(), name, self.inode, || Ok(true));
                }
                forks.close(lease);
            }
        });
        for _ in 0..self.guards.load(Ordering::Relaxed) {
            self.guarded.close(&self.region.addresses());
        }
    }
}

/// Takes a segment's name away if nobody has it open, and `judge` says, when nobody can come any more, that it is to go. Whether
/// it did.
pub(super) fn retire(
    fd: BorrowedFd<'_>,
    path: &Path,
    inode: Inode,
    judge: impl FnOnce() -> Result<bool, Errno>,
) -> Result<bool, Errno> {
    if !party::bar(fd)? {
        return Ok(false);
    }
    // While it is barred nobody else takes the name from this file.
    let named = sys::file::find(path).and_then(|found| sys::file::status(found.as_fd()));
    let result = match named {
        Ok(status) if (status.device, status.inode) == inode => match judge() {
            Ok(true) => rustix::fs::unlink(path).map(|()| true),
            other => other,
        },
        Ok(_) | Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    };
    party::unbar(fd);
    result
}

/// When a file's name goes away, if it is a segment, or was one before pages of it went away.
pub(super) fn lifetime(fd: BorrowedFd<'_>) -> Result<Option<Lifetime>, Errno> {
    Ok(read_header(fd)?.map_or_else(|flaw| flaw.lifetime, |(facts, _)| Some(facts.lifetime)))
}

/// Reads and checks a file's header. The outer error is the kernel's.
pub(super) fn read_header(fd: BorrowedFd<'_>) -> Result<Result<(Facts, u64), Flaw>, Errno> {
    let mut bytes = [0; FIXED + size_of::<Changing>()];
    let count = rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut bytes, 0))?;
    // In this order: a segment that grows meanwhile has a longer file before its header says so.
    let size = sys::file::status(fd)?.size;
    Ok(Facts::parse(&bytes[..count], size, PageSize::system().bytes()))
}

/// Gives a file space up to `end`, and makes it that long. A full file system is an error here, and never a signal later.
fn allocate(file: BorrowedFd<'_>, end: u64, subject: &Subject) -> Result<()> {
    let flags = rustix::fs::FallocateFlags::empty();
    let errno = match rustix::io::retry_on_intr(|| rustix::fs::fallocate(file, flags, 0, end)) {
        Ok(()) => return Ok(()),
        Err(errno) => errno,
    };
    if !matches!(errno, Errno::NOSPC | Errno::DQUOT) {
        return Err(Error::kernel("fallocate", errno, subject.clone()));
    }
    let free = rustix::fs::fstatvfs(file).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    let free = free.map_or_else(|_| "an unknown number of".to_owned(), |free| free.to_string());
    Err(Error::rule_as(
        errno,
        "fallocate",
        subject.clone(),
        format!("its file system has {free} bytes free, and {end} are needed in all"),
        "make it smaller, free space there (`folio shm gc`), or give it more (a container's /dev/shm has 64 MB by default: --shm-size)",
    ))
}

fn too_large(call: &'static str, subject: Subject) -> Error {
    let rule = "the segment and its reserve must fit into the process's addresses";
    Error::rule(call, subject, rule, "ask for a smaller reserve")
}

#[cold]
fn no_segment(call: &'static str, subject: Subject, flaw: &Flaw) -> Error {
    let errno = if flaw.field == "layout version" { Errno::INVAL } else { Errno::UCLEAN };
    let remedy = match flaw.field {
        "layout version" => "use the same version of folio in all programs, or remove it (`folio shm rm`)",
        _ => "remove it (`folio shm rm`), and let the programs make it anew",
    };
    Error::rule_as(errno, call, subject, format!("it is no segment that can be used: {flaw}"), remedy)
}

/// Whether a segment holds what is wanted.
fn compare(
    call: &'static str,
    subject: impl Fn() -> Subject,
    facts: &Facts,
    length: u64,
    wanted: &Contents<'_>,
) -> Result<()> {
    let Contents { kind, fingerprint, type_name, element, length: least } = *wanted;
    let refuse = |rule: String| {
        let remedy = "build both programs with the same type, or use another name";
        Err(Error::rule(call, subject(), rule, remedy))
    };
    if facts.kind != kind {
        return refuse(format!("it holds {}, and {kind} is asked for", facts.kind));
    }
    let of = |name: &str, bytes: u64, print: u64| format!("`{name}` ({bytes} bytes, layout {print:016x})");
    if (facts.fingerprint, facts.element) != (fingerprint, element) {
        let there = of(&facts.type_name, facts.element, facts.fingerprint);
        let asked = of(type_name, element, fingerprint);
        return refuse(format!("it holds {there}, and {asked} is asked for"));
    }
    if length < least {
        return refuse(format!("it has {length} bytes of data, and {least} are asked for"));
    }
    Ok(())
}
