//! Which options go together, and with which kind of map. A request that can be refused before the
//! kernel is asked is refused here, with the broken rule.

use super::MapOptions;
use crate::error::{Errno, Error, Result, Subject};
use crate::flags::MapFlags;
use crate::region::{Fork, Placement};

/// The flags that no other option names and that break no promise of a handle.
pub(super) const FREE_FLAGS: MapFlags = MapFlags::NORESERVE
    .union(MapFlags::STACK)
    .union(MapFlags::POPULATE)
    .union(MapFlags::NONBLOCK)
    .union(MapFlags::LOCKED)
    .union(MapFlags::DENYWRITE)
    .union(MapFlags::EXECUTABLE)
    .union(MapFlags::FILE)
    .union(MapFlags::BITS_32)
    .union(MapFlags::UNINITIALIZED)
    .union(MapFlags::SYNC)
    .union(MapFlags::SHARED_VALIDATE);

/// The kind of map that an option was given for, to name it in an error.
pub(super) type MapKind = &'static str;

/// Sealed memory can have huge pages, since nobody can punch holes into it; and the raw door has no
/// such rule.
pub(super) const NO_HUGE_SHARED: &str = "shared memory has no huge pages: who shares it could punch a hole, and an empty \
                                         pool would then be a signal";

impl MapOptions {
    /// The rules that hold for every kind of map.
    pub(super) fn check(&self, kind: MapKind, allowed: MapFlags) -> Result<()> {
        let refused = self.flags.difference(allowed);
        let other_name = [
            (
                MapFlags::SHARED | MapFlags::PRIVATE | MapFlags::ANONYMOUS,
                "who shares it follows from the kind of map",
            ),
            (
                MapFlags::FIXED | MapFlags::FIXED_NOREPLACE,
                "a place is asked for with `at` or `within`",
            ),
            (
                MapFlags::GROWSDOWN,
                "it grows below its region: only the raw door (raw::mmap) has it",
            ),
            (MapFlags::HUGETLB, "huge pages are asked for with `huge_pages`"),
        ];
        // SHARED_VALIDATE is two bits that mean one thing; each alone is another flag.
        let both = MapFlags::SHARED_VALIDATE;
        let validate = self.flags.contains(both) && allowed.contains(both);
        let named = if validate { self.flags.difference(both) } else { self.flags };
        for (flags, rule) in other_name {
            self.forbid(named.intersects(flags), kind, rule)?;
        }
        self.forbid(
            refused.contains(MapFlags::DROPPABLE),
            kind,
            "memory that vanishes is asked for with `droppable`",
        )?;
        self.forbid(
            refused.contains(MapFlags::SYNC),
            kind,
            "SYNC needs a shared map of a file on a DAX device",
        )?;
        self.forbid(!refused.is_empty(), kind, "the flag is not one that this kind of map takes")?;
        self.forbid(
            self.flags.contains(MapFlags::NONBLOCK) && !self.flags.contains(MapFlags::POPULATE),
            kind,
            "NONBLOCK means something beside POPULATE only",
        )?;
        self.forbid(
            self.flags.contains(MapFlags::UNINITIALIZED) && self.huge.is_some(),
            kind,
            "the bit of UNINITIALIZED is one of the huge page's size",
        )?;
        self.forbid(
            self.flags.contains(MapFlags::NORESERVE) && self.huge.is_some(),
            kind,
            "huge pages are promised when the map is made; without that (NORESERVE) a store could find the pool empty",
        )?;
        self.forbid(
            self.fork == Fork::Wiped
                && !matches!(kind, "anonymous memory" | "a region" | "droppable memory"),
            kind,
            "only private anonymous memory can be wiped on fork",
        )?;
        let bits_32 = self.flags.contains(MapFlags::BITS_32) && !MapFlags::BITS_32.is_empty();
        self.forbid(
            bits_32 && !matches!(self.place, Placement::Anywhere | Placement::Hint(_)),
            kind,
            "BITS_32 is ignored by the kernel where the place is given",
        )?;
        self.forbid(
            bits_32 && (self.capacity.is_some() || self.guard_pages),
            kind,
            "BITS_32 is ignored by the kernel inside a reservation",
        )
    }

    pub(super) fn forbid_reserve_without_commit(&self, kind: MapKind) -> Result<()> {
        let both = self.reserve == Some(true) && self.flags.contains(MapFlags::NORESERVE);
        self.forbid(both, kind, "reserve and NORESERVE exclude each other")
    }

    pub(super) fn forbid_huge_shared(&self) -> Result<()> {
        self.forbid(self.huge.is_some(), "shared memory", NO_HUGE_SHARED)
    }

    pub(super) fn forbid_file_range(&self, kind: MapKind) -> Result<()> {
        self.forbid(self.offset != 0, kind, "an offset is for files and devices")?;
        self.forbid(self.length.is_some(), kind, "the length is the method's argument")
    }

    pub(super) fn forbid_anonymous_shape(&self, kind: MapKind) -> Result<()> {
        self.forbid(self.capacity.is_some(), kind, "capacity is for anonymous memory")?;
        self.forbid(
            self.guard_pages,
            kind,
            "guard pages are for anonymous memory; place a file in a Reservation",
        )
    }

    pub(super) fn forbid_sealed_options(&self) -> Result<()> {
        let kind = "sealed memory";
        self.forbid(
            self.reserve == Some(false),
            kind,
            "its space is reserved, since its slices must not fault",
        )?;
        self.forbid_anonymous_shape(kind)
    }

    pub(super) fn forbid(&self, broken: bool, kind: MapKind, rule: &'static str) -> Result<()> {
        if !broken {
            return Ok(());
        }
        let mut subject = Subject::named(kind);
        subject.flags = (!self.flags.is_empty()).then_some(self.flags);
        Err(Error::rule("map", subject, rule, "leave the option out"))
    }
}

pub(super) fn too_long(kind: MapKind, length: usize) -> Error {
    let subject = Subject::named(kind).with_length(length);
    Error::rule_as(
        Errno::OVERFLOW,
        "map",
        subject,
        "offset and length pass the end of what can be counted",
        "ask for less",
    )
}
