//! Files as memory. Every process that has the file can change its bytes or truncate it at any
//! moment, so there are no slices here. There are checked copies and typed reads that return
//! errors, guards that hand bytes to a parser, and an `unsafe` promise for callers that know more.

mod guard;
mod read;
mod resize;
mod write;

use super::fd_ownership::{FdOwnership, MapFile};
use super::file_object;
use super::handle::{handle_calls, typed_reads, typed_writes};
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::advice::Discard;
use crate::error::{ConversionError, Error, Result, Subject};
use crate::prot::Prot;
use crate::region::{Origin, Region};
use crate::residency::{CacheStat, Residency};
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::guard_table::Guarded;
use rustix::fs::{FileType, OFlags};
use std::marker::PhantomData;
use std::ops::{Range, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;

/// A file mapped read-only, shared: it shows the file as it is now.
#[doc(alias = "Mmap")]
#[doc(alias = "mmap")]
pub type FileMap = MappedFile<ReadOnly>;

/// A file mapped shared and writable: stores reach the file and everyone who maps it.
#[doc(alias = "MmapMut")]
pub type FileMapMut = MappedFile<ReadWrite>;

/// A file mapped copy-on-write: stores stay in this process. Pages that were not yet stored to
/// still show later changes of the file.
pub type FileMapPrivate = MappedFile<Private>;

/// The access of a file map: [`ReadOnly`], [`ReadWrite`] or [`Private`].
pub trait FileAccess: sealed::SealedFileAccess + Send + Sync + 'static {}

/// A file map that can be stored to.
pub trait WriteAccess: FileAccess {}

mod sealed {
    use super::Prot;

    pub trait SealedFileAccess {
        const PROT: Prot;
        const SHARED: bool;
    }
}

macro_rules! file_access {
    ($($(#[$doc:meta])* $name:ident: $prot:expr, $shared:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy)]
        pub enum $name {}

        impl sealed::SealedFileAccess for $name {
            const PROT: Prot = $prot;
            const SHARED: bool = $shared;
        }

        impl FileAccess for $name {}
    )*};
}

file_access! {
    /// Read-only: PROT_READ, SHARED.
    ReadOnly: Prot::READ, true;
    /// Shared and writable: PROT_READ and PROT_WRITE, SHARED.
    ReadWrite: Prot::READ_WRITE, true;
    /// Copy-on-write: PROT_READ and PROT_WRITE, PRIVATE.
    Private: Prot::READ_WRITE, false;
}

impl WriteAccess for ReadWrite {}
impl WriteAccess for Private {}

/// A mapped file. The three kinds have names of their own: [`FileMap`], [`FileMapMut`],
/// [`FileMapPrivate`].
///
/// Another process can change the bytes, or truncate the file, at any moment. Then
///
/// * [`read_at`](Self::read_at), [`read`](Self::read) and their like return an error for bytes that
///   cannot be supplied, at the price of a memcpy;
/// * [`guard`](Self::guard) runs a closure over a [view](crate::View), and throws its result away
///   if a page could not be supplied;
/// * `unsafe` [`guard_slice`](Self::guard_slice) and [`assume_stable`](Self::assume_stable) give
///   `&[u8]` to a caller that can promise that nobody changes the file meanwhile.
///
/// Truncation inside the last page shows zeros and no fault;
/// [`read_at_verified`](Self::read_at_verified) sees it. Threads that block SIGBUS or SIGSEGV are
/// killed by a fault all the same.
///
/// Dropping a map loses no store: a [`FileMapMut`]'s are in the page cache, which every reader of
/// the file sees, and reach the device later; [`sync`](Self::sync) waits for that.
///
/// The descriptor may be closed as soon as the map exists. A map that was given an owned one keeps
/// it, and can do a little more; see [`MapFile`].
///
/// **Fork:** a child inherits the map (shared, or copied on write) and drops only its own. With
/// [`Fork::Absent`](crate::Fork::Absent) the child's accesses are errors.
///
/// Source: mmap(2), msync(2).
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("greeting");
/// # std::fs::write(&path, b"hello, world")?;
/// let map = folio::FileMap::open(&path)?;
/// assert_eq!(map.read_vec(7..)?, b"world");
/// assert_eq!(map.read::<[u8; 5]>(0)?, *b"hello");
/// let letters = map.guard(|view| view.bytes().filter(u8::is_ascii_alphabetic).count())?;
/// assert_eq!(letters, 10);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MappedFile<A> {
    mapping: Mapping,
    guarded: Guarded,
    keep: FdOwnership,
    /// Where the region starts in the file.
    start: u64,
    /// How it was asked for, if it was made without bytes, in a reservation, or with reserved
    /// space: to give it more.
    made: Option<Box<MapOptions>>,
    /// A [`Stable`](crate::Stable) or [`StableMut`](crate::StableMut) has it: no page may be
    /// replaced under its slice.
    promised: bool,
    access: PhantomData<A>,
}

// A panic in a guard's closure closes the guard, and leaves the map as after any other end of the
// closure.
impl<A> RefUnwindSafe for MappedFile<A> {}
impl<A> UnwindSafe for MappedFile<A> {}

impl FileMap {
    /// Opens a file and maps all of it, read-only. The map keeps the descriptor.
    ///
    /// # Errors
    ///
    /// Those of opening it; those of [`MapOptions::map`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(file_object::open(path, false)?)
    }

    /// Maps all of an open file, read-only.
    ///
    /// # Errors
    ///
    /// As [`MapOptions::map`].
    pub fn map(file: impl MapFile) -> Result<Self> {
        MapOptions::new().map(file)
    }
}

