//! A VM driven by hand: one access, one interrupt, one VM entry at a time, on one thread.
//!
//! vCPUs are named by their place in [`Machine::vcpus`]; a place that is none is a mistake of the caller's and panics.
//! vCPU k has pCPU k for itself. Notifications are carried to the target's local APIC at once and wait there until the
//! target reaches an instruction boundary.

use crate::arch::msr::{self, IA32_APIC_BASE};
use crate::arch::{ApicBaseError, ApicRegister, Clause, Exit, PidControl, VmcsField};
use crate::guest::end_of_interrupt;
use crate::hypervisor::{ApicBaseWrite, Vcpu, Vm, VmConfig, VmError};
use crate::memory::{Line, OutOfMemory, Owner, PhysicalMemory};
use crate::processor::{
    Access, Boundary, EntryFailure, ExternalInterrupt, Harvest, LocalApic, NonRoot, Notice, Outcome, Posted, Read,
    SendUipi, VirtualApic, VmcsError, descriptor, local_apic, pid_table,
};
use std::cell::Cell;

type Memory = PhysicalMemory<Cell<u64>>;

/// Room for user posted-interrupt descriptors.
const SPARE_BYTES: u64 = 1 << 16;

/// The machine: a VM, its vCPUs and their pCPUs.
#[derive(Debug)]
pub struct Machine {
    memory: Memory,
    vm: Vm,
    vcpus: Vec<Vcpu>,
    /// Request bits of each pCPU's local APIC.
    requests: Vec<u64>,
}

/// What an instruction boundary brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Posted-interrupt processing was done.
    pub processed: Option<Harvest>,
    /// The virtual interrupt that was delivered.
    pub delivered: Option<u8>,
    /// The VM exit that came instead.
    pub exit: Option<Exit>,
}

