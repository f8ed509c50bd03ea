//! What came of a guest's access.

use crate::arch::{Clause, Exit};
use crate::memory::{PhysicalMemory, Word};

/// What came of a guest's write, or of an instruction that sends an interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// The write is complete and sent no interrupt.
    Virtualized(Clause),
    /// IPI virtualization posted an interrupt in a descriptor.
    Posted(Posted),
    /// Self-IPI virtualization set a bit of VIRR.
    SelfIpi {
        /// The vector.
        vector: u8,
        /// The bit was set already: two interrupts became one.
        coalesced: bool,
    },
    /// VM exit. The write itself is complete where the exit is trap-like.
    Exit(Exit),
    /// #GP(0); nothing was written.
    Fault(Clause),
    /// No control virtualizes the access: it goes to the physical local APIC.
    NotVirtualized(Clause),
    /// Memory that the VMM pointed at is not what it should be. Nothing was written there.
    Violation(Violation),
}

/// An interrupt posted by IPI virtualization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posted {
    /// The vector, V.
    pub vector: u8,
    /// The virtual APIC ID it was sent to, T.
    pub apic_id: u32,
    /// Physical address of the descriptor.
    pub descriptor: u64,
    /// PIR\[V\] was set already: two interrupts became one.
    pub coalesced: bool,
    /// What became of the notification.
    pub notice: Notice,
}

/// What became of the notification of a posted interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It is due: ON went from 0 to 1. Whoever drives the processor carries it to the local APIC.
    Due(Notification),
    /// SN is 1: none is sent.
    Suppressed,
    /// ON was 1: one is under way already.
    Outstanding,
}

/// An ordinary physical interrupt, sent as a notification. (30.1.6 step 6)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Physical vector, from NV.
    pub vector: u8,
    /// NDST as it stands in the descriptor; [`decode`](crate::arch::NotificationDestination::decode) gives the APIC ID.
    pub destination: u32,
}

/// What came of a guest's read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Read {
    /// The value, from the virtual-APIC page.
    Value(u64),
    /// VM exit.
    Exit(Exit),
    /// No control virtualizes the access: it goes to the physical local APIC.
    NotVirtualized(Clause),
}

/// An access of the processor's own that reached memory it should not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A post to something that is no live posted-interrupt descriptor.
    WildPost {
        /// The vector.
        vector: u8,
        /// The virtual APIC ID whose table entry led there.
        apic_id: u32,
        /// Where it led.
        address: u64,
    },
    /// A read of the PID-pointer table outside of any table.
    TableRead {
        /// The virtual APIC ID.
        apic_id: u32,
        /// Address of the entry.
        address: u64,
    },
    /// The VMCS's own descriptor address is no live descriptor.
    OwnDescriptor {
        /// That address.
        address: u64,
    },
    /// A page that the VMCS names is outside of memory.
    PageOutside {
        /// Which page.
        what: &'static str,
        /// Its address.
        address: u64,
    },
    /// A UPID that is outside of memory.
    UserDescriptorOutside {
        /// Its address.
        address: u64,
    },
}

impl Violation {
    /// A short name for the kind.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::WildPost { .. } => "wild-post",
            Self::TableRead { .. } => "table-read-out-of-bounds",
            Self::OwnDescriptor { .. } => "own-descriptor",
            Self::PageOutside { .. } => "page-outside-memory",
            Self::UserDescriptorOutside { .. } => "user-descriptor-outside-memory",
        }
    }

    /// One sentence: what, where, and whose memory that is.
    #[must_use]
    pub fn message<W: Word>(self, memory: &PhysicalMemory<W>) -> String {
        let whose = |address| match memory.owner_of(address) {
            Some(piece) => piece.owner.to_string(),
            None if address >= memory.bytes() => "outside of memory".to_owned(),
            None => "nobody's memory".to_owned(),
        };
        match self {
            Self::WildPost { vector, apic_id, address } => format!(
                "vector {vector:02X}H for APIC ID {apic_id} was posted to {address:X}H, which is {}",
                whose(address)
            ),
            Self::TableRead { apic_id, address } => format!(
                "the PID-pointer table entry of APIC ID {apic_id} was read at {address:X}H, which is {}",
                whose(address)
            ),
            Self::OwnDescriptor { address } => {
                format!(
                    "the VMCS's posted-interrupt descriptor address {address:X}H is {}, not a descriptor",
                    whose(address)
                )
            }
            Self::PageOutside { what, address } => {
                format!("the {what} at {address:X}H is outside of memory ({} bytes)", memory.bytes())
            }
            Self::UserDescriptorOutside { address } => format!("the UPID at {address:X}H is outside of memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Owner;
    use std::cell::Cell;

    #[test]
    fn violations_say_what_and_whose_memory() {
        let memory: PhysicalMemory<Cell<u64>> = PhysicalMemory::new(1 << 16);
        let table = memory.allocate(Owner::PidPointerTable { vm: 0 }, 64, 64).unwrap();
        let post = |address| Violation::WildPost { vector: 0x41, apic_id: 3, address };
        let read = |address| Violation::TableRead { apic_id: 3, address };
        for (violation, kind, whose) in [
            (post(table), "wild-post", "PID-pointer table"),
            (post(0xFFC0), "wild-post", "nobody's memory"),
            (post(memory.bytes()), "wild-post", "outside of memory"),
            (read(memory.bytes() + 64), "table-read-out-of-bounds", "outside of memory"),
            (Violation::OwnDescriptor { address: 0xFFC0 }, "own-descriptor", "nobody's memory"),
            (Violation::PageOutside { what: "MSR bitmap", address: 1 << 40 }, "page-outside-memory", "MSR bitmap"),
            (Violation::UserDescriptorOutside { address: 1 << 40 }, "user-descriptor-outside-memory", "10000000000H"),
        ] {
            assert_eq!(violation.kind(), kind);
            let message = violation.message(&memory);
            assert!(message.contains(whose), "{message}");
        }
    }
}
