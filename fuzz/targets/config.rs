//! Fuzzes `mountd::untrusted::config`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::config(bytes));
