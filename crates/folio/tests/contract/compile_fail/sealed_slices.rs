//! E0596
//! A promise that nobody changes the bytes, the kernel's or the caller's, allows no change of them.
use folio::*;

pub fn stable(stable: &mut Stable<ReadWrite>) {
    let _: &mut [u8] = stable; //~
}

pub fn sealed(sealed: &mut Sealed) {
    let _: &mut [u8] = sealed; //~
}
