//! The pages to read beside the accessed page: streams of accesses are found, and read ahead of.
//!
//! The pager sees an access only when it faults. A page that was read ahead waits outside the map,
//! so that its first use is a (cheap) fault that says the stream goes on. A miss that belongs to no
//! stream reads the source's block and no more.

use super::PageRun;

/// Streams that are followed at once.
const STREAMS: usize = 16;
/// Misses that are remembered, to find strides of up to half as many interleaved accesses.
const HISTORY: usize = 8;
/// The widest unit, in pages: 2 MiB of 4 KiB pages.
pub(crate) const WIDEST: u32 = 512;
/// How many strides are read ahead at most.
const STRIDES: u32 = 16;

/// How the program says that it will use a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AccessPattern {
    #[default]
    Normal,
    /// In order: the widest units at once, and used pages are evicted first.
    Sequential,
    /// Nothing beside the block.
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamDirection {
    /// One access so far.
    Unknown,
    Forwards,
    Backwards,
    /// A step in pages.
    Strided(i64),
}

#[derive(Debug, Clone)]
struct Stream {
    way: StreamDirection,
    /// The run that was wanted last.
    last: PageRun,
    /// The edge of the pages that were read or requested, on the side to which the stream goes.
    edge: u64,
    /// Pages a read.
    unit: u32,
    /// Strides that are read ahead, for a strided stream.
    depth: u32,
    used: u64,
    /// Where it began.
    start: u64,
    /// Its number among those of its object.
    number: u64,
}

/// Pages that a stream may have ahead of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Window {
    pub(crate) pages: u64,
    /// Other streams go on as well. Where one ends, another may have been: pages that are read
    /// ahead of its end are read twice.
    pub(crate) shared: bool,
}

/// A stream among others may have this share of its length ahead of it.
const SHARE: u64 = 128;
/// And so many pages at least.
const LEAST: u64 = 32;

impl Window {
    /// For a stream that is so long.
    fn of(self, length: u64) -> u64 {
        if self.shared { self.pages.min((length / SHARE).max(LEAST)) } else { self.pages }
    }

    /// The widest unit: two at least fit, so that one is read while the other is in use.
    fn unit(pages: u64, block: u32, widest: u32) -> u32 {
        let half = u32::try_from(pages / 2).unwrap_or(u32::MAX).max(1);
        widest.min(1 << half.ilog2()).max(block)
    }
}

/// The reads for an access.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct ReadaheadPlan {
    /// The run that holds the page; `None` if it is there already.
    pub(crate) wanted: Option<PageRun>,
    /// Runs that are likely to be wanted next.
    pub(crate) ahead: Vec<PageRun>,
    /// The number of the stream that goes on.
    pub(crate) stream: Option<u64>,
}

/// The streams of one object.
#[derive(Debug)]
pub(crate) struct Readahead {
    streams: Vec<Stream>,
    history: [u64; HISTORY],
    pattern: AccessPattern,
    block: u32,
    widest: u32,
    clock: u64,
}

impl Readahead {
    /// `block` pages a random read, `widest` pages a read at most.
    pub(crate) fn new(block: u32, widest: u32) -> Self {
        let widest = widest.clamp(1, WIDEST);
        Self {
            streams: Vec::new(),
            history: [u64::MAX; HISTORY],
            pattern: AccessPattern::Normal,
            block: block.clamp(1, widest),
            widest,
            clock: 0,
        }
    }

    pub(crate) fn set_pattern(&mut self, pattern: AccessPattern) {
        self.pattern = pattern;
        self.streams.clear();
    }

    pub(crate) fn pattern(&self) -> AccessPattern {
        self.pattern
    }

    /// The widest read, which follows the budget.
    pub(crate) fn set_max_run(&mut self, widest: u32) {
        self.widest = widest.clamp(1, WIDEST);
        self.block = self.block.min(self.widest);
    }

    pub(crate) fn block(&self) -> u32 {
        self.block
    }

