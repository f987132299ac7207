//! Every operation of `Region`, on the real kernel.

use crate::common::{
    End, become_nobody, child_succeeds, disk_dir, file_with, in_child, is_root, memory_dir, page,
    pattern, skip,
};
use folio::{
    Advice, Anon, CacheStat, Discard, Errno, Error, FaultCause, FileMap, FileMapMut,
    FileMapPrivate, MapOptions, PageSize, Populate, Prot, Region, Reservation, Residency, Resize,
    SharedMem, UncheckedAdvice, WriteBack, raw,
};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

/// One area of `/proc/self/smaps`.
#[derive(Debug)]
pub(crate) struct Area {
    pub(crate) range: Range<usize>,
    /// As the kernel writes it: `rw-p`.
    pub(crate) rights: String,
    /// The two-letter names of `VmFlags`.
    pub(crate) flags: Vec<String>,
    /// The fields that count memory, in KiB.
    pub(crate) kib: HashMap<String, usize>,
}

impl Area {
    /// Whether `VmFlags` has this name.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }
}

/// The area that holds `address`, as the kernel describes it.
pub(crate) fn area_at(address: *const u8) -> Area {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mut found: Option<Area> = None;
    for line in text.lines() {
        let head = line.split_once(' ').and_then(|(addresses, _)| addresses.split_once('-'));
        if let Some((start, end)) = head {
            if found.is_some() {
                break;
            }
            let number = |text: &str| usize::from_str_radix(text, 16).unwrap_or(0);
            let range = number(start)..number(end);
            if range.contains(&(address as usize)) {
                let rights = line.split(' ').nth(1).unwrap().to_owned();
                found = Some(Area { range, rights, flags: Vec::new(), kib: HashMap::new() });
            }
        } else if let (Some(area), Some((field, value))) = (&mut found, line.split_once(':')) {
            if field == "VmFlags" {
                area.flags = value.split_whitespace().map(str::to_owned).collect();
            } else if let Some(kib) = value.trim().strip_suffix(" kB") {
                area.kib.insert(field.to_owned(), kib.trim().parse().unwrap());
            }
        }
    }
    found.unwrap_or_else(|| panic!("nothing is mapped at {address:p}"))
}

/// Whether the page at `address` is mapped: msync(2) says ENOMEM where nothing is.
pub(crate) fn is_mapped(address: *mut u8) -> bool {
    raw::msync(address, page(), libc::MS_ASYNC).is_ok()
}

/// Whether the running kernel is at least this one.
pub(crate) fn kernel_since(major: u32, minor: u32) -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split(['.', '-', '\n']).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (major, minor)
}

/// Whether folio refused this itself, with `words` in the rule, and no call was made.
#[track_caller]
pub(crate) fn refused_by_rule<T>(result: folio::Result<T>, errno: Errno, words: &str) -> Error {
    let error = result.err().expect("the call should have been refused");
    let refusal = error.call_error().unwrap_or_else(|| panic!("a refusal, not {error}"));
    assert!(!refusal.by_kernel(), "the kernel was asked: {error}");
    assert!(refusal.rule().contains(words), "the rule does not say `{words}`: {error}");
    assert_eq!(error.errno(), errno, "{error}");
    error
}

/// Whether the kernel refused this, with this errno.
#[track_caller]
pub(crate) fn refused_by_kernel<T>(result: folio::Result<T>, errno: Errno) -> Error {
    let error = result.err().expect("the kernel should have refused the call");
    let refusal = error.call_error().unwrap_or_else(|| panic!("a refusal, not {error}"));
    assert!(refusal.by_kernel(), "folio refused it first: {error}");
    assert_eq!(error.errno(), errno, "{error}");
    error
}

/// Whether an access faulted over these bytes, for this cause.
#[track_caller]
pub(crate) fn faulted(result: folio::Result<()>, range: Range<usize>, cause: FaultCause) {
    let error = result.expect_err("the access should have faulted");
    let fault = error.fault().unwrap_or_else(|| panic!("a fault, not {error}"));
    assert_eq!((fault.range(), fault.cause()), (range, cause), "{error}");
}

/// Private anonymous memory whose pages are filled with 1, 2, 3 …
fn numbered(pages: usize) -> Region {
    let region = MapOptions::new().region(pages * page(), Prot::READ_WRITE).unwrap();
    for number in 0..pages {
        region.write_at(&vec![number as u8 + 1; page()], number * page()).unwrap();
    }
    region
}

fn bytes(region: &Region) -> Vec<u8> {
    let mut bytes = vec![0; region.len()];
    region.read_at(&mut bytes, 0).unwrap();
    bytes
}

#[track_caller]
fn byte(region: &Region, offset: usize) -> u8 {
    let mut byte = [0];
    region.read_at(&mut byte, offset).unwrap();
    byte[0]
}

/// Whether every byte of page `number` is `value`.
#[track_caller]
fn holds(region: &Region, number: usize, value: u8) {
    let mut bytes = vec![0; page()];
    region.read_at(&mut bytes, number * page()).unwrap();
    assert!(bytes.iter().all(|&byte| byte == value), "page {number} is not all {value}");
}

/// Addresses that are free, in a child where no other thread maps anything: `pages` of them.
fn free_addresses(pages: usize) -> usize {
    numbered(pages).as_ptr() as usize
}

fn plain() -> MapOptions {
    MapOptions::new()
}

// Placing.

#[test]
fn a_hint_is_taken_where_it_is_free() {
    child_succeeds(|| {
        let free = free_addresses(4);
        let region = plain().hint(free).region(page(), Prot::READ_WRITE).unwrap();
        assert_eq!(region.as_ptr() as usize, free);
    });
}

#[test]
fn a_hint_that_is_taken_goes_elsewhere_and_replaces_nothing() {
    let there = numbered(2);
    let region =
        plain().hint(there.as_ptr() as usize).region(2 * page(), Prot::READ_WRITE).unwrap();
    assert_ne!(region.as_ptr(), there.as_ptr());
    region.write_at(&[9], 0).unwrap();
    assert_eq!((byte(&there, 0), byte(&there, page())), (1, 2));
}

#[test]
fn a_free_address_is_taken_exactly() {
    child_succeeds(|| {
        let free = free_addresses(4);
        let region = plain().at(free + page()).region(page(), Prot::READ_WRITE).unwrap();
        assert_eq!(region.as_ptr() as usize, free + page());
    });
}

#[test]
fn an_address_that_is_taken_is_refused_and_its_neighbours_are_untouched() {
    let there = numbered(3);
    let middle = there.as_ptr() as usize + page();
    let error = refused_by_kernel(
        plain().at(middle).region(page(), Prot::READ_WRITE).map(drop),
        Errno::EXIST,
    );
    assert!(error.to_string().contains("mapped in the range already"), "{error}");
    assert_eq!(bytes(&there), bytes(&numbered(3)));
}

#[test]
fn an_address_whose_last_page_is_taken_is_refused_whole() {
    child_succeeds(|| {
        let mut low = numbered(2);
        let high = low.split_off(page()).unwrap();
        let start = low.as_ptr();
        low.unmap().unwrap();
        let place = plain().at(start as usize);
        refused_by_kernel(place.region(2 * page(), Prot::READ_WRITE).map(drop), Errno::EXIST);
        assert!(!is_mapped(start), "a part was mapped");
        holds(&high, 0, 2);
    });
}

#[test]
fn an_address_that_is_no_page_multiple_names_the_nearest() {
    let there = numbered(1);
    let address = there.as_ptr() as usize + 100;
    let error =
        refused_by_kernel(plain().at(address).region(page(), Prot::READ).map(drop), Errno::INVAL);
    let text = error.to_string();
    assert!(text.contains(&format!("{:#x}", address - 100)), "{text}");
    assert!(text.contains(&format!("{:#x}", address - 100 + page())), "{text}");
}

// Unmapping.

#[test]
fn unmap_gives_the_whole_range_back() {
    child_succeeds(|| {
        let region = numbered(3);
        let start = region.as_ptr();
        region.unmap().unwrap();
        for number in 0..3 {
            assert!(
                !is_mapped(start.wrapping_add(number * page())),
                "page {number} is still mapped"
            );
        }
    });
}

#[test]
fn drop_gives_the_whole_range_back() {
    child_succeeds(|| {
        let region = numbered(3);
        let start = region.as_ptr();
        drop(region);
        for number in 0..3 {
            assert!(
                !is_mapped(start.wrapping_add(number * page())),
                "page {number} is still mapped"
            );
        }
    });
}

#[test]
fn unmap_that_fails_gives_the_region_back() {
    if !kernel_since(6, 10) {
        return skip("mseal came with Linux 6.10");
    }
    child_succeeds(|| {
        let region = numbered(3);
        // Sealed behind folio's back: only the kernel knows.
        // SAFETY: sealing changes no byte.
        let sealed = unsafe { libc::syscall(462, region.as_ptr(), region.len(), 0_usize) };
        assert_eq!(sealed, 0);
        let refused = region.unmap().unwrap_err();
        assert_eq!(refused.error.errno(), Errno::PERM);
        assert_eq!(bytes(&refused.map), bytes(&numbered(3)));
    });
}

#[test]
fn unmap_range_leaves_a_hole_and_the_rest_where_it_was() {
    let mut region = numbered(5);
    region.unmap_range(page()..3 * page()).unwrap();
    assert_eq!(region.len(), 5 * page());
    assert_eq!(region.mapped().collect::<Vec<_>>(), [0..page(), 3 * page()..5 * page()]);
    holds(&region, 0, 1);
    holds(&region, 3, 4);
    holds(&region, 4, 5);
}