impl Machine {
    /// Makes the VM; each vCPU has done its first VM entry.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn new(config: &VmConfig) -> Result<Self, VmError> {
        let vcpus = config.apic_ids.len() as u64;
        let memory = Memory::new(config.memory_bytes() + vcpus * 256 + SPARE_BYTES);
        let (vm, vcpus) = Vm::create(&memory, config)?;
        let requests = (0..vcpus.len() as u32)
            .map(|pcpu| memory.allocate(Owner::LocalApic { pcpu }, 64, 64))
            .collect::<Result<_, _>>()?;
        Ok(Self { memory, vm, vcpus, requests })
    }

    /// The vCPUs, in order.
    #[must_use]
    pub fn vcpus(&self) -> &[Vcpu] {
        &self.vcpus
    }

    /// Its memory, to explain a violation.
    #[must_use]
    pub const fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Last PID-pointer index of the VM.
    #[must_use]
    pub const fn last_index(&self) -> u16 {
        self.vm.last_pid_index
    }

    fn vcpu(&self, vcpu: usize) -> &Vcpu {
        &self.vcpus[vcpu]
    }

    fn guest(&mut self, vcpu: usize) -> Result<NonRoot<'_, '_, Cell<u64>>, Outcome> {
        NonRoot::resume(&self.memory, self.vcpus[vcpu].vp_mut()).map_err(Outcome::Violation)
    }

    /// Does a write on a vCPU and carries the notification, if one is due.
    fn write(&mut self, vcpu: usize, act: impl FnOnce(&mut NonRoot<'_, '_, Cell<u64>>) -> Outcome) -> Outcome {
        let outcome = match self.guest(vcpu) {
            Ok(mut guest) => act(&mut guest),
            Err(violation) => violation,
        };
        if let Outcome::Posted(posted) = outcome {
            self.carry(posted.notice);
        }
        outcome
    }

    /// The same for many values, in order; `each` is told what came of each. The vCPU's pages are looked up once.
    fn write_each(
        &mut self,
        vcpu: usize,
        values: impl Iterator<Item = u64>,
        act: impl Fn(&mut NonRoot<'_, '_, Cell<u64>>, u64) -> Outcome,
        mut each: impl FnMut(Outcome),
    ) {
        let Self { memory, vcpus, requests, .. } = self;
        let mut guest = NonRoot::resume(memory, vcpus[vcpu].vp_mut());
        for value in values {
            let outcome = match &mut guest {
                Ok(guest) => act(guest, value),
                Err(violation) => Outcome::Violation(*violation),
            };
            if let Outcome::Posted(posted) = outcome {
                carry(memory, requests, posted.notice);
            }
            each(outcome);
        }
    }

    fn carry(&self, notice: Notice) {
        carry(&self.memory, &self.requests, notice);
    }

    fn local(&self, pcpu: usize) -> Option<&Line<Cell<u64>>> {
        local(&self.memory, &self.requests, pcpu)
    }

    /// WRMSR. A write of IA32_APIC_BASE exits, and the hypervisor switches the mode or injects #GP(0).
    pub fn wrmsr(&mut self, vcpu: usize, msr: u32, value: u64) -> Outcome {
        let outcome = self.write(vcpu, |guest| guest.wrmsr(msr, value));
        if msr != IA32_APIC_BASE || !matches!(outcome, Outcome::Exit(_)) {
            return outcome;
        }
        match self.vcpus[vcpu].write_apic_base(&self.memory, &self.vm, value) {
            Ok(ApicBaseWrite::Fault(ApicBaseError::Transition { .. })) => Outcome::Fault(Clause::ApicBaseTransition),
            Ok(ApicBaseWrite::Fault(_)) => Outcome::Fault(Clause::ApicBaseInvalid),
            Ok(ApicBaseWrite::Done(_)) | Err(_) => outcome,
        }
    }

    /// A [`wrmsr`](Self::wrmsr) of each of `values`, in order; `each` is told what came of each.
    pub fn wrmsr_each(
        &mut self,
        vcpu: usize,
        msr: u32,
        values: impl Iterator<Item = u64>,
        mut each: impl FnMut(Outcome),
    ) {
        if msr == IA32_APIC_BASE {
            // Each may change the mode, and with it the VMCS.
            values.for_each(|value| each(self.wrmsr(vcpu, msr, value)));
        } else {
            self.write_each(vcpu, values, |guest, value| guest.wrmsr(msr, value), each);
        }
    }

    /// RDMSR: what the processor does, and the value with which the hypervisor answers where it exits (that of
    /// IA32_APIC_BASE).
    pub fn rdmsr(&mut self, vcpu: usize, msr: u32) -> (Read, Option<u64>) {
        let read = match self.guest(vcpu) {
            Ok(mut guest) => guest.rdmsr(msr),
            Err(_) => Read::NotVirtualized(Clause::MsrNotVirtualized),
        };
        let emulated = msr == IA32_APIC_BASE && matches!(read, Read::Exit(_));
        (read, emulated.then(|| self.vcpu(vcpu).base().into_bits()))
    }

    /// A write to the APIC-access page.
    pub fn mmio_write(&mut self, vcpu: usize, access: Access, value: u64) -> Outcome {
        self.write(vcpu, |guest| guest.mmio_write(access, value))
    }

    /// A [`mmio_write`](Self::mmio_write) of each of `values`, in order; `each` is told what came of each.
    pub fn mmio_write_each(
        &mut self,
        vcpu: usize,
        access: Access,
        values: impl Iterator<Item = u64>,
        each: impl FnMut(Outcome),
    ) {
        self.write_each(vcpu, values, |guest, value| guest.mmio_write(access, value), each);
    }

    /// A read from the APIC-access page.
    pub fn mmio_read(&mut self, vcpu: usize, access: Access) -> Read {
        match self.guest(vcpu) {
            Ok(mut guest) => guest.mmio_read(access),
            Err(_) => Read::NotVirtualized(Clause::AccessNotVirtualized),
        }
    }

    /// The guest's EOI, in the way of its local APIC's mode.
    pub fn eoi(&mut self, vcpu: usize) -> Outcome {
        let mode = self.vcpu(vcpu).mode();
        self.write(vcpu, |guest| end_of_interrupt(guest, mode))
    }

    /// HLT. Returns the exit, if HLT exiting is 1.
    pub fn hlt(&mut self, vcpu: usize) -> Option<Exit> {
        self.guest(vcpu).ok()?.hlt()
    }

    /// SENDUIPI to the UPID at `upid`.
    pub fn senduipi(&mut self, vcpu: usize, upid: u64, user_vector: u8) -> SendUipi {
        let mut sent = SendUipi::Quiet;
        let outcome = self.write(vcpu, |guest| {
            sent = guest.senduipi(upid, user_vector);
            match sent {
                SendUipi::Notified(outcome) => outcome,
                _ => Outcome::Virtualized(Clause::SendUipiNotVirtualized),
            }
        });
        if matches!(sent, SendUipi::Notified(_)) { SendUipi::Notified(outcome) } else { sent }
    }

    /// A new user posted-interrupt descriptor with this NV and NDST; returns its address.
    ///
    /// # Errors
    /// The memory is used up.
    pub fn new_upid(&mut self, vector: u8, destination: u32) -> Result<u64, OutOfMemory> {
        let address = self.memory.allocate(Owner::UserDescriptor { vm: self.vm.vm }, 16, 64)?;
        let control =
            crate::arch::posted_interrupt::UpidControl::new().with_vector(vector).with_destination(destination);
        if let Some(word) = self.memory.word(address) {
            word.set(control.into_bits());
        }
        Ok(address)
    }

    /// The two words of the UPID at `address`, or none if there is none.
    #[must_use]
    pub fn upid(&self, address: u64) -> Option<[u64; 2]> {
        let owner = self.memory.owner_of(address)?.owner;
        if !matches!(owner, Owner::UserDescriptor { .. }) {
            return None;
        }
        Some([self.memory.word(address)?.get(), self.memory.word(address + 8)?.get()])
    }

    /// Writes the two words of the UPID at `address`. Returns whether there is one.
    pub fn set_upid(&mut self, address: u64, words: [u64; 2]) -> bool {
        let found = self.upid(address).is_some();
        if found {
            for (at, value) in (0..).zip(words) {
                if let Some(word) = self.memory.word(address + 8 * at) {
                    word.set(value);
                }
            }
        }
        found
    }

    /// VM entry: the controls in the VMCS are checked and take effect.
    ///
    /// # Errors
    /// The check that fails.
    pub fn enter(&mut self, vcpu: usize) -> Result<(), EntryFailure> {
        NonRoot::enter(&self.memory, self.vcpus[vcpu].vp_mut()).map(|_| ())
    }

    /// Posted-interrupt processing of what the local APIC has pending, and nothing else.
    pub fn external_interrupt(&mut self, vcpu: usize) -> ExternalInterrupt {
        let requests = self.requests.get(vcpu).and_then(|&address| self.memory.line(address));
        let guest = NonRoot::resume(&self.memory, self.vcpus[vcpu].vp_mut());
        match (requests, guest) {
            (Some(requests), Ok(mut guest)) => guest.external_interrupt(&mut LocalApic::new(requests)),
            (_, Err(violation)) => ExternalInterrupt::Violation(violation),
            (None, _) => ExternalInterrupt::None,
        }
    }

    /// An instruction boundary: a pending notification is processed, then a recognized interrupt is delivered.
    pub fn boundary(&mut self, vcpu: usize) -> Step {
        let mut step = Step::default();
        match self.external_interrupt(vcpu) {
            ExternalInterrupt::Processed(harvest) => step.processed = Some(harvest),
            ExternalInterrupt::Exit(exit, _) => {
                step.exit = Some(exit);
                return step;
            }
            ExternalInterrupt::None | ExternalInterrupt::Guest(_) | ExternalInterrupt::Violation(_) => {}
        }
        if let Ok(mut guest) = self.guest(vcpu) {
            match guest.boundary() {
                Boundary::Delivered(vector) => step.delivered = Some(vector),
                Boundary::Exit(exit) => step.exit = Some(exit),
                Boundary::Nothing => {}
            }
        }
        step
    }

    /// An interrupt that a device posts in a vCPU's descriptor through the IOMMU, which carries the notification.
    /// None if the VMCS names no descriptor.
    pub fn device_post(&mut self, vcpu: usize, vector: u8, urgent: bool) -> Option<Posted> {
        let address = self.vcpu(vcpu).vp().vmcs.descriptor;
        let pid = self.memory.descriptor(address)?;
        let coalesced = descriptor::post_request(pid, vector);
        let notice =
            if urgent { descriptor::post_urgent_notification(pid) } else { descriptor::post_notification(pid) };
        self.carry(notice);
        Some(Posted { vector, apic_id: self.vcpu(vcpu).apic_id(), descriptor: address, coalesced, notice })
    }

    /// Requests a physical interrupt of a vCPU's pCPU.
    pub fn physical_interrupt(&mut self, vcpu: usize, vector: u8) {
        if let Some(requests) = self.local(vcpu) {
            local_apic::request(requests, vector);
        }
    }

    /// Whether reads (writes, if `write`) of an MSR exit on this vCPU, or none where no MSR bitmap covers it.
    #[must_use]
    pub fn intercept(&self, vcpu: usize, msr: u32, write: bool) -> Option<bool> {
        let (word, mask) = self.intercept_bit(vcpu, msr, write)?;
        Some(word.get() & mask != 0)
    }

    /// Makes reads (writes, if `write`) of an MSR exit or pass on all vCPUs that share this one's MSR bitmap. Returns
    /// whether the bitmap covers the MSR.
    pub fn set_intercept(&mut self, vcpu: usize, msr: u32, write: bool, exits: bool) -> bool {
        let Some((word, mask)) = self.intercept_bit(vcpu, msr, write) else { return false };
        word.set(if exits { word.get() | mask } else { word.get() & !mask });
        true
    }

    fn intercept_bit(&self, vcpu: usize, msr: u32, write: bool) -> Option<(&Cell<u64>, u64)> {
        let bitmap = self.memory.page(self.vcpu(vcpu).vp().vmcs.msr_bitmap)?;
        let at = msr::bitmap_position(msr, write)?;
        Some((bitmap.get(at.word)?, at.mask))
    }

    /// Whether the pCPU's local APIC has an interrupt pending.
    #[must_use]
    pub fn notification_pending(&self, vcpu: usize) -> bool {
        self.local(vcpu).is_some_and(local_apic::pending)
    }

    /// A vCPU's posted-interrupt descriptor: request bits and control word.
    #[must_use]
    pub fn descriptor(&self, vcpu: usize) -> Option<([u64; 4], PidControl)> {
        let pid = self.memory.descriptor(self.vcpu(vcpu).vp().vmcs.descriptor)?;
        Some((descriptor::requests(pid), descriptor::control(pid)))
    }

    /// Changes the control word of a vCPU's descriptor, as software does: one compare-exchange.
    pub fn update_descriptor(&mut self, vcpu: usize, change: impl Fn(PidControl) -> PidControl) {
        let address = self.vcpu(vcpu).vp().vmcs.descriptor;
        if let Some(pid) = self.memory.descriptor(address) {
            descriptor::update_control(pid, change);
        }
    }

    /// The virtual-APIC page of a vCPU.
    #[must_use]
    pub fn virtual_apic(&self, vcpu: usize) -> Option<VirtualApic<'_, Cell<u64>>> {
        self.memory.registers(self.vcpu(vcpu).vp().vmcs.virtual_apic).map(VirtualApic::new)
    }

    /// A 32-bit register of the virtual-APIC page.
    #[must_use]
    pub fn register(&self, vcpu: usize, register: ApicRegister) -> u32 {
        self.word_of(vcpu, register).map_or(0, |word| word.get() as u32)
    }

    /// Writes one, as the hypervisor does: nothing is evaluated, and the 4 bytes after it keep their value.
    pub fn set_register(&mut self, vcpu: usize, register: ApicRegister, value: u32) {
        if let Some(word) = self.word_of(vcpu, register) {
            word.set(word.get() >> 32 << 32 | u64::from(value));
        }
    }

    fn word_of(&self, vcpu: usize, register: ApicRegister) -> Option<&Cell<u64>> {
        self.memory.word(self.vcpu(vcpu).vp().vmcs.virtual_apic.checked_add(u64::from(register.offset()))?)
    }

    /// The bytes of the virtual-APIC page.
    #[must_use]
    pub fn virtual_apic_page(&self, vcpu: usize) -> Vec<u8> {
        let page = self.memory.page(self.vcpu(vcpu).vp().vmcs.virtual_apic);
        page.into_iter().flatten().flat_map(|word| word.get().to_le_bytes()).collect()
    }

    /// An entry of the PID-pointer table, or none beyond its end.
    #[must_use]
    pub fn table_entry(&self, apic_id: u32) -> Option<u64> {
        let address = pid_table::entry_address(self.vm.table, apic_id);
        self.memory.owner_of(address)?;
        Some(self.memory.table_entry(address)?.get())
    }

    /// Writes an entry of the PID-pointer table. Returns whether it has that entry.
    pub fn set_table_entry(&mut self, apic_id: u32, value: u64) -> bool {
        let address = pid_table::entry_address(self.vm.table, apic_id);
        match (self.memory.owner_of(address), self.memory.table_entry(address)) {
            (Some(_), Some(entry)) => {
                entry.set(value);
                true
            }
            _ => false,
        }
    }

    /// VMREAD.
    #[must_use]
    pub fn vmread(&self, vcpu: usize, field: VmcsField) -> u64 {
        self.vcpu(vcpu).vp().vmcs.read(field)
    }

    /// VMWRITE. Controls take effect at the next [`enter`](Self::enter).
    ///
    /// # Errors
    /// A read-only field, or a value that does not fit.
    pub fn vmwrite(&mut self, vcpu: usize, field: VmcsField, value: u64) -> Result<(), VmcsError> {
        self.vcpus[vcpu].vp_mut().vmcs.write(field, value)
    }

    /// The state that the guest itself changes: RFLAGS.IF, interrupt shadow, activity.
    pub fn state_mut(&mut self, vcpu: usize) -> &mut crate::processor::VirtualProcessor {
        self.vcpus[vcpu].vp_mut()
    }
}

