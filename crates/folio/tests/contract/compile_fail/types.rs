//! E0277
//! Bytes that others wrote become values of types for which any bits will do; processes share
//! integers.
use folio::*;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

pub fn reads(map: &FileMap, shared: &SharedMem) -> Result<()> {
    map.read::<u32>(0)?;
    map.read::<bool>(0)?; //~
    map.read::<char>(0)?; //~
    map.read::<&'static u8>(0)?; //~
    shared.read::<Option<Box<u8>>>(0)?; //~
    map.guard(|view| {
        view.read::<std::num::NonZeroU8>(0).unwrap(); //~
    })
}

/// Padding would show what lay in memory before.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Padded(u8, u32);

pub fn writes(map: &FileMapMut, padded: &Padded) -> Result<()> {
    map.write(0, &padded.1)?;
    map.write(0, padded)?; //~
    Ok(())
}

pub fn atomics(shared: &SharedMem) -> Result<()> {
    shared.atomic::<AtomicU32>(0)?;
    // A byte that is neither 0 nor 1 is no bool; an address means nothing to another process.
    shared.atomic::<AtomicBool>(0)?; //~
    shared.atomic::<AtomicPtr<u8>>(0)?; //~
    shared.atomic::<u32>(0)?; //~
    Ok(())
}

pub fn registers(device: &Device) -> Result<()> {
    device.load::<u32>(0)?;
    device.load::<f32>(0)?; //~
    device.load::<u128>(0)?; //~
    device.load::<[u8; 3]>(0)?; //~
    Ok(())
}

pub struct Mine;

// Nobody adds a kind.
impl Atom for Mine {} //~
impl FileAccess for Mine {} //~
