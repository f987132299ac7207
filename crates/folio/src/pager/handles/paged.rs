//! `Paged`: a source as memory, read-only, by folio's own pager.

use crate::error::Result;
use crate::page::PageSize;
use crate::pager::handles::pinned::Pinned;
use crate::pager::object::MappedObject;
use std::ops::{Deref, Range, RangeBounds};
use std::sync::Arc;

/// A [source](crate::source) mapped by a [`Pager`](crate::Pager), for reading. Clones are the same
/// memory.
///
/// The pages are folio's own: nobody else changes them, and a page that was evicted and is read
/// again is the same, or an error. So the map is a plain `&[u8]`.
///
/// **A load of a page that cannot be supplied** (the source failed, changed, or missed its
/// deadline) ends the process with SIGBUS: a slice has no other way to say so.
/// [`read_at`](Self::read_at) and [`pin`](Self::pin) give the error instead.
///
/// **Fork:** a child has nothing at these addresses. Its loads end it with SIGBUS and a message,
/// its calls return ECHILD, and its drop of the handle does nothing.
#[derive(Clone)]
pub struct Paged {
    lease: Arc<MappedObject>,
    len: usize,
}

/// The calls that all handles of the pager have. They work on the handle's `object` and `len`.
macro_rules! paged_calls {
    () => {
        /// Its length in bytes.
        pub fn len(&self) -> usize {
            self.len
        }

        /// Whether it has no bytes.
        pub fn is_empty(&self) -> bool {
            self.len == 0
        }

        /// The name of its source.
        pub fn name(&self) -> &str {
            self.lease.name()
        }

        /// Starts to read these ranges of bytes into the map, and returns at once. Their pages are
        /// then used without a fault. A page that cannot be read is simply not there: its use
        /// tells. At most three quarters of the budget are asked for at once, from the first range
        /// on; the rest is not prefetched.
        ///
        /// # Errors
        ///
        /// EINVAL for a range that is not inside the map; ECHILD in a forked child.
        pub fn prefetch(&self, ranges: &[std::ops::Range<usize>]) -> Result<()> {
            self.lease.prefetch(ranges, self.len)
        }

        /// Says how a range of bytes will be used. The patterns hold for the whole map; `WillNeed`
        /// prefetches, `PopulateRead` waits for the pages, `Cold` and `PageOut` evict them.
        ///
        /// # Errors
        ///
        /// EINVAL for other advice, which is about the kernel's pages; for `PopulateRead` the
        /// page's own error.
        pub fn advise(
            &self,
            range: impl std::ops::RangeBounds<usize>,
            advice: crate::Advice,
        ) -> Result<()> {
            self.lease.advise(self.lease.bytes("advise", range, self.len)?, advice)
        }

        /// Starts (anew) or ends the recording of which pages come into the map, in which order.
        ///
        /// # Errors
        ///
        /// ECHILD in a forked child.
        pub fn record(&self, on: bool) -> Result<()> {
            self.lease.record(on)
        }

        /// The recording since [`record`](Self::record) or the last call, a million runs at most.
        ///
        /// # Errors
        ///
        /// ECHILD in a forked child.
        pub fn recorded(&self) -> Result<crate::WorkingSet> {
            Ok(crate::WorkingSet::new(self.lease.recorded(self.len)?))
        }

        /// The ranges of bytes that are in the map now, in order.
        ///
        /// # Errors
        ///
        /// ECHILD in a forked child.
        pub fn resident(&self) -> Result<Vec<std::ops::Range<usize>>> {
            self.lease.resident(self.len)
        }
    };
}
pub(super) use paged_calls;

/// Calls `each` for pieces of `range`, each pinned meanwhile: with `stores` for stores to all of
/// it.
pub(super) fn in_pieces(
    lease: &MappedObject,
    call: &'static str,
    range: Range<usize>,
    stores: bool,
    mut each: impl FnMut(Range<usize>),
) -> Result<()> {
    let (mut start, most) = (range.start, lease.piece());
    while start < range.end {
        let piece = start..range.end.min((start / most + 1) * most);
        match lease.pin(call, &piece, stores) {
            Ok(()) => {
                each(piece.clone());
                lease.unpin(&piece, stores);
            }
            // Page by page, so that all before the one that failed is done.
            Err(_) if piece.len() > 1 && !in_one_page(&piece) => {
                let page = PageSize::system().bytes();
                let mut at = piece.start;
                while at < piece.end {
                    let part = at..piece.end.min((at / page + 1) * page);
                    lease.pin(call, &part, stores)?;
                    each(part.clone());
                    lease.unpin(&part, stores);
                    at = part.end;
                }
            }
            Err(error) => return Err(error),
        }
        start = piece.end;
    }
    Ok(())
}

fn in_one_page(range: &Range<usize>) -> bool {
    let page = PageSize::system();
    page.floor(range.start) == page.floor(range.end - 1)
}

impl Paged {
    pub(crate) fn new(lease: (Arc<MappedObject>, usize)) -> Self {
        Self { lease: lease.0, len: lease.1 }
    }

    paged_calls!();

    /// Copies bytes from `offset`. A page that cannot be supplied is an error, never a signal.
    ///
    /// # Errors
    ///
    /// EINVAL past the end of the map; a [`Fault`](crate::Fault) for a page that cannot be
    /// supplied: `buffer` then holds what comes before it; ECHILD in a forked child.
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let range =
            self.lease.bytes("read_at", offset..offset.saturating_add(buffer.len()), self.len)?;
        in_pieces(&self.lease, "read_at", range, false, |piece| {
            buffer[piece.start - offset..piece.end - offset].copy_from_slice(&self[piece]);
        })
    }

    /// Brings a range of bytes into memory and keeps it there: for accesses that must not fault,
    /// and for system calls where the pager may serve faults of user code only.
    ///
    /// # Errors
    ///
    /// As for [`read_at`](Self::read_at); a fault with [`NoMemory`](crate::FaultCause::NoMemory) if
    /// more than three quarters of the pager's budget were pinned.
    pub fn pin(&self, range: impl RangeBounds<usize>) -> Result<Pinned<'_>> {
        let range = self.lease.bytes("pin", range, self.len)?;
        Pinned::new(&self.lease, &self[range.clone()], range)
    }
}

impl Deref for Paged {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the object keeps the area mapped, and `len` bytes of it are the object's. An
        // object that is mapped read-only has no writer. An evicted page comes back the same, or
        // the load does not return.
        unsafe { std::slice::from_raw_parts(self.lease.start(), self.len) }
    }
}

impl AsRef<[u8]> for Paged {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl std::fmt::Debug for Paged {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Paged")
            .field("name", &self.lease.name())
            .field("len", &self.len)
            .finish_non_exhaustive()
    }
}
