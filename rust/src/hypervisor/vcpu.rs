//! A vCPU: its virtual processor, its local APIC's mode, and what a write of IA32_APIC_BASE changes.
//!
//! KVM: `kvm_lapic_set_base`, `vmx_set_virtual_apic_mode`, `kvm_apic_set_x2apic_id`.

use super::apicv::{Apicv, Inhibits};
use super::identity::ApicIdentity;
use super::vm::{Vm, VmError};
use crate::arch::apic_register::{DFR_FLAT, SVR_AFTER_RESET, VERSION, XApicId};
use crate::arch::{ApicBase, ApicBaseError, ApicMode, ApicRegister, X2ApicLdr};
use crate::memory::{PhysicalMemory, Word};
use crate::processor::{EntryFailure, NonRoot, VirtualApic, VirtualProcessor};

/// A vCPU. It belongs to the pCPU that runs it and moves with it.
///
/// Its fields stand in this order, as those of the virtual processor do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Vcpu {
    vp: VirtualProcessor,
    base: ApicBase,
    number: u32,
    apic_id: u32,
    mode: ApicMode,
    apicv: Apicv,
}

/// What a guest's WRMSR of IA32_APIC_BASE did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApicBaseWrite {
    /// The local APIC is now in this mode.
    Done(ApicMode),
    /// KVM injects #GP(0).
    Fault(ApicBaseError),
}

impl Vcpu {
    pub(super) fn create<W: Word>(
        memory: &PhysicalMemory<W>,
        vm: &Vm,
        vcpu: u32,
        apic_id: u32,
        mode: ApicMode,
        vp: VirtualProcessor,
    ) -> Result<Self, VmError> {
        let base = ApicBase::in_mode(mode, vcpu == 0);
        let mut this = Self { number: vcpu, apic_id, base, mode, apicv: vm.apicv, vp };
        // Fresh memory is 0 already: clearing it would touch every page of every vCPU.
        this.registers_after_reset(memory);
        this.enter_mode(memory, vm, mode).map_err(|failure| VmError::Entry { vcpu, failure })?;
        Ok(this)
    }

    /// Number of the vCPU in its VM.
    #[must_use]
    pub const fn vcpu(&self) -> u32 {
        self.number
    }

    /// Its APIC ID: the x2APIC ID, of which xAPIC mode shows the low 8 bits.
    #[must_use]
    pub const fn apic_id(&self) -> u32 {
        self.apic_id
    }

    /// The mode of its local APIC.
    #[must_use]
    pub const fn mode(&self) -> ApicMode {
        self.mode
    }

    /// IA32_APIC_BASE.
    #[must_use]
    pub const fn base(&self) -> ApicBase {
        self.base
    }

    /// Its APIC virtualization as the controls have it.
    #[must_use]
    pub const fn apicv(&self) -> Apicv {
        self.apicv
    }

    /// Its virtual processor.
    #[must_use]
    pub const fn vp(&self) -> &VirtualProcessor {
        &self.vp
    }

    /// Its virtual processor, to run it.
    pub const fn vp_mut(&mut self) -> &mut VirtualProcessor {
        &mut self.vp
    }

    /// The guest writes IA32_APIC_BASE; KVM changes controls, MSR bitmap and registers and enters the guest again.
    ///
    /// # Errors
    /// VM entry fails afterwards: someone made the VMCS invalid.
    pub fn write_apic_base<W: Word>(
        &mut self,
        memory: &PhysicalMemory<W>,
        vm: &Vm,
        value: u64,
    ) -> Result<ApicBaseWrite, EntryFailure> {
        let new = ApicBase::from_bits(value);
        let to = match self.base.write(new, self.vp.capabilities.max_phys_addr_bits) {
            Ok(to) => to,
            Err(error) => return Ok(ApicBaseWrite::Fault(error)),
        };
        let from = std::mem::replace(&mut self.mode, to);
        self.base = new;
        if from == to {
            return Ok(ApicBaseWrite::Done(to));
        }
        if to == ApicMode::Disabled || from == ApicMode::Disabled {
            self.reset_apic(memory);
        }
        self.enter_mode(memory, vm, to)?;
        Ok(ApicBaseWrite::Done(to))
    }

