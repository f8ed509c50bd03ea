//! The clauses of the manual that decide what becomes of an access: each outcome names the one that decided.

use std::fmt;

/// One condition of a rule over the ICR.
///
/// A rule holds when all of its conditions hold; the manual gives them no order. Where several fail, the first one
/// of this list that fails is named, because it says most about the interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IcrCondition {
    /// The VM-execution control that the rule asks for is 1.
    Control,
    /// Delivery mode is fixed: bits 10:8 = 0.
    DeliveryMode,
    /// The shorthand that the rule asks for: bits 19:18.
    Shorthand,
    /// Destination mode is physical: bit 11 = 0.
    DestinationMode,
    /// Trigger mode is edge: bit 15 = 0.
    TriggerMode,
    /// Bit 12 = 0.
    DeliveryStatus,
    /// Bit 13 = 0.
    Reserved13,
    /// Bits 17:16 = 0.
    Reserved17To16,
    /// Bits 31:20 = 0.
    Reserved31To20,
    /// Vector bits 7:4 are not all 0.
    VectorClass,
}

impl IcrCondition {
    /// All of them, in the order in which a failure is named.
    pub const ALL: [Self; 10] = [
        Self::Control,
        Self::DeliveryMode,
        Self::Shorthand,
        Self::DestinationMode,
        Self::TriggerMode,
        Self::DeliveryStatus,
        Self::Reserved13,
        Self::Reserved17To16,
        Self::Reserved31To20,
        Self::VectorClass,
    ];
}

/// A clause of the manual, as precise as what it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Clause {
    /// 30.4.3.2, write of ICR_LO, the rule for IPI virtualization.
    XApicIpi(IcrCondition),
    /// 30.4.3.2, write of ICR_LO, the rule for self-IPI virtualization.
    XApicSelfIpi(IcrCondition),
    /// 30.5, WRMSR of the ICR, the rule for IPI virtualization.
    X2ApicIpi(IcrCondition),
    /// 30.5, WRMSR of the ICR with a reserved bit set.
    X2ApicIcrReserved,
    /// 30.5, WRMSR of the self-IPI register with a bit above 7 set.
    SelfIpiReserved,
    /// 30.5, WRMSR of the self-IPI register with a vector below 16.
    SelfIpiVector,
    /// 30.5, WRMSR of the TPR with a bit above 7 set.
    TprReserved,
    /// 30.5, WRMSR of a value other than 0 to the EOI register.
    EoiNotZero,
    /// 30.5, an MSR access that no control virtualizes.
    MsrNotVirtualized,
    /// 30.5, an MSR access that is virtualized as a plain read or write of the virtual-APIC page.
    MsrVirtualized,
    /// 26.1.3, the MSR bitmap, or its absence, intercepts the access.
    MsrIntercepted,
    /// 30.1.6 step 1: V < 16.
    IpiVector,
    /// 30.1.6 step 2: T > last PID-pointer index.
    IpiBeyondTable,
    /// 30.1.6 step 3: the entry has bits beyond the physical-address width.
    EntryBeyondWidth,
    /// 30.1.6 step 3: entry bits 5:0 are not 000001b.
    EntryNotValid,
    /// 30.1.6 steps 4 to 6: posted.
    IpiPosted,
    /// 30.1.5: self-IPI virtualization.
    SelfIpi,
    /// 30.1.2: VTPR below the TPR threshold.
    TprBelowThreshold,
    /// 30.1.2 and 30.1.3: TPR virtualization without an exit.
    TprVirtualized,
    /// 30.1.4: EOI virtualization without an exit.
    EoiVirtualized,
    /// 30.1.4: the EOI-exit bitmap has the vector.
    EoiExit,
    /// 30.4.1: virtualize APIC accesses = 0, the access goes to memory.
    AccessNotVirtualized,
    /// 30.4.2, 30.4.3.1: use TPR shadow = 0.
    AccessWithoutTprShadow,
    /// 30.4.2, 30.4.3.1: wider than 32 bits.
    AccessTooWide,
    /// 30.4.2: an instruction fetch.
    AccessFetch,
    /// 30.4.2, 30.4.3.1: not inside the low 4 bytes of an aligned 16-byte region.
    AccessMisplaced,
    /// 30.4.2, 30.4.3.1: the instruction has already virtualized a write.
    AccessAfterWrite,
    /// 30.4.2: no control virtualizes reads of this offset.
    ReadNotListed,
    /// 30.4.2: the read is virtualized.
    ReadVirtualized,
    /// 30.4.3.1: no control virtualizes writes of this offset.
    WriteNotListed,
    /// 30.4.3.2: EOI with virtual-interrupt delivery = 0.
    WriteEoiWithoutDelivery,
    /// 30.4.3.2: ICR_HI, bytes 2:0 are cleared and that is all.
    WriteIcrHigh,
    /// 30.4.3.2: any other offset.
    WriteOtherOffset,
    /// 30.6 step 2: not the posted-interrupt notification vector.
    NotTheNotificationVector,
    /// 26.2: an external interrupt with external-interrupt exiting = 1.
    ExternalInterruptExiting,
    /// 26.1.3: HLT with HLT exiting = 1.
    HltExiting,
    /// 26.2: interrupt-window exiting.
    InterruptWindow,
    /// 11.12.5: WRMSR of IA32_APIC_BASE with a reserved bit set, or EN = 0 with EXTD = 1.
    ApicBaseInvalid,
    /// 11.12.5: WRMSR of IA32_APIC_BASE that asks for an illegal move between modes.
    ApicBaseTransition,
    /// ISE reference, "IPI virtualization": SENDUIPI whose UPID is not posted by steps 4 to 6.
    SendUipiNotVirtualized,
}

