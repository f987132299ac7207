//! Properties of page arithmetic: how `page` rounds, cuts and refuses any numbers.

#[allow(dead_code, unreachable_pub, reason = "the module serves the whole library")]
#[path = "../src/page.rs"]
mod page;

use page::{PageSize, resolve, within};
use proptest::prelude::*;
use std::ops::{Bound, Range};

/// Page sizes from a byte to 16 GiB.
fn page() -> impl Strategy<Value = PageSize> {
    (0_u32..=34).prop_map(|shift| PageSize::new(1 << shift).unwrap())
}

/// Numbers of every magnitude, the largest included.
fn number() -> impl Strategy<Value = usize> {
    prop_oneof![0_usize..1 << 20, any::<usize>(), (0_usize..1 << 13).prop_map(|n| usize::MAX - n)]
}

/// A mapping of whole pages, and a range inside it.
fn inside() -> impl Strategy<Value = (PageSize, usize, Range<usize>)> {
    (0_u32..=21, 0_usize..64).prop_flat_map(|(shift, pages)| {
        let (page, limit) = (PageSize::new(1 << shift).unwrap(), pages << shift);
        (Just(page), Just(limit), 0..=limit, 0..=limit)
            .prop_map(|(page, limit, a, b)| (page, limit, a.min(b)..a.max(b)))
    })
}

fn bound() -> impl Strategy<Value = Bound<usize>> {
    prop_oneof![
        Just(Bound::Unbounded),
        number().prop_map(Bound::Included),
        number().prop_map(Bound::Excluded)
    ]
}

