//! See `worker::hostile::form`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::form(bytes));
