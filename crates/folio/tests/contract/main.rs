//! The contract: one test per rule of mmap(2), its family, and folio's own promises, against the
//! real kernel.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod compile_fail;
mod derived;
mod devices;
mod differential;
mod documents;
mod errors;
mod examples;
mod faults;
mod flags;
mod foreign_text;
mod fork;
mod growth;
mod halves;
mod handles;
mod last_resort;
mod reasons;
mod regions;
mod reservations;
mod room;
mod settings;
mod signals;
mod size_limit;
mod stacks;
mod strangers;
mod values;
mod views;
