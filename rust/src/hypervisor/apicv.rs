//! APIC virtualization of a vCPU: when it is active, and which controls and MSR bitmap follow.
//!
//! KVM: `vmx_refresh_apicv_exec_ctrl`, `vmx_set_virtual_apic_mode`, `vmx_tertiary_exec_control`,
//! `vmx_update_msr_bitmap_x2apic`, `__kvm_set_or_clear_apicv_inhibit`.

use super::setup::{KvmIntel, POSTED_INTR_VECTOR};
use crate::arch::msr::{self, X2APIC_EOI, X2APIC_ICR, X2APIC_SELF_IPI, X2APIC_TPR};
use crate::arch::{ApicMode, ApicRegister, ExitControls};
use crate::memory::{PAGE_WORDS, Page, Word};
use crate::processor::Vmcs;

/// Why APICv is not active in a VM. Any one reason deactivates it for all vCPUs. (`enum kvm_apicv_inhibit`)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Inhibit {
    /// `APICV_INHIBIT_REASON_DISABLED`: the module parameter is off.
    Disabled,
    /// `APICV_INHIBIT_REASON_ABSENT`: there is no in-kernel local APIC.
    Absent,
    /// `APICV_INHIBIT_REASON_HYPERV`: the guest uses Hyper-V's SynIC with AutoEOI.
    HyperV,
    /// `APICV_INHIBIT_REASON_BLOCKIRQ`: userspace debugs with interrupts blocked.
    BlockIrq,
    /// `APICV_INHIBIT_REASON_PHYSICAL_ID_ALIASED`: two vCPUs have one physical APIC ID.
    PhysicalIdAliased,
    /// `APICV_INHIBIT_REASON_APIC_ID_MODIFIED`: a guest wrote its xAPIC ID.
    ApicIdModified,
    /// `APICV_INHIBIT_REASON_APIC_BASE_MODIFIED`: a guest moved its APIC page.
    ApicBaseModified,
}

impl Inhibit {
    /// All of them, in the order of their bits.
    pub const ALL: [Self; 7] = [
        Self::Disabled,
        Self::Absent,
        Self::HyperV,
        Self::BlockIrq,
        Self::PhysicalIdAliased,
        Self::ApicIdModified,
        Self::ApicBaseModified,
    ];

    /// KVM's name without its prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "DISABLED",
            Self::Absent => "ABSENT",
            Self::HyperV => "HYPERV",
            Self::BlockIrq => "BLOCKIRQ",
            Self::PhysicalIdAliased => "PHYSICAL_ID_ALIASED",
            Self::ApicIdModified => "APIC_ID_MODIFIED",
            Self::ApicBaseModified => "APIC_BASE_MODIFIED",
        }
    }

    const fn bit(self) -> u64 {
        1 << self as u8
    }
}

/// The reasons against APICv in one VM: a word that all its vCPUs read.
#[derive(Debug)]
pub struct Inhibits<'m, W>(&'m W);

impl<W> Clone for Inhibits<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Inhibits<'_, W> {}

impl<'m, W: Word> Inhibits<'m, W> {
    /// The reasons kept in `word`.
    #[must_use]
    pub const fn new(word: &'m W) -> Self {
        Self(word)
    }

    /// Adds a reason. Returns whether APICv was active until now: vCPUs must then be told. (`kvm_set_apicv_inhibit`)
    #[must_use]
    pub fn set(self, reason: Inhibit) -> bool {
        self.0.fetch_or(reason.bit()) == 0
    }

    /// Removes a reason. Returns whether it was the last one: vCPUs must then be told. (`kvm_clear_apicv_inhibit`)
    #[must_use]
    pub fn clear(self, reason: Inhibit) -> bool {
        self.0.fetch_and(!reason.bit()) == reason.bit()
    }

    /// No reason stands against APICv. (`kvm_apicv_activated`)
    #[must_use]
    pub fn activated(self) -> bool {
        self.0.load() == 0
    }

    /// The reasons there are.
    #[must_use]
    pub fn reasons(self) -> Vec<Inhibit> {
        let bits = self.0.load();
        Inhibit::ALL.into_iter().filter(|reason| bits & reason.bit() != 0).collect()
    }
}

/// Which APIC virtualization a vCPU has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Apicv {
    /// APICv is active: APIC-register virtualization, virtual-interrupt delivery, posted interrupts.
    pub active: bool,
    /// The module parameter `enable_ipiv`, on a processor that has IPI virtualization.
    pub enable_ipiv: bool,
}

impl Apicv {
    /// Everything on.
    pub const FULL: Self = Self { active: true, enable_ipiv: true };

