//! Views and atomics of regions that keep their pages, and are nobody else's.

use crate::common::{child_succeeds, disk_dir, file_with, page, pattern};
use folio::{
    Anon, Discard, Errno, FileMapMut, Fork, MapOptions, Prot, Region, Reservation, Resize, Sealed,
    SharedMem,
};
use std::sync::atomic::{AtomicU32, Ordering};

/// The same pages twice, back to back.
fn ring(pages: usize) -> (Reservation, Region) {
    let size = pages * page();
    let memory = SharedMem::memfd("ring", size).unwrap();
    let place = Reservation::new(2 * size).unwrap();
    let half = |at| {
        let fd = memory.file().unwrap().try_clone_to_owned().unwrap();
        MapOptions::new().within(&place, at).shared_from_fd(fd).unwrap().into_region()
    };
    let mut ring = half(0);
    ring.merge(half(size)).unwrap();
    (place, ring)
}

#[test]
fn a_ring_of_pages_that_are_mapped_twice_is_written_by_views_and_atomics() {
    let (place, ring) = ring(1);
    drop(place);
    let view = ring.view_mut(..).unwrap();
    assert_eq!(view.len(), 2 * page());
    view.copy_from(b"around", page() - 3).unwrap();
    let mut start = [0; 3];
    view.copy_to(&mut start, 0).unwrap();
    assert_eq!(&start, b"und");
    assert!(view.set(page() + 1, b'N'));
    assert_eq!(ring.view(..3).unwrap().read::<[u8; 3]>(0).unwrap(), *b"uNd");
    let (low, high) =
        (ring.atomic::<AtomicU32>(8).unwrap(), ring.atomic::<AtomicU32>(page() + 8).unwrap());
    low.store(5, Ordering::Relaxed);
    child_succeeds(|| assert_eq!(high.fetch_add(1, Ordering::Relaxed), 5));
    assert_eq!(
        (low.load(Ordering::Relaxed), ring.atomics::<AtomicU32>(0, page() / 2).unwrap().len()),
        (6, page() / 2)
    );
}

#[test]
fn atomics_of_a_region_lie_inside_and_are_aligned() {
    let (_place, ring) = ring(1);
    assert_eq!(ring.atomic::<AtomicU32>(2).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(ring.atomic::<AtomicU32>(2 * page()).unwrap_err().errno(), Errno::INVAL);
    assert_eq!(ring.atomics::<AtomicU32>(0, usize::MAX).unwrap_err().errno(), Errno::INVAL);
}

#[test]
fn memory_of_the_process_own_has_views_as_a_region() {
    let regions = [
        Anon::new(2 * page()).unwrap().into_region(),
        MapOptions::new().region(2 * page(), Prot::READ_WRITE).unwrap(),
        SharedMem::anonymous(2 * page()).unwrap().into_region(),
    ];
    for mut region in regions {
        region.view_mut(..).unwrap().set(1, 7);
        let rest = region.split_off(page()).unwrap();
        rest.view_mut(..).unwrap().set(0, 8);
        region.merge(rest).unwrap();
        assert_eq!(region.view(..).unwrap().get(page()), Some(8));
    }
}

#[test]
fn a_view_needs_the_protection_of_all_pages() {
    let mut region = MapOptions::new().region(2 * page(), Prot::NONE).unwrap();
    assert_eq!(region.view(..).unwrap_err().errno(), Errno::ACCESS);
    region.protect(.., Prot::READ).unwrap();
    assert_eq!(region.view(..).unwrap().get(0), Some(0));
    assert_eq!(region.view_mut(..).unwrap_err().errno(), Errno::ACCESS);
    region.protect(..page(), Prot::READ_WRITE).unwrap();
    assert_eq!(region.view_mut(..page()).unwrap_err().errno(), Errno::ACCESS);
    region.protect(.., Prot::READ_WRITE).unwrap();
    region.view_mut(..).unwrap().set(0, 1);
    region.protect(page().., Prot::NONE).unwrap();
    assert_eq!(region.view(..page()).unwrap_err().errno(), Errno::ACCESS);
    let sealed = Sealed::build(page(), |bytes| bytes.fill(3)).unwrap().into_region();
    assert_eq!(sealed.view(..).unwrap().get(0), Some(3));
    assert_eq!(sealed.view_mut(..).unwrap_err().errno(), Errno::ACCESS);
    assert_eq!(sealed.atomic::<AtomicU32>(0).unwrap_err().errno(), Errno::ACCESS);
}

#[test]
fn memory_whose_pages_can_go_has_no_views() {
    let dir = disk_dir();
    let path = file_with(dir.path(), &pattern(2));
    let gone = |region: &Region| {
        let error = region.view(..).unwrap_err();
        assert_eq!(error.errno(), Errno::OPNOTSUPP, "{error}");
        assert!(region.atomic::<AtomicU32>(0).is_err() && region.view_mut(..).is_err());
    };
    let file = FileMapMut::open(&path).unwrap().into_region();
    gone(&file);
    // A region that a file's is joined to.
    let reservation = Reservation::new(4 * page()).unwrap();
    let mut joined =
        MapOptions::new().within(&reservation, 0).region(page(), Prot::READ_WRITE).unwrap();
    let map = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let next = MapOptions::new().within(&reservation, page()).map_mut(&map).unwrap().into_region();
    joined.merge(next).unwrap();
    gone(&joined);
    // Shared memory that reaches past its object, and one with pages given back.
    let mut shared = SharedMem::anonymous(page()).unwrap().into_region();
    shared.resize(4 * page(), Resize::MayMove).unwrap();
    gone(&shared);
    let mut shared = SharedMem::memfd("holes", page()).unwrap().into_region();
    shared.discard(.., Discard::Remove).unwrap();
    gone(&shared);
    // Private memory has pages wherever it reaches.
    let mut private = Anon::new(page()).unwrap().into_region();
    private.resize(4 * page(), Resize::MayMove).unwrap();
    private.view_mut(..).unwrap().set(4 * page() - 1, 1);
}

#[test]
fn holes_of_a_region_and_children_without_it_have_no_views() {
    let mut region = MapOptions::new().region(3 * page(), Prot::READ_WRITE).unwrap();
    region.unmap_range(page()..2 * page()).unwrap();
    assert_eq!(region.view(..).unwrap_err().errno(), Errno::NOMEM);
    region.view_mut(..page()).unwrap().set(0, 1);
    let mut region = MapOptions::new().region(page(), Prot::READ_WRITE).unwrap();
    region.set_fork(Fork::Absent).unwrap();
    child_succeeds(|| {
        assert_eq!(region.view(..).unwrap_err().errno(), Errno::NOMEM);
        assert_eq!(region.atomic::<AtomicU32>(0).unwrap_err().errno(), Errno::NOMEM);
    });
}