    /// Reading ahead was in vain: the stream of `page` starts again from small reads.
    pub(crate) fn wasted(&mut self, page: u64) {
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.covers(page)) {
            stream.unit = (stream.unit / 4).max(1);
            stream.depth = (stream.depth / 2).max(1);
        }
    }

    /// The block that holds `page`.
    fn block_of(&self, page: u64) -> PageRun {
        let block = u64::from(self.block);
        PageRun { first: page - page % block, len: self.block }
    }

    /// There was no memory for `run`, which stream `number` wants ahead, from `page` on: it asks
    /// again as it goes on.
    pub(crate) fn refused(&mut self, number: u64, run: PageRun, page: u64) {
        let Some(stream) = self.streams.iter_mut().find(|stream| stream.number == number) else {
            return;
        };
        stream.edge = match stream.way {
            StreamDirection::Unknown => stream.edge,
            StreamDirection::Forwards => stream.edge.min(page).max(stream.last.end()),
            StreamDirection::Backwards => stream.edge.max(run.end()).min(stream.last.first),
            StreamDirection::Strided(_) => stream.last.first,
        };
    }

    /// `page` is wanted and is not in memory, or (`missing` false) was read ahead and is used now
    /// for the first time. The stream may have a `window` of pages ahead of it.
    pub(crate) fn access(&mut self, page: u64, missing: bool, window: Window) -> ReadaheadPlan {
        self.clock += 1;
        if self.pattern == AccessPattern::Random {
            return ReadaheadPlan {
                wanted: missing.then(|| self.block_of(page)),
                ..ReadaheadPlan::default()
            };
        }
        let (clock, block) = (self.clock, self.block);
        if let Some(stream) = self.streams.iter_mut().find(|stream| stream.goes_on_at(page, block))
        {
            stream.used = clock;
            return stream.go_on(page, missing, block, self.widest, window);
        }
        if !missing {
            return ReadaheadPlan::default();
        }
        let window = window.of(0);
        let widest = Window::unit(window, block, self.widest);
        let strided = self.stride_to(page);
        self.history.rotate_right(1);
        self.history[0] = page;
        let wanted = match self.pattern {
            AccessPattern::Sequential => unit_from(page, widest),
            _ => self.block_of(page),
        };
        let way = strided.map_or(StreamDirection::Unknown, StreamDirection::Strided);
        let unit = if self.pattern == AccessPattern::Sequential { widest } else { block };
        let mut stream = Stream {
            way,
            last: wanted,
            edge: wanted.end(),
            unit,
            depth: 2,
            used: clock,
            start: page,
            number: clock,
        };
        let mut ahead = Vec::new();
        match way {
            StreamDirection::Strided(step) => {
                stream.edge = page;
                stream.strides_ahead(page, step, block, window, &mut ahead);
            }
            _ if self.pattern == AccessPattern::Sequential => {
                stream.way = StreamDirection::Forwards;
                stream.forwards_ahead(window, &mut ahead);
            }
            _ => {}
        }
        let goes_on = (stream.way != StreamDirection::Unknown).then_some(stream.number);
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
        ReadaheadPlan { wanted: Some(wanted), ahead, stream: goes_on }
    }

    /// The step that leads to `page` by way of two earlier misses of the same distance, in up to
    /// four interleaved rows.
    fn stride_to(&self, page: u64) -> Option<i64> {
        (1..=HISTORY / 2).find_map(|rows| {
            let (one, two) = (self.history[rows - 1], self.history[2 * rows - 1]);
            if one == u64::MAX || two == u64::MAX {
                return None;
            }
            let step = page.cast_signed() - one.cast_signed();
            (step != 0 && step == one.cast_signed() - two.cast_signed()).then_some(step)
        })
    }
}

/// The run from `page` to the end of its unit, so that later units are aligned.
fn unit_from(page: u64, unit: u32) -> PageRun {
    let end = (page / u64::from(unit) + 1) * u64::from(unit);
    PageRun { first: page, len: (end - page) as u32 }
}

