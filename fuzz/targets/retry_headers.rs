//! Fuzzes `mountd::untrusted::retry_headers`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::retry_headers(bytes));
