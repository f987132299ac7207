//! E0609
//! A field that others can change is reached through the handle only.
use folio::shm::{Mutex, Segment, Share, Shared};

#[derive(Clone, Copy, Share)]
#[repr(C)]
pub struct Pair {
    pub one: u64,
    pub other: u64,
}

pub fn fields(shared: &Shared<Pair>, segment: &Segment<Pair>, lock: &Shared<Mutex<Pair>>) -> folio::Result<u64> {
    let sum = shared.load()?.one + segment.load()?.other;
    let _ = shared.one; //~
    let _ = segment.one; //~
    let _ = segment.shared_ref().one; //~
    let mut guard = lock.lock()?.clean()?;
    let _ = guard.one; //~
    guard.update(|pair| pair.one += 1)?;
    Ok(sum)
}
