//! How each kind of map is made from its options.

use super::rules::{FREE_FLAGS, NO_HUGE_SHARED, too_long};
use super::{LockOption, MapOptions};
use crate::advice::Advice;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::map::anon::{Anon, AnonBuilt};
use crate::map::device::Device;
use crate::map::fd_ownership::MapFile;
use crate::map::file::{FileAccess, MappedFile, Private, ReadOnly, ReadWrite};
use crate::map::file_object::{self, fill_holes, open, set_length, status};
use crate::map::mapping::Mapping;
use crate::map::sealed::Sealed;
use crate::map::shared::SharedMem;
use crate::map::unsealed::Unsealed;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Fork, Placement, Populate, Region, Request, Reservation};
use crate::sys;
use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

impl MapOptions {
    /// Maps a file read-only.
    ///
    /// # Errors
    ///
    /// EACCES if the descriptor is not open for reading, ENODEV (EIO in parts of `/proc`) for
    /// objects that cannot be mapped (pipes, directories, most of `/proc`: [`Anon::read_from`]
    /// reads those), EINVAL for an offset past the end; ENOMEM, EPERM, EAGAIN as in mmap(2).
    pub fn map(&self, file: impl MapFile) -> Result<MappedFile<ReadOnly>> {
        self.map_file(file)
    }

    /// Maps a file shared and writable: stores reach the file and everyone who maps it.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); EACCES if the descriptor is not open for reading and writing, ETXTBSY
    /// for a file in use as swap space, ENOSPC with [`preallocate`](Self::preallocate).
    pub fn map_mut(&self, file: impl MapFile) -> Result<MappedFile<ReadWrite>> {
        self.map_file(file)
    }

    /// Maps a file copy-on-write: stores stay in this process.
    ///
    /// # Errors
    ///
    /// As [`map`](Self::map); read permission suffices.
    pub fn map_private(&self, file: impl MapFile) -> Result<MappedFile<Private>> {
        self.map_file(file)
    }

    /// Maps zero-filled memory of this process's own.
    ///
    /// # Errors
    ///
    /// ENOMEM if the kernel does not promise so much, or the pool of huge pages is empty.
    pub fn anon(&self, length: usize) -> Result<Anon> {
        self.anon_of(None, length)
    }

    fn anon_of(&self, zero: Option<BorrowedFd<'_>>, length: usize) -> Result<Anon> {
        self.check(
            "anonymous memory",
            FREE_FLAGS.difference(MapFlags::SYNC | MapFlags::SHARED_VALIDATE),
        )?;
        self.forbid(
            self.reserve.is_some(),
            "anonymous memory",
            "reserve is for files and shared memory",
        )?;
        self.forbid_file_range("anonymous memory")?;
        let prot = Prot::READ_WRITE;
        let region = self.memory_region(zero, length, prot, MapFlags::PRIVATE)?;
        let made = (region.behind()?.is_some() || region.is_empty()).then(|| {
            // A map without bytes takes its place later; for one that has it, a second hold on the
            // reservation would be one too many.
            let place = if region.is_empty() { self.place.clone() } else { Placement::Anywhere };
            let room = match self.capacity {
                Some(capacity) => capacity.max(region.len()),
                None if self.guard_pages => region.len(),
                None => usize::MAX,
            };
            Box::new(AnonBuilt {
                options: Self { place, ..self.clone() },
                room: region.page_size().ceil(room).unwrap_or(usize::MAX),
            })
        });
        Ok(Anon::new_from(Mapping::new(region, 0, length), made))
    }

    /// Maps an open `/dev/zero` privately: the same memory, as systems without ANONYMOUS make it.
    ///
    /// # Errors
    ///
    /// As [`Anon::from_dev_zero`]; EINVAL for huge pages, which this device has not.
    pub fn anon_from_dev_zero(&self, file: impl AsFd, length: usize) -> Result<Anon> {
        let fd = file.as_fd();
        if !status(fd)?.is_dev_zero() {
            return Err(Error::rule(
                "map",
                Subject::file(fd),
                "private memory is made of /dev/zero, and this is another file",
                "map a file privately with FileMapPrivate",
            ));
        }
        self.forbid(self.huge.is_some(), "/dev/zero", "it has pages of the usual size only")?;
        self.anon_of(Some(fd), length)
    }

