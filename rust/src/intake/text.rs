//! Text: `perf script`, the `trace` file of tracefs, `trace-cmd report`. Read line by line, in bounded memory.
//!
//! Not handled: clocks that do not count seconds (`trace_clock` counter and x86-tsc).

use super::collect::Collector;
use super::error::IntakeError;
use super::event::Sample;
use super::names::Names;
use super::recording::{Format, Options, Recording};
use super::{fields, line};
use rustc_hash::FxHashMap;
use std::io::{self, BufRead, Read};
use std::path::Path;

/// Longest line that is looked at; a mask of 8192 CPUs takes a twentieth of it.
const LONGEST_LINE: u64 = 64 * 1024;

const LONG: &str = "lines of more than 64 KiB";
const CUT: &str = "last lines without an end, which may be cut";
const CALL_CHAIN: &str = "lines of call chains";
const UNKNOWN: &str = "lines that are no records";
const UNREADABLE: &str = "records whose fields could not be read";

/// Reads a recording from text.
pub(super) fn read(path: &Path, file: impl BufRead, options: &Options) -> Result<Recording, IntakeError> {
    let mut reader = Reader {
        file,
        collector: Collector::new(options),
        names: Names::default(),
        header: None,
        format: None,
        number: 0,
        bare_event: None,
    };
    reader.lines().map_err(|source| IntakeError::Io { path: path.into(), source })?;
    let Some(format) = reader.header.filter(|_| reader.format.is_some()).or(reader.format) else {
        return Err(match reader.bare_event {
            Some(line) => IntakeError::LineLacks { path: path.into(), line, missing: "thread and time" },
            None => IntakeError::NotARecording { path: path.into() },
        });
    };
    reader.collector.finish(path, format, reader.names.list(), &FxHashMap::default())
}

struct Reader<'o, R> {
    file: R,
    collector: Collector<'o>,
    names: Names,
    /// The format that a header line told.
    header: Option<Format>,
    /// The format of the first record.
    format: Option<Format>,
    number: u64,
    /// First line that names an IPI event but is no record.
    bare_event: Option<u64>,
}

impl<R: BufRead> Reader<'_, R> {
    fn lines(&mut self) -> io::Result<()> {
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = self.file.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line)?;
            if read == 0 {
                return Ok(());
            }
            self.number += 1;
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(line.strip_suffix(b"\r").unwrap_or(line)),
                None if read as u64 == LONGEST_LINE => {
                    self.collector.skip(LONG);
                    self.file.skip_until(b'\n')?;
                }
                None => self.last_line(&line),
            }
        }
    }

    fn last_line(&mut self, line: &[u8]) {
        if !line.trim_ascii().is_empty() {
            self.collector.skip(CUT);
        }
    }

    fn line(&mut self, line: &[u8]) {
        let Some(parsed) = line::parse(line) else {
            self.other_line(line);
            return;
        };
        self.format.get_or_insert(parsed.format);
        let (name, kind) = self.names.number(parsed.event);
        let Some(event) = fields::decode(kind, parsed.fields) else {
            self.collector.count(name);
            self.collector.skip(UNREADABLE);
            return;
        };
        let sample = Sample {
            time_ns: parsed.time_ns,
            cpu: parsed.cpu,
            thread: parsed.thread,
            process: parsed.process,
            comm: parsed.comm,
            event,
        };
        self.collector.take(name, &sample);
    }

    /// Headers, call chains, losses, and what is none of them.
    fn other_line(&mut self, line: &[u8]) {
        let text = line.trim_ascii();
        if text.is_empty() {
        } else if text.starts_with(b"#") {
            if text.starts_with(b"# tracer:") {
                self.header = Some(Format::Ftrace);
            }
        } else if self.format.is_none() && text.starts_with(b"cpus=") {
            self.header = Some(Format::TraceCmd);
        } else if self.format.is_none() && text.starts_with(b"version =") {
        } else if let Some(lost) = lost(text) {
            self.collector.lost = self.collector.lost.saturating_add(lost);
        } else if line.starts_with(b"CPU") && text.ends_with(b" is empty") {
        } else if is_call_chain(line) {
            self.collector.skip(CALL_CHAIN);
        } else {
            if self.bare_event.is_none()
                && [&b"kvm_apic_ipi:"[..], b"ipi_send_cpu"].iter().any(|name| contains(text, name))
            {
                self.bare_event = Some(self.number);
            }
            self.collector.skip(UNKNOWN);
        }
    }
}

/// `CPU:1 [LOST 5 EVENTS]` of tracefs, `CPU:1 [5 EVENTS DROPPED]` of trace-cmd (no number: at least one).
fn lost(text: &[u8]) -> Option<u64> {
    let (_, inner) = std::str::from_utf8(text).ok()?.strip_prefix("CPU:")?.split_once('[')?;
    let inner = inner.strip_suffix(']')?;
    let count = inner.strip_prefix("LOST ").or_else(|| inner.strip_suffix(" DROPPED"))?;
    match count.strip_suffix("EVENTS")?.trim() {
        "" => Some(1),
        count => count.parse().ok(),
    }
}

