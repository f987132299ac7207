//! Operations that the kernel does VMA by VMA can fail half way, at the limit of VMAs: folio then
//! undoes the first half.

use crate::common::{child_succeeds, disk_dir, file_with, page, pattern, skip};
use folio::{
    Advice, Anon, Errno, FileMapMut, MapFlags, MapOptions, Prot, Region, Reservation, raw,
};
use std::ptr::null_mut;

/// Splits one map until the process has as many areas as it may: in children only.
pub(crate) fn fill_areas() {
    let limit = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
    // SAFETY: no FIXED.
    let base =
        unsafe { raw::mmap(null_mut(), (limit + 16) * page(), Prot::NONE, flags, -1, 0) }.unwrap();
    let full = (1..limit + 16).step_by(2).any(|index| {
        // SAFETY: a page of the map that was just made and that nobody uses.
        unsafe { raw::mprotect(base.wrapping_add(index * page()), page(), Prot::READ) }.is_err()
    });
    assert!(full, "the limit is reached");
}

/// Four pages in two areas, of which the second reaches on over the neighbour's pages.
fn halves() -> (Region, Region) {
    let mut region = MapOptions::new().region(8 * page(), Prot::READ_WRITE).unwrap();
    region.write_at(&pattern(4), 0).unwrap();
    let neighbour = region.split_off(4 * page()).unwrap();
    region.advise(..2 * page(), Advice::Random).unwrap();
    (region, neighbour)
}

fn all(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Four pages of a file, in two areas likewise.
fn file_halves(reservation: &Reservation) -> (FileMapMut, FileMapMut) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(8));
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let part = |first: usize| {
        let options = MapOptions::new().within(reservation, first * page());
        options.offset((first * page()) as u64).len(4 * page()).map_mut(&file).unwrap()
    };
    let (map, neighbour) = (part(0), part(4));
    map.advise(..2 * page(), Advice::Random).unwrap();
    (map, neighbour)
}

#[test]
fn protect_that_fails_half_way_changes_no_page() {
    child_succeeds(|| {
        let (mut region, _neighbour) = halves();
        fill_areas();
        let error = region.protect(.., Prot::NONE).unwrap_err();
        assert_eq!(error.errno(), Errno::NOMEM, "{error}");
        assert_eq!(all(&region), pattern(4));
        region.write_at(&[1], 0).unwrap();
    });
}

#[test]
fn protect_that_fails_half_way_restores_each_part_as_it_was() {
    child_succeeds(|| {
        let (mut region, _neighbour) = halves();
        region.protect(..page(), Prot::READ).unwrap();
        // Areas that stay apart when all have one protection.
        region.advise(..page(), Advice::Sequential).unwrap();
        fill_areas();
        region.protect(.., Prot::NONE).unwrap_err();
        assert_eq!(all(&region), pattern(4));
        region.write_at(&[1], 0).unwrap_err();
        region.write_at(&[1], page()).unwrap();
    });
}

#[test]
fn protection_is_known_after_splitting_merging_and_resizing() {
    child_succeeds(|| {
        let (mut region, _neighbour) = halves();
        region.protect(..page(), Prot::READ).unwrap();
        // Areas that stay apart when all have one protection.
        region.advise(..page(), Advice::Sequential).unwrap();
        let rest = region.split_off(page()).unwrap();
        region.merge(rest).unwrap();
        fill_areas();
        region.protect(.., Prot::NONE).unwrap_err();
        region.write_at(&[1], 0).unwrap_err();
        region.write_at(&[1], page()).unwrap();
        assert_eq!(all(&region)[2 * page()..], pattern(4)[2 * page()..]);
    });
}

#[test]
fn plain_memory_that_comes_back_from_protect_has_its_slices() {
    child_succeeds(|| {
        let (region, _neighbour) = halves();
        // SAFETY: private anonymous memory, readable and writable, and nothing else refers to it.
        let anon = unsafe { Anon::from_region(region) }.unwrap();
        fill_areas();
        let mut anon = anon.protect(Prot::NONE).unwrap_err().map;
        assert_eq!(anon[..], pattern(4));
        anon[0] = 1;
    });
}

#[test]
fn a_map_that_comes_back_from_into_read_only_takes_stores() {
    child_succeeds(|| {
        let reservation = Reservation::new(8 * page()).unwrap();
        let (map, _neighbour) = file_halves(&reservation);
        fill_areas();
        let refused = map.into_read_only().unwrap_err();
        assert_eq!(refused.error.errno(), Errno::NOMEM, "{}", refused.error);
        refused.map.write_at(&[1], 0).unwrap();
    });
}

#[test]
fn a_map_that_may_be_sealed_in_part_has_no_guards() {
    child_succeeds(|| {
        let reservation = Reservation::new(8 * page()).unwrap();
        let (map, _neighbour) = file_halves(&reservation);
        fill_areas();
        let refused = map.seal().unwrap_err();
        if refused.error.errno() == Errno::NOSYS {
            return skip("mseal came with Linux 6.10");
        }
        assert_eq!(refused.error.errno(), Errno::NOMEM, "{}", refused.error);
        let error = refused.map.guard(|view| view.get(0)).unwrap_err();
        assert_eq!(error.errno(), Errno::PERM, "{error}");
        assert_eq!(refused.map.read_vec(..).unwrap(), pattern(4));
    });
}
