//! Scans in a simulated world: the bytes that are read for the bytes that exist, at any budget,
//! speed and number of streams.
//!
//! Every schedule follows from a seed. `FOLIO_EFFORT` says how many are run, from `FOLIO_FIRST` on.

use super::{
    AccessPattern, Core, CoreAction, CoreEvent, Limits, ObjectId, ObjectTraits, PinnedRange, Ticket,
};
use crate::effort::{number, scaled};
use std::collections::{BTreeMap, HashSet};

/// splitmix64 (Steele et al., 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A program's thread that reads pages in order.
#[derive(Debug, Clone)]
struct ScanReader {
    object: ObjectId,
    at: u64,
    left: u64,
    backwards: bool,
    /// Time that a page takes.
    work: u64,
    ready: u64,
    blocked: bool,
}

impl ScanReader {
    fn new(object: ObjectId, (first, end): (u64, u64), backwards: bool, work: u64) -> Self {
        let at = if backwards { end - 1 } else { first };
        Self { object, at, left: end - first, backwards, work, ready: 0, blocked: false }
    }
}

/// The world of a scan: a map, a source that takes `latency` for a read and `each` for a page of
/// it.
struct Scan {
    core: Core,
    map: HashSet<(ObjectId, u64)>,
    readers: Vec<ScanReader>,
    /// Ends of reads, by time and number.
    reads: BTreeMap<(u64, u64), super::ExtentId>,
    number: u64,
    now: u64,
    latency: u64,
    each: u64,
    free: u64,
}

impl Scan {
    fn new(
        budget: u64,
        objects: &[u64],
        pattern: AccessPattern,
        (latency, each): (u64, u64),
    ) -> Self {
        let mut core = Core::new(Limits { budget, dirty_age: 5_000_000, page: 4096 });
        for (n, &pages) in (0..).zip(objects) {
            let traits = ObjectTraits {
                tracked: false,
                private: false,
                shares_buffer: false,
                block: 1,
                cut: 1,
                deadline: u64::MAX / 4,
            };
            core.handle(CoreEvent::Attach { object: ObjectId(n), pages, traits });
            core.handle(CoreEvent::Advise { object: ObjectId(n), pattern });
        }
        Self {
            core,
            map: HashSet::new(),
            readers: Vec::new(),
            reads: BTreeMap::new(),
            number: 0,
            now: 0,
            latency,
            each,
            free: 0,
        }
    }

    fn event(&mut self, event: CoreEvent) {
        self.core.set_now(self.now);
        self.core.handle(event);
        while let Some(action) = self.core.next_action() {
            match action {
                CoreAction::Read { extent, run, .. } => {
                    self.number += 1;
                    self.free = self.free.max(self.now) + self.each * u64::from(run.len);
                    self.reads.insert((self.free + self.latency, self.number), extent);
                }
                CoreAction::Install { extent, object, run, .. } => {
                    self.map.extend((run.first..run.end()).map(|page| (object, page)));
                    for reader in self.readers.iter_mut().filter(|reader| reader.object == object) {
                        if reader.blocked && run.holds(reader.at) {
                            (reader.blocked, reader.ready) = (false, self.now);
                        }
                    }
                    self.core.handle(CoreEvent::Installed { extent, result: Ok(()) });
                }
                CoreAction::TakeOut { extent, object, run, .. } => {
                    (run.first..run.end()).for_each(|page| _ = self.map.remove(&(object, page)));
                    self.core.handle(CoreEvent::TakenOut { extent, result: Ok(()) });
                }
                CoreAction::Wake { object, run } => {
                    for reader in self.readers.iter_mut().filter(|reader| reader.object == object) {
                        if reader.blocked && run.holds(reader.at) {
                            (reader.blocked, reader.ready) = (false, self.now);
                        }
                    }
                }
                CoreAction::Discard { .. } => {}
                other => panic!("a scan needs no {other:?}"),
            }
        }
        assert!(self.core.used() <= self.core.budget(), "the budget is kept");
    }

