//! Fuzzes `mountd::untrusted::refusal`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::refusal(bytes));
