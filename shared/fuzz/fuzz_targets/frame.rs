//! See `shared::hostile::frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::frame(bytes));
