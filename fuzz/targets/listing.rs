//! Fuzzes `mountd::untrusted::listing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::listing(bytes));
