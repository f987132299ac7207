//! Any bytes as a peer's writes over a channel: errors and wrong messages, and nothing worse.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| folio::shm::fuzzing::channel(bytes));
