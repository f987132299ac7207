//! E0608
//! An index would be a reference to a byte that others can change.
use folio::*;

pub fn all(map: &FileMap, shared: &SharedMem, device: &Device, region: &Region) -> Result<()> {
    let _ = map[0]; //~
    let _ = shared[0]; //~
    let _ = device[0]; //~
    let _ = region[0]; //~
    map.guard(|view| {
        let _ = view[0]; //~
    })
}
