//! Vectors whose length a caller or a file decides: too long is an error, and neither an abort nor
//! the OOM killer.

use crate::error::{Error, Result, Subject};
use crate::sys;
use std::alloc::{Layout, alloc_zeroed};
use std::ops::Range;

/// A vector of zeros with a byte for each of `range`, which `call` is about to fill.
pub(crate) fn zeroed_vec(call: &'static str, range: Range<usize>) -> Result<Vec<u8>> {
    let len = range.len();
    let subject = || Subject::named("the bytes of a map").with_range(range.start as u64, len);
    sys::memory_room::check_own(len as u64)
        .map_err(|short| Error::no_memory(call, subject(), short))?;
    let Ok(layout) = Layout::array::<u8>(len) else { return Err(Error::no_heap(call, subject())) };
    if len == 0 {
        return Ok(Vec::new());
    }
    // SAFETY: the layout's size is `len`, which is not zero.
    let bytes = unsafe { alloc_zeroed(layout) };
    if bytes.is_null() {
        return Err(Error::no_heap(call, subject()));
    }
    // SAFETY: the global allocator has given this block for the layout of `len` bytes, all of them
    // are initialised, and nothing else owns it.
    let bytes = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(bytes, len)) };
    Ok(bytes.into_vec())
}
