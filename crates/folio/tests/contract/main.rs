//! The contract: one test per rule of mmap(2), its family, and folio's own promises, against the real kernel.

mod compile_fail;
mod derived;
mod devices;
mod differential;
mod documents;
mod errors;
mod examples;
mod faults;
mod flags;
mod fork;
mod handles;
mod regions;
mod reservations;
mod support;
