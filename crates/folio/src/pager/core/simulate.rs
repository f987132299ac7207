//! A simulator of everything around the core: programs and devices that load and store, sources
//! that are slow, fail, are short, change their version and answer in any order, maps that a page
//! enters and leaves, and a crash after which the next process finds what was durable. Every
//! schedule follows from a seed, and every invariant is checked at every step.
//!
//! `FOLIO_EFFORT` says how many schedules run, from the seed `FOLIO_FIRST` on. `FOLIO_SEED` replays
//! one, and `FOLIO_TRACE` prints all of its events and actions (docs/testing.md).

use super::extents::{Extent, ExtentState};
use super::{
    AccessPattern, Backing, Core, CoreAction, CoreEvent, ExtentId, Failure, FailureReason, Limits,
    ObjectId, ObjectTraits, PageRun, PinnedRange, Stability, StoreAccess, Ticket,
};
use crate::effort::{number, scaled};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};

struct Random(u64);

impl Random {
    /// splitmix64 (Steele et al., 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        n != 0 && self.below(n) == 0
    }
}

/// One page of a map.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    value: u64,
    writable: bool,
}

#[derive(Debug)]
struct Thread {
    object: ObjectId,
    /// The page and whether it is stored to, while the thread waits.
    blocked: Option<(u64, bool)>,
    since: u64,
}

#[derive(Debug, Clone)]
enum PlayedOutcome {
    Read(ExtentId, PageRun, Backing),
    Write(ExtentId, PageRun, Backing),
    /// The state of the source when it begins: a write that ends later may not be durable after it.
    Flush(BTreeMap<u64, u64>),
    /// A thread's fault is read.
    Fault(usize),
    /// The answer of an immediate action, a moment later.
    Event(
        fn(ExtentId, Result<(), FailureReason>) -> CoreEvent,
        ExtentId,
        Result<(), FailureReason>,
    ),
}

#[derive(Debug)]
struct Pending {
    object: ObjectId,
    at: u64,
    outcome: PlayedOutcome,
}

#[derive(Debug)]
struct World {
    traits: ObjectTraits,
    pages: u64,
    map: HashMap<u64, Mapped>,
    poisoned: HashMap<u64, FailureReason>,
    buffers: HashMap<ExtentId, (PageRun, Vec<u64>)>,
    /// Of these, buffers that are not the map's own memory though others of the object are.
    beside: BTreeSet<ExtentId>,
    writing: Vec<PageRun>,
    source: BTreeMap<u64, u64>,
    durable: BTreeMap<u64, u64>,
    spill: BTreeMap<u64, u64>,
    /// The values that a load must see.
    expected: BTreeMap<u64, u64>,
    /// The values that syncs have reported as durable.
    promised: BTreeMap<u64, u64>,
    /// The source has another version than when it was attached: reads of a map that shows one
    /// version fail.
    changed: bool,
    detached: bool,
}

impl World {
    /// Nothing of it is in memory.
    fn new(pages: u64, traits: ObjectTraits, source: BTreeMap<u64, u64>) -> Self {
        Self {
            traits,
            pages,
            map: HashMap::new(),
            poisoned: HashMap::new(),
            buffers: HashMap::new(),
            beside: BTreeSet::new(),
            writing: Vec::new(),
            durable: source.clone(),
            expected: source.clone(),
            promised: BTreeMap::new(),
            changed: false,
            source,
            spill: BTreeMap::new(),
            detached: false,
        }
    }
}

struct Simulation {
    random: Random,
    core: Core,
    worlds: BTreeMap<ObjectId, World>,
    threads: Vec<Thread>,
    pending: Vec<Pending>,
    now: u64,
    tickets: BTreeMap<Ticket, (ObjectId, Asked)>,
    next_ticket: u64,
    pins: Vec<(ObjectId, PinnedRange)>,
    /// One in so many operations fails; 0: none.
    errors: u64,
    may_fail: bool,
    /// `FOLIO_TRACE`: every event and action is printed.
    traced: bool,
    budget: u64,
    stored: u64,
    resize: Option<PendingResize>,
    /// How a step of it ended.
    resized: Option<Result<(), Failure>>,
    /// A resize failed half-way: the program ends there.
    ended: bool,
    /// Its writes fail, and it is only stored to; the others are only read.
    unwritable: Option<ObjectId>,
}

#[derive(Debug)]
enum Asked {
    Pin(PinnedRange),
    Sync(u64, u64, BTreeMap<u64, u64>),
    Evict,
    Resize,
}

/// A map that gets another length, by the steps that its handle takes, and by no other program
/// meanwhile.
#[derive(Debug, Clone, Copy)]
struct PendingResize {
    object: ObjectId,
    pages: u64,
    step: u64,
}

const DEADLINE: u64 = 50_000;

