//! A shared source is a source: maps of clones of one `Arc` are maps of one object.

use super::{FastPath, FlushRequest, Identity, ReadRequest, Source, Version, WriteRequest};
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// No device has this number: it marks identities that are addresses.
const ADDRESS: u64 = u64::MAX;

impl<S: Source + ?Sized> Source for Arc<S> {
    fn name(&self) -> String {
        (**self).name()
    }

    fn len(&self) -> io::Result<u64> {
        (**self).len()
    }

    fn version(&self) -> io::Result<Version> {
        (**self).version()
    }

    fn block(&self) -> usize {
        (**self).block()
    }

    fn deadline(&self) -> Duration {
        (**self).deadline()
    }

    fn is_writable(&self) -> bool {
        (**self).is_writable()
    }

    /// The inner source's; else its address, which no other source has while a map keeps this one
    /// alive.
    fn identity(&self) -> Option<Identity> {
        let address = Arc::as_ptr(self).cast::<()>() as u64;
        (**self).identity().or(Some(Identity(ADDRESS, address)))
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        (**self).read(requests);
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        (**self).write(requests);
    }

    fn flush(&self, request: FlushRequest) {
        (**self).flush(request);
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        (**self).resize(len)
    }

    fn fast_path(&self) -> FastPath<'_> {
        (**self).fast_path()
    }
}
