//! See `worker::hostile::events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::events(bytes));
