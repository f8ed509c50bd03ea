//! A machine made of its description: memory, VMs, pCPUs, and the vCPUs in their queues.

use super::monitor::{Monitor, Watch};
use super::shared::{Memory, PcpuShared, Shared, VmShared};
use crate::engine::machine::setup::{boot, finite, guest_memory, physical_memory};
use crate::engine::machine::{MachineConfig, MachineError, MachineRun};
use crate::hypervisor::{Vcpu, Vm};
use crate::memory::Owner;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Runs a machine.
///
/// # Errors
/// An impossible VM, or no threads.
pub fn run(config: &MachineConfig, watch: Watch<'_>) -> Result<MachineRun, MachineError> {
    let memory: Memory = physical_memory(config);
    let mut made = Vec::with_capacity(config.guests.len());
    for (vm, guest) in (0..).zip(&config.guests) {
        made.push(Vm::create(&memory, &guest.config).map_err(|error| MachineError::Vm { vm, error })?);
    }
    let mut pcpus = Vec::new();
    for pcpu in 0..config.pcpus {
        let address = memory.allocate(Owner::LocalApic { pcpu }, 64, 64)?;
        pcpus.extend(memory.line(address).map(PcpuShared::new));
    }
    let (vms, vcpus): (Vec<Vm>, Vec<Vec<Vcpu>>) = made.into_iter().unzip();
    let mut first_slot = 0;
    let mut vms_shared = Vec::with_capacity(vms.len());
    for (number, (vm, guest)) in (0..).zip(vms.iter().zip(&config.guests)) {
        vms_shared.push(VmShared {
            vm,
            guest,
            memory: guest_memory(&memory, guest, number)?,
            first_slot,
            vcpus: AtomicUsize::new(guest.config.apic_ids.len()),
        });
        first_slot += guest.capacity();
    }
    let shared = Shared::new(&memory, config, vms_shared, pcpus);
    let mut place = 0;
    for (vm, vcpus) in (0..).zip(vcpus) {
        for vcpu in vcpus {
            start(&shared, vm, vcpu, place % config.pcpus.max(1));
            place += 1;
        }
    }
    shared.unfinished.store(finite(config), Ordering::Release);
    shared.devices.store(config.devices.len(), Ordering::Release);
    Monitor::new(&shared).run(watch)
}

/// Makes a vCPU known and lets it run.
pub(super) fn start(shared: &Shared<'_>, vm: u32, vcpu: Vcpu, pcpu: u32) {
    let Some(of) = shared.vms.get(vm as usize) else { return };
    let slot = of.first_slot + vcpu.vcpu();
    if let (Some((known, runner)), Some(cell)) =
        (boot(shared.memory, of.vm, of.guest, vcpu, slot, shared.config.seed), shared.slots.get(slot as usize))
    {
        // Each slot is taken once.
        let _ = cell.set(known);
        shared.enqueue(pcpu, Box::new(runner));
    }
}
