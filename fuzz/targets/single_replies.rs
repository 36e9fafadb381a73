//! Fuzzes `mountd::untrusted::single_replies`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::single_replies(bytes));
