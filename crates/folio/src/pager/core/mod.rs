//! The pager's mind: a state machine without I/O, clock or thread. [`Core::handle`] takes an event;
//! [`Core::actions`] gives what is to be done.
//!
//! | file | subject |
//! | --- | --- |
//! | [`extents`] | runs of pages in memory, their states, the queues of eviction |
//! | [`table`] | which extent a page is in; what is remembered of pages that are not in memory |
//! | [`readahead`] | what to read beside the page that is wanted |
//! | [`ahead`] | how much is read ahead, and when such pages are dropped unused |
//! | [`supply`] | faults, reads, installing, failing |
//! | [`evict`] | memory: the budget, taking out, dropping |
//! | [`write`] | dirty pages: write-back, sync, errors |
//! | [`dirty`] | the limit for dirty pages, and the stores that wait at it |
//! | [`jobs`] | pins and evictions that take more than one step |
//! | [`pins`] | which pages are pinned, and for what |
//! | [`prefetch`] | prefetches: hints that nothing waits for |
//! | [`spread`] | hash maps with keys that nobody chooses against them |
//!
//! Times are microseconds since any fixed moment; memory is counted in pages.
#![forbid(unsafe_code)]

mod chunk_table;
mod dirty_limit;
mod evict;
pub(crate) mod extents;
pub(crate) mod int_hash;
mod jobs;
mod page_in;
mod pins;
mod prefetch;
pub(crate) mod readahead;
mod readahead_share;
#[cfg(test)]
mod scans;
#[cfg(test)]
mod simulate;
mod writeback;

pub(crate) use extents::ExtentId;
pub(crate) use readahead::AccessPattern;

use chunk_table::ChunkTable;
use extents::Extents;
use int_hash::IntMap;
use readahead::Readahead;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// An object's number in its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ObjectId(pub(crate) u32);

/// The waiter for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Neighbouring pages of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub(crate) struct PageRun {
    pub(crate) first: u64,
    pub(crate) len: u32,
}

impl PageRun {
    pub(crate) fn one(page: u64) -> Self {
        Self { first: page, len: 1 }
    }

    pub(crate) fn end(self) -> u64 {
        self.first + u64::from(self.len)
    }

    #[cfg(test)]
    pub(crate) fn holds(self, page: u64) -> bool {
        (self.first..self.end()).contains(&page)
    }
}

/// Why a page could not be supplied or written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FailureReason {
    /// The source's own error, and its errno if it has one.
    Source { message: Arc<str>, errno: Option<i32> },
    /// The source gave fewer bytes than its length promises.
    Short,
    /// The bytes are not those that were seen before, or the source's version changed.
    Changed,
    /// The source did not answer in time.
    Deadline,
    /// All memory of the budget is pinned, or dirty with nowhere to go.
    NoMemory,
    /// All memory of the budget is used by pages that could not be written, for this reason.
    Unwritten { message: Arc<str>, errno: Option<i32> },
    /// Past the object's end.
    PastEnd,
    /// The kernel refused to put the page into the map.
    Refused { errno: i32 },
    /// Direct I/O or a device holds the page.
    Busy,
}

impl std::fmt::Display for FailureReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Source { message, .. } => write!(f, "the source failed: {message}"),
            Self::Short => f.write_str("the source gave fewer bytes than its length"),
            Self::Changed => f.write_str("the source has changed since it was mapped"),
            Self::Deadline => f.write_str("the source did not answer within its deadline"),
            Self::NoMemory => f.write_str(
                "the pager's budget is used up by pages that are pinned or cannot be written",
            ),
            Self::Unwritten { message, .. } => {
                write!(
                    f,
                    "the pager's budget is used up by dirty pages whose write-back failed: {message}"
                )
            }
            Self::PastEnd => f.write_str("it lies past the end"),
            Self::Refused { errno } => write!(f, "the kernel refused: errno {errno}"),
            Self::Busy => f.write_str("direct I/O holds the page"),
        }
    }
}

/// A page that could not be supplied or written, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) page: u64,
    pub(crate) reason: FailureReason,
}

