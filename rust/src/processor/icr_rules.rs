//! The rules that a value of the ICR must satisfy to be virtualized.
//!
//! SDM vol. 3C, "APIC-Write Emulation" 30.4.3.2 (300H) and "Virtualizing MSR-Based APIC Accesses" 30.5 (WRMSR 830H).
//! Neither looks at bit 14 (level); the rule for self-IPIs does not look at bit 11 either.

use crate::arch::clause::IcrCondition;
use crate::arch::{Clause, DeliveryMode, DestinationMode, IcrLow, Shorthand, vector};

/// One of the three rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcrRule {
    /// Write of ICR_LO: IPI virtualization.
    XApicIpi,
    /// Write of ICR_LO: self-IPI virtualization.
    XApicSelfIpi,
    /// WRMSR of the ICR: IPI virtualization. Reserved bits have faulted before.
    X2ApicIpi,
}

/// Bits that every rule wants to be 0: delivery mode, trigger mode, delivery status.
const COMMON: IcrLow =
    IcrLow::new().with_delivery_mode(DeliveryMode::Reserved7).with_trigger_level(true).with_delivery_status(true);
/// Bits that are reserved in both modes.
const RESERVED: IcrLow = IcrLow::new().with_reserved_13(true).with_reserved_17_16(0b11).with_reserved_31_20(0xFFF);
const LOGICAL: IcrLow = IcrLow::new().with_destination_mode(DestinationMode::Logical);
const ANY_SHORTHAND: IcrLow = IcrLow::new().with_shorthand(Shorthand::AllButSelf);
const SELF_SHORTHAND: IcrLow = IcrLow::new().with_shorthand(Shorthand::Self_);

impl IcrRule {
    /// The clause of one condition of this rule.
    #[must_use]
    pub const fn clause(self, condition: IcrCondition) -> Clause {
        match self {
            Self::XApicIpi => Clause::XApicIpi(condition),
            Self::XApicSelfIpi => Clause::XApicSelfIpi(condition),
            Self::X2ApicIpi => Clause::X2ApicIpi(condition),
        }
    }

    /// Whether this rule has the condition.
    #[must_use]
    pub const fn asks(self, condition: IcrCondition) -> bool {
        use IcrCondition as C;
        match self {
            Self::XApicIpi => !matches!(condition, C::VectorClass),
            Self::XApicSelfIpi => !matches!(condition, C::DestinationMode),
            Self::X2ApicIpi => {
                !matches!(condition, C::VectorClass | C::Reserved13 | C::Reserved17To16 | C::Reserved31To20)
            }
        }
    }

    /// Whether one condition holds for `low`, while the rule's control is `control`.
    #[must_use]
    pub fn holds(self, condition: IcrCondition, low: IcrLow, control: bool) -> bool {
        use IcrCondition as C;
        match condition {
            C::Control => control,
            C::DeliveryMode => low.delivery_mode() == DeliveryMode::Fixed,
            C::DestinationMode => low.destination_mode() == DestinationMode::Physical,
            C::Shorthand => low.shorthand() == self.shorthand(),
            C::TriggerMode => !low.trigger_level(),
            C::DeliveryStatus => !low.delivery_status(),
            C::Reserved13 => !low.reserved_13(),
            C::Reserved17To16 => low.reserved_17_16() == 0,
            C::Reserved31To20 => low.reserved_31_20() == 0,
            C::VectorClass => vector::class(low.vector()) != 0,
        }
    }

    const fn shorthand(self) -> Shorthand {
        match self {
            Self::XApicSelfIpi => Shorthand::Self_,
            Self::XApicIpi | Self::X2ApicIpi => Shorthand::None,
        }
    }

    /// All conditions at once: one mask and one comparison.
    #[inline]
    #[must_use]
    pub const fn satisfied(self, low: IcrLow, control: bool) -> bool {
        let bits = low.into_bits();
        let fixed_physical = COMMON.into_bits() | LOGICAL.into_bits() | ANY_SHORTHAND.into_bits();
        control
            && match self {
                Self::XApicIpi => bits & (fixed_physical | RESERVED.into_bits()) == 0,
                Self::X2ApicIpi => bits & fixed_physical == 0,
                Self::XApicSelfIpi => {
                    bits & (COMMON.into_bits() | RESERVED.into_bits() | ANY_SHORTHAND.into_bits())
                        == SELF_SHORTHAND.into_bits()
                        && vector::class(low.vector()) != 0
                }
            }
    }

    /// The clause of the first condition that does not hold, in the order of [`IcrCondition::ALL`].
    #[cold]
    #[must_use]
    pub fn first_failure(self, low: IcrLow, control: bool) -> Option<Clause> {
        let failed = |&condition: &IcrCondition| self.asks(condition) && !self.holds(condition, low, control);
        IcrCondition::ALL.iter().copied().find(failed).map(|condition| self.clause(condition))
    }
}

/// Bits of the ICR that #GP(0) in x2APIC mode: 31:20, 17:16 and 13 (30.5).
#[inline]
#[must_use]
pub const fn x2apic_reserved(low: IcrLow) -> bool {
    low.into_bits() & RESERVED.into_bits() != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: [IcrRule; 3] = [IcrRule::XApicIpi, IcrRule::XApicSelfIpi, IcrRule::X2ApicIpi];

    /// The mask and the list of conditions are two ways to say the same: all values of bits 19:0, each bit above.
    #[test]
    fn mask_and_conditions_agree() {
        for rule in RULES {
            for control in [true, false] {
                for bits in (0..1 << 20).chain((20..32).map(|bit| 0x40FB | 1 << bit)) {
                    let low = IcrLow::from_bits(bits);
                    assert_eq!(
                        rule.satisfied(low, control),
                        rule.first_failure(low, control).is_none(),
                        "{rule:?} {bits:05X}H, control {control}"
                    );
                }
            }
        }
    }

    /// Bit 14 never matters; bit 11 does not matter to the self-IPI rule.
    #[test]
    fn bits_that_do_not_matter() {
        for bits in 0..1 << 20 {
            for rule in RULES {
                let level = rule.satisfied(IcrLow::from_bits(bits ^ 1 << 14), true);
                assert_eq!(rule.satisfied(IcrLow::from_bits(bits), true), level);
            }
            let logical = IcrRule::XApicSelfIpi.satisfied(IcrLow::from_bits(bits ^ 1 << 11), true);
            assert_eq!(IcrRule::XApicSelfIpi.satisfied(IcrLow::from_bits(bits), true), logical);
        }
    }

    /// The rule for IPIs lets every vector pass: vectors below 16 exit later, in IPI virtualization itself.
    #[test]
    fn accepted_values_are_these_and_no_others() {
        let accepted =
            |rule: IcrRule| (0..1 << 20).filter(move |&b| rule.satisfied(IcrLow::from_bits(b), true)).count();
        assert_eq!(accepted(IcrRule::XApicIpi), 256 * 2, "vectors x level");
        assert_eq!(accepted(IcrRule::XApicSelfIpi), 240 * 2 * 2, "vectors x level x destination mode");
        assert_eq!(accepted(IcrRule::X2ApicIpi), 256 * 2 * 2 * 4, "vectors x level, whatever bits 13 and 17:16 are");
    }
}
