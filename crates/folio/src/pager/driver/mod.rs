//! The driver: one thread that owns a core, its objects and their pages. It reads faults, performs
//! the core's actions, and tells it how they ended.

use super::command::{Command, CommandQueue, CommandResult, NewObject};
use super::core::int_hash::IntMap;
use super::core::{
    Backing, Core, CoreAction, CoreEvent, ExtentId, FailureReason, Limits, ObjectId, ObjectTraits,
    PageRun, Stability, StoreAccess, Ticket,
};
use super::fault_source::FaultSource;
use super::file_io::{FileIo, FileOperation, WATCHED};
use super::foreign_writes::{Admission, ForeignWrites};
use super::hash_file::{HashFile, unnamed_file};
use super::merge::{PreImages, WriteParts};
use super::page_hashes::{PageHashes, Secret};
use super::pressure::Pressure;
use super::source_calls::{SourceBatch, SourceCaller};
use super::source_facts::{SourceAccess, VersionRule};
use super::stats::Stats;
use super::store::{self, AnonStore, BufferSlot, MemfdStore, MprotectStore, Pool, Store};
use crate::pager::sys::discard::Discarder;
use crate::pager::sys::sigsegv_faults::{CELLS, SigsegvFaults};
use crate::pager::sys::uffd::Uffd;
use crate::source::file::stamp::{ReadVerdict, Settling, Stamp};
use crate::source::request::{FlushRequest, ReadRequest, Sink, WriteRequest};
use crate::source::{ChangedVersion, LocalFile, Version};
use crate::sys::{Errno, process};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, RawFd};
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
    completed: Vec<(u64, io::Result<usize>)>,
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

    /// Gives started operations to the kernel. The kernel takes an operation that it refuses now
    /// with the next.
    fn submit(&mut self) {
        let _ = self.disk.submit();
        self.held_back = false;
    }

    /// Notes which descriptors have something, by their places in
    /// [`watched_fds`](Self::watched_fds).
    fn note_ready(&mut self, fired: [bool; WATCHED]) {
        for (due, fired) in self.due.iter_mut().zip(fired) {
            *due |= fired;
        }
        if fired[PRESSURE]
            && let Some(pressure) = &mut self.pressure
        {
            pressure.felt();
        }
    }

    /// The descriptors that the driver waits for beside its operations, and their events.
    fn watched_fds(&self) -> [(RawFd, i16); WATCHED] {
        let delivery =
            |n: usize| self.deliveries.get(n).map_or(-1, |delivery| delivery.poll_fd().as_raw_fd());
        let pressure = self.pressure.as_ref().map_or(-1, Pressure::poll_fd);
        let bell = self.inbox.signal().as_raw_fd();
        [
            (delivery(0), libc::POLLIN),
            (delivery(1), libc::POLLIN),
            (bell, libc::POLLIN),
            (pressure, libc::POLLPRI),
        ]
    }

    /// Waits for a fault, a message, or the end of an operation.
    fn sleep(&mut self) {
        if !self.inbox.may_sleep() {
            return self.submit();
        }
        let shrunk = self.pressure.as_ref().is_some_and(Pressure::is_shrunk);
        let timeout = match (self.core.wants_ticks(), shrunk) {
            (true, _) => Some(TICK),
            (false, true) => Some(IDLE),
            (false, false) => None,
        };
        let watched = self.watched_fds();
        if self.disk.wait(watched, timeout.unwrap_or(IDLE)) {
            if self.slept.elapsed() >= IDLE {
                // Should the ring ever not report a fault, it waits no longer than this.
                self.slept = Instant::now();
                self.due = [true; 2];
            }
        } else {
            self.submit();
            self.poll(watched, timeout);
        }
        self.inbox.awake();
    }

    /// As [`FileIo::wait`], by poll(2).
    fn poll(&mut self, watched: [(RawFd, i16); WATCHED], timeout: Option<Duration>) {
        let wait_for = |(fd, events)| libc::pollfd { fd, events, revents: 0 };
        let [one, two, three, four] = watched.map(wait_for);
        // A negative descriptor is passed over.
        let disk = wait_for((self.disk.poll_fd().unwrap_or(-1), libc::POLLIN));
        let mut fds = [one, two, three, four, disk];
        let timeout = timeout.map_or(-1, |timeout| timeout.as_millis() as i32);
        // SAFETY: `fds` are as many as is said. An interrupted wait is a wait that ended.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, timeout) };
        self.note_ready(std::array::from_fn(|place| fds[place].revents != 0));
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

    /// Areas are scarce where each run is one: the oldest runs leave before there are none.
    fn limit_vma_count(&mut self) {
        let runs: usize = self.objects.values().map(|object| object.store.vma_cost()).sum();
        if runs > self.most_areas {
            let extents = (runs - self.most_areas * 3 / 4) as u32;
            self.event(CoreEvent::Relieve { extents });
        }
    }

    fn take_faults(&mut self) -> bool {
        let mut faults = Vec::new();
        for (delivery, due) in self.deliveries.iter_mut().zip(&mut self.due) {
            if *due {
                let before = faults.len();
                // Nothing to read is an error too; a real one shows again.
                let _ = delivery.faults(&mut faults);
                // All that came later is told of anew.
                *due = faults.len() - before >= FaultSource::MOST;
            }
        }
        for fault in &faults {
            let area = self.areas.range(..=fault.address).next_back();
            if let Some((&start, &(len, object))) = area
                && fault.address - start < len
            {
                let page = ((fault.address - start) / self.page) as u64;
                self.event(CoreEvent::Fault {
                    object,
                    page,
                    write: fault.write || fault.protected,
                });
            }
        }
        !faults.is_empty()
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

    /// Does what the core wants; an outcome that is known at once is returned.
    fn perform(&mut self, action: CoreAction) -> Option<CoreEvent> {
        match action {
            CoreAction::Read { extent, object, run, from } => {
                let result = self.read(extent, object, run, from);
                result.transpose().map(|result| CoreEvent::ReadDone { extent, result })
            }
            CoreAction::Install { extent, object, run, mode, keep } => {
                let result = self.install(extent, object, run, mode, keep);
                Some(CoreEvent::Installed { extent, result })
            }
            CoreAction::TakeOut { extent, object, run, bytes } => {
                let this = self.objects.get_mut(&object)?;
                let together = match bytes {
                    Stability::MayChange => false,
                    Stability::Unchanging => this.store.copies(run_of(run)),
                    Stability::Unneeded => this.store.forgets(),
                };
                if together {
                    let wanted = bytes != Stability::Unneeded;
                    self.departing.push(PendingEviction { extent, object, run, wanted });
                    return None;
                }
                let taken = this.store.take_out(&mut self.pool, run_of(run));
                let result = self.fill(extent, taken);
                Some(CoreEvent::TakenOut { extent, result })
            }
            CoreAction::Copy { extent, object, run, protect } => {
                let this = self.objects.get_mut(&object)?;
                let copied = this.store.snapshot(&mut self.pool, run_of(run), protect);
                if let Some(images) = this.images.as_mut().filter(|_| !protect && copied.is_ok()) {
                    images.copied_unprotected(extent);
                }
                let result = self.fill(extent, copied);
                Some(CoreEvent::Copied { extent, result })
            }
            CoreAction::Unprotect { object, run } => {
                self.keep_image(object, run);
                // A page that left the map meanwhile faults again.
                let _ = self.objects.get_mut(&object)?.store.unprotect(run_of(run));
                None
            }
            CoreAction::Write { extent, object, run, to } => {
                let result = self.write(extent, object, run, to);
                if !matches!(result, Ok(None)) {
                    self.write_ended(object, extent, result.is_ok());
                }
                result.transpose().map(|result| CoreEvent::WriteDone { extent, result })
            }
            CoreAction::Discard { extent, object, run, last, shown } => {
                self.discard(extent, object, run, last, shown);
                None
            }
            CoreAction::Flush { object } => {
                self.flush(object).map(|result| CoreEvent::Flushed { object, result })
            }
            CoreAction::Poison { object, page, reason } => {
                let marks = self.config.marks;
                let _ = self.objects.get_mut(&object)?.store.poison(
                    page as usize,
                    marks,
                    &reason.to_string(),
                );
                None
            }
            CoreAction::Unpoison { object, page } => {
                let _ = self.objects.get_mut(&object)?.store.unpoison(page as usize);
                None
            }
            CoreAction::Wake { object, run } => {
                let _ = self.objects.get_mut(&object)?.store.wake(run_of(run));
                None
            }
            CoreAction::Reply { ticket, result } => {
                if let Some(reply) = self.replies.remove(&ticket) {
                    // The caller may have gone.
                    let _ = reply.send(result);
                }
                None
            }
            CoreAction::Detached { object } => {
                if let Some(object) = self.objects.remove(&object) {
                    self.areas.remove(&object.store.address());
                    let DriverObject { caller, reach, records, hash_file, spill, held, .. } =
                        object;
                    caller.drop_all(held, (reach, records, hash_file, spill));
                }
                None
            }
        }
    }

    /// Runs that nobody stores to leave their maps: copied where their bytes are wanted, then given
    /// back together. Whether there were any.
    fn queue_eviction(&mut self) -> bool {
        let departing = std::mem::take(&mut self.departing);
        // The copies are memory beside the budget's: no more at a time than the core leaves for
        // such.
        let most = (self.core.max_run() as usize).min(128);
        let mut left = &departing[..];
        while !left.is_empty() {
            let mut pages = 0;
            let fits = |departure: &&PendingEviction| {
                pages += departure.run.len as usize;
                pages <= most
            };
            let (now, later) = left.split_at(left.iter().take_while(fits).count().max(1));
            left = later;
            self.flush_evictions(now);
        }
        !departing.is_empty()
    }

    fn flush_evictions(&mut self, departing: &[PendingEviction]) {
        let mut outcomes = Vec::with_capacity(departing.len());
        for departure in departing {
            let run = run_of(departure.run);
            let object = self.objects.get(&departure.object);
            outcomes.push(object.filter(|_| departure.wanted).map_or(Ok(None), |object| {
                let here = object.in_source(departure.run, self.page).filter(|_| object.constant);
                here.map_or_else(|| object.store.copy_out(&mut self.pool, run), Ok).map(Some)
            }));
        }
        let leaves =
            |(departure, outcome): &(&PendingEviction, &Result<Option<BufferSlot>, Errno>)| {
                outcome.is_ok() && self.objects.contains_key(&departure.object)
            };
        let going: Vec<usize> = departing
            .iter()
            .zip(&outcomes)
            .enumerate()
            .filter(|(_, pair)| leaves(pair))
            .map(|(place, _)| place)
            .collect();
        let ranges = going.iter().map(|&place| {
            let PendingEviction { object, run, .. } = departing[place];
            self.objects[&object].store.addresses(run_of(run))
        });
        let mut refused = Vec::new();
        // SAFETY: the bytes were copied, or nobody wants them, and nobody stores to these runs of
        // this driver's maps.
        unsafe { self.discarder.discard(ranges, |place, _| refused.push(going[place])) };
        for (place, (departure, outcome)) in departing.iter().zip(outcomes).enumerate() {
            let &PendingEviction { extent, object: id, run, .. } = departure;
            let outcome = match (outcome, self.objects.get_mut(&id)) {
                (Ok(Some(slot)), Some(object)) if refused.contains(&place) => {
                    // A part of it may be gone.
                    let restored = object.store.restore(run_of(run), &slot);
                    self.pool.give(slot);
                    restored.and(Err(Errno::BUSY))
                }
                // No memory for a copy, or nothing that was copied: as it is done with a run that
                // may be stored to.
                (outcome, Some(object)) if outcome.is_err() || refused.contains(&place) => {
                    object.store.take_out(&mut self.pool, run_of(run)).map(Some)
                }
                (outcome, Some(object)) => {
                    if object.tracked || !departure.wanted {
                        // A thread that waits to store to a page that was protected faults again,
                        // on a missing page.
                        let _ = object.store.wake(run_of(run));
                    }
                    outcome
                }
                (outcome, None) => outcome,
            };
            let result = match outcome {
                Ok(slot) => {
                    if let Some(slot) = slot {
                        self.slots.insert(extent, slot);
                    }
                    Ok(())
                }
                Err(_) => Err(FailureReason::Busy),
            };
            self.event(CoreEvent::TakenOut { extent, result });
        }
    }

    fn fill(
        &mut self,
        extent: ExtentId,
        slot: Result<BufferSlot, Errno>,
    ) -> Result<(), FailureReason> {
        match slot {
            Ok(slot) => {
                self.slots.insert(extent, slot);
                Ok(())
            }
            Err(_) => Err(FailureReason::Busy),
        }
    }

    fn install(
        &mut self,
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        mode: StoreAccess,
        keep: bool,
    ) -> Result<(), FailureReason> {
        let (Some(object), Some(slot)) = (self.objects.get_mut(&object), self.slots.remove(extent))
        else {
            return Err(FailureReason::PastEnd);
        };
        if mode == StoreAccess::Writable
            && let Some(images) = object.images.as_mut().filter(|images| images.lacks(run))
        {
            // SAFETY: the slot holds the run's bytes, outside the map, and only this thread has it.
            images.keep(run, unsafe {
                std::slice::from_raw_parts(slot.buffer(), slot.pages() * self.page)
            });
            self.imaged = true;
        }
        let mode = match mode {
            StoreAccess::ReadOnly => store::InstallMode::ReadOnly,
            StoreAccess::Protected => store::InstallMode::Protected,
            StoreAccess::Writable => store::InstallMode::Writable,
        };
        match object.store.install(&mut self.pool, run_of(run), slot, mode, keep) {
            Ok(kept) => {
                if let Some(slot) = kept {
                    self.slots.insert(extent, slot);
                }
                Ok(())
            }
            Err((slot, errno)) => {
                self.slots.insert(extent, slot);
                Err(FailureReason::Refused { errno: errno.raw_os_error() })
            }
        }
    }

    fn discard(&mut self, extent: ExtentId, id: ObjectId, run: PageRun, last: bool, shown: bool) {
        if let Some(images) =
            self.objects.get_mut(&id).and_then(|object| object.images.as_mut()).filter(|_| last)
        {
            images.forget(extent, run);
        }
        let Some(slot) = self.slots.remove(extent) else { return };
        let Some(object) = self.objects.get_mut(&id) else { return self.pool.give(slot) };
        if shown && !object.constant {
            // SAFETY: the slot holds the run's bytes, outside the map, and only this thread has it.
            let bytes =
                unsafe { std::slice::from_raw_parts(slot.buffer(), slot.pages() * self.page) };
            object.records.insert(run, bytes);
            self.spill_hashes(id);
        }
        let Some(object) = self.objects.get_mut(&id) else { return self.pool.give(slot) };
        if last {
            let _ = object.store.discard(&mut self.pool, run_of(run), slot);
        } else {
            self.pool.give(slot);
        }
    }

    /// Idle slots hold memory that the core takes for free: it is given back before the budget is
    /// passed.
    fn keep_budget(&mut self) {
        let images = self.objects.values().filter_map(|object| object.images.as_ref());
        let images: usize = if self.config.merges { images.map(PreImages::bytes).sum() } else { 0 };
        self.core.set_other_records(self.hash_bytes + self.slots.bytes() + images);
        let records = self.core.record_bytes();
        let used = self.core.used() as usize * self.page + records + self.pool.resident_idle();
        if used > self.config.budget {
            self.pool.trim((used - self.config.budget).max(256 << 10));
        }
    }

    /// Starts to read a run; `Some` if it ended at once.
    fn read(
        &mut self,
        extent: ExtentId,
        id: ObjectId,
        run: PageRun,
        from: Backing,
    ) -> Result<Option<()>, FailureReason> {
        let refused = |errno: Errno| FailureReason::Refused { errno: errno.raw_os_error() };
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        if from == Backing::Source
            && let Some(slot) = object.in_source(run, self.page)
        {
            self.slots.insert(extent, slot);
            self.keep_budget();
            return Ok(Some(()));
        }
        let slot = object.store.stage(&mut self.pool, run_of(run)).map_err(refused)?;
        let buffer = slot.buffer();
        let room = slot.pages() * self.page;
        self.slots.insert(extent, slot);
        self.keep_budget();
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        let offset = run.first * self.page as u64;
        let len = (object.len - offset.min(object.len)).min(room as u64) as usize;
        let op = Operation {
            extent,
            object: id,
            kind: OperationKind::Read,
            buffer,
            offset,
            len,
            done: 0,
            run,
            backing: from,
            file: None,
            settling: None,
        };
        if from == Backing::Spill {
            return self.start(op).map(|()| None);
        }
        match object.reach {
            SourceAccess::File(_) => self.start(op).map(|()| None),
            SourceAccess::Zeros => {
                // SAFETY: the slot is `room` bytes, and this thread's alone.
                unsafe { buffer.write_bytes(0, room) };
                self.finish_read(op).transpose()
            }
            SourceAccess::Bytes(address, all) => {
                if offset as usize + len > all {
                    return Err(FailureReason::Short);
                }
                // SAFETY: as above. The source's bytes are there while it lives, which the object
                // sees to, and are not the pool's.
                unsafe {
                    buffer
                        .copy_from_nonoverlapping((address as *const u8).add(offset as usize), len);
                };
                self.finish_read(op).transpose()
            }
            SourceAccess::Requests | SourceAccess::Constant | SourceAccess::SlowFile(_) => {
                self.next += 1;
                let number = self.next;
                let sink = object.caller.reads();
                self.ops.insert(number, op);
                // SAFETY: the slot is the operation's until it ends, and anonymous memory is
                // initialised. The driver, and with it the pool, lives until every operation has
                // ended.
                let request = unsafe { ReadRequest::new(offset, buffer, len, sink, number) };
                self.batches.entry(id).or_default().reads.push(request);
                Ok(None)
            }
        }
    }

    /// Starts what is left of an operation on a file.
    fn start(&mut self, mut op: Operation) -> Result<(), FailureReason> {
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        let file = match op.backing {
            Backing::Spill => object.spill.as_ref(),
            Backing::Source => object.file(),
        };
        let file = Arc::clone(file.ok_or(FailureReason::PastEnd)?);
        let settles = op.kind == OperationKind::Read
            && op.backing == Backing::Source
            && object.shows == VersionRule::Pages;
        if settles && op.settling.is_none() {
            op.settling = Some(Settling::new(self.stamp(op.object)?));
        }
        let at = op.buffer.wrapping_add(op.done);
        let offset = op.offset + op.done as u64;
        let operation = match op.kind {
            OperationKind::Read => {
                // Room for whole blocks keeps the tail of the file direct.
                let room = op.run.len as usize * self.page - op.done;
                let plan = file.plan_read(offset, room, at as usize);
                FileOperation::Read { fd: plan.fd, to: at, len: plan.len, offset }
            }
            OperationKind::Write => {
                if op.backing == Backing::Source {
                    file.check_inside(offset, op.len - op.done)
                        .map_err(|error| reason_of(&error))?;
                }
                let plan = file.plan_write(offset, op.len - op.done, at as usize);
                FileOperation::Write { fd: plan.fd, from: at, len: plan.len, offset }
            }
            OperationKind::Flush => FileOperation::Sync { fd: file.flush_fd() },
        };
        self.next += 1;
        let number = self.next;
        // SAFETY: the slot stays until the operation has ended, and so does the file, which the
        // operation has.
        let started = unsafe {
            if file.is_local() {
                self.disk.start(operation, number)
            } else {
                // A spill file: a source that is not local is called by its own threads.
                FileIo::start_on(file.threads(), operation, number, &self.inbox);
                Ok(())
            }
        };
        started.map_err(|error| reason_of(&error))?;
        op.file = Some(file);
        self.ops.insert(number, op);
        Ok(())
    }

    /// An operation ended, or a part of it.
    fn ended(&mut self, number: u64, result: io::Result<usize>) {
        let Some(mut op) = self.ops.remove(&number) else { return };
        let (extent, object, kind) = (op.extent, op.object, op.kind);
        let op_counts = op.backing == Backing::Source
            && (kind == OperationKind::Write
                || (kind == OperationKind::Flush && op.file.is_none()));
        let outcome = match result {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) && gave_up_direct(&op) => None,
            Err(error) => Some(Err(reason_of(&error))),
            Ok(count)
                if op.file.is_none()
                    && kind != OperationKind::Flush
                    && count > op.len - op.done =>
            {
                let message = "it claims more bytes than there was room for".into();
                Some(Err(FailureReason::Source { message, errno: None }))
            }
            Ok(count) => {
                op.done = (op.done + count).min(op.len.max(op.done));
                let goes_on = count > 0 && op.file.is_some();
                match kind {
                    OperationKind::Flush => Some(Ok(())),
                    OperationKind::Read if op.done >= op.len => match self.judge(&mut op) {
                        Ok(ReadVerdict::Settled) => {
                            if let Some(outcome) = self.finish_read(op) {
                                self.report(extent, object, kind, outcome);
                            }
                            return;
                        }
                        Ok(ReadVerdict::Again) => {
                            op.done = 0;
                            None
                        }
                        Ok(ReadVerdict::Torn) => Some(Err(FailureReason::Changed)),
                        Err(reason) => Some(Err(reason)),
                    },
                    OperationKind::Write if op.done >= op.len => Some(Ok(())),
                    _ if goes_on => None,
                    _ => Some(Err(FailureReason::Short)),
                }
            }
        };
        if let Some(outcome) = outcome.or_else(|| self.start(op).err().map(Err)) {
            // The disk's flush is not counted.
            if op_counts && self.eviction_done(object) {
                if let Some(this) = self.objects.get_mut(&object) {
                    this.late = Some((extent, kind, outcome));
                }
                return;
            }
            self.report(extent, object, kind, outcome);
        }
    }

    fn report(
        &mut self,
        extent: ExtentId,
        object: ObjectId,
        kind: OperationKind,
        result: Result<(), FailureReason>,
    ) {
        if kind == OperationKind::Write {
            self.write_ended(object, extent, result.is_ok());
        }
        self.event(match kind {
            OperationKind::Read => CoreEvent::ReadDone { extent, result },
            OperationKind::Write => CoreEvent::WriteDone { extent, result },
            OperationKind::Flush => CoreEvent::Flushed { object, result },
        });
    }

    /// The stamp of an object's file, asked for since the last operation ended. The file is on a
    /// local file system, so the answer comes at once.
    fn stamp(&mut self, id: ObjectId) -> Result<Stamp, FailureReason> {
        if let Some(stamp) = self.stamps.get(&id) {
            return Ok(*stamp);
        }
        let file =
            self.objects.get(&id).and_then(DriverObject::file).ok_or(FailureReason::PastEnd)?;
        let stamp = file.stamp().map_err(|error| reason_of(&error))?;
        self.stamps.insert(id, stamp);
        Ok(stamp)
    }

    /// Whether the bytes that were read are the source's at one moment, and of the version that the
    /// map shows.
    fn judge(&mut self, op: &mut Operation) -> Result<ReadVerdict, FailureReason> {
        if op.backing == Backing::Spill {
            return Ok(ReadVerdict::Settled);
        }
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        // The callers of other sources look at their versions.
        if object.file().is_none() {
            return Ok(ReadVerdict::Settled);
        }
        match object.shows {
            VersionRule::Version(version) => {
                let same = self.stamp(op.object)?.version() == version;
                if same { Ok(ReadVerdict::Settled) } else { Err(FailureReason::Changed) }
            }
            VersionRule::Pages => {
                let after = self.stamp(op.object)?;
                // SAFETY: the slot is as long as the run, and this thread's alone again; `len`
                // bytes of it were read.
                let bytes = unsafe { std::slice::from_raw_parts(op.buffer, op.len) };
                Ok(op
                    .settling
                    .as_mut()
                    .map_or(ReadVerdict::Settled, |settling| settling.judge(after, bytes)))
            }
            VersionRule::Any => Ok(ReadVerdict::Settled),
        }
    }

    /// Starts to write a run; `Some` if it ended at once.
    fn write(
        &mut self,
        extent: ExtentId,
        id: ObjectId,
        run: PageRun,
        to: Backing,
    ) -> Result<Option<()>, FailureReason> {
        let offset = run.first * self.page as u64;
        let object = self.objects.get_mut(&id).ok_or(FailureReason::PastEnd)?;
        let buffer = self.slots.get(extent).ok_or(FailureReason::PastEnd)?.buffer();
        let mut len = (object.len - offset.min(object.len))
            .min(u64::from(run.len) * self.page as u64) as usize;
        if to == Backing::Spill {
            len = run.len as usize * self.page;
        }
        let op = Operation {
            extent,
            object: id,
            kind: OperationKind::Write,
            buffer,
            offset,
            len,
            done: 0,
            run,
            backing: to,
            file: None,
            settling: None,
        };
        if to == Backing::Spill && object.spill.is_none() {
            object.awaiting.push(op);
            if object.awaiting.len() == 1 {
                let (dir, len) =
                    (self.config.spill_dir.clone(), object.len.next_multiple_of(self.page as u64));
                object.caller.make_spill(id, move || spill_file(&dir, len));
            }
            return Ok(None);
        }
        if to == Backing::Source && object.images.is_some() {
            return self.write_parts(op);
        }
        self.begin_writes(op).map(|()| None)
    }

    /// Starts a write, or keeps it until it is known that nobody else has written. A write that
    /// waits ends as any other.
    fn begin_writes(&mut self, op: Operation) -> Result<(), FailureReason> {
        let id = op.object;
        let Some(object) = self.objects.get_mut(&id) else { return Err(FailureReason::PastEnd) };
        let file = object.file().cloned();
        let guard = object.guard.as_mut().filter(|_| op.backing == Backing::Source);
        let Some(guard) = guard else { return self.launch(op) };
        let op = match guard.admit(op) {
            Admission::Now(op) => op,
            Admission::Later { look: false } => return Ok(()),
            Admission::Later { look: true } => match object_stamp(file.as_deref()) {
                None => {
                    self.check_version(id);
                    return Ok(());
                }
                // Only this one waits.
                Some(version) => match guard.looked(version) {
                    Ok(mut writes) => writes.pop().ok_or(FailureReason::PastEnd)?,
                    Err((_, reason)) => return Err(reason),
                },
            },
            Admission::Never => return Err(FailureReason::Changed),
        };
        self.launch(op).inspect_err(|_| _ = self.eviction_done(id))
    }

    /// Asks for the version of a source that is written: on another thread, since the source may
    /// block.
    fn check_version(&self, id: ObjectId) {
        if let Some(object) = self.objects.get(&id) {
            object.caller.ask_version(id, object.reach.file().cloned());
        }
    }

    fn version_checked(&mut self, id: ObjectId, version: Result<Version, FailureReason>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let late = object.late.take();
        let Some(guard) = object.guard.as_mut() else { return };
        match guard.looked(version) {
            Ok(writes) => {
                for op in writes {
                    let (extent, kind) = (op.extent, op.kind);
                    if let Err(reason) = self.launch(op) {
                        self.eviction_done(id);
                        self.report(extent, id, kind, Err(reason));
                    }
                }
            }
            Err((writes, reason)) => {
                for op in writes {
                    self.report(op.extent, id, op.kind, Err(reason.clone()));
                }
            }
        }
        if let Some((extent, kind, outcome)) = late {
            self.report(extent, id, kind, outcome);
        }
    }

    /// A write that [`begin_writes`](Self::begin_writes) started has ended. Whether the version is
    /// being asked for: the write's end is told after that, so that others' writes after a `sync`
    /// are not taken for this one.
    fn eviction_done(&mut self, id: ObjectId) -> bool {
        let Some(object) = self.objects.get_mut(&id) else { return false };
        if !object.guard.as_mut().is_some_and(ForeignWrites::ended) {
            return false;
        }
        if let Some(version) = object_stamp(object.file().map(|file| &**file)) {
            self.version_checked(id, version);
            return false;
        }
        self.check_version(id);
        true
    }

    /// An extent's write has ended, whichever way it was made.
    fn write_ended(&mut self, id: ObjectId, extent: ExtentId, written: bool) {
        if let Some(images) = self.objects.get_mut(&id).and_then(|object| object.images.as_mut()) {
            images.ended(extent, written);
        }
    }

    /// Keeps the bytes of a run in the map that can be stored to from now on.
    fn keep_image(&mut self, id: ObjectId, run: PageRun) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let Some(images) = object.images.as_mut().filter(|images| images.lacks(run)) else {
            return;
        };
        if let Ok(bytes) = object.store.bytes_of(run_of(run)) {
            images.keep(run, &bytes);
        }
        self.imaged = true;
    }

    /// Writes the bytes of a run that were stored; `Some` if there are none.
    fn write_parts(&mut self, op: Operation) -> Result<Option<()>, FailureReason> {
        let object = self.objects.get_mut(&op.object).ok_or(FailureReason::PastEnd)?;
        let images = object.images.as_mut().ok_or(FailureReason::PastEnd)?;
        let (buffer, len, offset) = (op.buffer, op.len, op.offset);
        // SAFETY: nobody changes a buffer that is being written.
        let bytes = unsafe { std::slice::from_raw_parts(buffer, op.run.len as usize * self.page) };
        let ranges = images.begin(op.extent, op.run, bytes, len);
        if ranges.is_empty() {
            return Ok(Some(()));
        }
        self.next += 1;
        let number = self.next;
        let id = op.object;
        self.ops.insert(number, op);
        let lengths = ranges.iter().map(Range::len).collect();
        let sink = Arc::clone(&self.inbox) as Arc<dyn Sink>;
        let parts = Arc::new(WriteParts::new(sink, number, len, lengths)) as Arc<dyn Sink>;
        let requests = ranges.iter().zip(0..).map(|(range, part)| {
            let (at, sink) = (offset + range.start as u64, Arc::clone(&parts));
            // SAFETY: the range lies in the buffer, which nobody changes before the last of these
            // writes has ended.
            unsafe { WriteRequest::new(at, buffer.add(range.start), range.len(), sink, part) }
        });
        self.batches.entry(id).or_default().writes.extend(requests);
        Ok(None)
    }

    /// Gives an operation to the disk, or a write or a flush to the source.
    fn launch(&mut self, op: Operation) -> Result<(), FailureReason> {
        let object = self.objects.get(&op.object).ok_or(FailureReason::PastEnd)?;
        if op.backing == Backing::Spill || object.file().is_some() {
            return self.start(op);
        }
        let (id, kind, offset, buffer, len) = (op.object, op.kind, op.offset, op.buffer, op.len);
        self.next += 1;
        let number = self.next;
        let sink = object.caller.writes();
        self.ops.insert(number, op);
        let batch = self.batches.entry(id).or_default();
        if kind == OperationKind::Flush {
            batch.flush = Some(FlushRequest::new(sink, number));
            return Ok(());
        }
        // SAFETY: nobody changes a buffer that is being written, and it stays until the operation
        // has ended.
        batch.writes.push(unsafe { WriteRequest::new(offset, buffer, len, sink, number) });
        Ok(())
    }

    /// An object's spill file was made, or cannot be made.
    fn spill_made(&mut self, id: ObjectId, file: io::Result<LocalFile>) {
        let Some(object) = self.objects.get_mut(&id) else { return };
        let awaiting = std::mem::take(&mut object.awaiting);
        let made =
            file.map(|file| object.spill = Some(Arc::new(file))).map_err(|error| reason_of(&error));
        for op in awaiting {
            let extent = op.extent;
            if let Err(reason) = made.clone().and_then(|()| self.start(op)) {
                self.report(extent, id, OperationKind::Write, Err(reason));
            }
        }
    }

    /// Starts to make an object's writes durable; `Some` if that ended at once.
    fn flush(&mut self, id: ObjectId) -> Option<Result<(), FailureReason>> {
        let object = self.objects.get(&id)?;
        let op = Operation {
            extent: ExtentId(u32::MAX),
            object: id,
            kind: OperationKind::Flush,
            buffer: std::ptr::null_mut(),
            offset: 0,
            len: 0,
            done: 0,
            run: PageRun::default(),
            backing: Backing::Source,
            file: None,
            settling: None,
        };
        if object.file().is_some() {
            // Changes no time of the file.
            return self.start(op).err().map(Err);
        }
        self.begin_writes(op).err().map(Err)
    }

    /// Gives what was started to the sources.
    fn dispatch_requests(&mut self) {
        for (id, batch) in std::mem::take(&mut self.batches) {
            if let Some(object) = self.objects.get(&id) {
                object.caller.give(batch);
            }
        }
    }
}

fn reason_of(error: &io::Error) -> FailureReason {
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
fn spill_file(dir: &std::path::Path, len: u64) -> io::Result<LocalFile> {
    let file = unnamed_file(dir)?;
    file.set_len(len)?;
    LocalFile::from_file(file)
}