    /// Runs until the readers have read all; returns how many pages were read.
    fn run(&mut self) -> u64 {
        let before = self.core.counts().pages_read;
        while self.readers.iter().any(|reader| reader.left > 0) {
            let ready = (0..self.readers.len())
                .filter(|&n| !self.readers[n].blocked && self.readers[n].left > 0)
                .min_by_key(|&n| self.readers[n].ready);
            let read = self.reads.first_key_value().map(|(&(at, _), _)| at);
            match (ready, read) {
                (Some(n), read) if read.is_none_or(|read| self.readers[n].ready <= read) => {
                    self.now = self.now.max(self.readers[n].ready);
                    let reader = &mut self.readers[n];
                    let (object, page) = (reader.object, reader.at);
                    if self.map.contains(&(object, page)) {
                        reader.left -= 1;
                        reader.at =
                            if reader.backwards { page.saturating_sub(1) } else { page + 1 };
                        reader.ready = self.now + reader.work;
                    } else {
                        reader.blocked = true;
                        self.event(CoreEvent::Fault { object, page, write: false });
                    }
                }
                (_, Some(_)) => {
                    let ((at, _), extent) = self.reads.pop_first().unwrap();
                    self.now = self.now.max(at);
                    self.event(CoreEvent::ReadDone { extent, result: Ok(()) });
                }
                (_, None) => panic!("nothing goes on: {:?}", self.readers),
            }
        }
        self.core.counts().pages_read - before
    }
}

/// Pages of the data that is scanned: 256 MiB.
const DATA: u64 = 1 << 16;

fn assert_read_once(scan: &mut Scan, story: &str) {
    let read = scan.run();
    assert!(read * 100 <= DATA * 102, "{read} pages read of {DATA}: {story}");
}

#[test]
fn a_scan_reads_its_data_once_at_any_budget_and_speed() {
    let first = number("FOLIO_FIRST").unwrap_or(1);
    for seed in first..first + scaled(20) {
        let mut state = seed;
        let mut below = |n: u64| next(&mut state) % n;
        let budget = 2048 << below(5);
        let threads = 1 + below(8);
        let pattern = if below(4) == 0 { AccessPattern::Sequential } else { AccessPattern::Normal };
        let speeds = (below(3) * below(500), below(3) * below(10));
        let apart = below(2) == 0;
        let backwards = below(3) == 0;
        let work = below(3) * below(10);
        let objects = if apart { vec![DATA / threads; threads as usize] } else { vec![DATA] };
        let story = format!(
            "seed {seed}, budget {budget}, {threads} threads, {pattern:?}, source {speeds:?}, \
             apart {apart}, backwards {backwards}, work {work}"
        );
        let mut scan = Scan::new(budget, &objects, pattern, speeds);
        let part = DATA / threads;
        scan.readers = (0..threads)
            .map(|n| {
                let range = if apart { (0, part) } else { (n * part, (n + 1) * part) };
                // No thread is just as fast as the others.
                let work = work + u64::from(work > 0) * below(1 + work / 4);
                ScanReader::new(ObjectId(if apart { n as u32 } else { 0 }), range, backwards, work)
            })
            .collect();
        assert_read_once(&mut scan, &story);
    }
}

#[test]
fn threads_that_scan_the_same_read_it_once() {
    for threads in [2, 4, 8] {
        for work in [0, 1, 20] {
            let mut scan = Scan::new(2048, &[DATA], AccessPattern::Normal, (100, 2));
            scan.readers = vec![ScanReader::new(ObjectId(0), (0, DATA), false, work); threads];
            assert_read_once(&mut scan, &format!("{threads} threads, work {work}"));
        }
    }
}

