//! E0599
//! A read-only handle has no word for writing. Each kind has its own words for dropping bytes.
use folio::*;

pub fn file(map: &mut FileMap) -> Result<()> {
    map.write_at(&[1], 0)?; //~
    map.write(0, &1_u32)?; //~
    map.guard_mut(|_| ())?; //~
    map.sync(.., WriteBack::Wait)?; //~
    map.punch(..)?; //~
    map.revert(..)?; //~
    map.guard(|view| {
        view.set(0, 1); //~
        view.copy_from(&[1], 0).unwrap(); //~
        view.write(0, &1_u32).unwrap(); //~
    })
}

pub fn sealed(sealed: &mut Sealed) -> Result<()> {
    sealed.write_at(&[1], 0)?; //~
    sealed.resize(1)?; //~
    sealed.discard(..)?; //~
    Ok(())
}

/// A private map cannot punch the file, and a shared one cannot revert to it.
pub fn kinds(map: &mut FileMapMut, private: &mut FileMapPrivate) -> Result<()> {
    map.revert(..)?; //~
    private.punch(..)?; //~
    Ok(())
}

pub fn part(shared: &SharedMem) -> Result<()> {
    let view = shared.view_range(..)?;
    view.set(0, 1); //~
    Ok(())
}

/// Not even with a promise.
pub fn exclusive(map: FileMap) {
    // SAFETY: never run.
    unsafe {
        map.assume_exclusive(); //~
    }
}

/// The map under a slice must not be writable through safe calls meanwhile.
pub fn stable(stable: &Stable<ReadWrite>, private: &Stable<Private>) {
    let _ = stable.as_map(); //~
    let _ = private.as_map(); //~
}
