//! Address space without memory, and the maps in it: growth at a stable address, guard pages,
//! claims.

use crate::common::{End, child_succeeds, disk_dir, file_with, in_child, page, pattern, skip};
use crate::regions::{area_at, is_mapped, refused_by_kernel, refused_by_rule};
use folio::{
    Anon, Errno, FileMap, Fork, MapFlags, MapOptions, PageSize, Prot, Region, Reservation,
    SharedMem, raw,
};
use proptest::prelude::*;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

fn place(reservation: &Reservation, first: usize, pages: usize) -> folio::Result<Region> {
    MapOptions::new().within(reservation, first * page()).region(pages * page(), Prot::READ_WRITE)
}

fn byte(region: &Region, offset: usize) -> u8 {
    let mut byte = [0];
    region.read_at(&mut byte, offset).unwrap();
    byte[0]
}

/// Bytes of address space this process has.
fn address_space() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').next().unwrap().parse::<usize>().unwrap() * page()
}

/// Maps and keeps `count` single pages wherever the kernel puts them, and says whether one lies in
/// `range`.
fn kernel_places_one_in(range: std::ops::Range<usize>, count: usize) -> bool {
    let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    (0..count).any(|number| {
        // Every other protection differs, so that the areas do not merge.
        let prot = if number % 2 == 0 { Prot::READ } else { Prot::READ_WRITE };
        // SAFETY: a new map, anywhere.
        let start = unsafe { raw::mmap(std::ptr::null_mut(), page(), prot, flags, -1, 0) }.unwrap();
        range.contains(&(start as usize))
    })
}

#[test]
fn a_reservation_is_rounded_up_and_has_no_access_and_no_memory() {
    let reservation = Reservation::new(10 * page() + 1).unwrap();
    assert_eq!((reservation.len(), reservation.used()), (11 * page(), 0));
    assert!(!reservation.is_empty());
    let area = area_at(reservation.as_ptr());
    assert_eq!(area.rights, "---p");
    assert!(area.has("nr"), "it counts against the commit limit: {area:?}");
    assert!(area.range.end >= reservation.as_ptr() as usize + 11 * page());
}

#[test]
fn a_reservation_of_nothing_is_refused() {
    refused_by_any(Reservation::new(0));
    refused_by_any(Reservation::aligned(0, PageSize::new(2 << 20).unwrap()));
}