    /// The part by which an [`Anon`] of these options grows. The region decides how children get
    /// it.
    pub(in crate::map) fn more_anon(&self, length: usize, place: Placement) -> Result<Region> {
        let more =
            Self { place, capacity: None, guard_pages: false, fork: Fork::Inherit, ..self.clone() };
        more.anonymous_region(length, Prot::READ_WRITE, MapFlags::PRIVATE)
    }

    /// Maps anonymous memory of this process's own with any protection, NONE and EXEC included, as
    /// a [`Region`]: the form for code that is generated, or for handing out parts with
    /// [`Region::protect`].
    ///
    /// # Errors
    ///
    /// As [`anon`](Self::anon); EINVAL for a length of zero.
    pub fn region(&self, length: usize, prot: Prot) -> Result<Region> {
        self.check("a region", FREE_FLAGS.difference(MapFlags::SYNC | MapFlags::SHARED_VALIDATE))?;
        self.forbid(self.reserve.is_some(), "a region", "reserve is for files and shared memory")?;
        self.forbid(
            self.capacity.is_some(),
            "a region",
            "capacity is for Anon; place regions in a Reservation",
        )?;
        self.forbid(length == 0, "a region", "the length must not be zero")?;
        self.forbid_file_range("a region")?;
        let region = self.anonymous_region(length, prot, MapFlags::PRIVATE)?;
        // Huge pages without any access are not taken from the pool yet, which may be empty when
        // they are wanted.
        let untaken = self.huge.is_some() && prot == Prot::NONE;
        Ok(if untaken { region } else { region.with_steady_pages(true) })
    }

    /// Maps anonymous memory that the kernel may turn to zeros whenever memory is short (DROPPABLE,
    /// since 6.11). Its bytes can change at any time, so it comes as a [`Region`], with checked
    /// copies.
    ///
    /// # Errors
    ///
    /// As [`anon`](Self::anon); EINVAL or EOPNOTSUPP before 6.11.
    pub fn droppable(&self, length: usize) -> Result<Region> {
        self.check(
            "droppable memory",
            FREE_FLAGS.difference(MapFlags::SYNC | MapFlags::SHARED_VALIDATE),
        )?;
        self.forbid(
            self.reserve.is_some(),
            "droppable memory",
            "reserve is for files and shared memory",
        )?;
        self.forbid(self.huge.is_some(), "droppable memory", "huge pages cannot be dropped")?;
        self.forbid(
            self.lock != LockOption::Unlocked,
            "droppable memory",
            "locked pages cannot be dropped",
        )?;
        self.forbid(self.capacity.is_some(), "droppable memory", "capacity is for Anon")?;
        self.forbid(length == 0, "droppable memory", "the length must not be zero")?;
        self.forbid_file_range("droppable memory")?;
        self.anonymous_region(length, Prot::READ_WRITE, MapFlags::DROPPABLE)
    }

