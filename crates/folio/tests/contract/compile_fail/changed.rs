//! E0502
//! A map does not change under what was borrowed from it.
use folio::*;

pub fn resized(mut anon: Anon) -> u8 {
    let bytes = &anon[..];
    anon.resize(1).unwrap(); //~
    bytes[0]
}

pub fn grown(mut anon: Anon) -> u8 {
    let bytes = &anon[..];
    anon.grow(1).unwrap(); //~
    bytes[0]
}

pub fn discarded(mut anon: Anon) -> u8 {
    let bytes = &anon[..];
    anon.discard(..).unwrap(); //~
    bytes[0]
}

pub fn written(mut anon: Anon) -> u8 {
    let bytes = &anon[..];
    anon[0] = 1; //~
    bytes[0]
}

pub fn file_resized(mut map: FileMap) -> usize {
    let mut reader = map.reader();
    map.resize(1).unwrap(); //~
    std::io::Read::read(&mut reader, &mut [0]).unwrap()
}

pub fn file_in_guard(mut map: FileMapMut) -> Result<()> {
    let shared = &map;
    map.protect(.., Prot::NONE).unwrap(); //~
    shared.guard(|_| ())
}