#[track_caller]
fn refused_by_any(result: folio::Result<Reservation>) {
    assert_eq!(result.unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn a_reservation_longer_than_the_address_space_is_refused() {
    refused_by_kernel(Reservation::new(1 << 60), Errno::NOMEM);
    refused_by_rule(Reservation::new(usize::MAX), Errno::NOMEM, "no range of addresses");
}

#[test]
fn an_aligned_reservation_starts_and_ends_at_its_own_pages() {
    for bytes in [page(), 64 << 10, 2 << 20, 1 << 30] {
        let reservation = Reservation::aligned(3, PageSize::new(bytes).unwrap()).unwrap();
        assert_eq!(reservation.as_ptr() as usize % bytes, 0);
        assert_eq!(reservation.len(), bytes);
    }
}

#[test]
fn a_page_size_below_the_machines_is_the_machines() {
    let reservation = Reservation::aligned(page() + 1, PageSize::new(16).unwrap()).unwrap();
    assert_eq!(reservation.len(), 2 * page());
    reservation.commit(1).unwrap()[0] = 1;
    assert_eq!(reservation.used(), page());
}

#[test]
fn addresses_reserved_to_align_are_given_back() {
    child_succeeds(|| {
        // The memory that reading the numbers takes is there already.
        let before = (address_space(), address_space()).1;
        let reservation = Reservation::aligned(2 << 20, PageSize::new(1 << 30).unwrap()).unwrap();
        assert_eq!(address_space() - before, 1 << 30);
        drop(reservation);
        assert_eq!(address_space(), before);
    });
}

// Committing.

#[test]
fn commits_follow_each_other_and_start_as_zeros() {
    let reservation = Reservation::new(8 * page()).unwrap();
    let first = reservation.commit(100).unwrap();
    let second = reservation.commit(page() + 1).unwrap();
    assert_eq!(first.as_ptr(), reservation.as_ptr().cast_const());
    assert_eq!(second.as_ptr(), reservation.as_ptr().wrapping_add(page()).cast_const());
    assert_eq!((first.len(), second.len()), (100, page() + 1));
    assert!(first.iter().chain(second.iter()).all(|&byte| byte == 0));
    assert_eq!(reservation.used(), 3 * page());
}

#[test]
fn slices_of_commits_stay_valid_while_more_is_committed() {
    let reservation = Reservation::new(1000 * page()).unwrap();
    let mut slices = Vec::new();
    for number in 0..1000 {
        let slice = reservation.commit(page()).unwrap();
        slice.fill(number as u8);
        slices.push(slice);
    }
    for (number, slice) in slices.iter().enumerate() {
        assert_eq!(slice.as_ptr() as usize, reservation.as_ptr() as usize + number * page());
        assert!(slice.iter().all(|&byte| byte == number as u8));
    }
}

#[test]
fn a_commit_beyond_the_reservation_is_refused_and_takes_nothing() {
    let reservation = Reservation::new(2 * page()).unwrap();
    reservation.commit(page()).unwrap();
    refused_by_rule(reservation.commit(page() + 1), Errno::NOMEM, "the reservation has");
    refused_by_rule(reservation.commit(usize::MAX), Errno::NOMEM, "no range of addresses");
    assert_eq!(reservation.used(), page());
    reservation.commit(page()).unwrap().fill(1);
}

#[test]
fn a_commit_of_nothing_takes_nothing() {
    let reservation = Reservation::new(page()).unwrap();
    assert_eq!(reservation.commit(0).unwrap(), &[]);
    assert_eq!(reservation.used(), 0);
}

#[test]
fn a_commit_comes_behind_the_maps_that_were_placed() {
    let reservation = Reservation::new(8 * page()).unwrap();
    let there = place(&reservation, 2, 1).unwrap();
    let slice = reservation.commit(page()).unwrap();
    assert_eq!(slice.as_ptr(), reservation.as_ptr().wrapping_add(3 * page()).cast_const());
    slice.fill(7);
    assert_eq!(byte(&there, 0), 0);
}

#[test]
fn a_commit_where_a_map_lay_is_zeros() {
    let reservation = Reservation::new(2 * page()).unwrap();
    let there = place(&reservation, 0, 1).unwrap();
    there.write_at(&[7], 0).unwrap();
    drop(there);
    let slice = reservation.commit(page()).unwrap();
    assert_eq!(slice.as_ptr(), reservation.as_ptr().cast_const());
    assert!(slice.iter().all(|&byte| byte == 0));
}

#[test]
fn commits_of_several_threads_all_succeed_and_never_overlap() {
    const THREADS: usize = 4;
    const EACH: usize = 200;
    let reservation = Reservation::new(THREADS * EACH * page()).unwrap();
    let start = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (reservation, start) = (&reservation, &start);
            scope.spawn(move || {
                start.wait();
                let slices: Vec<_> = (0..EACH)
                    .map(|_| {
                        let slice = reservation.commit(page()).unwrap();
                        slice.fill(thread as u8 + 1);
                        slice
                    })
                    .collect();
                assert!(
                    slices.iter().all(|slice| slice.iter().all(|&byte| byte == thread as u8 + 1))
                );
            });
        }
    });
    assert_eq!(reservation.used(), THREADS * EACH * page());
}

// Placing.

