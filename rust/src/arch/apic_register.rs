//! Local-APIC registers by page offset, and which accesses to them can be virtualized.
//!
//! SDM vol. 3C, "Virtual-APIC Registers" 30.1.1, "Virtualizing Reads from the APIC-Access Page" 30.4.2,
//! "Determining Whether a Write Access is Virtualized" 30.4.3.1.

use super::vector::VectorBit;
use bitfield_struct::bitfield;

/// The version register that KVM shows: version 14H, six local vector table entries.
pub const VERSION: u32 = 0x0005_0014;
/// The destination format register for the flat model, its value after a reset.
pub const DFR_FLAT: u32 = 0xFFFF_FFFF;
/// The destination format register for the cluster model.
pub const DFR_CLUSTER: u32 = 0x0FFF_FFFF;
/// The spurious-interrupt vector register after a reset.
pub const SVR_AFTER_RESET: u32 = 0xFF;
/// The spurious-interrupt vector register of a local APIC that is enabled by software.
pub const SVR_ENABLED: u32 = 0x1FF;

/// The ID register in xAPIC mode: bits 31:24.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct XApicId {
    #[bits(24)]
    reserved_23_0: u32,
    /// APIC ID.
    pub id: u8,
}

/// The logical destination register in xAPIC mode: bits 31:24. (11.6.2.2, "Logical Destination Mode")
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct XApicLdr {
    #[bits(24)]
    reserved_23_0: u32,
    /// Logical APIC ID: in the flat model a set of eight, in the cluster model a cluster and a set of four.
    pub logical_id: u8,
}

impl XApicLdr {
    /// What Linux writes for CPU number `cpu` in the flat model, which has eight members.
    #[must_use]
    pub fn flat(cpu: u32) -> Self {
        Self::new().with_logical_id(1u8.checked_shl(cpu).unwrap_or(0))
    }
}

/// A logical APIC ID in the cluster model.
#[bitfield(u8)]
#[derive(PartialEq, Eq)]
pub struct ClusterId {
    /// One bit for each of four members. Bits 3:0.
    #[bits(4)]
    pub members: u8,
    /// Cluster. Bits 7:4.
    #[bits(4)]
    pub cluster: u8,
}

/// The spurious-interrupt vector register. (11.9, "Spurious Interrupt")
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct SpuriousVector {
    /// Spurious vector. Bits 7:0.
    pub vector: u8,
    /// The local APIC is enabled by software. Bit 8.
    pub enabled: bool,
    #[bits(23)]
    other_31_9: u32,
}

/// The error status register. (11.5.3, "Error Handling")
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct ErrorStatus {
    #[bits(5)]
    other_4_0: u8,
    /// Send illegal vector. Bit 5.
    pub send_illegal_vector: bool,
    /// Receive illegal vector. Bit 6.
    pub receive_illegal_vector: bool,
    #[bits(25)]
    other_31_7: u32,
}

/// A local-APIC register, named by its offset in the 4-KiB page: a multiple of 16 below 1000H.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ApicRegister(u16);

/// What an access to the APIC-access page is (exit qualification bits 15:12; linear accesses only).
///
/// Guest-physical accesses (types 10 and 15) are not modelled: the model has linear accesses alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Data read during instruction execution: type 0.
    Read,
    /// Data write during instruction execution: type 1.
    Write,
    /// Instruction fetch: type 2.
    Fetch,
    /// Read or write during event delivery: type 3.
    EventDelivery {
        /// It is a write.
        write: bool,
    },
}

impl AccessKind {
    /// The access type in an exit qualification.
    #[must_use]
    pub const fn access_type(self) -> u8 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Fetch => 2,
            Self::EventDelivery { .. } => 3,
        }
    }
}

#[allow(missing_docs, reason = "the names are the manual's")]
impl ApicRegister {
    pub const ID: Self = Self(0x020);
    pub const VERSION: Self = Self(0x030);
    pub const TPR: Self = Self(0x080);
    pub const PPR: Self = Self(0x0A0);
    pub const EOI: Self = Self(0x0B0);
    pub const LDR: Self = Self(0x0D0);
    pub const DFR: Self = Self(0x0E0);
    pub const SVR: Self = Self(0x0F0);
    pub const ISR: Self = Self(0x100);
    pub const TMR: Self = Self(0x180);
    pub const IRR: Self = Self(0x200);
    pub const ESR: Self = Self(0x280);
    pub const LVT_CMCI: Self = Self(0x2F0);
    pub const ICR_LOW: Self = Self(0x300);
    pub const ICR_HIGH: Self = Self(0x310);
    pub const LVT_TIMER: Self = Self(0x320);
    pub const LVT_THERMAL: Self = Self(0x330);
    pub const LVT_PERFORMANCE: Self = Self(0x340);
    pub const LVT_LINT0: Self = Self(0x350);
    pub const LVT_LINT1: Self = Self(0x360);
    pub const LVT_ERROR: Self = Self(0x370);
    pub const INITIAL_COUNT: Self = Self(0x380);
    pub const DIVIDE: Self = Self(0x3E0);
    pub const SELF_IPI: Self = Self(0x3F0);
}

/// A set of registers below offset 400H, one bit for each.
#[derive(Clone, Copy)]
struct RegisterSet(u64);

