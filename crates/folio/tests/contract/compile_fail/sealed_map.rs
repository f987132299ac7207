//! E0507
//! A map that was sealed (mseal) is never given back.
use folio::*;

pub fn anon(anon: Anon) -> Result<()> {
    let sealed = anon.seal()?;
    sealed.unmap()?; //~
    Ok(())
}

pub fn file(map: FileMap) -> Result<()> {
    let sealed = map.seal()?;
    let _ = sealed.into_region(); //~
    Ok(())
}
