//! The pager engine: mmap's mechanism in user space. It maps any [`Source`] as plain memory, within
//! a budget.
//!
//! | file | subject |
//! | --- | --- |
//! | [`core`] | the mind: page states, readahead, replacement, write-back. No I/O, no clock, no `unsafe` |
//! | [`driver`] | the driver: one thread that owns a core, and does what it wants |
//! | [`store`] | where resident pages live, and how they enter and leave a map |
//! | [`disk`] | local files: io_uring, or threads |
//! | [`answers`] | what a source says of itself, asked on the thread that maps it |
//! | [`handover`] | all other sources: threads that call them, and their versions |
//! | [`inbox`] | what other threads ask of the driver |
//! | [`mailbox`] | the inbox's queue, and how its reader sleeps |
//! | [`pressure`] | the machine's memory pressure |
//! | [`records`] | hashes of pages that left memory |
//! | [`hash_file`] | the file for hashes that memory has no room for |
//! | [`lease`] | an object that is mapped, and the calls of its handles |
//! | [`exclusive`] | one writing pager a file, among all processes |
//! | [`conflict`] | whether someone else writes to an object |
//! | [`merge`] | byte-exact write-back |
//! | [`at_exit`] | dirty pages are written when the program ends |
//! | [`working_set`] | the pages that a program used, to be prefetched the next time |
//! | [`features`] | what the kernel offers, and what of it is used |

mod at_exit;
pub(crate) mod command;
pub(crate) mod core;
mod driver;
mod fault_source;
mod features;
mod file_io;
mod foreign_writes;
mod handles;
mod hash_file;
mod merge;
pub(crate) mod object;
mod page_hashes;
mod pressure;
mod source_calls;
mod source_facts;
mod stats;
mod store;
mod sys;
mod wake_queue;
mod working_set;
mod writer_lock;

/// The base of [`wake_queue`]: its model has others.
mod atomics {
    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
}

pub use features::{Capability, Delivery, Report};
pub use handles::{Paged, PagedMut, PagedShared, Pinned, PinnedMut, PinnedShared};
pub use stats::Stats;
pub use working_set::WorkingSet;

use crate::advice::Pattern;
use crate::error::{Errno, Error, Result, Subject};
use crate::pager::sys::uffd::Uffd;
use crate::source::Source;
use crate::sys::identity;
use command::{Command, CommandQueue};
use features::{Asker, Choice, Features, Masks, Probe};
use object::MappedObject;
use source_facts::Purpose;
use std::path::PathBuf;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How many threads call one source at once, by default.
const SOURCE_THREADS: usize = 16;

/// The least budget: 4 MiB.
const LEAST: usize = 4 << 20;

/// Maps [sources](crate::source) as memory, and keeps no more of them in memory than its budget.
///
/// One thread of the pager's own serves the faults of all its maps. Clones are the same pager; it
/// ends when the last clone and the last map are gone.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("data");
/// # std::fs::write(&path, vec![7_u8; 100_000])?;
/// use folio::{Pager, source::LocalFile};
///
/// let pager = Pager::builder().budget(64 << 20).build()?;
/// let map = pager.map(LocalFile::open(&path)?)?;
/// assert_eq!(map[99_999], 7); // a page fault, served by the pager
/// # Ok(())
/// # }
/// ```
///
/// Source: userfaultfd(2).
#[doc(alias = "userfaultfd")]
#[derive(Debug, Clone)]
pub struct Pager {
    inner: Arc<Inner>,
}

/// The state that all clones of a pager, and all its maps, share.
pub(crate) struct Inner {
    pub(crate) inbox: Arc<CommandQueue>,
    budget: AtomicUsize,
    /// Writable maps of files that could not be locked, and the last refusal.
    locks_refused: AtomicU64,
    lock_errno: AtomicI32,
    process: u64,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("budget", &self.budget).finish_non_exhaustive()
    }
}

impl Inner {
    /// The budget in bytes.
    pub(crate) fn budget(&self) -> usize {
        self.budget.load(Ordering::Relaxed)
    }

    /// A number that no other pager of the process has as long as this one lives.
    fn number(&self) -> u64 {
        std::ptr::from_ref(self).addr() as u64
    }

    /// Whether this is the process that made the pager: a forked child has no thread that serves
    /// it.
    pub(crate) fn is_owner_process(&self) -> bool {
        self.process == identity::token()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if self.is_owner_process() {
            self.inbox.send(Command::Close);
        }
    }
}

