//! E0080
//! Padding would show other processes what lay in this one's memory before.
use folio::shm::Share;

#[derive(Share)]
#[repr(C)]
pub struct Filled {
    pub one: u32,
    pub fill: [u8; 4],
    pub other: u64,
}

pub mod padded {
    use super::Share;
    #[derive(Share)] #[repr(C)] pub struct Pair { pub one: u32, pub other: u64 } //~
}
