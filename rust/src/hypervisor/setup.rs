//! Which controls and which MSR bitmap a vCPU gets.
//!
//! KVM: `vmx_set_virtual_apic_mode`, `vmx_refresh_apicv_exec_ctrl`, `vmx_update_msr_bitmap_x2apic`.

use crate::arch::msr::{self, X2APIC_EOI, X2APIC_ICR, X2APIC_SELF_IPI, X2APIC_TPR};
use crate::arch::{ApicMode, ApicRegister, ExitControls, PinBased, Primary, Secondary, Tertiary};
use crate::memory::{PAGE_WORDS, Page, Word};
use crate::processor::Vmcs;

/// The host vector that notifies a running vCPU; its host handler does nothing. (`POSTED_INTR_VECTOR`)
pub const POSTED_INTR_VECTOR: u8 = 0xF2;

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

    /// IPI virtualization is active only while APICv is: otherwise the guest would reach the physical ICR.
    #[must_use]
    pub const fn ipiv_active(self) -> bool {
        self.active && self.enable_ipiv
    }

    /// Sets the controls of a vCPU whose local APIC is in `mode`. Addresses and status stay as they are.
    pub fn set_controls(self, vmcs: &mut Vmcs, mode: ApicMode) {
        vmcs.pin = PinBased::new().with_external_interrupt_exiting(true).with_process_posted_interrupts(self.active);
        vmcs.primary = Primary::new()
            .with_use_tpr_shadow(true)
            .with_use_msr_bitmaps(true)
            .with_activate_secondary(true)
            .with_activate_tertiary(true);
        vmcs.secondary = Secondary::new()
            .with_virtualize_apic_accesses(mode == ApicMode::XApic)
            .with_virtualize_x2apic_mode(mode == ApicMode::X2Apic)
            .with_apic_register_virtualization(self.active)
            .with_virtual_interrupt_delivery(self.active);
        vmcs.tertiary = Tertiary::new().with_ipi_virtualization(self.ipiv_active());
        vmcs.exit_controls = ExitControls::new().with_acknowledge_interrupt(true);
        vmcs.notification_vector = u16::from(POSTED_INTR_VECTOR);
    }
}

/// An MSR bitmap: which MSR accesses exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsrBitmap {
    /// The mode of the guest's local APIC.
    pub mode: ApicMode,
    /// Its APIC virtualization.
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
        if self.mode != ApicMode::X2Apic || !msr::is_x2apic(msr) {
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
    use super::*;

    #[test]
    fn the_icr_passes_only_while_ipi_virtualization_is_active() {
        for (active, enable_ipiv) in [(true, true), (true, false), (false, true), (false, false)] {
            let apicv = Apicv { active, enable_ipiv };
            let bitmap = MsrBitmap { mode: ApicMode::X2Apic, apicv };
            assert_eq!(!bitmap.intercepts(X2APIC_ICR, true), active && enable_ipiv, "{apicv:?}");
            let mut vmcs = Vmcs::default();
            apicv.set_controls(&mut vmcs, ApicMode::X2Apic);
            assert_eq!(vmcs.tertiary.ipi_virtualization(), active && enable_ipiv);
            assert_eq!(vmcs.pin.process_posted_interrupts(), active);
        }
    }

    #[test]
    fn nothing_passes_outside_of_x2apic_mode() {
        for mode in [ApicMode::XApic, ApicMode::Disabled] {
            let bitmap = MsrBitmap { mode, apicv: Apicv::FULL };
            assert!((0x800..=0x8FF).all(|msr| bitmap.intercepts(msr, true) && bitmap.intercepts(msr, false)));
        }
        let bitmap = MsrBitmap { mode: ApicMode::X2Apic, apicv: Apicv::FULL };
        assert!(bitmap.intercepts(msr::IA32_APIC_BASE, true) && bitmap.intercepts(0xC000_0080, false));
        assert!(bitmap.intercepts(0x839, false), "current count");
        assert!(!bitmap.intercepts(0x827, false) && bitmap.intercepts(0x827, true), "IRR is read-only");
    }
}
