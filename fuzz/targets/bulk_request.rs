//! Fuzzes `mountd::untrusted::bulk_request`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::bulk_request(bytes));