#[test]
fn a_hole_is_unmapped_in_the_kernel() {
    child_succeeds(|| {
        let mut region = numbered(3);
        region.unmap_range(page()..2 * page()).unwrap();
        let mapped = |number| is_mapped(region.as_ptr().wrapping_add(number * page()));
        assert_eq!([mapped(0), mapped(1), mapped(2)], [true, false, true]);
    });
}

#[test]
fn another_map_can_take_a_hole_and_dropping_the_region_leaves_it() {
    child_succeeds(|| {
        let mut region = numbered(5);
        region.unmap_range(page()..3 * page()).unwrap();
        let start = region.as_ptr();
        let hole = start as usize + page();
        let other = plain().at(hole).region(2 * page(), Prot::READ_WRITE).unwrap();
        other.write_at(&[7], 0).unwrap();
        other.write_at(&[8], 2 * page() - 1).unwrap();
        // Through the region the hole stays one.
        refused_by_rule(region.read_at(&mut [0], page()), Errno::NOMEM, "were unmapped");
        drop(region);
        assert!(!is_mapped(start), "the region's own part is still there");
        assert!(!is_mapped(start.wrapping_add(3 * page())), "the region's own part is still there");
        assert_eq!((byte(&other, 0), byte(&other, 2 * page() - 1)), (7, 8));
    });
}

#[test]
fn unmapping_over_a_hole_leaves_the_maps_in_it() {
    child_succeeds(|| {
        let mut region = numbered(3);
        region.unmap_range(page()..2 * page()).unwrap();
        let hole = region.as_ptr() as usize + page();
        let other = plain().at(hole).region(page(), Prot::READ_WRITE).unwrap();
        other.write_at(&[7], 0).unwrap();
        region.unmap_range(..).unwrap();
        assert_eq!(region.mapped().count(), 0);
        drop(region);
        assert_eq!(byte(&other, 0), 7);
    });
}

#[test]
fn holes_that_touch_become_one() {
    let mut region = numbered(4);
    region.unmap_range(page()..2 * page()).unwrap();
    region.unmap_range(2 * page()..3 * page()).unwrap();
    assert_eq!(region.mapped().collect::<Vec<_>>(), [0..page(), 3 * page()..4 * page()]);
    region.unmap_range(..2 * page()).unwrap();
    assert_eq!(region.mapped().collect::<Vec<_>>(), vec![3 * page()..4 * page()]);
    holds(&region, 3, 4);
}

#[test]
fn every_operation_through_a_hole_is_an_error() {
    let mut region = numbered(4);
    region.unmap_range(page()..2 * page()).unwrap();
    let through = [page()..2 * page(), 0..4 * page(), 0..page() + 1, 2 * page() - 1..4 * page()];
    for range in through {
        let gone = |result: folio::Result<()>| {
            refused_by_rule(result, Errno::NOMEM, "were unmapped");
        };
        gone(region.read_at(&mut vec![0; range.len()], range.start));
        gone(region.write_at(&vec![0; range.len()], range.start));
        gone(region.sync(range.clone(), WriteBack::Wait));
        gone(region.advise(range.clone(), Advice::Normal));
        gone(region.lock(range.clone()));
        gone(region.lock_on_fault(range.clone()));
        gone(region.unlock(range.clone()));
        let go_on = |_, _| ControlFlow::Continue(());
        gone(region.populate(range.clone(), Populate::Write, page(), go_on).map(drop));
    }
    for range in [page()..2 * page(), 0..4 * page(), 0..2 * page()] {
        let gone = |result: folio::Result<()>| {
            refused_by_rule(result, Errno::NOMEM, "were unmapped");
        };
        gone(region.protect(range.clone(), Prot::NONE));
        gone(region.discard(range.clone(), Discard::DontNeed));
        // SAFETY: nothing refers to the bytes.
        gone(unsafe { region.advise_unchecked(range.clone(), UncheckedAdvice::Free) });
    }
    refused_by_rule(region.resize(8 * page(), Resize::MayMove), Errno::INVAL, "one whole");
    refused_by_rule(region.set_fork(folio::Fork::Absent), Errno::NOMEM, "were unmapped");
    let region = region.seal().map(drop).unwrap_err().map;
    let region = region.into_raw_parts().map(drop).unwrap_err().map;
    // None of them changed the parts beside the hole.
    holds(&region, 0, 1);
    holds(&region, 2, 3);
    holds(&region, 3, 4);
    region.write_at(&[9], 0).unwrap();
}

#[test]
fn operations_beside_a_hole_work() {
    let mut region = numbered(3);
    region.unmap_range(page()..2 * page()).unwrap();
    region.lock(..page()).unwrap();
    region.unlock(..page()).unwrap();
    region.sync(2 * page().., WriteBack::Wait).unwrap();
    region.protect(2 * page().., Prot::READ).unwrap();
    holds(&region, 2, 3);
    region.discard(..page(), Discard::DontNeed).unwrap();
    holds(&region, 0, 0);
}

#[test]
fn unmap_range_takes_whole_pages_only_and_names_the_nearest() {
    let mut region = numbered(4);
    let wanted = 100..3 * page() + 1;
    let error = refused_by_rule(region.unmap_range(wanted), Errno::INVAL, "whole pages");
    let text = error.to_string();
    assert!(text.contains(&format!("{:?} (outside)", 0..4 * page())), "{text}");
    assert!(text.contains(&format!("{:?} (inside)", page()..3 * page())), "{text}");
    let error = refused_by_rule(region.unmap_range(100..200), Errno::INVAL, "whole pages");
    assert!(error.to_string().contains(&format!("the nearest is 0..{}", page())), "{error}");
    assert_eq!(bytes(&region), bytes(&numbered(4)));
}

