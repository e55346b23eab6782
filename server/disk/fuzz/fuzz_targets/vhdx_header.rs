#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| disk::fuzzing::run("vhdx_header", data));
