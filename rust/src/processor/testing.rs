//! A small machine for the tests beside each clause: vCPU k on pCPU k, everything set up as KVM does.

use super::{Access, Capabilities, Vmcs, descriptor, local_apic, pid_table};
use super::{EntryFailure, ExternalInterrupt, LocalApic, NonRoot, Outcome, VirtualProcessor};
use crate::arch::posted_interrupt::ENTRY_BYTES;
use crate::arch::{
    AccessKind, ApicMode, ExitControls, PidControl, PidPointerEntry, PinBased, Primary, Secondary, Tertiary, msr,
};
use crate::memory::{Line, Owner, PhysicalMemory};
use crate::processor::outcome::Notice;
use std::cell::Cell;

pub(super) const XAPIC: ApicMode = ApicMode::XApic;
pub(super) const X2APIC: ApicMode = ApicMode::X2Apic;

type W = Cell<u64>;

pub(super) struct Machine {
    pub(super) memory: PhysicalMemory<W>,
    vps: Vec<VirtualProcessor>,
    locals: Vec<u64>,
    table: u64,
}

impl Machine {
    /// Each vCPU's APIC ID is its number; notifications are F2H to the pCPU of the same number.
    pub(super) fn new(mode: ApicMode, vcpus: u32) -> Self {
        let memory = PhysicalMemory::new(1 << 20);
        let page = |owner| memory.allocate(owner, 4096, 4096).unwrap();
        let table = memory.allocate(Owner::PidPointerTable { vm: 0 }, u64::from(vcpus) * ENTRY_BYTES, 4096).unwrap();
        let bitmap = page(Owner::MsrBitmap { vm: 0 });
        let apic_access = page(Owner::ApicAccessPage { vm: 0 });
        let mut machine = Self { vps: Vec::new(), locals: Vec::new(), table, memory };
        for vcpu in 0..vcpus {
            let memory = &machine.memory;
            let pid = memory.allocate(Owner::Descriptor { vm: 0, vcpu }, 64, 64).unwrap();
            descriptor::initialize(
                memory.line(pid).unwrap(),
                PidControl::new().with_vector(0xF2).with_destination(vcpu),
            );
            machine.entry(vcpu).set(PidPointerEntry::to_descriptor(pid).into_bits());
            machine.locals.push(memory.allocate(Owner::LocalApic { pcpu: vcpu }, 64, 64).unwrap());
            let vmcs = Vmcs {
                pin: PinBased::new().with_external_interrupt_exiting(true).with_process_posted_interrupts(true),
                primary: Primary::new()
                    .with_use_tpr_shadow(true)
                    .with_use_msr_bitmaps(true)
                    .with_activate_secondary(true)
                    .with_activate_tertiary(true),
                secondary: Secondary::new()
                    .with_virtualize_apic_accesses(mode == XAPIC)
                    .with_virtualize_x2apic_mode(mode == X2APIC)
                    .with_apic_register_virtualization(true)
                    .with_virtual_interrupt_delivery(true),
                tertiary: Tertiary::new().with_ipi_virtualization(true),
                exit_controls: ExitControls::new().with_acknowledge_interrupt(true),
                notification_vector: 0xF2,
                last_pid_index: (vcpus - 1) as u16,
                msr_bitmap: bitmap,
                virtual_apic: memory.allocate(Owner::VirtualApicPage { vm: 0, vcpu }, 4096, 4096).unwrap(),
                apic_access,
                descriptor: pid,
                pid_table: table,
                ..Vmcs::default()
            };
            machine.vps.push(VirtualProcessor::new(vmcs, Capabilities::default()));
            machine.reenter(vcpu);
        }
        machine
    }

    pub(super) fn vp(&self, vcpu: u32) -> &VirtualProcessor {
        &self.vps[vcpu as usize]
    }

    pub(super) fn vp_mut(&mut self, vcpu: u32) -> &mut VirtualProcessor {
        &mut self.vps[vcpu as usize]
    }

    pub(super) fn guest(&mut self, vcpu: u32) -> NonRoot<'_, '_, W> {
        NonRoot::resume(&self.memory, &mut self.vps[vcpu as usize]).unwrap()
    }

    pub(super) fn enter(&mut self, vcpu: u32) -> Result<(), EntryFailure> {
        NonRoot::enter(&self.memory, &mut self.vps[vcpu as usize]).map(|_| ())
    }

    pub(super) fn reenter(&mut self, vcpu: u32) {
        self.enter(vcpu).unwrap();
    }

    /// APIC-register virtualization, virtual-interrupt delivery (with posted interrupts) and IPI virtualization.
    pub(super) fn set_controls(&mut self, vcpu: u32, registers: bool, delivery: bool, ipi: bool) {
        let vmcs = &mut self.vp_mut(vcpu).vmcs;
        vmcs.secondary.set_apic_register_virtualization(registers);
        vmcs.secondary.set_virtual_interrupt_delivery(delivery);
        vmcs.pin.set_process_posted_interrupts(delivery);
        vmcs.tertiary.set_ipi_virtualization(ipi);
        self.reenter(vcpu);
    }

    pub(super) fn without_interrupt_delivery(&mut self, vcpu: u32) {
        self.set_controls(vcpu, true, false, false);
    }

    pub(super) fn entry(&self, apic_id: u32) -> &W {
        self.memory.word(pid_table::entry_address(self.table, apic_id)).unwrap()
    }

    pub(super) fn descriptor(&self, vcpu: u32) -> &Line<W> {
        self.memory.descriptor(self.vp(vcpu).vmcs.descriptor).unwrap()
    }

    pub(super) fn local(&self, pcpu: u32) -> &Line<W> {
        self.memory.line(self.locals[pcpu as usize]).unwrap()
    }

    /// Sets the bit of `msr` in the bitmap that all vCPUs share.
    pub(super) fn intercept(&mut self, msr: u32, write: bool) {
        let at = msr::bitmap_position(msr, write).unwrap();
        let word = &self.memory.page(self.vp(0).vmcs.msr_bitmap).unwrap()[at.word];
        word.set(word.get() | at.mask);
    }

    pub(super) fn mmio_write(&mut self, vcpu: u32, offset: u16, value: u64) -> Outcome {
        self.guest(vcpu).mmio_write(Access::dword(offset, AccessKind::Write), value)
    }

    /// An x2APIC IPI from `sender` to APIC ID `target`, its notification carried to the local APIC.
    pub(super) fn send(&mut self, sender: u32, target: u32, vector: u8) {
        let outcome = self.guest(sender).wrmsr(msr::X2APIC_ICR, u64::from(target) << 32 | u64::from(vector));
        let Outcome::Posted(posted) = outcome else { panic!("not posted: {outcome:?}") };
        if let Notice::Due(due) = posted.notice {
            local_apic::request(self.local(due.destination), due.vector);
        }
    }

    /// Takes what is pending in the local APIC of the pCPU of the same number.
    pub(super) fn interrupt(&mut self, vcpu: u32) -> ExternalInterrupt {
        let mut local = LocalApic::new(self.memory.line(self.locals[vcpu as usize]).unwrap());
        let mut guest = NonRoot::resume(&self.memory, &mut self.vps[vcpu as usize]).unwrap();
        guest.external_interrupt(&mut local)
    }
}
