#![no_main]

#[path = "../entries/data_channel.rs"]
mod entry;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry::run(data));