/// Options of a [`Pager`].
#[derive(Debug, Clone)]
#[must_use = "build() makes the pager"]
pub struct Builder {
    budget: usize,
    dirty_age: Duration,
    spill_dir: PathBuf,
    pressure: bool,
    source_threads: usize,
    merges: bool,
    features: String,
    delivery: String,
    name: String,
}

impl Builder {
    /// Bytes of memory for pages and the pager's records of them, 4 MiB at least. 256 MiB unless
    /// told.
    ///
    /// The pager uses no more than three quarters of the least limit among the memory cgroups of
    /// the process (4 MiB at least), as it is when the budget is set: [`Pager::budget`] tells. The
    /// rest is for the program.
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// After how long what was stored is written back in the background. 5 seconds by default.
    pub fn write_back_after(mut self, age: Duration) -> Self {
        self.dirty_age = age;
        self
    }

    /// Where private pages go that do not fit into the budget: to a file without a name in this
    /// directory. `/var/tmp` by default.
    pub fn spill_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.spill_dir = dir.into();
        self
    }

    /// How many threads may call one source at once, at least one. 16 by default. Threads start
    /// when there is something to call, go from source to source, and end when there is nothing for
    /// some seconds; each source has this limit for itself, so sources that block, or read through
    /// another map of this pager, never wait for each other. Files of local file systems and bytes
    /// in memory need none.
    pub fn source_threads(mut self, threads: usize) -> Self {
        self.source_threads = threads;
        self
    }

    /// Whether to use less than the budget while the process's cgroup is short of memory, or the
    /// machine, where the group has no file of its own for that (pressure stall information, as far
    /// as the kernel has it and lets this process watch it): three quarters at each sign of it, and
    /// by steps the whole again. No by default.
    pub fn shrink_under_pressure(mut self, shrink: bool) -> Self {
        self.pressure = shrink;
        self
    }

    /// Whether only the bytes that were stored are written back, and no others of their pages. No
    /// by default.
    ///
    /// The pager then keeps each dirty page a second time as it was before (in the budget), and
    /// writes where the two differ: a byte that was stored as it was is not written. So others can
    /// write to other bytes of the same pages with write(2) or by kernel maps, and a change of the
    /// source's version is no error of `sync`. Pages in memory do not show what others write. A
    /// page with many changes apart from each other takes as many writes.
    pub fn merge_stores(mut self, merge: bool) -> Self {
        self.merges = merge;
        self
    }

    /// Leaves features of the kernel out, as `FOLIO_FEATURES` does: `"-move,-poison"`. Each of them
    /// has a second way. `folio doctor` lists the words.
    pub fn features(mut self, mask: &str) -> Self {
        mask.clone_into(&mut self.features);
        self
    }

    /// Has faults delivered in this way and no other, as `FOLIO_DELIVERY` does: `"uffd"` (the best
    /// of the next three), `"syscall"`, `"device"`, `"user-mode-only"` or `"signal"`.
    pub fn delivery(mut self, way: &str) -> Self {
        way.clone_into(&mut self.delivery);
        self
    }

    /// Starts the pager.
    ///
    /// # Errors
    ///
    /// EINVAL if the budget is less than 4 MiB, or a feature or delivery is not known or not there;
    /// EPERM or ENOSYS where the kernel allows no userfaultfd; EAGAIN if no thread can be started.
    pub fn build(self) -> Result<Pager> {
        let subject = || Subject::named("a pager").with_length(self.budget);
        check_budget(self.budget)?;
        let budget = affordable(self.budget);
        let refused = |errno| Error::kernel("userfaultfd", errno, subject());
        let masks = Masks::from_environment()?;
        let asked = Masks::parse(Asker::Builder, &self.features, &self.delivery)?;
        let forced = asked.forced.or(masks.forced);
        let choice = Choice::make(Probe::machine(), masks.features | asked.features, forced)?;
        let uffd = match choice.delivery.way() {
            Some(way) => {
                let uffd = Uffd::open(way).map_err(refused)?;
                uffd.handshake(choice.handshake()).map_err(refused)?;
                Some(Arc::new(uffd))
            }
            None => None,
        };
        let inbox = Arc::new(CommandQueue::new().map_err(refused)?);
        let config = driver::Config {
            budget,
            dirty_age: self.dirty_age,
            uffd,
            moves: choice.private_store_moves,
            marks: choice.features.contains(Features::POISON),
            huge: choice.features.contains(Features::HUGE),
            ring: choice.features.contains(Features::IO_URING),
            tracks: choice.written_delivery.way().is_some(),
            shares: choice.shared_delivery.way().is_some(),
            spill_dir: self.spill_dir,
            pressure: self.pressure,
            source_threads: self.source_threads,
            merges: self.merges,
        };
        let driver = driver::Driver::new(config, Arc::clone(&inbox));
        if crate::sys::thread::start(&self.name, move || serve(driver)).is_err() {
            return Err(Error::kernel("clone", Errno::AGAIN, Subject::named("a pager's thread")));
        }
        let inner = Inner {
            inbox,
            budget: budget.into(),
            locks_refused: AtomicU64::new(0),
            lock_errno: AtomicI32::new(0),
            process: identity::token(),
        };
        Ok(Pager { inner: Arc::new(inner) })
    }
}

