//! Fuzzes `mountd::untrusted::state`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::state(bytes));
