//! The contract: one test per rule of mmap(2), its family, and folio's own promises, against the real kernel.

mod compile_fail;
mod devices;
mod differential;
mod documents;
mod errors;
mod examples;
mod faults;
mod flags;
mod fork;
mod growth;
mod handles;
mod reasons;
mod regions;
mod reservations;
mod settings;
mod support;
mod values;
mod views;
