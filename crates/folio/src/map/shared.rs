//! Memory that other processes change while this one looks: atomics and atomic views, never slices.

use super::handle::{handle_calls, typed_reads, typed_writes};
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::access::{View, ViewMut};
use crate::error::{Error, Result};
use crate::region::{Region, outside};
use crate::residency::Residency;
use std::ops::RangeBounds;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic;

/// Memory shared between processes, whose pages nobody can take away: anonymous (for forked
/// children), `/dev/zero` (the same, the old way), or a memfd sealed against shrinking (for every
/// process that gets the descriptor, related or not).
///
/// Space is reserved at creation where the kernel can: a full machine is an error then, not a
/// signal later. But a peer can punch holes into a memfd. A hole takes memory when it is touched,
/// and a machine with strict overcommit that has none left then sends a SIGBUS. There are no huge
/// pages: a peer could punch a hole, and an empty pool would then be a signal.
///
/// Source: mmap(2), memfd_create(2).
///
/// **Fork:** a child shares the memory, and drops only its own map of it. With
/// [`Fork::Absent`](crate::Fork::Absent) it has nothing there: asking for views and atomics is an
/// error, and it must not touch those that the parent asked for.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
///
/// let shared = folio::SharedMem::anonymous(4096)?;
/// let counter = shared.atomic::<AtomicU64>(0)?;
/// counter.fetch_add(1, Ordering::Relaxed); // a forked child may do the same
/// assert_eq!(counter.load(Ordering::Relaxed), 1);
/// # Ok::<(), folio::Error>(())
/// ```
#[doc(alias = "memfd_create")]
#[doc(alias = "MAP_SHARED")]
#[derive(Debug)]
pub struct SharedMem {
    mapping: Mapping,
    fd: Option<OwnedFd>,
}

impl SharedMem {
    /// Memory that forked children share (SHARED, ANONYMOUS). No other process can reach it.
    ///
    /// # Errors
    ///
    /// ENOMEM; ENFILE at the machine's limit of open files.
    pub fn anonymous(length: usize) -> Result<Self> {
        MapOptions::new().shared_anonymous(length)
    }

    /// The same by a shared map of `/dev/zero`, as systems without ANONYMOUS do it.
    ///
    /// # Errors
    ///
    /// As [`anonymous`](Self::anonymous), and those of opening `/dev/zero`.
    pub fn dev_zero(length: usize) -> Result<Self> {
        MapOptions::new().shared_dev_zero(length)
    }

    /// Memory behind a descriptor, sealed against shrinking: [`send_to`](Self::send_to) it to any
    /// process.
    ///
    /// # Errors
    ///
    /// ENOMEM, before any memory is taken, if there is not so much; EMFILE, ENFILE.
    pub fn memfd(name: &str, length: usize) -> Result<Self> {
        MapOptions::new().name(name).shared_memfd(length)
    }

    /// Maps a memfd that another process made. Few holes are filled, many are left: see
    /// [`MapOptions::shared_from_fd`].
    ///
    /// # Errors
    ///
    /// EINVAL if it is no memfd, not sealed against shrinking, or has huge pages; EPERM if it is
    /// sealed against writing.
    pub fn from_fd(fd: impl Into<OwnedFd>) -> Result<Self> {
        MapOptions::new().shared_from_fd(fd.into())
    }

    pub(super) fn new_from(mapping: Mapping, fd: Option<OwnedFd>) -> Self {
        Self { mapping, fd }
    }

    /// The descriptor, if there is one: not for anonymous memory.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    /// Passes the descriptor to the process at the other end of a Unix socket (SCM_RIGHTS), with
    /// one byte of data.
    ///
    /// # Errors
    ///
    /// EINVAL for anonymous memory, which has none; else what sendmsg(2) answers.
    pub fn send_to(&self, socket: &UnixStream) -> Result<()> {
        match self.file() {
            Some(fd) => super::scm_rights::send(socket, fd),
            None => Err(Error::rule(
                "sendmsg",
                self.mapping.region.subject(0..self.mapping.region.len()),
                "anonymous shared memory has no descriptor, and reaches forked children only",
                "make it with SharedMem::memfd",
            )),
        }
    }

    /// Takes what [`send_to`](Self::send_to) passed, and maps it.
    ///
    /// # Errors
    ///
    /// The errors of recvmsg(2); those of [`from_fd`](Self::from_fd).
    pub fn receive_from(socket: &UnixStream) -> Result<Self> {
        Self::from_fd(super::scm_rights::receive(socket)?)
    }

    handle_calls!();

