//! E0423
//! The promise cannot be left out by building the handle that stands for it.
use folio::*;

pub fn stable(map: FileMap) {
    let _ = Stable(map); //~
}

pub fn exclusive(map: FileMapMut) {
    let _ = StableMut(map); //~
}