#[test]
fn ranges_outside_the_region_are_refused() {
    let mut region = numbered(2);
    let past = 2 * page() + 1;
    for range in [0..past, past..past, 2 * page()..past, page()..0, 0..usize::MAX] {
        let outside = |result: folio::Result<()>| {
            refused_by_rule(result, Errno::INVAL, "inside the map");
        };
        outside(region.unmap_range(range.clone()));
        outside(region.protect(range.clone(), Prot::NONE));
        outside(region.discard(range.clone(), Discard::DontNeed));
        outside(region.advise(range.clone(), Advice::Normal));
        outside(region.lock(range.clone()));
        outside(region.sync(range.clone(), WriteBack::Wait));
    }
    for (offset, count) in [(0, past), (past, 0), (2 * page(), 1), (usize::MAX, 2)] {
        refused_by_rule(
            region.read_at(&mut vec![0; count], offset),
            Errno::INVAL,
            "inside the map",
        );
        refused_by_rule(region.write_at(&vec![0; count], offset), Errno::INVAL, "inside the map");
    }
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

// Splitting and merging.

#[test]
fn split_off_makes_two_regions_of_the_same_memory() {
    let mut low = numbered(3);
    let start = low.as_ptr();
    let high = low.split_off(page()).unwrap();
    assert_eq!((low.len(), high.len()), (page(), 2 * page()));
    assert_eq!((low.as_ptr(), high.as_ptr()), (start, start.wrapping_add(page())));
    holds(&low, 0, 1);
    holds(&high, 0, 2);
    holds(&high, 1, 3);
    refused_by_rule(low.read_at(&mut [0], page()), Errno::INVAL, "inside the map");
}

#[test]
fn dropping_one_part_of_a_split_leaves_the_other() {
    child_succeeds(|| {
        let mut low = numbered(3);
        let mut middle = low.split_off(page()).unwrap();
        let high = middle.split_off(page()).unwrap();
        let address = middle.as_ptr();
        drop(middle);
        assert!(!is_mapped(address));
        holds(&low, 0, 1);
        holds(&high, 0, 3);
    });
}

#[test]
fn split_at_either_end_leaves_one_part_empty() {
    let mut region = numbered(2);
    let rest = region.split_off(2 * page()).unwrap();
    assert!(rest.is_empty());
    drop(rest);
    let all = region.split_off(0).unwrap();
    assert!(region.is_empty());
    drop(region);
    assert_eq!(bytes(&all), bytes(&numbered(2)));
}

#[test]
fn split_takes_page_multiples_inside_the_region_only() {
    let mut region = numbered(2);
    let error = refused_by_rule(region.split_off(page() + 5).map(drop), Errno::INVAL, "multiple");
    assert!(error.to_string().contains(&format!("use {} or {}", page(), 2 * page())), "{error}");
    refused_by_rule(region.split_off(3 * page()).map(drop), Errno::INVAL, "inside it");
    refused_by_rule(region.split_off(usize::MAX).map(drop), Errno::INVAL, "inside it");
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

#[test]
fn merge_joins_split_parts() {
    let mut region = numbered(3);
    let high = region.split_off(page()).unwrap();
    region.merge(high).unwrap();
    assert_eq!(bytes(&region), bytes(&numbered(3)));
    // One call reaches across the seam.
    region.protect(.., Prot::READ).unwrap();
    faulted(region.write_at(&[0], page()), page()..page() + 1, FaultCause::Protection);
}

#[test]
fn merge_of_regions_that_do_not_touch_gives_the_second_back() {
    let mut low = numbered(3);
    let mut middle = low.split_off(page()).unwrap();
    let high = middle.split_off(page()).unwrap();
    let refused = low.merge(high).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::INVAL);
    let high = refused.map;
    holds(&high, 0, 3);
    // Nor in the wrong order.
    let mut high = high;
    let middle = high.merge(middle).unwrap_err().map;
    holds(&middle, 0, 2);
    low.merge(middle).unwrap();
    low.merge(high).unwrap();
    assert_eq!(bytes(&low), bytes(&numbered(3)));
}

#[test]
fn neighbours_that_were_mapped_apart_can_be_merged() {
    child_succeeds(|| {
        let free = free_addresses(2);
        let mut low = plain().at(free).region(page(), Prot::READ_WRITE).unwrap();
        let high = plain().at(free + page()).region(page(), Prot::READ).unwrap();
        low.merge(high).unwrap();
        assert_eq!(low.len(), 2 * page());
        drop(low);
        assert!(!is_mapped(free as *mut u8) && !is_mapped((free + page()) as *mut u8));
    });
}

#[test]
fn holes_go_with_the_parts_of_a_split_and_come_back_with_a_merge() {
    let mut region = numbered(6);
    region.unmap_range(page()..2 * page()).unwrap();
    region.unmap_range(4 * page()..5 * page()).unwrap();
    let high = region.split_off(3 * page()).unwrap();
    assert_eq!(region.mapped().collect::<Vec<_>>(), [0..page(), 2 * page()..3 * page()]);
    assert_eq!(high.mapped().collect::<Vec<_>>(), [0..page(), 2 * page()..3 * page()]);
    holds(&high, 0, 4);
    holds(&high, 2, 6);
    region.merge(high).unwrap();
    let parts = [0..page(), 2 * page()..4 * page(), 5 * page()..6 * page()];
    assert_eq!(region.mapped().collect::<Vec<_>>(), parts);
    holds(&region, 5, 6);
}

#[test]
fn a_split_inside_a_hole_gives_each_part_its_share() {
    child_succeeds(|| {
        let mut region = numbered(4);
        region.unmap_range(page()..3 * page()).unwrap();
        let hole = region.as_ptr() as usize + page();
        let mut high = region.split_off(2 * page()).unwrap();
        assert_eq!(region.mapped().collect::<Vec<_>>(), vec![0..page()]);
        assert_eq!(high.mapped().collect::<Vec<_>>(), vec![page()..2 * page()]);
        let other = plain().at(hole).region(2 * page(), Prot::READ_WRITE).unwrap();
        other.write_at(&[7], 0).unwrap();
        other.write_at(&[8], page()).unwrap();
        // Neither part reaches into the hole, whole or dropped.
        high.unmap_range(..).unwrap();
        drop(high);
        drop(region);
        assert_eq!((byte(&other, 0), byte(&other, page())), (7, 8));
    });
}

// Protecting.

#[test]
fn protect_changes_exactly_the_pages_that_are_named() {
    let mut region = numbered(3);
    region.protect(page()..2 * page(), Prot::READ).unwrap();
    let rights = |number: usize| area_at(region.as_ptr().wrapping_add(number * page())).rights;
    assert_eq!([rights(0), rights(1), rights(2)], ["rw-p", "r--p", "rw-p"]);
    region.write_at(&[9], page() - 1).unwrap();
    faulted(region.write_at(&[9; 2], page() - 1), page()..page() + 1, FaultCause::Protection);
    faulted(
        region.write_at(&[9], 2 * page() - 1),
        2 * page() - 1..2 * page(),
        FaultCause::Protection,
    );
    region.write_at(&[9], 2 * page()).unwrap();
    holds(&region, 1, 2);
}

#[test]
fn protect_takes_whole_pages_only_and_names_the_nearest() {
    let mut region = numbered(3);
    let error =
        refused_by_rule(region.protect(10..3 * page(), Prot::NONE), Errno::INVAL, "whole pages");
    let text = error.to_string();
    assert!(text.contains(&format!("{:?} (outside)", 0..3 * page())), "{text}");
    assert!(text.contains(&format!("{:?} (inside)", page()..3 * page())), "{text}");
    assert_eq!(bytes(&region), bytes(&numbered(3)));
}

#[test]
fn a_page_without_access_is_an_error_to_read() {
    let mut region = numbered(3);
    region.protect(page()..2 * page(), Prot::NONE).unwrap();
    let mut all = vec![0; 3 * page()];
    faulted(region.read_at(&mut all, 0), page()..2 * page(), FaultCause::Protection);
    region.protect(.., Prot::READ).unwrap();
    assert_eq!(bytes(&region), bytes(&numbered(3)));
}

#[test]
fn protect_gives_no_right_that_the_file_was_not_opened_with() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let mut region = FileMap::open(&path).unwrap().into_region();
    refused_by_kernel(region.protect(.., Prot::READ_WRITE), Errno::ACCESS);
    faulted(region.write_at(&[0], 0), 0..1, FaultCause::Protection);
}

#[test]
fn protecting_nothing_is_no_error() {
    let mut region = numbered(1);
    region.protect(0..0, Prot::NONE).unwrap();
    holds(&region, 0, 1);
}

// Resizing.

#[test]
fn shrinking_in_place_unmaps_the_tail() {
    child_succeeds(|| {
        let mut region = numbered(4);
        let start = region.as_ptr();
        region.resize(2 * page(), Resize::InPlace).unwrap();
        assert_eq!((region.as_ptr(), region.len()), (start, 2 * page()));
        let mapped = |number| is_mapped(start.wrapping_add(number * page()));
        assert_eq!([mapped(0), mapped(1), mapped(2), mapped(3)], [true, true, false, false]);
        assert_eq!(bytes(&region), bytes(&numbered(2)));
    });
}

#[test]
fn growing_in_place_takes_the_free_addresses_behind() {
    child_succeeds(|| {
        let mut region = numbered(4);
        let start = region.as_ptr();
        drop(region.split_off(2 * page()).unwrap());
        region.resize(4 * page(), Resize::InPlace).unwrap();
        assert_eq!((region.as_ptr(), region.len()), (start, 4 * page()));
        holds(&region, 1, 2);
        holds(&region, 2, 0);
        holds(&region, 3, 0);
    });
}

#[test]
fn growing_in_place_against_a_neighbour_is_an_error_and_changes_nothing() {
    let mut low = numbered(2);
    let high = low.split_off(page()).unwrap();
    let start = low.as_ptr();
    refused_by_kernel(low.resize(2 * page(), Resize::InPlace), Errno::NOMEM);
    assert_eq!((low.as_ptr(), low.len()), (start, page()));
    holds(&low, 0, 1);
    holds(&high, 0, 2);
}

#[test]
fn growing_with_leave_to_move_keeps_the_bytes_and_the_neighbour() {
    let mut low = numbered(3);
    let high = low.split_off(2 * page()).unwrap();
    let start = low.as_ptr();
    low.resize(5 * page(), Resize::MayMove).unwrap();
    assert_ne!(low.as_ptr(), start);
    assert_eq!(low.len(), 5 * page());
    holds(&low, 0, 1);
    holds(&low, 1, 2);
    holds(&low, 4, 0);
    holds(&high, 0, 3);
}

#[test]
fn a_new_length_is_rounded_up_to_whole_pages() {
    let mut region = numbered(3);
    region.resize(page() + 1, Resize::InPlace).unwrap();
    assert_eq!(region.len(), 2 * page());
    holds(&region, 1, 2);
}

#[test]
fn a_grown_file_map_shows_more_of_the_file() {
    let dir = disk_dir();
    let all = pattern(4);
    let path = file_with(dir.path(), &all);
    let mut region =
        plain().len(page()).map(std::fs::File::open(&path).unwrap()).unwrap().into_region();
    region.resize(4 * page(), Resize::MayMove).unwrap();
    assert_eq!(bytes(&region), all);
}

#[test]
fn lengths_that_no_region_has_are_refused() {
    let mut region = numbered(2);
    refused_by_rule(region.resize(0, Resize::InPlace), Errno::INVAL, "zero");
    refused_by_rule(region.resize(usize::MAX, Resize::MayMove), Errno::NOMEM, "that long");
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

#[test]
fn a_region_in_a_reservation_is_not_resized() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut region = plain().within(&reservation, 0).region(page(), Prot::READ_WRITE).unwrap();
    for how in [Resize::InPlace, Resize::MayMove] {
        refused_by_rule(region.resize(2 * page(), how), Errno::INVAL, "lies in a reservation");
    }
    assert_eq!(region.len(), page());
}

// Relocating.

#[test]
fn relocate_moves_the_pages_into_a_reservation() {
    child_succeeds(|| {
        let region = numbered(3);
        let old = region.as_ptr();
        let reservation = Reservation::new(8 * page()).unwrap();
        let region = region.relocate(&reservation, 2 * page()).unwrap();
        assert_eq!(region.as_ptr(), reservation.as_ptr().wrapping_add(2 * page()));
        assert_eq!(bytes(&region), bytes(&numbered(3)));
        assert_eq!(reservation.used(), 3 * page());
        assert!(!is_mapped(old), "the old addresses are still mapped");
        drop(region);
        assert_eq!(reservation.used(), 0);
    });
}

