//! Fuzzes `mountd::untrusted::credential`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::credential(bytes));
