//! What KVM does after a VM exit: it completes the guest's write to its local APIC, and sends IPIs in software.
//!
//! KVM: `handle_apic_write`, `handle_apic_access`, `kvm_set_msr_common`, `kvm_lapic_reg_write`, `kvm_x2apic_icr_write`,
//! `kvm_apic_send_ipi`.

use super::apicv::Inhibit;
use super::host::{Event, Host};
use super::identity::X2APIC_BROADCAST;
use super::policy::HostVector;
use super::routing::{Message, targets};
use super::setup::LOCAL_TIMER_VECTOR;
use super::shared::Requests;
use super::task::{MpState, Task, on_notify, on_wakeup, request, software_post};
use super::vcpu::ApicBaseWrite;
use crate::arch::apic_base::DEFAULT_PAGE_ADDRESS;
use crate::arch::apic_register::{ErrorStatus, XApicId};
use crate::arch::msr::{self, IA32_APIC_BASE, X2APIC_EOI, X2APIC_ICR, X2APIC_SELF_IPI, X2APIC_TPR};
use crate::arch::{
    ApicBaseError, ApicMode, ApicRegister, Clause, DeliveryMode, DestinationMode, Exit, ExitReason, Icr, Shorthand,
};
use crate::processor::{EntryFailure, VirtualApic, x2apic_reserved};

/// What the guest's instruction was, for exits that complete it in software.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// None that counts.
    Other,
    /// WRMSR.
    Wrmsr {
        /// The register.
        msr: u32,
        /// The value.
        value: u64,
    },
    /// A 32-bit write to the APIC page.
    Write {
        /// Page offset.
        offset: u16,
        /// The value.
        value: u32,
    },
}

/// What the exit asks of the scheduler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handled {
    /// Nothing.
    Continue,
    /// The time slice is over.
    Reschedule,
    /// VM entry fails from now on.
    Broken(EntryFailure),
}

/// A host vector's handler. `task` is the vCPU that this pCPU runs.
pub fn host_interrupt<'m, H: Host<'m>>(host: &mut H, vector: u8, task: Option<&mut Task>) -> Handled {
    if vector == HostVector::Notify.vector() {
        on_notify(host, task);
    } else if vector == HostVector::Wakeup.vector() {
        on_wakeup(host);
    } else if vector == LOCAL_TIMER_VECTOR {
        return Handled::Reschedule;
    }
    Handled::Continue
}

/// Whether KVM sends what a write of the x2APIC ICR says before it enables interrupts again.
/// (`handle_fastpath_set_x2apic_icr_irqoff`)
#[must_use]
pub fn has_fast_path(value: u64) -> bool {
    let icr = Icr::from_x2apic(value);
    icr.low.shorthand() == Shorthand::None
        && icr.low.destination_mode() == DestinationMode::Physical
        && icr.low.delivery_mode() == DeliveryMode::Fixed
        && icr.destination != X2APIC_BROADCAST
}

impl Task {
    /// Handles an exit. `acknowledged` is the vector of an external interrupt.
    pub fn handle_exit<'m, H: Host<'m>>(
        &mut self,
        host: &mut H,
        exit: Exit,
        acknowledged: Option<u8>,
        instruction: Instruction,
    ) -> Handled {
        match (exit.reason, instruction) {
            (ExitReason::ExternalInterrupt, _) => {
                return acknowledged.map_or(Handled::Continue, |vector| host_interrupt(host, vector, Some(self)));
            }
            (ExitReason::Hlt, _) => self.mp_state = MpState::Halted,
            (ExitReason::MsrWrite, Instruction::Wrmsr { msr, value }) => return self.wrmsr(host, msr, value),
            (ExitReason::ApicAccess, Instruction::Write { offset, value }) => {
                let register = ApicRegister::containing(offset);
                // Writes of the banks and of other read-only registers change nothing.
                if let Some(page) = host.memory().registers(self.vcpu.vp().vmcs.virtual_apic)
                    && register.writable()
                {
                    VirtualApic::new(page).set(register, value);
                    self.register_written(host, register);
                }
            }
            (ExitReason::ApicWrite, _) => {
                self.register_written(host, ApicRegister::containing(exit.qualification as u16));
            }
            // The next entry does what is to be done.
            _ => {}
        }
        Handled::Continue
    }

