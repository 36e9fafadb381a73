//! Fuzzes `mountd::untrusted::path`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::path(bytes));
