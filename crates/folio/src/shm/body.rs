//! Segments whose contents are folio's own, a ring: channels and logs, made and opened as all segments are.

use super::attachment::{Attachment, Contents};
use super::ring_memory::{Beside, data_len};
use super::segment::{self, SegmentOptions, Spot};
use super::word;
use crate::error::{Errno, Error, Result, Subject};
use crate::sys;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How one is made and opened.
pub(super) struct Making<'a, C> {
    pub(super) segment: &'a SegmentOptions,
    /// Any one of this kind.
    pub(super) any: Contents<'a>,
    /// Bytes of a new one's ring, before they are rounded up.
    pub(super) bytes: usize,
    pub(super) beside: PhantomData<C>,
}

impl<C: Beside> Making<'_, C> {
    /// A new one. Its data has its whole length from the start: a ring does not grow.
    fn contents(&self, call: &'static str) -> Result<Contents<'_>> {
        let capacity = self.bytes.max(C::SMALLEST).checked_next_power_of_two();
        match capacity.filter(|&capacity| capacity as u64 <= word::CAPACITY_LIMIT) {
            Some(capacity) => Ok(Contents { length: data_len(capacity) as u64, ..self.any }),
            None => Err(Error::rule(
                call,
                Subject::named(format!("a {}", C::NOUN)).with_length(self.bytes),
                format!("a {} has at most {} bytes", C::NOUN, word::CAPACITY_LIMIT),
                C::TOO_LARGE,
            )),
        }
    }

    fn spot(&self, call: &'static str, name: &str) -> Result<Spot> {
        Spot::name(call, name, self.segment.chosen_lifetime())
    }

    pub(super) fn create(&self, name: &str) -> Result<Arc<Attachment>> {
        let contents = self.contents("create")?;
        let spot = self.spot("create", name)?;
        let made = self.segment.create_at(&spot, &contents, contents.length, |_| Ok(()))?;
        made.ok_or_else(|| segment::exists(&spot))
    }

    pub(super) fn open(&self, name: &str) -> Result<Arc<Attachment>> {
        self.segment.open_existing(&self.spot("open", name)?, &self.any)
    }

    pub(super) fn open_or_create(&self, name: &str) -> Result<Arc<Attachment>> {
        let contents = self.contents("open_or_create")?;
        self.either(&self.spot("open_or_create", name)?, &contents)
    }

    pub(super) fn at_path(&self, path: &Path) -> Result<Arc<Attachment>> {
        self.either(&Spot::file(path), &self.contents("at_path")?)
    }

    fn either(&self, spot: &Spot, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
        /// Far longer than others keep making and removing it.
        const PATIENCE: Duration = Duration::from_secs(10);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Whatever length it has that is there already.
            match self.segment.open_existing(spot, &self.any) {
                Err(error) if error.errno() == Errno::NOENT => {}
                opened => return opened,
            }
            if let Some(made) = self.segment.create_at(spot, contents, contents.length, |_| Ok(()))? {
                return Ok(made);
            }
        }
        self.segment.open_existing(spot, &self.any)
    }

    pub(super) fn anonymous(&self) -> Result<Arc<Attachment>> {
        let contents = self.contents("anonymous")?;
        segment::anonymous(&contents, contents.length)
    }

    pub(super) fn behind(&self, fd: BorrowedFd<'_>) -> Result<Arc<Attachment>> {
        let own = sys::naming::reopen(fd).map_err(|errno| Error::kernel("open", errno, Subject::file(fd)))?;
        segment::from_own_fd(own, &self.any)
    }
}
