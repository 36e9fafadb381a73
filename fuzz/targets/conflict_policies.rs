//! Fuzzes `mountd::untrusted::conflict_policies`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::conflict_policies(bytes));
