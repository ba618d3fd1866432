//! See `worker::hostile::openai_other`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| worker::hostile::openai_other(bytes));
