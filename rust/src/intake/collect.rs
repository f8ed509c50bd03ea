//! From records to a [`Recording`]: counts every record, feeds both sides, and decides at the end which side it was.

use super::absences::Absences;
use super::error::IntakeError;
use super::event::{Event, Sample};
use super::guest::Guest;
use super::host::Host;
use super::recording::{Format, Identification, Options, RecordedOn, Recording, Side, Skip, ViaEvidence};
use super::sent::Sent;
use super::vcpus::{self, MAX_VCPUS};
use super::via::Facts;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::path::Path;

/// Takes records in and makes a recording of them.
#[derive(Debug)]
pub(super) struct Collector<'o> {
    options: &'o Options,
    host: Host,
    guest: Guest,
    span: Option<(u64, u64)>,
    counts: Vec<u64>,
    skipped: BTreeMap<&'static str, u64>,
    /// Events that the recorder lost.
    pub(super) lost: u64,
    /// Events that came too late to be put in their place.
    pub(super) late: u64,
}

impl<'o> Collector<'o> {
    pub(super) fn new(options: &'o Options) -> Self {
        Self {
            options,
            host: Host::new(options.process, options.absences),
            guest: Guest::new(options.absences),
            span: None,
            counts: Vec::new(),
            skipped: BTreeMap::new(),
            lost: 0,
            late: 0,
        }
    }

    /// Takes a record in; `name` is the number of its event's name.
    #[inline]
    pub(super) fn take(&mut self, name: usize, sample: &Sample) {
        self.count_at(name, sample.time_ns);
        self.host.take(sample);
        if matches!(sample.event, Event::SendCpu { .. } | Event::SendCpumask { .. } | Event::Switch { .. })
            && !self.is_host()
        {
            self.guest.take(sample);
        }
    }

    /// Counts a record of which nothing else matters.
    #[inline]
    pub(super) fn count_at(&mut self, name: usize, time_ns: u64) {
        self.count(name);
        let (first, last) = self.span.unwrap_or((time_ns, time_ns));
        self.span = Some((first.min(time_ns), last.max(time_ns)));
    }

    /// Counts a record that could not be used.
    #[inline]
    pub(super) fn count(&mut self, name: usize) {
        if name >= self.counts.len() {
            self.counts.resize(name + 1, 0);
        }
        self.counts[name] += 1;
    }

    /// Notes that something was passed over; `reason` reads well after a count.
    pub(super) fn skip(&mut self, reason: &'static str) {
        self.skip_many(reason, 1);
    }

    fn skip_many(&mut self, reason: &'static str, count: u64) {
        if count > 0 {
            *self.skipped.entry(reason).or_default() += count;
        }
    }

    fn is_host(&self) -> bool {
        !self.host.rows.is_empty() || !self.host.other_processes.is_empty()
    }

    /// The recording. `names` are the event names by number, `comms` the threads' names where records do not carry them.
    pub(super) fn finish(
        mut self,
        path: &Path,
        format: Format,
        names: &[String],
        comms: &FxHashMap<u32, String>,
    ) -> Result<Recording, IntakeError> {
        let records: BTreeMap<String, u64> = names.iter().zip(&self.counts).filter(|(_, count)| **count > 0).fold(
            BTreeMap::new(),
            |mut records, (name, count)| {
                *records.entry(name.clone()).or_default() += count;
                records
            },
        );
        self.host.end();
        for thread in &mut self.host.threads {
            if let Some(comm) = comms.get(&thread.id) {
                thread.name.clone_from(comm);
            }
        }
        let mut recording = if !self.host.rows.is_empty() {
            self.guest.clear();
            self.host_side(path, format)?
        } else if self.options.process.is_some() && (self.host.process_unknown || !self.host.other_processes.is_empty())
        {
            return Err(self.no_process(path));
        } else if !self.guest.is_empty() {
            self.guest_side(path, format)?
        } else if self.guest.without_cpu > 0 {
            let reason = "no record says which CPU it was made on";
            return Err(IntakeError::NoSender { path: path.into(), count: self.guest.without_cpu, reason });
        } else {
            return Err(IntakeError::NoIpis { path: path.into(), events: describe(&records) });
        };
        if self.lost > 0 {
            recording.notes.push(format!("the recorder lost {} events: counts are lower bounds", self.lost));
        }
        if self.late > 0 {
            recording
                .notes
                .push(format!("{} events came too late to be put in order: they count where they stand", self.late));
        }
        if recording.side == Side::Host && !records.keys().any(|name| name == "kvm_exit" || name == "kvm_entry") {
            recording.notes.push(
                "no kvm_exit and kvm_entry in the recording: exits here are those of the emulated processor, not of that host"
                    .to_owned(),
            );
        }
        recording.records = records;
        recording.lost = self.lost;
        recording.start_ns = self.span.map_or(0, |(first, _)| first);
        recording.span_ns = self.span.map_or(0, |(first, last)| last - first);
        recording.skipped =
            self.skipped.iter().map(|(reason, count)| Skip { reason: (*reason).to_owned(), count: *count }).collect();
        Ok(recording)
    }