#[test]
fn relocate_from_one_reservation_to_another_frees_the_old_place_for_it_alone() {
    let (from, to) = (Reservation::new(2 * page()).unwrap(), Reservation::new(2 * page()).unwrap());
    let region = plain().within(&from, page()).region(page(), Prot::READ_WRITE).unwrap();
    region.write_at(&[5], 0).unwrap();
    let region = region.relocate(&to, 0).unwrap();
    assert_eq!(byte(&region, 0), 5);
    assert_eq!((from.used(), to.used()), (0, page()));
    // The old place reserves again: mapped, without access, and free for the reservation.
    assert_eq!(area_at(from.as_ptr().wrapping_add(page())).rights, "---p");
    let again = plain().within(&from, page()).region(page(), Prot::READ_WRITE).unwrap();
    holds(&again, 0, 0);
}

#[test]
fn relocate_within_one_reservation_moves_the_claim() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let region = plain().within(&reservation, 0).region(page(), Prot::READ_WRITE).unwrap();
    region.write_at(&[5], 0).unwrap();
    let region = region.relocate(&reservation, 3 * page()).unwrap();
    assert_eq!((byte(&region, 0), reservation.used()), (5, page()));
    let other = plain().within(&reservation, 0).region(3 * page(), Prot::READ_WRITE).unwrap();
    holds(&other, 0, 0);
}

#[test]
fn relocate_to_a_place_that_is_taken_or_misaligned_changes_nothing() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let there = plain().within(&reservation, page()).region(page(), Prot::READ_WRITE).unwrap();
    there.write_at(&[9], 0).unwrap();
    let region = numbered(2);
    let start = region.as_ptr();
    let refused = region.relocate(&reservation, 0).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::EXIST, "{}", refused.error);
    let refused = refused.map.relocate(&reservation, 2 * page() + 1).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::INVAL, "{}", refused.error);
    let refused = refused.map.relocate(&reservation, 3 * page()).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::NOMEM, "{}", refused.error);
    assert_eq!(refused.map.as_ptr(), start);
    assert_eq!(bytes(&refused.map), bytes(&numbered(2)));
    assert_eq!((byte(&there, 0), reservation.used()), (9, page()));
}

#[test]
fn relocate_of_a_region_with_holes_is_refused() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut region = numbered(3);
    region.unmap_range(page()..2 * page()).unwrap();
    let refused = region.relocate(&reservation, 0).unwrap_err();
    assert_eq!(refused.error.errno(), Errno::INVAL);
    assert_eq!(reservation.used(), 0);
    holds(&refused.map, 2, 3);
}

/// A descriptor of an io_uring, whose rings can be mapped (at offset zero) and never moved.
fn unmovable() -> Option<std::os::fd::OwnedFd> {
    use std::os::fd::FromRawFd;
    let mut parameters = [0_u8; 120];
    // SAFETY: io_uring_setup(2) fills `struct io_uring_params`, of 120 bytes.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    // SAFETY: just opened, and owned by nobody else.
    (fd >= 0).then(|| unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}

#[test]
fn relocate_of_several_areas_is_refused_and_moves_none_of_them() {
    child_succeeds(|| {
        // Parts that differ in rights.
        let reservation = Reservation::new(4 * page()).unwrap();
        let mut region = numbered(3);
        region.protect(page()..2 * page(), Prot::READ).unwrap();
        let refused = region.relocate(&reservation, 0).unwrap_err();
        refused_by_rule(Err::<(), _>(refused.error), Errno::FAULT, "one area");
        assert_eq!(bytes(&refused.map), bytes(&numbered(3)));
        // When they are one again, it moves.
        let mut region = refused.map;
        region.protect(.., Prot::READ).unwrap();
        let region = region.relocate(&reservation, 0).unwrap();
        assert_eq!(bytes(&region), bytes(&numbered(3)));
        // Parts of which the kernel can move the first and not the second.
        let Some(fd) = unmovable() else { return skip("no io_uring") };
        // The kernel chooses where a ring lies; of some, one has room before it.
        let mut crowded = Vec::new();
        let (mut region, ring) = loop {
            // SAFETY: nothing is stored to the ring.
            let ring = unsafe { plain().len(page()).device_unchecked(&fd) }.unwrap().into_region();
            match plain().at(ring.as_ptr() as usize - page()).region(page(), Prot::READ_WRITE) {
                Ok(region) => break (region, ring),
                Err(_) => crowded.push(ring),
            }
            assert!(crowded.len() < 64, "no ring has room before it");
        };
        region.write_at(&[7], 0).unwrap();
        region.merge(ring).unwrap();
        let start = region.as_ptr();
        let other = Reservation::new(4 * page()).unwrap();
        let refused = region.relocate(&other, 0).unwrap_err();
        assert_eq!(refused.error.errno(), Errno::FAULT, "{}", refused.error);
        assert_eq!((refused.map.as_ptr(), other.used()), (start, 0));
        assert_eq!(byte(&refused.map, 0), 7);
    });
}

#[test]
fn growing_several_areas_is_refused_and_changes_none_of_them() {
    child_succeeds(|| {
        for how in [Resize::InPlace, Resize::MayMove] {
            let mut region = numbered(3);
            region.protect(page()..2 * page(), Prot::READ).unwrap();
            let start = region.as_ptr();
            refused_by_kernel(region.resize(5 * page(), how), Errno::FAULT);
            assert_eq!((region.as_ptr(), region.len()), (start, 3 * page()));
            assert_eq!(bytes(&region), bytes(&numbered(3)));
            // Shrinking only unmaps.
            region.resize(page(), how).unwrap();
            holds(&region, 0, 1);
            assert!(
                !is_mapped(start.wrapping_add(page()))
                    && !is_mapped(start.wrapping_add(2 * page()))
            );
        }
    });
}

#[test]
fn relocate_that_the_kernel_refuses_leaves_region_and_reservation_whole() {
    if !kernel_since(6, 10) {
        return skip("mseal came with Linux 6.10");
    }
    child_succeeds(|| {
        let region = numbered(2);
        // SAFETY: sealing changes no byte.
        assert_eq!(unsafe { libc::syscall(462, region.as_ptr(), region.len(), 0_usize) }, 0);
        let reservation = Reservation::new(4 * page()).unwrap();
        let refused = region.relocate(&reservation, page()).unwrap_err();
        assert_eq!(refused.error.errno(), Errno::PERM);
        assert_eq!(bytes(&refused.map), bytes(&numbered(2)));
        assert_eq!(reservation.used(), 0);
        for number in 0..4 {
            let place = reservation.as_ptr().wrapping_add(number * page());
            assert!(is_mapped(place), "page {number} no longer reserves");
        }
    });
}

// No call reaches past the region.

/// Three regions side by side; `work` gets the middle one, of two pages, and the outer ones must
/// not notice.
fn between_neighbours(work: impl FnOnce(&mut Region)) {
    let mut low = numbered(4);
    let mut middle = low.split_off(page()).unwrap();
    let high = middle.split_off(2 * page()).unwrap();
    work(&mut middle);
    holds(&low, 0, 1);
    holds(&high, 0, 4);
    for neighbour in [&low, &high] {
        let area = area_at(neighbour.as_ptr());
        assert_eq!(area.rights, "rw-p");
        for flag in ["lo", "rr", "sr", "dd", "nh", "dc", "wf"] {
            assert!(!area.has(flag), "`{flag}` reached a neighbour: {:?}", area.flags);
        }
    }
}

/// Every way to name the ends of two pages, and all of them.
fn ranges_to_the_ends() -> [Range<usize>; 5] {
    let end = 2 * page();
    [0..end, 0..1, end - 1..end, 1..end - 1, page() - 1..page() + 1]
}

#[test]
fn advice_does_not_reach_a_neighbour() {
    between_neighbours(|region| {
        for range in ranges_to_the_ends() {
            for advice in [Advice::Random, Advice::DontDump, Advice::WillNeed, Advice::Cold] {
                region.advise(range.clone(), advice).unwrap();
            }
        }
        assert!(area_at(region.as_ptr()).has("dd"));
        assert!(area_at(region.as_ptr().wrapping_add(page())).has("dd"));
    });
}

#[test]
fn locking_does_not_reach_a_neighbour() {
    between_neighbours(|region| {
        for range in ranges_to_the_ends() {
            region.lock(range.clone()).unwrap();
        }
        assert!(area_at(region.as_ptr()).has("lo"));
        let area = area_at(region.as_ptr());
        assert_eq!(area.kib["Locked"] << 10, 2 * page());
    });
}

#[test]
fn discarding_and_protecting_do_not_reach_a_neighbour() {
    between_neighbours(|region| {
        for range in ranges_to_the_ends() {
            let whole = range == (0..2 * page());
            assert_eq!(region.discard(range.clone(), Discard::DontNeed).is_ok(), whole);
            assert_eq!(region.protect(range.clone(), Prot::NONE).is_ok(), whole);
        }
    });
}

#[test]
fn unmapping_does_not_reach_a_neighbour() {
    between_neighbours(|region| {
        for range in ranges_to_the_ends() {
            let whole = range == (0..2 * page());
            assert_eq!(region.unmap_range(range.clone()).is_ok(), whole);
        }
    });
}

#[test]
fn no_call_touches_the_unmapped_page_behind_or_before() {
    // The kernel answers ENOMEM to any call that reaches into nothing.
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    child_succeeds(|| {
        let mut low = FileMapMut::open(&path).unwrap().into_region();
        let mut region = low.split_off(page()).unwrap();
        let high = region.split_off(2 * page()).unwrap();
        low.unmap().unwrap();
        high.unmap().unwrap();
        for range in ranges_to_the_ends() {
            for how in [WriteBack::Start, WriteBack::Wait, WriteBack::Invalidate] {
                region.sync(range.clone(), how).unwrap();
            }
            region.advise(range.clone(), Advice::Random).unwrap();
            region.lock(range.clone()).unwrap();
            region.unlock(range.clone()).unwrap();
            let go_on = |_, _| ControlFlow::Continue(());
            region.populate(range.clone(), Populate::Write, page(), go_on).unwrap();
        }
    });
}

// Write-back.

/// A file on the disk, mapped shared, and the file.
fn disk_map(pages: usize) -> (tempfile::TempDir, std::fs::File, Region) {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(pages));
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    file.sync_all().unwrap();
    let region = FileMapMut::map(&file).unwrap().into_region();
    (dir, file, region)
}