fn limits(budget: u64) -> Limits {
    Limits { budget, dirty_age: 5_000, page: 1 << 30 }
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let budget = 8 + random.below(120);
        // A page of a gibibyte: the records take none, so that the budget is exact.
        let mut core = Core::new(limits(budget));
        let mut worlds = BTreeMap::new();
        for n in 0..=random.below(3) {
            let tracked = random.one_in(2);
            let traits = ObjectTraits {
                tracked,
                private: tracked && random.one_in(3),
                shares_buffer: random.one_in(2),
                block: 1 << random.below(3),
                cut: 1 << random.below(3),
                deadline: DEADLINE,
            };
            let pages = 1 + random.below(1_200);
            let source: BTreeMap<u64, u64> = (0..pages).map(|page| (page, page + 1)).collect();
            let id = ObjectId(n as u32);
            core.handle(CoreEvent::Attach { object: id, pages, traits });
            let world = World::new(pages, traits, source);
            worlds.insert(id, world);
        }
        let objects = worlds.len() as u64;
        let threads = (0..=random.below(4))
            .map(|n| Thread { object: ObjectId((n % objects) as u32), blocked: None, since: 0 })
            .collect();
        let errors = [0, 0, 50, 8][random.below(4) as usize];
        Self {
            random,
            core,
            worlds,
            threads,
            pending: Vec::new(),
            now: 0,
            tickets: BTreeMap::new(),
            next_ticket: 0,
            pins: Vec::new(),
            errors,
            may_fail: errors > 0,
            traced: std::env::var_os("FOLIO_TRACE").is_some(),
            budget,
            stored: 1_000_000,
            resize: None,
            resized: None,
            ended: false,
            unwritable: None,
        }
    }

    fn event(&mut self, event: CoreEvent) {
        if self.traced {
            eprintln!("{:>8} {event:?}", self.now);
        }
        self.core.set_now(self.now);
        self.core.handle(event);
        self.act();
    }

    fn later(&mut self, object: ObjectId, most: u64, outcome: PlayedOutcome) {
        let at = self.now + 1 + self.random.below(most);
        self.pending.push(Pending { object, at, outcome });
    }

    fn answer(
        &mut self,
        object: ObjectId,
        event: fn(ExtentId, Result<(), FailureReason>) -> CoreEvent,
        extent: ExtentId,
        result: Result<(), FailureReason>,
    ) {
        let most = if self.random.one_in(4) { 200 } else { 1 };
        self.later(object, most, PlayedOutcome::Event(event, extent, result));
    }

    /// The core's count is that of its extents.
    fn check_counts(&self) {
        let used: u64 = (self.core.extents.iter())
            .map(|(_, extent)| {
                let len = u64::from(extent.run.len);
                let inside = matches!(
                    extent.place,
                    ExtentState::Installed | ExtentState::Installing | ExtentState::Copying
                );
                assert!(inside || !extent.copied, "a copy beside nothing: {extent:?}");
                len * (1 + u64::from(extent.copied))
            })
            .sum();
        assert_eq!(used, self.core.used(), "the count of pages is not that of the extents");
        let dirty: u64 = (self.core.extents.iter())
            .map(|(_, f)| if f.dirty { f.run.len.into() } else { 0 })
            .sum();
        assert_eq!(dirty, self.core.dirty(), "the count of dirty pages is not that of the extents");
        let dirty: u64 = self.core.objects.values().map(|object| object.dirty).sum();
        assert_eq!(dirty, self.core.dirty(), "the count of dirty pages is not that of the objects");
        let writing: u64 = self.core.objects.values().map(|object| object.writing).sum();
        assert_eq!(
            writing, self.core.writing,
            "the count of pages being written is not that of the objects"
        );
        let held: u64 = self.core.objects.values().map(|object| object.pins.held()).sum();
        assert_eq!(
            held, self.core.held,
            "the count of pages pinned for stores is not that of the objects"
        );
        let reading: u64 = self.core.objects.values().map(|object| object.reading).sum();
        assert_eq!(
            reading, self.core.reading,
            "the count of pages being read is not that of the objects"
        );
        let ahead = super::readahead_share::counted(&self.core.extents);
        assert_eq!(
            ahead, self.core.ahead,
            "the count of pages read ahead is not that of the extents"
        );
    }

    fn act(&mut self) {
        self.check_counts();
        while let Some(action) = self.core.next_action() {
            if self.traced {
                eprintln!("{:>8}   {action:?}", self.now);
            }
            self.perform(action);
            self.check();
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm an action")]
    fn perform(&mut self, action: CoreAction) {
        match action {
            CoreAction::Read { extent, object, run, from } => {
                let world = self.worlds.get_mut(&object).unwrap();
                assert!(run.end() <= world.pages, "a read past the end: {run:?}");
                assert_eq!(run.first >> 9, (run.end() - 1) >> 9, "{run:?} crosses a chunk");
                let old = world.buffers.insert(extent, (run, vec![0; run.len as usize]));
                assert!(old.is_none(), "{extent:?} has a buffer already");
                let most = if self.random.one_in(300) { 3 * DEADLINE } else { 500 };
                self.later(object, most, PlayedOutcome::Read(extent, run, from));
            }
            CoreAction::Install { extent, object, run, mode, keep } => {
                let refused = self.errors > 0 && self.random.one_in(400);
                let world = self.worlds.get_mut(&object).unwrap();
                if !refused {
                    let (held, bytes) = world.buffers[&extent].clone();
                    assert_eq!(held, run, "the buffer is of other pages");
                    assert_eq!(world.traits.tracked, mode != StoreAccess::ReadOnly);
                    for (page, value) in (run.first..).zip(bytes) {
                        assert!(!world.poisoned.contains_key(&page), "{page} is poisoned");
                        let old = world.map.insert(
                            page,
                            Mapped { value, writable: mode == StoreAccess::Writable },
                        );
                        assert!(old.is_none(), "{page} is in the map already");
                    }
                    let being_written =
                        world.writing.iter().any(|w| w.first < run.end() && run.first < w.end());
                    assert_eq!(keep, being_written, "a buffer that is being written stays");
                    if !keep {
                        world.buffers.remove(&extent);
                    }
                    self.wake(object, run);
                }
                let result =
                    if refused { Err(FailureReason::Refused { errno: 12 }) } else { Ok(()) };
                self.answer(
                    object,
                    |extent, result| CoreEvent::Installed { extent, result },
                    extent,
                    result,
                );
            }
            CoreAction::TakeOut { extent, object, run, bytes } => {
                let busy = self.errors > 0 && self.random.one_in(30);
                let world = self.worlds.get_mut(&object).unwrap();
                let still = (run.first..run.end()).all(|page| !world.map[&page].writable);
                assert!(
                    bytes != Stability::Unchanging || still,
                    "{run:?} may be stored to while it is copied"
                );
                if !busy {
                    let bytes = (run.first..run.end())
                        .map(|page| world.map.remove(&page).unwrap().value)
                        .collect();
                    let old = world.buffers.insert(extent, (run, bytes));
                    assert!(old.is_none(), "{extent:?} has a buffer already");
                } else if world.traits.tracked {
                    // Put back, without the protection.
                    (run.first..run.end())
                        .for_each(|page| world.map.get_mut(&page).unwrap().writable = true);
                }
                let result = if busy { Err(FailureReason::Busy) } else { Ok(()) };
                self.answer(
                    object,
                    |extent, result| CoreEvent::TakenOut { extent, result },
                    extent,
                    result,
                );
            }
            CoreAction::Copy { extent, object, run, protect } => {
                let busy = self.errors > 0 && self.random.one_in(30);
                let world = self.worlds.get_mut(&object).unwrap();
                let mut bytes = Vec::new();
                for page in run.first..run.end() {
                    let mapped = world.map.get_mut(&page).unwrap();
                    mapped.writable = busy || !protect;
                    bytes.push(mapped.value);
                }
                if !busy {
                    let old = world.buffers.insert(extent, (run, bytes));
                    assert!(old.is_none(), "{extent:?} has a buffer already");
                    if world.traits.shares_buffer && !protect {
                        world.beside.insert(extent);
                    }
                }
                let result = if busy { Err(FailureReason::Busy) } else { Ok(()) };
                self.answer(
                    object,
                    |extent, result| CoreEvent::Copied { extent, result },
                    extent,
                    result,
                );
            }
            CoreAction::Unprotect { object, run } => {
                let world = self.worlds.get_mut(&object).unwrap();
                for page in run.first..run.end() {
                    let mapped =
                        world.map.get_mut(&page).expect("only pages in the map are unprotected");
                    mapped.writable = true;
                }
                self.wake(object, run);
            }
            CoreAction::Write { extent, object, run, to } => {
                let world = self.worlds.get_mut(&object).unwrap();
                assert!(world.traits.tracked && (to == Backing::Spill) == world.traits.private);
                assert!(run.end() <= world.pages);
                assert_eq!(world.buffers[&extent].0, run);
                assert!(
                    !world.writing.iter().any(|w| w.first < run.end() && run.first < w.end()),
                    "two writes overlap"
                );
                world.writing.push(run);
                let most = if self.random.one_in(300) { 2 * DEADLINE } else { 1_000 };
                self.later(object, most, PlayedOutcome::Write(extent, run, to));
            }
            CoreAction::Discard { extent, object, run, last, .. } => {
                let world = self.worlds.get_mut(&object).unwrap();
                assert!(!world.writing.contains(&run), "a buffer goes while it is being written");
                assert!(!last || (run.first..run.end()).all(|page| !world.map.contains_key(&page)));
                world.buffers.remove(&extent).expect("a buffer is discarded once");
                world.beside.remove(&extent);
            }
            CoreAction::Flush { object } => {
                let source = self.worlds[&object].source.clone();
                self.later(object, 500, PlayedOutcome::Flush(source));
            }
            CoreAction::Poison { object, page, reason } => {
                self.worlds.get_mut(&object).unwrap().poisoned.insert(page, reason.clone());
                assert!(
                    self.may_fail
                        || reason == FailureReason::Deadline
                        || reason == FailureReason::NoMemory,
                    "{reason:?} without cause"
                );
                let lacks =
                    matches!(reason, FailureReason::NoMemory | FailureReason::Unwritten { .. });
                assert!(
                    self.unwritable.is_none_or(|unwritable| unwritable == object) || !lacks,
                    "page {page} of {object:?} is not read for another's writes: {reason:?}\n{}",
                    self.story()
                );
                let world = &self.worlds[&object];
                assert!(!world.map.contains_key(&page), "page {page} is poisoned in the map");
                for thread in self.threads.iter_mut().filter(|thread| thread.object == object) {
                    if thread.blocked.is_some_and(|(wanted, _)| wanted == page) {
                        thread.blocked = None;
                    }
                }
            }
            CoreAction::Unpoison { object, page } => {
                self.worlds
                    .get_mut(&object)
                    .unwrap()
                    .poisoned
                    .remove(&page)
                    .expect("only what is poisoned");
            }
            CoreAction::Wake { object, run } => self.wake(object, run),
            CoreAction::Reply { ticket, result } => self.replied(ticket, result),
            CoreAction::Detached { object } => {
                let world = self.worlds.get_mut(&object).unwrap();
                assert!(
                    world.map.is_empty() && world.buffers.is_empty() && world.writing.is_empty()
                );
                world.detached = true;
            }
        }
    }

    /// Threads that wait for these pages try again, as the kernel lets them.
    fn wake(&mut self, object: ObjectId, run: PageRun) {
        for n in 0..self.threads.len() {
            let thread = &self.threads[n];
            if thread.object == object
                && let Some((page, write)) = thread.blocked
                && run.holds(page)
            {
                self.threads[n].blocked = None;
                self.access_later(n, page, write);
            }
        }
    }

    fn access_later(&mut self, n: usize, page: u64, write: bool) {
        // The fault's own event must not come in the middle of the actions: it is queued as the
        // kernel does.
        let object = self.threads[n].object;
        let world = self.worlds.get_mut(&object).unwrap();
        match world.map.get_mut(&page) {
            Some(mapped) if !write || mapped.writable => {
                assert_eq!(
                    mapped.value, world.expected[&page],
                    "page {page} shows other bytes than were stored"
                );
                if write {
                    self.stored += 1;
                    mapped.value = self.stored;
                    world.expected.insert(page, self.stored);
                    if world.traits.shares_buffer && world.writing.iter().any(|w| w.holds(page)) {
                        let extent = self.core.objects[&object].table.extent_at(page).unwrap();
                        assert!(
                            world.beside.contains(&extent),
                            "page {page} changed while it was written"
                        );
                    }
                }
            }
            _ if world.poisoned.contains_key(&page) => {}
            _ => {
                self.threads[n].blocked = Some((page, write));
                let at = self.now + 1;
                self.pending.push(Pending { object, at, outcome: PlayedOutcome::Fault(n) });
            }
        }
    }

    fn replied(&mut self, ticket: Ticket, result: Result<(), Failure>) {
        let (object, asked) = self.tickets.remove(&ticket).expect("one reply a ticket");
        let world = self.worlds.get_mut(&object).unwrap();
        match (asked, result) {
            (Asked::Pin(pin), Ok(())) => {
                for page in pin.first..pin.end {
                    assert!(
                        world.map.contains_key(&page),
                        "page {page} is pinned and not in the map"
                    );
                }
                self.pins.push((object, pin));
            }
            (Asked::Sync(first, end, at_call), Ok(())) if !world.traits.private => {
                for (page, value) in at_call.range(first..end) {
                    let durable = world.durable[page];
                    assert!(
                        durable >= *value,
                        "page {page}: {durable} is durable, {value} was synced"
                    );
                    world.promised.insert(*page, durable);
                }
            }
            (Asked::Resize, result) => self.resized = Some(result),
            (Asked::Sync(..) | Asked::Pin(_), Err(failure)) => {
                let allowed = matches!(
                    failure.reason,
                    FailureReason::Deadline | FailureReason::NoMemory | FailureReason::PastEnd
                );
                assert!(self.may_fail || allowed, "{failure:?} without cause");
            }
            _ => {}
        }
    }

    /// The invariants of every step.
    fn check(&self) {
        let mut used = 0;
        for (id, world) in &self.worlds {
            let buffers: u64 = world.buffers.iter().map(|(_, (run, _))| u64::from(run.len)).sum();
            used += world.map.len() as u64
                + if world.traits.shares_buffer {
                    // A buffer is the map's own page, where it is in the map.
                    let outside = |run: &PageRun| {
                        (run.first..run.end()).filter(|page| !world.map.contains_key(page)).count()
                            as u64
                    };
                    let pages = |(extent, (run, _)): (&ExtentId, &(PageRun, Vec<u64>))| {
                        if world.beside.contains(extent) {
                            u64::from(run.len)
                        } else {
                            outside(run)
                        }
                    };
                    world.buffers.iter().map(pages).sum()
                } else {
                    buffers
                };
            for &(object, pin) in self.pins.iter().filter(|pin| pin.0 == *id) {
                let there = (pin.first..pin.end).all(|page| world.map.contains_key(&page));
                assert!(there, "pages of {pin:?} of {object:?} left the map");
            }
        }
        // Memory that an action takes is counted before the action, and memory that it gives back
        // after it.
        assert!(
            used <= self.core.used().max(self.budget),
            "{used} in use, {} counted",
            self.core.used()
        );
        assert!(
            used <= self.budget,
            "{used} pages in use of {}, {} counted",
            self.budget,
            self.core.used()
        );
    }

    fn ticket(&mut self, object: ObjectId, asked: Asked) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.tickets.insert(ticket, (object, asked));
        ticket
    }

    /// No page is lost: the value that a load must see is in the map, in a buffer, or where the
    /// core reads it from.
    fn check_one_page(&mut self) {
        let at = self.random.below(self.worlds.len() as u64) as usize;
        let (&object, world) = self.worlds.iter().nth(at).unwrap();
        let page = self.random.below(world.pages);
        if self.resize.is_some_and(|resize| resize.object == object && resize.pages <= page) {
            return;
        }
        let want = world.expected[&page];
        if let Some(mapped) = world.map.get(&page) {
            return assert_eq!(mapped.value, want, "page {page} of {object:?} in the map");
        }
        let is_wanted = |value: Option<&u64>| value == Some(&want);
        let in_buffer = world.buffers.values().any(|(run, values)| {
            run.holds(page) && is_wanted(values.get((page - run.first) as usize))
        });
        let backing = is_wanted(world.spill.get(&page)) || is_wanted(world.source.get(&page));
        assert!(
            in_buffer || backing,
            "page {page} of {object:?} is nowhere: {want}\n{}",
            self.story()
        );
    }

    /// The process dies, and the machine with it: any part of the written and unflushed bytes may
    /// be durable. The next process finds all bytes that a sync had promised.
    fn crash(&mut self) {
        if self.traced {
            eprintln!("{:>8} crash", self.now);
        }
        self.core = Core::new(limits(self.budget));
        self.pending.clear();
        self.tickets.clear();
        self.pins.clear();
        (self.resize, self.resized) = (None, None);
        for thread in &mut self.threads {
            thread.blocked = None;
        }
        let objects: Vec<ObjectId> = self.worlds.keys().copied().collect();
        for object in objects {
            let world = self.worlds.get_mut(&object).unwrap();
            // Writes that were under way, too.
            let mut written = world.source.clone();
            if !world.traits.private {
                for (run, values) in
                    world.buffers.values().filter(|(run, _)| world.writing.contains(run))
                {
                    for (page, value) in (run.first..).zip(values) {
                        written.insert(page, *value);
                    }
                }
            }
            for (page, value) in &mut written {
                if self.random.one_in(2) {
                    *value = world.durable[page];
                }
                if self.random.one_in(2) && world.source[page] < *value {
                    *value = world.source[page];
                }
            }
            for (page, promised) in &world.promised {
                let found = written[page];
                assert!(
                    found >= *promised,
                    "page {page} has {found} after a crash, {promised} was synced"
                );
            }
            let untouched = written.iter().all(|(page, value)| *value == page + 1);
            assert!(
                untouched || (world.traits.tracked && !world.traits.private),
                "nobody may write to {object:?}"
            );
            let (pages, traits) = (world.pages, world.traits);
            *world = World::new(pages, traits, written);
            self.core.handle(CoreEvent::Attach { object, pages, traits });
        }
    }

    /// The next step of a resize: the last page that stays is written, with all pages that came in
    /// one run with it, pages behind it are dropped, and the source is cut or grows.
    fn resize(&mut self, resize: PendingResize) {
        let PendingResize { object, pages, step } = resize;
        let old = self.worlds[&object].pages;
        let last = pages.min(old) - 1;
        if step == 4 || (step == 2 && pages >= old) {
            self.resize = None;
            let world = self.worlds.get_mut(&object).unwrap();
            for values in [&mut world.source, &mut world.durable, &mut world.expected] {
                values.retain(|&page, _| page < pages);
                values.extend((old..pages).map(|page| (page, 0)));
            }
            world.promised.retain(|&page, _| page < pages);
            world.pages = pages;
            return self.event(CoreEvent::Resized { object, pages });
        }
        self.resize = Some(PendingResize { step: step + 1, ..resize });
        let ticket = self.ticket(object, Asked::Resize);
        let evict = |first, end, discard| CoreEvent::Evict { object, first, end, discard, ticket };
        self.event(match step {
            0 => CoreEvent::Sync { object, first: last, end: last + 1, flush: true, ticket },
            2 => evict(pages, old, true),
            _ => evict(last, last + 1, false),
        });
    }

    fn go_on_with_resize(&mut self) {
        match (self.resize, self.resized.take()) {
            (Some(resize), Some(Ok(()))) => self.resize(resize),
            // Refused: the map is as it was, unless something of it was dropped already.
            (Some(resize), Some(Err(_))) => (self.resize, self.ended) = (None, resize.step > 2),
            _ => {}
        }
    }

    fn step(&mut self) {
        self.go_on_with_resize();
        if self.ended {
            return;
        }
        self.check_one_page();
        let due: Vec<usize> =
            (0..self.pending.len()).filter(|&n| self.pending[n].at <= self.now).collect();
        if !due.is_empty() {
            let which = due[self.random.below(due.len() as u64) as usize];
            let pending = self.pending.swap_remove(which);
            return self.complete(pending);
        }
        self.now += 1 + self.random.below(40);
        if self.random.one_in(10) {
            let now = self.now;
            return self.event(CoreEvent::Tick { now });
        }
        let n = self.random.below(self.threads.len() as u64) as usize;
        let object = self.threads[n].object;
        if self.threads[n].blocked.is_none()
            && self.resize.is_none_or(|resize| resize.object != object)
        {
            self.program(n);
        }
    }

    /// The next step of a program.
    fn program(&mut self, n: usize) {
        let object = self.threads[n].object;
        let world = &self.worlds[&object];
        let (pages, tracked) = (world.pages, world.traits.tracked);
        let page = if self.random.one_in(2) {
            (self.threads[n].since + 1) % pages
        } else {
            self.random.below(pages)
        };
        self.threads[n].since = page;
        let end = (page + 1 + self.random.below(20)).min(pages);
        if let Some(unwritable) = self.unwritable {
            return self.access_later(n, page, object == unwritable);
        }
        match self.random.below(40) {
            0 => {
                let pin = PinnedRange { first: page, end, stores: self.random.one_in(2) };
                let ticket = self.ticket(object, Asked::Pin(pin));
                self.event(CoreEvent::Pin { object, pin, ticket });
            }
            1 | 2 => {
                if let Some(at) = self.pins.iter().position(|pin| pin.0 == object) {
                    let (object, pin) = self.pins.swap_remove(at);
                    self.event(CoreEvent::Unpin { object, pin });
                }
            }
            3 => {
                let runs = vec![(page, end), (0, 1 + self.random.below(pages))];
                self.event(CoreEvent::Prefetch { object, runs });
            }
            4 => {
                let expected = self.worlds[&object].expected.clone();
                let (first, end) = if self.random.one_in(2) { (0, pages) } else { (page, end) };
                let ticket = self.ticket(object, Asked::Sync(first, end, expected));
                self.event(CoreEvent::Sync { object, first, end, flush: true, ticket });
            }
            9 | 10 => self.device(object),
            12 if tracked && !self.worlds[&object].traits.private => {
                let idle = |thread: &Thread| thread.object != object || thread.blocked.is_none();
                let alone = self.resize.is_none()
                    && self.threads.iter().all(idle)
                    && self.pins.iter().all(|pin| pin.0 != object)
                    && self.tickets.values().all(|(other, _)| *other != object);
                if alone {
                    let pages = 1 + self.random.below(1_200);
                    self.resize(PendingResize { object, pages, step: 0 });
                }
            }
            11 if self.errors > 0 && self.random.one_in(20) => {
                self.worlds.get_mut(&object).unwrap().changed = true;
            }
            7 => {
                // Raised and lowered again: the budget that the checks hold it to is the highest.
                let pages = self.budget - self.random.below(self.budget / 4);
                self.event(CoreEvent::Budget { pages });
            }
            8 => {
                let extents = self.random.below(10) as u32;
                self.event(CoreEvent::Relieve { extents });
            }
            5 => {
                let ticket = self.ticket(object, Asked::Evict);
                self.event(CoreEvent::Evict { object, first: page, end, discard: false, ticket });
            }
            6 => {
                let pattern =
                    [AccessPattern::Normal, AccessPattern::Sequential, AccessPattern::Random]
                        [self.random.below(3) as usize];
                self.event(CoreEvent::Advise { object, pattern });
            }
            _ => {
                let write = tracked && self.random.one_in(2);
                self.access_later(n, page, write);
            }
        }
    }

    /// A device stores to a page that is pinned for stores: without a fault, whatever is under way.
    fn device(&mut self, object: ObjectId) {
        let held = |pin: &&(ObjectId, PinnedRange)| pin.0 == object && pin.1.stores;
        let Some(&(_, pin)) = self.pins.iter().find(held) else { return };
        let page = pin.first + self.random.below(pin.end - pin.first);
        let extent =
            self.core.objects[&object].table.extent_at(page).map(|id| &self.core.extents[id]);
        let world = self.worlds.get_mut(&object).unwrap();
        // The driver copies in one step; here the end of it may be still to come.
        let copying = extent.is_some_and(|extent| extent.place == ExtentState::Copying);
        if !world.traits.tracked || copying {
            return;
        }
        let mapped = world.map.get_mut(&page).expect("pinned pages are in the map");
        assert!(mapped.writable, "page {page} of {pin:?} is protected");
        self.stored += 1;
        mapped.value = self.stored;
        world.expected.insert(page, self.stored);
    }

    fn complete(&mut self, pending: Pending) {
        let object = pending.object;
        let write = matches!(pending.outcome, PlayedOutcome::Write(..));
        let failed = self.random.one_in(self.errors) || (write && self.unwritable == Some(object));
        match pending.outcome {
            PlayedOutcome::Fault(thread) => {
                if let Some((page, write)) = self.threads[thread].blocked {
                    self.event(CoreEvent::Fault { object, page, write });
                }
            }
            PlayedOutcome::Event(make, extent, result) => self.event(make(extent, result)),
            PlayedOutcome::Read(extent, run, from) => {
                let world = &self.worlds[&object];
                let shows_one_version = !world.traits.tracked || world.traits.private;
                let result = if world.changed && from == Backing::Source && shows_one_version {
                    Err(FailureReason::Changed)
                } else if failed {
                    let reasons = [
                        FailureReason::Short,
                        FailureReason::Changed,
                        FailureReason::Source { message: "broken".into(), errno: Some(5) },
                    ];
                    Err(reasons[self.random.below(3) as usize].clone())
                } else {
                    let world = self.worlds.get_mut(&object).unwrap();
                    let values = if from == Backing::Spill { &world.spill } else { &world.source };
                    let bytes = (run.first..run.end()).map(|page| values[&page]).collect();
                    world
                        .buffers
                        .insert(extent, (run, bytes))
                        .expect("the buffer stays until the read ends");
                    Ok(())
                };
                self.event(CoreEvent::ReadDone { extent, result });
            }
            PlayedOutcome::Write(extent, run, to) => {
                let world = self.worlds.get_mut(&object).unwrap();
                world.writing.retain(|other| *other != run);
                let bytes = world.buffers[&extent].1.clone();
                let values =
                    if to == Backing::Spill { &mut world.spill } else { &mut world.source };
                for (page, value) in (run.first..).zip(bytes) {
                    // A write that fails may have come to any of its pages.
                    if failed && self.random.one_in(2) {
                        continue;
                    }
                    let old = values.insert(page, value).unwrap_or(0);
                    assert!(
                        old <= value,
                        "page {page}: {value} is written over {old}, which is newer"
                    );
                }
                let result = if failed {
                    Err(FailureReason::Source { message: "full".into(), errno: Some(28) })
                } else {
                    Ok(())
                };
                self.event(CoreEvent::WriteDone { extent, result });
            }
            PlayedOutcome::Flush(source) => {
                let result = if failed {
                    Err(FailureReason::Source { message: "not durable".into(), errno: Some(5) })
                } else {
                    self.worlds.get_mut(&object).unwrap().durable = source;
                    Ok(())
                };
                self.event(CoreEvent::Flushed { object, result });
            }
        }
    }

    /// Everything ends: no thread waits for ever, no ticket is forgotten, and the stored bytes are
    /// in the source.
    fn finish(&mut self) {
        self.errors = 0;
        for _ in 0..400_000 {
            let busy = !self.pending.is_empty()
                || self.threads.iter().any(|thread| thread.blocked.is_some())
                || !self.tickets.is_empty();
            if !busy {
                break;
            }
            self.now += 1_000;
            self.errors = 0;
            let due = (0..self.pending.len()).find(|&n| self.pending[n].at <= self.now);
            if let Some(due) = due {
                let pending = self.pending.swap_remove(due);
                self.complete(pending);
            } else {
                let now = self.now;
                self.event(CoreEvent::Tick { now });
            }
        }
        assert!(self.tickets.is_empty(), "no answer: {:?}", self.tickets);
        assert!(
            self.threads.iter().all(|thread| thread.blocked.is_none()),
            "waits for ever: {:?}\n{}",
            self.threads,
            self.story()
        );
    }

    /// The core's state of the pages that threads wait for.
    fn story(&self) -> String {
        let blocked =
            self.threads.iter().filter_map(|thread| Some((thread.object, thread.blocked?.0)));
        let told = blocked.map(|(object, page)| {
            let this = &self.core.objects[&object];
            let extent = this.table.extent_at(page).map(|extent| &self.core.extents[extent]);
            format!("{object:?} {:?} of {} pages, page {page}: {extent:?}", this.traits, this.pages)
        });
        let core = &self.core;
        let memory = format!(
            "stalled {:?}, used {} of {}, dirty {}, writing {}, leaving {}",
            core.stalled,
            core.used,
            core.limit(),
            core.dirty,
            core.writing,
            core.leaving
        );
        let mut kinds = BTreeMap::new();
        for (_, extent) in core.extents.iter() {
            let Extent { object, place, dirty, writing, .. } = extent;
            *kinds
                .entry(format!("{object:?} {place:?}, dirty {dirty}, writing {writing}"))
                .or_insert(0) += extent.run.len;
        }
        told.chain([memory, format!("pages by state: {kinds:?}")]).collect::<Vec<_>>().join("\n")
    }

    fn run(&mut self) {
        let steps = 100 + self.random.below(900);
        let errors = self.errors;
        let crash = if self.random.one_in(3) { Some(self.random.below(steps)) } else { None };
        for step in 0..steps {
            if crash == Some(step) {
                self.crash();
            }
            self.step();
            if self.ended {
                return;
            }
        }
        self.finish();
        while self.resize.is_some() && !self.ended {
            self.go_on_with_resize();
            self.finish();
        }
        if self.ended {
            return;
        }
        // Poison is an allowed end; the pages that are left must be right.
        for pin in std::mem::take(&mut self.pins) {
            self.event(CoreEvent::Unpin { object: pin.0, pin: pin.1 });
        }
        let objects: Vec<ObjectId> = self.worlds.keys().copied().collect();
        for &object in &objects {
            let (pages, expected) =
                (self.worlds[&object].pages, self.worlds[&object].expected.clone());
            for _ in 0..3 {
                let ticket = self.ticket(object, Asked::Sync(0, pages, expected.clone()));
                self.event(CoreEvent::Sync { object, first: 0, end: pages, flush: true, ticket });
                self.finish();
            }
            let world = &self.worlds[&object];
            if !world.traits.private && world.traits.tracked {
                assert_eq!(world.durable, world.expected, "a store was lost (errors {errors})");
            }
            if world.traits.private {
                assert!(
                    world.source.iter().all(|(page, value)| *value == page + 1),
                    "a private store reached the source"
                );
            }
            self.event(CoreEvent::Detach { object });
            self.finish();
            assert!(self.worlds[&object].detached, "{object:?} is not let go");
        }
        assert_eq!((self.core.used(), self.core.dirty(), self.core.pinned()), (0, 0, 0));
    }
}