impl FileMapMut {
    /// Opens a file for reading and writing, and maps all of it, shared. The map keeps the
    /// descriptor.
    ///
    /// # Errors
    ///
    /// Those of opening it; those of [`MapOptions::map_mut`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(file_object::open(path, true)?)
    }

    /// Creates a file of `length` zero bytes, reserves its space, and maps it shared. An existing
    /// file is made that long: it keeps its bytes, loses those behind `length`, and shows zeros
    /// where it grows.
    ///
    /// # Errors
    ///
    /// Those of opening it; ENOSPC if the disk has no room (then the file keeps its new length, and
    /// no more space than it got); those of [`MapOptions::map_mut`].
    pub fn create(path: impl AsRef<Path>, length: u64) -> Result<Self> {
        let path = path.as_ref();
        file_object::check_length(|| Subject::named(path.display().to_string()), length)?;
        let file = file_object::open_with(path, OFlags::RDWR | OFlags::CREATE)?;
        if file_object::status(file.as_fd())?.kind != FileType::RegularFile {
            // The kernel, or the rules for map objects, give the reason. No other file is made
            // longer.
            return MapOptions::new().map_mut(file);
        }
        file_object::set_length(file.as_fd(), length)?;
        MapOptions::new().preallocate().map_mut(file)
    }

    /// Takes the right to write away from the map, for good: its pages are protected, and its type
    /// has no stores.
    ///
    /// # Errors
    ///
    /// With the map, unchanged: ENOMEM at `vm.max_map_count`.
    pub fn into_read_only(mut self) -> Result<FileMap, ConversionError<Self>> {
        match self.protect(.., Prot::READ) {
            Ok(()) => {
                let Self { mapping, guarded, keep, start, made, .. } = self;
                Ok(MappedFile {
                    mapping,
                    guarded,
                    keep,
                    start,
                    made,
                    promised: false,
                    access: PhantomData,
                })
            }
            Err(error) => Err(ConversionError::new(self, error)),
        }
    }

    /// Maps all of an open file, shared.
    ///
    /// # Errors
    ///
    /// As [`MapOptions::map_mut`].
    pub fn map(file: impl MapFile) -> Result<Self> {
        MapOptions::new().map_mut(file)
    }
}

impl FileMapPrivate {
    /// Opens a file for reading, and maps all of it copy-on-write. The map keeps the descriptor.
    ///
    /// # Errors
    ///
    /// Those of opening it; those of [`MapOptions::map_private`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::map(file_object::open(path, false)?)
    }

    /// Maps all of an open file copy-on-write. It needs read permission only.
    ///
    /// # Errors
    ///
    /// As [`MapOptions::map_private`].
    pub fn map(file: impl MapFile) -> Result<Self> {
        MapOptions::new().map_private(file)
    }

    /// Throws own changes to whole pages away: they show the file again (MADV_DONTNEED).
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not whole pages, or is locked.
    pub fn revert(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let range = self.mapping.shift_whole("madvise", range)?;
        self.mapping.region.discard(range, Discard::DontNeed)
    }
}

impl<A: FileAccess> MappedFile<A> {
    pub(super) fn new_from(
        mapping: Mapping,
        start: u64,
        keep: FdOwnership,
        made: Option<Box<MapOptions>>,
    ) -> Self {
        // Here, so that no access has to ask for it: every map of a file comes from this call.
        sys::signal::install();
        Self {
            mapping: mapping.of_file(),
            guarded: Guarded::default(),
            keep,
            start,
            made,
            promised: false,
            access: PhantomData,
        }
    }

