//! The contract: one test per rule of mmap(2), its family, and folio's own promises, against the real kernel.

mod bounds;
mod compile_fail;
mod devices;
mod differential;
mod documents;
mod errors;
mod examples;
mod faults;
mod flags;
mod foreign_text;
mod fork;
mod halves;
mod handles;
mod regions;
mod reservations;
mod room;
mod signals;
mod size_limit;
mod stacks;
mod strangers;
mod support;
