//! Fuzzes `mountd::untrusted::bulk_reply`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mountd::untrusted::bulk_reply(bytes));
