//! The crate's only unsafe code.
#![allow(unsafe_code)]
