//! Byte-exact write-back: the bytes that a dirty page had before it was stored to, and the parts of
//! it that differ now.
//!
//! Only these parts are written, so that others can write to other bytes of the same page
//! meanwhile.

use super::core::{ExtentId, PageRun};
use crate::source::request::Sink;
use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type ImagePages = HashMap<u64, Box<[u8]>>;

/// The pre-images of one object's dirty pages.
#[derive(Debug)]
pub(super) struct PreImages {
    page: usize,
    pages: ImagePages,
    /// Those of pages that are being written, by extent: a page that is stored to meanwhile has a
    /// new one.
    writing: HashMap<ExtentId, ImagePages>,
    /// Extents that were copied for a write while stores to them went on.
    unprotected: HashSet<ExtentId>,
}

impl PreImages {
    pub(super) fn new(page: usize) -> Self {
        Self {
            page,
            pages: ImagePages::new(),
            writing: HashMap::new(),
            unprotected: HashSet::new(),
        }
    }

    /// Whether a page of the run has none.
    pub(super) fn lacks(&self, run: PageRun) -> bool {
        (run.first..run.end()).any(|page| !self.pages.contains_key(&page))
    }

    /// The run has these bytes, and is stored to from now on. Pages that were stored to before keep
    /// the pre-image that they have.
    pub(super) fn keep(&mut self, run: PageRun, bytes: &[u8]) {
        for (page, bytes) in (run.first..).zip(bytes.chunks_exact(self.page)) {
            self.pages.entry(page).or_insert_with(|| bytes.into());
        }
    }

    /// The next write of the extent is of a copy that was made while stores went on.
    pub(super) fn copied_unprotected(&mut self, extent: ExtentId) {
        self.unprotected.insert(extent);
    }

    /// The write of an extent's bytes begins: the ranges, from the start of the run and up to
    /// `len`, that are to be written.
    pub(super) fn begin(
        &mut self,
        extent: ExtentId,
        run: PageRun,
        bytes: &[u8],
        len: usize,
    ) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut old = ImagePages::new();
        for (page, start) in (run.first..run.end()).zip((0..).step_by(self.page)) {
            let end = (start + self.page).min(len);
            if start >= end {
                break;
            }
            match self.pages.remove(&page) {
                Some(before) => {
                    let now = &bytes[start..end];
                    ranges.extend(
                        differing(&before[..now.len()], now)
                            .map(|r| start + r.start..start + r.end),
                    );
                    old.insert(page, before);
                }
                None => ranges.push(start..end),
            }
        }
        self.writing.insert(extent, old);
        if self.unprotected.remove(&extent) {
            self.keep(run, bytes);
        }
        ranges
    }

    /// The write has ended. Bytes that were not written still differ from the older pre-image.
    pub(super) fn ended(&mut self, extent: ExtentId, written: bool) {
        if let Some(old) = self.writing.remove(&extent)
            && !written
        {
            self.pages.extend(old);
        }
    }

    /// The run has left memory.
    pub(super) fn forget(&mut self, extent: ExtentId, run: PageRun) {
        self.unprotected.remove(&extent);
        if !self.pages.is_empty() {
            (run.first..run.end()).for_each(|page| _ = self.pages.remove(&page));
        }
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        let count = self.pages.len() + self.writing.values().map(ImagePages::len).sum::<usize>();
        count * (self.page + 48)
    }
}

/// The ranges in which two pieces of the same length differ.
fn differing<'a>(before: &'a [u8], now: &'a [u8]) -> impl Iterator<Item = Range<usize>> + 'a {
    let mut next = 0;
    std::iter::from_fn(move || {
        let differs = |at: &usize| before[*at] != now[*at];
        let start = (next..now.len()).find(differs)?;
        next = (start..now.len()).find(|at| !differs(at)).unwrap_or(now.len());
        Some(start..next)
    })
}

/// Many small writes that are one operation: it ends with the last of them, and fails with the
/// first that fails.
pub(super) struct WriteParts {
    sink: Arc<dyn Sink>,
    /// The operation, and its result if all goes well.
    id: u64,
    whole: usize,
    lengths: Vec<usize>,
    left: AtomicUsize,
    failed: Mutex<Option<io::Error>>,
}

impl WriteParts {
    pub(super) fn new(sink: Arc<dyn Sink>, id: u64, whole: usize, lengths: Vec<usize>) -> Self {
        let left = AtomicUsize::new(lengths.len());
        Self { sink, id, whole, lengths, left, failed: Mutex::new(None) }
    }
}

impl Sink for WriteParts {
    /// Part `id` ended.
    fn ended(&self, id: u64, result: io::Result<usize>) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Ok(count) if Some(&count) == self.lengths.get(id as usize) => {}
            Ok(_) => _ = failed.get_or_insert_with(|| io::ErrorKind::WriteZero.into()),
            Err(error) => _ = failed.get_or_insert(error),
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            let result = failed.take().map_or(Ok(self.whole), Err);
            drop(failed);
            self.sink.ended(self.id, result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PreImages;
    use crate::pager::core::{ExtentId, PageRun};

    #[test]
    fn only_what_differs_is_written() {
        let mut images = PreImages::new(8);
        let run = PageRun { first: 3, len: 2 };
        images.keep(run, b"abcdefghijklmnop");
        assert_eq!(images.begin(ExtentId(0), run, b"aXXdefgYZjklmnop", 16), [1..3, 7..8, 8..9]);
        images.ended(ExtentId(0), true);
        assert!(images.lacks(run) && images.bytes() == 0);
    }

    #[test]
    fn nothing_past_the_end_is_written() {
        let mut images = PreImages::new(8);
        let run = PageRun { first: 0, len: 2 };
        images.keep(run, &[0; 16]);
        assert_eq!(images.begin(ExtentId(0), run, &[1; 16], 10), [0..8, 8..10]);
    }

    #[test]
    fn a_write_that_failed_is_made_again_with_what_was_stored_meanwhile() {
        let mut images = PreImages::new(4);
        let run = PageRun::one(0);
        images.keep(run, b"abcd");
        assert!(images.begin(ExtentId(0), run, b"Xbcd", 4).into_iter().eq(std::iter::once(0..1)));
        images.keep(run, b"Xbcd");
        images.ended(ExtentId(0), false);
        assert_eq!(images.begin(ExtentId(0), run, b"XbcY", 4), [0..1, 3..4]);
    }

    #[test]
    fn what_is_copied_while_stores_go_on_is_the_next_pre_image() {
        let mut images = PreImages::new(4);
        let run = PageRun::one(0);
        images.keep(run, b"abcd");
        images.copied_unprotected(ExtentId(0));
        assert!(images.begin(ExtentId(0), run, b"Xbcd", 4).into_iter().eq(std::iter::once(0..1)));
        images.ended(ExtentId(0), true);
        assert!(images.begin(ExtentId(0), run, b"Xbcd", 4).is_empty());
    }
}