#[test]
fn a_map_is_placed_at_exactly_its_offset() {
    let reservation = Reservation::new(8 * page()).unwrap();
    let region = place(&reservation, 3, 2).unwrap();
    assert_eq!(region.as_ptr(), reservation.as_ptr().wrapping_add(3 * page()));
    assert_eq!(reservation.used(), 2 * page());
    region.write_at(&[1], 2 * page() - 1).unwrap();
    // Around it the reservation goes on.
    assert_eq!(area_at(region.as_ptr().wrapping_sub(1)).rights, "---p");
    assert_eq!(area_at(region.as_ptr().wrapping_add(2 * page())).rights, "---p");
}

#[test]
fn every_kind_of_map_can_be_placed() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let reservation = Reservation::new(16 * page()).unwrap();
    let at = |offset: usize| MapOptions::new().within(&reservation, offset * page());
    let read_only = at(0).map(&file).unwrap();
    let shared = at(2).map_mut(&file).unwrap();
    let private = at(4).map_private(&file).unwrap();
    let anon = at(6).anon(page()).unwrap();
    let memory = at(7).shared_memfd(page()).unwrap();
    let sealed = at(8).sealed(5, |bytes| bytes.fill(3)).unwrap();
    assert_eq!(reservation.used(), 9 * page());
    shared.write_at(&[0xEE], 0).unwrap();
    assert_eq!(read_only.read::<u8>(0).unwrap(), 0xEE);
    assert_eq!(private.read::<u8>(0).unwrap(), 0xEE);
    assert_eq!((anon[0], &sealed[..]), (0, &[3; 5][..]));
    for (pointer, offset) in [(read_only.as_ptr(), 0), (private.as_ptr(), 4), (sealed.as_ptr(), 8)]
    {
        assert_eq!(pointer, reservation.as_ptr().wrapping_add(offset * page()).cast_const());
    }
    drop((read_only, shared, private, anon, memory, sealed));
    assert_eq!(reservation.used(), 0);
}

#[test]
fn a_place_that_overlaps_one_in_use_is_refused_and_says_which() {
    let reservation = Reservation::new(8 * page()).unwrap();
    let there = place(&reservation, 2, 2).unwrap();
    there.write_at(&[7], 0).unwrap();
    for (first, pages) in [(2, 2), (1, 2), (3, 1), (3, 4), (0, 8), (2, 1)] {
        let error = refused_by_rule(place(&reservation, first, pages), Errno::EXIST, "in use");
        assert!(error.to_string().contains(&format!("{}..{}", 2 * page(), 4 * page())), "{error}");
    }
    assert_eq!((byte(&there, 0), reservation.used()), (7, 2 * page()));
    let before = place(&reservation, 0, 2).unwrap();
    let behind = place(&reservation, 4, 4).unwrap();
    assert_eq!((byte(&before, 0), byte(&behind, 0)), (0, 0));
}

#[test]
fn a_place_over_a_commit_is_refused() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let slice = reservation.commit(page()).unwrap();
    slice.fill(7);
    refused_by_rule(place(&reservation, 0, 2), Errno::EXIST, "in use");
    assert_eq!(slice[0], 7);
}

#[test]
fn a_place_outside_the_reservation_or_between_pages_is_refused() {
    let reservation = Reservation::new(4 * page()).unwrap();
    refused_by_rule(place(&reservation, 4, 1), Errno::NOMEM, "the reservation has");
    refused_by_rule(place(&reservation, 3, 2), Errno::NOMEM, "the reservation has");
    let between = MapOptions::new().within(&reservation, page() + 1);
    let error = refused_by_rule(
        between.region(page(), Prot::READ),
        Errno::INVAL,
        "multiple of the page size",
    );
    assert!(error.to_string().contains(&format!("use {} or {}", page(), 2 * page())), "{error}");
    assert_eq!(reservation.used(), 0);
}

