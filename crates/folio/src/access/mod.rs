//! How safe code reaches bytes that others can change: views over memory that stay honest about it,
//! and guards that turn a fault inside a closure into an error.

mod guard;
mod reader;
mod typed;
mod volatile;
mod zeroed;

pub(crate) use guard::{NoResult, guarded};
pub use reader::Reader;
pub(crate) use typed::read_value;
pub use volatile::{View, ViewMut, Words};
pub(crate) use zeroed::zeroed_vec;
