//! A run: what it is asked for, what came of it, and the machine that is made for it.

use super::ahead::may_be_alone;
use super::costs::Costs;
use super::latency::Latencies;
use super::log::Log;
use super::pcpu::Pcpu;
use super::simulation::{Memory, Simulation, VmState};
use super::spinners::Spinners;
use super::timetable::{Fates, Preemption, Timetable};
use crate::engine::machine::setup::{guest_memory, physical_memory};
use crate::engine::machine::{MachineConfig, MachineError, MachineRun, Runner};
use crate::hypervisor::Vm;
use crate::memory::{Owner, with_huge_pages};
use std::cell::Cell;

/// How a run goes.
pub struct Options<'a> {
    /// What acts cost.
    pub costs: &'a Costs,
    /// After so many cycles endless loops end; a run without endless loops may end earlier.
    pub cycles: Option<u64>,
    /// Events that are logged.
    pub log: usize,
    /// Asked some times a second and told the cycles so far; when it says no the run stops where it is.
    pub keep_going: &'a mut dyn FnMut(u64) -> bool,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct VirtualRun {
    /// What came of the machine; its time is the simulated one.
    pub machine: MachineRun,
    /// Cycles until the last program was at its end, those with endless loops after these were told to end; or until nothing
    /// more happened, or the run was told to end.
    pub cycles: u64,
    /// How long interrupts took.
    pub latencies: Latencies,
    /// What happened when.
    pub log: Log,
    /// Where cycles went.
    pub spent: Spent,
    /// For each vCPU what became of the interrupt commands it sent, in order; of a [`run_recorded`] only.
    pub fates: Fates,
}

/// Where cycles went, over all vCPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// On the way out of guests, in root mode with a vCPU, on the way in, in switches from vCPU to vCPU, and in interrupts that
    /// the host takes on an idle pCPU; not what vCPUs slept, polled or waited.
    pub exits: u64,
    /// From the write of an interrupt command to the guest's next instruction, if it was posted or exited; not while the vCPU
    /// had no pCPU.
    pub sending: u64,
}

/// Runs a machine.
///
/// # Errors
/// An impossible VM.
pub fn run(config: &MachineConfig, options: Options<'_>) -> Result<VirtualRun, MachineError> {
    run_by(config, options, None)
}

/// Runs a machine whose vCPUs each have a pCPU of their own, which the host takes away at the times of a timetable.
///
/// # Errors
/// An impossible VM.
pub fn run_recorded(
    config: &MachineConfig,
    options: Options<'_>,
    preemptions: Vec<Preemption>,
) -> Result<VirtualRun, MachineError> {
    run_by(config, options, Some(Timetable::new(config.slots() as usize, preemptions)))
}

fn run_by(
    config: &MachineConfig,
    options: Options<'_>,
    timetable: Option<Timetable>,
) -> Result<VirtualRun, MachineError> {
    let memory: Memory = physical_memory(config);
    let mut made = Vec::with_capacity(config.guests.len());
    for (vm, guest) in (0..).zip(&config.guests) {
        made.push(Vm::prepare(&memory, &guest.config).map_err(|error| MachineError::Vm { vm, error })?);
    }
    let (vms, descriptors): (Vec<Vm>, Vec<Vec<u64>>) = made.into_iter().unzip();
    let pcpus = pcpus(&memory, config.pcpus)?;
    let states = vm_states(&memory, config, &vms)?;
    // Side by side: one allocation for each would be a third more memory.
    let mut runners: Vec<Option<Runner>> = with_huge_pages(config.slots() as usize);
    runners.resize_with(config.slots() as usize, || None);
    let mut simulation = Simulation::new(&memory, config, &pcpus, &states, options.costs, options.log)?;
    simulation.unused = runners.iter_mut();
    simulation.may_be_alone = timetable.is_none() && may_be_alone(config, options.costs);
    simulation.contended = timetable.is_some() || config.chaos.preempt;
    simulation.timetable = timetable;
    simulation.set_clock();
    let mut place = 0;
    for ((vm, made), (guest, descriptors)) in (0..).zip(&vms).zip(config.guests.iter().zip(descriptors)) {
        for vcpu in made.vcpus(&memory, &guest.config, descriptors) {
            let vcpu = vcpu.map_err(|error| MachineError::Vm { vm, error })?;
            simulation.start(vm as usize, vcpu, place % config.pcpus.max(1));
            place += 1;
        }
    }
    let Options { cycles, keep_going, .. } = options;
    let end = simulation.run(cycles, keep_going);
    Ok(simulation.close(&end))
}

fn pcpus(memory: &Memory, count: u32) -> Result<Vec<Pcpu<'_>>, MachineError> {
    let mut pcpus = with_huge_pages(count as usize);
    for pcpu in 0..count {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64)?;
        pcpus.extend(memory.line(address).map(Pcpu::new));
    }
    Ok(pcpus)
}

fn vm_states<'m>(
    memory: &'m Memory,
    config: &'m MachineConfig,
    vms: &'m [Vm],
) -> Result<Vec<VmState<'m>>, MachineError> {
    let mut first_slot = 0;
    let mut states = Vec::with_capacity(vms.len());
    for (number, (vm, guest)) in (0..).zip(vms.iter().zip(&config.guests)) {
        let plain_ids = guest.config.apic_ids.iter().zip(0..).all(|(&id, vcpu)| id == vcpu);
        states.push(VmState {
            vm,
            guest,
            memory: guest_memory(memory, guest, number)?,
            first_slot,
            vcpus: Cell::new(guest.config.apic_ids.len() as u32),
            plain_ids,
            plain_table: plain_ids && !config.naive_apic_ids,
            spinners: Spinners::new(),
        });
        first_slot += guest.capacity();
    }
    Ok(states)
}