#[test]
fn dropping_a_placed_map_frees_its_place() {
    let reservation = Reservation::new(2 * page()).unwrap();
    let region = place(&reservation, 0, 2).unwrap();
    region.write_at(&[7], 0).unwrap();
    drop(region);
    assert_eq!(reservation.used(), 0);
    let region = place(&reservation, 0, 2).unwrap();
    assert_eq!(byte(&region, 0), 0);
    region.unmap().unwrap();
    assert_eq!(reservation.used(), 0);
}

#[test]
fn unmapping_a_part_of_a_placed_map_frees_that_part() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut region = place(&reservation, 0, 4).unwrap();
    region.unmap_range(page()..2 * page()).unwrap();
    assert_eq!(reservation.used(), 3 * page());
    let other = place(&reservation, 1, 1).unwrap();
    other.write_at(&[7], 0).unwrap();
    drop(region);
    assert_eq!((reservation.used(), byte(&other, 0)), (page(), 7));
}

#[test]
fn the_parts_of_a_split_free_their_own_places() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut low = place(&reservation, 0, 4).unwrap();
    let high = low.split_off(page()).unwrap();
    high.write_at(&[7], 0).unwrap();
    drop(low);
    assert_eq!(reservation.used(), 3 * page());
    let again = place(&reservation, 0, 1).unwrap();
    assert_eq!((byte(&again, 0), byte(&high, 0)), (0, 7));
}

#[test]
fn neighbours_in_one_reservation_can_be_merged_and_those_of_two_cannot() {
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut low = place(&reservation, 0, 1).unwrap();
    low.merge(place(&reservation, 1, 1).unwrap()).unwrap();
    assert_eq!(low.len(), 2 * page());
    drop(low);
    assert_eq!(reservation.used(), 0);
    child_succeeds(|| {
        // Two reservations side by side: among many, the kernel makes some.
        let all: Vec<_> = (0..64).map(|_| Reservation::new(page()).unwrap()).collect();
        let behind = |low: &Reservation| low.as_ptr().wrapping_add(page());
        let pair = all
            .iter()
            .find_map(|low| Some((low, all.iter().find(|high| high.as_ptr() == behind(low))?)));
        let Some((low, high)) = pair else {
            return skip("the kernel did not place two reservations side by side");
        };
        let mut first = place(low, 0, 1).unwrap();
        let refused = first.merge(place(high, 0, 1).unwrap()).unwrap_err();
        assert_eq!(refused.error.errno(), Errno::INVAL);
    });
}

#[test]
fn the_kernel_places_nobody_in_a_reservation() {
    child_succeeds(|| {
        let reservation = Reservation::new(64 * page()).unwrap();
        let range =
            reservation.as_ptr() as usize..reservation.as_ptr() as usize + reservation.len();
        for number in 0..16 {
            drop(place(&reservation, 4 * number, 3).unwrap());
        }
        let mut half = place(&reservation, 0, 8).unwrap();
        half.unmap_range(2 * page()..6 * page()).unwrap();
        assert!(!kernel_places_one_in(range, 500));
    });
}

#[test]
fn a_place_freed_outside_a_reservation_can_be_taken_by_the_kernel() {
    // The test above would see this without a reservation: it can fail.
    child_succeeds(|| {
        let region = MapOptions::new().region(64 * page(), Prot::READ_WRITE).unwrap();
        let range = region.as_ptr() as usize..region.as_ptr() as usize + region.len();
        drop(region);
        assert!(kernel_places_one_in(range, 500));
    });
}

#[test]
fn a_map_that_the_kernel_refuses_leaves_the_place_reserved_and_free() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let write_only = std::fs::File::options().write(true).open(&path).unwrap();
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    child_succeeds(|| {
        let reservation = Reservation::new(4 * page()).unwrap();
        let there = MapOptions::new().within(&reservation, page());
        // Refused before the kernel unmaps the memory at that address …
        refused_by_kernel(there.map(&write_only), Errno::ACCESS);
        // … and by the file system, after it has.
        refused_by_kernel(there.clone().flags(MapFlags::SYNC).map_mut(&file), Errno::OPNOTSUPP);
        assert_eq!(reservation.used(), 0);
        for number in 0..4 {
            let at = reservation.as_ptr().wrapping_add(number * page());
            assert!(is_mapped(at), "page {number} no longer reserves");
        }
        assert_eq!(there.map(&file).unwrap().read_vec(..).unwrap(), pattern(2));
    });
}