    /// Makes memory that forked children share.
    ///
    /// # Errors
    ///
    /// ENOMEM; ENFILE at the machine's limit of open files, since the kernel keeps a file behind
    /// it.
    pub fn shared_anonymous(&self, length: usize) -> Result<SharedMem> {
        self.check("shared memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid_file_range("shared memory")?;
        self.forbid(self.capacity.is_some(), "shared memory", "capacity is for Anon")?;
        self.forbid_huge_shared()?;
        self.forbid_reserve_without_commit("shared memory")?;
        let region = self.anonymous_region(length, Prot::READ_WRITE, MapFlags::SHARED)?;
        Ok(SharedMem::new_from(Mapping::new(region, 0, length), None))
    }

    /// The same by mapping `/dev/zero` shared, as systems without ANONYMOUS do it.
    ///
    /// # Errors
    ///
    /// As [`shared_anonymous`](Self::shared_anonymous), and those of opening `/dev/zero`.
    pub fn shared_dev_zero(&self, length: usize) -> Result<SharedMem> {
        self.check("shared memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid_huge_shared()?;
        self.forbid_file_range("shared memory")?;
        self.forbid_anonymous_shape("/dev/zero")?;
        self.forbid_reserve_without_commit("shared memory")?;
        let zero = open("/dev/zero", true)?;
        file_object::check_zero(zero.as_fd())?;
        let region = self.shared_region(zero.as_fd(), length, PageSize::system())?;
        if let Some(name) = &self.name {
            region.name_area(name)?;
        }
        Ok(SharedMem::new_from(Mapping::new(region, 0, length), None))
    }

    /// Makes a memfd, sealed against shrinking, and maps it: memory that is shared with every
    /// process that gets the descriptor.
    ///
    /// # Errors
    ///
    /// ENOMEM, EMFILE, ENFILE.
    pub fn shared_memfd(&self, length: usize) -> Result<SharedMem> {
        self.check("shared memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid_file_range("shared memory")?;
        self.forbid_anonymous_shape("a memfd")?;
        self.forbid_reserve_without_commit("shared memory")?;
        self.forbid_huge_shared()?;
        let name = self.name.as_deref().unwrap_or("folio");
        let fd = sys::memfd::create(name, None).map_err(|errno| {
            Error::kernel("memfd_create", errno, Subject::named(format!("memfd:{name}")))
        })?;
        set_length(fd.as_fd(), length as u64)?;
        // Before it is mapped: any code of the process can open the memfd through /proc, and
        // shorten it.
        file_object::seal(fd.as_fd(), sys::memfd::Seals::SHRINK)?;
        file_object::check_sealed_length(fd.as_fd(), length as u64)?;
        self.shared_from_fd_of(fd, length, self.reserve != Some(false))
    }

    /// Maps a memfd that another process made and passed over. It must be sealed against shrinking,
    /// so that no process can take pages away from under this one.
    ///
    /// The memfd's length is a claim of its maker and costs it nothing. So memory is taken at once
    /// for no more than as many bytes as the memfd has already: a few holes are filled, and a memfd
    /// that is mostly hole stays as it is. [`preallocate`](Self::preallocate) fills every hole,
    /// [`no_reserve`](Self::no_reserve) none. A hole takes memory when it is first touched.
    ///
    /// # Errors
    ///
    /// EINVAL if it is no memfd, lacks the seal, or has huge pages; EPERM if it is sealed against
    /// writing (open that as [`Sealed`]); ENOMEM if there is no memory for the holes that are to be
    /// filled.
    pub fn shared_from_fd(&self, fd: OwnedFd) -> Result<SharedMem> {
        self.check("shared memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid_huge_shared()?;
        self.forbid(self.name.is_some(), "shared memory", "the memfd has a name")?;
        self.forbid_anonymous_shape("a memfd")?;
        let seals = sys::memfd::seals(fd.as_fd());
        if !seals.is_ok_and(|seals| seals.contains(sys::memfd::Seals::SHRINK)) {
            return Err(Error::rule(
                "map",
                Subject::file(fd.as_fd()),
                "shared memory must be a memfd that is sealed against shrinking (F_SEAL_SHRINK), else another process \
                 could take its pages away",
                "add the seal where it is made (SharedMem::memfd does), or map the file as FileMapMut",
            ));
        }
        self.forbid_reserve_without_commit("shared memory")?;
        self.forbid(self.offset != 0, "shared memory", "it is mapped from its start")?;
        let size = status(fd.as_fd())?.size as usize;
        let length = self.length.unwrap_or(size);
        self.forbid(length > size, "shared memory", "the length must not pass the memfd's end")?;
        self.forbid(
            sys::file::huge_page_bytes(fd.as_fd()).is_some(),
            "shared memory",
            NO_HUGE_SHARED,
        )?;
        let few = || sys::file::missing(fd.as_fd(), &(0..length as u64)) <= length as u64 / 2;
        let fill = self.reserve.unwrap_or_else(few);
        self.shared_from_fd_of(fd, length, fill)
    }

    fn shared_from_fd_of(&self, fd: OwnedFd, length: usize, fill: bool) -> Result<SharedMem> {
        if fill {
            fill_holes(fd.as_fd(), 0..length as u64)?;
        }
        let region = self.shared_region(fd.as_fd(), length, PageSize::system())?;
        Ok(SharedMem::new_from(Mapping::new(region, 0, length), Some(fd)))
    }

    /// Maps a device whose stores have no effect but on its own bytes: a file, a block device,
    /// `/dev/zero`; `length` bytes from `offset`. Without a length, the device's size if it tells
    /// one.
    ///
    /// # Errors
    ///
    /// EPERM for any other device, which only [`device_unchecked`](Self::device_unchecked) maps;
    /// ENODEV if it cannot be mapped; EACCES if the descriptor is not open for reading and writing.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "as the other kinds of map; an owned descriptor is closed"
    )]
    pub fn device(&self, file: impl MapFile) -> Result<Device> {
        let fd = file.descriptor();
        file_object::check_device(fd, &status(fd)?)?;
        self.device_of(fd)
    }

    /// Maps device memory: `length` bytes from `offset`, both as the driver counts them. Without a
    /// length, the device's size if it tells one.
    ///
    /// # Errors
    ///
    /// ENODEV if the driver cannot be mapped, EACCES if the descriptor is not open for reading and
    /// writing; EINVAL and others as the driver chooses.
    ///
    /// # Safety
    ///
    /// The caller answers for the effect of every store that is made through the [`Device`]:
    /// hardware and kernel (a ring of io_uring, the page of a KVM vCPU, registers that start a
    /// transfer) write to memory where the stores tell them to, and that memory must be the
    /// caller's to change.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "as the other kinds of map; an owned descriptor is closed"
    )]
    pub unsafe fn device_unchecked(&self, file: impl MapFile) -> Result<Device> {
        self.device_of(file.descriptor())
    }

