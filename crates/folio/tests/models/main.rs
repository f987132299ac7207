//! Protocols between threads and processes, under every order of steps that the memory model allows
//! (loom).
//!
//! Each model compiles the files of `src` that hold its protocol, on top of loom's atomics.

#![allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "each model compiles its own copy of a file of `src`, and uses a part of it"
)]

mod channel_ring;
mod command_queue;
mod fault_cell;
mod handler_table;
mod lock_words;
mod log_entries;
mod notifier;
