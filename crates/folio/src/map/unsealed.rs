//! A memfd on its way to be sealed. Its bytes come by copies, and no slice of it exists before the
//! seals hold: any code of the process can open it through /proc meanwhile, and change them.

use super::file_object;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::{HugePage, MapFlags};
use crate::page::PageSize;
use crate::prot::Prot;
use crate::region::{Placement, Region, Request};
use crate::sys;
use crate::sys::memfd::{Seals, UNCHANGING};
use std::os::fd::{AsFd, OwnedFd};

/// See the module.
#[derive(Debug)]
pub(super) struct Unsealed {
    fd: OwnedFd,
    name: String,
    huge: Option<HugePage>,
    page: PageSize,
    /// The bytes to store.
    length: usize,
    /// The length of the file: in whole pages if they are huge. For others the exact length tells
    /// receivers how much there is.
    size: u64,
}

impl Unsealed {
    /// A memfd of `length` zero bytes that keeps its length.
    pub(super) fn new(
        name: &str,
        huge: Option<HugePage>,
        page: PageSize,
        length: usize,
    ) -> Result<Self> {
        let size = if huge.is_some() { page.ceil(length) } else { Some(length) };
        let size = size.ok_or_else(|| {
            Error::rule_as(
                Errno::OVERFLOW,
                "map",
                Subject::named("sealed memory").with_length(length),
                "the length in whole pages passes the end of what can be counted",
                "ask for less",
            )
        })? as u64;
        let fd = sys::memfd::create(name, huge).map_err(|errno| {
            Error::kernel("memfd_create", errno, Subject::named(format!("memfd:{name}")))
        })?;
        file_object::set_length(fd.as_fd(), size)?;
        file_object::seal(fd.as_fd(), Seals::SHRINK | Seals::GROW)?;
        file_object::check_sealed_length(fd.as_fd(), size)?;
        file_object::check_room(fd.as_fd(), 0..size)?;
        Ok(Self { fd, name: name.to_owned(), huge, page, length, size })
    }

    /// Stores all bytes, a piece at a time: `piece` is told offset and count, and hands the bytes
    /// over.
    #[expect(clippy::type_complexity, reason = "a name for it would say less")]
    pub(super) fn store(
        &self,
        piece: &mut dyn FnMut(usize, usize, &dyn Fn(&[u8]) -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        /// A multiple of every page size but the largest.
        const STEP: usize = 32 << 20;
        if self.length == 0 {
            return Ok(());
        }
        // Files of huge pages take no write(2).
        let map = self.huge.map(|_| self.map()).transpose()?;
        for offset in (0..self.length).step_by(STEP) {
            piece(offset, STEP.min(self.length - offset), &|bytes| match &map {
                Some(map) => map.write_at(bytes, offset),
                None => file_object::write_all(self.fd.as_fd(), bytes, offset as u64),
            })?;
        }
        Ok(())
    }

    fn map(&self) -> Result<Region> {
        Region::create(&Request {
            len: self.size as usize,
            page: self.page,
            prot: Prot::READ_WRITE,
            flags: MapFlags::SHARED,
            fd: Some(self.fd.as_fd()),
            offset: 0,
            place: Placement::Anywhere,
        })
    }

    /// Seals it for ever.
    pub(super) fn seal(self) -> Result<OwnedFd> {
        let seals = UNCHANGING | Seals::SEAL;
        match file_object::seal(self.fd.as_fd(), seals) {
            Ok(()) => return Ok(self.fd),
            Err(error) if error.errno() != Errno::BUSY || self.huge.is_some() => return Err(error),
            // Somebody found it through /proc, and has it mapped writable. He has no map of a copy.
            Err(_) => {}
        }
        let copy = sys::memfd::copy(self.fd.as_fd(), &self.name, self.size)
            .map_err(|errno| Error::kernel("sendfile", errno, Subject::file(self.fd.as_fd())))?;
        file_object::seal(copy.as_fd(), seals)?;
        file_object::check_sealed_length(copy.as_fd(), self.size)?;
        Ok(copy)
    }
}
