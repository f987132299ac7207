//! Segments whose contents are folio's own: channels and logs, made and opened as all segments are.

use super::attachment::{Attachment, Contents};
use super::name;
use super::segment::{self, SegmentOptions};
use crate::error::{Error, Result, Subject};
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
    // Whatever length it has that is there already.
    options.open_or_create_at(path, lifetime, contents, reserve(contents), |_| Ok(()))
}

pub(super) fn anonymous(contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    segment::anonymous(contents, reserve(contents))
}

pub(super) fn from_fd(fd: BorrowedFd<'_>, contents: &Contents<'_>) -> Result<Arc<Attachment>> {
    let own = sys::naming::reopen(fd).map_err(|errno| Error::kernel("open", errno, Subject::file(fd)))?;
    Attachment::open("from_fd", own, None, contents)
}
