//! Short-hands for the tests of this room.

use super::{IntakeError, Options, Recording, Via, perf_data, read_from, text};
use std::io::{BufReader, Cursor};
use std::path::{Path, PathBuf};

/// A recording from lines of text.
pub(super) fn read_text(text: &str, options: &Options) -> Result<Recording, IntakeError> {
    text::read(Path::new("test.txt"), text.as_bytes(), options)
}

/// A recording from lines of text that is in order.
pub(super) fn recorded(text: &str) -> Recording {
    read_text(text, &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Reads bytes as if they were a file.
pub(super) fn read_bytes(bytes: &[u8]) -> Result<Recording, IntakeError> {
    let path = Path::new("test");
    let failed = |source| IntakeError::Io { path: path.into(), source };
    read_from(path, BufReader::with_capacity(4096, Cursor::new(bytes)), failed, &Options::default())
}

/// Reads perf.data from memory.
pub(super) fn read_perf_data(bytes: &[u8]) -> Result<Recording, IntakeError> {
    perf_data::read(Path::new("perf.data"), BufReader::with_capacity(4096, Cursor::new(bytes)), &Options::default())
}

/// How each IPI was written, in one letter: Memory, Icr MSR, Self-IPI MSR.
pub(super) fn written(recording: &Recording) -> String {
    let letter = |via: &Via| match via {
        Via::Mmio => 'M',
        Via::X2ApicIcr => 'I',
        Via::SelfIpiMsr => 'S',
    };
    recording.ipis.via.iter().map(letter).collect()
}

/// The count of what was passed over for a reason that holds `part`.
pub(super) fn skipped(recording: &Recording, part: &str) -> u64 {
    recording.skipped.iter().filter(|skip| skip.reason.contains(part)).map(|skip| skip.count).sum()
}

/// A recording that is shipped with the project.
pub(super) fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// Its bytes.
pub(super) fn example_bytes(name: &str) -> Vec<u8> {
    std::fs::read(example(name)).unwrap()
}