    /// All bytes, for atomic loads and stores.
    ///
    /// # Errors
    ///
    /// ENOMEM in a child that does not have the memory ([`Fork::Absent`](crate::Fork::Absent)).
    pub fn view(&self) -> Result<ViewMut<'_>> {
        self.mapping.region.check_present("view", &(0..self.mapping.region.len()))?;
        crate::sys::signal::install();
        // SAFETY: the bytes are mapped readable and writable while the handle is borrowed; no
        // process can take their pages away, for the memory is anonymous or sealed against
        // shrinking.
        Ok(unsafe { ViewMut::new(self.mapping.start(), self.mapping.len) })
    }

    /// The bytes of a range, for atomic loads.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map; those of [`view`](Self::view).
    pub fn view_range(&self, range: impl RangeBounds<usize>) -> Result<View<'_>> {
        self.view()?.slice(range)
    }

    /// The atomic at `offset`, shared with everyone who has the memory.
    ///
    /// # Errors
    ///
    /// EINVAL if it does not lie inside the map, or `offset` is no multiple of its size; ENOMEM in
    /// a child that does not have the memory.
    pub fn atomic<A: Atom>(&self, offset: usize) -> Result<&A> {
        Ok(&self.atomics::<A>(offset, 1)?[0])
    }

    /// `count` atomics from `offset`.
    ///
    /// # Errors
    ///
    /// As [`atomic`](Self::atomic).
    pub fn atomics<A: Atom>(&self, offset: usize, count: usize) -> Result<&[A]> {
        let Mapping { region, len, .. } = &self.mapping;
        let subject = || region.subject(0..region.len());
        let bytes = count.checked_mul(size_of::<A>());
        let Some(bytes) = bytes.filter(|&bytes| crate::page::within(offset, bytes, *len).is_some())
        else {
            return Err(outside("atomics", subject(), offset, bytes.unwrap_or(usize::MAX), *len));
        };
        if !offset.is_multiple_of(align_of::<A>()) {
            let align = align_of::<A>();
            return Err(Error::rule(
                "atomics",
                subject().with_detail(format!("offset {offset}")),
                format!("an atomic of {align} bytes lies at a multiple of {align}"),
                format!("use {} or {}", offset - offset % align, offset.next_multiple_of(align)),
            ));
        }
        region.check_present("atomics", &(offset..offset + bytes))?;
        // SAFETY: inside the map, aligned (the map starts on a page), any bits are valid, and all
        // that safe code gets of these bytes are atomics and assembly copies. The pages stay, as
        // for `view`.
        Ok(unsafe {
            std::slice::from_raw_parts(self.mapping.start().add(offset).cast::<A>(), count)
        })
    }

    /// Copies `buffer.len()` bytes from `offset`. A write of another process at the same time may
    /// be seen in part.
    ///
    /// # Errors
    ///
    /// EINVAL for bytes outside the map.
    #[inline]
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.read_at_as("read_at", buffer, offset)
    }

    #[inline]
    fn read_at_as(&self, call: &'static str, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.mapping.read_at(call, buffer, offset)
    }

    /// Copies `bytes` to `offset`, where everyone sees them at once.
    ///
    /// # Errors
    ///
    /// EINVAL for bytes outside the map.
    #[inline]
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        self.write_at_as("write_at", bytes, offset)
    }

    #[inline]
    fn write_at_as(&self, call: &'static str, bytes: &[u8], offset: usize) -> Result<()> {
        self.mapping.write_at(call, bytes, offset)
    }

    typed_reads!();
    typed_writes!();

    /// Which pages are in memory.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map.
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        let range = self.mapping.shift("mincore", range)?;
        match &self.fd {
            Some(fd) => Residency::of(&self.mapping.region, range, Some(fd.as_fd())),
            // The file that the kernel keeps behind it is this process's own.
            None => Residency::of_own(&self.mapping.region, range),
        }
    }

    /// The first byte, for accesses that the caller answers for.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.mapping.start()
    }

    /// Unmaps it and gives the descriptor back; anonymous memory has none.
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.fd
    }

    /// Gives up views and atomics for the region. The descriptor is closed.
    pub fn into_region(self) -> Region {
        self.mapping.region.with_steady_pages(false)
    }
}

impl From<SharedMem> for Region {
    fn from(shared: SharedMem) -> Self {
        shared.into_region()
    }
}

mod sealed {
    pub trait SealedAtom {}
}

/// An atomic integer: the unit that processes can share safely, word by word.
pub trait Atom: sealed::SealedAtom + Sync + 'static {}

macro_rules! atoms {
    ($($width:literal: $($name:ident)*;)*) => {$($(
        #[cfg(target_has_atomic = $width)]
        impl sealed::SealedAtom for atomic::$name {}
        #[cfg(target_has_atomic = $width)]
        impl Atom for atomic::$name {}
    )*)*};
}

atoms! {
    "8": AtomicU8 AtomicI8;
    "16": AtomicU16 AtomicI16;
    "32": AtomicU32 AtomicI32;
    "64": AtomicU64 AtomicI64;
    "ptr": AtomicUsize AtomicIsize;
}
