//! See `shared::hostile::ring`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::ring(bytes));
