//! The text of perf script, ftrace or trace-cmd report, or of none of them.
#![no_main]

mod recording;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| recording::read("text", data));
