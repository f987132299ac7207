//! No bytes at all: so many zeros.

use super::{FastPath, FastPathKind, ReadRequest, Source};
use std::io;

/// So many zero bytes.
#[derive(Debug, Clone, Copy)]
pub struct Zeros {
    len: u64,
}

impl Zeros {
    /// `len` zero bytes.
    pub fn new(len: u64) -> Self {
        Self { len }
    }
}

impl Source for Zeros {
    fn name(&self) -> String {
        "zeros".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for mut request in requests {
            let count = within(self.len, request.offset(), request.len());
            request.buffer()[..count].fill(0);
            request.complete(Ok(count));
        }
    }

    fn fast_path(&self) -> FastPath<'_> {
        FastPath(FastPathKind::Zeros)
    }
}

/// How many of `wanted` bytes from `offset` there are in a source of `len`.
pub(super) fn within(len: u64, offset: u64, wanted: usize) -> usize {
    usize::try_from(len.saturating_sub(offset)).map_or(wanted, |rest| rest.min(wanted))
}
