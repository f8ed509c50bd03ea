//! Processors by name: which settings of the control words each generation allows.
//!
//! The words are put together from the controls that concern interrupts; the bits that must be 1 are those of the manual's
//! default1 class (SDM vol. 3D, appendix A.3). Bits that this model has no name for are allowed on every processor.

use super::Capabilities;
use crate::arch::capability::{AllowedSettings, AllowedTertiary};
use crate::arch::{PinBased, Primary, Secondary, Tertiary};

/// A generation of Intel server processors, as far as it differs in interrupt virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Model {
    /// APICv, posted interrupts and IPI virtualization.
    SapphireRapids,
    /// APICv and posted interrupts, no tertiary controls.
    IceLake,
    /// TPR shadow and APIC accesses only: before APICv.
    PreApicv,
}

/// Default1 bits of the pin-based controls: 1, 2 and 4.
const PIN_DEFAULT1: u32 = 0x16;
/// Default1 bits of the primary controls under IA32_VMX_TRUE_PROCBASED_CTLS: 1, 4-6, 8, 13, 14 and 26.
const PRIMARY_DEFAULT1: u32 = 0x0400_6172;

impl Model {
    /// All of them, newest first.
    pub const ALL: [Self; 3] = [Self::SapphireRapids, Self::IceLake, Self::PreApicv];

    /// The name in scenarios.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SapphireRapids => "sapphire-rapids",
            Self::IceLake => "ice-lake",
            Self::PreApicv => "pre-apicv",
        }
    }

    /// What its capability MSRs say.
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        let apicv = !matches!(self, Self::PreApicv);
        let tertiary = matches!(self, Self::SapphireRapids);
        let pin = PinBased::from_bits(u32::MAX).with_process_posted_interrupts(apicv);
        let primary = Primary::from_bits(u32::MAX).with_activate_tertiary(tertiary);
        let secondary = Secondary::from_bits(u32::MAX)
            .with_virtualize_x2apic_mode(apicv)
            .with_apic_register_virtualization(apicv)
            .with_virtual_interrupt_delivery(apicv);
        Capabilities {
            max_phys_addr_bits: if apicv { 52 } else { 46 },
            pin: AllowedSettings::new().with_must_be_one(PIN_DEFAULT1).with_may_be_one(pin.into_bits()),
            primary: AllowedSettings::new().with_must_be_one(PRIMARY_DEFAULT1).with_may_be_one(primary.into_bits()),
            secondary: AllowedSettings::new().with_may_be_one(secondary.into_bits()),
            tertiary: AllowedTertiary(Tertiary::new().with_ipi_virtualization(tertiary).into_bits()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_generation_has_a_name_and_what_came_with_it() {
        let table = [
            (Model::SapphireRapids, "sapphire-rapids", true, true),
            (Model::IceLake, "ice-lake", true, false),
            (Model::PreApicv, "pre-apicv", false, false),
        ];
        assert_eq!(table.map(|(model, ..)| model), Model::ALL);
        for (model, name, apicv, ipiv) in table {
            assert_eq!(model.name(), name);
            let found = model.capabilities();
            let delivery = Secondary::new().with_virtual_interrupt_delivery(true).into_bits();
            let posted = PinBased::from_bits(PIN_DEFAULT1).with_process_posted_interrupts(true).into_bits();
            let tertiary = Primary::from_bits(PRIMARY_DEFAULT1).with_activate_tertiary(true).into_bits();
            assert_eq!(found.secondary.allows(delivery), apicv, "{name}");
            assert_eq!(found.pin.allows(posted), apicv, "{name}");
            assert_eq!(found.primary.allows(tertiary), ipiv, "{name}");
            assert_eq!(found.tertiary.0, if ipiv { 1 << 4 } else { 0 }, "{name}");
        }
    }
}
