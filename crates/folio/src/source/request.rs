//! A read, a write or a flush under way. Each ends once: by `complete`, or by being dropped, which
//! is a failure.

use std::fmt;
use std::io;
use std::sync::Arc;

/// The receiver of a request's end. It keeps the buffer's memory alive.
pub(crate) trait Sink: Send + Sync {
    /// Request `id` ended: so many bytes were read or written.
    fn ended(&self, id: u64, result: io::Result<usize>);
}

/// The waiter for a request.
enum RequestWaiter {
    Sink { sink: Arc<dyn Sink>, id: u64 },
    Call(Box<dyn FnOnce(io::Result<usize>) + Send>),
}

/// The waiter, until it is told.
struct End(Option<RequestWaiter>);

impl End {
    fn end(&mut self, result: io::Result<usize>) {
        match self.0.take() {
            Some(RequestWaiter::Sink { sink, id }) => sink.ended(id, result),
            Some(RequestWaiter::Call(call)) => call(result),
            None => {}
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.end(Err(io::Error::other("the source dropped the request without completing it")));
        }
    }
}

/// Memory that a request owns until it ends.
struct Buffer {
    start: *mut u8,
    len: usize,
}

// SAFETY: the memory is the request's alone for as long as it lives, whichever thread has it.
unsafe impl Send for Buffer {}
// SAFETY: a shared reference gives shared slices only.
unsafe impl Sync for Buffer {}

/// Bytes that are wanted: fill [`buffer`](Self::buffer), then [`complete`](Self::complete).
pub struct ReadRequest {
    // Told before the buffer is anyone else's: nothing of the request touches it afterwards.
    buffer: Buffer,
    offset: u64,
    end: End,
}

impl ReadRequest {
    /// # Safety
    ///
    /// `len` bytes from `start` are initialised, and nobody else uses them before `sink` is told of
    /// the end; `sink` keeps them mapped.
    pub(crate) unsafe fn new(
        offset: u64,
        start: *mut u8,
        len: usize,
        sink: Arc<dyn Sink>,
        id: u64,
    ) -> Self {
        Self {
            buffer: Buffer { start, len },
            offset,
            end: End(Some(RequestWaiter::Sink { sink, id })),
        }
    }

    /// A read into a buffer of the caller's, for a source that is built on another one. `done` gets
    /// the buffer back, and how many bytes were read.
    pub fn into_buffer(
        offset: u64,
        buffer: Box<[u8]>,
        done: impl FnOnce(Box<[u8]>, io::Result<usize>) + Send + 'static,
    ) -> Self {
        let len = buffer.len();
        let owned = OwnedBuffer(Box::into_raw(buffer));
        let start = owned.0.cast::<u8>();
        let call = Box::new(move |result| done(owned.take(), result));
        Self { buffer: Buffer { start, len }, offset, end: End(Some(RequestWaiter::Call(call))) }
    }

    /// Where the bytes start in the source.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes are wanted. They end at the source's end at the latest.
    pub fn len(&self) -> usize {
        self.buffer.len
    }

    /// Never: requests are for bytes.
    pub fn is_empty(&self) -> bool {
        self.buffer.len == 0
    }

    /// Where the bytes go. It holds anything until it is filled.
    pub fn buffer(&mut self) -> &mut [u8] {
        // SAFETY: initialised and the request's alone, by the promise made to `new`, or a box that
        // `end` holds.
        unsafe { std::slice::from_raw_parts_mut(self.buffer.start, self.buffer.len) }
    }

    /// The read has ended, with so many bytes from the start. Fewer than requested is an error to
    /// all waiters.
    pub fn complete(mut self, result: io::Result<usize>) {
        self.end.end(result);
    }
}

/// A boxed buffer whose bytes are reached through the request meanwhile.
struct OwnedBuffer(*mut [u8]);

// SAFETY: owns the box.
unsafe impl Send for OwnedBuffer {}

impl OwnedBuffer {
    fn take(self) -> Box<[u8]> {
        // SAFETY: made by `Box::into_raw`, and given back once: `self` is forgotten.
        let owned = unsafe { Box::from_raw(self.0) };
        std::mem::forget(self);
        owned
    }
}

impl Drop for OwnedBuffer {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`; `take` forgets `self`.
        drop(unsafe { Box::from_raw(self.0) });
    }
}

impl fmt::Debug for ReadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadRequest({} bytes from {})", self.buffer.len, self.offset)
    }
}

/// Bytes to write at [`offset`](Self::offset).
pub struct WriteRequest {
    buffer: Buffer,
    offset: u64,
    end: End,
}

impl WriteRequest {
    /// # Safety
    ///
    /// `len` bytes from `start` are initialised, and nobody changes them before `sink` is told of
    /// the end; `sink` keeps them mapped.
    pub(crate) unsafe fn new(
        offset: u64,
        start: *const u8,
        len: usize,
        sink: Arc<dyn Sink>,
        id: u64,
    ) -> Self {
        Self {
            buffer: Buffer { start: start.cast_mut(), len },
            offset,
            end: End(Some(RequestWaiter::Sink { sink, id })),
        }
    }

    /// A write of the caller's own bytes, for a source that is built on another one. `done` gets
    /// them back.
    pub fn of_buffer(
        offset: u64,
        buffer: Box<[u8]>,
        done: impl FnOnce(Box<[u8]>, io::Result<usize>) + Send + 'static,
    ) -> Self {
        let len = buffer.len();
        let owned = OwnedBuffer(Box::into_raw(buffer));
        let start = owned.0.cast::<u8>();
        let call = Box::new(move |result| done(owned.take(), result));
        Self { buffer: Buffer { start, len }, offset, end: End(Some(RequestWaiter::Call(call))) }
    }

    /// Where the bytes go in the source.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: initialised and unchanging, by the promise made to `new`, or a box that `end`
        // holds.
        unsafe { std::slice::from_raw_parts(self.buffer.start, self.buffer.len) }
    }

    /// The write has ended: all bytes are in the source, or it failed.
    pub fn complete(mut self, result: io::Result<()>) {
        let len = self.buffer.len;
        self.end.end(result.map(|()| len));
    }
}

impl fmt::Debug for WriteRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WriteRequest({} bytes at {})", self.buffer.len, self.offset)
    }
}

/// A request to make written bytes durable.
pub struct FlushRequest {
    end: End,
}

impl FlushRequest {
    pub(crate) fn new(sink: Arc<dyn Sink>, id: u64) -> Self {
        Self { end: End(Some(RequestWaiter::Sink { sink, id })) }
    }

    /// A flush of the caller's, for a source that is built on another one.
    pub fn then(done: impl FnOnce(io::Result<()>) + Send + 'static) -> Self {
        Self { end: End(Some(RequestWaiter::Call(Box::new(move |result| done(result.map(drop)))))) }
    }

    /// The flush has ended.
    pub fn complete(mut self, result: io::Result<()>) {
        self.end.end(result.map(|()| 0));
    }
}

impl fmt::Debug for FlushRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FlushRequest")
    }
}
