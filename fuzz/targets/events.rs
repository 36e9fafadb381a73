//! Fuzzes `mountd::untrusted::events`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::events(bytes));
