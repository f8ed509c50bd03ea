//! A recording as programs for vCPUs, and its run: on the threads engine, or [in virtual time](timed()).

mod timed;

pub use timed::{Side, Timed, TimedOptions, timed};

use crate::arch::{ApicMode, Icr, IcrLow};
use crate::engine::threads::{self, Pace, Run, RunError};
use crate::guest::{Send, Sends};
use crate::hypervisor::{Apicv, VmConfig};
use crate::intake::{RecordedVcpu, Recording};

/// How a recording is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplayOptions {
    /// How senders are held together.
    pub pace: Pace,
    /// Last PID-pointer index of each VM; the highest APIC ID if none is given.
    pub last_index: Option<u16>,
    /// APIC virtualization.
    pub apicv: Apicv,
}

/// Drives every interrupt of the recording through the processor, one thread per vCPU.
///
/// `keep_going` is asked about ten times a second and told how many interrupts were sent; when it says no, the run stops
/// and the result is partial.
///
/// # Errors
/// VMs that cannot be made of the recording's vCPUs, or no threads.
pub fn replay(
    recording: &Recording,
    options: ReplayOptions,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<Run, RunError> {
    let Machines { mut configs, position } = Machines::new(recording, options.last_index);
    for config in &mut configs {
        config.apicv = options.apicv;
    }
    let programs = programs(recording, &position);
    threads::run(&configs, &programs, options.pace, keep_going)
}

/// The VMs of a recording.
struct Machines {
    /// A VM for each of the recording's.
    configs: Vec<VmConfig>,
    /// Where each recorded vCPU stands among all vCPUs of the run.
    position: Vec<usize>,
}

impl Machines {
    fn new(recording: &Recording, last_pid_index: Option<u16>) -> Self {
        let vms = recording.vcpus.iter().map(|vcpu| vcpu.vm + 1).max().unwrap_or(0);
        let mut configs: Vec<VmConfig> = Vec::new();
        let mut position = vec![0; recording.vcpus.len()];
        let mut placed = 0;
        for vm in 0..vms {
            let mut config = VmConfig {
                vm,
                apic_ids: Vec::new(),
                last_pid_index,
                first_pcpu: placed as u32,
                ..VmConfig::new(0, first_mode(recording, vm))
            };
            for (vcpu, place) in recording.vcpus.iter().zip(&mut position).filter(|(vcpu, _)| vcpu.vm == vm) {
                *place = placed;
                placed += 1;
                config.apic_ids.push(vcpu.apic_id);
            }
            configs.push(config);
        }
        Self { configs, position }
    }
}

/// The mode that the VM's first interrupt needs; each vCPU switches by itself where it needs another. A VM with APIC IDs
/// that xAPIC mode cannot address starts in x2APIC mode, though its boot processor may begin in xAPIC.
fn first_mode(recording: &Recording, vm: u32) -> ApicMode {
    let wide = |vcpu: &RecordedVcpu| vcpu.vm == vm && vcpu.apic_id >= u32::from(u8::MAX);
    if recording.vcpus.iter().any(wide) {
        return ApicMode::X2Apic;
    }
    let mut sent = recording.ipis.sender.iter().zip(&recording.ipis.via);
    let first = sent.find(|(sender, _)| recording.vcpus.get(**sender as usize).is_some_and(|vcpu| vcpu.vm == vm));
    first.map_or(ApicMode::X2Apic, |(_, via)| via.mode())
}

/// One program for each vCPU of the run. Interrupts keep the order of the recording.
fn programs(recording: &Recording, position: &[usize]) -> Vec<Sends> {
    let mut programs = vec![Sends::new(); position.len()];
    let ipis = &recording.ipis;
    for (order, (((&sender, &low), &destination), &via)) in
        (0u32..).zip(ipis.sender.iter().zip(&ipis.icr_low).zip(&ipis.destination).zip(&ipis.via))
    {
        let place = position.get(sender as usize).and_then(|&place| programs.get_mut(place));
        if let Some(program) = place {
            program.push(Send { order, icr: Icr { low: IcrLow::from_bits(low), destination }, via });
        }
    }
    programs
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::Via;
    use crate::intake::{Absences, Format, Identification, Ipis, RecordedOn, Side, ViaEvidence};
    use std::collections::BTreeMap;

    fn recording(vcpus: &[(u32, u32)], ipis: &[(u32, u32, u32, Via)]) -> Recording {
        let vcpus = vcpus.iter().zip(0..).map(|(&(vm, apic_id), vcpu_id)| RecordedVcpu {
            vm,
            vcpu_id,
            apic_id,
            thread: None,
            process: None,
            name: String::new(),
            id_written: None,
        });
        Recording {
            format: Format::PerfScript,
            side: Side::Host,
            vcpus: vcpus.collect(),
            identified_by: Identification::KvmEntry,
            ipis: Ipis {
                time_ns: (0..ipis.len() as u64).collect(),
                sender: ipis.iter().map(|ipi| ipi.0).collect(),
                icr_low: ipis.iter().map(|ipi| ipi.1).collect(),
                destination: ipis.iter().map(|ipi| ipi.2).collect(),
                via: ipis.iter().map(|ipi| ipi.3).collect(),
            },
            via_evidence: ViaEvidence::default(),
            absences: Absences::default(),
            records: BTreeMap::new(),
            skipped: Vec::new(),
            lost: 0,
            notes: Vec::new(),
            start_ns: 0,
            span_ns: 0,
            hypercalls: Vec::new(),
            inhibits: Vec::new(),
            machine: RecordedOn::default(),
        }
    }

    const OPTIONS: ReplayOptions = ReplayOptions { pace: Pace::Recorded, last_index: None, apicv: Apicv::FULL };

    fn totals(recording: &Recording) -> (u64, u64, u64) {
        let run = replay(recording, OPTIONS, &mut |_| true).unwrap();
        assert!(run.summary.violations.is_empty(), "{:?}", run.summary.violations);
        let ipis = run.summary.ipis;
        (ipis.virtualized, ipis.delivered, ipis.exited)
    }

    /// Two VMs with the same APIC IDs, their vCPUs interleaved: each reaches its own only.
    #[test]
    fn vms_have_tables_of_their_own() {
        let vcpus = [(0, 0), (1, 0), (0, 1), (1, 5)];
        let x2apic = Via::X2ApicIcr;
        let sent = [(0, 0xFB, 1, x2apic), (1, 0xFB, 5, x2apic), (0, 0xFB, 5, x2apic), (1, 0xFB, 1, x2apic)];
        assert_eq!(totals(&recording(&vcpus, &sent)), (2, 2, 2));
    }

    /// The guest switches back and forth, also while its peer has it the other way.
    #[test]
    fn modes_follow_each_interrupt() {
        let sent = [(0, 0xFB, 1, Via::Mmio), (1, 0xFB, 0, Via::X2ApicIcr), (0, 0xFC, 1, Via::X2ApicIcr)];
        let again = [(0, 0xFB, 1, Via::Mmio), (0, 0x41, 0, Via::SelfIpiMsr), (1, 0x4_0042, 0, Via::Mmio)];
        let run = replay(&recording(&[(0, 0), (0, 1)], &[sent, again].concat()), OPTIONS, &mut |_| true).unwrap();
        let ipis = run.summary.ipis;
        assert_eq!((ipis.virtualized, ipis.self_ipi, ipis.delivered), (4, 2, 6));
    }

    /// A large guest's boot processor begins in xAPIC mode.
    #[test]
    fn ids_that_xapic_cannot_address_do_not_stop_a_boot() {
        let sent = [(0, 0xC_4500, 0, Via::Mmio), (0, 0xFB, 300, Via::X2ApicIcr), (1, 0xFB, 0, Via::X2ApicIcr)];
        assert_eq!(totals(&recording(&[(0, 0), (0, 300)], &sent)), (2, 2, 1));
    }
}