fn dirty(file: &std::fs::File, offset: usize) -> Option<bool> {
    match CacheStat::of(file, offset as u64, page() as u64) {
        Ok(stat) => Some(stat.dirty > 0),
        Err(error) if error.errno() == Errno::NOSYS => None,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn sync_that_waits_leaves_nothing_dirty() {
    for how in [WriteBack::Wait, WriteBack::Invalidate] {
        let (_dir, file, region) = disk_map(4);
        region.write_at(&[7], 2 * page()).unwrap();
        let Some(_) = dirty(&file, 2 * page()) else {
            return skip("cachestat came with Linux 6.5");
        };
        region.sync(.., how).unwrap();
        assert_eq!(dirty(&file, 2 * page()), Some(false), "{how:?}");
        let mut byte = [0];
        file.read_exact_at(&mut byte, 2 * page() as u64).unwrap();
        assert_eq!(byte, [7]);
    }
}

#[test]
fn sync_of_a_range_writes_that_range_only() {
    // Far apart, since the page cache may keep neighbouring pages in one folio.
    let (_dir, file, region) = disk_map(4096);
    let far = 4000 * page();
    // Someone else may write the disk's files back at any moment, so one success of a few counts.
    for _ in 0..10 {
        region.write_at(&[7], 0).unwrap();
        region.write_at(&[8], far).unwrap();
        let Some(_) = dirty(&file, 0) else { return skip("cachestat came with Linux 6.5") };
        region.sync(10..20, WriteBack::Wait).unwrap();
        assert_eq!(dirty(&file, 0), Some(false));
        if dirty(&file, far) == Some(true) {
            return;
        }
    }
    panic!("the whole file was written back each time");
}

#[test]
fn sync_that_starts_returns_at_once_and_moves_no_time() {
    use std::os::unix::fs::MetadataExt;
    let (_dir, file, region) = disk_map(1);
    region.write_at(&[7], 0).unwrap();
    let times = |file: &std::fs::File| {
        let meta = file.metadata().unwrap();
        (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
    };
    let before = times(&file);
    std::thread::sleep(std::time::Duration::from_millis(20));
    region.write_at(&[8], 0).unwrap();
    region.sync(.., WriteBack::Start).unwrap();
    assert_eq!(times(&file), before);
}

#[test]
fn invalidating_locked_memory_is_busy() {
    let (_dir, _file, region) = disk_map(2);
    region.lock(..page()).unwrap();
    refused_by_kernel(region.sync(.., WriteBack::Invalidate), Errno::BUSY);
    region.sync(.., WriteBack::Wait).unwrap();
    region.sync(page().., WriteBack::Invalidate).unwrap();
}

#[test]
fn sync_of_memory_without_a_file_checks_the_range_only() {
    let region = numbered(2);
    for how in [WriteBack::Wait, WriteBack::Start, WriteBack::Invalidate] {
        region.sync(.., how).unwrap();
        refused_by_rule(region.sync(..3 * page(), how), Errno::INVAL, "inside the map");
    }
}

// Advice.

const EVERY_ADVICE: [Advice; 15] = [
    Advice::Normal,
    Advice::Random,
    Advice::Sequential,
    Advice::WillNeed,
    Advice::Cold,
    Advice::PageOut,
    Advice::PopulateRead,
    Advice::PopulateWrite,
    Advice::HugePage,
    Advice::NoHugePage,
    Advice::Collapse,
    Advice::Mergeable,
    Advice::Unmergeable,
    Advice::DontDump,
    Advice::DoDump,
];

#[test]
fn no_advice_changes_a_byte() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(4));
    let private = FileMapPrivate::open(&path).unwrap();
    private.write_at(&[0xEE; 10], page() - 5).unwrap();
    let maps = [
        ("anonymous", numbered(4)),
        ("shared file", FileMapMut::open(&path).unwrap().into_region()),
        ("private file", private.into_region()),
        ("shared memory", SharedMem::anonymous(4 * page()).unwrap().into_region()),
    ];
    for (name, region) in maps {
        let before = bytes(&region);
        for advice in EVERY_ADVICE {
            match region.advise(.., advice) {
                Ok(()) => {}
                // Built without it, or there is nothing to collapse in four pages.
                Err(error) => {
                    let optional = [
                        Advice::HugePage,
                        Advice::NoHugePage,
                        Advice::Mergeable,
                        Advice::Unmergeable,
                    ];
                    let excused = error.errno() == Errno::INVAL && optional.contains(&advice)
                        || advice == Advice::Collapse;
                    assert!(excused, "{advice:?} of {name}: {error}");
                }
            }
            assert_eq!(bytes(&region), before, "{advice:?} of {name}");
        }
    }
}

#[test]
fn advice_about_order_dumps_and_huge_pages_is_kept_by_the_area() {
    let region = numbered(2);
    let flags = |advice| region.advise(.., advice).map(|()| area_at(region.as_ptr()));
    assert!(flags(Advice::Random).unwrap().has("rr"));
    let area = flags(Advice::Sequential).unwrap();
    assert!(area.has("sr") && !area.has("rr"));
    let area = flags(Advice::Normal).unwrap();
    assert!(!area.has("sr") && !area.has("rr"));
    assert!(flags(Advice::DontDump).unwrap().has("dd"));
    assert!(!flags(Advice::DoDump).unwrap().has("dd"));
    if std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
        assert!(flags(Advice::HugePage).unwrap().has("hg"));
        let area = flags(Advice::NoHugePage).unwrap();
        assert!(area.has("nh") && !area.has("hg"));
    } else {
        skip("no transparent huge pages in this kernel");
    }
}

#[test]
fn mergeable_memory_is_known_to_ksm() {
    let region = numbered(2);
    if !std::path::Path::new("/sys/kernel/mm/ksm").exists() {
        assert_eq!(region.advise(.., Advice::Mergeable).unwrap_err().errno(), Errno::INVAL);
        return skip("a kernel without KSM");
    }
    region.advise(.., Advice::Mergeable).unwrap();
    assert!(area_at(region.as_ptr()).has("mg"));
    region.advise(.., Advice::Unmergeable).unwrap();
    assert!(!area_at(region.as_ptr()).has("mg"));
}

#[test]
fn populating_advice_faults_pages_in() {
    if !kernel_since(5, 14) {
        return skip("MADV_POPULATE came with Linux 5.14");
    }
    for advice in [Advice::PopulateRead, Advice::PopulateWrite] {
        let block = Anon::new(4 * page()).unwrap();
        block.advise(page()..3 * page(), advice).unwrap();
        let pages = block.residency(..).unwrap().known().unwrap();
        // The shared page of zeros counts as resident too.
        assert_eq!(pages.iter().collect::<Vec<_>>(), [false, true, true, false], "{advice:?}");
    }
}

#[test]
fn populating_advice_past_the_end_of_a_file_is_an_error_without_a_signal() {
    if !kernel_since(5, 14) {
        return skip("MADV_POPULATE came with Linux 5.14");
    }
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    let map = plain().len(3 * page()).map(std::fs::File::open(path).unwrap()).unwrap();
    refused_by_kernel(map.advise(.., Advice::PopulateRead), Errno::FAULT);
    map.advise(..page(), Advice::PopulateRead).unwrap();
}

#[test]
fn will_need_reads_the_file_into_the_page_cache() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(16));
    let file = std::fs::File::open(&path).unwrap();
    file.sync_all().unwrap();
    assert_eq!(
        // SAFETY: asks the kernel to drop clean pages of this file.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) },
        0
    );
    let map = FileMap::map(file).unwrap();
    let resident = |map: &FileMap| map.residency(..).unwrap().known().unwrap().resident_bytes();
    if resident(&map) > 0 {
        return skip("the page cache does not let the file go");
    }
    map.advise(.., Advice::WillNeed).unwrap();
    // It reads in the background.
    for _ in 0..500 {
        if resident(&map) == 16 * page() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("only {} bytes came in", resident(&map));
}

#[test]
fn collapse_makes_a_huge_page() {
    const HUGE: usize = 2 << 20;
    if !kernel_since(6, 1) || cfg!(not(target_arch = "x86_64")) {
        return skip("MADV_COLLAPSE came with Linux 6.1");
    }
    let reservation = Reservation::aligned(HUGE, PageSize::new(HUGE).unwrap()).unwrap();
    let region = plain().within(&reservation, 0).region(HUGE, Prot::READ_WRITE).unwrap();
    region.write_at(&vec![3; HUGE], 0).unwrap();
    match region.advise(.., Advice::Collapse) {
        Ok(()) => assert_eq!(area_at(region.as_ptr()).kib["AnonHugePages"], HUGE >> 10),
        Err(error) => return skip(&format!("the kernel has no huge page to give: {error}")),
    }
    assert!(bytes(&region).iter().all(|&byte| byte == 3));
}