/// The run from the start of the unit to `page`.
fn unit_until(page: u64, unit: u32) -> PageRun {
    let first = page - page % u64::from(unit);
    PageRun { first, len: (page - first + 1) as u32 }
}

/// Units that are asked for ahead of the one in use: few while they are small, since a stream may
/// end.
fn units_ahead(unit: u32) -> u64 {
    if unit < 16 { 1 } else { 4 }
}

impl Stream {
    fn covers(&self, page: u64) -> bool {
        let (low, high) = (self.last.first.min(self.edge), self.last.end().max(self.edge));
        (low..=high).contains(&page)
    }

    fn goes_on_at(&self, page: u64, block: u32) -> bool {
        match self.way {
            StreamDirection::Unknown => page == self.last.end() || page + 1 == self.last.first,
            // A little past the edge too: the program skipped something.
            StreamDirection::Forwards => {
                let slack = if self.unit > block { u64::from(self.unit) } else { 0 };
                page >= self.last.end() && page <= self.edge + slack
            }
            StreamDirection::Backwards => page < self.last.first && page + 1 >= self.edge,
            StreamDirection::Strided(step) => {
                let from = page.cast_signed() - self.last.first.cast_signed();
                from != 0
                    && from % step == 0
                    && (1..=i64::from(STRIDES) + 1).contains(&(from / step))
            }
        }
    }

    fn go_on(
        &mut self,
        page: u64,
        missing: bool,
        block: u32,
        widest: u32,
        window: Window,
    ) -> ReadaheadPlan {
        let stream = Some(self.number);
        let window = window.of(page.abs_diff(self.start));
        let widest = Window::unit(window, block, widest);
        if self.way == StreamDirection::Unknown {
            self.way = if page >= self.last.end() {
                StreamDirection::Forwards
            } else {
                StreamDirection::Backwards
            };
            self.edge = if self.way == StreamDirection::Forwards {
                self.last.end()
            } else {
                self.last.first
            };
        }
        let mut ahead = Vec::new();
        if let StreamDirection::Strided(step) = self.way {
            let wanted = PageRun { first: page - page % u64::from(block), len: block };
            self.last = PageRun { first: page, len: 1 };
            self.depth = (self.depth * 2).min(STRIDES);
            self.strides_ahead(page, step, block, window, &mut ahead);
            return ReadaheadPlan { wanted: missing.then_some(wanted), ahead, stream };
        }
        self.unit = (self.unit * 4).min(widest);
        let forwards = self.way == StreamDirection::Forwards;
        let run = if forwards { unit_from(page, self.unit) } else { unit_until(page, self.unit) };
        if missing {
            self.last = run;
            self.edge = if forwards { run.end().max(self.edge) } else { run.first.min(self.edge) };
        } else {
            // It was read ahead: only the place in the stream is new.
            self.last = PageRun { first: page, len: 1 };
        }
        if forwards {
            self.forwards_ahead(window, &mut ahead);
        } else {
            self.backwards_ahead(window, &mut ahead);
        }
        ReadaheadPlan { wanted: missing.then_some(run), ahead, stream }
    }

    /// How far ahead of the run in use is asked for: the last unit that begins there is within the
    /// window.
    fn reach(&self, window: u64) -> u64 {
        let unit = u64::from(self.unit);
        (units_ahead(self.unit) * unit).min(window.saturating_sub(unit - 1)).max(1)
    }

    fn forwards_ahead(&mut self, window: u64, ahead: &mut Vec<PageRun>) {
        let until = self.last.end() + self.reach(window);
        while self.edge < until {
            let run = unit_from(self.edge, self.unit);
            self.edge = run.end();
            ahead.push(run);
        }
    }

    fn backwards_ahead(&mut self, window: u64, ahead: &mut Vec<PageRun>) {
        let until = self.last.first.saturating_sub(self.reach(window));
        while self.edge > until {
            let run = unit_until(self.edge - 1, self.unit);
            self.edge = run.first;
            ahead.push(run);
        }
    }

