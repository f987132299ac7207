//! Bytes from anywhere as what a peer writes over a channel: errors and wrong messages, and nothing
//! worse.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| folio::shm::fuzzing::channel(bytes));
