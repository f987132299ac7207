//! Any bytes as a peer's writes over a log: errors and missing entries, and nothing worse.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| folio::shm::fuzzing::log(bytes));
