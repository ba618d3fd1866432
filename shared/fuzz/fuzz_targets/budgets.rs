//! See `shared::hostile::budgets`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| shared::hostile::budgets(bytes));