    /// IPI virtualization is usable: the local APIC is in the kernel, as this model's always is. (`vmx_can_use_ipiv`)
    #[must_use]
    pub const fn ipiv_usable(self) -> bool {
        self.enable_ipiv
    }

    /// IPI virtualization is active only while APICv is: otherwise the guest would reach the physical ICR.
    #[must_use]
    pub const fn ipiv_active(self) -> bool {
        self.active && self.ipiv_usable()
    }

    /// Sets the controls of a vCPU whose local APIC is in `mode`. Addresses and status stay as they are.
    pub fn set_controls(self, kvm: &KvmIntel, vmcs: &mut Vmcs, mode: ApicMode, hlt_exiting: bool) {
        vmcs.pin = kvm.pin.with_process_posted_interrupts(self.active);
        vmcs.primary = kvm.primary.with_hlt_exiting(hlt_exiting).with_interrupt_window_exiting(false);
        // `vmx_set_virtual_apic_mode`; without the control, x2APIC mode is all intercepts.
        let x2apic = mode == ApicMode::X2Apic && kvm.secondary.virtualize_x2apic_mode();
        vmcs.secondary = kvm
            .secondary
            .with_virtualize_apic_accesses(mode == ApicMode::XApic)
            .with_virtualize_x2apic_mode(x2apic)
            .with_apic_register_virtualization(self.active)
            .with_virtual_interrupt_delivery(self.active);
        vmcs.tertiary = kvm.tertiary.with_ipi_virtualization(self.ipiv_active());
        vmcs.exit_controls = ExitControls::new().with_acknowledge_interrupt(true);
        vmcs.notification_vector = u16::from(POSTED_INTR_VECTOR);
    }
}

/// An MSR bitmap: which MSR accesses exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrBitmap {
    /// The control "virtualize x2APIC mode" is 1.
    pub x2apic: bool,
    /// APIC virtualization.
    pub apicv: Apicv,
}

/// Registers that KVM lets the guest read in x2APIC mode while APICv is active: all that exist but the current count,
/// whose value the page does not have.
const READABLE: [ApicRegister; 17] = [
    ApicRegister::ID,
    ApicRegister::VERSION,
    ApicRegister::TPR,
    ApicRegister::PPR,
    ApicRegister::LDR,
    ApicRegister::SVR,
    ApicRegister::ESR,
    ApicRegister::ICR_LOW,
    ApicRegister::LVT_TIMER,
    ApicRegister::LVT_THERMAL,
    ApicRegister::LVT_PERFORMANCE,
    ApicRegister::LVT_LINT0,
    ApicRegister::LVT_LINT1,
    ApicRegister::LVT_ERROR,
    ApicRegister::INITIAL_COUNT,
    ApicRegister::DIVIDE,
    ApicRegister::LVT_CMCI,
];

impl MsrBitmap {
    /// Whether an access exits. IPI virtualization must be *active* for the ICR to pass.
    #[must_use]
    pub fn intercepts(self, msr: u32, write: bool) -> bool {
        if !self.x2apic || !msr::is_x2apic(msr) {
            return true;
        }
        let passes = match msr {
            X2APIC_TPR => true,
            X2APIC_ICR => self.apicv.ipiv_active() || !write && self.apicv.active,
            X2APIC_EOI | X2APIC_SELF_IPI => write && self.apicv.active,
            _ => !write && self.apicv.active && readable(msr),
        };
        !passes
    }

    /// Writes the bitmap into `page`.
    pub fn write<W: Word>(self, page: &Page<W>) {
        let mut words = [u64::MAX; PAGE_WORDS];
        for msr in msr::X2APIC_FIRST..=msr::X2APIC_LAST {
            for write in [false, true] {
                if let (false, Some(at)) = (self.intercepts(msr, write), msr::bitmap_position(msr, write)) {
                    words[at.word % PAGE_WORDS] &= !at.mask;
                }
            }
        }
        for (word, value) in page.iter().zip(words) {
            word.store(value);
        }
    }
}

fn readable(msr: u32) -> bool {
    let register = ApicRegister::containing(msr::page_offset(msr));
    READABLE.contains(&register) || register.in_bank()
}

#[cfg(test)]
mod tests {
    use super::super::setup::ModuleParameters;
    use super::*;
    use crate::processor::{Capabilities, Model, check};
    use std::cell::Cell;

    fn kvm(processor: &Capabilities) -> KvmIntel {
        KvmIntel::setup(processor, ModuleParameters::default()).unwrap()
    }

