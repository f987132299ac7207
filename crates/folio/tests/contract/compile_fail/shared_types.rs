//! E0277
//! Memory that other processes write has no type with an invalid bit pattern, and no address.
use folio::shm::{Mutex, RwLock, Segment, Share};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32};

#[derive(Clone, Copy, Share)]
#[repr(C)]
pub struct Plain {
    pub number: u64,
    pub words: [u16; 4],
}

#[derive(Share)]
#[repr(C)]
pub struct Mixed {
    pub number: u64,
    pub counter: AtomicU32,
    pub size: u32,
}

#[derive(Share)]
#[repr(C)]
pub struct Wrong {
    pub number: u8,
    pub flag: bool, //~
    pub letter: char, //~
    pub borrowed: &'static u8, //~
    pub address: *const u8, //~
    pub never_zero: std::num::NonZeroU8, //~
    pub owned: Option<Box<u8>>, //~
    pub text: String, //~
    pub size: usize, //~
    pub flags: AtomicBool, //~
    pub pointer: AtomicPtr<u8>, //~
    pub lock: Mutex<bool>, //~
}

pub fn segments(options: &folio::shm::SegmentOptions) -> folio::Result<()> {
    options.anonymous::<Plain>()?;
    options.anonymous::<[Mutex<Plain>]>()?;
    options.anonymous::<bool>()?; //~
    options.anonymous::<[&'static u8]>()?; //~
    options.anonymous::<RwLock<Vec<u8>>>()?; //~
    options.anonymous::<std::sync::Mutex<u8>>()?; //~
    options.anonymous::<std::cell::Cell<u8>>()?; //~
    Ok(())
}

pub fn threads(segment: &Segment<Mutex<u64>>) -> folio::Result<()> {
    let guard = segment.shared_ref().lock()?.clean()?;
    std::thread::scope(|scope| {
        scope.spawn(|| segment.shared_ref().lock().map(drop));
        scope.spawn(move || drop(guard));
    });
    Ok(())
}
