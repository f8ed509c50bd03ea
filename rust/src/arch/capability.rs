//! VMX capability MSRs: which settings of the control words a processor allows.
//!
//! SDM vol. 3D, "Reporting of VMX capabilities", appendix A.3.

use bitfield_struct::bitfield;

/// IA32_VMX_PINBASED_CTLS.
pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
/// IA32_VMX_PROCBASED_CTLS.
pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
/// IA32_VMX_PROCBASED_CTLS2.
pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48B;
/// IA32_VMX_TRUE_PINBASED_CTLS.
pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48D;
/// IA32_VMX_TRUE_PROCBASED_CTLS.
pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48E;
/// IA32_VMX_PROCBASED_CTLS3.
pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;

/// A 481H/482H/48BH-style MSR: the low half says which bits must be 1, the high half which may be.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct AllowedSettings {
    /// Allowed-0 settings: a bit that is 1 here must be 1 in the control word.
    pub must_be_one: u32,
    /// Allowed-1 settings: a bit that is 0 here must be 0 in the control word.
    pub may_be_one: u32,
}

impl AllowedSettings {
    /// Everything allowed, nothing required.
    pub const ANY: Self = Self::new().with_may_be_one(u32::MAX);

    /// `word` as near to what was asked as the processor allows: bits that must be 1 added, bits that may not be dropped.
    #[must_use]
    pub const fn adjust(self, word: u32) -> u32 {
        word & self.may_be_one() | self.must_be_one()
    }

    /// Whether a processor with this capability accepts `word`.
    #[must_use]
    pub const fn allows(self, word: u32) -> bool {
        word & self.must_be_one() == self.must_be_one() && word & !self.may_be_one() == 0
    }
}

/// IA32_VMX_PROCBASED_CTLS3: 64 bits of allowed-1 settings and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedTertiary(pub u64);

impl AllowedTertiary {
    /// `word` without the bits that the processor does not allow.
    #[must_use]
    pub const fn adjust(self, word: u64) -> u64 {
        word & self.0
    }

    /// Whether a processor with this capability accepts `word`.
    #[must_use]
    pub const fn allows(self, word: u64) -> bool {
        word & !self.0 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn must_and_may() {
        let msr = AllowedSettings::from_bits(0x0000_00FF_0000_0016);
        assert!(msr.allows(0x16) && msr.allows(0xFF));
        assert!(!msr.allows(0x06), "bit 4 must be 1");
        assert!(!msr.allows(0x116), "bit 8 may not be 1");
        assert!(AllowedTertiary(1 << 4).allows(1 << 4) && !AllowedTertiary(1 << 4).allows(1 << 3));
    }
}
