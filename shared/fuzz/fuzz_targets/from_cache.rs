//! See `shared::hostile::from_cache`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::from_cache(bytes));
