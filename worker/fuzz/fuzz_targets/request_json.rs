//! See `worker::hostile::request_json`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::request_json(bytes));
