//! Segments whose contents are folio's own: channels and logs, made and opened as all segments are.

use super::attachment::{Attachment, Contents};
use super::name;
use super::segment::{self, SegmentOptions};
use crate::error::{Errno, Error, Result, Subject};
use crate::sys;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;

/// The data has its whole length from the start: a ring does not grow.
fn reserve(contents: &Contents<'_>) -> u64 {
    contents.length
}

pub(super) fn create(
    options: &SegmentOptions,
    name: &str,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    let path = name::path("create", name)?;
    let made =
        options.create_at(&path, options.chosen_lifetime(), contents, reserve(contents), |_| Ok(()))?;
    made.ok_or_else(|| segment::exists(&path))
}

pub(super) fn open(options: &SegmentOptions, name: &str, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    let path = name::path("open", name)?;
    options.open_existing(&path, contents)
}

pub(super) fn open_or_create(
    options: &SegmentOptions,
    name: &str,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    let path = name::path("open_or_create", name)?;
    either(options, &path, options.chosen_lifetime(), contents)
}

pub(super) fn at_path(
    options: &SegmentOptions,
    path: &Path,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    either(options, path, super::Lifetime::Kept, contents)
}

fn either(
    options: &SegmentOptions,
    path: &Path,
    lifetime: super::Lifetime,
    contents: &Contents<'_>,
) -> Result<Arc<Attachment>> {
    /// Far more often than others keep making and removing it.
    const TIMES: usize = 1000;
    // Whatever length it has that is there already.
    let any = Contents { length: 0, ..*contents };
    for _ in 0..TIMES {
        match options.open_existing(path, &any) {
            Err(error) if error.errno() == Errno::NOENT => {}
            opened => return opened,
        }
        if let Some(made) = options.create_at(path, lifetime, contents, reserve(contents), |_| Ok(()))? {
            return Ok(made);
        }
    }
    options.open_existing(path, &any)
}

pub(super) fn anonymous(contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    segment::anonymous(contents, reserve(contents))
}

pub(super) fn from_fd(fd: BorrowedFd<'_>, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    let own = sys::naming::reopen(fd).map_err(|errno| Error::kernel("open", errno, Subject::file(fd)))?;
    Attachment::open("from_fd", own, None, contents)
}
