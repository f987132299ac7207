//! E0133
//! A slice of a file, and memory from elsewhere, only by a promise.
use folio::*;

pub fn stable(map: FileMap) {
    let _ = map.assume_stable(); //~
}

pub fn exclusive(map: FileMapMut, private: FileMapPrivate) {
    let _ = map.assume_exclusive(); //~
    let _ = private.assume_exclusive(); //~
}

pub fn guarded(map: &FileMap, mutable: &mut FileMapMut) {
    let _ = map.guard_slice(<[u8]>::len); //~
    let _ = mutable.guard_slice_mut(|bytes| bytes.fill(0)); //~
}

pub fn regions(region: Region) {
    let _ = region.advise_unchecked(.., UncheckedAdvice::Free); //~
    let _ = Anon::from_region(region); //~
    let _ = Region::from_raw_parts(std::ptr::null_mut(), 4096, PageSize::system()); //~
}
