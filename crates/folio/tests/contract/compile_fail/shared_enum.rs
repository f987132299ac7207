//! : an enum cannot be shared: another process may store a number that is none of its variants; use an integer
//! A number that is none of an enum's would be undefined behaviour to look at.
use folio::shm::Share;

#[derive(Clone, Copy)]
pub enum Color {
    Red,
    Green,
}

pub mod shared {
    use super::Share;
    #[derive(Share)] #[repr(u8)] pub enum Color { Red = 1, Green = 2 } //~
}
