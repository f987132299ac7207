//! : add #[repr(C)]: without it each build may lay the fields out in its own way
//! Two builds must agree where each field lies.
use folio::shm::Share;

#[derive(Share)]
#[repr(C, align(16))]
pub struct Aligned {
    pub one: [u64; 2],
}

pub mod unwritten {
    use super::Share;
    #[derive(Share)] pub struct Pair { pub one: u64, pub other: u64 } //~
}