    handle_calls!();

    /// Where the map's first byte lies in the file.
    pub fn offset(&self) -> u64 {
        self.start + self.mapping.lead as u64
    }

    /// The descriptor, if the map keeps one.
    pub fn file(&self) -> Option<BorrowedFd<'_>> {
        self.keep.descriptor()
    }

    typed_reads!();

    #[cold]
    fn fault(&self, call: &'static str, trap: Trap, range: Range<usize>) -> Error {
        let fd = self.keep.descriptor();
        let origin = Origin {
            lead: self.mapping.lead,
            file_start: Some(self.start),
            file_size: fd.and_then(|fd| sys::file::present_length(fd).ok()),
            object: fd
                .map(|fd| Subject::file(fd).object().to_owned())
                .or_else(|| self.mapped_object()),
        };
        let mut fault = self.mapping.region.fault(call, trap, range, &origin);
        fault.detail = self.guarded.why_given_up().map(sys::guard_table::explain_loss);
        fault.into()
    }

    /// The name of the file as the kernel has it for the parts of the map that still show it. Where
    /// the page in question was replaced, its own area is anonymous memory.
    fn mapped_object(&self) -> Option<String> {
        let areas = sys::process::vmas_in(&self.mapping.region.addresses())?;
        let area = areas.iter().find(|area| area.inode != 0 && !area.is_shared_anonymous());
        let lost = || self.guarded.why_given_up().map(|_| "the mapped file".to_owned());
        area.map(|area| Subject::object_of(Some(area))).or_else(lost)
    }

    pub(super) fn promised(mut self, promised: bool) -> Self {
        self.promised = promised;
        self
    }

    /// Sets the protection of whole pages of the map. Accesses that it forbids are errors from then
    /// on.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not whole pages, EACCES for a right that the file was not opened
    /// with, ENOMEM at `vm.max_map_count`.
    #[doc(alias = "mprotect")]
    pub fn protect(&mut self, range: impl RangeBounds<usize>, prot: Prot) -> Result<()> {
        self.mapping.protect((range.start_bound().cloned(), range.end_bound().cloned()), prot)
    }

    /// Whether fs-verity protects the file: then its bytes cannot change. It stays a file map all
    /// the same, since a page whose check fails cannot be supplied.
    ///
    /// # Errors
    ///
    /// EBADF if the map keeps no descriptor.
    pub fn is_verity(&self) -> Result<bool> {
        let fd = file_object::kept(&self.keep, "FS_IOC_GETFLAGS", &self.mapping.region)?;
        // A file system without flags has no verity either.
        Ok(sys::file::is_verity(fd).unwrap_or(false))
    }

    /// Which pages of the map are in memory, if the kernel tells this process.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map.
    #[doc(alias = "mincore")]
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        let range = self.mapping.shift("mincore", range)?;
        Residency::of(&self.mapping.region, range, self.keep.descriptor())
    }

    /// The pages of the range that the page cache holds, dirty pages and evictions included (since
    /// 6.5).
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map, EBADF if the map keeps no descriptor; those of
    /// [`CacheStat::of`].
    pub fn cache_stat(&self, range: impl RangeBounds<usize>) -> Result<CacheStat> {
        let range = self.mapping.shift("cachestat", range)?;
        let fd = file_object::kept(&self.keep, "cachestat", &self.mapping.region)?;
        if range.is_empty() {
            // To the kernel a length of zero means all to the end.
            return Ok(CacheStat::default());
        }
        CacheStat::of(fd, self.start + range.start as u64, range.len() as u64)
    }

    /// Unmaps it and gives the descriptor back that it kept, if it kept one that is nobody else's.
    pub fn into_fd(self) -> Option<OwnedFd> {
        self.keep.into_descriptor()
    }

    /// Gives up the handle for the region. A descriptor that was kept is closed.
    pub fn into_region(self) -> Region {
        self.mapping.region
    }
}

impl<A: WriteAccess> MappedFile<A> {
    typed_writes!();
}

impl<A> From<MappedFile<A>> for Region {
    fn from(map: MappedFile<A>) -> Self {
        map.mapping.region
    }
}

fn present_length(fd: BorrowedFd<'_>) -> Result<u64> {
    sys::file::present_length(fd).map_err(|errno| Error::kernel("fstat", errno, Subject::file(fd)))
}