/// Runs the driver. It must not end early: the kernel would show zeros for missing pages once the
/// userfaultfd is closed.
fn serve(driver: driver::Driver) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| driver.run())).is_err() {
        crate::sys::say(format_args!(
            "the pager's thread has panicked: its maps cannot be served any more"
        ));
        std::process::abort();
    }
}

/// As much of a budget as the process's memory cgroups leave room for.
fn affordable(budget: usize) -> usize {
    let limit = crate::sys::cgroup::Groups::now().memory_limit();
    let share =
        limit.map_or(usize::MAX, |limit| usize::try_from(limit / 4 * 3).unwrap_or(usize::MAX));
    budget.min(share.max(LEAST))
}

fn check_budget(bytes: usize) -> Result<()> {
    if bytes >= LEAST {
        return Ok(());
    }
    let rule = "a budget below 4 MiB leaves no room to read and evict at once";
    Err(Error::rule(
        "pager",
        Subject::named("a pager").with_length(bytes),
        rule,
        "give it 4 MiB or more",
    ))
}

impl Pager {
    /// Options for a pager of one's own.
    pub fn builder() -> Builder {
        Builder {
            budget: 256 << 20,
            dirty_age: Duration::from_secs(5),
            spill_dir: PathBuf::from("/var/tmp"),
            pressure: false,
            source_threads: SOURCE_THREADS,
            merges: false,
            features: String::new(),
            delivery: String::new(),
            name: "folio-pager".to_owned(),
        }
    }

