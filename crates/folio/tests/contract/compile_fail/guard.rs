//! E0521
//! A view cannot leave its guard: behind it, a page may be missing again.
use folio::*;

pub fn view(map: &FileMap) -> Result<()> {
    let mut escaped = None;
    map.guard(|view| {
        escaped = Some(*view); //~
    })?;
    let _: Option<View<'_>> = escaped;
    Ok(())
}

pub fn words(map: &FileMap) -> Result<()> {
    let mut escaped = Vec::new();
    map.guard(|view| {
        escaped.push(view.words()); //~
    })?;
    let _: Vec<Words<'_>> = escaped;
    Ok(())
}

pub fn part(map: &FileMapMut) -> Result<()> {
    let mut escaped = None;
    map.guard_mut(|view| {
        escaped = view.slice(..1).ok(); //~
    })?;
    let _: Option<View<'_>> = escaped;
    Ok(())
}

pub fn slice(map: &FileMap) -> Result<()> {
    let mut escaped: &[u8] = &[];
    // SAFETY: never run.
    unsafe {
        map.guard_slice(|bytes| {
            escaped = bytes; //~
        })?;
    }
    let _ = escaped;
    Ok(())
}
