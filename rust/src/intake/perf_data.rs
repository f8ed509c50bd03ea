//! perf.data, as `perf record` writes it.
//!
//! linux-perf-data reads the header, the events and the description of the recording. Records are walked
//! ([`super::perf_records`]), put into the order of time ([`super::perf_window`]) and decoded through the recording's own
//! [tracing data](super::tracing_data).
//!
//! Not handled: streams (`perf record -o -`), whose tracing data linux-perf-data does not read, and big-endian machines.

use super::collect::Collector;
use super::decoder::Decoder;
use super::error::IntakeError;
use super::event::{Event, Sample};
use super::layout::{Layout, Unusable};
use super::names::{Kind, Names};
use super::perf_records::{self, FINISHED_ROUND, Record};
use super::perf_window::Window;
use super::recording::{Format, Options, RecordedOn, Recording};
use super::{perf_check, tracing_data};
use linux_perf_data::linux_perf_event_reader::{PerfEventType, RecordType};
use linux_perf_data::{AttributeDescription, Feature, PerfFile, PerfFileReader};
use rustc_hash::FxHashMap;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

const DAMAGED_SAMPLE: &str = "samples that are too short for what they claim to hold";
const UNKNOWN_EVENT: &str = "samples of events that the file does not describe";

/// Reads a perf.data file.
pub(super) fn read<R: Read + Seek>(
    path: &Path,
    mut file: BufReader<R>,
    options: &Options,
) -> Result<Recording, IntakeError> {
    let data = perf_check::check(path, &mut file)?;
    file.seek(SeekFrom::Start(0)).map_err(|source| IntakeError::Io { path: path.into(), source })?;
    let PerfFileReader { perf_file, .. } =
        PerfFileReader::parse_file(&mut file).map_err(|source| IntakeError::PerfData { path: path.into(), source })?;
    let mut names = Names::default();
    let readers = readers(path, &perf_file, &mut names, options)?;
    let events = Events::new(&readers, perf_file.event_attributes());
    if let (None, [first, _, ..]) = (events.id_at, perf_file.event_attributes()) {
        let event = first.name.clone().unwrap_or_default();
        return Err(IntakeError::SampleLacks {
            path: path.into(),
            event,
            what: "event id, though there are several events",
        });
    }
    let mut samples = Samples {
        events,
        readers: &readers,
        window: Window::default(),
        collector: Collector::new(options),
        comms: FxHashMap::default(),
    };
    perf_records::walk(path, &mut file, data, |record| samples.take(record))?;
    samples.end();
    let Samples { collector, comms, .. } = samples;
    let recording = collector.finish(path, Format::PerfData, names.list(), &comms)?;
    Ok(Recording { machine: machine(&perf_file), ..recording })
}

/// What the header says about the machine; a part that cannot be read is as good as none.
fn machine(file: &PerfFile) -> RecordedOn {
    let text = |part: Option<&str>| part.map(|text| text.trim_end_matches('\0').to_owned());
    RecordedOn {
        kernel: text(file.os_release().ok().flatten()),
        processor: text(file.cpu_desc().ok().flatten()),
        cpuid: text(file.cpu_id().ok().flatten()),
    }
}

/// How to read the samples of one event.
#[derive(Debug)]
struct Reader {
    name: usize,
    layout: Option<Layout>,
    decoder: Decoder,
}

/// Which event a sample is of.
#[derive(Debug)]
struct Events {
    /// Where a sample has its event's id; none where there is one event only, or all are alike.
    id_at: Option<usize>,
    by_id: FxHashMap<u64, u32>,
}

impl Events {
    fn new(readers: &[Reader], attributes: &[AttributeDescription]) -> Self {
        let id_at = readers.iter().find_map(|reader| reader.layout.as_ref()).and_then(|layout| layout.id);
        let ids = attributes.iter().zip(0..);
        let by_id = ids.flat_map(|(attribute, event)| attribute.event_ids.iter().map(move |id| (*id, event))).collect();
        Self { id_at: id_at.filter(|_| attributes.len() > 1), by_id }
    }

    #[inline]
    fn of(&self, sample: &[u8]) -> Option<u32> {
        let Some(offset) = self.id_at else { return Some(0) };
        let id = u64::from_le_bytes(*sample.get(offset..)?.first_chunk()?);
        self.by_id.get(&id).copied()
    }
}

/// From records to the collector.
struct Samples<'s, 'o> {
    events: Events,
    readers: &'s [Reader],
    window: Window,
    collector: Collector<'o>,
    /// Names of threads.
    comms: FxHashMap<u32, String>,
}

