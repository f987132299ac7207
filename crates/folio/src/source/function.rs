//! Bytes that a function makes.

use super::workers::Workers;
use super::zeros::within;
use super::{FastPath, FastPathKind, ReadRequest, Source};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How many calls of the function are under way at once.
const THREADS: usize = 4;

type Make = dyn Fn(u64, &mut [u8]) -> io::Result<()> + Send + Sync;

/// Bytes that a function makes, each time they are read. It runs on threads of its own, several at
/// once, and may be slow.
///
/// It must give the same bytes for the same offset every time: the holder of a map gets an error
/// for bytes that differ.
///
/// ```
/// use folio::source::Function;
///
/// let squares = Function::new("squares", 8 << 20, |offset, buffer| {
///     for (byte, at) in buffer.iter_mut().zip(offset..) {
///         *byte = (at * at) as u8;
///     }
///     Ok(())
/// });
/// # let _ = squares;
/// ```
pub struct Function {
    name: String,
    len: u64,
    make: Arc<Make>,
    block: usize,
    deadline: Duration,
    workers: OnceLock<Workers>,
}

impl Function {
    /// A source of `len` bytes. `make` fills the buffer with the bytes from an offset; both end
    /// within `len`. The buffer is zeros when it is called.
    pub fn new(
        name: impl Into<String>,
        len: u64,
        make: impl Fn(u64, &mut [u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let (make, workers) = (Arc::new(make), OnceLock::new());
        Self {
            name: name.into(),
            len,
            make,
            block: 4096,
            deadline: Duration::from_secs(30),
            workers,
        }
    }

    /// The natural unit of a read, as [`Source::block`] says. Rounded up to a power of two.
    #[must_use]
    pub fn block(mut self, bytes: usize) -> Self {
        self.block = power_of_two(bytes);
        self
    }

    /// How long a call may take, as [`Source::deadline`] says. 30 seconds if it is not set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// The power of two that is no less; half the address space where there is none.
pub(super) fn power_of_two(bytes: usize) -> usize {
    bytes.checked_next_power_of_two().unwrap_or(1 << (usize::BITS - 1))
}

impl Source for Function {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn block(&self) -> usize {
        self.block
    }

    fn deadline(&self) -> Duration {
        self.deadline
    }

    fn read(&self, requests: Vec<ReadRequest>) {
        let workers = self.workers.get_or_init(|| Workers::new(THREADS));
        for mut request in requests {
            let (make, len) = (Arc::clone(&self.make), self.len);
            workers.run(move || {
                let (offset, count) =
                    (request.offset(), within(len, request.offset(), request.len()));
                let buffer = &mut request.buffer()[..count];
                // The same bytes each time, even where the function leaves some as they were.
                buffer.fill(0);
                let result = caught(|| if count == 0 { Ok(()) } else { make(offset, buffer) });
                request.complete(result.map(|()| count));
            });
        }
    }

    fn fast_path(&self) -> FastPath<'_> {
        FastPath(FastPathKind::Constant)
    }
}

/// Calls code that is not folio's. A panic is an error with the panic's message.
pub(crate) fn caught<T>(call: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().copied();
        let text =
            text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message");
        Err(io::Error::other(format!("the source panicked: {text}")))
    })
}

impl fmt::Debug for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Function({:?}, {} bytes)", self.name, self.len)
    }
}