    fn host_side(&mut self, path: &Path, format: Format) -> Result<Recording, IntakeError> {
        let host = std::mem::take(&mut self.host);
        if host.vector_only > 0 {
            return Err(IntakeError::RawReport { path: path.into(), count: host.vector_only });
        }
        let alone = host.other_processes.is_empty();
        let nobody = FxHashSet::default();
        let vcpus = vcpus::identify(&host.threads, self.options, if alone { &host.accepted } else { &nobody })
            .map_err(|count| IntakeError::TooManyVcpus { path: path.into(), count, limit: MAX_VCPUS })?;
        let facts = Facts {
            shows_icr_msr: host.icr_msr_writes > 0,
            lossy: self.lost > 0,
            assume_x2apic: self.options.assume_x2apic(),
        };
        let sent = Sent::decide(&host, &vcpus, facts);
        if sent.ipis.is_empty() {
            return Err(IntakeError::NoSender { path: path.into(), count: sent.unidentified, reason: NO_VCPU });
        }
        let absences = Absences::new(&host.absences, |thread| vcpus.index_of(thread as usize));
        self.skip_many(NO_VCPU, sent.unidentified);
        self.skip_many("IPIs of other processes", host.other_processes.values().sum());
        self.skip_many("writes to the ICR without a kvm_apic_ipi of theirs", host.unmatched_writes);
        let mut notes = vcpus.notes;
        if sent.evidence.assumed > 0 {
            let mode = if facts.assume_x2apic { "x2APIC" } else { "xAPIC" };
            let given = if self.options.apic_mode_given { "as given" } else { "the default; --apic changes it" };
            let who = ranges(sent.assumed.iter().enumerate().filter(|(_, assumed)| **assumed).map(|(vcpu, _)| vcpu));
            notes.push(format!("the recording does not show the APIC mode of vCPU {who}: {mode} assumed ({given})"));
        }
        let calls: u64 = host.hypercalls.values().map(|ipis| ipis.calls).sum();
        if calls > 0 {
            notes.push(format!(
                "{calls} hypercalls KVM_HC_SEND_IPI: IPIs sent so do not pass through the ICR and are not in the totals"
            ));
        }
        Ok(Recording {
            format,
            side: Side::Host,
            vcpus: vcpus.list,
            identified_by: vcpus.identified_by,
            ipis: sent.ipis,
            via_evidence: sent.evidence,
            absences,
            records: BTreeMap::new(),
            skipped: Vec::new(),
            lost: 0,
            notes,
            start_ns: 0,
            span_ns: 0,
            hypercalls: host.hypercalls.into_values().collect(),
            inhibits: host.inhibits,
            machine: RecordedOn::default(),
        })
    }

    fn guest_side(&mut self, path: &Path, format: Format) -> Result<Recording, IntakeError> {
        let guest = std::mem::take(&mut self.guest);
        let vcpus = guest.vcpus(self.options).map_err(|count| IntakeError::TooManyVcpus {
            path: path.into(),
            count,
            limit: MAX_VCPUS,
        })?;
        self.skip_many("IPIs without the CPU that sent them", guest.without_cpu);
        self.skip_many("ipi_send_cpumask records whose mask could not be read", guest.bad_masks);
        let mode = if self.options.assume_x2apic() { "x2APIC" } else { "xAPIC" };
        let given = if self.options.apic_mode_given { "as given" } else { "the default; --apic changes it" };
        let mut notes = vec![format!(
            "recorded inside a guest, where the ICR is not visible: rebuilt as Linux writes it in {mode} mode ({given}), physical destinations"
        )];
        let (masks, expanded) = guest.masks;
        if masks > 0 {
            notes.push(format!(
                "{masks} ipi_send_cpumask records became {expanded} unicast IPIs; Linux may have used a shorthand instead, which exits"
            ));
        }
        if self.options.process.is_some() {
            notes.push("a process was asked for, which means nothing inside a guest: all IPIs are in".to_owned());
        }
        let known = vcpus.len() as u32;
        let absences = Absences::new(&guest.absences, |cpu| Some(cpu).filter(|cpu| *cpu < known));
        let ipis = guest.ipis(&vcpus, self.options);
        let assumed = ipis.len() as u64;
        Ok(Recording {
            format,
            side: Side::Guest,
            vcpus,
            identified_by: Identification::CpuNumber,
            ipis,
            via_evidence: ViaEvidence { assumed, ..ViaEvidence::default() },
            absences,
            records: BTreeMap::new(),
            skipped: Vec::new(),
            lost: 0,
            notes,
            start_ns: 0,
            span_ns: 0,
            hypercalls: Vec::new(),
            inhibits: Vec::new(),
            machine: RecordedOn::default(),
        })
    }

    fn no_process(&self, path: &Path) -> IntakeError {
        if self.host.process_unknown {
            return IntakeError::NoProcesses { path: path.into() };
        }
        let mut found: Vec<u32> =
            self.host.other_processes.iter().filter(|(_, ipis)| **ipis > 0).map(|(process, _)| *process).collect();
        found.sort_unstable();
        let found = if found.is_empty() { "none".to_owned() } else { listed(&found) };
        IntakeError::NoSuchProcess { path: path.into(), process: self.options.process.unwrap_or_default(), found }
    }
}

const NO_VCPU: &str = "IPIs of threads that never show which vCPU they run (no kvm_entry)";

/// `it has kvm_msr (1655), kvm_mmio (2)`.
fn describe(records: &BTreeMap<String, u64>) -> String {
    const MOST: usize = 8;
    if records.is_empty() {
        return "it has no events at all".to_owned();
    }
    let mut by_count: Vec<_> = records.iter().collect();
    by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
    let named: Vec<_> = by_count.iter().take(MOST).map(|(name, count)| format!("{name} ({count})")).collect();
    let more = if by_count.len() > MOST { ", ..." } else { "" };
    format!("it has {}{more}", named.join(", "))
}

fn listed(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

/// `0-3, 7` of rising numbers.
fn ranges(numbers: impl Iterator<Item = usize>) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => ranges.push((number, number)),
        }
    }
    let text =
        |(first, last): &(usize, usize)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.iter().map(text).collect::<Vec<_>>().join(", ")
}
