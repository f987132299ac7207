//! Bytes from anywhere as the header of a segment: refused, or within their file.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| folio::shm::fuzzing::header(bytes));
