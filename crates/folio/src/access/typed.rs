//! A value of any type from its bytes.

use crate::error::Result;
use std::mem::MaybeUninit;
use zerocopy::FromBytes;

/// The value whose bytes `read` fills in.
pub(crate) fn read_value<T: FromBytes>(read: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<T> {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: `value` is that many bytes, and all of them are written, padding included, before
    // they are a slice.
    let bytes = unsafe {
        value.as_mut_ptr().write_bytes(0, 1);
        std::slice::from_raw_parts_mut(value.as_mut_ptr().cast::<u8>(), size_of::<T>())
    };
    read(bytes)?;
    // SAFETY: all its bytes are initialized, and `FromBytes` says that any will do.
    Ok(unsafe { value.assume_init() })
}
