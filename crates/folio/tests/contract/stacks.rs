//! No map lies where a stack grows: its frames would be in the map's bytes.

use crate::common::{child_succeeds, lower_limit, page, skip};
use folio::{Anon, Errno, Error, MapFlags, MapOptions, Prot, Reservation, Resize, raw};
use std::ops::Range;

/// The gap that the kernel keeps below a stack, in bytes, unless its command line says another.
fn gap() -> usize {
    256 * page()
}

const LIMIT: usize = 8 << 20;

/// The main thread's stack as it is now.
fn stack() -> Range<usize> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = text.lines().find(|line| line.ends_with("[stack]")).unwrap();
    let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
    usize::from_str_radix(start, 16).unwrap()..usize::from_str_radix(end, 16).unwrap()
}

/// Runs `work` in a process whose main stack may grow to [`LIMIT`].
fn with_limit(work: impl FnOnce()) {
    child_succeeds(|| {
        lower_limit(libc::RLIMIT_STACK, LIMIT as u64);
        work();
    });
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, Error>) {
    let error = result.unwrap_err();
    assert_eq!(error.errno(), Errno::NOMEM, "{error}");
    assert!(error.to_string().contains("stack"), "{error}");
}

fn anon_at(address: usize, length: usize) -> folio::Result<Anon> {
    MapOptions::new().at(address).anon(length)
}

#[test]
fn a_map_is_not_placed_where_the_main_stack_may_grow() {
    with_limit(|| {
        let stack = stack();
        let length = 2 << 20;
        refused(anon_at(stack.start - length, length));
        refused(anon_at(stack.start - gap() - length - page(), length));
        // At its limit it needs the gap too.
        refused(anon_at(stack.end - LIMIT - gap(), page()));
        refused(anon_at(stack.end - LIMIT - gap() - page(), 2 * page()));
        let below = anon_at(stack.end - LIMIT - gap() - page(), page()).unwrap();
        assert_eq!(below.as_ptr() as usize, stack.end - LIMIT - gap() - page());
    });
}

#[test]
fn a_stack_without_a_limit_keeps_the_gap_below_it() {
    child_succeeds(|| {
        let unlimited =
            libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
        // SAFETY: the limit is one.
        if unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const unlimited) } != 0 {
            return skip("the hard limit of stacks is lower");
        }
        let stack = stack();
        refused(anon_at(stack.start - page(), page()));
        refused(anon_at(stack.start - gap(), page()));
        anon_at(stack.start - gap() - 16 * page(), page()).unwrap();
    });
}

#[test]
fn a_hint_where_the_main_stack_may_grow_is_not_followed() {
    with_limit(|| {
        let stack = stack();
        let hint = stack.end - LIMIT / 2;
        let anon = MapOptions::new().hint(hint).anon(page()).unwrap();
        let start = anon.as_ptr() as usize;
        assert!(!(stack.end - LIMIT - gap()..stack.end).contains(&start), "{start:#x} {stack:#x?}");
    });
}

#[test]
fn growth_in_place_stops_below_the_main_stack_and_other_growth_moves() {
    with_limit(|| {
        let end = stack().end - LIMIT - gap();
        let start = end - 4 * page();
        let mut anon = anon_at(start, 4 * page()).unwrap();
        anon[0] = 7;
        refused(anon.grow(5 * page()));
        assert_eq!((anon.as_ptr() as usize, anon.len()), (start, 4 * page()));
        let mut region = anon.into_region();
        refused(region.resize(5 * page(), Resize::InPlace));
        // SAFETY: it was an `Anon` just now.
        let mut anon = unsafe { Anon::from_region(region) }.unwrap();
        anon.resize(5 * page()).unwrap();
        assert!(anon.as_ptr() as usize + anon.len() <= end || anon.as_ptr() as usize > end + LIMIT);
        assert_eq!((anon[0], anon[5 * page() - 1], anon.len()), (7, 0, 5 * page()));
    });
}

#[test]
fn a_reservation_that_a_stack_may_reach_gives_no_memory_there() {
    child_succeeds(|| {
        let reservation = Reservation::new(8 * page()).unwrap();
        let mut closed = MapOptions::new().region(page(), Prot::NONE).unwrap();
        let lowest = (reservation.as_ptr() as usize).min(closed.as_ptr() as usize);
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` has room for the answer.
        assert_eq!(unsafe { libc::getrlimit(libc::RLIMIT_STACK, &raw mut limit) }, 0);
        // From now on the stack may grow over both.
        limit.rlim_cur = (stack().end - lowest) as u64;
        // SAFETY: `limit` is one.
        let set = unsafe { libc::setrlimit(libc::RLIMIT_STACK, &raw const limit) };
        if set != 0 {
            return skip("the hard limit of stacks is lower");
        }
        refused(reservation.commit(page()).map(|bytes| bytes.len()));
        refused(MapOptions::new().within(&reservation, 2 * page()).anon(page()));
        assert_eq!(reservation.used(), 0);
        refused(closed.protect(.., Prot::READ_WRITE));
    });
}

#[test]
fn a_map_is_not_placed_in_the_gap_below_any_area_that_grows_down() {
    with_limit(|| {
        let flags = MapFlags::PRIVATE | MapFlags::ANONYMOUS | MapFlags::GROWSDOWN;
        let length = 4 * gap();
        // Room of its own, so that nothing else lies below.
        let room = MapOptions::new().region(length, Prot::NONE).unwrap().into_raw_parts().unwrap().0
            as usize;
        // SAFETY: the range was mapped just now, for this.
        unsafe { raw::munmap(room as *mut u8, length) }.unwrap();
        let top = room + length - page();
        let flags = flags | MapFlags::FIXED_NOREPLACE;
        // SAFETY: NOREPLACE replaces nothing, and nothing uses the addresses below.
        unsafe { raw::mmap(top as *mut u8, page(), Prot::READ_WRITE, flags, -1, 0) }.unwrap();
        refused(anon_at(top - page(), page()));
        refused(anon_at(top - gap(), page()));
        let mut anon = anon_at(top - gap() - 2 * page(), page()).unwrap();
        anon.grow(2 * page()).unwrap();
        refused(anon.grow(3 * page()));
        anon.resize(3 * page()).unwrap();
        assert!(anon.as_ptr() as usize + anon.len() <= top - gap() || anon.as_ptr() as usize > top);
    });
}
