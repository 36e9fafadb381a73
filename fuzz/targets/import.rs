//! Fuzzes `mountd::untrusted::import`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::import(bytes));
