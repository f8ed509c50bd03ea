//! A machine made of its description: memory, VMs, pCPUs, and the vCPUs in their queues.

use super::monitor::{Monitor, Watch};
use super::runner::Runner;
use super::shared::{Memory, PcpuShared, Shared, VmShared};
use crate::arch::apic_register::{SVR_ENABLED, XApicLdr};
use crate::arch::{ApicMode, ApicRegister};
use crate::engine::machine::{Guest, MachineConfig, MachineError, MachineRun};
use crate::guest::{Cursor, GuestMemory, MOST_CALLERS, Program};
use crate::hypervisor::{MpState, Slot, Task, Vcpu, Vm};
use crate::memory::Owner;
use crate::processor::VirtualApic;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Runs a machine.
///
/// # Errors
/// An impossible VM, or no threads.
pub fn run(config: &MachineConfig, watch: Watch<'_>) -> Result<MachineRun, MachineError> {
    let memory = Memory::new(memory_bytes(config));
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
        let (signals, calls) = guest_memory_of(guest, number)?;
        vms_shared.push(VmShared {
            vm,
            guest,
            memory: GuestMemory::new(&memory, number, guest.capacity(), signals, calls)?,
            first_slot,
            vcpus: AtomicUsize::new(guest.config.apic_ids.len()),
        });
        first_slot += guest.capacity();
    }
    let shared = Shared::new(&memory, config, vms_shared, pcpus);
    let mut place = 0;
    for (vm, vcpus) in (0..).zip(vcpus) {
        for vcpu in vcpus {
            let waits = vcpu.vcpu() > 0 && config.guests.get(vm as usize).is_some_and(|guest| guest.wait_for_sipi);
            start(&shared, vm, vcpu, waits, place % config.pcpus.max(1));
            place += 1;
        }
    }
    shared.unfinished.store(finite(config), Ordering::Release);
    shared.devices.store(config.devices.len(), Ordering::Release);
    Monitor::new(&shared).run(watch)
}

fn memory_bytes(config: &MachineConfig) -> u64 {
    let guest = |guest: &Guest| {
        let (signals, calls) = guest_memory_needs(guest);
        guest.config.memory_bytes() + GuestMemory::<AtomicU64>::bytes(guest.capacity(), signals, calls)
    };
    config.guests.iter().map(guest).sum::<u64>() + (u64::from(config.pcpus) + 2) * 256
}

fn guest_memory_needs(guest: &Guest) -> (u32, bool) {
    let programs = &guest.code.programs;
    (programs.iter().map(Program::signals).max().unwrap_or(0), programs.iter().any(Program::calls))
}

fn guest_memory_of(guest: &Guest, vm: u32) -> Result<(u32, bool), MachineError> {
    let (signals, calls) = guest_memory_needs(guest);
    if calls && guest.capacity() > MOST_CALLERS {
        return Err(MachineError::TooManyCallers { vm, most: MOST_CALLERS });
    }
    Ok((signals, calls))
}

/// Programs and devices that end by themselves.
fn finite(config: &MachineConfig) -> usize {
    let programs = config.guests.iter().flat_map(|guest| {
        let present = guest.config.apic_ids.len();
        let mains = guest.code.main.iter().take(present);
        mains.filter_map(|&main| guest.code.programs.get(main as usize))
    });
    programs.filter(|program| !program.endless() && !program.is_empty()).count()
        + config.devices.iter().filter(|device| device.posts.is_some()).count()
}

/// Makes a vCPU known and lets it run, as a guest's kernel has left it after its boot.
pub(super) fn start(shared: &Shared<'_>, vm: u32, vcpu: Vcpu, waits: bool, pcpu: u32) {
    let Some(of) = shared.vms.get(vm as usize) else { return };
    let number = vcpu.vcpu();
    let slot = of.first_slot + number;
    let memory = shared.memory;
    let vmcs = &vcpu.vp().vmcs;
    if let Some(page) = memory.page(vmcs.virtual_apic) {
        let apic = VirtualApic::new(page);
        apic.set(ApicRegister::SVR, SVR_ENABLED);
        if vcpu.mode() != ApicMode::X2Apic {
            // The flat model, as Linux sets it up; it has eight members.
            let logical_id = 1u8.checked_shl(number).unwrap_or(0);
            apic.set(ApicRegister::LDR, XApicLdr::new().with_logical_id(logical_id).into_bits());
        }
        vcpu.publish_identity(memory, of.vm);
    }
    if let (Some(pid), Some(words), Some(cell)) =
        (memory.descriptor(vmcs.descriptor), of.vm.vcpu_words(memory, number), shared.slots.get(slot as usize))
    {
        // On no pCPU yet.
        words.set_pcpu(u32::MAX);
        // Each slot is taken once.
        let _ = cell.set(Slot { vm, vcpu: number, pid, words });
        let seed = shared.config.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(slot);
        let mut task = Task::new(slot, vm, vcpu);
        if waits {
            task.mp_state = MpState::InitReceived;
        }
        shared.enqueue(pcpu, Box::new(Runner::new(task, Cursor::new(&of.guest.code, number, seed))));
    }
}