// Discarding.

#[test]
fn discarded_anonymous_memory_reads_as_zero() {
    let mut region = numbered(3);
    region.discard(page()..2 * page(), Discard::DontNeed).unwrap();
    holds(&region, 0, 1);
    holds(&region, 1, 0);
    holds(&region, 2, 3);
}

#[test]
fn a_discarded_private_file_map_shows_the_file_again() {
    let dir = disk_dir();
    let all = pattern(2);
    let path = file_with(dir.path(), &all);
    let mut region = FileMapPrivate::open(&path).unwrap().into_region();
    region.write_at(&vec![0xEE; 2 * page()], 0).unwrap();
    region.discard(page().., Discard::DontNeed).unwrap();
    holds(&region, 0, 0xEE);
    assert_eq!(bytes(&region)[page()..], all[page()..]);
}

#[test]
fn a_discarded_shared_file_map_loses_nothing() {
    let (_dir, _file, mut region) = disk_map(2);
    region.write_at(&[0xEE; 10], 0).unwrap();
    let before = bytes(&region);
    region.discard(.., Discard::DontNeed).unwrap();
    assert_eq!(bytes(&region), before);
}

#[test]
fn locked_pages_are_discarded_only_when_that_is_said() {
    let mut region = numbered(2);
    region.lock(..).unwrap();
    refused_by_kernel(region.discard(.., Discard::DontNeed), Errno::INVAL);
    holds(&region, 0, 1);
    if !kernel_since(5, 18) {
        return skip("MADV_DONTNEED_LOCKED came with Linux 5.18");
    }
    region.discard(.., Discard::DontNeedLocked).unwrap();
    holds(&region, 0, 0);
}

#[test]
fn removing_makes_a_hole_in_the_file() {
    use std::os::unix::fs::MetadataExt;
    let Some(dir) = memory_dir() else { return skip("no /dev/shm") };
    let path = file_with(dir.path(), &pattern(4));
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let mut region = FileMapMut::map(&file).unwrap().into_region();
    let before = file.metadata().unwrap().blocks();
    region.discard(page()..3 * page(), Discard::Remove).unwrap();
    assert_eq!(file.metadata().unwrap().blocks(), before - (2 * page() / 512) as u64);
    let mut expected = pattern(4);
    expected[page()..3 * page()].fill(0);
    assert_eq!(std::fs::read(&path).unwrap(), expected);
    assert_eq!(bytes(&region), expected);
}

#[test]
fn removing_is_for_shared_writable_maps_of_files() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    refused_by_kernel(numbered(1).discard(.., Discard::Remove), Errno::INVAL);
    let mut private = FileMapPrivate::open(&path).unwrap().into_region();
    refused_by_kernel(private.discard(.., Discard::Remove), Errno::ACCESS);
    let mut read_only = FileMap::open(&path).unwrap().into_region();
    refused_by_kernel(read_only.discard(.., Discard::Remove), Errno::ACCESS);
    assert_eq!(std::fs::read(&path).unwrap(), pattern(1));
}

#[test]
fn discard_takes_whole_pages_only() {
    let mut region = numbered(2);
    for range in [0..page() + 1, 1..page(), 1..2 * page()] {
        refused_by_rule(region.discard(range, Discard::DontNeed), Errno::INVAL, "whole pages");
    }
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

// Unchecked advice.

#[test]
fn freed_pages_hold_their_bytes_or_zeros_and_later_stores() {
    let region = numbered(2);
    // SAFETY: nothing refers to the bytes.
    unsafe { region.advise_unchecked(.., UncheckedAdvice::Free) }.unwrap();
    for number in 0..2 {
        let first = byte(&region, number * page());
        assert!(first == 0 || first == number as u8 + 1);
        // A store calls the freeing of its page off.
        region.write_at(&vec![9; page()], number * page()).unwrap();
        holds(&region, number, 9);
    }
}

#[test]
fn freeing_is_for_private_anonymous_memory() {
    let (_dir, _file, region) = disk_map(1);
    // SAFETY: nothing refers to the bytes.
    refused_by_kernel(unsafe { region.advise_unchecked(.., UncheckedAdvice::Free) }, Errno::INVAL);
}

#[test]
fn a_guarded_page_is_an_error_and_reads_as_zero_when_the_guard_is_gone() {
    let region = numbered(3);
    let middle = page()..2 * page();
    // SAFETY: nothing refers to the bytes.
    match unsafe { region.advise_unchecked(middle.clone(), UncheckedAdvice::GuardInstall) } {
        Ok(()) => {}
        Err(error) if error.errno() == Errno::INVAL && !kernel_since(6, 13) => {
            return skip("guard regions came with Linux 6.13");
        }
        Err(error) => panic!("{error}"),
    }
    let mut all = vec![0; 3 * page()];
    faulted(region.read_at(&mut all, 0), middle.clone(), FaultCause::Protection);
    faulted(
        region.write_at(&[1], 2 * page() - 1),
        2 * page() - 1..2 * page(),
        FaultCause::Protection,
    );
    holds(&region, 0, 1);
    holds(&region, 2, 3);
    // No area was split for it.
    assert!(area_at(region.as_ptr()).range.end >= region.as_ptr() as usize + 3 * page());
    // SAFETY: removes guards from pages to which nothing refers.
    unsafe { region.advise_unchecked(middle, UncheckedAdvice::GuardRemove) }.unwrap();
    holds(&region, 1, 0);
}

#[test]
fn unchecked_advice_takes_whole_pages_only() {
    let region = numbered(2);
    // SAFETY: nothing refers to the bytes.
    let result = unsafe { region.advise_unchecked(0..=page(), UncheckedAdvice::Free) };
    refused_by_rule(result, Errno::INVAL, "whole pages");
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

#[test]
fn fork_advice_is_kept_by_the_area() {
    let region = numbered(1);
    let flags = |advice| {
        // SAFETY: nothing refers to the bytes, and no child is made from here.
        unsafe { region.advise_unchecked(.., advice) }.unwrap();
        area_at(region.as_ptr())
    };
    assert!(flags(UncheckedAdvice::DontFork).has("dc"));
    assert!(!flags(UncheckedAdvice::DoFork).has("dc"));
    assert!(flags(UncheckedAdvice::WipeOnFork).has("wf"));
    assert!(!flags(UncheckedAdvice::KeepOnFork).has("wf"));
}

// Locking.

/// Locked memory of an own area; the limit does not hold for root.
fn may_lock(bytes: u64) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).current;
    is_root() || limit.is_none_or(|limit| limit >= bytes)
}

