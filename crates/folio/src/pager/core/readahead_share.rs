//! How much is read ahead of streams, and when a page that was read ahead is dropped unused.
//!
//! A page that was read ahead and is not used yet is worth more than a used one: it goes last. All
//! such pages have a share of the budget, so that streams that ended do not keep the whole of it.
//! The streams that go on divide the share among them. Pages that nobody used while the pager read
//! its budget several times over go first.

use super::chunk_table::CHUNK;
use super::extents::{EvictionQueue, ExtentId};
use super::readahead::{ReadaheadPlan, Window};
use super::{Core, ObjectId};

/// Pages that are read ahead at most, for all streams: 16 MiB of 4 KiB pages. More makes no source
/// faster, and is read in vain where a stream ends.
const MOST: u64 = 8 * CHUNK;
/// A page that was read ahead is dropped first after so many times the budget was read.
const STALE: u64 = 8;
/// Streams that are counted.
const COUNTED: usize = 64;

/// The streams that went on lately, and how many pages the pager had read by then.
#[derive(Debug, Default)]
pub(crate) struct Streams(Vec<((ObjectId, u64), u64)>);

impl Streams {
    /// Stream `key` goes on. Those that did not go on since `oldest` have ended.
    fn went_on(&mut self, key: (ObjectId, u64), now: u64, oldest: u64) {
        self.0.retain(|&(other, at)| other != key && at >= oldest);
        if self.0.len() < COUNTED {
            self.0.push((key, now));
        }
    }

    fn count(&self) -> u64 {
        self.0.len().max(1) as u64
    }

    /// The object is gone, and its streams with it.
    pub(super) fn ended(&mut self, object: ObjectId) {
        self.0.retain(|&((other, _), _)| other != object);
    }
}

impl Core {
    /// Pages that may be read ahead and unused, for all streams.
    pub(super) fn ahead_share(&self) -> u64 {
        (self.limit() / 8).clamp(1, MOST)
    }

    /// Pages that one stream may have ahead of it.
    pub(super) fn ahead_window(&self) -> Window {
        let streams = self.streams.count();
        Window { pages: (self.ahead_share() / streams).max(1), shared: streams > 1 }
    }

    /// The extent has been used, or will never be.
    pub(super) fn no_longer_ahead(&mut self, id: ExtentId) -> bool {
        let extent = &mut self.extents[id];
        let was = std::mem::take(&mut extent.ahead);
        if was {
            self.ahead -= u64::from(extent.run.len);
        }
        was
    }

    /// A page that was read ahead is used: the stream goes on.
    pub(super) fn first_use(&mut self, id: ExtentId, page: u64) {
        if !self.no_longer_ahead(id) {
            return;
        }
        let extent = &self.extents[id];
        self.counts.ahead_used += u64::from(extent.run.len);
        let (object, window) = (extent.object, self.ahead_window());
        let Some(this) = self.objects.get_mut(&object) else { return };
        let plan = this.readahead.access(page, false, window);
        self.read_ahead(object, &plan);
    }

    /// Reads what is likely to be wanted, as far as there is memory that nobody uses.
    pub(super) fn read_ahead(&mut self, object: ObjectId, plan: &ReadaheadPlan) {
        let Some(stream) = plan.stream else { return };
        let read = self.counts.pages_read;
        self.streams.went_on((object, stream), read, read.saturating_sub(self.budget()));
        for &run in &plan.ahead {
            let pages = self.objects[&object].pages;
            let mut page = run.first;
            while page < run.end().min(pages) {
                if self.objects[&object].table.extent_at(page).is_some() {
                    page += 1;
                    continue;
                }
                let part = self.absent_run(object, page, (run.end() - page) as u32);
                let len = u64::from(part.len);
                // Neither more than a share of the memory, nor what others read ahead.
                if self.reading + len > self.budget() / 4 || !self.make_room_ahead(len) {
                    if let Some(this) = self.objects.get_mut(&object) {
                        this.readahead.refused(stream, run, page);
                    }
                    return;
                }
                let id = self.read(object, part);
                (self.extents[id].ahead, self.extents[id].ahead_at) =
                    (true, self.counts.pages_read);
                self.ahead += len;
                self.counts.ahead_read += len;
                page = part.end();
            }
        }
    }

    /// Makes room to read so many pages ahead. A stream that ended gives its pages to those that go
    /// on.
    fn make_room_ahead(&mut self, pages: u64) -> bool {
        let share = self.ahead_share();
        while self.ahead + pages > share.max(pages) {
            let Some(oldest) = self.unused_since(self.budget()) else { return false };
            self.drop_extent(oldest);
        }
        self.make_room(pages)
    }

    /// The page that was read ahead first, if so many pages were read since.
    fn unused_since(&self, pages: u64) -> Option<ExtentId> {
        let oldest = self.extents.front(EvictionQueue::Ahead).filter(|&id| self.may_drop(id))?;
        (self.extents[oldest].ahead_at + pages < self.counts.pages_read).then_some(oldest)
    }

    /// The page that was read ahead first, if nobody will use it any more.
    pub(super) fn unused_for_long(&self) -> Option<ExtentId> {
        self.unused_since(STALE * self.budget())
    }

    /// Keeps what was read ahead within its share, and gives it up where nothing else can leave
    /// memory.
    pub(super) fn spare_ahead(&mut self) {
        let most = self.ahead_share().max(u64::from(self.max_run()));
        while self.extents.pages(EvictionQueue::Ahead) > most && self.drop_ahead() {}
        while self.leaving == 0 && self.lacks_memory() && self.drop_ahead() {
            self.pump_stalled();
        }
    }

    /// Whether somebody waits for memory that is not there.
    fn lacks_memory(&mut self) -> bool {
        let pins = if self.pins_lack { u64::from(self.max_run()) } else { 0 };
        let wanted = pins.max(u64::from(!self.stalled.is_empty()));
        !self.make_room(wanted)
    }

    fn drop_ahead(&mut self) -> bool {
        let Some(oldest) = self.extents.front(EvictionQueue::Ahead).filter(|&id| self.may_drop(id))
        else {
            return false;
        };
        self.drop_extent(oldest);
        true
    }
}

/// The pages that were read ahead and are not used yet, by counting.
#[cfg(test)]
pub(super) fn counted(extents: &super::extents::Extents) -> u64 {
    extents
        .iter()
        .filter(|(_, extent)| extent.ahead)
        .map(|(_, extent)| u64::from(extent.run.len))
        .sum()
}
