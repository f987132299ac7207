//! : a packed struct cannot be shared: its fields would not be aligned
//! A field of a packed struct has no place of its own, however the word is spelt.
use folio::shm::Share;

#[derive(Share)]
#[repr(C)]
pub struct Unpacked {
    pub byte: u8,
    pub rest: [u8; 7],
    pub number: u64,
}

pub mod packed {
    use super::Share;
    #[derive(Share)] #[repr(C, packed)] pub struct Word { pub byte: u8, pub number: u64 } //~
    #[derive(Share)] #[repr(C, r#packed)] pub struct Raw { pub byte: u8, pub number: u64 } //~
    #[derive(Share)] #[repr(C, packed(1))] pub struct One { pub byte: u8, pub number: u64 } //~
    #[derive(Share)] #[repr(C, r#packed(2))] pub struct Two { pub half: u16, pub number: u64 } //~
    #[derive(Share)] #[repr(C)] #[repr(packed)] pub struct Apart { pub byte: u8, pub number: u64 } //~
    #[derive(Share)] #[cfg_attr(all(), repr(C, packed))] pub struct If { pub byte: u8, pub number: u64 } //~
}
