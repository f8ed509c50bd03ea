//! Looks over a perf.data file before it is parsed: every size that the file states must fit the file.
//!
//! linux-perf-data allocates what a file asks for and reports an early end as "could not read"; after this check its
//! allocations are bounded by the file's size, and a damaged file gets an error that says where.

use super::error::IntakeError;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// Size of `perf_file_header`.
const HEADER_SIZE: u64 = 104;
/// Size of `perf_pipe_file_header`, which is how a stream is told from a file.
const PIPE_HEADER_SIZE: u64 = 16;
const SECTION_SIZE: u64 = 16;
/// Feature bits.
const TRACING_DATA: u32 = 1;
const EVENT_DESC: u32 = 12;
/// A part of the file, inside its bounds once checked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Section {
    pub(super) offset: u64,
    pub(super) size: u64,
}

impl Section {
    pub(super) fn end(self) -> u64 {
        self.offset.saturating_add(self.size)
    }
}

/// Checks the file and returns where its records are; leaves `file` at an undefined position.
pub(super) fn check<R: Read + Seek>(path: &Path, file: &mut BufReader<R>) -> Result<Section, IntakeError> {
    Check { path, bytes: 0, file }.run()
}

struct Check<'c, R> {
    path: &'c Path,
    bytes: u64,
    file: &'c mut BufReader<R>,
}