/// The properties that an object keeps for as long as it lives.
#[derive(Debug, Clone, Copy)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about an object")]
pub(crate) struct ObjectTraits {
    /// The program may store to it.
    pub(crate) tracked: bool,
    /// Stores never reach the source: dirty pages go to the spill file.
    pub(crate) private: bool,
    /// The buffer and the map are the same memory (the memfd store).
    pub(crate) shares_buffer: bool,
    /// Pages of the source's natural unit.
    pub(crate) block: u32,
    /// The least part of an extent that becomes dirty alone, in pages.
    pub(crate) cut: u32,
    /// How long a page may take, in microseconds.
    pub(crate) deadline: u64,
}

/// Where bytes are read from, or written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backing {
    Source,
    Spill,
}

/// How a run is put into the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoreAccess {
    /// The program never stores to it.
    ReadOnly,
    /// A store faults.
    Protected,
    /// A store goes unnoticed.
    Writable,
}

/// Pages that stay in the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PinnedRange {
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// They can be stored to at any time without a fault, by system calls and devices too, and so
    /// stay dirty.
    pub(crate) stores: bool,
}

impl PinnedRange {
    pub(crate) fn overlaps(&self, run: PageRun) -> bool {
        self.first < run.end() && run.first < self.end
    }
}

/// The core's knowledge of the bytes of a run that leaves the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stability {
    /// They may be stored to until they are gone.
    MayChange,
    /// Nobody stores to them: a copy is as good.
    Unchanging,
    /// Nobody wants them.
    Unneeded,
}

#[derive(Debug)]
pub(crate) enum CoreEvent {
    Attach {
        object: ObjectId,
        pages: u64,
        traits: ObjectTraits,
    },
    Fault {
        object: ObjectId,
        page: u64,
        write: bool,
    },
    ReadDone {
        extent: ExtentId,
        result: Result<(), FailureReason>,
    },
    WriteDone {
        extent: ExtentId,
        result: Result<(), FailureReason>,
    },
    Installed {
        extent: ExtentId,
        result: Result<(), FailureReason>,
    },
    TakenOut {
        extent: ExtentId,
        result: Result<(), FailureReason>,
    },
    Copied {
        extent: ExtentId,
        result: Result<(), FailureReason>,
    },
    Flushed {
        object: ObjectId,
        result: Result<(), FailureReason>,
    },
    Prefetch {
        object: ObjectId,
        runs: Vec<(u64, u64)>,
    },
    Advise {
        object: ObjectId,
        pattern: AccessPattern,
    },
    Pin {
        object: ObjectId,
        pin: PinnedRange,
        ticket: Ticket,
    },
    Unpin {
        object: ObjectId,
        pin: PinnedRange,
    },
    /// Dirty pages are written; `flush` makes them durable too.
    Sync {
        object: ObjectId,
        first: u64,
        end: u64,
        flush: bool,
        ticket: Ticket,
    },
    /// Pages leave memory; with `discard`, stores to them are lost.
    Evict {
        object: ObjectId,
        first: u64,
        end: u64,
        discard: bool,
        ticket: Ticket,
    },
    Resized {
        object: ObjectId,
        pages: u64,
    },
    /// From now on, remember (or no more) in which order pages come into the map.
    Record {
        object: ObjectId,
        on: bool,
    },
    /// Nobody uses the object any more. Its dirty pages are lost.
    Detach {
        object: ObjectId,
    },
    Budget {
        pages: u64,
    },
    /// Prefetches that paused for the driver to look for faults go on.
    GoOn,
    /// So many extents leave their maps: each takes something that is scarce.
    Relieve {
        extents: u32,
    },
    Tick {
        now: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CoreAction {
    Read {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        from: Backing,
    },
    /// Put the buffer's bytes into the map and wake who waits; with `keep` the buffer stays.
    Install {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        mode: StoreAccess,
        keep: bool,
    },
    TakeOut {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        bytes: Stability,
    },
    /// Protect the run, and put a copy of it into the buffer; without `protect` it may be stored to
    /// meanwhile.
    Copy {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        protect: bool,
    },
    /// Stores go unnoticed from now on; wake who waits.
    Unprotect {
        object: ObjectId,
        run: PageRun,
    },
    Write {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        to: Backing,
    },
    /// Give the buffer back. `last` says that the bytes leave memory with it, `shown` that the
    /// program has seen them and may see them again.
    Discard {
        extent: ExtentId,
        object: ObjectId,
        run: PageRun,
        last: bool,
        shown: bool,
    },
    Flush {
        object: ObjectId,
    },
    Poison {
        object: ObjectId,
        page: u64,
        reason: FailureReason,
    },
    Unpoison {
        object: ObjectId,
        page: u64,
    },
    Wake {
        object: ObjectId,
        run: PageRun,
    },
    Reply {
        ticket: Ticket,
        result: Result<(), Failure>,
    },
    /// Nothing is under way for the object any more.
    Detached {
        object: ObjectId,
    },
}

/// The limits that the pager keeps to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Memory, with all records.
    pub(crate) budget: u64,
    /// A dirty page is written after so long, in microseconds.
    pub(crate) dirty_age: u64,
    /// Bytes of a page.
    pub(crate) page: usize,
}

/// Counts since the core was made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(crate) faults_missing: u64,
    pub(crate) faults_soft: u64,
    pub(crate) faults_write: u64,
    pub(crate) faults_spurious: u64,
    pub(crate) reads: u64,
    pub(crate) pages_read: u64,
    pub(crate) ahead_read: u64,
    pub(crate) ahead_used: u64,
    pub(crate) ahead_wasted: u64,
    pub(crate) pages_evicted: u64,
    pub(crate) pages_prefetched: u64,
    pub(crate) writes: u64,
    pub(crate) pages_written: u64,
    pub(crate) pages_spilled: u64,
    pub(crate) read_errors: u64,
    pub(crate) write_errors: u64,
    pub(crate) poisoned: u64,
}

