//! Checked copies in and out of a region, whatever its protection is.

use super::{Error, Region, Result};
use crate::error::{Fault, FaultCause, Subject};
use crate::page;
use crate::sys;
use crate::sys::copy::Trap;
use std::ops::Range;

impl Region {
    /// Copies `buffer.len()` bytes from `offset`, all of them or none that count.
    ///
    /// # Errors
    ///
    /// A [`Fault`] for a page that cannot be supplied or must not be read; the contents of `buffer`
    /// are then unspecified. EINVAL for a range outside the region, ENOMEM for a part that was
    /// unmapped.
    #[inline]
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.read_at_as("read_at", buffer, offset)
    }

    /// [`read_at`](Self::read_at) for another call, which the error names.
    #[inline]
    pub(super) fn read_at_as(
        &self,
        call: &'static str,
        buffer: &mut [u8],
        offset: usize,
    ) -> Result<()> {
        let range = self.bytes(call, offset, buffer.len())?;
        sys::signal::install();
        // SAFETY: the handler is installed; the range is mapped by this region, which gives out no
        // references.
        unsafe {
            sys::copy::copy(buffer.as_mut_ptr(), self.at(offset), buffer.len(), self.addresses())
        }
        .map_err(|trap| self.fault(call, trap, range, &Origin::default()).into())
    }

    /// Copies `bytes` to `offset`. Where the map is shared, others see them at once, and the file
    /// changes.
    ///
    /// # Errors
    ///
    /// A [`Fault`] for a page that cannot be supplied or must not be written; bytes before it may
    /// have been stored. EINVAL for a range outside the region, ENOMEM for a part that was
    /// unmapped.
    #[inline]
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        let range = self.bytes("write_at", offset, bytes.len())?;
        sys::signal::install();
        // SAFETY: as for reading.
        unsafe { sys::copy::copy(self.at(offset), bytes.as_ptr(), bytes.len(), self.addresses()) }
            .map_err(|trap| self.fault("write_at", trap, range, &Origin::default()).into())
    }

    /// Makes the page at `offset` one that was written, without changing a byte: for kernels
    /// without MADV_POPULATE_WRITE.
    pub(super) fn touch_for_writing(&self, offset: usize) -> Result<()> {
        let range = self.bytes("populate", offset, 1)?;
        sys::signal::install();
        // SAFETY: the page is mapped by this region, and the byte is written back as it was,
        // without an instant in which another thread's store could be lost.
        unsafe { sys::copy::touch(self.at(offset), self.addresses()) }
            .map_err(|trap| self.fault("populate", trap, range, &Origin::default()).into())
    }

    /// `offset..offset + count`, if that is inside and mapped.
    #[inline]
    fn bytes(&self, call: &'static str, offset: usize, count: usize) -> Result<Range<usize>> {
        let Some(range) = page::within(offset, count, self.len()) else {
            return Err(outside(call, self.subject(0..self.len()), offset, count, self.len()));
        };
        self.check_present(call, &range)?;
        Ok(range)
    }

    /// The error for a trap: which bytes of `asked` (in bytes of the region) lie on the page that
    /// could not be supplied, and why.
    #[cold]
    pub(crate) fn fault(
        &self,
        call: &'static str,
        trap: Trap,
        asked: Range<usize>,
        origin: &Origin,
    ) -> Fault {
        let at = trap.address.wrapping_sub(self.as_ptr() as usize);
        let page = self.page_size().floor(at);
        let end = page.saturating_add(self.page_size().bytes()).min(asked.end);
        let range = page.max(asked.start).min(end)..end;
        let area = sys::process::vma_at(trap.address);
        // Anonymous memory has an inode of zero, and no offset that means anything.
        let file = area.as_ref().filter(|area| area.inode != 0);
        let in_area = |area: &sys::process::Vma| {
            // Of the first byte in the error and not of the trap, which may lie before it: a
            // machine check names the page's start.
            let start = self.at(range.start) as usize;
            area.offset + start.saturating_sub(area.range.start) as u64
        };
        let file_offset =
            origin.file_start.map(|start| start + range.start as u64).or_else(|| file.map(in_area));
        let file_size = origin.file_size.or_else(|| {
            let meta = std::fs::metadata(file?.object.as_ref()?).ok()?;
            (std::os::unix::fs::MetadataExt::ino(&meta) == file?.inode).then_some(meta.len())
        });
        let past_end = file_offset.zip(file_size).is_some_and(|(offset, size)| {
            // Bytes up to the end of the file's last page can be supplied.
            offset >= size.next_multiple_of(self.page_size().bytes() as u64)
        });
        let cause = match (trap.signal, trap.code) {
            (libc::SIGBUS, libc::BUS_MCEERR_AR | libc::BUS_MCEERR_AO) => FaultCause::MemoryFailure,
            (libc::SIGBUS, _) if past_end => FaultCause::PastEnd,
            (libc::SIGBUS, _) => FaultCause::NoBacking,
            _ => match &area {
                None => FaultCause::NotMapped,
                // Where the kernel copies, all causes look the same; the area tells them apart.
                Some(area) if trap.code == 0 && area.rights.starts_with("rw") && past_end => {
                    FaultCause::PastEnd
                }
                Some(_) => FaultCause::Protection,
            },
        };
        let object = origin.object.clone().unwrap_or_else(|| Subject::object_of(area.as_ref()));
        Fault {
            call,
            object,
            range: range.start - origin.lead..range.end - origin.lead,
            file_offset,
            cause,
            detail: None,
        }
    }
}

