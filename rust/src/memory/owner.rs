//! Who an allocation belongs to.

use std::fmt;

/// What an allocation is, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// The posted-interrupt descriptor of a vCPU.
    Descriptor {
        /// VM.
        vm: u32,
        /// vCPU of that VM.
        vcpu: u32,
    },
    /// The virtual-APIC page of a vCPU.
    VirtualApicPage {
        /// VM.
        vm: u32,
        /// vCPU of that VM.
        vcpu: u32,
    },
    /// The PID-pointer table of a VM.
    PidPointerTable {
        /// VM.
        vm: u32,
    },
    /// The APIC-access page of a VM.
    ApicAccessPage {
        /// VM.
        vm: u32,
    },
    /// An MSR bitmap of a VM.
    MsrBitmap {
        /// VM.
        vm: u32,
    },
    /// Memory of the guest that its programs share.
    GuestMemory {
        /// VM.
        vm: u32,
    },
    /// The words of a VM and its vCPUs that the hypervisor's threads share.
    HypervisorWords {
        /// VM.
        vm: u32,
    },
    /// The interrupt-request bits of a physical local APIC.
    LocalApic {
        /// Physical CPU.
        pcpu: u32,
    },
    /// A user posted-interrupt descriptor, for SENDUIPI.
    UserDescriptor {
        /// VM.
        vm: u32,
    },
}

/// The kind of an owner, one byte for each 64-byte line of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum LineKind {
    /// Neither of the others: never allocated, a red zone, freed, or an allocation of another kind.
    Other = 0,
    Descriptor = 1,
    Table = 2,
}

impl Owner {
    pub(super) const fn line_kind(self) -> LineKind {
        match self {
            Self::Descriptor { .. } => LineKind::Descriptor,
            Self::PidPointerTable { .. } => LineKind::Table,
            _ => LineKind::Other,
        }
    }

    pub(super) const fn has_red_zone(self) -> bool {
        !matches!(self, Self::VirtualApicPage { .. })
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Descriptor { vm, vcpu } => write!(f, "the posted-interrupt descriptor of vCPU {vcpu} of VM {vm}"),
            Self::VirtualApicPage { vm, vcpu } => write!(f, "the virtual-APIC page of vCPU {vcpu} of VM {vm}"),
            Self::PidPointerTable { vm } => write!(f, "the PID-pointer table of VM {vm}"),
            Self::ApicAccessPage { vm } => write!(f, "the APIC-access page of VM {vm}"),
            Self::MsrBitmap { vm } => write!(f, "an MSR bitmap of VM {vm}"),
            Self::GuestMemory { vm } => write!(f, "memory of the guest of VM {vm}"),
            Self::HypervisorWords { vm } => write!(f, "the hypervisor's words of VM {vm}"),
            Self::LocalApic { pcpu } => write!(f, "the local APIC of pCPU {pcpu}"),
            Self::UserDescriptor { vm } => write!(f, "a user posted-interrupt descriptor of VM {vm}"),
        }
    }
}

/// A piece of memory and its owner. Bytes outside any allocation are nobody's: one red line stands after each piece that is
/// not a virtual-APIC page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allocation {
    /// Physical address.
    pub address: u64,
    /// Size in bytes.
    pub bytes: u64,
    /// Whose it is.
    pub owner: Owner,
}
