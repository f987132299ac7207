//! compiles
//! The words that the other files may not use, where they are allowed.
use folio::*;
use std::sync::atomic::{AtomicU8, AtomicU64};

pub fn slices(mut anon: Anon, sealed: &Sealed, stable: &Stable, mut exclusive: StableMut) {
    let _: &[u8] = &anon;
    let _: &mut [u8] = &mut anon;
    let _: &[u8] = sealed;
    let _: &[u8] = stable;
    let _: &mut [u8] = &mut exclusive;
    anon[0] = sealed[0] ^ stable[0] ^ exclusive[0];
    let _ = AsRef::<[u8]>::as_ref(sealed).len();
    let _ = (stable.as_map().len(), exclusive.into_inner().len());
}

pub fn writes(mut map: FileMapMut, private: &mut FileMapPrivate, shared: &SharedMem, device: &Device) -> Result<()> {
    map.write_at(&[1], 0)?;
    map.write(0, &1_u32)?;
    map.sync(.., WriteBack::Wait)?;
    map.guard_mut(|view| view.set(0, 1))?;
    map.punch(..)?;
    private.revert(..)?;
    private.write_at(&[1], 0)?;
    shared.write_at(&[1], 0)?;
    shared.write(0, &1_u32)?;
    shared.view()?.set(0, 1);
    shared.view()?.copy_from(&[1], 0)?;
    shared.view()?.write(0, &1_u32)?;
    device.store(0, device.load::<u64>(0)?)?;
    device.write_at(&[1], 0)
}

pub fn promises(map: FileMap, mut mutable: FileMapMut, region: Region) -> Result<()> {
    // SAFETY: never run.
    unsafe {
        map.guard_slice(<[u8]>::len)?;
        mutable.guard_slice_mut(|bytes| bytes.fill(0))?;
        region.advise_unchecked(.., UncheckedAdvice::Free)?;
        let _ = (map.assume_stable(), mutable.assume_exclusive(), Anon::from_region(region)?);
        let _ = Region::from_raw_parts(std::ptr::null_mut(), 0, PageSize::system())?;
    }
    Ok(())
}

pub fn views(map: &FileMap, shared: &SharedMem) -> Result<u64> {
    let sum = map.guard(|view| view.words().fold(0, u64::wrapping_add) + view.bytes().map(u64::from).sum::<u64>())?;
    let rest = map.guard_range(1.., |view| view.slice(1..).map(|view| view.len()))??;
    let _ = (shared.view_range(..)?, shared.atomic::<AtomicU64>(0)?, shared.atomics::<AtomicU8>(0, 8)?);
    Ok(sum + rest as u64 + map.read::<u64>(0)?)
}

pub fn changes(mut anon: Anon, shared: SharedMem, map: FileMap) -> Result<()> {
    let first = anon[0];
    anon.resize(1)?;
    anon.grow(2)?;
    anon.discard(..)?;
    anon.set_fork(Fork::Absent)?;
    let _ = (first, map.reader());
    anon.protect(Prot::READ)?.unmap()?;
    map.unmap()?;
    let _: &'static SharedMem = shared.seal()?;
    Ok(())
}
