//! A perf.data file of any bytes: read or refused, never a panic, and every column of the same length.
#![no_main]

mod recording;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The magic is given, or most inputs would be taken for text.
    let mut file = b"PERFILE2".to_vec();
    file.extend_from_slice(data.strip_prefix(b"PERFILE2").unwrap_or(data));
    recording::read("perf_data", &file);
});
