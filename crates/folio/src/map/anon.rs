//! Memory of this process's own: nobody else can change it, so it is plain slices.

use super::handle::handle_calls;
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::advice::Discard;
use crate::error::{ConversionError, Errno, Error, Result, Subject};
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Region, Resize};
use crate::residency::Residency;
use crate::sys;
use std::ops::{Deref, DerefMut, RangeBounds};
use std::os::fd::{AsFd, BorrowedFd};

/// Zero-filled memory that nobody else can change (PRIVATE, ANONYMOUS): derefs to `&[u8]` and `&mut
/// [u8]`.
///
/// It comes straight from the kernel, page by page at the first touch, and goes straight back when
/// it is dropped. An allocator takes big blocks in the same way. With [`MapOptions`] it has huge
/// pages, guard pages, room to grow, a lock.
///
/// **Fork:** a child inherits a copy (copied on write), and drops only its own. With
/// [`Fork::Absent`](crate::Fork::Absent) the child has nothing there and must not touch the slices;
/// with [`Fork::Wiped`](crate::Fork::Wiped) it finds zeros.
///
/// Huge pages and fork do not go well together: when parent and child both store to one, the kernel
/// needs another from the pool, and a child that gets none is killed by a SIGBUS.
///
/// Source: mmap(2).
///
/// ```
/// let mut block = folio::Anon::new(1 << 20)?;
/// block[1000] = 7;
/// assert_eq!((block[1000], block[1001], block.len()), (7, 0, 1 << 20));
/// # Ok::<(), folio::Error>(())
/// ```
#[doc(alias = "MAP_ANONYMOUS")]
#[doc(alias = "map_anon")]
#[derive(Debug)]
pub struct Anon {
    mapping: Mapping,
    /// How it was made, if it lies in a reservation, or has no bytes yet.
    made: Option<Box<AnonBuilt>>,
}

/// How a map was made, to make more of it.
#[derive(Debug)]
pub(super) struct AnonBuilt {
    pub(super) options: MapOptions,
    /// The bytes it can have at most without running over a guard page.
    pub(super) room: usize,
}

impl Anon {
    /// `length` bytes, all zero. No memory is used until it is touched.
    ///
    /// # Errors
    ///
    /// ENOMEM if the kernel does not promise so much, or the process has `vm.max_map_count` areas.
    pub fn new(length: usize) -> Result<Self> {
        MapOptions::new().anon(length)
    }

    pub(super) fn new_from(mapping: Mapping, made: Option<Box<AnonBuilt>>) -> Self {
        Self { mapping, made }
    }

    /// `length` bytes, all zero, of a private map of an open `/dev/zero`, as systems without
    /// ANONYMOUS make such memory. It is private memory as any other, and the descriptor may be
    /// closed; the kernel cannot wipe it in children ([`Fork::Wiped`](crate::Fork::Wiped)).
    ///
    /// # Errors
    ///
    /// EINVAL for another file; EACCES if it is not open for reading; as [`new`](Self::new).
    pub fn from_dev_zero(file: impl AsFd, length: usize) -> Result<Self> {
        MapOptions::new().anon_from_dev_zero(file, length)
    }

    /// Reads all bytes from a descriptor, from its position to its end: for objects that cannot be
    /// mapped, such as pipes, sockets and files of `/proc`.
    /// [`read_from_at_most`](Self::read_from_at_most) sets a limit.
    ///
    /// # Errors
    ///
    /// The errors of read(2); ENOMEM, also before the machine or the memory cgroup runs out of
    /// memory.
    pub fn read_from(file: impl AsFd) -> Result<Self> {
        Self::read_up_to(file.as_fd(), usize::MAX)
    }

    /// The same, for a source that may have no end: at most `limit` bytes.
    ///
    /// # Errors
    ///
    /// EFBIG if the source has more than `limit` bytes: then one byte more than these was taken
    /// from it. Else as [`read_from`](Self::read_from).
    pub fn read_from_at_most(file: impl AsFd, limit: usize) -> Result<Self> {
        Self::read_up_to(file.as_fd(), limit)
    }

