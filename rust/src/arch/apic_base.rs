//! IA32_APIC_BASE (MSR 1BH): where the local APIC is and in which mode, and which moves between modes are legal.
//!
//! SDM vol. 3A, "Local APIC Status and Location" 11.4.4 and "x2APIC State Transitions" 11.12.5 (edition 2023).

use bitfield_struct::bitfield;
use thiserror::Error;

/// Where the memory-mapped registers are after a reset.
pub const DEFAULT_PAGE_ADDRESS: u64 = 0xFEE0_0000;

/// The value of IA32_APIC_BASE.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicBase {
    /// Reserved.
    pub reserved_7_0: u8,
    /// BSP: this is the bootstrap processor.
    pub bootstrap: bool,
    /// Reserved.
    pub reserved_9: bool,
    /// EXTD: x2APIC mode.
    pub extended: bool,
    /// EN: the local APIC is enabled.
    pub enabled: bool,
    /// Page number of the memory-mapped registers; bits at and above MAXPHYADDR are reserved.
    #[bits(52)]
    pub page: u64,
}

/// The mode of a local APIC, from the EN and EXTD bits. (11.12.5)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApicMode {
    /// EN = 0, EXTD = 0.
    Disabled,
    /// EN = 1, EXTD = 0: memory-mapped, 8-bit IDs.
    XApic,
    /// EN = 1, EXTD = 1: MSRs 800H-8FFH, 32-bit IDs.
    X2Apic,
}

/// Why a write to IA32_APIC_BASE takes #GP(0): reserved bits, or moves that are none. (11.12.5)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum ApicBaseError {
    /// A reserved bit (7:0, 9, or at and above MAXPHYADDR) is set.
    #[error("a reserved bit of IA32_APIC_BASE is set")]
    Reserved,
    /// EN = 0 with EXTD = 1 is no state.
    #[error("EN = 0 with EXTD = 1 is not a state of the local APIC")]
    Invalid,
    /// The move is none of the figure "Local APIC State Transitions".
    #[error("IA32_APIC_BASE cannot go from {} to {}", .from.name(), .to.name())]
    Transition {
        /// The mode before the write.
        from: ApicMode,
        /// The mode that the write asks for.
        to: ApicMode,
    },
}

impl ApicMode {
    /// The mode's name as the manual spells it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::XApic => "xAPIC",
            Self::X2Apic => "x2APIC",
        }
    }

    /// Whether the manual's state diagram has this move (11.12.5).
    #[must_use]
    pub const fn can_become(self, to: Self) -> bool {
        matches!(
            (self, to),
            (Self::Disabled, Self::Disabled | Self::XApic)
                | (Self::XApic, Self::XApic | Self::X2Apic | Self::Disabled)
                | (Self::X2Apic, Self::X2Apic | Self::Disabled)
        )
    }
}

impl ApicBase {
    /// The value after a reset, in the given mode.
    #[must_use]
    pub const fn in_mode(mode: ApicMode, bootstrap: bool) -> Self {
        let (enabled, extended) = match mode {
            ApicMode::Disabled => (false, false),
            ApicMode::XApic => (true, false),
            ApicMode::X2Apic => (true, true),
        };
        Self::from_bits(DEFAULT_PAGE_ADDRESS).with_bootstrap(bootstrap).with_enabled(enabled).with_extended(extended)
    }

    /// The mode that EN and EXTD name, or none for EN = 0 with EXTD = 1.
    #[must_use]
    pub const fn mode(self) -> Option<ApicMode> {
        match (self.enabled(), self.extended()) {
            (false, false) => Some(ApicMode::Disabled),
            (true, false) => Some(ApicMode::XApic),
            (true, true) => Some(ApicMode::X2Apic),
            (false, true) => None,
        }
    }

    /// Physical address of the memory-mapped registers.
    #[must_use]
    pub const fn address(self) -> u64 {
        Self::new().with_page(self.page()).into_bits()
    }

    /// The mode after WRMSR of `new` while this is the value.
    ///
    /// # Errors
    /// The cause of #GP(0): reserved bits (for a processor of `max_phys_addr_bits`), EN = 0 with EXTD = 1, or an illegal move.
    pub const fn write(self, new: Self, max_phys_addr_bits: u8) -> Result<ApicMode, ApicBaseError> {
        let beyond = new.page().checked_shr(max_phys_addr_bits as u32 - 12);
        if new.reserved_7_0() != 0 || new.reserved_9() || matches!(beyond, Some(1..)) {
            return Err(ApicBaseError::Reserved);
        }
        let Some(to) = new.mode() else { return Err(ApicBaseError::Invalid) };
        let Some(from) = self.mode() else { return Err(ApicBaseError::Invalid) };
        if from.can_become(to) { Ok(to) } else { Err(ApicBaseError::Transition { from, to }) }
    }
}

/// The logical destination register in x2APIC mode, derived from the ID (11.12.10.2, "Deriving Logical x2APIC ID").
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct X2ApicLdr {
    /// One bit: which member of its cluster.
    pub member: u16,
    /// Cluster: ID bits 19:4.
    pub cluster: u16,
}

impl X2ApicLdr {
    /// `(id >> 4) << 16 | 1 << (id & FH)`.
    #[must_use]
    pub const fn of_id(id: u32) -> Self {
        Self::new().with_member(1 << (id & 0xF)).with_cluster((id >> 4) as u16)
    }

    /// The IDs whose logical ID is in this cluster.
    #[must_use]
    pub const fn ids_of_cluster(self) -> std::ops::Range<u32> {
        let first = (self.cluster() as u32) << 4;
        first..first + 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every pair of modes against the list of legal moves, written out.
    #[test]
    fn moves_are_those_of_the_state_diagram() {
        use ApicMode::{Disabled, X2Apic, XApic};
        let legal = [
            (Disabled, Disabled),
            (Disabled, XApic),
            (XApic, XApic),
            (XApic, X2Apic),
            (XApic, Disabled),
            (X2Apic, X2Apic),
            (X2Apic, Disabled),
        ];
        for from in [Disabled, XApic, X2Apic] {
            for to in [Disabled, XApic, X2Apic] {
                let written = ApicBase::in_mode(from, true).write(ApicBase::in_mode(to, true), 46);
                assert_eq!(written.is_ok(), legal.contains(&(from, to)), "{from:?} to {to:?}: {written:?}");
            }
        }
    }

    #[test]
    fn extd_without_en_is_invalid_from_everywhere() {
        let invalid = ApicBase::in_mode(ApicMode::X2Apic, false).with_enabled(false);
        for from in [ApicMode::Disabled, ApicMode::XApic, ApicMode::X2Apic] {
            assert_eq!(ApicBase::in_mode(from, false).write(invalid, 46), Err(ApicBaseError::Invalid));
        }
    }

    #[test]
    fn each_reserved_bit_faults_and_no_other() {
        let value = ApicBase::in_mode(ApicMode::XApic, false);
        for bit in 0..64 {
            let written = value.write(ApicBase::from_bits(value.into_bits() ^ (1 << bit)), 46);
            let reserved = bit < 8 || bit == 9 || bit >= 46;
            assert_eq!(written == Err(ApicBaseError::Reserved), reserved, "bit {bit}");
        }
        assert!(value.write(ApicBase::from_bits(value.into_bits() | 1 << 51), 52).is_ok());
    }

    #[test]
    fn logical_id_of_x2apic() {
        assert_eq!(X2ApicLdr::of_id(0).into_bits(), 1);
        assert_eq!(X2ApicLdr::of_id(0x25).into_bits(), 0x0002_0020);
    }
}
