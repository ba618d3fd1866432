//! See `worker::hostile::requests`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::requests(bytes));
