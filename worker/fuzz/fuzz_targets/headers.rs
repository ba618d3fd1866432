//! See `worker::hostile::headers`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::headers(bytes));
