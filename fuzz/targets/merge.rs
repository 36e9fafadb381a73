//! Fuzzes `mountd::untrusted::merge`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::merge(bytes));
