//! The calls that every handle has, written once. Ranges are in bytes of the handle.

/// Calls for a handle with a field `mapping: Mapping`. They round ranges outwards to whole pages,
/// within the map. A map without bytes remembers what is set, and has it when it gets bytes.
macro_rules! handle_calls {
    () => {
        /// Bytes in the map.
        #[inline]
        pub fn len(&self) -> usize {
            self.mapping.len
        }

        /// Whether there are none.
        #[inline]
        pub fn is_empty(&self) -> bool {
            self.mapping.len == 0
        }

        /// The first byte. Valid for as long as the map exists. The allowed accesses depend on the
        /// others that can change the bytes.
        #[inline]
        pub fn as_ptr(&self) -> *const u8 {
            self.mapping.start()
        }

        /// The size of the map's pages.
        pub fn page_size(&self) -> $crate::PageSize {
            self.mapping.region.page_size()
        }

        /// Gives advice; see [`Region::advise`](crate::Region::advise). A map without bytes
        /// remembers advice that stays with its pages, as it does locks, the name and
        /// [`set_fork`](Self::set_fork), and has it when it gets bytes: an error comes then.
        ///
        /// # Errors
        ///
        /// As there.
        pub fn advise(
            &self,
            range: impl std::ops::RangeBounds<usize>,
            advice: $crate::Advice,
        ) -> $crate::Result<()> {
            self.mapping.advise((range.start_bound().cloned(), range.end_bound().cloned()), advice)
        }

        /// Keeps pages in memory; see [`Region::lock`](crate::Region::lock).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn lock(&self, range: impl std::ops::RangeBounds<usize>) -> $crate::Result<()> {
            self.mapping.lock((range.start_bound().cloned(), range.end_bound().cloned()), false)
        }

        /// Keeps pages in memory from their first touch on; see
        /// [`Region::lock_on_fault`](crate::Region::lock_on_fault).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn lock_on_fault(
            &self,
            range: impl std::ops::RangeBounds<usize>,
        ) -> $crate::Result<()> {
            self.mapping.lock((range.start_bound().cloned(), range.end_bound().cloned()), true)
        }

        /// Undoes the two above; see [`Region::unlock`](crate::Region::unlock).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn unlock(&self, range: impl std::ops::RangeBounds<usize>) -> $crate::Result<()> {
            self.mapping.unlock((range.start_bound().cloned(), range.end_bound().cloned()))
        }

        /// Faults pages in, `step` bytes (rounded up to whole pages) at a time, and reports a page
        /// that cannot be supplied. `progress` is told the bytes done and the bytes in all, both in
        /// whole pages, and returns whether to go on. Returns the bytes that were populated; see
        /// [`Region::populate`](crate::Region::populate).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn populate(
            &self,
            range: impl std::ops::RangeBounds<usize>,
            how: $crate::Populate,
            step: usize,
            progress: impl FnMut(usize, usize) -> std::ops::ControlFlow<()>,
        ) -> $crate::Result<usize> {
            self.mapping.region.populate(
                self.mapping.shift("populate", range)?,
                how,
                step,
                progress,
            )
        }

        /// Names the map's area, where the kernel has names; see
        /// [`Region::name_area`](crate::Region::name_area).
        ///
        /// # Errors
        ///
        /// As there.
        pub fn name_area(&self, name: &str) -> $crate::Result<bool> {
            self.mapping.name_area(name)
        }

        /// Sets what forked children get of the map; see [`Fork`](crate::Fork).
        ///
        /// # Errors
        ///
        /// EINVAL for [`Fork::Wiped`](crate::Fork::Wiped) on anything but private anonymous memory.
        pub fn set_fork(&mut self, fork: $crate::Fork) -> $crate::Result<()> {
            self.mapping.set_fork(fork)
        }

        /// Seals the map for the life of the process: it can never be unmapped; see
        /// [`Region::seal`](crate::Region::seal).
        ///
        /// # Errors
        ///
        /// With the map: ENOSYS before Linux 6.10.
        pub fn seal(mut self) -> $crate::Result<&'static Self, $crate::ConversionError<Self>> {
            match self.mapping.region.seal_in_place() {
                Ok(()) => Ok(Box::leak(Box::new(self))),
                Err(error) => Err($crate::ConversionError::new(self, error)),
            }
        }

        /// Unmaps it, and says if that failed; dropping it does the same and says nothing.
        ///
        /// # Errors
        ///
        /// ENOMEM at `vm.max_map_count`, EPERM for sealed memory.
        pub fn unmap(self) -> $crate::Result<()> {
            Ok(self.into_region().unmap()?)
        }
    };
}

/// Typed access over `read_at_as`.
macro_rules! typed_reads {
    () => {
        /// The value whose bytes start at `offset`, of any type that every bit pattern is valid
        /// for. It need not be aligned. If someone is writing it just now, it may show bytes of two
        /// moments.
        ///
        /// # Errors
        ///
        /// As for `read_at`.
        pub fn read<T: zerocopy::FromBytes>(&self, offset: usize) -> $crate::Result<T> {
            $crate::access::read_value(|bytes| self.read_at_as("read", bytes, offset))
        }

        /// Copies a range out into a vector.
        ///
        /// # Errors
        ///
        /// As for `read_at`; ENOMEM if the program's allocator, or the machine, has no room for so
        /// many bytes.
        pub fn read_vec(
            &self,
            range: impl std::ops::RangeBounds<usize>,
        ) -> $crate::Result<Vec<u8>> {
            let range = self.mapping.shift("read_vec", range)?;
            let mut bytes = $crate::access::zeroed_vec("read_vec", range.clone())?;
            self.read_at_as("read_vec", &mut bytes, range.start - self.mapping.lead)?;
            Ok(bytes)
        }

        /// The bytes from the start to the end as a stream, read by checked copies.
        pub fn reader(&self) -> $crate::Reader<'_> {
            $crate::Reader::new(self.len(), |buffer, offset| {
                self.read_at_as("reader", buffer, offset)
            })
        }
    };
}

/// Typed access over `write_at_as`.
macro_rules! typed_writes {
    () => {
        /// Stores a value's bytes at `offset`, which need not be aligned. A reader at the same time
        /// may see bytes of two moments.
        ///
        /// # Errors
        ///
        /// As for `write_at`.
        pub fn write<T: zerocopy::IntoBytes + zerocopy::Immutable>(
            &self,
            offset: usize,
            value: &T,
        ) -> $crate::Result<()> {
            self.write_at_as("write", value.as_bytes(), offset)
        }
    };
}

pub(crate) use {handle_calls, typed_reads, typed_writes};
