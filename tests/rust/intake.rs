//! The shipped recordings, against what `perf script` says of them (counted by hand; see examples/INDEX.md).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use ipivrs::arch::ApicMode;
use ipivrs::arch::icr::{DeliveryMode, DestinationMode, IcrLow, Shorthand};
use ipivrs::intake::{Format, Identification, IntakeError, Ipis, Options, RecordedVcpu, Recording, Side, Via, read};
use std::collections::BTreeMap;
use std::path::PathBuf;

fn example(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn recording(name: &str) -> Recording {
    read(&example(name), &Options::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// As `perf script` prints an IPI, but for the destination.
fn printed(icr: u32) -> String {
    let icr = IcrLow::from_bits(icr);
    let delivery = match icr.delivery_mode() {
        DeliveryMode::Fixed => "Fixed",
        DeliveryMode::Init => "INIT",
        DeliveryMode::Sipi => "SIPI",
        other => other.name(),
    };
    let logical = if icr.destination_mode() == DestinationMode::Logical { "logical" } else { "physical" };
    let level = if icr.level_assert() { "assert" } else { "de-assert" };
    let trigger = if icr.trigger_level() { "level" } else { "edge" };
    let shorthand = if icr.shorthand() == Shorthand::None { "dst" } else { icr.shorthand().name() };
    format!("vec {} ({delivery}|{logical}|{level}|{trigger}|{shorthand})", icr.vector())
}

fn tally(ipis: &Ipis) -> BTreeMap<String, u64> {
    ipis.icr_low.iter().fold(BTreeMap::new(), |mut tally, icr| {
        *tally.entry(printed(*icr)).or_default() += 1;
        tally
    })
}

fn assert_tally(ipis: &Ipis, expected: &[(u64, &str)]) {
    let expected: BTreeMap<String, u64> = expected.iter().map(|(count, text)| ((*text).to_owned(), *count)).collect();
    assert_eq!(tally(ipis), expected);
}

fn vias(ipis: &Ipis) -> BTreeMap<Via, usize> {
    ipis.via.iter().fold(BTreeMap::new(), |mut vias, via| {
        *vias.entry(*via).or_default() += 1;
        vias
    })
}

/// The columns with time cut to the microsecond, as perf script does.
fn to_the_microsecond(ipis: &Ipis) -> Ipis {
    let cut = |time: &u64| time / 1000 * 1000;
    Ipis { time_ns: ipis.time_ns.iter().map(cut).collect(), ..ipis.clone() }
}

#[test]
fn linux_in_x2apic_mode() {
    let recording = recording("linux-boot-long-x2apic-smp2.perf.data");
    assert_eq!((recording.format, recording.side), (Format::PerfData, Side::Host));
    assert_eq!(recording.identified_by, Identification::ThreadOrder);
    assert_tally(
        &recording.ipis,
        &[
            (1, "vec 0 (INIT|physical|assert|edge|all-but-self)"),
            (1, "vec 16 (SIPI|physical|assert|edge|all-but-self)"),
            (1, "vec 0 (INIT|physical|assert|level|dst)"),
            (1, "vec 0 (INIT|physical|de-assert|level|dst)"),
            (2, "vec 153 (SIPI|physical|de-assert|edge|dst)"),
            (1587, "vec 251 (Fixed|physical|de-assert|edge|dst)"),
            (64, "vec 253 (Fixed|physical|de-assert|edge|dst)"),
        ],
    );
    let by_sender = |vector: u32, sender: u32| {
        let sent = recording.ipis.icr_low.iter().zip(&recording.ipis.sender);
        sent.filter(|(icr, from)| (**icr & 0xFF, **from) == (vector, sender)).count()
    };
    assert_eq!([by_sender(251, 0), by_sender(251, 1), by_sender(253, 0), by_sender(253, 1)], [833, 754, 39, 25]);
    assert_eq!(recording.ipis.via[..2], [Via::Mmio, Via::Mmio]);
    assert!(recording.ipis.via[2..].iter().all(|via| *via == Via::X2ApicIcr));
    let vcpus: Vec<_> =
        recording.vcpus.iter().map(|vcpu| (vcpu.vcpu_id, vcpu.apic_id, vcpu.thread, vcpu.process)).collect();
    assert_eq!(vcpus, [(0, 0, Some(16171), Some(16165)), (1, 1, Some(16172), Some(16165))]);
    assert_eq!(recording.records["kvm_vcpu_wakeup"], 4228);
    assert_eq!(recording.records.values().sum::<u64>(), 9209);
    assert_eq!(recording.span_ns / 1_000_000, 411_838, "perf script --header says 411838.173 ms");
    assert_eq!(recording.skipped, [], "nothing is passed over");
    assert!(
        matches!(&recording.notes[..], [limit] if limit.contains("no kvm_exit and kvm_entry")),
        "nothing is assumed: {:?}",
        recording.notes
    );
}

#[test]
fn linux_in_xapic_mode() {
    let recording = recording("linux-boot-long-xapic-smp2.perf.data");
    assert_tally(
        &recording.ipis,
        &[
            (1, "vec 0 (INIT|physical|assert|edge|all-but-self)"),
            (1, "vec 16 (SIPI|physical|assert|edge|all-but-self)"),
            (1, "vec 0 (INIT|physical|assert|level|dst)"),
            (1, "vec 0 (INIT|physical|de-assert|level|dst)"),
            (2, "vec 153 (SIPI|physical|de-assert|edge|dst)"),
            (70, "vec 251 (Fixed|logical|de-assert|edge|dst)"),
            (51, "vec 253 (Fixed|logical|de-assert|edge|dst)"),
        ],
    );
    assert_eq!(vias(&recording.ipis), BTreeMap::from([(Via::Mmio, 127)]));
    assert_eq!(recording.via_evidence.recorded, 127);
}

#[test]
fn a_guest_that_changes_its_mode() {
    let recording = recording("kut-apic-x2apic.perf.data");
    assert_tally(
        &recording.ipis,
        &[
            (2, "vec 0 (INIT|physical|assert|edge|all-but-self)"),
            (1, "vec 0 (SIPI|physical|de-assert|edge|all-but-self)"),
            (1, "vec 16 (SIPI|physical|assert|edge|all-but-self)"),
            (1, "vec 207 (Fixed|physical|assert|edge|all)"),
            (1, "vec 207 (Fixed|physical|assert|edge|dst)"),
            (2, "vec 241 (Fixed|physical|de-assert|edge|self)"),
            (3, "vec 32 (Fixed|physical|assert|edge|dst)"),
        ],
    );
    let (memory, msr) = (Via::Mmio, Via::X2ApicIcr);
    assert_eq!(recording.ipis.via[..4], [memory; 4]);
    assert_eq!(recording.ipis.via[4..7], [msr, msr, memory], "the first self-IPI is a memory access");
    assert_eq!(recording.ipis.via[7..], [msr; 4]);
    assert_eq!(recording.ipis.destination[9], u32::MAX);
    assert_eq!((recording.via_evidence.recorded, recording.via_evidence.inferred), (6, 5));
}

#[test]
fn four_vcpus() {
    let recording = recording("kut-smptest-x2apic-smp4-full.perf.data");
    assert_tally(
        &recording.ipis,
        &[
            (2, "vec 0 (INIT|physical|assert|edge|all-but-self)"),
            (1, "vec 0 (SIPI|physical|de-assert|edge|all-but-self)"),
            (1, "vec 16 (SIPI|physical|assert|edge|all-but-self)"),
            (6, "vec 32 (Fixed|physical|assert|edge|dst)"),
        ],
    );
    assert_eq!(recording.vcpus.iter().map(|vcpu| vcpu.apic_id).collect::<Vec<_>>(), [0, 1, 2, 3]);
    assert_eq!(vias(&recording.ipis), BTreeMap::from([(Via::Mmio, 4), (Via::X2ApicIcr, 6)]));
    assert_eq!(recording.ipis.destination[4..], [1, 2, 3, 1, 2, 3]);
    assert_eq!(recording.records["sched_switch"], 830);
}

#[test]
fn shorthand_self_is_no_self_ipi_msr() {
    let recording = recording("kut-vmexit-self_ipi_sti_nop-x2apic-full-short.perf.data");
    assert_tally(&recording.ipis, &[(508, "vec 176 (Fixed|physical|assert|edge|self)")]);
    assert_eq!(vias(&recording.ipis), BTreeMap::from([(Via::X2ApicIcr, 508)]));
    assert!(recording.ipis.destination.iter().all(|destination| *destination == 0xB0));
}

#[test]
fn ftrace_and_trace_cmd_tell_the_same() {
    let ftrace = recording("kut-vmexit-ipi-x2apic-tracefs.ftrace.txt");
    let trace_cmd = recording("kut-vmexit-ipi-x2apic-tracecmd.tracecmd-report.txt");
    assert_eq!((ftrace.format, trace_cmd.format), (Format::Ftrace, Format::TraceCmd));
    assert_eq!(ftrace.ipis, trace_cmd.ipis);
    assert_eq!(ftrace.vcpus, trace_cmd.vcpus);
    assert_eq!(ftrace.records, trace_cmd.records);
    assert_eq!(ftrace.identified_by, Identification::KvmEoi);
    assert_eq!(vias(&ftrace.ipis), BTreeMap::from([(Via::Mmio, 4), (Via::X2ApicIcr, 1895)]));
    assert_tally(
        &ftrace.ipis,
        &[
            (2, "vec 0 (INIT|physical|assert|edge|all-but-self)"),
            (1, "vec 0 (SIPI|physical|de-assert|edge|all-but-self)"),
            (1, "vec 16 (SIPI|physical|assert|edge|all-but-self)"),
            (1895, "vec 32 (Fixed|physical|assert|edge|dst)"),
        ],
    );
}

#[test]
fn perf_data_and_perf_script_tell_the_same() {
    for stem in ["kut-apic-x2apic", "kut-smptest-x2apic-smp4-full", "native-sched-messaging"] {
        let data = recording(&format!("{stem}.perf.data"));
        let script = recording(&format!("{stem}.perf-script.txt"));
        assert_eq!(script.format, Format::PerfScript);
        assert_eq!(to_the_microsecond(&data.ipis), script.ipis, "{stem}");
        assert_eq!(data.records, script.records, "{stem}");
        assert_eq!(data.identified_by, script.identified_by, "{stem}");
        // The text does not tell processes.
        let vcpus: Vec<_> = data.vcpus.into_iter().map(|vcpu| RecordedVcpu { process: None, ..vcpu }).collect();
        assert_eq!(vcpus, script.vcpus, "{stem}");
    }
}

#[test]
fn linux_seen_from_inside() {
    let recording = recording("native-sched-messaging.perf.data");
    assert_eq!((recording.side, recording.identified_by), (Side::Guest, Identification::CpuNumber));
    assert_tally(
        &recording.ipis,
        &[(142, "vec 251 (Fixed|physical|de-assert|edge|dst)"), (291, "vec 253 (Fixed|physical|de-assert|edge|dst)")],
    );
    assert!(recording.ipis.sender.iter().zip(&recording.ipis.destination).all(|(from, to)| from + to == 1));
    assert_eq!(recording.records["call_function_single_entry"], 140);
    assert_eq!(recording.records["reschedule_entry"], 291);
    assert!(recording.notes[0].contains("rebuilt") && recording.notes[0].contains("x2APIC"), "{:?}", recording.notes);

    let xapic = Options { assume: ApicMode::XApic, apic_mode_given: true, ..Options::default() };
    let recording = read(&example("native-tlb-shootdown.perf.data"), &xapic).unwrap();
    assert_eq!(vias(&recording.ipis), BTreeMap::from([(Via::Mmio, 1894)]));
    assert_tally(
        &recording.ipis,
        &[(1893, "vec 251 (Fixed|physical|de-assert|edge|dst)"), (1, "vec 253 (Fixed|physical|de-assert|edge|dst)")],
    );
}

#[test]
fn the_process_of_a_virtual_machine_can_be_picked() {
    let name = example("linux-boot-long-x2apic-smp2.perf.data");
    let pick = |process| read(&name, &Options { process: Some(process), ..Options::default() });
    assert_eq!(pick(16165).unwrap().ipis.len(), 1657);
    assert!(matches!(pick(1), Err(IntakeError::NoSuchProcess { process: 1, .. })));
}

#[test]
fn files_that_are_no_files() {
    let error = |name: &str| read(&example(name), &Options::default()).unwrap_err();
    assert!(matches!(error("nowhere"), IntakeError::NotFound { .. }));
    assert!(matches!(error("."), IntakeError::Directory { .. }));
    assert!(matches!(error("../LICENSE-MIT"), IntakeError::NotARecording { .. }));
}

#[test]
fn messages_have_two_lines_at_most_and_name_the_file() {
    for name in ["nowhere", ".", "../LICENSE-MIT", "INDEX.md"] {
        let message = read(&example(name), &Options::default()).unwrap_err().to_string();
        assert!(message.lines().count() <= 2 && message.contains(name.trim_start_matches("../")), "{message}");
    }
}
