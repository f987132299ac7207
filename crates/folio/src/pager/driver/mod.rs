//! The driver: one thread that owns a core, its objects and their pages. It reads faults, performs
//! the core's actions, and tells it how they ended.

mod evict;
mod faults;
mod io;
mod perform;
mod wait;

use super::command::{Command, CommandQueue, CommandResult, NewObject};
use super::core::int_hash::IntMap;
use super::core::{
    Backing, Core, CoreEvent, ExtentId, FailureReason, Limits, ObjectId, ObjectTraits, PageRun,
    Ticket,
};
use super::fault_source::FaultSource;
use super::file_io::FileIo;
use super::foreign_writes::ForeignWrites;
use super::hash_file::{HashFile, unnamed_file};
use super::merge::PreImages;
use super::page_hashes::{PageHashes, Secret};
use super::pressure::Pressure;
use super::source_calls::{SourceBatch, SourceCaller};
use super::source_facts::{SourceAccess, VersionRule};
use super::stats::Stats;
use super::store::{self, AnonStore, BufferSlot, MemfdStore, MprotectStore, Pool, Store};
use crate::pager::sys::discard::Discarder;
use crate::pager::sys::sigsegv_faults::{CELLS, SigsegvFaults};
use crate::pager::sys::uffd::Uffd;
use crate::source::file::stamp::{Settling, Stamp};
use crate::source::{ChangedVersion, LocalFile, Version};
use crate::sys::{Errno, process};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

mod hashes;

/// How often time is told to the core while something waits for it.
const TICK: Duration = Duration::from_millis(20);
/// The longest wait that nothing ends.
const IDLE: Duration = Duration::from_secs(1);
/// The place of memory pressure among what is watched.
const PRESSURE: usize = 3;
/// The least run where faults are signals: 64 KiB.
const TRAPPED_RUN: usize = 64 << 10;

/// The parts that make a driver.
#[allow(clippy::struct_excessive_bools, reason = "independent features of the machine")]
pub(crate) struct Config {
    pub(crate) budget: usize,
    pub(crate) dirty_age: Duration,
    /// `None`: all faults come as signals.
    pub(crate) uffd: Option<Arc<Uffd>>,
    pub(crate) moves: bool,
    /// UFFDIO_POISON is there.
    pub(crate) marks: bool,
    pub(crate) huge: bool,
    /// Stores to private memory can be watched.
    pub(crate) tracks: bool,
    /// Shared memory can be watched.
    pub(crate) shares: bool,
    pub(crate) ring: bool,
    pub(crate) spill_dir: std::path::PathBuf,
    /// Give memory back when the machine is short of it.
    pub(crate) pressure: bool,
    /// Threads that may call one source at once.
    pub(crate) source_threads: usize,
    /// Write the stored bytes only.
    pub(crate) merges: bool,
}

struct DriverObject {
    store: Store,
    caller: SourceCaller,
    reach: SourceAccess,
    len: u64,
    shows: VersionRule,
    records: PageHashes,
    spill: Option<Arc<LocalFile>>,
    /// Writes that wait for `spill`, which a thread makes.
    awaiting: Vec<Operation>,
    hash_file: HashFile,
    /// Reads that wait for a leaf of hashes, by leaf.
    unjudged: Vec<(u64, Operation)>,
    /// The last handle is gone: the program sees no page any more.
    leaving: bool,
    /// Stores to it are watched.
    tracked: bool,
    /// A read-only map of bytes that cannot change: nothing has to be remembered of its pages.
    constant: bool,
    /// Set where the source's version shows writes.
    guard: Option<ForeignWrites<Operation>>,
    /// The end of the last write, which is told once the version is known.
    late: Option<(ExtentId, OperationKind, Result<(), FailureReason>)>,
    /// Set where only the stored bytes are written.
    images: Option<PreImages>,
    /// The claim that keeps others from the source, once no handle does.
    held: Option<Box<dyn Send>>,
}

impl DriverObject {
    /// The source, if the driver reads and writes it itself.
    fn file(&self) -> Option<&Arc<LocalFile>> {
        match &self.reach {
            SourceAccess::File(file) => Some(file),
            _ => None,
        }
    }

