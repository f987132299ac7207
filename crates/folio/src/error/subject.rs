//! The subject of a call, for its error: the object, and the numbers of the request.

use crate::flags::MapFlags;
use crate::page::PageSize;
use crate::prot::Prot;
use crate::sys;
use std::fmt;
use std::os::fd::{AsRawFd, BorrowedFd};

/// The object and the numbers of a call that was refused. Lengths and offsets are in bytes.
#[derive(Debug, Clone, Default)]
pub struct Subject {
    pub(crate) object: String,
    pub(crate) address: Option<usize>,
    pub(crate) offset: Option<u64>,
    pub(crate) length: Option<usize>,
    pub(crate) prot: Option<Prot>,
    pub(crate) flags: Option<MapFlags>,
    /// The length after the call, for one that changes it (mremap).
    pub(crate) new_length: Option<usize>,
    /// The number of the advice, for madvise(2).
    pub(crate) advice: Option<i32>,
    /// The size of the memory's pages, where they come from the hugetlb pool.
    pub(crate) huge: Option<PageSize>,
    /// Whether the call may move the map, for mremap(2).
    pub(crate) may_move: Option<bool>,
    /// Further parts of the request: advice, sync flags, a second length.
    pub(crate) detail: Option<String>,
}

impl Subject {
    pub(crate) fn named(object: impl Into<String>) -> Self {
        Self { object: object.into(), ..Self::default() }
    }

    pub(crate) fn anonymous() -> Self {
        Self::named("anonymous memory")
    }

    pub(crate) fn file(fd: BorrowedFd<'_>) -> Self {
        let name = sys::file::name(fd);
        let object = name.map_or_else(
            || format!("descriptor {}", fd.as_raw_fd()),
            |name| name.display().to_string(),
        );
        Self { object, ..Self::default() }
    }

    /// The object that is mapped at an address, as `/proc/self/maps` names it.
    pub(crate) fn mapped_at(address: usize) -> Self {
        let object = Self::object_of(sys::process::vma_at(address).as_ref());
        Self { object, address: Some(address), ..Self::default() }
    }

    /// The name of the object of an area.
    pub(crate) fn object_of(area: Option<&sys::process::Vma>) -> String {
        match area {
            // The kernel's own file behind shared memory without a file, anonymous or of /dev/zero.
            Some(area) if area.is_shared_anonymous() => "shared anonymous memory".to_owned(),
            Some(sys::process::Vma { object: Some(path), .. }) => path.display().to_string(),
            Some(_) => "anonymous memory".to_owned(),
            None => "unmapped memory".to_owned(),
        }
    }

    pub(crate) fn with_range(mut self, offset: u64, length: usize) -> Self {
        (self.offset, self.length) = (Some(offset), Some(length));
        self
    }

    pub(crate) fn with_length(mut self, length: usize) -> Self {
        self.length = Some(length);
        self
    }

    pub(crate) fn with_new_length(mut self, length: usize) -> Self {
        self.new_length = Some(length);
        self
    }

    pub(crate) fn with_address(mut self, address: usize) -> Self {
        self.address = Some(address);
        self
    }

    pub(crate) fn with_prot(mut self, prot: Prot) -> Self {
        self.prot = Some(prot);
        self
    }

    pub(crate) fn with_flags(mut self, flags: MapFlags) -> Self {
        self.flags = Some(flags);
        self
    }

    pub(crate) fn with_advice(mut self, advice: i32) -> Self {
        self.advice = Some(advice);
        self
    }

    /// Notes the size of the memory's pages, if they are huge.
    pub(crate) fn with_page(mut self, page: PageSize) -> Self {
        self.huge = (page > PageSize::system()).then_some(page);
        self
    }

    pub(crate) fn with_move(mut self, may_move: bool) -> Self {
        self.may_move = Some(may_move);
        self
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The name of the object: a path, `anonymous memory`, `memfd:x`. It is as its maker chose it:
    /// messages escape control characters, and this does not.
    pub fn object(&self) -> &str {
        &self.object
    }

    /// The address, if the call was about one.
    pub fn address(&self) -> Option<usize> {
        self.address
    }

    /// The offset in the object, in bytes.
    pub fn offset(&self) -> Option<u64> {
        self.offset
    }

    /// The length, in bytes.
    pub fn length(&self) -> Option<usize> {
        self.length
    }

    /// The protection that was asked for.
    pub fn prot(&self) -> Option<Prot> {
        self.prot
    }

    /// The flags that were asked for.
    pub fn flags(&self) -> Option<MapFlags> {
        self.flags
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = [
            self.address.map(|address| format!("address {address:#x}")),
            self.offset.map(|offset| format!("offset {offset}")),
            self.length.map(|length| format!("length {length}")),
            self.prot.map(|prot| prot.to_string()),
            self.flags.map(|flags| flags.to_string()),
            self.detail.as_deref().map(|detail| sys::plain(detail).into_owned()),
        ];
        let numbers: Vec<_> = numbers.into_iter().flatten().collect();
        f.write_str(&sys::plain(&self.object))?;
        if numbers.is_empty() { Ok(()) } else { write!(f, " ({})", numbers.join(", ")) }
    }
}