/// An object as the core sees it.
#[derive(Debug)]
pub(crate) struct CoreObject {
    pages: u64,
    traits: ObjectTraits,
    table: ChunkTable,
    readahead: Readahead,
    pins: pins::Pins,
    /// Pages that are being read.
    reading: u64,
    /// Pages that are dirty.
    dirty: u64,
    /// Pages that are being written.
    writing: u64,
    /// Write operations under way, by number.
    writes: BTreeSet<u64>,
    /// The stores that came last, to find streams of them.
    last_store: PageRun,
    flushing: bool,
    /// Why its last write failed, if it did.
    unwritten: Option<FailureReason>,
    leaving: bool,
    /// Runs in the order in which they came into the map, while that is recorded.
    recording: Option<Vec<PageRun>>,
}

/// The buckets of the histogram of latencies of stores and faults.
pub(crate) const BUCKETS: usize = 32;

#[derive(Debug)]
pub(crate) struct Core {
    limits: Limits,
    now: u64,
    extents: Extents,
    objects: IntMap<ObjectId, CoreObject>,
    /// Pages of memory in use: in maps and in buffers.
    used: u64,
    /// Pages that are pinned.
    pinned: u64,
    /// Of these, pages that are pinned for stores.
    held: u64,
    /// Pages that are dirty.
    dirty: u64,
    /// Dirty extents in the order in which they became so; entries may be stale.
    dirty_order: VecDeque<(ExtentId, u64)>,
    /// The same for private maps.
    private_order: VecDeque<(ExtentId, u64)>,
    /// Stores that wait for write-back.
    throttle: dirty_limit::Throttle,
    /// Faults that found no memory.
    stalled: VecDeque<page_in::Stalled>,
    /// Extents that somebody waits for, with the last moment; entries may be stale.
    waiting: VecDeque<(u64, ExtentId)>,
    ghosts: evict::Ghosts,
    /// Pages of pins that are not there yet.
    wants: BTreeMap<ObjectId, VecDeque<jobs::WantedPages>>,
    /// Pins wait for memory.
    pins_lack: bool,
    prefetches: BTreeMap<ObjectId, prefetch::Prefetch>,
    /// Pages that prefetches may still ask for before the driver looks for faults.
    turn: u64,
    pin_jobs: Vec<jobs::PinJob>,
    syncs: Vec<writeback::SyncJob>,
    evictions: Vec<jobs::EvictJob>,
    /// Extents outside the map that are to be written.
    to_write: IntMap<ObjectId, VecDeque<ExtentId>>,
    writing: u64,
    write_number: u64,
    write_numbers: IntMap<ExtentId, u64>,
    reading: u64,
    /// Pages that were read ahead, or are being read ahead, and are not used yet.
    ahead: u64,
    /// The streams that went on lately.
    streams: readahead_share::Streams,
    leaving: u64,
    actions: VecDeque<CoreAction>,
    other_records: usize,
    /// Some write failed, and is to be tried again.
    retries: bool,
    counts: Counts,
    latency: [u64; BUCKETS],
}