    fn device_of(&self, fd: BorrowedFd<'_>) -> Result<Device> {
        self.check("a device", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid(self.huge.is_some(), "a device", "the size of the pages is the driver's")?;
        self.forbid(self.name.is_some(), "a device", "the device has a name")?;
        self.forbid(self.reserve.is_some(), "a device", "reserve is for files and shared memory")?;
        self.forbid_anonymous_shape("a device")?;
        let Some(length) =
            self.length.or_else(|| status(fd).ok().map(|status| status.size as usize))
        else {
            return Err(Error::rule(
                "map",
                Subject::file(fd),
                "a device needs a length",
                "pass `length`",
            ));
        };
        if length == 0 {
            return Err(Error::rule(
                "map",
                Subject::file(fd),
                "the device tells no size",
                "pass `length`",
            ));
        }
        // Files are taken too, and those of hugetlbfs are mapped in whole huge pages.
        let page = file_object::page_size(fd);
        let cover = page.cover(self.offset, length).ok_or_else(|| too_long("a device", length))?;
        let mut region = Region::create(&Request {
            len: cover.mapped,
            page,
            prot: self.prot(Prot::READ_WRITE),
            flags: self.flags | MapFlags::SHARED,
            fd: Some(fd),
            offset: cover.file_offset,
            place: self.placed(page)?,
        })?;
        if sys::process::is_kept_from_children(region.as_ptr() as usize) {
            region.record_absent_in_children();
        }
        let region = self.finish(region, true)?;
        Ok(Device::new_from(Mapping::new(region, cover.lead, length)))
    }

    /// Makes sealed memory of `length` bytes: `fill` writes them, then nobody can ever again. It
    /// writes to memory of this process's own, which is copied into the memfd and given back piece
    /// by piece.
    ///
    /// # Errors
    ///
    /// ENOMEM, EMFILE, ENFILE; EBUSY for huge pages that another process has mapped writable.
    pub fn sealed(&self, length: usize, fill: impl FnOnce(&mut [u8])) -> Result<Sealed> {
        let memfd = self.new_sealed(length)?;
        let mut own = Self::new().anon(length)?;
        fill(&mut own);
        memfd.store(&mut |offset, count, store| {
            store(&own[offset..offset + count])?;
            // Only to have the bytes in memory once: locked memory stays.
            let _ = own.discard(offset..offset + count);
            Ok(())
        })?;
        self.finish_sealed(memfd, length)
    }

    /// The same with a copy of `bytes`.
    pub(in crate::map) fn sealed_copy(&self, bytes: &[u8]) -> Result<Sealed> {
        let memfd = self.new_sealed(bytes.len())?;
        memfd.store(&mut |offset, count, store| store(&bytes[offset..offset + count]))?;
        self.finish_sealed(memfd, bytes.len())
    }

    fn new_sealed(&self, length: usize) -> Result<Unsealed> {
        self.check("sealed memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid_file_range("sealed memory")?;
        self.forbid_sealed_options()?;
        let name = self.name.as_deref().unwrap_or("folio-sealed");
        Unsealed::new(name, self.huge, self.page_size()?, length)
    }

    fn finish_sealed(&self, memfd: Unsealed, length: usize) -> Result<Sealed> {
        self.sealed_from(memfd.seal()?, Some(length))
    }

    /// Maps sealed memory that another process made and passed over.
    ///
    /// # Errors
    ///
    /// EINVAL if it is no memfd, or not sealed against writing, growing and shrinking.
    pub fn sealed_from_fd(&self, fd: OwnedFd) -> Result<Sealed> {
        self.check("sealed memory", FREE_FLAGS.difference(MapFlags::SYNC))?;
        self.forbid(
            self.huge.is_some(),
            "sealed memory",
            "the size of the pages is the memfd's own",
        )?;
        self.forbid(self.name.is_some(), "sealed memory", "the memfd has a name")?;
        self.forbid_file_range("sealed memory")?;
        self.forbid_sealed_options()?;
        self.sealed_from(fd, None)
    }

    fn sealed_from(&self, fd: OwnedFd, length: Option<usize>) -> Result<Sealed> {
        if !sys::memfd::seals(fd.as_fd()).is_ok_and(|seals| seals.contains(sys::memfd::UNCHANGING))
        {
            return Err(Error::rule(
                "map",
                Subject::file(fd.as_fd()),
                "sealed memory must be a memfd that is sealed against writing, growing and shrinking",
                "make it with Sealed::build, or add the seals where it is made",
            ));
        }
        let size = status(fd.as_fd())?.size as usize;
        let length = length.unwrap_or(size);
        let page = file_object::page_size(fd.as_fd());
        if length == 0 {
            return Ok(Sealed::new_from(Mapping::new(Region::empty(page), 0, 0), fd));
        }
        let mut request = Request {
            len: page.ceil(length).ok_or_else(|| too_long("sealed memory", length))?,
            page,
            prot: self.prot(Prot::READ),
            flags: self.flags | MapFlags::SHARED,
            fd: Some(fd.as_fd()),
            offset: 0,
            place: self.placed(page)?,
        };
        let region = Region::create(&request).or_else(|error| match error.errno() {
            // Before 6.7 a descriptor that could write is refused a shared map of sealed memory,
            // even a read-only one. A private one shows the same pages, which nobody can change.
            Errno::PERM => {
                request.flags =
                    self.flags.difference(MapFlags::SHARED_VALIDATE) | MapFlags::PRIVATE;
                Region::create(&request)
            }
            _ => Err(error),
        })?;
        if page > PageSize::system() || file_object::check_room(fd.as_fd(), 0..size as u64)? > 0 {
            // A hole is filled when it is first read, and then memory or the pool could be short.
            // The seals leave holes, but let nobody punch one from here on. By reading, since the
            // descriptor may be open for nothing else.
            region.populate(.., Populate::Read, page.bytes(), |_, _| ControlFlow::Continue(()))?;
        }
        let region = self.finish(region, false)?;
        Ok(Sealed::new_from(Mapping::new(region, 0, length), fd))
    }

    /// The three kinds of file maps.
    pub(in crate::map) fn map_file<A: FileAccess>(
        &self,
        file: impl MapFile,
    ) -> Result<MappedFile<A>> {
        let sync =
            if A::SHARED { MapFlags::empty() } else { MapFlags::SYNC | MapFlags::SHARED_VALIDATE };
        let kind = "a file map";
        self.check(kind, FREE_FLAGS.difference(sync))?;
        self.forbid(self.huge.is_some(), kind, "the size of a file's pages is the file system's")?;
        self.forbid(self.name.is_some(), kind, "the file has a name")?;
        let reserve = self.reserve == Some(true);
        self.forbid(
            reserve && !A::SHARED,
            kind,
            "copied pages are memory, which no file can reserve",
        )?;
        self.forbid_reserve_without_commit(kind)?;
        self.forbid_anonymous_shape(kind)?;
        let fd = file.descriptor();
        let status = status(fd)?;
        let size = file_object::size(fd, &status)?;
        // Only files whose blocks are larger than a page can be hugetlbfs's: the common file costs
        // no call for this.
        let base = PageSize::system();
        let page = if status.block > base.bytes() { file_object::page_size(fd) } else { base };
        if size == 0 && self.length.is_none_or(|length| length == 0) {
            // An empty file maps to nothing; one that only looks empty (in /proc) must not.
            file_object::probe(fd, page, self.prot(A::PROT), self.flags | self.sharing::<A>())?;
        }
        let length = match self.length {
            Some(length) => length,
            None if self.offset > size => {
                return Err(Error::rule(
                    "map",
                    Subject::file(fd).with_range(self.offset, 0),
                    format!("the offset is past the end of the file, which has {size} bytes"),
                    "start at or before the end",
                ));
            }
            None => usize::try_from(size - self.offset).map_err(|_| too_long(kind, usize::MAX))?,
        };
        let cover = page.cover(self.offset, length).ok_or_else(|| too_long(kind, length))?;
        let request = Request {
            len: cover.mapped,
            page,
            prot: self.prot(A::PROT),
            flags: self.flags | self.sharing::<A>(),
            fd: Some(fd),
            offset: cover.file_offset,
            place: self.placed(page)?,
        };
        let region = if length == 0 {
            let mut region = Region::empty(page);
            region.set_fork(self.fork)?;
            region
        } else {
            if reserve {
                fill_holes(fd, self.offset..size.min(self.offset.saturating_add(length as u64)))?;
            }
            self.finish(Region::create(&request)?, A::PROT.contains(Prot::WRITE))?
        };
        // An empty map has no page to lie in: it starts where it was asked to, and gets its options
        // when it gets bytes.
        let (lead, start) =
            if length == 0 { (0, self.offset) } else { (cover.lead, cover.file_offset) };
        // To give an empty map bytes, to map more of the file in a reservation, or to back more of
        // it with space.
        let needed = length == 0 || reserve || matches!(self.place, Placement::Within(..));
        let made = needed.then(|| {
            // For a map that has its place, a second hold on the reservation would be one too many.
            let place = if length == 0 { self.place.clone() } else { Placement::Anywhere };
            Box::new(Self { place, ..self.clone() })
        });
        Ok(MappedFile::new_from(Mapping::new(region, lead, length), start, file.keep(), made))
    }

    /// The part of a file by which a map in a reservation grows, at `place`. The region decides how
    /// children get it.
    pub(in crate::map) fn more_file<A: FileAccess>(
        &self,
        fd: BorrowedFd<'_>,
        file_range: std::ops::Range<u64>,
        page: PageSize,
        place: Placement,
    ) -> Result<Region> {
        let more = Self { fork: Fork::Inherit, ..self.clone() };
        let region = Region::create(&Request {
            len: (file_range.end - file_range.start) as usize,
            page,
            prot: more.prot(A::PROT),
            flags: more.flags | more.sharing::<A>(),
            fd: Some(fd),
            offset: file_range.start,
            place,
        })?;
        more.finish(region, A::PROT.contains(Prot::WRITE))
    }

    /// Whether the map's part of the file is to be backed with space.
    pub(in crate::map) fn reserves(&self) -> bool {
        self.reserve == Some(true)
    }

    fn sharing<A: FileAccess>(&self) -> MapFlags {
        match (A::SHARED, self.flags.contains(MapFlags::SYNC)) {
            (true, true) => MapFlags::SHARED_VALIDATE,
            (true, false) => MapFlags::SHARED,
            (false, _) => MapFlags::PRIVATE,
        }
    }

    fn prot(&self, base: Prot) -> Prot {
        if self.exec { base | Prot::EXEC } else { base }
    }

    /// Where the map is to lie, if its pages can lie there. The kernel rounds a huge map to whole
    /// pages of its own, and would replace what lies behind the place that was claimed.
    fn placed(&self, page: PageSize) -> Result<Placement> {
        if let Placement::Within(space, offset) = &self.place
            && page > PageSize::system()
            && !page.divides(space.start().wrapping_add(*offset))
        {
            return Err(Error::rule(
                "place",
                Subject::named("a reservation")
                    .with_address(space.start())
                    .with_range(*offset as u64, 0),
                format!(
                    "the map's pages have {page}, and lie at addresses that are multiples of it"
                ),
                "make it with Reservation::aligned, and choose an offset that is a multiple too",
            ));
        }
        Ok(self.place.clone())
    }

    fn page_size(&self) -> Result<PageSize> {
        let Some(huge) = self.huge else { return Ok(PageSize::system()) };
        let size =
            huge.size().or_else(|| sys::process::default_huge_page().and_then(PageSize::new));
        size.ok_or_else(|| {
            Error::rule_as(
                Errno::OPNOTSUPP,
                "map",
                Subject::anonymous().with_detail(format!("{huge:?}")),
                "this kernel has no huge pages",
                "use transparent huge pages, or none",
            )
        })
    }

    fn anonymous_region(&self, length: usize, prot: Prot, kind: MapFlags) -> Result<Region> {
        self.memory_region(None, length, prot, kind)
    }

    /// Anonymous memory; or the same memory of an open `/dev/zero`.
    fn memory_region(
        &self,
        zero: Option<BorrowedFd<'_>>,
        length: usize,
        prot: Prot,
        kind: MapFlags,
    ) -> Result<Region> {
        let page = self.page_size()?;
        let too_long = || too_long("anonymous memory", length);
        let len = page.ceil(length).ok_or_else(too_long)?;
        let room = self
            .capacity
            .map(|bytes| page.ceil(bytes.max(length)).ok_or_else(too_long))
            .transpose()?;
        self.forbid(
            (room.is_some() || self.guard_pages) && !matches!(self.place, Placement::Anywhere),
            "anonymous memory",
            "capacity and guard pages make a reservation of their own; the map cannot lie elsewhere",
        )?;
        if len == 0 && room.is_none() {
            let mut region = Region::empty(page);
            region.set_fork(self.fork)?;
            return Ok(region);
        }
        let place = if room.is_some() || self.guard_pages {
            let margin = if self.guard_pages { page.bytes() } else { 0 };
            let whole = room.unwrap_or(len).checked_add(2 * margin).ok_or_else(too_long)?;
            let reservation = Reservation::aligned(whole, page)?;
            Placement::Within(Arc::clone(reservation.space()), margin)
        } else {
            self.placed(page)?
        };
        let mut flags = self.flags | kind;
        if zero.is_none() {
            flags |= MapFlags::ANONYMOUS;
        }
        if let Some(huge) = self.huge {
            flags |= huge.flags();
        }
        let region = Region::create(&Request {
            // A map with room to grow starts with a page at least, so that it has an address.
            len: len.max(page.bytes()),
            page,
            prot: self.prot(prot),
            flags,
            fd: zero,
            offset: 0,
            place,
        })?;
        if let Some(name) = &self.name {
            region.name_area(name)?;
        }
        if prot == Prot::NONE && !self.populate {
            // There is no access to populate it by; the kernel keeps the huge pages for it.
            return Self { huge: None, ..self.clone() }.finish(region, false);
        }
        self.finish(region, prot.contains(Prot::WRITE))
    }

    fn shared_region(&self, fd: BorrowedFd<'_>, length: usize, page: PageSize) -> Result<Region> {
        if length == 0 {
            return Ok(Region::empty(page));
        }
        let region = Region::create(&Request {
            len: page.ceil(length).ok_or_else(|| too_long("shared memory", length))?,
            page,
            prot: self.prot(Prot::READ_WRITE),
            flags: self.flags | MapFlags::SHARED,
            fd: Some(fd),
            offset: 0,
            place: self.placed(page)?,
        })?;
        self.finish(region, true)
    }

    /// The steps for a region once it is mapped. On an error the region is dropped, and nothing is
    /// left.
    pub(in crate::map) fn finish(&self, mut region: Region, writable: bool) -> Result<Region> {
        if let Some(pattern) = self.pattern {
            region.advise(.., Advice::from(pattern))?;
        }
        if let Some(want) = self.transparent {
            let advice = if want { Advice::HugePage } else { Advice::NoHugePage };
            match region.advise(.., advice) {
                // A kernel without them does not know the advice, and the request is a wish.
                Err(error) if error.errno() == Errno::INVAL => {}
                result => result?,
            }
        }
        if self.fork != Fork::Inherit {
            region.set_fork(self.fork)?;
        }
        if self.populate || self.huge.is_some() {
            let how = if writable { Populate::Write } else { Populate::Read };
            region.populate(.., how, usize::MAX, |_, _| ControlFlow::Continue(()))?;
        }
        match self.lock {
            LockOption::Unlocked => {}
            LockOption::Now => region.lock(..)?,
            LockOption::OnFault => region.lock_on_fault(..)?,
        }
        Ok(region)
    }
}