impl<R: Read + Seek> Check<'_, R> {
    fn run(&mut self) -> Result<Section, IntakeError> {
        self.bytes = self.file.seek(SeekFrom::End(0)).map_err(|source| match source.kind() {
            io::ErrorKind::NotSeekable => IntakeError::PipeMode { path: self.path.into() },
            _ => self.io(source),
        })?;
        self.seek(8)?;
        if self.u64()? == PIPE_HEADER_SIZE {
            return Err(IntakeError::PipeMode { path: self.path.into() });
        }
        self.within("header", HEADER_SIZE)?;
        let attribute_size = self.u64()?;
        let attributes = self.section()?;
        let data = self.section()?;
        let event_types = self.section()?;
        let mut features = [0_u8; 32];
        self.file.read_exact(&mut features).map_err(|source| self.io(source))?;
        if data.size == 0 {
            return Err(IntakeError::Unfinished { path: self.path.into(), bytes: self.bytes });
        }
        self.within("list of events", attributes.end())?;
        self.within("data", data.end())?;
        self.within("list of event types", event_types.end())?;
        if attribute_size == 0 {
            return Err(self.damaged("its header gives events a size of 0"));
        }
        let has = |feature: u32| features[feature as usize / 8] >> (feature % 8) & 1 != 0;
        if !has(TRACING_DATA) {
            return Err(IntakeError::NoTracingData { path: self.path.into() });
        }
        if !has(EVENT_DESC) {
            return Err(self.damaged("it does not describe its events (no EVENT_DESC)"));
        }
        let described = self.features(&features, data.end())?;
        self.events(described)?;
        Ok(data)
    }

    /// The table of features behind the data; returns the section that describes the events.
    fn features(&mut self, features: &[u8; 32], table: u64) -> Result<Section, IntakeError> {
        let numbers = (0..features.len() as u32 * 8).filter(|bit| features[*bit as usize / 8] >> (bit % 8) & 1 != 0);
        let numbers: Vec<u32> = numbers.collect();
        self.within("table of features", table + numbers.len() as u64 * SECTION_SIZE)?;
        self.seek(table)?;
        let mut described = Section { offset: 0, size: 0 };
        let mut total = 0_u64;
        for number in numbers {
            let section = self.section()?;
            self.within("description of the recording", section.end())?;
            total = total.saturating_add(section.size);
            if number == EVENT_DESC {
                described = section;
            }
        }
        if total > self.bytes {
            return Err(self.damaged("the parts of its description overlap"));
        }
        Ok(described)
    }

    /// The description of the events: `nr, attr_size, { attr, nr_ids, string, ids } * nr`.
    fn events(&mut self, section: Section) -> Result<(), IntakeError> {
        const WHAT: &str = "its description of the events does not fit its own size";
        self.seek(section.offset)?;
        let mut left = section.size;
        let mut take = |bytes: u64| left.checked_sub(bytes).map(|rest| left = rest);
        let sound = take(8);
        let events = self.u32()?;
        let attribute_size = u64::from(self.u32()?);
        sound.ok_or_else(|| self.damaged(WHAT))?;
        for _ in 0..events {
            take(attribute_size + 8).ok_or_else(|| self.damaged(WHAT))?;
            self.skip(attribute_size)?;
            let ids = u64::from(self.u32()?);
            let name = u64::from(self.u32()?);
            take(name + ids * 8).ok_or_else(|| self.damaged(WHAT))?;
            self.skip(name + ids * 8)?;
        }
        Ok(())
    }

    fn within(&self, what: &'static str, needs: u64) -> Result<(), IntakeError> {
        if needs <= self.bytes {
            return Ok(());
        }
        Err(IntakeError::Cut { path: self.path.into(), what, needs, bytes: self.bytes })
    }

    fn damaged(&self, what: &str) -> IntakeError {
        IntakeError::Damaged { path: self.path.into(), what: what.to_owned() }
    }

    fn io(&self, source: io::Error) -> IntakeError {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged("it ends in the middle of its header or description");
        }
        IntakeError::Io { path: self.path.into(), source }
    }

    fn seek(&mut self, to: u64) -> Result<(), IntakeError> {
        self.file.seek(SeekFrom::Start(to)).map(|_| ()).map_err(|source| self.io(source))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), IntakeError> {
        let by = i64::try_from(bytes).map_err(|_| self.damaged("a size in it is beyond all bounds"))?;
        self.file.seek_relative(by).map_err(|source| self.io(source))
    }

    fn section(&mut self) -> Result<Section, IntakeError> {
        Ok(Section { offset: self.u64()?, size: self.u64()? })
    }

    fn u64(&mut self) -> Result<u64, IntakeError> {
        let mut bytes = [0; 8];
        self.file.read_exact(&mut bytes).map_err(|source| self.io(source))?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn u32(&mut self) -> Result<u32, IntakeError> {
        let mut bytes = [0; 4];
        self.file.read_exact(&mut bytes).map_err(|source| self.io(source))?;
        Ok(u32::from_le_bytes(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{example_bytes, read_perf_data};
    use super::*;

    const FILE: &str = "kut-apic-x2apic.perf.data";
    const ATTRIBUTE_SIZE: usize = 16;
    const DATA_OFFSET: usize = 40;
    const DATA_SIZE: usize = 48;
    const FEATURES: usize = 72;

    fn message(edit: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut bytes = example_bytes(FILE);
        edit(&mut bytes);
        read_perf_data(&bytes).unwrap_err().to_string()
    }

    fn word(bytes: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap())
    }

    fn put(bytes: &mut [u8], at: usize, value: u64) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// Where the section of a feature is described.
    fn feature(bytes: &[u8], number: u32) -> usize {
        let before = (0..number).filter(|bit| bytes[FEATURES + *bit as usize / 8] >> (bit % 8) & 1 != 0).count();
        (word(bytes, DATA_OFFSET) + word(bytes, DATA_SIZE)) as usize + before * SECTION_SIZE as usize
    }

    #[test]
    fn the_file_as_it_is_is_sound() {
        assert_eq!(read_perf_data(&example_bytes(FILE)).unwrap().ipis.len(), 11);
    }

    #[test]
    fn a_cut_file_says_where() {
        let said = message(|bytes| bytes.truncate(40_000));
        assert!(said.contains("its data goes on to byte 50816, but it ends at byte 40000"), "{said}");
        let said = message(|bytes| bytes.truncate(50_900));
        assert!(said.contains("table of features goes on to byte 51152"), "{said}");
        let said = message(|bytes| bytes.truncate(51_200));
        assert!(said.contains("description of the recording goes on to byte"), "{said}");
        let said = message(|bytes| bytes.truncate(60));
        assert!(said.contains("header goes on to byte 104, but it ends at byte 60"), "{said}");
    }

    #[test]
    fn a_killed_perf_record_is_told() {
        let said = message(|bytes| put(bytes, DATA_SIZE, 0));
        assert!(said.contains("did not finish") && said.contains("Ctrl-C"), "{said}");
    }

    #[test]
    fn a_stream_is_told() {
        let said = message(|bytes| put(bytes, 8, PIPE_HEADER_SIZE));
        assert!(said.contains("perf record -o -"), "{said}");
    }

    #[test]
    fn missing_descriptions_are_told() {
        let said = message(|bytes| bytes[FEATURES] &= !(1 << TRACING_DATA));
        assert!(said.contains("has no tracepoint formats"), "{said}");
        let said = message(|bytes| bytes[FEATURES + 1] &= !(1 << (EVENT_DESC - 8)));
        assert!(said.contains("EVENT_DESC"), "{said}");
        let said = message(|bytes| put(bytes, ATTRIBUTE_SIZE, 0));
        assert!(said.contains("a size of 0"), "{said}");
    }

    #[test]
    fn lying_sizes_are_told_before_they_are_allocated() {
        let said = message(|bytes| {
            let section = feature(bytes, EVENT_DESC);
            let at = word(bytes, section) as usize;
            bytes[at..at + 4].fill(0xFF);
        });
        assert!(said.contains("description of the events does not fit"), "{said}");
        let said = message(|bytes| {
            let section = feature(bytes, TRACING_DATA);
            put(bytes, section + 8, 1 << 40);
        });
        assert!(said.contains("goes on to byte 10995"), "{said}");
        let said = message(|bytes| {
            let (end, sections) = (bytes.len() as u64, feature(bytes, TRACING_DATA));
            for section in [sections, sections + 16] {
                put(bytes, section, 0);
                put(bytes, section + 8, end);
            }
        });
        assert!(said.contains("overlap"), "{said}");
    }

    #[test]
    fn damaged_tracing_data_is_told() {
        let said = message(|bytes| {
            let at = word(bytes, feature(bytes, TRACING_DATA)) as usize;
            bytes[at] = 0;
        });
        assert!(said.contains("tracing data ends or goes wrong at: magic"), "{said}");
    }
}
