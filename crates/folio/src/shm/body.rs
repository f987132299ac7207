//! Segments whose contents are folio's own: channels and logs, made and opened as all segments are.

use super::attachment::{Attachment, Contents};
use super::segment::{self, SegmentOptions, Spot};
use crate::error::{Errno, Error, Result, Subject};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The data has its whole length from the start: a ring does not grow.
fn reserve(contents: &Contents<'_>) -> u64 {
    contents.length
}

pub(super) fn create(
    options: &SegmentOptions,
    name: &str,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    let spot = Spot::name("create", name, options.chosen_lifetime())?;
    let made = options.create_at(&spot, contents, reserve(contents), |_| Ok(()))?;
    made.ok_or_else(|| segment::exists(&spot))
}

pub(super) fn open(options: &SegmentOptions, name: &str, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    let spot = Spot::name("open", name, options.chosen_lifetime())?;
    options.open_existing(&spot, contents)
}

pub(super) fn open_or_create(
    options: &SegmentOptions,
    name: &str,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    either(options, &Spot::name("open_or_create", name, options.chosen_lifetime())?, contents)
}

pub(super) fn at_path(
    options: &SegmentOptions,
    path: &Path,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    either(options, &Spot::file(path), contents)
}

fn either(options: &SegmentOptions, spot: &Spot, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    /// Far longer than others keep making and removing it.
    const PATIENCE: Duration = Duration::from_secs(10);
    let deadline = Instant::now() + PATIENCE;
    // Whatever length it has that is there already.
    let any = Contents { length: 0, ..*contents };
    while Instant::now() < deadline {
        match options.open_existing(spot, &any) {
            Err(error) if error.errno() == Errno::NOENT => {}
            opened => return opened,
        }
        if let Some(made) = options.create_at(spot, contents, reserve(contents), |_| Ok(()))? {
            return Ok(made);
        }
    }
    options.open_existing(spot, &any)
}

pub(super) fn anonymous(contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    segment::anonymous(contents, reserve(contents))
}

pub(super) fn from_fd(fd: BorrowedFd<'_>, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    let own = sys::naming::reopen(fd).map_err(|errno| Error::kernel("open", errno, Subject::file(fd)))?;
    segment::from_own_fd(own, contents)
}