    /// The pager of the whole program, with the default options; made when it is first asked for.
    ///
    /// # Errors
    ///
    /// Those of [`Builder::build`]; it is tried again the next time.
    pub fn global() -> Result<&'static Pager> {
        static GLOBAL: OnceLock<Pager> = OnceLock::new();
        if let Some(pager) = GLOBAL.get() {
            return Ok(pager);
        }
        let pager = Self::builder().build()?;
        Ok(GLOBAL.get_or_init(|| pager))
    }

    /// Maps a source for reading. Any number of read-only maps of one source share their pages.
    ///
    /// The pages are not locked by mlockall(2) with MCL_FUTURE, whatever is mapped. mlockall with
    /// MCL_CURRENT reads all of every map, and gives memory to all of a shared one.
    ///
    /// The map shows the version that the source has now: if the source changes, pages that were
    /// not read yet are errors. Of a [`LocalFile`](crate::source::LocalFile) each page is stable by
    /// itself, unless it asks for one version.
    ///
    /// # Errors
    ///
    /// The source's errors for its length and version; EAGAIN if its version changes meanwhile;
    /// EBUSY while the source is mapped writable by any pager of this process (the call waits for a
    /// map whose last handle is being dropped; a thread that calls a source does not wait); ENOMEM
    /// for addresses. A panic of the source in an answer is an error, too.
    pub fn map(&self, source: impl Source) -> Result<Paged> {
        MappedObject::open(&self.inner, Arc::new(source), Purpose::Read, Pattern::Normal)
            .map(Paged::new)
    }

    /// Maps a source for reading and writing, for one handle alone. Stored bytes reach the source
    /// some time later ([`Builder::write_back_after`], or when memory is needed), with
    /// [`PagedMut::sync`], and at the latest when the map is closed or dropped.
    ///
    /// **The end of the program.** exit(3), and so the end of `main`, writes the dirty pages of all
    /// maps that still exist, and waits for 10 seconds at most. It does so after the functions of
    /// atexit(3) that the program registered since its first writable map. An exit in a thread that
    /// calls a source, and one in a forked child, write nothing for the map. Unwritten bytes are
    /// lost when a signal kills the process (`kill -9`), and with `_exit`, `abort` and exec: only
    /// [`PagedMut::sync`] is safe from these.
    ///
    /// **Other pagers.** Whole pages are written back. So a local file is locked against the
    /// writable maps of pagers in other processes: an exclusive lock of an open file description
    /// (fcntl(2)) on its byte 2^61. The lock stops neither write(2) nor the kernel's maps, nor
    /// read-only maps. [`Stats::locks_refused`] counts the files that could not be locked.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map); EBUSY while the source is mapped at all by a pager of this
    /// process, or writable by one of another process ([`FileMapMut`](crate::FileMapMut) shares a
    /// file among processes), or while a write of its last map has not ended; EMFILE without a
    /// descriptor for the lock; EACCES if it cannot be written.
    pub fn map_mut(&self, source: impl Source) -> Result<PagedMut> {
        MappedObject::open(&self.inner, Arc::new(source), Purpose::Write, Pattern::Normal)
            .map(PagedMut::new)
    }

    /// Maps a source copy-on-write: stored bytes never reach the source. Stored pages that do not
    /// fit into the budget go to an unlinked file ([`Builder::spill_dir`]).
    ///
    /// Which bytes of a changed source it shows, [`map`](Self::map) says; a page that was stored to
    /// is the map's own.
    ///
    /// # Errors
    ///
    /// As for [`map`](Self::map), but it may be mapped otherwise too.
    pub fn map_private(&self, source: impl Source) -> Result<PagedMut> {
        MappedObject::open(&self.inner, Arc::new(source), Purpose::Private, Pattern::Normal)
            .map(PagedMut::new)
    }

    /// Maps a source for many writable handles: they see each other's stores at once, through
    /// volatile views.
    ///
    /// # Errors
    ///
    /// As for [`map_mut`](Self::map_mut), but it may be mapped shared already.
    pub fn map_shared(&self, source: impl Source) -> Result<PagedShared> {
        MappedObject::open(&self.inner, Arc::new(source), Purpose::Shared, Pattern::Normal)
            .map(PagedShared::new)
    }

    /// The pager's counts so far, and the pages that are in memory now.
    ///
    /// # Errors
    ///
    /// ECHILD in a forked child, which has no pager.
    pub fn stats(&self) -> Result<Stats> {
        self.inner.check_owner_process("stats")?;
        let mut stats = self.inner.inbox.ask(Command::Stats).ok_or_else(ended)?;
        stats.locks_refused = self.inner.locks_refused.load(Ordering::Relaxed);
        let errno = self.inner.lock_errno.load(Ordering::Relaxed);
        stats.lock_refusal = (errno != 0).then_some(errno);
        Ok(stats)
    }

    /// The budget in bytes: less than was asked for where the process's memory cgroup allows less
    /// ([`Builder::budget`]).
    pub fn budget(&self) -> usize {
        self.inner.budget()
    }

    /// Sets the budget, or as much of it as [`Builder::budget`] would. When it is lowered, pages
    /// leave memory until it is kept: soon, and dirty ones after they were written.
    ///
    /// # Errors
    ///
    /// EINVAL below 4 MiB; ECHILD in a forked child.
    pub fn set_budget(&self, bytes: usize) -> Result<()> {
        self.inner.check_owner_process("set_budget")?;
        check_budget(bytes)?;
        let bytes = affordable(bytes);
        self.inner.budget.store(bytes, Ordering::Relaxed);
        self.inner.inbox.send(Command::SetBudget(bytes));
        Ok(())
    }
}

impl Inner {
    /// An error in a forked child.
    pub(crate) fn check_owner_process(&self, call: &'static str) -> Result<()> {
        if self.is_owner_process() {
            return Ok(());
        }
        Err(Error::rule_as(
            Errno::CHILD,
            call,
            Subject::named("a pager of the parent process"),
            "a pager and its maps are not inherited across fork",
            "make a pager in the child",
        ))
    }
}

pub(crate) fn ended() -> Error {
    Error::rule_as(
        Errno::PIPE,
        "pager",
        Subject::named("a pager"),
        "the pager's thread has ended",
        "see what it said when it panicked, and report it",
    )
}
