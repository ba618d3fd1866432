//! See `shared::hostile::exporters`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::exporters(bytes));
