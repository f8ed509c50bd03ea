//! VM exits: basic exit reasons, qualifications, and the clause that called for the exit.
//!
//! SDM vol. 3D, "VMX Basic Exit Reasons", appendix C; vol. 3C, "Basic VM-Exit Information" 28.2.1.

use super::clause::Clause;
use bitfield_struct::bitfield;

/// Basic exit reasons that interrupt virtualization can give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum ExitReason {
    /// External interrupt.
    ExternalInterrupt = 1,
    /// Interrupt window.
    InterruptWindow = 7,
    /// HLT.
    Hlt = 12,
    /// RDMSR.
    MsrRead = 31,
    /// WRMSR.
    MsrWrite = 32,
    /// TPR below threshold.
    TprBelowThreshold = 43,
    /// APIC access.
    ApicAccess = 44,
    /// Virtualized EOI.
    VirtualizedEoi = 45,
    /// APIC write.
    ApicWrite = 56,
}

impl ExitReason {
    /// The number in the exit-reason field.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The name in the manual's appendix C.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ExternalInterrupt => "external interrupt",
            Self::InterruptWindow => "interrupt window",
            Self::Hlt => "HLT",
            Self::MsrRead => "RDMSR",
            Self::MsrWrite => "WRMSR",
            Self::TprBelowThreshold => "TPR below threshold",
            Self::ApicAccess => "APIC access",
            Self::VirtualizedEoi => "virtualized EOI",
            Self::ApicWrite => "APIC write",
        }
    }
}

/// Exit qualification of an APIC-access exit.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct ApicAccessQualification {
    /// Offset within the APIC-access page. Bits 11:0.
    #[bits(12)]
    pub offset: u16,
    /// Access type: 0 read, 1 write, 2 instruction fetch, 3 event delivery. Bits 15:12.
    #[bits(4)]
    pub access_type: u8,
    #[bits(48)]
    reserved_63_16: u64,
}

/// A VM exit and the clause that called for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exit {
    /// Basic exit reason.
    pub reason: ExitReason,
    /// Exit qualification; 0 for reasons that save none.
    pub qualification: u64,
    /// What decided.
    pub clause: Clause,
}
