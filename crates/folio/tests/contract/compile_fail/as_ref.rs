//! E0277
//! Parsers that take anything with bytes do not take memory that others can change.
use folio::*;

fn parse(_: impl AsRef<[u8]>) {}

pub fn all(
    map: FileMap,
    mutable: FileMapMut,
    private: FileMapPrivate,
    shared: SharedMem,
    device: Device,
    region: Region,
    sealed: Sealed,
    anon: Anon,
) {
    parse(map); //~
    parse(mutable); //~
    parse(private); //~
    parse(shared); //~
    parse(device); //~
    parse(region); //~
    parse(sealed);
    parse(anon);
}

pub fn views(map: &FileMap) -> Result<()> {
    map.guard(|view| {
        parse(view); //~
    })
}
