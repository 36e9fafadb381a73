//! Fuzzes `mountd::untrusted::control_body`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::control_body(bytes));
