//! Extents: runs of pages in memory, the state of each, and the queues that order their eviction.

use super::{ObjectId, PageRun};

/// An extent's number. It is used again when the extent is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct ExtentId(pub(crate) u32);

/// Where the bytes of an extent are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExtentState {
    /// On their way from the source into the buffer.
    Reading,
    /// In the buffer, outside the map.
    Buffered,
    /// On their way from the buffer into the map.
    Installing,
    /// In the map.
    Installed,
    /// On their way from the map into the buffer.
    Leaving,
    /// In the map, while a copy of them is taken for write-back.
    Copying,
}

/// A queue of eviction; the oldest is its front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EvictionQueue {
    None,
    /// Read for the first time.
    Small,
    /// Wanted again after it was taken out.
    Main,
    /// Outside the map and clean: dropped when memory is needed, put back if it is wanted before.
    Inactive,
    /// Read ahead and not used yet: dropped last.
    Ahead,
}

const QUEUES: usize = 4;

impl EvictionQueue {
    fn index(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Small => Some(0),
            Self::Main => Some(1),
            Self::Inactive => Some(2),
            Self::Ahead => Some(3),
        }
    }
}

/// A thread that waits for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FaultWaiter {
    pub(crate) page: u64,
    pub(crate) write: bool,
    pub(crate) since: u64,
}

/// The next step of an extent, as soon as it is possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disposal {
    None,
    /// Written back if it is dirty, then dropped.
    WhenClean,
    /// Dropped, with the bytes that were written to it.
    Now,
}

/// A run of pages in memory. Booleans here are independent facts, not options.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "independent facts about an extent")]
pub(crate) struct Extent {
    pub(crate) object: ObjectId,
    pub(crate) run: PageRun,
    pub(crate) place: ExtentState,
    pub(crate) doom: Disposal,
    /// Installed so that a store faults.
    pub(crate) protected: bool,
    /// Changed since it was last written to the source.
    pub(crate) dirty: bool,
    /// A write from the buffer is under way.
    pub(crate) writing: bool,
    /// Read ahead, and not used yet.
    pub(crate) ahead: bool,
    /// Of a run that was read ahead: how many pages the pager had read by then.
    pub(crate) ahead_at: u64,
    /// To be installed as soon as it is read, without a fault.
    pub(crate) eager: bool,
    /// Was in the map before.
    pub(crate) seen: bool,
    /// Memory is held outside the map.
    pub(crate) buffer: bool,
    /// The buffer stays when the extent is put into the map: it is being written.
    pub(crate) kept: bool,
    /// The buffer is memory beside the map's own.
    pub(crate) copied: bool,
    /// When it became dirty.
    pub(crate) dirtied: u64,
    /// The last write failed then; it is tried again later.
    pub(crate) failed: u64,
    pub(crate) waiters: Vec<FaultWaiter>,
    queue: EvictionQueue,
    before: u32,
    after: u32,
}

const NIL: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct QueueEnds {
    front: u32,
    back: u32,
    pages: u64,
}

/// Extents whose records are allocated together: a vector of all would have half as many again in
/// reserve.
const BLOCK: usize = 256;

/// All extents, and their queues.
#[derive(Debug)]
pub(crate) struct Extents {
    blocks: Vec<Box<[Option<Extent>]>>,
    /// Numbers that were given out, one after the other.
    given: u32,
    free: Vec<u32>,
    queues: [QueueEnds; QUEUES],
}

impl Extents {
    pub(crate) fn new() -> Self {
        Self {
            blocks: Vec::new(),
            given: 0,
            free: Vec::new(),
            queues: [QueueEnds { front: NIL, back: NIL, pages: 0 }; QUEUES],
        }
    }

    pub(crate) fn add(&mut self, object: ObjectId, run: PageRun, place: ExtentState) -> ExtentId {
        let extent = Extent {
            object,
            run,
            place,
            doom: Disposal::None,
            protected: false,
            dirty: false,
            writing: false,
            ahead: false,
            ahead_at: 0,
            eager: false,
            seen: false,
            buffer: false,
            kept: false,
            copied: false,
            dirtied: 0,
            failed: 0,
            waiters: Vec::new(),
            queue: EvictionQueue::None,
            before: NIL,
            after: NIL,
        };
        let id = self.free.pop().unwrap_or_else(|| {
            if self.given as usize == self.blocks.len() * BLOCK {
                self.blocks.push(std::iter::repeat_with(|| None).take(BLOCK).collect());
            }
            self.given += 1;
            self.given - 1
        });
        *self.slot(ExtentId(id)) = Some(extent);
        ExtentId(id)
    }