#[test]
fn a_refused_placement_never_opens_the_place_to_another_thread() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    child_succeeds(|| {
        let reservation = Reservation::new(4 * page()).unwrap();
        let place = reservation.as_ptr() as usize + page();
        let there = MapOptions::new().within(&reservation, page());
        let ended = AtomicBool::new(false);
        let taken = std::thread::scope(|scope| {
            let other = scope.spawn(|| {
                // Another reserves there as soon as it can, as allocators do.
                let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::NORESERVE;
                let flags = flags | MapFlags::FIXED_NOREPLACE;
                let mut taken = false;
                while !ended.load(Ordering::Relaxed) {
                    // SAFETY: NOREPLACE replaces nothing.
                    let map =
                        unsafe { raw::mmap(place as *mut u8, page(), Prot::NONE, flags, -1, 0) };
                    taken |= map.is_ok();
                }
                taken
            });
            // The file system refuses it, which with FIXED it would do after the place was
            // unmapped.
            let sync = there.clone().flags(MapFlags::SYNC);
            for _ in 0..20_000 {
                sync.map_mut(&file).unwrap_err();
            }
            ended.store(true, Ordering::Relaxed);
            other.join().unwrap()
        });
        assert!(!taken, "another thread's map lies in the reservation");
        assert_eq!(there.map(&file).unwrap().read_vec(..).unwrap(), pattern(1));
    });
}

// Ends.

#[test]
fn a_region_outlives_its_reservation() {
    child_succeeds(|| {
        let reservation = Reservation::new(4 * page()).unwrap();
        let start = reservation.as_ptr();
        let region = place(&reservation, 1, 1).unwrap();
        region.write_at(&[7], 0).unwrap();
        drop(reservation);
        assert_eq!(byte(&region, 0), 7);
        let range = start as usize..start as usize + 4 * page();
        assert!(!kernel_places_one_in(range, 100), "the space was given back under its region");
        drop(region);
        for number in 0..4 {
            assert!(
                !is_mapped(start.wrapping_add(number * page())),
                "page {number} is still mapped"
            );
        }
    });
}

#[test]
fn a_reservation_gives_everything_back() {
    child_succeeds(|| {
        let reservation = Reservation::new(8 * page()).unwrap();
        let start = reservation.as_ptr();
        reservation.commit(2 * page()).unwrap().fill(1);
        drop(place(&reservation, 4, 2).unwrap());
        drop(reservation);
        for number in 0..8 {
            assert!(
                !is_mapped(start.wrapping_add(number * page())),
                "page {number} is still mapped"
            );
        }
    });
}

// Growth at a stable address.

#[test]
fn memory_with_capacity_grows_and_its_pointers_stay_valid() {
    let mut block = MapOptions::new().capacity(256 * page()).anon(10).unwrap();
    let first = block.as_ptr();
    block[..10].copy_from_slice(b"0123456789");
    let mut pointers = vec![(0, first, b'0')];
    for pages in 1..=256 {
        let old = block.len();
        block.grow(pages * page()).unwrap();
        assert!(block[old..].iter().all(|&byte| byte == 0));
        let last = block.len() - 1;
        block[last] = pages as u8;
        pointers.push((last, block.as_ptr().wrapping_add(last), pages as u8));
    }
    assert_eq!((block.as_ptr(), block.len()), (first, 256 * page()));
    for (offset, pointer, value) in pointers {
        // SAFETY: the block still lives, and did not move; nothing writes to it now.
        assert_eq!((unsafe { pointer.read() }, block[offset]), (value, value));
    }
}

