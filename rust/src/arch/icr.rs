//! The interrupt command register, in both its forms.
//!
//! SDM vol. 3A, "Interrupt Command Register (ICR)" 11.6.1 and "ICR Operation in x2APIC Mode" 11.12.9.

use super::ApicMode;
use bitfield_struct::bitfield;

/// Bits 31:0 of the ICR: vector, shorthand and the rest; the same in xAPIC and x2APIC mode but for bit 12. (11.6.1)
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct IcrLow {
    /// Vector.
    pub vector: u8,
    /// Delivery mode, bits 10:8.
    #[bits(3)]
    pub delivery_mode: DeliveryMode,
    /// Destination mode, bit 11.
    #[bits(1)]
    pub destination_mode: DestinationMode,
    /// Delivery status (send pending) in xAPIC mode; unused in x2APIC mode.
    pub delivery_status: bool,
    /// Reserved.
    pub reserved_13: bool,
    /// Level: assert.
    pub level_assert: bool,
    /// Trigger mode: level.
    pub trigger_level: bool,
    /// Reserved.
    #[bits(2)]
    pub reserved_17_16: u8,
    /// Destination shorthand, bits 19:18.
    #[bits(2)]
    pub shorthand: Shorthand,
    /// Reserved.
    #[bits(12)]
    pub reserved_31_20: u16,
}

/// Delivery mode, ICR bits 10:8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeliveryMode {
    /// 0: the vector is delivered to all processors listed in the destination.
    Fixed,
    /// 1: to the one that runs at the lowest priority.
    LowestPriority,
    /// 2.
    Smi,
    /// 3: reserved.
    Reserved3,
    /// 4.
    Nmi,
    /// 5.
    Init,
    /// 6: start-up.
    Sipi,
    /// 7: reserved in the ICR (ExtINT in a local vector table entry).
    Reserved7,
}

impl DeliveryMode {
    /// All eight, in the order of their encodings.
    pub const ALL: [Self; 8] = [
        Self::Fixed,
        Self::LowestPriority,
        Self::Smi,
        Self::Reserved3,
        Self::Nmi,
        Self::Init,
        Self::Sipi,
        Self::Reserved7,
    ];

    const fn from_bits(value: u8) -> Self {
        Self::ALL[value as usize & 7]
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// The mode's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fixed => "fixed",
            Self::LowestPriority => "lowest-priority",
            Self::Smi => "smi",
            Self::Reserved3 => "reserved-3",
            Self::Nmi => "nmi",
            Self::Init => "init",
            Self::Sipi => "sipi",
            Self::Reserved7 => "reserved-7",
        }
    }
}

/// Destination mode, ICR bit 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DestinationMode {
    /// 0: the destination is an APIC ID.
    Physical,
    /// 1: the destination is a set of logical IDs.
    Logical,
}

impl DestinationMode {
    /// Both, in the order of their encodings.
    pub const ALL: [Self; 2] = [Self::Physical, Self::Logical];

    const fn from_bits(value: u8) -> Self {
        if value & 1 == 0 { Self::Physical } else { Self::Logical }
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// The mode's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// Destination shorthand, ICR bits 19:18.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shorthand {
    /// 0: the destination field counts.
    None,
    /// 1.
    Self_,
    /// 2: all including self.
    All,
    /// 3.
    AllButSelf,
}

impl Shorthand {
    /// All four, in the order of their encodings.
    pub const ALL: [Self; 4] = [Self::None, Self::Self_, Self::All, Self::AllButSelf];

    const fn from_bits(value: u8) -> Self {
        Self::ALL[value as usize & 3]
    }

    const fn into_bits(self) -> u8 {
        self as u8
    }

    /// The shorthand's name in lower case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Self_ => "self",
            Self::All => "all",
            Self::AllButSelf => "all-but-self",
        }
    }
}

impl IcrLow {
    /// The ICR as KVM and x2APIC hardware keep it: bit 12 cleared.
    #[must_use]
    pub const fn without_delivery_status(self) -> Self {
        self.with_delivery_status(false)
    }
}

/// ICR_HI in xAPIC mode: the destination is bits 31:24, the rest is reserved. (11.6.1)
#[bitfield(u32)]
#[derive(PartialEq, Eq)]
pub struct XApicIcrHigh {
    #[bits(24)]
    reserved_23_0: u32,
    /// Destination.
    pub destination: u8,
}