#[test]
fn locked_pages_are_resident_and_locked() {
    if !may_lock(1 << 20) {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    let block = Anon::new(4 * page()).unwrap();
    block.lock(page()..3 * page()).unwrap();
    let pages = block.residency(..).unwrap().known().unwrap();
    assert_eq!(pages.iter().collect::<Vec<_>>(), [false, true, true, false]);
    let region = block.into_region();
    let area = area_at(region.as_ptr().wrapping_add(page()));
    assert!(area.has("lo"), "{area:?}");
    assert_eq!(area.kib["Locked"] << 10, 2 * page());
    assert!(!area_at(region.as_ptr()).has("lo"));
}

#[test]
fn lock_on_fault_brings_nothing_in_before_the_first_touch() {
    if !may_lock(1 << 20) {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    let mut block = Anon::new(4 * page()).unwrap();
    block.lock_on_fault(..).unwrap();
    assert_eq!(block.residency(..).unwrap().known().unwrap().resident_bytes(), 0);
    block[2 * page()] = 1;
    let pages = block.residency(..).unwrap().known().unwrap();
    assert_eq!(pages.iter().collect::<Vec<_>>(), [false, false, true, false]);
    let region = block.into_region();
    let area = area_at(region.as_ptr());
    assert!(area.has("lo"), "{area:?}");
    assert_eq!(area.kib["Locked"] << 10, page());
}

#[test]
fn unlock_undoes_any_number_of_locks() {
    if !may_lock(1 << 20) {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    let region = numbered(3);
    region.lock(..).unwrap();
    region.lock(..).unwrap();
    region.unlock(page()..2 * page()).unwrap();
    let locked = |number: usize| area_at(region.as_ptr().wrapping_add(number * page())).has("lo");
    assert_eq!([locked(0), locked(1), locked(2)], [true, false, true]);
    region.unlock(..).unwrap();
    assert_eq!([locked(0), locked(1), locked(2)], [false, false, false]);
}

#[test]
fn lock_rounds_to_the_pages_that_hold_a_byte() {
    if !may_lock(1 << 20) {
        return skip("RLIMIT_MEMLOCK is too small");
    }
    let region = numbered(3);
    region.lock(page() + 5..page() + 6).unwrap();
    let locked = |number: usize| area_at(region.as_ptr().wrapping_add(number * page())).has("lo");
    assert_eq!([locked(0), locked(1), locked(2)], [false, true, false]);
}

#[test]
fn locking_past_the_end_of_a_file_is_an_error() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    let map = plain().len(3 * page()).map(std::fs::File::open(path).unwrap()).unwrap();
    refused_by_kernel(map.lock(..), Errno::NOMEM);
}

// Sealing.

#[test]
fn a_sealed_region_cannot_be_unmapped_or_protected_by_anyone() {
    if !kernel_since(6, 10) {
        return skip("mseal came with Linux 6.10");
    }
    child_succeeds(|| {
        let sealed: &'static Region = numbered(3).seal().unwrap();
        assert!(sealed.is_sealed());
        let (start, len) = (sealed.as_ptr(), sealed.len());
        // SAFETY: the kernel refuses all of them; nothing refers to the bytes.
        let refused = unsafe {
            [
                raw::munmap(start, len).map(drop),
                raw::munmap(start.wrapping_add(page()), page()).map(drop),
                raw::mprotect(start, len, Prot::READ).map(drop),
                raw::mremap(start, len, page(), 0, std::ptr::null_mut()).map(drop),
                raw::mremap(start, len, 8 * len, libc::MREMAP_MAYMOVE, std::ptr::null_mut())
                    .map(drop),
            ]
        };
        for result in refused {
            refused_by_kernel(result, Errno::PERM);
        }
        // The bytes are as changeable as before.
        sealed.write_at(&[9], page()).unwrap();
        assert_eq!((byte(sealed, 0), byte(sealed, page()), byte(sealed, 2 * page())), (1, 9, 3));
    });
}

#[test]
fn sealing_a_part_leaves_the_rest_free() {
    if !kernel_since(6, 10) {
        return skip("mseal came with Linux 6.10");
    }
    child_succeeds(|| {
        let mut low = numbered(2);
        let high = low.split_off(page()).unwrap();
        let high = high.seal().unwrap();
        assert!(!low.is_sealed());
        low.unmap().unwrap();
        assert_eq!(byte(high, 0), 2);
    });
}

#[test]
fn a_sealed_region_in_a_reservation_outlives_it() {
    if !kernel_since(6, 10) {
        return skip("mseal came with Linux 6.10");
    }
    child_succeeds(|| {
        let reservation = Reservation::new(4 * page()).unwrap();
        let region = plain().within(&reservation, page()).region(page(), Prot::READ_WRITE).unwrap();
        region.write_at(&[7], 0).unwrap();
        let sealed = region.seal().unwrap();
        drop(reservation);
        assert_eq!(byte(sealed, 0), 7);
    });
}

// Naming.

#[test]
fn a_name_is_shown_where_the_kernel_has_names() {
    let region = numbered(2);
    let named = region.name_area("folio test").unwrap();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line =
        maps.lines().find(|line| line.starts_with(&format!("{:x}-", region.as_ptr() as usize)));
    let shown = line.is_some_and(|line| line.ends_with("[anon:folio test]"));
    assert_eq!(shown, named, "{line:?}");
    if !named {
        skip("a kernel without CONFIG_ANON_VMA_NAME: only the `false` was seen");
    }
}

#[test]
fn a_file_map_has_no_name_but_its_file() {
    let (_dir, _file, region) = disk_map(1);
    assert!(!region.name_area("name").unwrap());
}

#[test]
fn names_that_the_kernel_does_not_take_are_refused_before_it_is_asked() {
    let region = numbered(1);
    let long = "x".repeat(80);
    for name in ["a[b", "a]b", "a\\b", "a$b", "a`b", "a\nb", "a\0b", "ä", "\x7f", &long] {
        refused_by_rule(region.name_area(name), Errno::INVAL, "at most 79 printable");
    }
    region.name_area(&long[1..]).unwrap();
}

// Populating.

#[test]
fn populate_goes_in_steps_and_reports_its_progress() {
    let block = Anon::new(5 * page()).unwrap();
    let mut told = Vec::new();
    let done = block
        .populate(.., Populate::Write, 2 * page(), |done, all| {
            told.push((done, all));
            ControlFlow::Continue(())
        })
        .unwrap();
    let all = 5 * page();
    assert_eq!(told, [(2 * page(), all), (4 * page(), all), (all, all)]);
    assert_eq!(done, all);
    assert_eq!(block.residency(..).unwrap().known().unwrap().resident_bytes(), all);
}

#[test]
fn populate_steps_are_rounded_up_to_whole_pages() {
    let region = numbered(3);
    for step in [0, 1, page() - 1, page()] {
        let mut steps = 0;
        let progress = |_, _| {
            steps += 1;
            ControlFlow::Continue(())
        };
        region.populate(.., Populate::Read, step, progress).unwrap();
        assert_eq!(steps, 3, "step {step}");
    }
    let mut steps = 0;
    let progress = |_, _| {
        steps += 1;
        ControlFlow::Continue(())
    };
    region.populate(.., Populate::Read, usize::MAX, progress).unwrap();
    assert_eq!(steps, 1);
}

#[test]
fn populate_ends_early_on_request() {
    let block = Anon::new(4 * page()).unwrap();
    let done = block.populate(.., Populate::Write, page(), |_, _| ControlFlow::Break(())).unwrap();
    assert_eq!(done, page());
    let pages = block.residency(..).unwrap().known().unwrap();
    assert_eq!(pages.iter().collect::<Vec<_>>(), [true, false, false, false]);
}

#[test]
fn populate_reports_the_page_past_the_end_of_the_file() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let map = plain().len(4 * page()).map(std::fs::File::open(path).unwrap()).unwrap();
    for (step, told) in [(page(), vec![page(), 2 * page()]), (4 * page(), vec![])] {
        let mut seen = Vec::new();
        let result = map.populate(.., Populate::Read, step, |done, _| {
            seen.push(done);
            ControlFlow::Continue(())
        });
        let fault = result.unwrap_err();
        let fault = fault.fault().unwrap();
        assert_eq!(fault.cause(), FaultCause::PastEnd);
        assert_eq!(fault.range().start, 2 * page());
        assert_eq!(seen, told);
    }
}

#[test]
fn populate_for_writing_fills_the_holes_of_a_file_and_for_reading_leaves_them() {
    use std::os::unix::fs::MetadataExt;
    let dir = disk_dir();
    let path = dir.path().join("holes");
    let file =
        std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(4 * page() as u64).unwrap();
    let map = FileMapMut::map(file).unwrap();
    let bytes = || std::fs::metadata(&path).unwrap().blocks() as usize * 512;
    let go_on = |_, _| ControlFlow::Continue(());
    map.populate(.., Populate::Read, page(), go_on).unwrap();
    assert_eq!(bytes(), 0);
    map.populate(..2 * page(), Populate::Write, page(), go_on).unwrap();
    assert!(bytes() >= 2 * page(), "{} bytes", bytes());
    assert_eq!(map.read_vec(..).unwrap(), vec![0; 4 * page()]);
}

#[test]
fn populate_for_writing_copies_private_pages() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let region = FileMapPrivate::open(&path).unwrap().into_region();
    let go_on = |_, _| ControlFlow::Continue(());
    region.populate(.., Populate::Read, page(), go_on).unwrap();
    assert_eq!(area_at(region.as_ptr()).kib["Anonymous"], 0);
    region.populate(..page(), Populate::Write, page(), go_on).unwrap();
    assert_eq!(area_at(region.as_ptr()).kib["Anonymous"] << 10, page());
    assert_eq!(bytes(&region), pattern(2));
}

#[test]
fn populate_against_the_protection_is_an_error() {
    let mut region = numbered(2);
    let go_on = |_, _| ControlFlow::Continue(());
    region.protect(.., Prot::READ).unwrap();
    region.populate(.., Populate::Read, page(), go_on).unwrap();
    let error = region.populate(.., Populate::Write, page(), go_on).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Protection);
    region.protect(.., Prot::NONE).unwrap();
    let error = region.populate(.., Populate::Read, page(), go_on).unwrap_err();
    assert_eq!(error.fault().unwrap().cause(), FaultCause::Protection);
}

// Residency.

#[test]
fn residency_of_anonymous_memory_is_its_touched_pages() {
    let mut block = Anon::new(5 * page()).unwrap();
    block[page()] = 1;
    block[4 * page() - 1] = 1;
    let pages = block.residency(..).unwrap().known().unwrap();
    assert_eq!(pages.iter().collect::<Vec<_>>(), [false, true, false, true, false]);
    assert_eq!((pages.resident_bytes(), pages.total_bytes()), (2 * page(), 5 * page()));
    assert_eq!(pages.page_size(), PageSize::system());
    // Of the pages that hold a byte of the range.
    let pages = block.residency(page() + 1..=2 * page()).unwrap().known().unwrap();
    assert_eq!(pages.iter().collect::<Vec<_>>(), [true, false]);
    assert_eq!(block.residency(7..7).unwrap().known().unwrap().iter().count(), 0);
}

#[test]
fn residency_of_a_file_is_the_page_cache() {
    let dir = disk_dir();
    let path = dir.path().join("sparse");
    let file =
        std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 * page() as u64).unwrap();
    file.write_all_at(&[1], 40 * page() as u64).unwrap();
    let map = FileMap::map(file).unwrap();
    let pages = map.residency(..).unwrap().known().unwrap();
    assert!(pages.is_resident(40));
    assert!(!pages.is_resident(0) && !pages.is_resident(63), "{pages:?}");
}

/// A file of sixteen pages, all of them holes, with these rights.
fn sparse(dir: &std::path::Path, mode: u32) -> std::path::PathBuf {
    let path = dir.join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(16 * page() as u64).unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    path
}