/// An address and a symbol, indented; or ftrace's ` => symbol`.
fn is_call_chain(line: &[u8]) -> bool {
    const SHORTEST_ADDRESS: usize = 4;
    let text = line.trim_ascii_start();
    let address = text.split(u8::is_ascii_whitespace).next().unwrap_or_default();
    text.starts_with(b"=> ")
        || text.starts_with(b"<stack trace")
        || text.len() < line.len() && address.len() >= SHORTEST_ADDRESS && address.iter().all(u8::is_ascii_hexdigit)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read_bytes, read_text, recorded, skipped};
    use super::*;

    const IPI: &str = "q 9 [000] 1.000001: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n";

    fn error(text: &str) -> String {
        read_text(text, &Options::default()).unwrap_err().to_string()
    }

    #[test]
    fn headers_tell_the_format() {
        assert_eq!(recorded(IPI).format, Format::PerfScript);
        assert_eq!(recorded(&IPI.replace("q 9 [000]", "q-9 [000] d..1.").replace("kvm:", "")).format, Format::Ftrace);
        let trace_cmd = IPI.replace("q 9", "q-9");
        assert_eq!(recorded(&trace_cmd).format, Format::TraceCmd);
        assert_eq!(recorded(&format!("# tracer: nop\n#\n{trace_cmd}")).format, Format::Ftrace);
        let flags = IPI.replace("q 9 [000]", "q-9 [000] d..1.");
        let with_header = recorded(&format!("version = 7\ncpus=2\n{flags}"));
        assert_eq!((with_header.format, with_header.skipped), (Format::TraceCmd, vec![]));
    }

    #[test]
    fn call_chains_and_other_lines_are_counted() {
        let recording = recorded(&format!(
            "{IPI}\tffffffff812c5a30 kvm_apic_send_ipi+0x10 ([kernel.kallsyms])\n\tffffffff812c5a31 b ([kernel.kallsyms])\n\n\
             # comment\nCPU 1 is empty\nwhat is this\n"
        ));
        assert_eq!((skipped(&recording, "call chains"), skipped(&recording, "no records")), (2, 1));
        assert_eq!(recording.skipped.len(), 2);
    }

    #[test]
    fn losses_are_counted_and_noted() {
        let recording =
            recorded(&format!("CPU:1 [LOST 5 EVENTS]\nCPU:0 [7 EVENTS DROPPED]\nCPU:0 [EVENTS DROPPED]\n{IPI}"));
        assert_eq!(recording.lost, 13);
        assert!(recording.notes.iter().any(|note| note.contains("lost 13 events")), "{:?}", recording.notes);
    }

    #[test]
    fn windows_line_ends_are_as_good() {
        let mut recording = recorded(&IPI.replace('\n', "\r\n").repeat(2));
        recording.format = Format::PerfScript;
        assert_eq!(recording, recorded(&IPI.repeat(2)));
    }

    #[test]
    fn a_line_that_is_cut_is_not_used() {
        let recording = recorded(&format!("{IPI}{}", IPI.trim_end()));
        assert_eq!((recording.ipis.len(), skipped(&recording, "may be cut")), (1, 1));
    }

    #[test]
    fn a_line_beyond_all_bounds_is_passed_over() {
        let recording = recorded(&format!("{}\n{IPI}", "x".repeat(200_000)));
        assert_eq!((recording.ipis.len(), skipped(&recording, "64 KiB")), (1, 1));
    }

    #[test]
    fn fields_that_cannot_be_read_are_counted() {
        let recording = recorded(&format!("{IPI}{}", IPI.replace("Fixed", "Broken")));
        assert_eq!((recording.ipis.len(), recording.records["kvm_apic_ipi"]), (1, 2));
        assert_eq!(skipped(&recording, "fields could not be read"), 1);
    }

    #[test]
    fn other_bytes_than_text_do_no_harm() {
        let bytes = [IPI.as_bytes(), b"\xFF\xFE 3 [000] 1.5: kvm:kvm_\xFF: \xC3\n"].concat();
        let recording = read_bytes(&bytes).unwrap();
        assert_eq!((recording.ipis.len(), recording.records.len()), (1, 2));
    }

    #[test]
    fn events_out_of_order_are_sorted() {
        let recording = recorded(&format!("{}{IPI}", IPI.replace("1.000001", "1.000002").replace("251", "253")));
        assert_eq!(recording.ipis.time_ns, [1_000_001_000, 1_000_002_000]);
        assert_eq!(recording.ipis.icr_low, [251, 253]);
        assert_eq!(recording.span_ns, 1_000);
    }

    #[test]
    fn raw_ipis_need_their_write() {
        let raw = |icr: &str| format!("q-9 [000] 1.1: kvm_apic_ipi: icr_low={icr} dest_id=1\n");
        let write = "q-9 [000] 1.2: kvm_msr: write=1 ecx=830 data=0x1000040fb exception=0\n";
        assert_eq!(recorded(&format!("{}{write}", raw("251"))).ipis.icr_low, [0x40FB]);
        assert_eq!(recorded(&raw("2299")).ipis.icr_low, [2299]);
        assert!(error(&format!("{}{write}{}", raw("251"), raw("0"))).contains("the low 8 bits of 1 IPIs"));
    }

    #[test]
    fn what_is_no_recording_is_said_so() {
        assert!(error("Dear diary,\ntoday I recorded nothing.\n").contains("is no recording that ipivrs knows"));
        assert!(
            error("q 9 kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)\n")
                .contains("line 1 has an event without thread")
        );
        let none = error("q 9 [000] 1.5: kvm:kvm_msr: msr_read 10 = 0x0\nq 9 [000] 1.6: sched:sched_switch: x\n");
        assert!(none.contains("it has kvm_msr (1), sched_switch (1)") && none.contains("enable_ipiv=0"), "{none}");
    }
}
