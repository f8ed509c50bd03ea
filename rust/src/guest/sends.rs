//! The program of one vCPU that sends interrupts in a given order, and how it writes each.

use crate::arch::msr::{X2APIC_EOI, X2APIC_ICR, X2APIC_SELF_IPI};
use crate::arch::{AccessKind, ApicMode, ApicRegister, Icr};
use crate::memory::Word;
use crate::processor::{Access, NonRoot, Outcome};

/// How a guest writes an interrupt command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Via {
    /// xAPIC: two memory-mapped writes, ICR_HI then ICR_LO.
    Mmio,
    /// x2APIC: WRMSR of the ICR.
    X2ApicIcr,
    /// x2APIC: WRMSR of the self-IPI register.
    SelfIpiMsr,
}

impl Via {
    /// All three, in the order of their codes in columns.
    pub const ALL: [Self; 3] = [Self::Mmio, Self::X2ApicIcr, Self::SelfIpiMsr];

    /// For people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mmio => "write to offset 300H",
            Self::X2ApicIcr => "WRMSR 830H",
            Self::SelfIpiMsr => "WRMSR 83FH",
        }
    }

    /// The mode that the local APIC must be in.
    #[must_use]
    pub const fn mode(self) -> ApicMode {
        match self {
            Self::Mmio => ApicMode::XApic,
            Self::X2ApicIcr | Self::SelfIpiMsr => ApicMode::X2Apic,
        }
    }
}

/// One interrupt to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Send {
    /// Its place among all interrupts of the run.
    pub order: u32,
    /// The value written.
    pub icr: Icr,
    /// How it is written.
    pub via: Via,
}

/// What one vCPU sends, in order. Before a [`Send`] that needs another mode of the local APIC the guest switches to it.
pub type Sends = Vec<Send>;

impl Send {
    /// Writes the interrupt command.
    #[inline]
    pub fn execute<W: Word>(&self, guest: &mut NonRoot<'_, '_, W>) -> Outcome {
        match self.via {
            Via::X2ApicIcr => guest.wrmsr(X2APIC_ICR, self.icr.to_x2apic()),
            Via::SelfIpiMsr => guest.wrmsr(X2APIC_SELF_IPI, u64::from(self.icr.low.vector())),
            Via::Mmio => {
                let (low, high) = self.icr.to_xapic();
                let write = |register: ApicRegister| Access::dword(register.offset(), AccessKind::Write);
                match guest.mmio_write(write(ApicRegister::ICR_HIGH), u64::from(high)) {
                    // With APIC-register virtualization = 0 this write exits (44): the VMM completes it, and the
                    // interrupt is what becomes of the second write.
                    Outcome::Virtualized(_) | Outcome::Exit(_) => {}
                    other => return other,
                }
                guest.mmio_write(write(ApicRegister::ICR_LOW), u64::from(low))
            }
        }
    }
}

/// The guest's EOI, as a handler ends with it in the given mode of the local APIC.
#[inline]
pub fn end_of_interrupt<W: Word>(guest: &mut NonRoot<'_, '_, W>, mode: ApicMode) -> Outcome {
    match mode {
        ApicMode::X2Apic => guest.wrmsr(X2APIC_EOI, 0),
        ApicMode::XApic | ApicMode::Disabled => {
            guest.mmio_write(Access::dword(ApicRegister::EOI.offset(), AccessKind::Write), 0)
        }
    }
}
