//! See `shared::hostile::changes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::changes(bytes));