#[test]
fn residency_of_a_file_of_another_owner_is_unknown_and_not_a_hundred_percent() {
    if !is_root() {
        return skip("needs root, to become another user");
    }
    let dir = disk_dir();
    let path = sparse(dir.path(), 0o644);
    child_succeeds(|| {
        let file = std::fs::File::open(&path).unwrap();
        let borrowed = FileMap::map(&file).unwrap();
        let owned = FileMap::map(file).unwrap();
        // Root may know: nothing of a file of holes is in memory.
        assert_eq!(owned.residency(..).unwrap().known().unwrap().resident_bytes(), 0);
        assert_eq!(borrowed.residency(..).unwrap().known().unwrap().resident_bytes(), 0);
        become_nobody();
        // Answers of the kernel that folio does not pass on.
        let mut pages = [0_u8; 16];
        // SAFETY: `pages` has a byte for each page of the map.
        let said = unsafe {
            libc::mincore(owned.as_ptr().cast_mut().cast(), 16 * page(), pages.as_mut_ptr())
        };
        assert_eq!((said, pages), (0, [1; 16]));
        assert_eq!(owned.residency(..).unwrap(), Residency::NotOwner);
        // Found by its name, or not found at all: still unknown.
        assert_eq!(borrowed.residency(..).unwrap(), Residency::NotOwner);
        // Folio knows the flags that are surely its own.
        assert!(matches!(Anon::new(page()).unwrap().residency(..).unwrap(), Residency::Known(_)));
    });
}

#[test]
fn a_user_that_may_write_to_a_file_may_know_its_residency() {
    if !is_root() {
        return skip("needs root, to become another user");
    }
    let dir = disk_dir();
    let path = sparse(dir.path(), 0o666);
    child_succeeds(|| {
        let map = FileMap::open(&path).unwrap();
        become_nobody();
        assert_eq!(map.residency(..).unwrap().known().unwrap().resident_bytes(), 0);
    });
}

#[test]
fn residency_waits_for_no_pipe_that_lies_where_the_file_was() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let file = std::fs::File::open(&path).unwrap();
    let map = FileMap::map(&file).unwrap();
    // Both names under which the list of areas may have the file by now.
    std::fs::remove_file(&path).unwrap();
    for name in ["file", "file (deleted)"] {
        let fifo = std::ffi::CString::new(dir.path().join(name).to_str().unwrap()).unwrap();
        // SAFETY: a path that ends with NUL.
        assert_eq!(unsafe { libc::mkfifo(fifo.as_ptr(), 0o600) }, 0);
    }
    child_succeeds(|| {
        // SAFETY: sets a timer, in case it waits.
        unsafe { libc::alarm(10) };
        map.residency(..).unwrap();
    });
}

#[test]
fn residency_is_known_to_a_user_that_may_write_to_a_file_and_not_read_it() {
    use std::os::unix::fs::PermissionsExt;
    if !is_root() {
        return skip("needs root, to become another user");
    }
    let Some(dir) = memory_dir() else { return skip("no /dev/shm") };
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = file_with(dir.path(), &pattern(2));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o622)).unwrap();
    child_succeeds(|| {
        let file = std::fs::File::open(&path).unwrap();
        let map = FileMap::map(&file).unwrap();
        drop(file);
        become_nobody();
        assert_eq!(map.residency(..).unwrap().known().unwrap().resident_bytes(), 2 * page());
    });
    // Permissions of another file with the same name say nothing about this one.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    child_succeeds(|| {
        let file = std::fs::File::open(&path).unwrap();
        let map = FileMap::map(&file).unwrap();
        std::fs::rename(&path, dir.path().join("renamed")).unwrap();
        std::fs::write(&path, pattern(2)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        become_nobody();
        assert_eq!(map.residency(..).unwrap(), Residency::NotOwner);
    });
}

#[test]
fn residency_outside_the_map_is_refused() {
    let block = Anon::new(page()).unwrap();
    refused_by_rule(block.residency(..=page()), Errno::INVAL, "inside the map");
}

#[test]
fn cachestat_counts_cached_and_dirty_bytes() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let file =
        std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 * page() as u64).unwrap();
    let stat = match CacheStat::of(&file, 0, 0) {
        Ok(stat) => stat,
        Err(error) if error.errno() == Errno::NOSYS => {
            return skip("cachestat came with Linux 6.5");
        }
        Err(error) => panic!("{error}"),
    };
    assert_eq!(stat, CacheStat::default(), "a file of holes has nothing cached");
    let mut seen = CacheStat::default();
    // Write-back may come between; one look of a few sees the dirty page.
    for _ in 0..10 {
        file.write_all_at(&[1], 40 * page() as u64).unwrap();
        seen = CacheStat::of(&file, 0, 0).unwrap();
        if seen.dirty > 0 {
            break;
        }
    }
    assert!(seen.cached >= page() as u64 && seen.dirty >= page() as u64, "{seen:?}");
    file.sync_all().unwrap();
    let stat = CacheStat::of(&file, 0, 0).unwrap();
    assert_eq!((stat.dirty, stat.write_back), (0, 0));
    assert_eq!(CacheStat::of(&file, 0, page() as u64).unwrap().cached, 0, "the hole is not cached");
}

#[test]
fn cachestat_of_a_map_is_of_the_part_it_shows() {
    let dir = disk_dir();
    let path = dir.path().join("file");
    let file =
        std::fs::File::options().read(true).write(true).create_new(true).open(&path).unwrap();
    file.set_len(64 * page() as u64).unwrap();
    file.write_all_at(&[1], 0).unwrap();
    let start = 48 * page() as u64 + 10;
    let map = plain().offset(start).len(page()).map(file).unwrap();
    let cached = |range: Range<usize>| map.cache_stat(range).map(|stat| stat.cached);
    match cached(0..page()) {
        Ok(cached) => assert_eq!(cached, 0, "the cached page is not in the map"),
        Err(error) if error.errno() == Errno::NOSYS => {
            return skip("cachestat came with Linux 6.5");
        }
        Err(error) => panic!("{error}"),
    }
    let _ = map.read::<u8>(0).unwrap();
    assert!(cached(0..1).unwrap() > 0);
    assert_eq!(cached(5..5).unwrap(), 0, "no bytes: nothing, and not all to the end");
}

// Raw parts.

#[test]
fn raw_parts_leave_the_range_mapped_and_take_it_back() {
    let region = numbered(2);
    let start = region.as_ptr();
    let (address, length) = region.into_raw_parts().unwrap();
    assert_eq!((address, length), (start, 2 * page()));
    // SAFETY: the range is mapped, and belongs to nobody now.
    let region = unsafe { Region::from_raw_parts(address, length, PageSize::system()) }.unwrap();
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

#[test]
fn a_range_mapped_by_the_raw_door_is_unmapped_with_its_region() {
    child_succeeds(|| {
        let flags = folio::MapFlags::PRIVATE | folio::MapFlags::ANONYMOUS;
        // SAFETY: a new map, anywhere.
        let start =
            unsafe { raw::mmap(std::ptr::null_mut(), 2 * page(), Prot::READ, flags, -1, 0) }
                .unwrap();
        // SAFETY: just mapped, and nobody else's.
        let region =
            unsafe { Region::from_raw_parts(start, 2 * page(), PageSize::system()) }.unwrap();
        drop(region);
        assert!(!is_mapped(start) && !is_mapped(start.wrapping_add(page())));
    });
}

#[test]
fn raw_parts_that_are_no_whole_pages_are_refused() {
    let region = numbered(2);
    let (start, page_size) = (region.as_ptr(), PageSize::system());
    for (address, length) in [
        (start.wrapping_add(1), page()),
        (start, page() + 1),
        (start, 0),
        (std::ptr::null_mut(), page()),
    ] {
        // SAFETY: refused for its numbers; no region is made.
        let result = unsafe { Region::from_raw_parts(address, length, page_size) };
        refused_by_rule(result, Errno::INVAL, "multiples of the page size");
    }
    assert_eq!(bytes(&region), bytes(&numbered(2)));
}

#[test]
fn a_region_with_holes_or_in_a_reservation_has_no_raw_parts() {
    let reservation = Reservation::new(page()).unwrap();
    let region = plain().within(&reservation, 0).region(page(), Prot::READ_WRITE).unwrap();
    let refused = region.into_raw_parts().unwrap_err();
    refused_by_rule(Err::<(), _>(refused.error), Errno::INVAL, "in a reservation");
    holds(&refused.map, 0, 0);
}

// The region itself.

#[test]
fn a_raw_touch_of_an_unmapped_page_still_kills() {
    // The other side of "a fault is an error": only checked accesses are.
    let end = in_child(|| {
        let mut region = numbered(2);
        region.unmap_range(page()..).unwrap();
        // SAFETY: not sound, as the test shows: the child ends here.
        let _ = unsafe { region.as_ptr().wrapping_add(page()).read_volatile() };
    });
    assert_eq!(end, End::Killed(libc::SIGSEGV));
}

#[test]
fn a_region_can_be_used_and_dropped_in_another_thread() {
    let region = numbered(2);
    let region = std::thread::scope(|scope| {
        scope.spawn(|| region.write_at(&[9], 0).unwrap());
        scope.spawn(|| holds(&region, 1, 2)).join().unwrap();
        &region
    });
    assert_eq!(byte(region, 0), 9);
    std::thread::spawn(move || drop(numbered(1))).join().unwrap();
}
