//! E0505
//! A borrow from a map does not outlive it.
use folio::*;
use std::sync::atomic::{AtomicU32, Ordering};

pub fn anon_unmapped(anon: Anon) -> u8 {
    let bytes = &anon[..];
    anon.unmap().unwrap(); //~
    bytes[0]
}

pub fn anon_region(anon: Anon) -> u8 {
    let bytes = &anon[..];
    let _ = anon.into_region(); //~
    bytes[0]
}

pub fn anon_protected(anon: Anon) -> u8 {
    let bytes = &anon[..];
    let _ = anon.protect(Prot::NONE); //~
    bytes[0]
}

pub fn anon_dropped(anon: Anon) -> u8 {
    let bytes = &anon[..];
    drop(anon); //~
    bytes[0]
}

pub fn sealed_dropped(sealed: Sealed) -> u8 {
    let bytes = &sealed[..];
    drop(sealed); //~
    bytes[0]
}

pub fn view(shared: SharedMem) -> Option<u8> {
    let view = shared.view().unwrap();
    shared.unmap().unwrap(); //~
    view.get(0)
}

pub fn part(shared: SharedMem) -> Option<u8> {
    let view = shared.view_range(1..).unwrap();
    drop(shared); //~
    view.get(0)
}

pub fn atomic(shared: SharedMem) -> u32 {
    let atomic = shared.atomic::<AtomicU32>(0).unwrap();
    let _ = shared.into_region(); //~
    atomic.load(Ordering::Relaxed)
}

pub fn reader(map: FileMap) -> usize {
    let mut reader = map.reader();
    map.unmap().unwrap(); //~
    std::io::Read::read(&mut reader, &mut [0]).unwrap()
}

pub fn stable(stable: Stable) -> u8 {
    let bytes = &stable[..];
    // A map without the promise can be truncated under the slice.
    let _ = stable.into_inner(); //~
    bytes[0]
}

pub fn commit(reservation: Reservation) -> u8 {
    let bytes = reservation.commit(1).unwrap();
    drop(reservation); //~
    bytes[0]
}