    fn read_up_to(fd: BorrowedFd<'_>, limit: usize) -> Result<Self> {
        const FIRST: usize = 64 << 10;
        let subject = |at: usize| Subject::file(fd).with_range(at as u64, 0);
        // One byte more than the limit shows that the source goes on.
        let most = limit.saturating_add(1);
        let mut anon = Self::new(FIRST.min(most))?;
        let mut filled = 0;
        loop {
            if filled > limit {
                let rule = format!("the source has more than the {limit} bytes that are allowed");
                let remedy = "raise the limit, or read the source in pieces";
                return Err(Error::rule_as(
                    Errno::FBIG,
                    "read_from",
                    subject(filled),
                    rule,
                    remedy,
                ));
            }
            if filled == anon.len() {
                let more = filled.min(most - filled);
                sys::memory_room::check_own(more as u64)
                    .map_err(|short| Error::no_memory("read_from", subject(filled), short))?;
                anon.resize(filled + more)?;
            }
            match rustix::io::retry_on_intr(|| rustix::io::read(fd, &mut anon[filled..])) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(errno) => return Err(Error::kernel("read", errno, subject(filled))),
            }
        }
        anon.resize(filled)?;
        Ok(anon)
    }

    handle_calls!();

    /// Grows to `length` bytes without moving: pointers into it stay valid. New bytes are zero, and
    /// have the properties of the map: huge, executable, locked, kept from children. Rounding
    /// leaves room in the last page. Beyond it, the map needs [`MapOptions::capacity`], or a free
    /// place behind it.
    ///
    /// # Errors
    ///
    /// ENOMEM if there is no room (where a stack may grow is none), or no memory; EINVAL to shrink.
    /// Nothing changed then.
    pub fn grow(&mut self, length: usize) -> Result<()> {
        let Mapping { region, len, .. } = &mut self.mapping;
        if length < *len {
            return Err(Error::rule(
                "grow",
                Subject::anonymous().with_length(length),
                format!("the map has {len} bytes already"),
                "use resize to shrink",
            ));
        }
        let place = region.behind()?;
        if region.is_empty() {
            return self.resize(length);
        }
        let page = region.page_size();
        let made = self.made.as_deref();
        if page.ceil(length).is_none() {
            return Err(Error::rule_as(
                Errno::NOMEM,
                "grow",
                Subject::anonymous().with_length(length),
                "no range of addresses is that long",
                "ask for less",
            ));
        }
        let more = page.ceil(length).map(|whole| whole.saturating_sub(region.len()));
        match (more, place) {
            (Some(0), _) => {}
            (Some(_), Some(_)) if made.is_some_and(|made| length > made.room) => {
                return Err(Error::rule_as(
                    Errno::NOMEM,
                    "grow",
                    Subject::anonymous().with_length(length),
                    format!(
                        "the map was made with room for {} bytes",
                        made.map_or(0, |made| made.room)
                    ),
                    "make it with more capacity",
                ));
            }
            (Some(more), Some(place)) => {
                let next = match made {
                    Some(made) => made.options.more_anon(more, place)?,
                    None => MapOptions::new().more_anon(more, place)?,
                };
                region.append(next)?;
            }
            _ => region.resize(length, Resize::InPlace)?,
        }
        self.mapping.show(length)
    }

    /// Makes it `length` bytes long, at another address if need be. No byte is copied: pages move
    /// by their table entries. New bytes are zero. A map that is cut to no bytes keeps one page, to
    /// grow from.
    ///
    /// # Errors
    ///
    /// ENOMEM; EINVAL for a map with [`capacity`](MapOptions::capacity), or in another reservation,
    /// that would have to shrink by pages. Nothing changed then.
    pub fn resize(&mut self, length: usize) -> Result<()> {
        let Mapping { region, len, .. } = &mut self.mapping;
        let fixed = region.behind()?.is_some();
        if region.is_empty() {
            if length > 0 {
                let made = self.made.as_deref().map(|made| made.options.clone());
                let mut fresh = made.unwrap_or_default().anon(length)?;
                self.mapping.hand_settings_to(&mut fresh.mapping.region)?;
                fresh.mapping.settle();
                *self = fresh;
            }
            return Ok(());
        }
        if fixed && length > region.len() {
            return self.grow(length);
        }
        if region.page_size().ceil(length.max(1)) != Some(region.len()) {
            region.resize(length.max(1), Resize::MayMove)?;
        }
        // Bytes of the last page that a later growth shows again must be zero.
        let kept = region.len().min(*len);
        if kept > length {
            // SAFETY: the bytes are this map's, mapped writable, and `&mut self` says that nobody
            // uses them.
            unsafe { region.as_ptr().add(length).write_bytes(0, kept - length) };
        }
        self.mapping.show(length)
    }

    /// Throws the bytes of whole pages away, and gives their memory back: they read as zero from
    /// now on. The range must consist of whole pages; one that ends where the map ends takes the
    /// rest of its last page along.
    ///
    /// Pages from the hugetlb pool are zeroed and kept: once given back, the pool might have none
    /// for the next touch of the slices, which would be a SIGBUS.
    ///
    /// # Errors
    ///
    /// EINVAL for a range that is not whole pages (the error names the nearest), or is locked (but
    /// huge pages may be).
    pub fn discard(&mut self, range: impl RangeBounds<usize>) -> Result<()> {
        let range = self.mapping.shift_whole("madvise", range)?;
        let region = &mut self.mapping.region;
        let page = region.page_size();
        if page > PageSize::system() && page.divides(range.start) && page.divides(range.end) {
            region.check_present("madvise", &range)?;
            // SAFETY: the bytes are this map's, mapped writable, and `&mut self` says that nobody
            // uses them.
            unsafe { region.as_ptr().add(range.start).write_bytes(0, range.len()) };
            return Ok(());
        }
        // Refuses a part of a huge page, too.
        region.discard(range, Discard::DontNeed)
    }

    /// Which pages are in memory. Untouched ones are not.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map.
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        self.mapping.residency(range)
    }

    /// Gives up the slices for the region, whose protection can be changed and which can be split
    /// and moved.
    pub fn into_region(self) -> Region {
        self.mapping.region.with_steady_pages(true)
    }

    /// Gives all of it another protection: to run generated code from, say. The result has no
    /// slices.
    ///
    /// # Errors
    ///
    /// With the map, unchanged: EACCES where a security policy forbids it, ENOMEM at
    /// `vm.max_map_count`. In the rare case that the kernel changes a part, fails, and then refuses
    /// to change it back, the map that comes back has no bytes: theirs are given up.
    pub fn protect(self, prot: Prot) -> Result<Region, ConversionError<Self>> {
        let Self { mapping: Mapping { mut region, lead, len, .. }, made } = self;
        let error = match region.protect(.., prot) {
            Ok(()) => return Ok(region.with_steady_pages(true)),
            Err(error) => error,
        };
        if !region.surely_has_protection(Prot::READ_WRITE) {
            // Its slices would fault. Nothing refers to the bytes, which go with the region.
            let mut none = Region::empty(region.page_size());
            // The bytes to come are kept from children as these were. A region without bytes
            // refuses no setting.
            let _ = none.set_fork(region.fork());
            return Err(ConversionError::new(
                Self { mapping: Mapping::new(none, 0, 0), made: None },
                error,
            ));
        }
        Err(ConversionError::new(Self { mapping: Mapping::new(region, lead, len), made }, error))
    }

    /// Takes a region as plain memory, all of it. In a reservation it cannot [`grow`](Self::grow)
    /// beyond its pages: a guard page may lie behind them.
    ///
    /// # Errors
    ///
    /// EINVAL, with the region, if a part of it was unmapped; ENOMEM in a child that does not have
    /// it.
    ///
    /// # Safety
    ///
    /// The region is private anonymous memory, readable and writable throughout; nothing else
    /// refers to it, and no advice that makes bytes vanish is in force.
    pub unsafe fn from_region(region: Region) -> Result<Self, ConversionError<Region>> {
        if region.mapped().ne((!region.is_empty()).then_some(0..region.len())) {
            let error = Error::rule_as(
                Errno::INVAL,
                "from_region",
                region.subject(0..region.len()),
                "a part of the region was unmapped",
                "split it at its holes",
            );
            return Err(ConversionError::new(region, error));
        }
        let mut region = region;
        region.assume_protection(Prot::READ_WRITE);
        let len = region.len();
        let made = match region.behind() {
            Ok(place) => {
                place.map(|_| Box::new(AnonBuilt { options: MapOptions::new(), room: len }))
            }
            Err(error) => return Err(ConversionError::new(region, error)),
        };
        Ok(Self { mapping: Mapping::new(region, 0, len), made })
    }
}

impl Deref for Anon {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: the bytes are mapped readable for as long as the handle lives, nobody else can
        // change them, and nothing changes protection or range while it is borrowed.
        unsafe { std::slice::from_raw_parts(self.mapping.start(), self.mapping.len) }
    }
}

impl DerefMut for Anon {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, writable, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.mapping.start(), self.mapping.len) }
    }
}

impl AsRef<[u8]> for Anon {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl AsMut<[u8]> for Anon {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

impl From<Anon> for Region {
    fn from(anon: Anon) -> Self {
        anon.into_region()
    }
}

/// Without a copy: the map is unmapped when the last `Bytes` of it is dropped.
#[cfg(feature = "bytes")]
impl From<Anon> for bytes::Bytes {
    fn from(anon: Anon) -> Self {
        Self::from_owner(anon)
    }
}
