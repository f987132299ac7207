//! Files as memory. Every process that has the file can change its bytes or truncate it at any
//! moment, so there are no slices here. There are checked copies and typed reads that return
//! errors, guards that hand bytes to a parser, and an `unsafe` promise for callers that know more.

use super::fd_ownership::{FdOwnership, MapFile};
use super::file_object;
use super::handle::{handle_calls, typed_reads, typed_writes};
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::access::{NoResult, View, ViewMut, guarded};
use crate::advice::Discard;
use crate::error::{ConversionError, Errno, Error, Fault, FaultCause, Result, Subject};

use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Origin, Placement, Region, Resize, WriteBack};
use crate::residency::{CacheStat, Residency};
use crate::sys;
use crate::sys::copy::Trap;
use crate::sys::guard_table::{Guarded, NotOpened, Piece};
use crate::sys::shadow::CloneBy;
use crate::sys::spare::Stores;
use rustix::fs::{FileType, OFlags};
use std::marker::PhantomData;
use std::ops::{Range, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::path::Path;
use std::sync::atomic::{Ordering, fence};

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
/// * [`guard`](Self::guard) runs a closure over a [view](View), and throws its result away if a
///   page could not be supplied;
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

    /// Makes the *file* longer, and shows it: `length` bytes from the map's offset. First the file
    /// gets its new length (or keeps its own, if that is greater), then its space, if the map was
    /// made with [`MapOptions::preallocate`], as [`create`](Self::create) makes it; last the map
    /// grows, as by [`resize`](Self::resize). New bytes of the file are zeros.
    ///
    /// Bytes that another process appends meanwhile stay. Only a file system without fallocate(2)
    /// has no such call: there they are cut off, if they come between the look at the length and
    /// the change of it.
    ///
    /// If the space or the map cannot be had, the file is cut to its old length again, unless
    /// another process has given it yet another one meanwhile. Bytes that others wrote to the new
    /// part in that time go with it.
    ///
    /// # Errors
    ///
    /// EINVAL for fewer bytes than the map has; EBADF if it keeps no descriptor; EFBIG beyond the
    /// longest file (RLIMIT_FSIZE); EPERM for a file sealed against growing; ENOSPC; those of
    /// [`resize`](Self::resize). Map and file are as before then.
    ///
    /// Source: ftruncate(2), fallocate(2), mremap(2).
    pub fn grow(&mut self, length: usize) -> Result<()> {
        if length < self.len() {
            return Err(Error::rule(
                "grow",
                self.mapping.region.subject(0..self.mapping.region.len()).with_length(length),
                format!("the map has {} bytes already", self.len()),
                "use resize to show less of the file",
            ));
        }
        let fd = file_object::kept(&self.keep, "grow", &self.mapping.region)?;
        let old = present_length(fd)?;
        let new = self.offset().saturating_add(length as u64);
        if new > old {
            file_object::lengthen(fd, new)?;
        }
        let reserves = self.made.as_deref().is_some_and(MapOptions::reserves);
        let more = self.offset().saturating_add(self.len() as u64)..new;
        let grown = if reserves { file_object::fill_holes(fd, more) } else { Ok(()) };
        let result = grown.and_then(|()| self.resize(length));
        if result.is_err() && new > old {
            let fd = file_object::kept(&self.keep, "grow", &self.mapping.region)?;
            if present_length(fd).is_ok_and(|now| now == new) {
                file_object::set_length(fd, old)?;
            }
        }
        result
    }

    /// Gives pages of the file back: a hole in the file, zeros for everyone (MADV_REMOVE). The
    /// range must consist of whole pages of the map. A page that the map shows only a part of may
    /// hold other bytes of the file: of that one, the shown bytes are zeroed, and the page stays.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not whole pages, EOPNOTSUPP on file systems without holes.
    pub fn punch(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let Mapping { region, lead, len, .. } = &self.mapping;
        let Range { start, end } = self.mapping.shift("madvise", range)?;
        let page = region.page_size();
        // Whole pages, but for those that the map's ends cut.
        let whole = |at, cut| page.divides(at) || at == cut;
        let (mut first, mut last) = (start, end);
        if whole(start, *lead) && whole(end, lead + len) {
            first = page.ceil(start).unwrap_or(end).min(end);
            last = page.floor(end).max(first);
        }
        let parts = [start - lead..first - lead, last - lead..end - lead];
        if first < last {
            self.mapping.region.discard(first..last, Discard::Remove)?;
        }
        for part in parts {
            self.write_at_as("punch", &vec![0; part.len()], part.start)?;
        }
        Ok(())
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

    /// Copies `buffer.len()` bytes from `offset` of the map, all of them or none that count. No
    /// system call, but for pages that have to be read first.
    ///
    /// A write of another process at the same time may be seen in part.
    ///
    /// # Errors
    ///
    /// A [`Fault`] for a page that cannot be supplied, with the cause; the contents of `buffer` are
    /// then unspecified. EINVAL for bytes outside the map.
    #[inline]
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.read_at_as("read_at", buffer, offset)
    }

    /// [`read_at`](Self::read_at) for `call`, which the error names.
    #[inline]
    fn read_at_as(&self, call: &'static str, buffer: &mut [u8], offset: usize) -> Result<()> {
        let (to, len) = (buffer.as_mut_ptr(), buffer.len());
        let quick = move |Piece { at, len, checked, .. }, before| {
            // SAFETY: a map of a file has the handler installed, and `checked` gives pieces of the
            // map's memory, to which this handle gives no references (but by `unsafe` promises).
            // This piece is the whole, `buffer.len()` bytes.
            unsafe { sys::copy::quick(to, at as *const u8, len, at, checked, before) }
        };
        let careful = move |Piece { at, skip, len, checked }| {
            // SAFETY: as above; the pieces make up `buffer.len()` bytes.
            unsafe { sys::copy::copy(to.wrapping_add(skip), at as *const u8, len, checked) }
        };
        self.checked(call, offset, len, quick, careful)
    }

    typed_reads!();

    /// As [`read_at`](Self::read_at), and makes sure afterwards, with one fstat(2) and a pread(2)
    /// of one byte, that the file still has all of these bytes: truncation inside a page shows
    /// zeros and no fault.
    ///
    /// The length that a file system tells may be an estimate (FUSE): a map shows zeros behind the
    /// last byte that there is. The pread sees that where the file system is asked, and not where
    /// its page cache holds the zeros already.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at), with [`FaultCause::PastEnd`] for bytes that the file no
    /// longer has; EBADF if the map keeps no descriptor.
    pub fn read_at_verified(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        let call = "read_at_verified";
        let fd = file_object::kept(&self.keep, call, &self.mapping.region)?;
        self.read_at_as(call, buffer, offset)?;
        if buffer.is_empty() {
            return Ok(());
        }
        let size = present_length(fd)?;
        let first = self.offset() + offset as u64;
        let last = first + (buffer.len() - 1) as u64;
        let kept = if last >= size {
            size.saturating_sub(first) as usize
        } else if sys::file::read_at(fd, &mut [0], last) == Ok(0) {
            // The file ends before the length that it tells. The bytes that it has are those that
            // can be read.
            sys::file::read_at(fd, buffer, first).unwrap_or(0)
        } else {
            return Ok(());
        };
        if kept == buffer.len() {
            // It has them again: somebody made it longer just now.
            return self.read_at_as(call, buffer, offset);
        }
        Err(Fault {
            call,
            object: Subject::file(fd).object().to_owned(),
            range: offset + kept..offset + buffer.len(),
            file_offset: Some(first + kept as u64),
            cause: FaultCause::PastEnd,
            detail: None,
        }
        .into())
    }

    /// A checked access to `len` bytes from `offset`, which sees the map's own bytes even while
    /// guards replace pages.
    ///
    /// The common case is a few instructions in the caller's loop, so that the processor works on
    /// the next accesses while memory is slow: `quick` gets the whole access and the epoch, and
    /// returns the epoch, or an odd number after a fault. All else, errors included, is left to
    /// [`carefully`](Self::carefully).
    #[inline]
    fn checked(
        &self,
        call: &'static str,
        offset: usize,
        len: usize,
        quick: impl FnOnce(Piece, u64) -> u64,
        careful: impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<()> {
        let before = self.guarded.epoch();
        // Where pages are replaced, or lost, a store could reach another map's.
        if before & 1 == 0 && self.mapping.is_ready(offset, len) {
            let checked = self.mapping.region.addresses();
            let at = checked.start + self.mapping.lead + offset;
            let after = quick(Piece { at, skip: 0, len, checked }, before);
            // No epoch that was odd, or became so, passes.
            if self.guarded.undisturbed(after) {
                return Ok(());
            }
        }
        self.carefully(call, offset, len, careful)
    }

    /// Starts anew what the quick way did not finish, so an access that ends in an error takes its
    /// fault twice: errors are rare, and the quick way is shorter for not telling them apart.
    #[cold]
    #[inline(never)]
    fn carefully(
        &self,
        call: &'static str,
        offset: usize,
        len: usize,
        mut access: impl FnMut(Piece) -> Result<(), Trap>,
    ) -> Result<()> {
        let range = self.mapping.bytes(call, offset, len)?;
        let whole = self.mapping.region.addresses();
        let before = self.guarded.epoch();
        if before & 1 != 0 {
            let bytes = whole.start + range.start..whole.start + range.end;
            return self
                .guarded
                .access(&bytes, &whole, access)
                .map_err(|trap| self.fault(call, trap, range));
        }
        let result =
            access(Piece { at: whole.start + range.start, skip: 0, len, checked: whole.clone() });
        if self.guarded.undisturbed(before) {
            return result.map_err(|trap| self.fault(call, trap, range));
        }
        let bytes = whole.start + range.start..whole.start + range.end;
        self.guarded.access(&bytes, &whole, access).map_err(|trap| self.fault(call, trap, range))
    }

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

    /// Runs `work` over a view of all bytes. A page that cannot be supplied meanwhile reads as
    /// zero, and `work`'s result is thrown away for the error.
    ///
    /// Guards may nest, and run in many threads at once. A fault of any thread in the map is served
    /// while one is open, and every guard whose bytes it concerns fails. A fault elsewhere goes to
    /// the handler that was there before folio's.
    ///
    /// In a process that has reached its limit of areas (`vm.max_map_count`) or of address space
    /// (RLIMIT_AS), a page cannot be replaced by itself. Then the whole map is given up: the guard
    /// fails, and so does every access afterwards. The file loses nothing; a [`FileMapPrivate`]
    /// loses its own changes.
    ///
    /// For that case the first guard of a map takes as many spare addresses as the map has, and
    /// some VMAs. They stay until the map is dropped. Where the kernel refuses them, the guard is
    /// an error (ENOMEM) and `work` does not run.
    ///
    /// # Errors
    ///
    /// A [`Fault`] that names the first page of the map that could not be supplied, and the cause.
    /// EPERM for a map that was [sealed](Self::seal), whose pages cannot be replaced.
    pub fn guard<R>(&self, work: impl FnOnce(&View<'_>) -> R) -> Result<R> {
        self.guard_range(.., work)
    }

    /// [`guard`](Self::guard) over a part of the map.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard), for pages of the range only; EINVAL for a range outside the map.
    pub fn guard_range<R>(
        &self,
        range: impl RangeBounds<usize>,
        work: impl FnOnce(&View<'_>) -> R,
    ) -> Result<R> {
        self.in_guard(range, |start, len| {
            // SAFETY: guarded until `work` has returned, and a view cannot leave `work`.
            work(&unsafe { View::new(start, len) })
        })
    }

    /// Runs `work` over a slice of all bytes, for parsers that want `&[u8]`. As
    /// [`guard`](Self::guard), a page that cannot be supplied reads as zero, and the result becomes
    /// an error: truncation does no harm.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    ///
    /// # Safety
    ///
    /// While `work` runs, nobody changes the mapped bytes of the file: no other process, and no
    /// other map in this one. Truncation is allowed for pages whose bytes `work` has not read yet.
    /// A slice whose bytes change is undefined behaviour, even if it is thrown away afterwards.
    pub unsafe fn guard_slice<R>(&self, work: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: guarded until `work` has returned; the caller promises that the bytes do not
            // change.
            work(unsafe { std::slice::from_raw_parts(start, len) })
        })
    }

    fn in_guard<R>(
        &self,
        range: impl RangeBounds<usize>,
        work: impl FnOnce(*mut u8, usize) -> R,
    ) -> Result<R> {
        let region = &self.mapping.region;
        let range = self.mapping.shift("guard", range)?;
        region.check_present("guard", &range)?;
        if region.may_be_sealed() && !range.is_empty() {
            return Err(Error::rule_as(
                Errno::PERM,
                "guard",
                region.subject(range),
                "the map was sealed (mseal), so a page that cannot be supplied could not be replaced",
                "use read_at, or do not seal the map",
            ));
        }
        if self.promised && !range.is_empty() {
            return Err(Error::rule_as(
                Errno::PERM,
                "guard",
                region.subject(range),
                "the map is a Stable one: a guard would replace a page that cannot be supplied, under the slice that the \
                 map derefs to",
                "use read_at, or turn the map back with into_inner first",
            ));
        }
        let pages = region.addresses();
        let bytes = pages.start + range.start..pages.start + range.end;
        let page = region.page_size();
        let by = CloneBy::best(A::SHARED, page > PageSize::system());
        let stores = match (A::PROT.contains(Prot::WRITE), A::SHARED) {
            (false, _) => Stores::None,
            (true, true) => Stores::Shared,
            (true, false) => Stores::Private,
        };
        guarded(&self.guarded, &pages, page.shift(), by, stores, &bytes, || {
            work(region.as_ptr().wrapping_add(range.start), range.len())
        })
        .map_err(|failure| match failure {
            NoResult::Replaced(trap) => self.fault("guard", trap, range),
            NoResult::NotOpened(NotOpened::GivenUp(trap)) => {
                let at = trap.address.wrapping_sub(pages.start);
                let address = pages.start + if range.contains(&at) { at } else { range.start };
                self.fault("guard", Trap { address, ..trap }, range)
            }
            NoResult::NotOpened(why) => why.error("guard", region.subject(range)),
        })
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

    /// Shows `length` bytes from the map's offset, more or fewer than now. The map may move; the
    /// file does not change. In a [`Reservation`](crate::Reservation) the map keeps its place, and
    /// grows into the part behind it, if that is free: the new pages come as the map was made.
    ///
    /// A map that is cut to no bytes stays what it was made and set to be: it keeps its first page
    /// (all of them in a reservation, or if they are huge), to grow from.
    ///
    /// # Errors
    ///
    /// Those of [`Region::resize`]; for a map that was made without bytes, those of
    /// [`MapOptions::map`], and EBADF if it keeps no descriptor. In a reservation: EEXIST if
    /// something lies behind the map, ENOMEM where the reservation ends, EBADF if the map keeps no
    /// descriptor. The map is unchanged then.
    #[doc(alias = "mremap")]
    pub fn resize(&mut self, length: usize) -> Result<()> {
        let page = self.page_size();
        if self.mapping.region.is_empty() {
            if length == 0 {
                return Ok(());
            }
            let fd = file_object::kept(&self.keep, "resize", &self.mapping.region)?;
            let options = self.made.as_deref().cloned().unwrap_or_default();
            let mut fresh: Self = options.offset(self.start).len(length).map_file(fd)?;
            self.mapping.hand_settings_to(&mut fresh.mapping.region)?;
            fresh.mapping.settle();
            (self.mapping, self.start, self.made) = (fresh.mapping, fresh.start, fresh.made);
            return Ok(());
        }
        if length == 0 {
            // Neither kind of region could grow back.
            let fixed = page > PageSize::system() || self.mapping.region.behind()?.is_some();
            if !fixed && self.mapping.region.len() > page.bytes() {
                self.mapping.region.resize(page.bytes(), Resize::MayMove)?;
            }
            return self.mapping.show(0);
        }
        let Some(whole) = length.checked_add(self.mapping.lead) else {
            return Err(Error::rule_as(
                Errno::OVERFLOW,
                "mremap",
                self.mapping.region.subject(0..0).with_length(length),
                "offset and length pass the end of what can be counted",
                "ask for less",
            ));
        };
        if page.ceil(whole) != Some(self.mapping.region.len()) {
            match self.mapping.region.behind()? {
                Some(place) => self.resize_in_place(whole, place)?,
                None => self.mapping.region.resize(whole, Resize::MayMove)?,
            }
        }
        self.mapping.show(length)
    }

    /// Makes the region of a map in a reservation `whole` bytes long, rounded up to pages: the
    /// kernel would not let it grow over the addresses that are reserved for it.
    fn resize_in_place(&mut self, whole: usize, place: Placement) -> Result<()> {
        let region = &mut self.mapping.region;
        let Some(new) = region.page_size().ceil(whole) else {
            return region.resize(whole, Resize::InPlace);
        };
        if new < region.len() {
            return match region.split_off(new)?.unmap() {
                Ok(()) => Ok(()),
                Err(ConversionError { map: rest, error }) => {
                    region.merge(rest)?;
                    Err(error)
                }
            };
        }
        let fd = file_object::kept(&self.keep, "resize", region)?;
        let options = self.made.as_deref().cloned().unwrap_or_default();
        let more = self.start + region.len() as u64..self.start + new as u64;
        let next = options.more_file::<A>(fd, more, region.page_size(), place)?;
        region.append(next)
    }

    /// Shows the file as long as it is now, from the map's offset on. Returns the new length.
    ///
    /// # Errors
    ///
    /// EBADF if the map keeps no descriptor; those of [`resize`](Self::resize).
    pub fn resize_to_file(&mut self) -> Result<usize> {
        let fd = file_object::kept(&self.keep, "resize", &self.mapping.region)?;
        let length = present_length(fd)?.saturating_sub(self.offset());
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.resize(length)?;
        Ok(length)
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
    /// Copies `bytes` to `offset` of the map. In a [`FileMapMut`] the file changes, and everyone
    /// sees it at once; the file does not grow. In a [`FileMapPrivate`] the pages are copied first.
    ///
    /// # Errors
    ///
    /// A [`Fault`] for a page that cannot be supplied or written, with the cause; bytes before it
    /// may have been stored. EINVAL for bytes outside the map.
    #[inline]
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        self.write_at_as("write_at", bytes, offset)
    }

    /// [`write_at`](Self::write_at) for `call`, which the error names.
    #[inline]
    fn write_at_as(&self, call: &'static str, bytes: &[u8], offset: usize) -> Result<()> {
        let from = bytes.as_ptr();
        // The epoch is looked at after each access, and must not be read while the stores still
        // wait in the processor's buffer: they could then reach a page that replaced the map's own
        // after the look.
        let quick = move |Piece { at, len, checked, .. }, before| {
            // SAFETY: as for `read_at`.
            let after = unsafe { sys::copy::quick(at as *mut u8, from, len, at, checked, before) };
            fence(Ordering::SeqCst);
            after
        };
        let careful = move |Piece { at, skip, len, checked }| {
            // SAFETY: as for `read_at`.
            let result =
                unsafe { sys::copy::copy(at as *mut u8, from.wrapping_add(skip), len, checked) };
            fence(Ordering::SeqCst);
            result
        };
        self.checked(call, offset, bytes.len(), quick, careful)
    }

    typed_writes!();

    /// Runs `work` over a view that can be stored to. As [`guard`](Self::guard); if it fails,
    /// stores to the page that could not be supplied, and possibly to others after it, are lost;
    /// stores before the fault stay.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    pub fn guard_mut<R>(&self, work: impl FnOnce(&ViewMut<'_>) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: as for `guard_range`; the map is writable, or the store faults and is served.
            work(&unsafe { ViewMut::new(start, len) })
        })
    }

    /// [`guard_slice`](Self::guard_slice) with a slice that can be stored to.
    ///
    /// # Errors
    ///
    /// As [`guard`](Self::guard).
    ///
    /// # Safety
    ///
    /// As for [`guard_slice`](Self::guard_slice), and nobody reads the bytes meanwhile through
    /// another map in this process.
    pub unsafe fn guard_slice_mut<R>(&mut self, work: impl FnOnce(&mut [u8]) -> R) -> Result<R> {
        self.in_guard(.., |start, len| {
            // SAFETY: as for `guard_slice`, borrowed alone.
            work(unsafe { std::slice::from_raw_parts_mut(start, len) })
        })
    }

    /// The first byte, for stores that the caller answers for.
    pub fn as_mut_ptr(&self) -> *mut u8 {
        self.mapping.start()
    }

    /// Writes changed pages back to the file; see [`Region::sync`]. A private map has nothing to
    /// write back.
    ///
    /// # Errors
    ///
    /// EIO if the device failed: changes may be lost. EBUSY for [`WriteBack::Invalidate`] of locked
    /// pages.
    #[doc(alias = "msync")]
    #[doc(alias = "flush")]
    pub fn sync(&self, range: impl RangeBounds<usize>, how: WriteBack) -> Result<()> {
        self.mapping.region.sync(self.mapping.shift("msync", range)?, how)
    }
}

impl<A> From<MappedFile<A>> for Region {
    fn from(map: MappedFile<A>) -> Self {
        map.mapping.region
    }
}

fn present_length(fd: BorrowedFd<'_>) -> Result<u64> {
    sys::file::present_length(fd).map_err(|errno| Error::kernel("fstat", errno, Subject::file(fd)))
}