    /// Moves the guest to `mode` by legal writes of IA32_APIC_BASE; from x2APIC to xAPIC that is through disabled.
    ///
    /// # Errors
    /// VM entry fails: someone made the VMCS invalid.
    pub fn switch_to<W: Word>(
        &mut self,
        memory: &PhysicalMemory<W>,
        vm: &Vm,
        mode: ApicMode,
    ) -> Result<(), EntryFailure> {
        let write = |this: &mut Self, mode| {
            let value = ApicBase::in_mode(mode, this.base.bootstrap()).with_page(this.base.page());
            this.write_apic_base(memory, vm, value.into_bits()).map(|_| ())
        };
        if !self.mode.can_become(mode) {
            let between = if mode == ApicMode::XApic { ApicMode::Disabled } else { ApicMode::XApic };
            write(self, between)?;
        }
        write(self, mode)
    }

    /// Controls, bitmap and ID registers of the mode, then VM entry.
    fn enter_mode<W: Word>(&mut self, memory: &PhysicalMemory<W>, vm: &Vm, mode: ApicMode) -> Result<(), EntryFailure> {
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            let apic = VirtualApic::new(page);
            match mode {
                ApicMode::X2Apic => {
                    apic.set(ApicRegister::ID, self.apic_id);
                    apic.set(ApicRegister::LDR, X2ApicLdr::of_id(self.apic_id).into_bits());
                    // One 64-bit ICR from now on.
                    apic.set(ApicRegister::ICR_HIGH, 0);
                }
                ApicMode::XApic | ApicMode::Disabled => {
                    apic.set(ApicRegister::ID, XApicId::new().with_id(self.apic_id as u8).into_bits());
                }
            }
        }
        self.refresh_controls(memory, vm);
        self.publish_identity(memory, vm);
        NonRoot::enter(memory, &mut self.vp).map(|_| ())
    }

    /// Controls and MSR bitmap as the local APIC's mode and the VM's inhibit reasons want them; they take effect at the
    /// next VM entry. Returns whether APICv went on or off. (`__kvm_vcpu_update_apicv`, `vmx_refresh_apicv_exec_ctrl`)
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn refresh_controls<W: Word>(&mut self, memory: &PhysicalMemory<W>, vm: &Vm) -> bool {
        let activated = vm.inhibits(memory).is_none_or(Inhibits::activated);
        let active = vm.apicv.active && activated && self.mode != ApicMode::Disabled;
        let changed = active != self.apicv.active;
        self.apicv = Apicv { active, ..vm.apicv };
        self.apicv.set_controls(&vm.kvm, &mut self.vp.vmcs, self.mode, vm.scheduled);
        // What waits for the guest to lower its TPR is looked at anew before the next entry.
        self.vp.vmcs.tpr_threshold = 0;
        self.vp.vmcs.msr_bitmap = vm.msr_bitmap(self.vp.vmcs.secondary.virtualize_x2apic_mode(), active);
        if changed && active {
            // `kvm_apic_update_apicv`: what software held pending is the processor's to request now.
            self.update_interrupt_status(memory);
        }
        changed
    }

    /// RVI and SVI from VIRR and VISR. (`vmx_hwapic_irr_update`, `vmx_hwapic_isr_update`)
    pub fn update_interrupt_status<W: Word>(&mut self, memory: &PhysicalMemory<W>) {
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            let apic = VirtualApic::new(page);
            self.vp.vmcs.rvi = apic.highest(ApicRegister::IRR).unwrap_or(0);
            self.vp.vmcs.svi = apic.highest(ApicRegister::ISR).unwrap_or(0);
        }
    }

    /// Tells the others how this local APIC is addressed from now on. (`kvm_recalculate_apic_map`)
    pub fn publish_identity<W: Word>(&self, memory: &PhysicalMemory<W>, vm: &Vm) {
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            vm.publish(memory, self.number, ApicIdentity::of(VirtualApic::new(page), self.mode, self.apic_id));
        }
    }

    /// The interrupts in VIRR, a bit each.
    #[must_use]
    pub fn pending<W: Word>(&self, memory: &PhysicalMemory<W>) -> [u64; 4] {
        let page = memory.registers(self.vp.vmcs.virtual_apic);
        page.map_or([0; 4], |page| VirtualApic::new(page).bank(ApicRegister::IRR))
    }

    /// INIT: resets the local APIC but for its mode and ID. Returns the interrupts that are lost with it, if there are
    /// any. (`kvm_lapic_reset` with `init_event`)
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn init<W: Word>(&mut self, memory: &PhysicalMemory<W>, vm: &Vm) -> Option<[u64; 4]> {
        let lost = self.pending(memory);
        self.reset_apic(memory);
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            let apic = VirtualApic::new(page);
            match self.mode {
                ApicMode::X2Apic => {
                    apic.set(ApicRegister::ID, self.apic_id);
                    apic.set(ApicRegister::LDR, X2ApicLdr::of_id(self.apic_id).into_bits());
                }
                ApicMode::XApic | ApicMode::Disabled => {
                    apic.set(ApicRegister::ID, XApicId::new().with_id(self.apic_id as u8).into_bits());
                }
            }
        }
        self.publish_identity(memory, vm);
        (lost != [0; 4]).then_some(lost)
    }

    /// The local APIC after a reset, or after it was disabled: the state is lost.
    fn reset_apic<W: Word>(&mut self, memory: &PhysicalMemory<W>) {
        (self.vp.vmcs.rvi, self.vp.vmcs.svi) = (0, 0);
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            for word in page {
                if word.load() != 0 {
                    word.store(0);
                }
            }
        }
        self.registers_after_reset(memory);
    }

    /// The registers that are not 0 after a reset.
    fn registers_after_reset<W: Word>(&self, memory: &PhysicalMemory<W>) {
        if let Some(page) = memory.registers(self.vp.vmcs.virtual_apic) {
            let apic = VirtualApic::new(page);
            apic.set(ApicRegister::VERSION, VERSION);
            apic.set(ApicRegister::DFR, DFR_FLAT);
            apic.set(ApicRegister::SVR, SVR_AFTER_RESET);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::vm::VmConfig;
    use super::*;
    use crate::processor::{Outcome, Read};
    use std::cell::Cell;

    fn vm(mode: ApicMode) -> (PhysicalMemory<Cell<u64>>, Vm, Vec<Vcpu>) {
        let config = VmConfig::new(20, mode);
        let memory = PhysicalMemory::new(config.memory_bytes());
        let (vm, vcpus) = Vm::create(&memory, &config).unwrap();
        (memory, vm, vcpus)
    }

    #[test]
    fn entering_x2apic_derives_id_and_ldr_and_switches_controls() {
        let (memory, vm, mut vcpus) = vm(ApicMode::XApic);
        let vcpu = &mut vcpus[0x12];
        let id = |vcpu: &mut Vcpu, msr| NonRoot::resume(&memory, vcpu.vp_mut()).unwrap().rdmsr(msr);
        assert!(matches!(id(vcpu, 0x802), Read::Exit(_)), "xAPIC: no x2APIC MSR passes");
        vcpu.switch_to(&memory, &vm, ApicMode::X2Apic).unwrap();
        assert_eq!(id(vcpu, 0x802), Read::Value(0x12));
        assert_eq!(id(vcpu, 0x80D), Read::Value(0x0001_0004));
        let sent = NonRoot::resume(&memory, vcpu.vp_mut()).unwrap().wrmsr(0x830, 3 << 32 | 0xFB);
        assert!(matches!(sent, Outcome::Posted(_)), "{sent:?}");
    }

    /// A TPR threshold from before the move must not stop VM entry after it.
    #[test]
    fn a_move_forgets_the_tpr_threshold() {
        let (memory, vm, mut vcpus) = vm(ApicMode::X2Apic);
        assert!(vm.inhibits(&memory).unwrap().set(crate::hypervisor::Inhibit::HyperV));
        vcpus[0].vp_mut().vmcs.tpr_threshold = 5;
        vcpus[0].switch_to(&memory, &vm, ApicMode::XApic).unwrap();
        assert_eq!(vcpus[0].mode(), ApicMode::XApic);
    }

    #[test]
    fn illegal_moves_fault_and_change_nothing() {
        let (memory, vm, mut vcpus) = vm(ApicMode::X2Apic);
        let before = vcpus[1].clone();
        let xapic = ApicBase::in_mode(ApicMode::XApic, false).into_bits();
        let write = vcpus[1].write_apic_base(&memory, &vm, xapic).unwrap();
        assert!(matches!(write, ApicBaseWrite::Fault(ApicBaseError::Transition { .. })));
        assert_eq!(vcpus[1], before);
    }

    #[test]
    fn disabling_loses_the_state() {
        let (memory, vm, mut vcpus) = vm(ApicMode::X2Apic);
        let _ = NonRoot::resume(&memory, vcpus[0].vp_mut()).unwrap().wrmsr(0x83F, 0x41);
        vcpus[0].switch_to(&memory, &vm, ApicMode::XApic).unwrap();
        assert_eq!(vcpus[0].mode(), ApicMode::XApic);
        assert!(!vcpus[0].vp().recognized());
        let apic = NonRoot::resume(&memory, vcpus[0].vp_mut()).unwrap().virtual_apic();
        assert!(apic.vectors(ApicRegister::IRR).is_empty());
        assert_eq!(apic.get(ApicRegister::ID), 0);
    }

    #[test]
    fn numbers_and_registers_of_a_new_vcpu() {
        let (memory, _, vcpus) = vm(ApicMode::XApic);
        assert!(vcpus.iter().map(Vcpu::vcpu).eq(0..20));
        let apic = VirtualApic::new(memory.registers(vcpus[3].vp().vmcs.virtual_apic).unwrap());
        let registers = [ApicRegister::VERSION, ApicRegister::DFR, ApicRegister::SVR, ApicRegister::ID];
        assert_eq!(registers.map(|register| apic.get(register)), [VERSION, DFR_FLAT, SVR_AFTER_RESET, 3 << 24]);
    }

    #[test]
    fn writing_the_same_mode_changes_the_base_alone() {
        let (memory, vm, mut vcpus) = vm(ApicMode::XApic);
        let apic = VirtualApic::new(memory.registers(vcpus[0].vp().vmcs.virtual_apic).unwrap());
        apic.set(ApicRegister::ICR_HIGH, 5 << 24);
        vcpus[0].vp_mut().vmcs.tpr_threshold = 5;
        let same = vcpus[0].base().with_page(0xFEE01);
        let write = vcpus[0].write_apic_base(&memory, &vm, same.into_bits()).unwrap();
        assert_eq!(write, ApicBaseWrite::Done(ApicMode::XApic));
        assert_eq!((vcpus[0].base(), vcpus[0].vp().vmcs.tpr_threshold), (same, 5));
        vcpus[0].vp_mut().vmcs.tpr_threshold = 0;
        apic.set(ApicRegister::TPR, 0x20);
        let x2apic = ApicBase::in_mode(ApicMode::X2Apic, true).into_bits();
        vcpus[0].write_apic_base(&memory, &vm, x2apic).unwrap();
        assert_eq!(apic.get(ApicRegister::ICR_HIGH), 0, "another mode");
        assert_eq!(apic.get(ApicRegister::TPR), 0x20, "a move between enabled modes keeps the state");
    }

    /// Only where APICv comes back: what was requested meanwhile is in VIRR alone.
    #[test]
    fn the_interrupt_status_is_read_anew_when_apicv_comes_back() {
        let (memory, vm, mut vcpus) = vm(ApicMode::X2Apic);
        let inhibits = vm.inhibits(&memory).unwrap();
        let apic = VirtualApic::new(memory.registers(vcpus[0].vp().vmcs.virtual_apic).unwrap());
        apic.set_bit(ApicRegister::IRR, 0x41);
        apic.set_bit(ApicRegister::ISR, 0x31);
        let status = |vcpu: &Vcpu| (vcpu.vp().vmcs.rvi, vcpu.vp().vmcs.svi);
        assert!(!vcpus[0].refresh_controls(&memory, &vm));
        assert_eq!(status(&vcpus[0]), (0, 0), "nothing changed");
        assert!(inhibits.set(crate::hypervisor::Inhibit::HyperV));
        assert!(vcpus[0].refresh_controls(&memory, &vm));
        assert_eq!(status(&vcpus[0]), (0, 0), "software's to deliver");
        assert!(inhibits.clear(crate::hypervisor::Inhibit::HyperV));
        assert!(vcpus[0].refresh_controls(&memory, &vm));
        assert_eq!(status(&vcpus[0]), (0x41, 0x31));
    }
}
