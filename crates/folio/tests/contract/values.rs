//! Properties of folio's values as Rust values: they cross threads and panics, and errors can be
//! kept.

use folio::{
    Anon, CallError, Device, Error, Fault, FileMap, FileMapMut, FileMapPrivate, MapOptions, Region,
    Reservation, Sealed, SharedMem, Stable, StableMut,
};
use std::panic::{RefUnwindSafe, UnwindSafe, catch_unwind};

fn crosses_panics<T: UnwindSafe + RefUnwindSafe>() {}

#[test]
fn a_map_can_be_used_across_a_caught_panic() {
    crosses_panics::<FileMap>();
    crosses_panics::<FileMapMut>();
    crosses_panics::<FileMapPrivate>();
    crosses_panics::<Stable<folio::ReadOnly>>();
    crosses_panics::<StableMut<folio::ReadWrite>>();
    crosses_panics::<Anon>();
    crosses_panics::<Sealed>();
    crosses_panics::<SharedMem>();
    crosses_panics::<Device>();
    crosses_panics::<Region>();
    crosses_panics::<Reservation>();
    crosses_panics::<MapOptions>();
    crosses_panics::<Error>();
    crosses_panics::<Fault>();
    crosses_panics::<CallError>();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"bytes").unwrap();
    let map = FileMap::open(&path).unwrap();
    // A closure that panics in a guard leaves the map as it was.
    let caught = catch_unwind(|| map.guard(|_| -> () { std::panic::resume_unwind(Box::new(1)) }));
    assert!(caught.is_err());
    assert_eq!(map.guard(|view| view.bytes().len()).unwrap(), 5);
    assert_eq!(map.read_vec(..).unwrap(), b"bytes");
}