impl Clause {
    /// All of them; the position is the clause's code in columns.
    pub fn all() -> impl Iterator<Item = Self> {
        let rules = [Self::XApicIpi, Self::XApicSelfIpi, Self::X2ApicIpi];
        let icr = rules.into_iter().flat_map(|rule| IcrCondition::ALL.into_iter().map(rule));
        icr.chain(Self::PLAIN)
    }

    const PLAIN: [Self; 37] = [
        Self::X2ApicIcrReserved,
        Self::SelfIpiReserved,
        Self::SelfIpiVector,
        Self::TprReserved,
        Self::EoiNotZero,
        Self::MsrNotVirtualized,
        Self::MsrVirtualized,
        Self::MsrIntercepted,
        Self::IpiVector,
        Self::IpiBeyondTable,
        Self::EntryBeyondWidth,
        Self::EntryNotValid,
        Self::IpiPosted,
        Self::SelfIpi,
        Self::TprBelowThreshold,
        Self::TprVirtualized,
        Self::EoiVirtualized,
        Self::EoiExit,
        Self::AccessNotVirtualized,
        Self::AccessWithoutTprShadow,
        Self::AccessTooWide,
        Self::AccessFetch,
        Self::AccessMisplaced,
        Self::AccessAfterWrite,
        Self::ReadNotListed,
        Self::ReadVirtualized,
        Self::WriteNotListed,
        Self::WriteEoiWithoutDelivery,
        Self::WriteIcrHigh,
        Self::WriteOtherOffset,
        Self::NotTheNotificationVector,
        Self::ExternalInterruptExiting,
        Self::HltExiting,
        Self::InterruptWindow,
        Self::ApicBaseInvalid,
        Self::ApicBaseTransition,
        Self::SendUipiNotVirtualized,
    ];

