#![no_main]

#[path = "../entries/snapshots.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
