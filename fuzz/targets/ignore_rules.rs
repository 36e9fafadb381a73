//! Fuzzes `mountd::untrusted::ignore_rules`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::ignore_rules(bytes));