    #[test]
    fn the_icr_passes_only_while_ipi_virtualization_is_active() {
        for (active, enable_ipiv) in [(true, true), (true, false), (false, true), (false, false)] {
            let apicv = Apicv { active, enable_ipiv };
            let bitmap = MsrBitmap { x2apic: true, apicv };
            assert_eq!(!bitmap.intercepts(X2APIC_ICR, true), active && enable_ipiv, "{apicv:?}");
            let mut vmcs = Vmcs::default();
            apicv.set_controls(&kvm(&Capabilities::default()), &mut vmcs, ApicMode::X2Apic, true);
            assert_eq!(vmcs.tertiary.ipi_virtualization(), active && enable_ipiv);
            assert_eq!(vmcs.pin.process_posted_interrupts(), active);
        }
    }

    #[test]
    fn names_are_kvms() {
        assert_eq!(
            Inhibit::ALL.map(Inhibit::name),
            [
                "DISABLED",
                "ABSENT",
                "HYPERV",
                "BLOCKIRQ",
                "PHYSICAL_ID_ALIASED",
                "APIC_ID_MODIFIED",
                "APIC_BASE_MODIFIED"
            ]
        );
    }

    /// `vmx_update_msr_bitmap_x2apic`: TPR always, EOI and SELF_IPI to be written while APICv is active.
    #[test]
    fn what_passes_in_x2apic_mode() {
        for active in [true, false] {
            let bitmap = MsrBitmap { x2apic: true, apicv: Apicv { active, enable_ipiv: true } };
            for write in [true, false] {
                assert!(!bitmap.intercepts(X2APIC_TPR, write));
                for msr in [X2APIC_EOI, X2APIC_SELF_IPI] {
                    assert_eq!(bitmap.intercepts(msr, write), !(active && write), "{msr:X}H {active} {write}");
                }
            }
        }
    }

    #[test]
    fn the_page_has_a_bit_for_each_access_that_exits() {
        let bitmap = MsrBitmap { x2apic: true, apicv: Apicv::FULL };
        let page: Box<Page<Cell<u64>>> = Cell::<u64>::zeroed(PAGE_WORDS).try_into().unwrap();
        bitmap.write(&page);
        for msr in 0x7FF..=0x900 {
            for write in [false, true] {
                let at = msr::bitmap_position(msr, write).unwrap();
                let set = page[at.word].get() & at.mask != 0;
                assert_eq!(set, bitmap.intercepts(msr, write), "{msr:X}H {write}");
            }
        }
        assert_eq!(page[0].get(), u64::MAX);
    }

    #[test]
    fn nothing_passes_outside_of_x2apic_mode() {
        let bitmap = MsrBitmap { x2apic: false, apicv: Apicv::FULL };
        assert!((0x800..=0x8FF).all(|msr| bitmap.intercepts(msr, true) && bitmap.intercepts(msr, false)));
        let bitmap = MsrBitmap { x2apic: true, apicv: Apicv::FULL };
        assert!(bitmap.intercepts(msr::IA32_APIC_BASE, true) && bitmap.intercepts(0xC000_0080, false));
        assert!(bitmap.intercepts(0x839, false), "current count");
        assert!(!bitmap.intercepts(0x827, false) && bitmap.intercepts(0x827, true), "IRR is read-only");
    }

    /// The controls that KVM derives pass the processor's own checks, on each model, in each mode, active or not.
    #[test]
    fn derived_controls_are_allowed() {
        for model in Model::ALL {
            let processor = model.capabilities();
            let kvm = kvm(&processor);
            for mode in [ApicMode::Disabled, ApicMode::XApic, ApicMode::X2Apic] {
                for active in [false, kvm.enable_apicv] {
                    let mut vmcs = Vmcs::default();
                    Apicv { active, enable_ipiv: kvm.enable_ipiv }.set_controls(&kvm, &mut vmcs, mode, true);
                    assert_eq!(check(&vmcs, &processor, 0), Ok(()), "{model:?} {mode:?} {active}");
                    assert_eq!(vmcs.tertiary.ipi_virtualization(), active && model == Model::SapphireRapids);
                }
            }
        }
    }

    #[test]
    fn only_the_first_and_the_last_reason_change_anything() {
        let word = Cell::new(0);
        let inhibits = Inhibits::new(&word);
        assert!(inhibits.activated());
        assert!(inhibits.set(Inhibit::HyperV));
        assert!(!inhibits.set(Inhibit::ApicIdModified) && !inhibits.set(Inhibit::HyperV));
        assert_eq!(inhibits.reasons(), [Inhibit::HyperV, Inhibit::ApicIdModified]);
        assert!(!inhibits.clear(Inhibit::HyperV) && !inhibits.activated());
        assert!(!inhibits.clear(Inhibit::HyperV), "it was gone already");
        assert!(inhibits.clear(Inhibit::ApicIdModified) && inhibits.activated());
    }
}
