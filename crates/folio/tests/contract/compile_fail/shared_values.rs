//! E0599
//! A value is copied if it is plain data and used in place if it is made of atomics; a
//! guarded value is reached by way of its lock, and a torn one by way of a repair.
use folio::shm::{Locked, Mutex, RwLock, Segment, Share, field};
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Share)]
#[repr(C)]
pub struct Mixed {
    pub number: u64,
    pub counter: AtomicU32,
    pub size: u32,
}

pub fn values(mixed: &Segment<Mixed>) -> folio::Result<()> {
    field!(mixed.counter).fetch_add(1, Ordering::Relaxed);
    field!(mixed.number).store(1)?;
    mixed.shared_ref().load()?; //~
    field!(mixed.counter).load_it(); //~
    mixed.value().load()?; //~
    field!(mixed.number).fetch_add(1, Ordering::Relaxed); //~
    Ok(())
}

pub fn locks(number: &Segment<Mutex<u64>>, table: &Segment<RwLock<u64>>) -> folio::Result<()> {
    number.shared_ref().lock()?.clean()?.set(1)?;
    number.shared_ref().load()?; //~
    number.shared_ref().lock()?.set(1)?; //~
    number.shared_ref().lock()?.get()?; //~
    table.shared_ref().read()?.get()?; //~
    match number.shared_ref().lock()? {
        Locked::Clean(mut guard) => guard.set(2)?,
        Locked::Torn(torn) => {
            torn.get()?; //~
            torn.set(2)?; //~
            torn.repair(|number| number.store(2))?.set(3)?;
        }
    }
    if let folio::shm::ReadLocked::Clean(guard) = table.shared_ref().read()? {
        guard.set(1)?; //~
        guard.get()?;
    }
    Ok(())
}