impl Samples<'_, '_> {
    #[inline]
    fn take(&mut self, record: Record) {
        match record.kind {
            RecordType::SAMPLE => self.sample(record.body),
            FINISHED_ROUND => {
                let (readers, collector) = (self.readers, &mut self.collector);
                self.window.end_round(|event, sample| decode(readers, event, sample, collector));
            }
            _ => self.other(record),
        }
    }

    fn end(&mut self) {
        let (readers, collector) = (self.readers, &mut self.collector);
        self.window.end(|event, sample| decode(readers, event, sample, collector));
        self.collector.late = self.window.late;
    }

    #[inline]
    fn sample(&mut self, sample: &[u8]) {
        let event = self.events.of(sample);
        let Some((event, reader)) =
            event.and_then(|event| self.readers.get(event as usize).map(|reader| (event, reader)))
        else {
            self.collector.skip(UNKNOWN_EVENT);
            return;
        };
        let fixed = reader.layout.as_ref().and_then(|layout| layout.fixed(sample));
        match (fixed, reader.decoder) {
            // Nothing of it matters but that it is there: no need to sort it.
            (Some(fixed), Decoder::Other) => self.collector.count_at(reader.name, fixed.time_ns),
            (Some(fixed), _) => {
                let (readers, collector) = (self.readers, &mut self.collector);
                self.window
                    .push(fixed.time_ns, event, sample, |event, sample| decode(readers, event, sample, collector));
            }
            (None, decoder) => {
                self.collector.count(reader.name);
                if !matches!(decoder, Decoder::Other) {
                    self.collector.skip(DAMAGED_SAMPLE);
                }
            }
        }
    }

    /// Names of threads, and losses.
    fn other(&mut self, record: Record) {
        let u32_at =
            |offset: usize| record.body.get(offset..).and_then(<[u8]>::first_chunk).map(|b| u32::from_le_bytes(*b));
        let u64_at =
            |offset: usize| record.body.get(offset..).and_then(<[u8]>::first_chunk).map(|b| u64::from_le_bytes(*b));
        match record.kind {
            // pid, tid, name
            RecordType::COMM => {
                if let (Some(thread), Some(name)) = (u32_at(4), record.body.get(8..)) {
                    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                    self.comms.insert(thread, String::from_utf8_lossy(name).into_owned());
                }
            }
            // pid, ppid, tid, ptid
            RecordType::FORK => {
                if let (Some(thread), Some(parent)) = (u32_at(8), u32_at(12))
                    && let Some(name) = self.comms.get(&parent).cloned()
                {
                    self.comms.insert(thread, name);
                }
            }
            // id, lost
            RecordType::LOST => self.lose(u64_at(8)),
            // lost
            RecordType::LOST_SAMPLES => self.lose(u64_at(0)),
            _ => {}
        }
    }

    fn lose(&mut self, lost: Option<u64>) {
        self.collector.lost = self.collector.lost.saturating_add(lost.unwrap_or(1));
    }
}

/// Gives a sample in its final place to the collector.
#[inline]
fn decode(readers: &[Reader], event: u32, sample: &[u8], collector: &mut Collector) {
    let Some(Reader { name, layout: Some(layout), decoder }) = readers.get(event as usize) else { return };
    let Some(fixed) = layout.fixed(sample) else { return };
    let event = layout.raw(sample).and_then(|raw| decoder.decode(raw));
    if event.is_none() {
        collector.skip(DAMAGED_SAMPLE);
    }
    collector.take(
        *name,
        &Sample {
            time_ns: fixed.time_ns,
            cpu: fixed.cpu,
            thread: fixed.thread,
            process: Some(fixed.process),
            comm: b"",
            event: event.unwrap_or(Event::Other),
        },
    );
}

