//! The way into the guest: requests, injection by software, the last steps before VM entry.
//!
//! KVM: `vcpu_enter_guest`, `kvm_apic_accept_events`, `kvm_check_and_inject_events`, `update_cr8_intercept`.

use super::host::{Event, Host};
use super::policy::Routine;
use super::shared::Requests;
use super::task::{MpState, Task};
use crate::arch::apic_register::ErrorStatus;
use crate::arch::{ApicRegister, vector};
use crate::processor::{Activity, VirtualApic};

/// What is next for a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// VM entry; what it injects is delivered at once.
    Enter {
        /// The injected interrupt.
        inject: Option<u8>,
        /// An NMI is injected.
        nmi: bool,
    },
    /// A request came in the last moment: begin again.
    Again,
    /// The vCPU has nothing to run.
    Block,
    /// Its guest begins anew: INIT or a start-up IPI.
    Restart,
    /// There is no such vCPU any longer.
    Gone,
    /// The policy has given the vCPU up.
    Stopped,
}

impl Task {
    /// Takes the requests, injects what software must, and does the last steps before VM entry.
    #[must_use]
    pub fn prepare_entry<'m, H: Host<'m>>(&mut self, host: &mut H) -> Entry {
        let Some(slot) = host.slot(self.slot) else { return Entry::Gone };
        if self.stopped {
            return Entry::Stopped;
        }
        let requests = slot.words.take_requests();
        if !requests.is_empty()
            && let Some(next) = self.serve(host, requests)
        {
            return next;
        }
        if self.mp_state != MpState::Runnable {
            return Entry::Block;
        }
        let nmi = self.nmis > 0;
        self.nmis = 0;
        // Interrupts that the processor does not deliver are looked at after PIR was synced, which is the policy's act:
        // it comes first, with host interrupts off.
        self.routine(host, Routine::BeforeEntry);
        if self.stopped {
            return Entry::Stopped;
        }
        if !slot.words.requests().is_empty() {
            self.nmis += u32::from(nmi);
            self.routine(host, Routine::AfterExit);
            return Entry::Again;
        }
        let inject = if self.vcpu.apicv().active { None } else { self.inject(host) };
        Entry::Enter { inject, nmi }
    }

    /// Right after a VM exit.
    pub fn after_exit<'m, H: Host<'m>>(&mut self, host: &mut H) {
        self.routine(host, Routine::AfterExit);
    }

    fn serve<'m, H: Host<'m>>(&mut self, host: &mut H, requests: Requests) -> Option<Entry> {
        let (vm, memory) = (host.vm(self.vm)?, host.memory());
        if requests.any_of(Requests::APICV_UPDATE) && self.vcpu.refresh_controls(memory, vm) {
            host.note(Event::ApicvChanged { active: self.vcpu.apicv().active });
        }
        if requests.any_of(Requests::ILLEGAL_VECTOR)
            && let Some(page) = memory.registers(self.vcpu.vp().vmcs.virtual_apic)
        {
            let apic = VirtualApic::new(page);
            let status = ErrorStatus::from_bits(apic.get(ApicRegister::ESR)).with_receive_illegal_vector(true);
            apic.set(ApicRegister::ESR, status.into_bits());
        }
        if requests.any_of(Requests::NMI) {
            self.nmis = 1;
        }
        if requests.any_of(Requests::INIT) {
            self.init(host);
        }
        if requests.any_of(Requests::SIPI) && self.mp_state == MpState::InitReceived {
            self.mp_state = MpState::Runnable;
            return Some(Entry::Restart);
        }
        // INIT starts the boot processor over; the others wait for a start-up IPI.
        (requests.any_of(Requests::INIT) && self.mp_state == MpState::Runnable).then_some(Entry::Restart)
    }

    /// INIT. (`kvm_vcpu_reset`)
    fn init<'m, H: Host<'m>>(&mut self, host: &mut H) {
        let Some(vm) = host.vm(self.vm) else { return };
        self.routine(host, Routine::BlockCheck);
        let slot = self.slot;
        if let Some(vectors) = self.vcpu.init(host.memory(), vm) {
            host.note(Event::Discarded { slot, vectors });
        }
        self.nmis = 0;
        self.vcpu.vp_mut().interrupt_flag = false;
        self.vcpu.vp_mut().activity = Activity::Active;
        let boot = self.vcpu.base().bootstrap();
        self.mp_state = if boot { MpState::Runnable } else { MpState::InitReceived };
    }

    /// What software does where the processor does not deliver: injects, or asks for an exit when the guest can take it.
    fn inject<'m, H: Host<'m>>(&mut self, host: &mut H) -> Option<u8> {
        let vp = self.vcpu.vp();
        let apic = VirtualApic::new(host.memory().registers(vp.vmcs.virtual_apic)?);
        let allowed = vp.interrupt_flag && !vp.interrupt_shadow;
        // Also while the local APIC is disabled by software: what is in VIRR is held, and delivered.
        let pending = self.pending_interrupt(host);
        let masked = apic.highest(ApicRegister::IRR).filter(|_| pending.is_none());
        let tpr = vector::class(apic.get(ApicRegister::TPR) as u8);
        let vmcs = &mut self.vcpu.vp_mut().vmcs;
        // The guest must exit when it lowers its TPR below what waits.
        vmcs.tpr_threshold = masked.map_or(0, |irr| u32::from(vector::class(irr).min(tpr)));
        vmcs.primary.set_interrupt_window_exiting(pending.is_some() && !allowed);
        let vector = pending.filter(|_| allowed)?;
        apic.clear_bit(ApicRegister::IRR, vector);
        apic.set_bit(ApicRegister::ISR, vector);
        self.vcpu.vp_mut().activity = Activity::Active;
        if self.pending_interrupt(host).is_some() {
            self.vcpu.vp_mut().vmcs.primary.set_interrupt_window_exiting(true);
        }
        Some(vector)
    }
}

#[cfg(test)]
#[path = "enter_tests.rs"]
mod tests;