/// The ICR in x2APIC mode: one 64-bit register, the destination is bits 63:32. (11.12.9)
#[bitfield(u64)]
#[derive(PartialEq, Eq)]
pub struct X2ApicIcr {
    low_bits: u32,
    /// Destination.
    pub destination: u32,
}

/// An ICR value that knows its destination, whichever form it came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Icr {
    /// Bits 31:0.
    pub low: IcrLow,
    /// Destination: 8 bits in xAPIC mode, 32 in x2APIC mode.
    pub destination: u32,
}

impl Icr {
    /// A fixed interrupt to the sender itself, by shorthand.
    #[must_use]
    pub const fn to_self(vector: u8) -> Self {
        Self { low: IcrLow::new().with_vector(vector).with_shorthand(Shorthand::Self_), destination: 0 }
    }

    /// From the registers ICR_LO and ICR_HI of xAPIC mode.
    #[must_use]
    pub const fn from_xapic(low: u32, high: u32) -> Self {
        Self { low: IcrLow::from_bits(low), destination: XApicIcrHigh::from_bits(high).destination() as u32 }
    }

    /// From the 64-bit register of x2APIC mode.
    #[must_use]
    pub const fn from_x2apic(value: u64) -> Self {
        let icr = X2ApicIcr::from_bits(value);
        Self { low: IcrLow::from_bits(icr.low_bits()), destination: icr.destination() }
    }

    /// From 64 bits: in x2APIC mode the register, otherwise ICR_HI in the upper half and ICR_LO in the lower.
    #[must_use]
    pub const fn from_u64(value: u64, mode: ApicMode) -> Self {
        match mode {
            ApicMode::X2Apic => Self::from_x2apic(value),
            ApicMode::XApic | ApicMode::Disabled => Self::from_xapic(value as u32, (value >> 32) as u32),
        }
    }

    /// The value of the 64-bit register of x2APIC mode.
    #[must_use]
    pub const fn to_x2apic(self) -> u64 {
        X2ApicIcr::new().with_low_bits(self.low.into_bits()).with_destination(self.destination).into_bits()
    }

    /// The values of ICR_LO and ICR_HI in xAPIC mode; only bits 7:0 of the destination fit.
    #[must_use]
    pub const fn to_xapic(self) -> (u32, u32) {
        (self.low.into_bits(), XApicIcrHigh::new().with_destination(self.destination as u8).into_bits())
    }

    /// The inverse of [`Icr::from_u64`].
    #[must_use]
    pub const fn to_u64(self, mode: ApicMode) -> u64 {
        match mode {
            ApicMode::X2Apic => self.to_x2apic(),
            ApicMode::XApic | ApicMode::Disabled => {
                let (low, high) = self.to_xapic();
                (high as u64) << 32 | low as u64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout of processor.md section 3, bit by bit.
    #[test]
    fn fields_stand_where_the_manual_puts_them() {
        let low = IcrLow::from_bits(0x000C_45FB);
        assert_eq!(low.vector(), 0xFB);
        assert_eq!(low.delivery_mode(), DeliveryMode::Init);
        assert_eq!(low.destination_mode(), DestinationMode::Physical);
        assert!(low.level_assert() && !low.trigger_level() && !low.delivery_status());
        assert_eq!(low.shorthand(), Shorthand::AllButSelf);
        assert_eq!(IcrLow::from_bits(1 << 11).destination_mode(), DestinationMode::Logical);
        assert!(IcrLow::from_bits(1 << 12).delivery_status());
        assert!(IcrLow::from_bits(1 << 13).reserved_13());
        assert!(IcrLow::from_bits(1 << 15).trigger_level());
        assert_eq!(IcrLow::from_bits(3 << 16).reserved_17_16(), 3);
        assert_eq!(IcrLow::from_bits(0xFFF0_0000).reserved_31_20(), 0xFFF);
    }

    #[test]
    fn destinations_of_both_forms() {
        assert_eq!(Icr::from_xapic(0xFB, 0x0300_0000).destination, 3);
        assert_eq!(Icr::from_xapic(0xFB, 0x00FF_FFFF).destination, 0);
        assert_eq!(Icr::from_x2apic(0x0003_0201_0000_00FB).destination, 0x0003_0201);
        for mode in [ApicMode::XApic, ApicMode::X2Apic] {
            let value = 0xAB00_0000_000C_45FB;
            assert_eq!(Icr::from_u64(value, mode).to_u64(mode), value);
        }
    }
}
