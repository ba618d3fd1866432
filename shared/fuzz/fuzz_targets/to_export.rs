//! See `shared::hostile::to_export`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::to_export(bytes));
