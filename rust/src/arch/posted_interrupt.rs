//! Posted-interrupt descriptor, PID-pointer table entry, guest interrupt status.
//!
//! SDM vol. 3C, "Posted-Interrupt Processing" 30.6 (descriptor), "IPI Virtualization" 30.1.6 (table),
//! "Guest Non-Register State" 25.4.2 (guest interrupt status).

use super::ApicMode;
use bitfield_struct::bitfield;

/// Size of a posted-interrupt descriptor, in bytes; it is aligned on its size.
pub const DESCRIPTOR_BYTES: u64 = 64;
/// 64-bit words of PIR (posted-interrupt requests), which come first.
pub const PIR_WORDS: usize = 4;
/// The 64-bit word that holds ON, SN, NV and NDST.
pub const CONTROL_WORD: usize = 4;
/// Size of an entry of the PID-pointer table, in bytes.
pub const ENTRY_BYTES: u64 = 8;
/// Most entries that a PID-pointer table can have: the last index is a 16-bit field.
pub const MAX_ENTRIES: usize = 1 << 16;

/// Word 4 of a posted-interrupt descriptor (bits 319:256).
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PidControl {
    /// ON: a notification is outstanding. Bit 256.
    pub outstanding: bool,
    /// SN: suppress notifications. Bit 257.
    pub suppress: bool,
    #[bits(14)]
    software_271_258: u16,
    /// NV: notification vector. Bits 279:272.
    pub vector: u8,
    software_287_280: u8,
    /// NDST: notification destination. Bits 319:288.
    pub destination: u32,
}

/// NDST as the host's local APICs read it.
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct NotificationDestination {
    low_byte: u8,
    /// The physical APIC ID when the host is in xAPIC mode: bits 15:8.
    pub xapic_id: u8,
    high: u16,
}

impl NotificationDestination {
    /// NDST for the physical APIC `id` of a host in `mode`.
    #[must_use]
    pub const fn encode(id: u32, mode: ApicMode) -> Self {
        match mode {
            ApicMode::X2Apic => Self::from_bits(id),
            ApicMode::XApic | ApicMode::Disabled => Self::new().with_xapic_id(id as u8),
        }
    }

    /// The physical APIC ID that an NDST names to a host in `mode`.
    #[must_use]
    pub const fn decode(self, mode: ApicMode) -> u32 {
        match mode {
            ApicMode::X2Apic => self.into_bits(),
            ApicMode::XApic | ApicMode::Disabled => self.xapic_id() as u32,
        }
    }
}

/// An entry of the PID-pointer table.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct PidPointerEntry {
    /// The entry is valid. Bit 0.
    pub valid: bool,
    /// Must be 0. Bits 5:1.
    #[bits(5)]
    pub reserved_5_1: u8,
    /// Physical address of the descriptor, divided by its size. Bits 63:6.
    #[bits(58)]
    pub line: u64,
}

impl PidPointerEntry {
    /// A valid entry for the descriptor at `address`, which is 64-byte aligned.
    #[must_use]
    pub const fn to_descriptor(address: u64) -> Self {
        Self::from_bits(address).with_reserved_5_1(0).with_valid(true)
    }

    /// Physical address of the descriptor.
    #[must_use]
    pub const fn address(self) -> u64 {
        Self::new().with_line(self.line()).into_bits()
    }

    /// Whether bits 5:0 are 000001b.
    #[must_use]
    pub const fn well_formed(self) -> bool {
        self.valid() && self.reserved_5_1() == 0
    }

    /// The bits that step 3 looks at on a processor whose physical addresses have `max_phys_addr_bits` bits: those
    /// beyond the width, and 5:0. An entry is usable if of these [`valid`](Self::valid) alone is set.
    #[must_use]
    pub const fn checked_bits(max_phys_addr_bits: u8) -> u64 {
        let low = Self::new().with_valid(true).with_reserved_5_1(0x1F).into_bits();
        u64::MAX.unbounded_shl(max_phys_addr_bits as u32) | low
    }

    /// Whether bits 5:0 are 000001b and no bit is set beyond the width. (30.1.6 step 3)
    #[inline]
    #[must_use]
    pub const fn usable(self, checked_bits: u64) -> bool {
        self.into_bits() & checked_bits == Self::new().with_valid(true).into_bits()
    }
}

/// Guest interrupt status, VMCS field 0810H.
#[bitfield(u16)]
#[derive(PartialEq, Eq)]
pub struct GuestInterruptStatus {
    /// RVI: requesting virtual interrupt.
    pub rvi: u8,
    /// SVI: servicing virtual interrupt.
    pub svi: u8,
}

/// The user posted-interrupt descriptor's first 64-bit word (SDM vol. 3A, "User-Interrupt Posting" 7.5), as far as SENDUIPI reads it.
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct UpidControl {
    /// ON: a notification is outstanding. Bit 0.
    pub outstanding: bool,
    /// SN: suppress notifications. Bit 1.
    pub suppress: bool,
    /// Reserved, must be 0. Bits 15:2.
    #[bits(14)]
    pub reserved_15_2: u16,
    /// NV: notification vector. Bits 23:16.
    pub vector: u8,
    /// Reserved, must be 0. Bits 31:24.
    pub reserved_31_24: u8,
    /// NDST: notification destination. Bits 63:32.
    pub destination: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_word_layout() {
        let control = PidControl::new().with_outstanding(true).with_vector(0xF2).with_destination(0x1234_5678);
        assert_eq!(control.into_bits(), 0x1234_5678_00F2_0001);
        assert_eq!(PidControl::new().with_suppress(true).into_bits(), 2);
    }

    #[test]
    fn entry_layout() {
        let entry = PidPointerEntry::to_descriptor(0x1_2345_6780 & !63);
        assert_eq!(entry.into_bits(), 0x1_2345_6780 | 1);
        assert_eq!(entry.address(), 0x1_2345_6780);
        assert!(entry.well_formed());
        for bit in 0..6 {
            assert!(!PidPointerEntry::from_bits(entry.into_bits() ^ (1 << bit)).well_formed(), "bit {bit}");
        }
    }

    #[test]
    fn ndst_of_both_hosts() {
        assert_eq!(NotificationDestination::encode(5, ApicMode::XApic).into_bits(), 0x0500);
        assert_eq!(NotificationDestination::encode(0x105, ApicMode::X2Apic).into_bits(), 0x105);
        for mode in [ApicMode::XApic, ApicMode::X2Apic] {
            assert_eq!(NotificationDestination::encode(0xAB, mode).decode(mode), 0xAB);
        }
    }

    #[test]
    fn status_layout() {
        assert_eq!(GuestInterruptStatus::new().with_rvi(0x31).with_svi(0x42).into_bits(), 0x4231);
    }
}