    /// A run's bytes where the source has them in memory for good, if it can be put into the map
    /// from there.
    fn in_source(&self, run: PageRun, page: usize) -> Option<BufferSlot> {
        let SourceAccess::Bytes(address, len) = self.reach else { return None };
        let start = run.first as usize * page;
        let inside = start + run.len as usize * page <= len;
        (inside && self.store.copies(run_of(run)))
            .then(|| BufferSlot::of_source(address + start, run.len as usize))
    }
}

/// The buffers of extents, by number.
#[derive(Default)]
struct OperationTable(Vec<Option<BufferSlot>>);

impl OperationTable {
    fn insert(&mut self, extent: ExtentId, slot: BufferSlot) {
        let at = extent.0 as usize;
        if self.0.capacity() <= at {
            // An eighth more at a time: records count against the budget.
            self.0.reserve_exact((at + 1 - self.0.len()).max(1024).max(self.0.len() / 8));
        }
        if self.0.len() <= at {
            self.0.resize_with(at + 1, || None);
        }
        self.0[at] = Some(slot);
    }

    fn remove(&mut self, extent: ExtentId) -> Option<BufferSlot> {
        self.0.get_mut(extent.0 as usize)?.take()
    }

    fn get(&self, extent: ExtentId) -> Option<&BufferSlot> {
        self.0.get(extent.0 as usize)?.as_ref()
    }

    fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Option<BufferSlot>>()
    }
}

/// A run that is to leave its map.
struct PendingEviction {
    extent: ExtentId,
    object: ObjectId,
    run: PageRun,
    wanted: bool,
}

