//! Device memory: hardware may change it, and loads and stores may have effects, so each is made
//! exactly once, with exactly the asked width.

use super::fd_ownership::MapFile;
use super::handle::handle_calls;
use super::mapping::Mapping;
use super::options::MapOptions;
use crate::error::{Error, Result};
use crate::region::Region;
use crate::residency::Residency;
use crate::sys;
use crate::sys::copy::Width;
use std::ops::RangeBounds;
use std::path::Path;

/// Memory of a device (SHARED): a frame buffer, the registers of a PCI function, the rings
/// of io_uring, a page of perf counters, the shared page of a KVM vCPU.
///
/// A store to most of these can make hardware or the kernel write to memory that the program did
/// not name. So it is `unsafe` to map them: [`map_unchecked`](Self::map_unchecked). Files, block
/// devices and `/dev/zero` have no such stores, and [`map`](Self::map) takes them.
///
/// [`load`](Self::load) and [`store`](Self::store) are single accesses of u8 to u64. Block copies,
/// for frame buffers and the like, may split and repeat accesses.
///
/// An access that the device refuses (SIGBUS, SIGSEGV) is an error.
///
/// Source: mmap(2), and the driver's own documentation. Files are taken too, since some devices
/// (PCI resources in `/sys`) are files.
///
/// **Fork:** a child shares the map, and drops only its own; where the driver keeps its memory from
/// children (perf does), the handle is there as with [`Fork::Absent`](crate::Fork::Absent).
#[derive(Debug)]
pub struct Device {
    mapping: Mapping,
}

impl Device {
    /// Opens a device for reading and writing, and maps `length` bytes from its start.
    ///
    /// # Errors
    ///
    /// Those of opening it, and of [`map`](Self::map).
    pub fn open(path: impl AsRef<Path>, length: usize) -> Result<Self> {
        let file = super::file_object::open(path, true)?;
        MapOptions::new().len(length).device(&file)
    }

    /// Maps `length` bytes from `offset` of an open file, block device or `/dev/zero`.
    ///
    /// # Errors
    ///
    /// Those of [`MapOptions::device`]: EPERM for other devices.
    pub fn map(file: impl MapFile, offset: u64, length: usize) -> Result<Self> {
        MapOptions::new().offset(offset).len(length).device(file)
    }

    /// Maps `length` bytes from `offset` of any open device. The driver defines the meaning of the
    /// offset.
    ///
    /// # Errors
    ///
    /// Those of [`MapOptions::device_unchecked`].
    ///
    /// # Safety
    ///
    /// As for [`MapOptions::device_unchecked`]: the caller answers for the effect of every store.
    pub unsafe fn map_unchecked(file: impl MapFile, offset: u64, length: usize) -> Result<Self> {
        // SAFETY: as the caller promised.
        unsafe { MapOptions::new().offset(offset).len(length).device_unchecked(file) }
    }

    pub(super) fn new_from(mapping: Mapping) -> Self {
        Self { mapping }
    }

    handle_calls!();

    /// One load of exactly `R`'s width.
    ///
    /// # Errors
    ///
    /// EINVAL if it does not lie inside the map, or `offset` is no multiple of the width; a fault
    /// if the device refuses it.
    pub fn load<R: Register>(&self, offset: usize) -> Result<R> {
        let range = self.register::<R>("load", offset)?;
        let from = self.mapping.start().wrapping_add(offset);
        // SAFETY: `register` installed the handler and checked the alignment; the region is a
        // device's, to which this handle gives no references.
        unsafe { sys::copy::load(from, Width::of::<R>(), self.mapping.region.addresses()) }
            .map(R::from_word)
            .map_err(|trap| self.mapping.fault("load", trap, range))
    }

    /// One store of exactly `R`'s width.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn store<R: Register>(&self, offset: usize, value: R) -> Result<()> {
        let range = self.register::<R>("store", offset)?;
        let to = self.mapping.start().wrapping_add(offset);
        // SAFETY: as for `load`.
        unsafe {
            sys::copy::store(to, Width::of::<R>(), value.to_word(), self.mapping.region.addresses())
        }
        .map_err(|trap| self.mapping.fault("store", trap, range))
    }

    fn register<R: Register>(
        &self,
        call: &'static str,
        offset: usize,
    ) -> Result<std::ops::Range<usize>> {
        let width = size_of::<R>();
        let range = self.mapping.bytes(call, offset, width)?;
        if !(self.mapping.lead + offset).is_multiple_of(width) {
            return Err(Error::rule(
                call,
                self.mapping
                    .region
                    .subject(0..self.mapping.region.len())
                    .with_detail(format!("offset {offset}")),
                format!("a register of {width} bytes lies at a multiple of {width}"),
                format!("use {} or {}", offset - offset % width, offset.next_multiple_of(width)),
            ));
        }
        Ok(range)
    }

    /// Copies a block out.
    ///
    /// # Errors
    ///
    /// EINVAL for bytes outside the map; a fault if the device refuses an access.
    pub fn read_at(&self, buffer: &mut [u8], offset: usize) -> Result<()> {
        self.mapping.read_at("read_at", buffer, offset)
    }

    /// Copies a block in: draws into a frame buffer, say.
    ///
    /// # Errors
    ///
    /// As [`read_at`](Self::read_at).
    pub fn write_at(&self, bytes: &[u8], offset: usize) -> Result<()> {
        self.mapping.write_at("write_at", bytes, offset)
    }

    /// Which pages are in memory, if the kernel tells this process: most drivers' pages have no
    /// such state.
    ///
    /// # Errors
    ///
    /// EINVAL for a range outside the map.
    pub fn residency(&self, range: impl RangeBounds<usize>) -> Result<Residency> {
        self.mapping.residency(range)
    }

    /// Gives up the handle for the region.
    pub fn into_region(self) -> Region {
        self.mapping.region
    }
}

impl From<Device> for Region {
    fn from(device: Device) -> Self {
        device.into_region()
    }
}

mod sealed {
    pub trait SealedRegister {
        #[doc(hidden)]
        fn from_word(word: u64) -> Self;
        #[doc(hidden)]
        fn to_word(self) -> u64;
    }
}

/// The widths of a single access: u8, u16, u32, u64.
pub trait Register: sealed::SealedRegister + Copy {}

macro_rules! registers {
    ($($type:ident)*) => {$(
        impl sealed::SealedRegister for $type {
            fn from_word(word: u64) -> Self {
                word as Self
            }

            fn to_word(self) -> u64 {
                self.into()
            }
        }

        impl Register for $type {}
    )*};
}

registers! { u8 u16 u32 u64 }