/// Carries a notification to the local APIC that it names, if there is one.
fn carry(memory: &Memory, requests: &[u64], notice: Notice) {
    if let Notice::Due(due) = notice
        && let Some(requests) = local(memory, requests, due.destination as usize)
    {
        local_apic::request(requests, due.vector);
    }
}

/// The local APIC of a pCPU, of those that are at `requests`.
fn local<'m>(memory: &'m Memory, requests: &[u64], pcpu: usize) -> Option<&'m Line<Cell<u64>>> {
    memory.line(*requests.get(pcpu)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ApicMode;

    #[test]
    fn an_ipi_from_hand_to_hand() {
        let mut machine = Machine::new(&VmConfig::new(2, ApicMode::X2Apic)).unwrap();
        assert!(matches!(machine.wrmsr(0, 0x830, 1 << 32 | 0xFB), Outcome::Posted(_)));
        assert!(machine.notification_pending(1));
        assert_eq!(machine.boundary(1).delivered, Some(0xFB));
        assert!(matches!(machine.eoi(1), Outcome::Virtualized(_)));
        assert_eq!(machine.boundary(1), Step::default());
    }

    #[test]
    fn the_hypervisor_follows_ia32_apic_base() {
        let mut machine = Machine::new(&VmConfig::new(2, ApicMode::XApic)).unwrap();
        assert!(matches!(machine.rdmsr(0, 0x1B), (Read::Exit(_), Some(0xFEE0_0900))));
        assert!(matches!(machine.wrmsr(0, 0x1B, 0xFEE0_0D00), Outcome::Exit(_)));
        assert_eq!(machine.vcpus()[0].mode(), ApicMode::X2Apic);
        assert_eq!(machine.wrmsr(0, 0x1B, 0xFEE0_0900), Outcome::Fault(Clause::ApicBaseTransition));
        assert_eq!(machine.wrmsr(0, 0x1B, 0xFEE0_0501), Outcome::Fault(Clause::ApicBaseInvalid));
    }

    #[test]
    fn suppressed_notifications_wait_in_pir() {
        let mut machine = Machine::new(&VmConfig::new(2, ApicMode::X2Apic)).unwrap();
        machine.update_descriptor(1, |control| control.with_suppress(true));
        let _ = machine.wrmsr(0, 0x830, 1 << 32 | 0xFB);
        assert!(!machine.notification_pending(1));
        assert_eq!(machine.boundary(1), Step::default());
        assert_eq!(machine.descriptor(1).unwrap().0[3], 1 << 59);
    }

    #[test]
    fn the_table_has_an_end() {
        let mut machine = Machine::new(&VmConfig::new(3, ApicMode::X2Apic)).unwrap();
        assert!(machine.table_entry(2).is_some() && machine.table_entry(3).is_none());
        assert!(machine.set_table_entry(2, 0) && !machine.set_table_entry(3, 0));
        assert!(matches!(machine.wrmsr(0, 0x830, 2 << 32 | 0xFB), Outcome::Exit(_)));
    }

    #[test]
    fn user_notifications_are_carried() {
        let mut machine = Machine::new(&VmConfig::new(2, ApicMode::X2Apic)).unwrap();
        let upid = machine.new_upid(0xEC, 1).unwrap();
        assert!(matches!(machine.senduipi(0, upid, 3), SendUipi::Notified(Outcome::Posted(_))));
        assert_eq!(machine.boundary(1).delivered, Some(0xEC));
    }
}
