//! No file makes the intake panic or run for ever. That none makes it take memory that it does not warrant is tested in
//! tests/rust/intake_memory.rs, which has a process of its own.

use super::testing::{example_bytes, read_bytes};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const FILES: [&str; 4] = [
    "kut-apic-x2apic.perf.data",
    "native-sched-messaging.perf.data",
    "kut-apic-x2apic.perf-script.txt",
    "kut-smptest-x2apic-smp4-full.perf-script.txt",
];
/// What arbitrary bytes may stand behind.
const MAGIC: [&[u8]; 3] = [b"", b"PERFILE2", b"cpus=2\n"];
/// Values that damage likes to leave behind: all ones, powers of two, zeros.
fn nasty() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 1..9),
        Just(vec![0xFF; 8]),
        Just(vec![0xFF; 4]),
        Just(vec![0; 8]),
        (0_u32..64).prop_map(|bit| (1_u64 << bit).to_le_bytes().to_vec()),
    ]
}

fn damage(mut bytes: Vec<u8>, edits: Vec<(Index, Vec<u8>)>) -> Vec<u8> {
    for (at, value) in edits {
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + value.len());
        bytes[at..end].copy_from_slice(&value[..end - at]);
    }
    bytes
}

/// Positions in the parts of a perf.data file that other parts are found by.
fn structure(file: &[u8]) -> Vec<usize> {
    let word = |at: usize| u64::from_le_bytes(*file[at..].first_chunk().unwrap()) as usize;
    let (attributes, data) = (word(24)..word(24) + word(32), word(40)..word(40) + word(48));
    let records = data.start..data.start + 4096;
    (0..104).chain(attributes).chain(records).chain(data.end..file.len()).collect()
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_recording() {
    for name in FILES {
        let bytes = example_bytes(name);
        let is_perf_data = bytes.starts_with(b"PERFILE2");
        for length in (0..bytes.len()).step_by(bytes.len() / 300).chain(0..200).chain(bytes.len() - 200..bytes.len()) {
            let result = read_bytes(&bytes[..length]);
            assert!(!is_perf_data || result.is_err(), "{name} cut to {length} bytes");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn damage_anywhere(name in select(&FILES[..]), edits in vec((any::<Index>(), nasty()), 1..12)) {
        let _ = read_bytes(&damage(example_bytes(name), edits));
    }

    #[test]
    fn damage_in_the_structure(name in select(&FILES[..2]), edits in vec((any::<Index>(), nasty()), 1..4)) {
        let mut bytes = example_bytes(name);
        let places = structure(&bytes);
        for (place, value) in edits {
            let at = places[place.index(places.len())];
            let end = bytes.len().min(at + value.len());
            bytes[at..end].copy_from_slice(&value[..end - at]);
        }
        let _ = read_bytes(&bytes);
    }

    #[test]
    fn arbitrary_bytes(bytes in vec(any::<u8>(), 0..4096), magic in select(&MAGIC[..])) {
        let _ = read_bytes(&[magic, &bytes].concat());
    }

    #[test]
    fn arbitrary_lines(lines in vec("[ a-z0-9_:./|()=\\[\\]-]{0,20} [0-9]{1,5} \\[00[01]\\] [0-9]{1,4}\\.[0-9]{6}: kvm:kvm_(msr|apic_ipi|mmio|eoi): (dst|msr_write|mmio|apicid)?[ -~]{0,40}", 0..20)) {
        let _ = read_bytes(lines.join("\n").as_bytes());
    }
}
