//! Neither a long file nor one that lies about its sizes makes the intake take memory. One test, so that nothing else is in
//! the process.

#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

use ipivrs::intake::{Options, read};
use ipivrs::measure::repeat;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

const FILE: &str = "kut-apic-x2apic.perf.data";
/// The file has 73 KiB.
const LIMIT_KIB: u64 = 64 * 1024;
const LONG: &str = "linux-boot-long-x2apic-smp2.perf.data";
/// Of each IPI, while columns grow and are made of rows.
const BYTES_OF_AN_IPI: u64 = 300;
const HEADER: usize = 104;
const DATA_OFFSET: usize = 40;
const DATA_SIZE: usize = 48;
const SECTION_SIZE: usize = 16;
/// How many features of this file are before the description of the events, which is feature 12.
const EVENT_DESC: usize = 11;
/// The table of features, and a part of the tracing data.
const TABLE_SIZE: usize = 21 * SECTION_SIZE + 256;

/// Peak of virtual memory: an allocation counts even if it is never touched.
const VIRTUAL: &str = "VmPeak:";
/// Peak of memory that was touched: an allocation counts even if it is in what the allocator had reserved.
const TOUCHED: &str = "VmHWM:";

fn peak_kib(of: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(of)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn example(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap()
}

fn word(bytes: &[u8], at: usize) -> usize {
    u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
}

#[test]
fn memory_is_bounded() {
    long_files_take_none();
    lying_sizes_take_none();
}

/// What grows with a recording are the IPIs alone, which are its result.
fn long_files_take_none() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("memory.perf.data");
    let long = example(LONG);
    let peak_of = |samples| {
        let samples = repeat(&long, samples, BufWriter::new(File::create(&path).unwrap())).unwrap();
        let nobodys = Options { process: Some(1), ..Options::default() };
        assert!(read(&path, &nobodys).unwrap_err().to_string().contains("process"), "there is none of this number");
        let without = peak_kib(TOUCHED);
        let recording = read(&path, &Options::default()).unwrap();
        assert_eq!(recording.records.values().sum::<u64>(), samples);
        (without, peak_kib(TOUCHED), recording.ipis.len() as u64, fs::metadata(&path).unwrap().len() / 1024)
    };
    let (_, first, few, small) = peak_of(50_000);
    let (without, last, many, large) = peak_of(400_000);
    fs::remove_file(&path).unwrap();
    assert!(large > 25_000 + small && many > 50_000 + few);
    assert!(without <= first + 2048, "no IPIs, and {} KiB more", without - first);
    let allowed = (many - few) * BYTES_OF_AN_IPI / 1024;
    assert!(last - first < allowed, "grew by {} KiB for {} IPIs", last - first, many - few);
}

fn lying_sizes_take_none() {
    let whole = example(FILE);
    let data = word(&whole, DATA_OFFSET)..word(&whole, DATA_OFFSET) + word(&whole, DATA_SIZE);
    let damaged = std::env::temp_dir().join(format!("ipivrs-intake-{}.perf.data", std::process::id()));
    read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(FILE), &Options::default()).unwrap();

    let before = peak_kib(VIRTUAL);
    // The header, the first records, the table of features and the first of them, and the description of the events.
    let events = word(&whole, data.end + EVENT_DESC * SECTION_SIZE);
    let table = data.end..data.end + TABLE_SIZE;
    let places = (0..HEADER).chain(data.start..data.start + 64).chain(table).chain(events..events + 512);
    for place in places.step_by(4) {
        for value in [u64::MAX, 1 << 44, 1 << 31] {
            let mut bytes = whole.clone();
            let end = bytes.len().min(place + 8);
            bytes[place..end].copy_from_slice(&value.to_le_bytes()[..end - place]);
            fs::write(&damaged, &bytes).unwrap();
            let _ = read(&damaged, &Options::default());
        }
    }
    let grown = peak_kib(VIRTUAL) - before;
    fs::remove_file(&damaged).unwrap();
    assert!(grown < LIMIT_KIB, "grew by {grown} KiB");
}