    /// The section of the manual (2023 edition), number and title.
    #[must_use]
    pub const fn section(self) -> &'static str {
        use Clause as C;
        match self {
            C::XApicIpi(_)
            | C::XApicSelfIpi(_)
            | C::WriteEoiWithoutDelivery
            | C::WriteIcrHigh
            | C::WriteOtherOffset => "SDM 30.4.3.2 APIC-Write Emulation",
            C::X2ApicIpi(_)
            | C::X2ApicIcrReserved
            | C::SelfIpiReserved
            | C::SelfIpiVector
            | C::TprReserved
            | C::EoiNotZero
            | C::MsrNotVirtualized
            | C::MsrVirtualized => "SDM 30.5 Virtualizing MSR-Based APIC Accesses",
            C::MsrIntercepted | C::HltExiting => "SDM 26.1.3 Instructions That Cause VM Exits Conditionally",
            C::IpiVector | C::IpiBeyondTable | C::EntryBeyondWidth | C::EntryNotValid | C::IpiPosted => {
                "SDM 30.1.6 IPI Virtualization"
            }
            C::SelfIpi => "SDM 30.1.5 Self-IPI Virtualization",
            C::TprBelowThreshold | C::TprVirtualized => "SDM 30.1.2 TPR Virtualization",
            C::EoiVirtualized | C::EoiExit => "SDM 30.1.4 EOI Virtualization",
            C::AccessNotVirtualized
            | C::AccessWithoutTprShadow
            | C::AccessTooWide
            | C::AccessFetch
            | C::AccessMisplaced
            | C::AccessAfterWrite => "SDM 30.4 Virtualizing Memory-Mapped APIC Accesses",
            C::ReadNotListed | C::ReadVirtualized => "SDM 30.4.2 Virtualizing Reads from the APIC-Access Page",
            C::WriteNotListed => "SDM 30.4.3.1 Determining Whether a Write Access is Virtualized",
            C::NotTheNotificationVector => "SDM 30.6 Posted-Interrupt Processing",
            C::ExternalInterruptExiting | C::InterruptWindow => "SDM 26.2 Other Causes of VM Exits",
            C::ApicBaseInvalid | C::ApicBaseTransition => "SDM 11.12.5 x2APIC State Transitions",
            C::SendUipiNotVirtualized => "ISE reference, IPI Virtualization (SENDUIPI)",
        }
    }

    /// What stood against virtualization, in one word; none if nothing did, or nothing that is about IPIs.
    #[must_use]
    pub const fn condition(self) -> Option<&'static str> {
        use Clause as C;
        use IcrCondition as I;
        Some(match self {
            C::XApicIpi(condition) | C::XApicSelfIpi(condition) | C::X2ApicIpi(condition) => match condition {
                I::Control => "control",
                I::DeliveryMode => "delivery-mode",
                I::Shorthand => "shorthand",
                I::DestinationMode => "destination-mode",
                I::TriggerMode => "trigger-mode",
                I::DeliveryStatus => "delivery-status",
                I::Reserved13 | I::Reserved17To16 | I::Reserved31To20 => "reserved-bits",
                I::VectorClass => "vector",
            },
            C::X2ApicIcrReserved | C::SelfIpiReserved => "reserved-bits",
            C::IpiVector | C::SelfIpiVector => "vector",
            C::MsrIntercepted => "msr-bitmap",
            C::IpiBeyondTable => "last-index",
            C::EntryBeyondWidth | C::EntryNotValid => "table-entry",
            _ => return None,
        })
    }

    /// What the clause asks for or does, in ipivrs' words.
    #[must_use]
    pub const fn text(self) -> &'static str {
        use Clause as C;
        use IcrCondition as I;
        match self {
            C::XApicIpi(I::Control) | C::X2ApicIpi(I::Control) => "IPI virtualization must be 1",
            C::XApicSelfIpi(I::Control) => "virtual-interrupt delivery must be 1",
            C::XApicSelfIpi(I::Shorthand) => "destination shorthand must be self (bits 19:18 = 01)",
            C::XApicIpi(I::Shorthand) | C::X2ApicIpi(I::Shorthand) => {
                "destination shorthand must be none (bits 19:18 = 00)"
            }
            C::XApicIpi(condition) | C::XApicSelfIpi(condition) | C::X2ApicIpi(condition) => match condition {
                I::DeliveryMode => "delivery mode must be fixed (bits 10:8 = 000)",
                I::DestinationMode => "destination mode must be physical (bit 11 = 0)",
                I::TriggerMode => "trigger mode must be edge (bit 15 = 0)",
                I::DeliveryStatus => "bit 12 must be 0",
                I::Reserved13 => "reserved bit 13 must be 0",
                I::Reserved17To16 => "reserved bits 17:16 must be 0",
                I::Reserved31To20 => "reserved bits 31:20 must be 0",
                I::VectorClass | I::Control | I::Shorthand => "vector must be 16 or more (bits 7:4 not 0)",
            },
            C::X2ApicIcrReserved => "bits 31:20, 17:16 and 13 of the ICR must be 0, or #GP(0)",
            C::SelfIpiReserved => "bits 63:8 of the self-IPI register must be 0, or #GP(0)",
            C::SelfIpiVector => "vector must be 16 or more (bits 7:4 not 0)",
            C::TprReserved => "bits 63:8 of the TPR must be 0, or #GP(0)",
            C::EoiNotZero => "only 0 may be written to the EOI register, or #GP(0)",
            C::MsrNotVirtualized => "no control virtualizes this access: it reaches the physical local APIC",
            C::MsrVirtualized => "the access is to the virtual-APIC page",
            C::MsrIntercepted => "the MSR bitmap must let the access through",
            C::IpiVector => "step 1: vector must be 16 or more",
            C::IpiBeyondTable => "step 2: virtual APIC ID must not exceed the last PID-pointer index",
            C::EntryBeyondWidth => "step 3: the table entry must have no bit beyond the physical-address width",
            C::EntryNotValid => "step 3: the table entry must be valid (bits 5:0 = 000001b)",
            C::IpiPosted => "steps 4 to 6: posted in the target's descriptor",
            C::SelfIpi => "the vector is set in VIRR",
            C::TprBelowThreshold => "VTPR[7:4] is below the TPR threshold",
            C::TprVirtualized => "TPR virtualization",
            C::EoiVirtualized => "EOI virtualization",
            C::EoiExit => "the EOI-exit bitmap has the vector",
            C::AccessNotVirtualized => "virtualize APIC accesses is 0",
            C::AccessWithoutTprShadow => "use TPR shadow must be 1",
            C::AccessTooWide => "the access must not be wider than 32 bits",
            C::AccessFetch => "the access must not be an instruction fetch",
            C::AccessMisplaced => "the access must be inside the low 4 bytes of an aligned 16-byte region",
            C::AccessAfterWrite => "the instruction must not have virtualized a write already",
            C::ReadNotListed => "reads of this offset must be virtualized under these controls",
            C::ReadVirtualized => "the read is from the virtual-APIC page",
            C::WriteNotListed => "writes of this offset must be virtualized under these controls",
            C::WriteEoiWithoutDelivery => "virtual-interrupt delivery must be 1 for a write of EOI",
            C::WriteIcrHigh => "bytes 2:0 of VICR_HI are cleared, nothing else happens",
            C::WriteOtherOffset => "the VMM completes a write of any other offset",
            C::NotTheNotificationVector => "step 2: the vector must be the posted-interrupt notification vector",
            C::ExternalInterruptExiting => "external-interrupt exiting is 1",
            C::HltExiting => "HLT exiting is 1",
            C::InterruptWindow => "interrupt-window exiting is 1 and the guest can take interrupts",
            C::ApicBaseInvalid => "reserved bits of IA32_APIC_BASE must be 0, and EN = 1 with EXTD = 1, or #GP(0)",
            C::ApicBaseTransition => "the move between modes of the local APIC must be a legal one, or #GP(0)",
            C::SendUipiNotVirtualized => "IPI virtualization is 0: the notification is an ordinary IPI",
        }
    }
}

impl fmt::Display for Clause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.section(), self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_clause_is_listed_once() {
        let all: Vec<_> = Clause::all().collect();
        let unique: std::collections::BTreeSet<_> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len());
        assert_eq!(all.len(), 30 + Clause::PLAIN.len());
    }
}