impl RegisterSet {
    const fn of(registers: &[ApicRegister]) -> Self {
        let mut bits = 0;
        let mut i = 0;
        while i < registers.len() {
            bits |= 1 << (registers[i].0 >> 4);
            i += 1;
        }
        Self(bits)
    }

    const fn with_bank(self, first: ApicRegister) -> Self {
        Self(self.0 | 0xFF << (first.0 >> 4))
    }

    const fn contains(self, register: ApicRegister) -> bool {
        register.0 < 0x400 && self.0 & 1 << (register.0 >> 4) != 0
    }
}

/// With APIC-register virtualization, a write to one of these is virtualized.
const WRITABLE: RegisterSet = RegisterSet::of(&[
    ApicRegister::ID,
    ApicRegister::TPR,
    ApicRegister::EOI,
    ApicRegister::LDR,
    ApicRegister::DFR,
    ApicRegister::SVR,
    ApicRegister::ESR,
    ApicRegister::ICR_LOW,
    ApicRegister::ICR_HIGH,
    ApicRegister::LVT_TIMER,
    ApicRegister::LVT_THERMAL,
    ApicRegister::LVT_PERFORMANCE,
    ApicRegister::LVT_LINT0,
    ApicRegister::LVT_LINT1,
    ApicRegister::LVT_ERROR,
    ApicRegister::INITIAL_COUNT,
    ApicRegister::DIVIDE,
]);

/// With APIC-register virtualization, a read of one of these is virtualized: those, the version and the three banks.
const READABLE: RegisterSet = RegisterSet(WRITABLE.0 | RegisterSet::of(&[ApicRegister::VERSION]).0)
    .with_bank(ApicRegister::ISR)
    .with_bank(ApicRegister::TMR)
    .with_bank(ApicRegister::IRR);

impl ApicRegister {
    /// The register whose 16-byte region holds `offset`; offsets of 1000H and more wrap into the page.
    #[must_use]
    pub const fn containing(offset: u16) -> Self {
        Self(offset & 0xFF0)
    }

    /// Whether `bytes` bytes at `offset` are inside the low 4 bytes of an aligned 16-byte region, where a register is.
    #[must_use]
    pub const fn spans(offset: u16, bytes: u32) -> bool {
        (offset & 0xF) as u32 + bytes <= 4
    }

    /// The register of a bank (ISR, TMR, IRR) that holds a vector's bit.
    #[must_use]
    pub const fn of_bank(self, bit: VectorBit) -> Self {
        Self(self.0 + bit.bank_offset() as u16)
    }

    /// The `bank`-th register (0 to 7) of a bank (ISR, TMR, IRR).
    #[must_use]
    pub const fn nth(self, bank: usize) -> Self {
        Self(self.0 + (bank as u16) * 16)
    }

    /// Whether it is one of the registers of a bank: ISR, TMR or IRR.
    #[must_use]
    pub const fn in_bank(self) -> bool {
        Self::ISR.0 <= self.0 && self.0 <= Self::IRR.nth(7).0
    }

    /// Page offset.
    #[must_use]
    pub const fn offset(self) -> u16 {
        self.0
    }

    /// Whether it stands behind the registers, at offset 400H or above, where the page is memory.
    #[must_use]
    pub const fn is_beyond_registers(self) -> bool {
        self.0 >= 0x400
    }

    /// The 64-bit word of the page that begins with this register.
    #[must_use]
    pub const fn word(self) -> usize {
        self.0 as usize >> 3
    }

    /// Whether APIC-register virtualization virtualizes reads of it (30.4.2).
    #[must_use]
    pub const fn readable(self) -> bool {
        READABLE.contains(self)
    }

    /// Whether APIC-register virtualization virtualizes writes of it (30.4.3.1).
    #[must_use]
    pub const fn writable(self) -> bool {
        WRITABLE.contains(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The two lists, written out as ranges from the manual.
    #[test]
    fn access_sets_match_the_lists() {
        let readable = |o: u16| {
            matches!(o, 0x020 | 0x030 | 0x080 | 0x0B0 | 0x0D0 | 0x0E0 | 0x0F0 | 0x280 | 0x300 | 0x310 | 0x380 | 0x3E0)
                || (0x100..=0x170).contains(&o)
                || (0x180..=0x1F0).contains(&o)
                || (0x200..=0x270).contains(&o)
                || (0x320..=0x370).contains(&o)
        };
        let writable = |o: u16| {
            matches!(o, 0x020 | 0x080 | 0x0B0 | 0x0D0 | 0x0E0 | 0x0F0 | 0x280 | 0x300 | 0x310 | 0x380 | 0x3E0)
                || (0x320..=0x370).contains(&o)
        };
        for offset in (0..0x1000).step_by(16) {
            let register = ApicRegister::containing(offset);
            assert_eq!(register.readable(), readable(offset), "read of {offset:03X}H");
            assert_eq!(register.writable(), writable(offset), "write of {offset:03X}H");
        }
    }

    #[test]
    fn banks() {
        assert_eq!(ApicRegister::IRR.of_bank(VectorBit::of(0xFB)).offset(), 0x270);
        assert_eq!(ApicRegister::ISR.nth(7).offset(), 0x170);
        assert_eq!(ApicRegister::containing(0x303), ApicRegister::ICR_LOW);
    }
}
