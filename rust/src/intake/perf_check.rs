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
        self.bytes = self.file.seek(SeekFrom::End(0)).map_err(|source| self.io(source))?;
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
