//! Segments: made, opened, passed, grown, refused.

use crate::support::{End, in_child};
use crate::world::World;
use folio::shm::{Segment, SegmentOptions, Share, field};
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Share)]
#[repr(C)]
struct Board {
    visits: AtomicU64,
    title: [u8; 16],
    nested: Inner,
}

#[derive(Clone, Copy, Debug, PartialEq, Share)]
#[repr(C)]
struct Inner {
    a: u32,
    b: [u16; 2],
}

#[test]
fn two_processes_that_know_a_name_share_a_value() {
    let _world = World::new();
    let board = Segment::<Board>::create("board").unwrap();
    field!(board.visits).fetch_add(1, Ordering::SeqCst);
    let end = in_child(|| {
        drop(board.clone());
        let mine = Segment::<Board>::open("board").unwrap();
        field!(mine.visits).fetch_add(1, Ordering::SeqCst);
        field!(mine.title).store(*b"0123456789abcdef").unwrap();
        field!(mine.nested.b[1]).store(7).unwrap();
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!(field!(board.visits).load(Ordering::SeqCst), 2);
    assert_eq!(field!(board.title).load().unwrap(), *b"0123456789abcdef");
    assert_eq!(field!(board.nested).load().unwrap(), Inner { a: 0, b: [0, 7] });
}

#[test]
fn growth_is_seen_by_all_and_moves_nothing() {
    let _world = World::new();
    let numbers = SegmentOptions::new().count(10).reserve(1 << 20).create::<[u64]>("numbers").unwrap();
    let first = numbers.at(0).unwrap().as_ptr();
    let end = in_child(|| {
        numbers.grow(100_000).unwrap();
        numbers.at(99_999).unwrap().store(5).unwrap();
    });
    assert_eq!(end, End::Exited(0));
    assert_eq!((numbers.len(), numbers.generation()), (100_000, 1));
    assert_eq!(numbers.at(99_999).unwrap().load().unwrap(), 5);
    assert_eq!(numbers.at(0).unwrap().as_ptr(), first);
    assert!(numbers.at(100_000).is_none());
    assert!(numbers.grow((1 << 20) + 1).is_err());
}

#[test]
fn the_last_one_takes_the_name_along() {
    let world = World::new();
    let one = Segment::<u64>::create("last").unwrap();
    let two = Segment::<u64>::open("last").unwrap();
    assert_eq!(Segment::<u64>::create("last").unwrap_err().errno(), folio::Errno::EXIST);
    drop(one);
    assert_eq!(world.files(), ["folio.last"]);
    drop(two);
    assert_eq!(world.files(), [""; 0]);
    assert_eq!(Segment::<u64>::open("last").unwrap_err().errno(), folio::Errno::NOENT);
}