/// One reader per event of the file.
fn readers(path: &Path, file: &PerfFile, names: &mut Names, options: &Options) -> Result<Vec<Reader>, IntakeError> {
    let data = file.feature_section_data(Feature::TRACING_DATA);
    let data = data.ok_or_else(|| IntakeError::NoTracingData { path: path.into() })?;
    let tracepoints = tracing_data::parse(data).map_err(|broken| IntakeError::Damaged {
        path: path.into(),
        what: format!("its tracing data ends or goes wrong at: {}", broken.0),
    })?;
    let mut readers = Vec::new();
    for (index, description) in file.event_attributes().iter().enumerate() {
        let layout = Layout::new(description.attr.sample_format);
        let tracepoint = match description.attr.type_ {
            PerfEventType::Tracepoint(id) => tracepoints.iter().find(|tracepoint| tracepoint.id == id),
            _ => None,
        };
        let Some(tracepoint) = tracepoint else {
            let name = description.name.clone().unwrap_or_else(|| format!("event {index}"));
            let (number, kind) = names.number(name.as_bytes());
            if kind.needed() {
                return Err(IntakeError::NoFormat { path: path.into(), event: name });
            }
            readers.push(Reader { name: number, layout: layout.ok(), decoder: Decoder::Other });
            continue;
        };
        let (name, kind) = names.number(tracepoint.name.as_bytes());
        let event = || description.name.clone().unwrap_or_else(|| tracepoint.name.clone());
        let decoder = Decoder::new(tracepoint).map_err(|field| IntakeError::NoField {
            path: path.into(),
            event: event(),
            field,
        })?;
        let layout = match layout {
            Ok(layout) => Some(layout),
            Err(_) if !kind.needed() => None,
            Err(Unusable::Lack(what)) => {
                return Err(IntakeError::SampleLacks { path: path.into(), event: event(), what });
            }
            Err(Unusable::Counters) => return Err(IntakeError::CounterSamples { path: path.into(), event: event() }),
        };
        // Where nobody asks who ran, a switch is only counted.
        let decoder = if kind == Kind::Switch && !options.absences { Decoder::Other } else { decoder };
        readers.push(Reader { name, layout, decoder });
    }
    Ok(readers)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{example_bytes, read_perf_data, skipped};

    const FILE: &str = "kut-apic-x2apic.perf.data";

    /// The file with all occurrences of some text replaced by other text of the same length.
    fn replaced(from: &str, to: &str) -> Vec<u8> {
        assert_eq!(from.len(), to.len());
        let mut bytes = example_bytes(FILE);
        let mut found = 0;
        for at in 0..bytes.len() - from.len() {
            if bytes[at..].starts_with(from.as_bytes()) {
                bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
                found += 1;
            }
        }
        assert_ne!(found, 0, "{from}");
        bytes
    }

    fn said(bytes: &[u8]) -> String {
        read_perf_data(bytes).unwrap_err().to_string()
    }

    #[test]
    fn the_machine_is_in_the_header() {
        let machine = read_perf_data(&example_bytes(FILE)).unwrap().machine;
        assert!(machine.kernel.is_some_and(|kernel| kernel.starts_with("6.")));
        assert!(machine.cpuid.is_some_and(|cpuid| cpuid.starts_with("GenuineIntel,6,207")));
    }

    #[test]
    fn a_missing_field_is_named() {
        let said = said(&replaced("__u32 icr_low;", "__u32 icr_lox;"));
        assert!(said.contains("kvm:kvm_apic_ipi has no field icr_low"), "{said}");
    }

    #[test]
    fn a_missing_format_is_named() {
        let said = said(&replaced("name: kvm_apic_ipi\nID: 96", "name: kvm_apic_ipi\nID: 97"));
        assert!(said.contains("does not describe the event kvm:kvm_apic_ipi"), "{said}");
    }

    #[test]
    fn fields_count_by_name_not_by_place() {
        let swapped = replaced("__u32 icr_low;\toffset:8;", "__u32 dest_id;\toffset:8;");
        let swapped = {
            let (from, to) = (b"__u32 dest_id;\toffset:12;", b"__u32 icr_low;\toffset:12;");
            let at = swapped.windows(from.len()).position(|window| window == from).unwrap();
            let mut swapped = swapped;
            swapped[at..at + to.len()].copy_from_slice(to);
            swapped
        };
        let (swapped, plain) = (read_perf_data(&swapped).unwrap(), read_perf_data(&example_bytes(FILE)).unwrap());
        assert_eq!(swapped.ipis.icr_low[0], plain.ipis.destination[0]);
        assert_eq!(swapped.ipis.destination[0], plain.ipis.icr_low[0]);
    }

    #[test]
    fn samples_of_unknown_events_are_counted() {
        let mut bytes = example_bytes(FILE);
        let (start, size) = (word(&bytes, 40), word(&bytes, 48));
        let mut at = start;
        while at < start + size && bytes[at] != 9 {
            at += usize::from(u16::from_le_bytes([bytes[at + 6], bytes[at + 7]]));
        }
        // IDENTIFIER is the first word behind the header.
        bytes[at + 8..at + 16].fill(0xEE);
        let recording = read_perf_data(&bytes).unwrap();
        assert_eq!(skipped(&recording, "does not describe"), 1);
        assert_eq!(recording.records.values().sum::<u64>(), 37);
    }

    fn word(bytes: &[u8], at: usize) -> usize {
        u64::from_le_bytes(*bytes[at..].first_chunk().unwrap()) as usize
    }
}