#[test]
fn memory_grows_to_its_capacity_and_no_further() {
    let mut block = MapOptions::new().capacity(4 * page()).anon(page()).unwrap();
    block[0] = 7;
    refused_by_rule(block.grow(4 * page() + 1), Errno::NOMEM, "with room for");
    assert_eq!((block.len(), block[0]), (page(), 7));
    block.grow(4 * page()).unwrap();
    assert_eq!((block.len(), block[0]), (4 * page(), 7));
}

#[test]
fn memory_that_could_grow_starts_empty_too() {
    let mut block = MapOptions::new().capacity(4 * page()).anon(0).unwrap();
    let start = block.as_ptr();
    assert!(block.is_empty());
    block.grow(3 * page()).unwrap();
    assert_eq!((block.as_ptr(), block.len()), (start, 3 * page()));
    assert!(block.iter().all(|&byte| byte == 0));
}

#[test]
fn capacity_costs_addresses_and_no_memory() {
    let block = MapOptions::new().capacity(1 << 40).anon(page()).unwrap();
    assert_eq!(block.residency(..).unwrap().known().unwrap().resident_bytes(), 0);
    assert_eq!(area_at(block.as_ptr().wrapping_add(page())).rights, "---p");
}

#[test]
fn capacity_is_given_back_with_the_memory() {
    child_succeeds(|| {
        let mut block = MapOptions::new().capacity(8 * page()).anon(page()).unwrap();
        block.grow(3 * page()).unwrap();
        let start = block.as_ptr().cast_mut();
        drop(block);
        for number in 0..8 {
            assert!(
                !is_mapped(start.wrapping_add(number * page())),
                "page {number} is still mapped"
            );
        }
    });
}

#[test]
fn growth_without_capacity_does_not_move() {
    let mut block = Anon::new(page()).unwrap();
    let start = block.as_ptr();
    block[0] = 7;
    // It depends on the addresses behind whether it succeeds; that it stays does not.
    let _ = block.grow(64 * page());
    assert_eq!((block.as_ptr(), block[0]), (start, 7));
}

#[test]
fn memory_that_grew_is_absent_from_children_if_it_was_before() {
    let mut block = MapOptions::new().capacity(8 * page()).fork(Fork::Absent).anon(page()).unwrap();
    block.grow(4 * page()).unwrap();
    block[3 * page()] = 7;
    let start = block.as_ptr().cast_mut();
    child_succeeds(|| {
        for number in 0..8 {
            assert!(!is_mapped(start.wrapping_add(number * page())), "the child has page {number}");
        }
    });
    assert_eq!(block[3 * page()], 7);
}

// Guard pages.

fn guarded(touch: impl Fn(*const u8, usize)) -> End {
    let block = MapOptions::new().guard_pages().anon(2 * page()).unwrap();
    in_child(|| touch(block.as_ptr(), block.len()))
}

fn load(address: *const u8) {
    // SAFETY: a load that may kill its child, as the test shows.
    let _ = unsafe { address.read_volatile() };
}

#[test]
fn a_touch_before_a_guarded_map_kills() {
    assert_eq!(guarded(|start, _| load(start.wrapping_sub(1))), End::Killed(libc::SIGSEGV));
    assert_eq!(guarded(|start, _| load(start.wrapping_sub(page()))), End::Killed(libc::SIGSEGV));
}

#[test]
fn a_touch_behind_a_guarded_map_kills() {
    assert_eq!(guarded(|start, len| load(start.wrapping_add(len))), End::Killed(libc::SIGSEGV));
    assert_eq!(
        guarded(|start, len| load(start.wrapping_add(len + page() - 1))),
        End::Killed(libc::SIGSEGV)
    );
}

#[test]
fn a_touch_at_either_end_of_a_guarded_map_does_not() {
    assert_eq!(guarded(|start, _| load(start)), End::Exited(0));
    assert_eq!(guarded(|start, len| load(start.wrapping_add(len - 1))), End::Exited(0));
}