/// A handle's knowledge of the memory behind its region, to name a fault well.
#[derive(Debug, Default)]
pub(crate) struct Origin {
    /// Where the handle's first byte lies in the region.
    pub(crate) lead: usize,
    /// Where the region starts in the file.
    pub(crate) file_start: Option<u64>,
    /// How long the file is now.
    pub(crate) file_size: Option<u64>,
    /// The file's name.
    pub(crate) object: Option<String>,
}

/// The error for bytes that lie outside a map of `len`.
#[cold]
pub(crate) fn outside(
    call: &'static str,
    subject: Subject,
    offset: usize,
    count: usize,
    len: usize,
) -> Error {
    Error::rule(
        call,
        subject.with_detail(format!("{count} bytes from {offset} of {len}")),
        "the bytes must lie inside the map",
        match offset {
            _ if len == 0 => "the map is empty: give it bytes first (grow, resize)".to_owned(),
            offset if offset > len => format!("keep to 0..{len}: the offset is past the end"),
            offset if offset == len => format!("keep to 0..{len}: no byte follows the end"),
            offset => format!("at most {} bytes follow that offset", len - offset),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileMap, PageSize};
    use std::io::Write;

    #[test]
    fn a_lost_page_is_a_hole_and_a_later_map_there_is_left_alone() {
        let page = PageSize::system().bytes();
        let mut region =
            crate::MapOptions::new().region(4 * page, crate::Prot::READ_WRITE).unwrap();
        let lost = region.as_ptr() as usize + page..region.as_ptr() as usize + 2 * page;
        // SAFETY: a page of the region, which nothing refers to.
        unsafe { sys::mm::munmap(lost.start as *mut u8, page) }.unwrap();
        sys::lost_pages::record(&lost);
        let mut stranger = crate::MapOptions::new().at(lost.start).anon(page).unwrap();
        stranger[0] = 7;
        let error = region.write_at(&[1], page).unwrap_err();
        assert!(error.to_string().contains("were lost"), "{error}");
        region.write_at(&[1], 0).unwrap();
        // Every change takes note of the hole.
        let rest = region.split_off(2 * page).unwrap();
        assert!(region.mapped().eq(std::iter::once(0..page)));
        drop((region, rest));
        assert_eq!(stranger[0], 7);
    }

    #[test]
    fn a_machine_check_that_names_the_pages_start_faults_the_asked_bytes() {
        let page = PageSize::system().bytes();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 3 * page]).unwrap();
        let region = FileMap::map(&file).unwrap().into_region();
        let address = region.as_ptr() as usize + page;
        let trap = Trap { address, signal: libc::SIGBUS, code: libc::BUS_MCEERR_AR };
        let fault = region.fault("read_at", trap, page + 100..page + 200, &Origin::default());
        assert_eq!(
            (fault.range(), fault.cause()),
            (page + 100..page + 200, FaultCause::MemoryFailure)
        );
        assert_eq!(fault.file_offset(), Some(page as u64 + 100));
    }
}
