//! Bytes in memory: fixed ones, and ones that can be written.

use super::{FastPath, FastPathKind, ReadRequest, Source, Version, WriteRequest};
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Bytes in memory that never change.
///
/// Made from owned bytes only, on purpose: a borrowed slice could be memory that the pager itself
/// manages, and the pager would wait for itself.
pub struct Memory {
    bytes: MemoryBytes,
}

enum MemoryBytes {
    Owned(Box<[u8]>),
    Shared(Arc<[u8]>),
}

impl Memory {
    fn bytes(&self) -> &[u8] {
        match &self.bytes {
            MemoryBytes::Owned(bytes) => bytes,
            MemoryBytes::Shared(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Memory {
    fn from(bytes: Vec<u8>) -> Self {
        bytes.into_boxed_slice().into()
    }
}

impl From<Box<[u8]>> for Memory {
    fn from(bytes: Box<[u8]>) -> Self {
        Self { bytes: MemoryBytes::Owned(bytes) }
    }
}

impl From<Arc<[u8]>> for Memory {
    fn from(bytes: Arc<[u8]>) -> Self {
        Self { bytes: MemoryBytes::Shared(bytes) }
    }
}

impl Source for Memory {
    fn name(&self) -> String {
        "memory".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for request in requests {
            copy_out(self.bytes(), request);
        }
    }

    fn fast_path(&self) -> FastPath<'_> {
        FastPath(FastPathKind::Bytes(self.bytes()))
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Memory({} bytes)", self.bytes().len())
    }
}

/// Completes a read from a slice. Bytes past its end are not read.
fn copy_out(bytes: &[u8], mut request: ReadRequest) {
    let rest = usize::try_from(request.offset())
        .ok()
        .and_then(|offset| bytes.get(offset..))
        .unwrap_or(&[]);
    let count = rest.len().min(request.len());
    request.buffer()[..count].copy_from_slice(&rest[..count]);
    request.complete(Ok(count));
}

/// Bytes in memory that can be written and resized: scratch data, and a source to test with. Lost
/// when it is dropped.
pub struct WritableMemory {
    bytes: RwLock<Vec<u8>>,
    version: AtomicU64,
}

impl WritableMemory {
    /// A source of these bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        // Not from zero: that is the version of bytes that never change.
        Self { bytes: RwLock::new(bytes), version: AtomicU64::new(1) }
    }

    /// A copy of the bytes as they are now.
    pub fn contents(&self) -> Vec<u8> {
        self.shown().clone()
    }

    fn shown(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// To change the bytes: they are a new version before anyone can read them.
    fn change(&self) -> RwLockWriteGuard<'_, Vec<u8>> {
        let bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        self.version.fetch_add(1, Ordering::Relaxed);
        bytes
    }
}

impl From<Vec<u8>> for WritableMemory {
    fn from(bytes: Vec<u8>) -> Self {
        Self::new(bytes)
    }
}

impl Source for WritableMemory {
    fn name(&self) -> String {
        "writable memory".into()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.shown().len() as u64)
    }

    fn version(&self) -> io::Result<Version> {
        // Under the lock: never the version of a write whose bytes are not there yet.
        let bytes = self.shown();
        Ok(Version(self.version.load(Ordering::Relaxed), bytes.len() as u64))
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        for request in requests {
            copy_out(&self.shown(), request);
        }
    }

    fn write(&self, requests: Vec<WriteRequest>) {
        for request in requests {
            let result = write_into(&mut self.change(), request.offset(), request.bytes());
            request.complete(result);
        }
    }

    fn resize(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        let mut bytes = self.change();
        let more = len.saturating_sub(bytes.len());
        bytes.try_reserve_exact(more).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
        bytes.resize(len, 0);
        Ok(())
    }
}

/// A write that would go past the end writes nothing: a source grows by `resize` only.
fn write_into(bytes: &mut [u8], offset: u64, new: &[u8]) -> io::Result<()> {
    let len = bytes.len();
    let start = usize::try_from(offset).ok();
    let room = start.and_then(|start| bytes.get_mut(start..start.checked_add(new.len())?));
    room.map(|room| room.copy_from_slice(new))
        .ok_or_else(|| super::file::past_end(offset, new.len(), len as u64))
}

impl fmt::Debug for WritableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WritableMemory({} bytes)", self.shown().len())
    }
}