/// One map takes all the stores that it may, and its writes fail; another is read meanwhile.
#[test]
fn reads_of_a_map_never_lack_memory_for_anothers_failing_writes() {
    let (mut refused, mut read) = (0, 0);
    let schedules = scaled(60);
    for seed in 0..schedules {
        let mut this = Simulation::new(seed);
        this.core = Core::new(limits(this.budget));
        this.worlds.clear();
        for n in 0..2_u32 {
            let (tracked, deadline) = (n == 0, DEADLINE);
            let private = tracked && seed % 2 == 1;
            let shares_buffer = seed % 4 < 2;
            let traits =
                ObjectTraits { tracked, private, shares_buffer, block: 1, cut: 1, deadline };
            let source = (0..400).map(|page| (page, page + 1)).collect();
            this.core.handle(CoreEvent::Attach { object: ObjectId(n), pages: 400, traits });
            this.worlds.insert(ObjectId(n), World::new(400, traits, source));
        }
        let thread = |n| Thread { object: ObjectId(n), blocked: None, since: 0 };
        this.threads = vec![thread(0), thread(0), thread(1)];
        (this.errors, this.may_fail, this.unwritable) = (0, true, Some(ObjectId(0)));
        for _ in 0..30_000 {
            this.step();
        }
        let unwritten = |reason: &&FailureReason| {
            matches!(reason, FailureReason::Unwritten { errno: Some(28), .. })
        };
        refused +=
            u64::from(this.worlds[&ObjectId(0)].poisoned.values().any(|reason| unwritten(&reason)));
        read += this.core.counts().pages_read;
        // The kept pages are written as soon as writes succeed.
        this.unwritable = None;
        this.finish();
        let expected = this.worlds[&ObjectId(0)].expected.clone();
        for _ in 0..3 {
            let ticket = this.ticket(ObjectId(0), Asked::Sync(0, 400, expected.clone()));
            this.event(CoreEvent::Sync {
                object: ObjectId(0),
                first: 0,
                end: 400,
                flush: true,
                ticket,
            });
            this.finish();
        }
        let world = &this.worlds[&ObjectId(0)];
        assert!(
            world.traits.private || world.durable == world.expected,
            "a store was lost (seed {seed})"
        );
    }
    assert!(
        refused == schedules && read > schedules * 400,
        "{refused} schedules refused a store; {read} pages were read"
    );
}

#[test]
fn every_schedule_keeps_the_invariants() {
    let schedules = scaled(400);
    let first = number("FOLIO_FIRST").unwrap_or(1);
    let seeds = number("FOLIO_SEED").map_or(first..first + schedules, |seed| seed..seed + 1);
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(schedules) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = std::panic::catch_unwind(|| Simulation::new(seed).run());
                    if let Err(panic) = result {
                        next.store(seeds.end, Ordering::Relaxed);
                        eprintln!("FOLIO_SEED={seed} replays this schedule");
                        std::panic::resume_unwind(panic);
                    }
                }
            });
        }
    });
}