/// An operation under way.
struct Operation {
    extent: ExtentId,
    object: ObjectId,
    kind: OperationKind,
    /// Where the buffer is, how much of it is asked for, and how much of that is done.
    buffer: *mut u8,
    offset: u64,
    len: usize,
    done: usize,
    run: PageRun,
    backing: Backing,
    /// Open until the operation has ended, whatever the source does meanwhile.
    file: Option<Arc<LocalFile>>,
    /// Of a read of a file whose pages are stable: how often it was made.
    settling: Option<Settling>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OperationKind {
    Read,
    Write,
    Flush,
}

pub(crate) struct Driver {
    core: Core,
    config: Config,
    pool: Pool,
    objects: IntMap<ObjectId, DriverObject>,
    /// Objects by address.
    areas: BTreeMap<usize, (usize, ObjectId)>,
    /// Where faults come from: userfaultfd, signals, or both.
    deliveries: Vec<FaultSource>,
    slots: OperationTable,
    /// The memory that the hashes of pages take.
    hash_bytes: usize,
    /// When hashes could not be moved to a file last.
    shed_failed: Option<Instant>,
    /// Since then hashes take more than their part of the budget.
    hashes_over: Option<Instant>,
    hashes_refused: u64,
    hash_refusal: Option<i32>,
    /// Runs that are to leave their maps together.
    departing: Vec<PendingEviction>,
    discarder: Discarder,
    ops: IntMap<u64, Operation>,
    /// Operations that the disk has ended, to be dealt with.
    completed: Vec<(u64, std::io::Result<usize>)>,
    /// The stamps of files that were asked for since those operations ended.
    stamps: IntMap<ObjectId, Stamp>,
    batches: IntMap<ObjectId, SourceBatch>,
    replies: IntMap<Ticket, SyncSender<CommandResult>>,
    inbox: Arc<CommandQueue>,
    disk: FileIo,
    secret: Secret,
    page: usize,
    /// VMAs that runs may take: half of the process's limit.
    most_areas: usize,
    next: u64,
    started: Instant,
    ticked: Instant,
    pressure: Option<Pressure>,
    /// Which deliveries may have faults to take.
    due: [bool; 2],
    /// Operations that were started in the last turn were not given to the kernel then.
    held_back: bool,
    /// When the deliveries were last looked at without a sign.
    slept: Instant,
    closing: bool,
    /// Pre-images were kept that the core does not count yet.
    imaged: bool,
}

// SAFETY: the pointers in operations are to buffers of this driver, which moves to its thread
// before it has any.
unsafe impl Send for Driver {}

impl Driver {
    pub(crate) fn new(config: Config, inbox: Arc<CommandQueue>) -> Self {
        let page = rustix::param::page_size();
        let limits = Limits {
            budget: (config.budget / page) as u64,
            dirty_age: micros(config.dirty_age),
            page,
        };
        let mover = config.uffd.clone().filter(|_| config.moves);
        let now = Instant::now();
        Self {
            core: Core::new(limits),
            pool: Pool::new(2 * config.budget + (64 << 20), mover, config.huge),
            objects: IntMap::default(),
            areas: BTreeMap::new(),
            deliveries: config
                .uffd
                .iter()
                .map(|uffd| FaultSource::Uffd(Arc::clone(uffd)))
                .collect(),
            slots: OperationTable::default(),
            hash_bytes: 0,
            shed_failed: None,
            hashes_over: None,
            hashes_refused: 0,
            hash_refusal: None,
            departing: Vec::new(),
            discarder: Discarder::new(),
            ops: IntMap::default(),
            completed: Vec::new(),
            stamps: IntMap::default(),
            batches: IntMap::default(),
            replies: IntMap::default(),
            disk: FileIo::new(config.ring, &inbox),
            inbox,
            secret: Secret::draw(),
            page,
            most_areas: process::sysctl("vm/max_map_count")
                .map_or(32_000, |most| most as usize / 2),
            next: 0,
            started: now,
            ticked: now,
            pressure: if config.pressure { Pressure::watch(config.budget) } else { None },
            due: [true; 2],
            held_back: false,
            slept: now,
            closing: false,
            imaged: false,
            config,
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Serves until the pager is dropped and nothing is left.
    pub(crate) fn run(mut self) {
        let mut messages = Vec::new();
        while !(self.closing && self.objects.is_empty() && self.ops.is_empty()) {
            self.core.set_now(self.now());
            // A read that starts now needs a stamp of now: an older one would make it look torn.
            self.stamps.clear();
            while let Some(done) = self.disk.completed() {
                self.completed.push(done);
            }
            match self.disk.fired() {
                Some(fired) => self.note_ready(fired),
                // Nobody tells.
                None => self.due = [true; 2],
            }
            let mut busy = self.take_faults();
            self.inbox.take(&mut messages);
            // All that has ended by now is checked against one stamp.
            self.stamps.clear();
            busy |= !messages.is_empty() || !self.completed.is_empty();
            for message in messages.drain(..) {
                self.command(message);
            }
            let mut completed = std::mem::take(&mut self.completed);
            for (id, result) in completed.drain(..) {
                self.ended(id, result);
            }
            self.completed = completed;
            if self.ticked.elapsed() >= TICK && self.core.wants_ticks() {
                self.ticked = Instant::now();
                let now = self.now();
                self.event(CoreEvent::Tick { now });
            }
            if self.core.paused() {
                self.core.set_now(self.now());
                self.event(CoreEvent::GoOn);
                busy = true;
            }
            self.adapt_to_pressure();
            self.limit_vma_count();
            busy |= self.queue_eviction();
            self.dispatch_requests();
            if busy {
                // The wait hands over started operations, too: one call less, if there is nothing
                // else to do.
                if std::mem::replace(&mut self.held_back, true) {
                    self.submit();
                }
            } else {
                self.held_back = false;
                self.sleep();
            }
        }
    }

    /// Follows the machine's memory: less of the budget under pressure, more when it is over.
    fn adapt_to_pressure(&mut self) {
        let budget =
            self.pressure.as_mut().and_then(|pressure| pressure.change(self.config.budget));
        if let Some(budget) = budget {
            self.event(CoreEvent::Budget { pages: (budget / self.page) as u64 });
            self.pool.trim(usize::MAX);
        }
    }

    fn event(&mut self, event: CoreEvent) {
        self.core.handle(event);
        while let Some(action) = self.core.next_action() {
            if let Some(event) = self.perform(action) {
                self.core.handle(event);
            }
            if std::mem::take(&mut self.imaged) {
                self.keep_budget();
                // Pages leave for the pre-images.
                self.core.handle(CoreEvent::Relieve { extents: 0 });
            }
        }
    }

    /// The faults that come as signals.
    fn sigsegv_cells(&mut self) -> Result<&SigsegvFaults, Errno> {
        let there =
            self.deliveries.iter().position(|delivery| matches!(delivery, FaultSource::Signal(_)));
        let at = if let Some(at) = there {
            at
        } else {
            let mut queue = SigsegvFaults::new(CELLS)?;
            // Tells it which thread serves: this one must never wait for itself.
            let _ = queue.take(&mut Vec::new());
            self.deliveries.push(FaultSource::Signal(queue));
            self.deliveries.len() - 1
        };
        match &self.deliveries[at] {
            FaultSource::Signal(queue) => Ok(queue),
            FaultSource::Uffd(_) => Err(Errno::INVAL),
        }
    }

    fn command(&mut self, message: Command) {
        match message {
            Command::Attach(new, reply) => {
                let _ = reply.send(self.attach(*new));
            }
            Command::Tell(event) => self.event(event),
            Command::Detach { object, held } => {
                if let Some(this) = self.objects.get_mut(&object) {
                    (this.held, this.leaving) = (held, true);
                }
                self.event(CoreEvent::Detach { object });
                self.end_unjudged(object);
            }
            Command::Ask(make, reply) => {
                self.next += 1;
                let ticket = Ticket(self.next);
                self.replies.insert(ticket, reply);
                self.event(make(ticket));
            }
            Command::Resized { object, len, done } => {
                let pages = len.div_ceil(self.page as u64);
                if let Some(object) = self.objects.get_mut(&object) {
                    object.len = len;
                    object.records.forget_from(pages.saturating_sub(1));
                    if let Some(guard) = &mut object.guard {
                        guard.resizing(false);
                    }
                }
                self.event(CoreEvent::Resized { object, pages });
                let _ = done.send(Ok(()));
            }
            Command::Resizing { object, on } => {
                if let Some(guard) =
                    self.objects.get_mut(&object).and_then(|object| object.guard.as_mut())
                {
                    guard.resizing(on);
                }
            }
            Command::Looked { object, version } => {
                self.version_checked(object, version.map_err(|error| reason_of(&error)));
            }
            Command::Stats(reply) => {
                let _ = reply.send(self.stats());
            }
            Command::SetBudget(bytes) => {
                self.config.budget = bytes;
                self.event(CoreEvent::Budget { pages: (bytes / self.page) as u64 });
                self.keep_budget();
            }
            Command::Recording(object, reply) => {
                let runs = self.core.take_recording(object);
                let _ = reply.send(runs.into_iter().map(|run| (run.first, run.end())).collect());
            }
            Command::Resident(object, reply) => {
                let runs = self
                    .core
                    .resident(object)
                    .into_iter()
                    .map(|run| (run.first, run.end()))
                    .collect();
                let _ = reply.send(runs);
            }
            Command::Ended { id, result } => self.ended(id, result),
            Command::SpillMade { object, file } => self.spill_made(object, file),
            Command::LeavesWritten { object, leaves, result } => {
                self.leaves_written(object, &leaves, &result);
            }
            Command::LeafLoaded { object, leaf, bytes } => self.leaf_loaded(object, leaf, bytes),
            Command::Close => self.closing = true,
        }
    }

    fn attach(&mut self, new: NewObject) -> Result<(ObjectId, usize), Errno> {
        // An empty source has an address, too.
        let pages = (new.reserve.max(new.len)).div_ceil(self.page as u64).max(1) as usize;
        let name = new.name;
        // Where this kernel's userfaultfd cannot report such accesses, they are signals.
        let told = match (new.shared, new.tracked) {
            (true, _) => self.config.shares,
            (false, tracked) => !tracked || self.config.tracks,
        };
        let store = match self.config.uffd.clone().filter(|_| told) {
            Some(uffd) if new.shared => {
                Store::Memfd(MemfdStore::new(&name, pages, uffd, new.tracked)?)
            }
            Some(uffd) => {
                let Config { moves, huge, .. } = self.config;
                Store::Private(AnonStore::new(&name, pages, uffd, new.tracked, moves, huge)?)
            }
            None => Store::Trapped(MprotectStore::new(
                &name,
                pages,
                self.sigsegv_cells()?,
                new.tracked,
            )?),
        };
        let trapped = matches!(store, Store::Trapped(_));
        self.next += 1;
        let id = ObjectId(self.next as u32);
        let address = store.address();
        // A run is an area of its own there.
        let least = if trapped { TRAPPED_RUN } else { self.page };
        let block = new.block.clamp(least, store::CHUNK * self.page).next_power_of_two();
        let traits = ObjectTraits {
            tracked: new.tracked,
            private: new.private,
            shares_buffer: store.shares_buffer(),
            block: (block / self.page) as u32,
            cut: (least / self.page) as u32,
            deadline: micros(new.deadline).max(1),
        };
        // As far as the store reaches: a fault behind the last page has to end, too.
        self.areas.insert(address, (pages.next_multiple_of(store::CHUNK) * self.page, id));
        let constant =
            !new.tracked && matches!(new.reach, SourceAccess::Zeros | SourceAccess::Bytes(..));
        let records = PageHashes::new(self.secret, self.page);
        let most = self.config.source_threads;
        let merges = self.config.merges && new.tracked && !new.private;
        let object = DriverObject {
            store,
            caller: SourceCaller::new(new.source, &new.reach, new.shows, most, &self.inbox),
            reach: new.reach,
            len: new.len,
            shows: new.shows,
            records,
            spill: None,
            awaiting: Vec::new(),
            hash_file: HashFile::new(id, &self.inbox),
            unjudged: Vec::new(),
            leaving: false,
            tracked: new.tracked,
            constant,
            guard: new.stamp.filter(|_| !merges).map(ForeignWrites::new),
            late: None,
            images: merges.then(|| PreImages::new(self.page)),
            held: None,
        };
        self.objects.insert(id, object);
        self.event(CoreEvent::Attach {
            object: id,
            pages: new.len.div_ceil(self.page as u64),
            traits,
        });
        self.event(CoreEvent::Advise { object: id, pattern: new.pattern });
        Ok((id, address))
    }

    fn stats(&self) -> Stats {
        let counts = self.core.counts();
        let page = self.page as u64;
        Stats {
            faults_missing: counts.faults_missing,
            faults_soft: counts.faults_soft,
            faults_write: counts.faults_write,
            faults_spurious: counts.faults_spurious,
            reads: counts.reads,
            pages_read: counts.pages_read,
            readahead_pages: counts.ahead_read,
            readahead_used: counts.ahead_used,
            readahead_wasted: counts.ahead_wasted,
            pages_prefetched: counts.pages_prefetched,
            pages_evicted: counts.pages_evicted,
            writes: counts.writes,
            pages_written: counts.pages_written,
            pages_spilled: counts.pages_spilled,
            read_errors: counts.read_errors,
            write_errors: counts.write_errors,
            faults_failed: counts.poisoned,
            resident_bytes: self.core.used() * page,
            dirty_bytes: self.core.dirty() * page,
            pinned_bytes: self.core.pinned() * page,
            record_bytes: self.core.record_bytes() as u64,
            budget: self.config.budget as u64,
            hashes_refused: self.hashes_refused,
            hash_refusal: self.hash_refusal,
            locks_refused: 0,
            lock_refusal: None,
            latency: *self.core.latency(),
        }
    }
}

fn reason_of(error: &std::io::Error) -> FailureReason {
    if error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<ChangedVersion>) {
        return FailureReason::Changed;
    }
    FailureReason::Source { message: error.to_string().into(), errno: error.raw_os_error() }
}

/// When a local file was written last. It is asked for at once: only files whose times the kernel
/// itself keeps are looked at, and that does not block.
fn object_stamp(file: Option<&LocalFile>) -> Option<Result<Version, FailureReason>> {
    file.map(|file| file.stamp().map(Stamp::content).map_err(|error| reason_of(&error)))
}

/// A time in microseconds. The longest is far from the end of the numbers: the core adds a moment
/// to it.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(u64::MAX / 4)
}

fn run_of(run: PageRun) -> store::SlotRun {
    store::SlotRun { first: run.first as usize, pages: run.len as usize }
}

/// Whether an operation that was refused with EINVAL may go by the page cache instead.
fn gave_up_direct(op: &Operation) -> bool {
    op.file.as_ref().is_some_and(|file| file.stop_direct())
}

/// One for private pages, as long as the map may become.
fn spill_file(dir: &std::path::Path, len: u64) -> std::io::Result<LocalFile> {
    let file = unnamed_file(dir)?;
    file.set_len(len)?;
    LocalFile::from_file(file)
}