    fn wrmsr<'m, H: Host<'m>>(&mut self, host: &mut H, msr: u32, value: u64) -> Handled {
        if msr == IA32_APIC_BASE {
            return self.write_apic_base(host, value);
        }
        let Some(page) = host.memory().registers(self.vcpu.vp().vmcs.virtual_apic) else { return Handled::Continue };
        let apic = VirtualApic::new(page);
        if self.vcpu.mode() != ApicMode::X2Apic || !msr::is_x2apic(msr) {
            host.note(Event::Fault(Clause::MsrNotVirtualized));
            return Handled::Continue;
        }
        let register = ApicRegister::containing(msr::page_offset(msr));
        match msr {
            X2APIC_ICR if x2apic_reserved(Icr::from_x2apic(value).low) => {
                host.note(Event::Fault(Clause::X2ApicIcrReserved));
            }
            X2APIC_ICR => {
                apic.set_64(ApicRegister::ICR_LOW, value);
                self.register_written(host, register);
            }
            X2APIC_EOI if value != 0 => host.note(Event::Fault(Clause::EoiNotZero)),
            X2APIC_TPR if value > u64::from(u8::MAX) => host.note(Event::Fault(Clause::TprReserved)),
            X2APIC_SELF_IPI if value > u64::from(u8::MAX) => host.note(Event::Fault(Clause::SelfIpiReserved)),
            X2APIC_EOI | X2APIC_TPR | X2APIC_SELF_IPI => {
                apic.set_64(register, value);
                self.register_written(host, register);
            }
            // The ID, the LDR and all that is read-only, and registers that x2APIC mode does not have.
            _ if !writable(register) => host.note(Event::Fault(Clause::MsrNotVirtualized)),
            _ => {
                apic.set(register, value as u32);
                self.register_written(host, register);
            }
        }
        Handled::Continue
    }

    fn write_apic_base<'m, H: Host<'m>>(&mut self, host: &mut H, value: u64) -> Handled {
        let Some(vm) = host.vm(self.vm) else { return Handled::Continue };
        let memory = host.memory();
        let slot = self.slot;
        let lost = self.vcpu.pending(memory);
        let was = self.vcpu.apicv().active;
        match self.vcpu.write_apic_base(memory, vm, value) {
            Ok(ApicBaseWrite::Done(_)) => {
                let left = self.vcpu.pending(memory);
                let vectors = std::array::from_fn(|i| lost[i] & !left[i]);
                if vectors != [0; 4] {
                    host.note(Event::Discarded { slot, vectors });
                }
                let active = self.vcpu.apicv().active;
                if active != was {
                    host.note(Event::ApicvChanged { active });
                }
                let base = self.vcpu.base();
                if base.enabled() && base.address() != DEFAULT_PAGE_ADDRESS {
                    set_inhibit(host, self.vm, Inhibit::ApicBaseModified);
                }
            }
            Ok(ApicBaseWrite::Fault(error)) => host.note(Event::Fault(match error {
                ApicBaseError::Transition { .. } => Clause::ApicBaseTransition,
                ApicBaseError::Reserved | ApicBaseError::Invalid => Clause::ApicBaseInvalid,
            })),
            Err(failure) => return Handled::Broken(failure),
        }
        Handled::Continue
    }

    /// The guest has written a register; its new value is in the page. (`kvm_lapic_reg_write`)
    fn register_written<'m, H: Host<'m>>(&mut self, host: &mut H, register: ApicRegister) {
        let Some(page) = host.memory().registers(self.vcpu.vp().vmcs.virtual_apic) else { return };
        let apic = VirtualApic::new(page);
        match register {
            ApicRegister::ICR_LOW => {
                let icr = match self.vcpu.mode() {
                    ApicMode::X2Apic => Icr::from_x2apic(apic.get_64(register)),
                    ApicMode::XApic | ApicMode::Disabled => apic.icr_xapic(),
                };
                // Nobody sees an interrupt command that is still being sent.
                let icr = Icr { low: icr.low.without_delivery_status(), ..icr };
                apic.set(register, icr.low.into_bits());
                self.send_ipi(host, icr);
            }
            ApicRegister::SELF_IPI => {
                let vector = apic.get(register) as u8;
                self.send_ipi(host, Icr::to_self(vector));
            }
            ApicRegister::EOI => {
                apic.set(register, 0);
                if let Some(served) = apic.highest(ApicRegister::ISR) {
                    apic.clear_bit(ApicRegister::ISR, served);
                }
                self.vcpu.update_interrupt_status(host.memory());
            }
            ApicRegister::ESR => apic.set(register, 0),
            ApicRegister::ID => {
                let id = XApicId::from_bits(apic.get(register)).id();
                apic.set(register, XApicId::new().with_id(id).into_bits());
                self.identity_written(host);
                // Eight bits are compared: a vCPU's ID may have more.
                if id != self.vcpu.apic_id() as u8 && !host.naive_apic_ids() {
                    set_inhibit(host, self.vm, Inhibit::ApicIdModified);
                }
            }
            ApicRegister::LDR | ApicRegister::DFR | ApicRegister::SVR => self.identity_written(host),
            _ => {}
        }
    }

