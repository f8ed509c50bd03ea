//! A file that tells how far it was read.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes between two questions.
const OFTEN: u64 = 4 << 20;

/// A file, and who is asked whether to read on.
pub(super) struct Watched<'w> {
    file: File,
    size: u64,
    read: u64,
    asked: u64,
    keep_going: &'w mut dyn FnMut(u64, u64) -> bool,
}

impl<'w> Watched<'w> {
    pub(super) fn new(file: File, keep_going: &'w mut dyn FnMut(u64, u64) -> bool) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size, read: 0, asked: 0, keep_going })
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read += count as u64;
        if self.read - self.asked >= OFTEN {
            self.asked = self.read;
            // Parts of perf.data are read twice.
            if !(self.keep_going)(self.read.min(self.size), self.size) {
                return Err(io::Error::other("stopped"));
            }
        }
        Ok(count)
    }
}

impl Seek for Watched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::example;
    use super::super::{IntakeError, Options, read_watched};
    use super::*;

    const LONG: &str = "native-tlb-shootdown.perf.data";

    #[test]
    fn a_small_file_is_not_worth_a_question() {
        let recording = read_watched(&example(LONG), &Options::default(), &mut |_, _| false);
        assert!(recording.is_ok());
    }

    #[test]
    fn reading_ends_when_it_is_told_to() {
        let path = std::env::temp_dir().join(format!("ipivrs-watched-{}.txt", std::process::id()));
        let line = "qemu 7 [000] 1.000000: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n";
        std::fs::write(&path, line.repeat(2 * OFTEN as usize / line.len() + 1)).unwrap();
        let mut told = Vec::new();
        let mut keep_going = |read, size| {
            told.push((read, size));
            told.len() < 2
        };
        let stopped = read_watched(&path, &Options::default(), &mut keep_going);
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(stopped, Err(IntakeError::Io { .. })));
        assert_eq!(told.len(), 2);
        assert!(told[0].0 >= OFTEN && told[0].0 < told[1].0 && told[1].0 <= told[1].1);
    }
}