impl Core {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            now: 0,
            extents: Extents::new(),
            objects: IntMap::default(),
            used: 0,
            pinned: 0,
            held: 0,
            dirty: 0,
            dirty_order: VecDeque::new(),
            private_order: VecDeque::new(),
            throttle: dirty_limit::Throttle::default(),
            stalled: VecDeque::new(),
            waiting: VecDeque::new(),
            ghosts: evict::Ghosts::default(),
            wants: BTreeMap::new(),
            pins_lack: false,
            prefetches: BTreeMap::new(),
            turn: prefetch::TURN,
            pin_jobs: Vec::new(),
            syncs: Vec::new(),
            evictions: Vec::new(),
            to_write: IntMap::default(),
            writing: 0,
            write_number: 0,
            write_numbers: IntMap::default(),
            reading: 0,
            ahead: 0,
            streams: readahead_share::Streams::default(),
            leaving: 0,
            actions: VecDeque::new(),
            other_records: 0,
            retries: false,
            counts: Counts::default(),
            latency: [0; BUCKETS],
        }
    }

    /// The time, told before events so that waits are measured from when they began.
    pub(crate) fn set_now(&mut self, now: u64) {
        self.now = self.now.max(now);
        self.turn = prefetch::TURN;
    }

    /// The next action. An event answers each action that has an outcome.
    pub(crate) fn next_action(&mut self) -> Option<CoreAction> {
        self.actions.pop_front()
    }

    pub(crate) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How many faults took up to 2^n microseconds.
    pub(crate) fn latency(&self) -> &[u64; BUCKETS] {
        &self.latency
    }

    /// Pages in use, in maps and in buffers.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn dirty(&self) -> u64 {
        self.dirty
    }

    pub(crate) fn pinned(&self) -> u64 {
        self.pinned
    }

    pub(crate) fn budget(&self) -> u64 {
        self.limits.budget
    }

    /// Bytes of the core's own records.
    pub(crate) fn record_bytes(&self) -> usize {
        let tables: usize = self.objects.values().map(|object| object.table.bytes()).sum();
        let orders = self.dirty_order.len() + self.private_order.len();
        self.other_records + self.extents.bytes() + self.ghosts.bytes() + tables + 32 * orders
    }

    /// The runs of an object that are in the map now, in order.
    pub(crate) fn resident(&self, object: ObjectId) -> Vec<PageRun> {
        let Some(this) = self.objects.get(&object) else { return Vec::new() };
        let installed =
            |extent: &ExtentId| self.extents[*extent].place == extents::ExtentState::Installed;
        let extents = this.table.extents_in(0, this.pages);
        extents.into_iter().filter(installed).map(|extent| self.extents[extent].run).collect()
    }

    /// The recording since [`CoreEvent::Record`], which starts anew.
    pub(crate) fn take_recording(&mut self, object: ObjectId) -> Vec<PageRun> {
        let recording = self.objects.get_mut(&object).and_then(|object| object.recording.as_mut());
        recording.map(std::mem::take).unwrap_or_default()
    }

    /// Bytes of records that others keep of pages: they count, too.
    pub(crate) fn set_other_records(&mut self, bytes: usize) {
        self.other_records = bytes;
    }

    /// Whether something waits for time to pass.
    pub(crate) fn wants_ticks(&self) -> bool {
        let waits =
            !self.waiting.is_empty() || !self.stalled.is_empty() || !self.pin_jobs.is_empty();
        waits
            || !self.throttle.is_empty()
            || self.dirty > 0
            || !self.syncs.is_empty()
            || !self.evictions.is_empty()
    }

    /// Takes an event. Objects and extents that are gone are no error: requests under way outlive
    /// them.
    pub(crate) fn handle(&mut self, event: CoreEvent) {
        match event {
            CoreEvent::Attach { object, pages, traits } => self.attach(object, pages, traits),
            CoreEvent::Fault { object, page, write } => self.fault(object, page, write),
            CoreEvent::ReadDone { extent, result } => self.read_done(extent, result),
            CoreEvent::WriteDone { extent, result } => self.write_done(extent, result),
            CoreEvent::Installed { extent, result } => self.installed(extent, result),
            CoreEvent::TakenOut { extent, result } => self.taken_out(extent, &result),
            CoreEvent::Copied { extent, result } => self.copied(extent, result),
            CoreEvent::Flushed { object, result } => self.flushed(object, &result),
            CoreEvent::Prefetch { object, runs } => self.prefetch(object, runs),
            CoreEvent::Advise { object, pattern } => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.readahead.set_pattern(pattern);
                }
            }
            CoreEvent::Pin { object, pin, ticket } => self.pin(object, pin, ticket),
            CoreEvent::Unpin { object, pin } => self.unpin(object, pin),
            CoreEvent::Sync { object, first, end, flush, ticket } => {
                self.sync(object, first, end, flush, ticket);
            }
            CoreEvent::Evict { object, first, end, discard, ticket } => {
                self.evict(object, first, end, discard, Some(ticket));
            }
            CoreEvent::Resized { object, pages } => {
                if let Some(this) = self.objects.get_mut(&object) {
                    let old = std::mem::replace(&mut this.pages, pages);
                    self.unpoison(object, old, pages);
                }
            }
            CoreEvent::Record { object, on } => {
                if let Some(object) = self.objects.get_mut(&object) {
                    object.recording = on.then(Vec::new);
                }
            }
            CoreEvent::Detach { object } => self.detach(object),
            CoreEvent::Budget { pages } => {
                self.limits.budget = pages;
                let widest = self.max_run();
                for object in self.objects.values_mut() {
                    object.readahead.set_max_run(widest);
                }
            }
            CoreEvent::GoOn => {}
            CoreEvent::Relieve { extents } => self.relieve(extents),
            CoreEvent::Tick { now } => self.tick(now),
        }
        self.pump();
    }

    fn attach(&mut self, object: ObjectId, pages: u64, traits: ObjectTraits) {
        let readahead = Readahead::new(traits.block, self.max_run());
        let new = CoreObject {
            pages,
            traits,
            table: ChunkTable::default(),
            readahead,
            pins: pins::Pins::default(),
            reading: 0,
            dirty: 0,
            writing: 0,
            writes: BTreeSet::new(),
            last_store: PageRun::default(),
            flushing: false,
            unwritten: None,
            leaving: false,
            recording: None,
        };
        self.objects.insert(object, new);
    }

    fn detach(&mut self, object: ObjectId) {
        let Some(this) = self.objects.get_mut(&object) else { return };
        this.leaving = true;
        let (end, pins) = (this.pages, std::mem::take(&mut this.pins));
        self.pinned -= pins.pages();
        self.held -= pins.held();
        self.wants.remove(&object);
        self.prefetches.remove(&object);
        self.streams.ended(object);
        self.stalled.retain(|stalled| stalled.object != object);
        self.throttle.stores.retain(|stalled| stalled.object != object);
        self.throttle.refused.retain(|refused| refused.0 != object);
        let failure = Failure { page: 0, reason: FailureReason::PastEnd };
        for held in std::mem::take(&mut self.throttle.pins) {
            if held.object == object {
                self.reply(held.ticket, Err(failure.clone()));
            } else {
                self.throttle.pins.push_back(held);
            }
        }
        let (mine, others) =
            std::mem::take(&mut self.pin_jobs).into_iter().partition(|pin| pin.object == object);
        self.pin_jobs = others;
        for pin in mine {
            self.reply(pin.ticket, Err(failure.clone()));
        }
        self.evict(object, 0, end.max(1), true, None);
    }

    /// Time passed: waiters that waited too long get an error, old dirty pages are written, failed
    /// writes are tried again.
    fn tick(&mut self, now: u64) {
        self.set_now(now);
        self.expire();
        self.write_back_old();
        self.retry_evictions();
    }

    /// Goes on with requests that waited for memory, or for another operation to end.
    fn pump(&mut self) {
        self.make_room(0);
        self.pump_stalled();
        self.pump_evictions();
        self.pump_writes();
        self.pump_syncs();
        self.pump_throttled();
        self.pump_wants();
        self.pump_prefetches();
        self.replenish();
        self.spare_ahead();
    }

    fn reply(&mut self, ticket: Ticket, result: Result<(), Failure>) {
        self.actions.push_back(CoreAction::Reply { ticket, result });
    }

    /// The widest run that is read at once: small budgets are not spent on one.
    pub(crate) fn max_run(&self) -> u32 {
        let share = (self.limits.budget / 32).clamp(1, u64::from(readahead::WIDEST)) as u32;
        1 << share.ilog2()
    }
}
