//! Segments whose contents are folio's own, a ring: channels and logs, made and opened as all
//! segments are.

use crate::error::{Errno, Error, Result, Subject};
use crate::shm::ring::memory::{ControlBlock, data_len};
use crate::shm::ring::message_header;
use crate::shm::segment::attachment::Attachment;
use crate::shm::segment::file_io::SegmentContents;
use crate::shm::segment::{self, SegmentOptions, SegmentPath};
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How one is made and opened.
pub(in crate::shm) struct RingOptions<'a, C> {
    pub(in crate::shm) segment: &'a SegmentOptions,
    /// Any one of this kind.
    pub(in crate::shm) any: SegmentContents<'a>,
    /// Bytes of a new one's ring, before they are rounded up.
    pub(in crate::shm) bytes: usize,
    pub(in crate::shm) beside: PhantomData<C>,
}

impl<C: ControlBlock> RingOptions<'_, C> {
    /// A new one. Its data has its whole length from the start: a ring does not grow.
    fn contents(&self, call: &'static str) -> Result<SegmentContents<'_>> {
        let capacity = self.bytes.max(C::SMALLEST).checked_next_power_of_two();
        match capacity.filter(|&capacity| capacity as u64 <= message_header::CAPACITY_LIMIT) {
            Some(capacity) => Ok(SegmentContents { length: data_len(capacity) as u64, ..self.any }),
            None => Err(Error::rule(
                call,
                Subject::named(format!("a {}", C::NOUN)).with_length(self.bytes),
                format!("a {} has at most {} bytes", C::NOUN, message_header::CAPACITY_LIMIT),
                C::TOO_LARGE,
            )),
        }
    }

    fn path_of(&self, call: &'static str, name: &str) -> Result<SegmentPath> {
        SegmentPath::name(call, name, self.segment.chosen_lifetime())
    }

    pub(in crate::shm) fn create(&self, name: &str) -> Result<Arc<Attachment>> {
        let contents = self.contents("create")?;
        self.create_path(&self.path_of("create", name)?, &contents)
    }

    pub(in crate::shm) fn open(&self, name: &str) -> Result<Arc<Attachment>> {
        self.segment.open_existing(&self.path_of("open", name)?, &self.any)
    }

    pub(in crate::shm) fn open_or_create(&self, name: &str) -> Result<Arc<Attachment>> {
        let contents = self.contents("open_or_create")?;
        self.open_or_create_path(&self.path_of("open_or_create", name)?, &contents)
    }

    pub(in crate::shm) fn create_file(&self, path: &Path) -> Result<Arc<Attachment>> {
        self.create_path(&SegmentPath::file(path), &self.contents("create_file")?)
    }

    pub(in crate::shm) fn open_file(&self, path: &Path) -> Result<Arc<Attachment>> {
        self.segment.open_existing(&SegmentPath::file(path), &self.any)
    }

    pub(in crate::shm) fn open_or_create_file(&self, path: &Path) -> Result<Arc<Attachment>> {
        self.open_or_create_path(&SegmentPath::file(path), &self.contents("open_or_create_file")?)
    }

    fn create_path(
        &self,
        path: &SegmentPath,
        contents: &SegmentContents<'_>,
    ) -> Result<Arc<Attachment>> {
        let made = self.segment.create_at(path, contents, contents.length, |_| Ok(()))?;
        made.ok_or_else(|| segment::exists(self.segment, path))
    }

    fn open_or_create_path(
        &self,
        spot: &SegmentPath,
        contents: &SegmentContents<'_>,
    ) -> Result<Arc<Attachment>> {
        /// Far longer than others keep making and removing it.
        const PATIENCE: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Whatever length it has that is there already.
            match self.segment.open_existing(spot, &self.any) {
                Err(error) if error.errno() == Errno::NOENT => {}
                opened => return opened,
            }
            if let Some(made) =
                self.segment.create_at(spot, contents, contents.length, |_| Ok(()))?
            {
                return Ok(made);
            }
        }
        self.segment.open_existing(spot, &self.any)
    }

    pub(in crate::shm) fn anonymous(&self) -> Result<Arc<Attachment>> {
        let contents = self.contents("anonymous")?;
        segment::anonymous(&contents, contents.length)
    }

    pub(in crate::shm) fn behind(&self, fd: BorrowedFd<'_>) -> Result<Arc<Attachment>> {
        let own = crate::shm::sys::unnamed_file::reopen(fd)
            .map_err(|errno| segment::by_descriptor("open", errno, Subject::file(fd)))?;
        segment::from_own_fd(own, &self.any)
    }
}
