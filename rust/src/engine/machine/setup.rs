//! What is made of a machine's description before anything runs, whichever engine runs it.

use super::config::{Guest, MachineConfig, MachineError, TooManyCallers};
use super::runner::Runner;
use crate::arch::apic_register::{SVR_ENABLED, XApicLdr};
use crate::arch::{ApicMode, ApicRegister};
use crate::guest::{Cursor, GuestMemory, MOST_CALLERS};
use crate::hypervisor::{MpState, Slot, Task, Vcpu, Vm};
use crate::memory::{PhysicalMemory, Word};
use crate::processor::VirtualApic;

/// The physical memory that a machine takes.
pub(in crate::engine) fn physical_memory<W: Word>(config: &MachineConfig) -> PhysicalMemory<W> {
    let guest = |guest: &Guest| {
        let (signals, calls) = guest_memory_needs(guest);
        guest.config.memory_bytes_beside_apic_pages() + GuestMemory::<W>::bytes(guest.capacity(), signals, calls)
    };
    let bytes = config.guests.iter().map(guest).sum::<u64>() + (u64::from(config.pcpus) + 2) * 256;
    PhysicalMemory::with_apic_pages(bytes, config.slots() as usize)
}

fn guest_memory_needs(guest: &Guest) -> (u32, bool) {
    (guest.code.signals(), guest.code.calls())
}

/// The memory that a guest's programs share.
///
/// # Errors
/// More vCPUs than can call each other, or a memory that is too small.
pub(in crate::engine) fn guest_memory<'m, W: Word>(
    memory: &'m PhysicalMemory<W>,
    guest: &Guest,
    vm: u32,
) -> Result<GuestMemory<'m, W>, MachineError> {
    let (signals, calls) = guest_memory_needs(guest);
    if calls && guest.capacity() > MOST_CALLERS {
        return Err(MachineError::Callers { vm, error: TooManyCallers(MOST_CALLERS) });
    }
    Ok(GuestMemory::new(memory, vm, guest.capacity(), signals, calls)?)
}

/// Programs and devices that end by themselves.
pub(in crate::engine) fn finite(config: &MachineConfig) -> usize {
    let ending = |guest: &Guest| (0..guest.config.apic_ids.len() as u32).filter(|&vcpu| guest.code.ends(vcpu)).count();
    config.guests.iter().map(ending).sum::<usize>()
        + config.devices.iter().filter(|device| device.posts.is_some()).count()
}

/// A vCPU as a guest's kernel has left it after its boot, and how others see it. None: its memory is not there.
pub(in crate::engine) fn boot<'m, W: Word>(
    memory: &'m PhysicalMemory<W>,
    vm: &Vm,
    guest: &Guest,
    vcpu: Vcpu,
    slot: u32,
    seed: u64,
) -> Option<(Slot<'m, W>, Runner)> {
    let number = vcpu.vcpu();
    let vmcs = &vcpu.vp().vmcs;
    if let Some(page) = memory.registers(vmcs.virtual_apic) {
        let apic = VirtualApic::new(page);
        apic.set(ApicRegister::SVR, SVR_ENABLED);
        if vcpu.mode() != ApicMode::X2Apic {
            apic.set(ApicRegister::LDR, XApicLdr::flat(number).into_bits());
        }
        vcpu.publish_identity(memory, vm);
    }
    let (pid, words) = (memory.descriptor(vmcs.descriptor)?, vm.vcpu_words(memory, number)?);
    // On no pCPU yet.
    words.set_pcpu(u32::MAX);
    let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(slot);
    let mut task = Task::new(slot, vm.vm, vcpu);
    if guest.wait_for_sipi && number > 0 {
        task.mp_state = MpState::InitReceived;
    }
    let runner = Runner::new(task, Cursor::new(&guest.code, number, seed));
    Some((Slot { vm: vm.vm, vcpu: number, pid, words }, runner))
}