#[test]
fn growth_never_takes_the_guard_pages() {
    let mut block = MapOptions::new().guard_pages().capacity(4 * page()).anon(page()).unwrap();
    block.grow(4 * page()).unwrap();
    block.fill(1);
    let end = block.as_ptr().wrapping_add(4 * page());
    assert_eq!(area_at(end).rights, "---p");
    assert_eq!(area_at(block.as_ptr().wrapping_sub(1)).rights, "---p");
    assert_eq!(block.grow(4 * page() + 1).unwrap_err().errno(), Errno::NOMEM);
    assert_eq!(in_child(|| load(end)), End::Killed(libc::SIGSEGV));
}

#[test]
fn growth_with_guard_pages_stops_at_the_capacity() {
    // The page that guards the end must never become part of the map.
    let mut block = MapOptions::new().guard_pages().anon(page()).unwrap();
    assert_eq!(block.grow(2 * page()).unwrap_err().errno(), Errno::NOMEM);
    assert_eq!(block.len(), page());
}

#[test]
fn guard_pages_and_capacity_are_for_anonymous_memory_that_lies_anywhere() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(1));
    let file = std::fs::File::open(path).unwrap();
    let reservation = Reservation::new(4 * page()).unwrap();
    refused_by_rule(MapOptions::new().guard_pages().map(&file), Errno::INVAL, "guard pages");
    refused_by_rule(MapOptions::new().capacity(1).map(&file), Errno::INVAL, "capacity");
    let placed = MapOptions::new().within(&reservation, 0);
    refused_by_rule(placed.clone().guard_pages().anon(1), Errno::INVAL, "reservation of their own");
    refused_by_rule(placed.capacity(page()).anon(1), Errno::INVAL, "reservation of their own");
    assert_eq!(reservation.used(), 0);
}

#[test]
fn shared_memory_can_be_guarded_too() {
    let memory: SharedMem = MapOptions::new().guard_pages().shared_anonymous(page()).unwrap();
    let end = memory.as_ptr().wrapping_add(page());
    assert_eq!(in_child(|| load(end)), End::Killed(libc::SIGSEGV));
    assert_eq!(in_child(|| load(end.wrapping_sub(1))), End::Exited(0));
}

// Claims against a model.

#[derive(Debug, Clone)]
enum Step {
    Place { first: usize, pages: usize },
    Drop { which: usize },
    Unmap { which: usize, first: usize, pages: usize },
    Split { which: usize, at: usize },
    Commit { pages: usize },
}