    fn slot(&mut self, id: ExtentId) -> &mut Option<Extent> {
        &mut self.blocks[id.0 as usize / BLOCK][id.0 as usize % BLOCK]
    }

    pub(crate) fn remove(&mut self, id: ExtentId) -> Extent {
        self.enqueue(id, EvictionQueue::None);
        self.free.push(id.0);
        self.slot(id).take().expect("an extent is removed once")
    }

    pub(crate) fn get(&self, id: ExtentId) -> Option<&Extent> {
        self.blocks.get(id.0 as usize / BLOCK)?[id.0 as usize % BLOCK].as_ref()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (ExtentId, &Extent)> {
        let slots = self.blocks.iter().flat_map(|block| block.iter()).enumerate();
        slots.filter_map(|(n, slot)| Some((ExtentId(n as u32), slot.as_ref()?)))
    }

    /// Bytes that the records themselves take.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.len() * BLOCK * size_of::<Option<Extent>>() + self.free.capacity() * 4
    }

    /// Pages in a queue.
    pub(crate) fn pages(&self, queue: EvictionQueue) -> u64 {
        queue.index().map_or(0, |queue| self.queues[queue].pages)
    }

    pub(crate) fn queue(&self, id: ExtentId) -> EvictionQueue {
        self[id].queue
    }

    /// The oldest extent of a queue.
    pub(crate) fn front(&self, queue: EvictionQueue) -> Option<ExtentId> {
        let front = self.queues[queue.index()?].front;
        (front != NIL).then_some(ExtentId(front))
    }

    /// The extent after `id` in its queue.
    pub(crate) fn after(&self, id: ExtentId) -> Option<ExtentId> {
        let after = self[id].after;
        (after != NIL).then_some(ExtentId(after))
    }

    fn detach(&mut self, id: ExtentId) {
        let Extent { queue, before, after, run, .. } = self[id];
        let Some(queue) = queue.index() else { return };
        match before {
            NIL => self.queues[queue].front = after,
            before => self[ExtentId(before)].after = after,
        }
        match after {
            NIL => self.queues[queue].back = before,
            after => self[ExtentId(after)].before = before,
        }
        self.queues[queue].pages -= u64::from(run.len);
        let extent = &mut self[id];
        (extent.queue, extent.before, extent.after) = (EvictionQueue::None, NIL, NIL);
    }

    /// Puts an extent at the back of a queue, out of the one it was in.
    pub(crate) fn enqueue(&mut self, id: ExtentId, queue: EvictionQueue) {
        self.detach(id);
        let Some(index) = queue.index() else { return };
        let back = std::mem::replace(&mut self.queues[index].back, id.0);
        match back {
            NIL => self.queues[index].front = id.0,
            back => self[ExtentId(back)].after = id.0,
        }
        let extent = &mut self[id];
        (extent.queue, extent.before) = (queue, back);
        self.queues[index].pages += u64::from(extent.run.len);
    }

    /// Puts an extent at the front of a queue: the next to go.
    pub(crate) fn enqueue_first(&mut self, id: ExtentId, queue: EvictionQueue) {
        self.detach(id);
        let Some(index) = queue.index() else { return };
        let front = std::mem::replace(&mut self.queues[index].front, id.0);
        match front {
            NIL => self.queues[index].back = id.0,
            front => self[ExtentId(front)].before = id.0,
        }
        let extent = &mut self[id];
        (extent.queue, extent.after) = (queue, front);
        self.queues[index].pages += u64::from(extent.run.len);
    }

    /// Changes which pages an extent is of, keeping the count of its queue.
    pub(crate) fn reshape(&mut self, id: ExtentId, run: PageRun) {
        let old = std::mem::replace(&mut self[id].run, run);
        if let Some(queue) = self[id].queue.index() {
            let pages = &mut self.queues[queue].pages;
            *pages = *pages + u64::from(run.len) - u64::from(old.len);
        }
    }
}

impl std::ops::Index<ExtentId> for Extents {
    type Output = Extent;

    fn index(&self, id: ExtentId) -> &Extent {
        self.get(id).expect("an extent's number is used while it lives")
    }
}

impl std::ops::IndexMut<ExtentId> for Extents {
    fn index_mut(&mut self, id: ExtentId) -> &mut Extent {
        self.slot(id).as_mut().expect("an extent's number is used while it lives")
    }
}
