//! E0308
//! No handle of memory that others can change is a slice.
use folio::*;

pub fn shared(
    map: &FileMap,
    mutable: &FileMapMut,
    private: &FileMapPrivate,
    shared: &SharedMem,
    device: &Device,
    region: &Region,
) {
    let _: &[u8] = map; //~
    let _: &[u8] = mutable; //~
    // Pages that were not copied yet show what others write.
    let _: &[u8] = private; //~
    let _: &[u8] = shared; //~
    let _: &[u8] = device; //~
    let _: &[u8] = region; //~
}

pub fn mutable(map: &mut FileMapMut, private: &mut FileMapPrivate, shared: &mut SharedMem, device: &mut Device) {
    let _: &mut [u8] = map; //~
    let _: &mut [u8] = private; //~
    let _: &mut [u8] = shared; //~
    let _: &mut [u8] = device; //~
}

pub fn views(map: &FileMapMut, shared: &SharedMem) -> Result<()> {
    let view = shared.view()?;
    let _: &[u8] = &view; //~
    map.guard(|view| {
        let _: &[u8] = view; //~
    })?;
    map.guard_mut(|view| {
        let _: &[u8] = view; //~
    })
}