const PAGES: usize = 16;

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..PAGES, 1_usize..6).prop_map(|(first, pages)| Step::Place { first, pages }),
        3 => any::<usize>().prop_map(|which| Step::Drop { which }),
        2 => (any::<usize>(), 0_usize..5, 1_usize..4)
            .prop_map(|(which, first, pages)| Step::Unmap { which, first, pages }),
        1 => (any::<usize>(), 0_usize..6).prop_map(|(which, at)| Step::Split { which, at }),
        1 => (1_usize..3).prop_map(|pages| Step::Commit { pages }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Each page of the reservation has at most one owner; a refused request changes nothing;
    /// returned pages are free again; and the bytes of each owner are its own.
    #[test]
    fn claims_are_those_of_a_plain_table(steps in proptest::collection::vec(step(), 1..40)) {
        let reservation = Reservation::new(PAGES * page()).unwrap();
        // The owner of each page: a number of its own for every map and commit.
        let mut owners = [0_u8; PAGES];
        let mut regions: Vec<Region> = Vec::new();
        let mut commits = Vec::new();
        let first_page = |region: &Region| (region.as_ptr() as usize - reservation.as_ptr() as usize) / page();
        let mut next = 0_u8;
        for step in steps {
            match step {
                Step::Place { first, pages } => {
                    let room = owners.get(first..first + pages);
                    let free = room.is_some_and(|room| room.iter().all(|&owner| owner == 0));
                    let errno = room.map_or(Errno::NOMEM, |_| Errno::EXIST);
                    match place(&reservation, first, pages) {
                        Ok(region) => {
                            prop_assert!(free);
                            prop_assert_eq!(first_page(&region), first);
                            next += 1;
                            owners[first..first + pages].fill(next);
                            region.write_at(&vec![next; pages * page()], 0).unwrap();
                            regions.push(region);
                        }
                        Err(error) => {
                            prop_assert!(!free);
                            prop_assert_eq!(error.errno(), errno);
                        }
                    }
                }
                Step::Drop { which } if !regions.is_empty() => {
                    let region = regions.swap_remove(which % regions.len());
                    let first = first_page(&region);
                    for part in region.mapped() {
                        owners[first + part.start / page()..first + part.end / page()].fill(0);
                    }
                    drop(region);
                }
                Step::Unmap { which, first, pages } if !regions.is_empty() => {
                    let which = which % regions.len();
                    let region = &mut regions[which];
                    let start = first_page(region);
                    let range = first * page()..(first + pages) * page();
                    let parts: Vec<_> = region.mapped().collect();
                    match region.unmap_range(range.clone()) {
                        Ok(()) => for part in parts {
                            let (from, to) = (part.start.max(range.start), part.end.min(range.end));
                            if from < to {
                                owners[start + from / page()..start + to / page()].fill(0);
                            }
                        },
                        Err(_) => prop_assert!(range.end > region.len()),
                    }
                }
                Step::Split { which, at } if !regions.is_empty() => {
                    let which = which % regions.len();
                    let inside = at * page() <= regions[which].len();
                    let rest = regions[which].split_off(at * page());
                    prop_assert_eq!(rest.is_ok(), inside);
                    regions.extend(rest);
                }
                Step::Commit { pages } => {
                    let first = owners.iter().rposition(|&owner| owner != 0).map_or(0, |last| last + 1);
                    match reservation.commit(pages * page()) {
                        Ok(slice) => {
                            prop_assert!(first + pages <= PAGES);
                            let start = slice.as_ptr() as usize - reservation.as_ptr() as usize;
                            prop_assert_eq!(start, first * page());
                            prop_assert!(slice.iter().all(|&byte| byte == 0));
                            next += 1;
                            owners[first..first + pages].fill(next);
                            slice.fill(next);
                            commits.push((next, slice));
                        }
                        Err(error) => {
                            prop_assert!(first + pages > PAGES);
                            prop_assert_eq!(error.errno(), Errno::NOMEM);
                        }
                    }
                }
                _ => {}
            }
            let taken = owners.iter().filter(|&&owner| owner != 0).count();
            prop_assert_eq!(reservation.used(), taken * page());
            for region in &regions {
                let first = first_page(region);
                for part in region.mapped() {
                    for number in part.start / page()..part.end / page() {
                        prop_assert_eq!(byte(region, number * page()), owners[first + number]);
                    }
                }
            }
            for (owner, slice) in &commits {
                prop_assert!(slice.iter().all(|byte| byte == owner));
            }
        }
    }
}

#[test]
fn a_file_map_placed_in_a_reservation_with_an_offset_shows_the_asked_bytes() {
    let dir = disk_dir();
    let all = pattern(3);
    let path = file_with(dir.path(), &all);
    let reservation = Reservation::new(4 * page()).unwrap();
    let options =
        MapOptions::new().within(&reservation, page()).offset(page() as u64 + 5).len(page());
    let map: FileMap = options.map(std::fs::File::open(path).unwrap()).unwrap();
    // The page below the offset lies at the place.
    assert_eq!(map.as_ptr(), reservation.as_ptr().wrapping_add(page() + 5).cast_const());
    assert_eq!(map.read_vec(..).unwrap(), all[page() + 5..2 * page() + 5]);
    assert_eq!(reservation.used(), 2 * page());
}