proptest! {
    #[test]
    fn only_powers_of_two_are_page_sizes(n in number()) {
        match PageSize::new(n) {
            Some(page) => {
                prop_assert!(n.is_power_of_two());
                prop_assert_eq!((page.bytes(), 1_usize << page.shift()), (n, n));
            }
            None => prop_assert!(!n.is_power_of_two()),
        }
    }

    #[test]
    fn floor_is_the_nearest_multiple_at_or_below(page in page(), n in number()) {
        let floor = page.floor(n);
        prop_assert_eq!(floor % page.bytes(), 0);
        prop_assert!(floor <= n && n - floor < page.bytes());
        prop_assert_eq!(page.divides(n), floor == n);
    }

    #[test]
    fn ceil_is_the_nearest_multiple_at_or_above(page in page(), n in number()) {
        match page.ceil(n) {
            Some(ceil) => {
                prop_assert_eq!(ceil % page.bytes(), 0);
                prop_assert!(ceil >= n && ceil - n < page.bytes());
            }
            // The multiple below plus one page must then not fit.
            None => prop_assert!(!page.divides(n) && page.floor(n).checked_add(page.bytes()).is_none()),
        }
    }

    #[test]
    fn outward_is_the_least_page_range_around_and_never_passes_the_mapping((page, limit, range) in inside()) {
        let out = page.outward(range.clone(), limit);
        prop_assert!(out.end <= limit);
        if range.is_empty() {
            prop_assert!(out.is_empty(), "an empty range touches no page");
        } else {
            prop_assert!(page.divides(out.start) && page.divides(out.end));
            prop_assert!(out.start <= range.start && range.end <= out.end);
            prop_assert!(range.start - out.start < page.bytes() && out.end - range.end < page.bytes());
        }
    }

    #[test]
    fn outward_is_cut_at_the_limit_even_where_rounding_overflows(page in page(), start in number()) {
        let limit = page.floor(usize::MAX);
        let range = start.min(limit)..limit;
        prop_assert!(page.outward(range, limit).end <= limit);
    }

    #[test]
    fn exact_takes_whole_pages_as_they_are_and_nothing_else((page, limit, range) in inside()) {
        let whole = page.divides(range.start) && page.divides(range.end);
        match page.exact(range.clone(), limit) {
            Ok(same) => {
                prop_assert!(whole);
                prop_assert_eq!(same, range);
            }
            Err(near) => {
                prop_assert!(!whole);
                prop_assert_eq!(near.page, page);
                let (outer, inner) = (near.outer, near.inner);
                // Both are usable as they stand.
                prop_assert_eq!(page.exact(outer.clone(), limit), Ok(outer.clone()));
                prop_assert_eq!(page.exact(inner.clone(), limit), Ok(inner.clone()));
                prop_assert!(outer.end <= limit && inner.end <= limit);
                // They enclose the asked range, less than a page away.
                prop_assert!(outer.start <= range.start && range.end <= outer.end && !outer.is_empty());
                prop_assert!(range.start - outer.start < page.bytes() && outer.end - range.end < page.bytes());
                if inner.is_empty() {
                    prop_assert!(outer.len() <= 2 * page.bytes(), "a whole page inside was not offered");
                } else {
                    prop_assert!(range.start <= inner.start && inner.end <= range.end);
                    prop_assert!(inner.start - range.start < page.bytes() && range.end - inner.end < page.bytes());
                }
            }
        }
    }

    #[test]
    fn cover_starts_at_the_page_below_and_holds_every_asked_byte(
        page in page(),
        offset in prop_oneof![0_u64..1 << 40, any::<u64>()],
        len in number(),
    ) {
        if let Some(cover) = page.cover(offset, len) {
            prop_assert_eq!(cover.file_offset % page.bytes() as u64, 0);
            prop_assert_eq!(cover.file_offset + cover.lead as u64, offset);
            prop_assert!(cover.lead < page.bytes());
            prop_assert!(page.divides(cover.mapped));
            prop_assert!(cover.lead + len <= cover.mapped);
            prop_assert!(cover.mapped - (cover.lead + len) < page.bytes(), "a page more than needed");
            prop_assert!(i64::try_from(cover.file_offset + cover.mapped as u64).is_ok());
        } else {
            // Computed without limits, the end must really exceed the kernel's range.
            let end = (u128::from(offset) + len as u128).next_multiple_of(page.bytes() as u128);
            prop_assert!(end > i64::MAX as u128);
        }
    }

    #[test]
    fn resolve_gives_what_slicing_would(start in bound(), end in bound(), len in number()) {
        let from = match start {
            Bound::Included(n) => n as u128,
            Bound::Excluded(n) => n as u128 + 1,
            Bound::Unbounded => 0,
        };
        let to = match end {
            Bound::Included(n) => n as u128 + 1,
            Bound::Excluded(n) => n as u128,
            Bound::Unbounded => len as u128,
        };
        let expected = (from <= to && to <= len as u128).then_some(from as usize..to as usize);
        prop_assert_eq!(resolve((start, end), len), expected);
    }

    #[test]
    fn resolve_agrees_with_slices_of_small_lengths(start in 0_usize..8, end in 0_usize..8, len in 0_usize..8) {
        let bytes = vec![0_u8; len];
        prop_assert_eq!(resolve(start..end, len).is_some(), bytes.get(start..end).is_some());
        prop_assert_eq!(resolve(start..=end, len).is_some(), bytes.get(start..=end).is_some());
        prop_assert_eq!(resolve(start.., len).map(|range| range.len()), bytes.get(start..).map(<[u8]>::len));
    }

    #[test]
    fn within_is_inside_or_nothing(offset in number(), count in number(), len in number()) {
        let end = offset as u128 + count as u128;
        let expected = (end <= len as u128).then_some(offset..end as usize);
        prop_assert_eq!(within(offset, count, len), expected);
    }

    #[test]
    fn a_page_size_is_shown_in_the_unit_that_divides_it(shift in 0_u32..=34) {
        let shown = PageSize::new(1 << shift).unwrap().to_string();
        let (count, unit) = shown.split_once(' ').unwrap();
        let unit = match unit { "bytes" => 0, "KiB" => 10, "MiB" => 20, "GiB" => 30, other => panic!("{other}") };
        prop_assert_eq!(count.parse::<u64>().unwrap() << unit, 1 << shift);
        prop_assert!(count.len() <= 3);
    }
}

#[test]
fn the_system_page_is_the_kernels() {
    // SAFETY: asks for a number.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    assert_eq!(PageSize::system().bytes(), bytes as usize);
}

#[test]
fn an_empty_range_inside_a_page_is_held_by_that_page() {
    let page = PageSize::new(4096).unwrap();
    let near = page.exact(5..5, 8192).unwrap_err();
    assert_eq!((near.outer, near.inner), (0..4096, 4096..4096));
    assert_eq!(page.exact(4096..4096, 8192), Ok(4096..4096));
}