    /// Asks for the strides up to `depth` after `page` that were not asked for yet.
    fn strides_ahead(
        &mut self,
        page: u64,
        step: i64,
        block: u32,
        window: u64,
        ahead: &mut Vec<PageRun>,
    ) {
        let most = i64::try_from(window / u64::from(block)).unwrap_or(i64::MAX).max(1);
        for count in 1..=i64::from(self.depth).min(most) {
            let Some(next) = page.checked_add_signed(step * count) else { break };
            let asked = if step > 0 { next <= self.edge } else { next >= self.edge };
            if !asked {
                ahead.push(PageRun { first: next - next % u64::from(block), len: block });
                self.edge = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{AccessPattern, Readahead, Window};
    use std::collections::BTreeSet;

    const ALONE: Window = Window { pages: u64::MAX, shared: false };

    /// Plays accesses against a memory that keeps everything; returns how many of them missed.
    fn misses(
        readahead: &mut Readahead,
        accesses: impl IntoIterator<Item = u64>,
    ) -> (usize, usize) {
        let (mut there, mut used) = (BTreeSet::new(), BTreeSet::new());
        let mut misses = 0;
        for page in accesses {
            let missing = !there.contains(&page);
            misses += usize::from(missing);
            if missing || used.insert(page) {
                let plan = readahead.access(page, missing, ALONE);
                for run in plan.wanted.iter().chain(&plan.ahead) {
                    there.extend(run.first..run.end());
                }
                if let Some(run) = plan.wanted {
                    assert!((run.first..run.end()).contains(&page), "{page} is in {run:?}");
                    used.extend(run.first..run.end());
                }
            }
        }
        (misses, there.len())
    }

    #[test]
    fn a_random_pattern_reads_blocks_only() {
        let mut readahead = Readahead::new(1, 512);
        let mut page = 1_u64;
        let accesses = std::iter::repeat_with(|| {
            page = page
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            page >> 30
        });
        let (misses, read) = misses(&mut readahead, accesses.take(10_000));
        assert!(misses > 9_990, "{misses}");
        assert!(read < 10_100, "{read} pages read for 10,000 wanted");
    }

    #[test]
    fn a_scan_forwards_soon_misses_no_more() {
        assert!(misses(&mut Readahead::new(1, 512), 0..100_000).0 < 10);
    }

    #[test]
    fn a_scan_backwards_soon_misses_no_more() {
        assert!(misses(&mut Readahead::new(1, 512), (0..100_000).rev()).0 < 10);
    }

    #[test]
    fn strides_are_found_forwards_and_backwards() {
        assert!(misses(&mut Readahead::new(1, 512), (0..1_000).map(|n| n * 37)).0 < 8);
        assert!(misses(&mut Readahead::new(1, 512), (0..1_000).rev().map(|n| n * 37)).0 < 8);
    }

    #[test]
    fn several_streams_are_followed_at_once() {
        let accesses =
            (0..10_000).flat_map(|n| [n, 1_000_000 + n, 3_000_000 - n, 5_000_000 + 100 * n]);
        assert!(misses(&mut Readahead::new(1, 512), accesses).0 < 60);
    }

    #[test]
    fn advice_sequential_reads_wide_at_once() {
        let mut readahead = Readahead::new(1, 512);
        readahead.set_pattern(AccessPattern::Sequential);
        let plan = readahead.access(0, true, ALONE);
        assert_eq!(plan.wanted.unwrap().len, 512);
        assert!(!plan.ahead.is_empty());
    }

    #[test]
    fn advice_random_never_reads_ahead() {
        let mut readahead = Readahead::new(4, 512);
        readahead.set_pattern(AccessPattern::Random);
        let (misses, read) = misses(&mut readahead, 0..1_000);
        assert_eq!((misses, read), (250, 1_000));
    }
}
