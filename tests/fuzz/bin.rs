//! One coverage-guided fuzzer for each target, by the name of the binary; see `scripts/fuzz`.
#![no_main]

#[path = "targets/mod.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::run(env!("CARGO_BIN_NAME"), bytes));
