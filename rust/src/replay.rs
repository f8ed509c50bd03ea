//! A recording as programs for vCPUs, and its run on the threads engine.

use crate::arch::{ApicMode, Icr, IcrLow};
use crate::engine::threads::{self, Pace, Run, RunError};
use crate::guest::{Program, Send};
use crate::hypervisor::{Apicv, VmConfig};
use crate::intake::Recording;

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
/// `keep_going` is asked about ten times a second; when it says no, the run stops and the result is partial.
///
/// # Errors
/// VMs that cannot be made of the recording's vCPUs, or no threads.
pub fn replay(
    recording: &Recording,
    options: ReplayOptions,
    keep_going: &mut dyn FnMut() -> bool,
) -> Result<Run, RunError> {
    let (configs, position) = machines(recording, options);
    let programs = programs(recording, &position);
    threads::run(&configs, &programs, options.pace, keep_going)
}

/// A VM for each of the recording's, and where each recorded vCPU stands among all vCPUs of the run.
fn machines(recording: &Recording, options: ReplayOptions) -> (Vec<VmConfig>, Vec<usize>) {
    let vms = recording.vcpus.iter().map(|vcpu| vcpu.vm + 1).max().unwrap_or(0);
    let mut configs: Vec<VmConfig> = Vec::new();
    let mut position = vec![0; recording.vcpus.len()];
    let mut placed = 0;
    for vm in 0..vms {
        let mut config = VmConfig {
            vm,
            apic_ids: Vec::new(),
            apicv: options.apicv,
            last_pid_index: options.last_index,
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
    (configs, position)
}

/// The mode that the VM's first interrupt needs; each vCPU switches by itself where it needs another.
fn first_mode(recording: &Recording, vm: u32) -> ApicMode {
    let mut sent = recording.ipis.sender.iter().zip(&recording.ipis.via);
    let first = sent.find(|(sender, _)| recording.vcpus.get(**sender as usize).is_some_and(|vcpu| vcpu.vm == vm));
    first.map_or(ApicMode::X2Apic, |(_, &via)| written(via).mode())
}

/// One program for each vCPU of the run. Interrupts keep the order of the recording.
fn programs(recording: &Recording, position: &[usize]) -> Vec<Program> {
    let mut programs = vec![Program::new(); position.len()];
    let ipis = &recording.ipis;
    for (order, (((&sender, &low), &destination), &via)) in
        (0u32..).zip(ipis.sender.iter().zip(&ipis.icr_low).zip(&ipis.destination).zip(&ipis.via))
    {
        let place = position.get(sender as usize).and_then(|&place| programs.get_mut(place));
        if let Some(program) = place {
            program.push(Send { order, icr: Icr { low: IcrLow::from_bits(low), destination }, via: written(via) });
        }
    }
    programs
}

const fn written(via: crate::intake::Via) -> crate::guest::Via {
    match via {
        crate::intake::Via::Mmio => crate::guest::Via::Mmio,
        crate::intake::Via::X2ApicIcr => crate::guest::Via::X2ApicIcr,
        crate::intake::Via::SelfIpiMsr => crate::guest::Via::SelfIpiMsr,
    }
}