#[test]
fn a_hint_far_above_the_budget_reads_no_more_than_the_budget_holds() {
    let pages = 64 << 28;
    let mut scan = Scan::new(2048, &[pages, DATA], AccessPattern::Normal, (100, 1));
    let hint = |object| CoreEvent::Prefetch { object: ObjectId(object), runs: vec![(0, pages)] };
    for _ in 0..1_000 {
        scan.event(hint(0));
    }
    // The source of the one is slow; the other's pages come at once, and so do its hints.
    scan.readers = vec![ScanReader::new(ObjectId(1), (0, DATA / 8), false, 1)];
    scan.run();
    let read = scan.core.counts().pages_prefetched;
    assert!((1..=2048).contains(&read), "{read} pages prefetched");
    assert!(scan.core.record_bytes() < 1 << 20, "{}", scan.core.record_bytes());
}

#[test]
fn a_prefetch_from_a_stuck_source_delays_no_pin_of_another_map() {
    let mut core = Core::new(Limits { budget: 2048, dirty_age: 5_000_000, page: 4096 });
    let traits = ObjectTraits {
        tracked: false,
        private: false,
        shares_buffer: false,
        block: 1,
        cut: 1,
        deadline: 30_000_000,
    };
    for object in [ObjectId(0), ObjectId(1)] {
        core.handle(CoreEvent::Attach { object, pages: 1 << 24, traits });
    }
    core.handle(CoreEvent::Prefetch { object: ObjectId(0), runs: vec![(0, 1 << 24)] });
    let pin = PinnedRange { first: 0, end: 1_000, stores: false };
    core.handle(CoreEvent::Pin { object: ObjectId(1), pin, ticket: Ticket(1) });
    let mut replied = false;
    while let Some(action) = core.next_action() {
        match action {
            CoreAction::Read { object: ObjectId(0), .. } => {}
            CoreAction::Read { extent, .. } => {
                core.handle(CoreEvent::ReadDone { extent, result: Ok(()) });
            }
            CoreAction::Install { extent, .. } => {
                core.handle(CoreEvent::Installed { extent, result: Ok(()) });
            }
            CoreAction::Reply { result, .. } => replied = result.is_ok(),
            other => panic!("{other:?}"),
        }
    }
    assert!(replied, "the pin waits for the prefetch of another map");
}

#[test]
fn streams_that_ended_leave_the_budget_to_others() {
    let mut scan = Scan::new(2048, &[DATA, DATA], AccessPattern::Normal, (100, 1));
    // Many streams stop in their middle.
    for n in 0..40 {
        scan.readers = vec![ScanReader::new(ObjectId(0), (n * 1_600, n * 1_600 + 400), false, 5)];
        scan.run();
    }
    assert!(scan.core.ahead > 0, "something was read ahead in vain");
    scan.readers = vec![ScanReader::new(ObjectId(1), (0, DATA), false, 5)];
    assert_read_once(&mut scan, "after streams that stopped");
    let left = scan.core.extents.iter().filter(|(_, extent)| extent.object == ObjectId(0)).count();
    assert_eq!(left, 0, "nothing of the streams that ended is in memory");
}

#[test]
fn the_streams_of_a_map_that_is_gone_leave_their_window_to_others() {
    let mut scan = Scan::new(2048, &[DATA, DATA], AccessPattern::Normal, (100, 1));
    scan.readers = (0..2)
        .map(|object| ScanReader::new(ObjectId(object), (0, 400), false, u64::from(object) + 1))
        .collect();
    scan.run();
    assert!(scan.core.ahead_window().shared, "both maps have streams");
    scan.core.handle(CoreEvent::Detach { object: ObjectId(0) });
    assert!(!scan.core.ahead_window().shared);
}

#[test]
fn more_streams_than_are_followed_keep_the_budget() {
    let part = DATA / 64;
    let mut scan = Scan::new(2048, &[DATA], AccessPattern::Sequential, (100, 1));
    scan.readers = (0..64)
        .map(|n| ScanReader::new(ObjectId(0), (n * part, (n + 1) * part), n % 2 == 1, 5))
        .collect();
    scan.run();
    assert!(scan.core.ahead <= scan.core.ahead_share() + u64::from(scan.core.max_run()));
}