    fn identity_written<'m, H: Host<'m>>(&self, host: &H) {
        if let Some(vm) = host.vm(self.vm) {
            self.vcpu.publish_identity(host.memory(), vm);
        }
    }

    /// Sends an IPI in software. (`kvm_apic_send_ipi`)
    fn send_ipi<'m, H: Host<'m>>(&mut self, host: &mut H, icr: Icr) {
        let Some(message) = Message::of(icr.low) else {
            return host.note(Event::Dropped);
        };
        let me = self.slot;
        if message == Message::IllegalVector
            && let Some(page) = host.memory().registers(self.vcpu.vp().vmcs.virtual_apic)
        {
            let apic = VirtualApic::new(page);
            let status = ErrorStatus::from_bits(apic.get(ApicRegister::ESR)).with_send_illegal_vector(true);
            apic.set(ApicRegister::ESR, status.into_bits());
        }
        let meant = {
            let slots = host.slots_of(self.vm);
            let identity = |slot| Some((slot, host.slot(slot)?.words.identity()));
            let vm = host.vm(self.vm);
            match vm.and_then(|vm| vm.candidates(host.memory(), icr, self.vcpu.vcpu())) {
                Some(few) => targets(icr, me, few.iter().map(|number| slots.start + number).filter_map(identity)),
                None => targets(icr, me, slots.filter_map(identity)),
            }
        };
        if meant.is_empty() {
            return host.note(Event::Dropped);
        }
        for target in meant {
            self.hand_over(host, target, message);
        }
    }

    /// A message reaches a local APIC. (`__apic_accept_irq`)
    fn hand_over<'m, H: Host<'m>>(&mut self, host: &mut H, target: u32, message: Message) {
        let Some(slot) = host.slot(target) else { return };
        match message {
            // An APIC that is disabled by software takes no interrupts, but everything else.
            Message::Interrupt(_) if !slot.words.identity().software_enabled() => return host.note(Event::Dropped),
            Message::Interrupt(vector) => return software_post(host, target, vector, Some(self)),
            Message::IllegalVector => request(host, target, Requests::ILLEGAL_VECTOR),
            Message::Nmi => request(host, target, Requests::NMI),
            Message::Init => request(host, target, Requests::INIT),
            Message::Sipi(vector) => {
                slot.words.set_sipi_vector(vector);
                request(host, target, Requests::SIPI);
            }
            Message::Smi => {}
        }
        host.note(Event::Signalled);
    }
}

/// Registers that a guest may write in x2APIC mode beside those with rules of their own.
fn writable(register: ApicRegister) -> bool {
    let readonly = [ApicRegister::ID, ApicRegister::LDR, ApicRegister::DFR, ApicRegister::ICR_HIGH];
    register.writable() && !readonly.contains(&register) || register == ApicRegister::LVT_CMCI
}

/// Adds a reason against APICv; if it was active, every vCPU of the VM is told. (`kvm_set_apicv_inhibit`)
pub fn set_inhibit<'m, H: Host<'m>>(host: &mut H, vm: u32, reason: Inhibit) {
    let inhibits = host.vm(vm).and_then(|vm| vm.inhibits(host.memory()));
    if inhibits.is_some_and(|inhibits| inhibits.set(reason)) {
        update_apicv(host, vm);
    }
}

/// Removes a reason against APICv; if it was the last, every vCPU of the VM is told. (`kvm_clear_apicv_inhibit`)
pub fn clear_inhibit<'m, H: Host<'m>>(host: &mut H, vm: u32, reason: Inhibit) {
    let inhibits = host.vm(vm).and_then(|vm| vm.inhibits(host.memory()));
    if inhibits.is_some_and(|inhibits| inhibits.clear(reason)) {
        update_apicv(host, vm);
    }
}

fn update_apicv<'m, H: Host<'m>>(host: &mut H, vm: u32) {
    for slot in host.slots_of(vm) {
        request(host, slot, Requests::APICV_UPDATE);
    }
}

#[cfg(test)]
#[path = "exits_tests.rs"]
mod tests;
