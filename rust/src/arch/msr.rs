//! Model-specific registers by number: the x2APIC range and those that decide about it.
//!
//! SDM vol. 3A, "x2APIC Register Address Space" 11.12.1.2; vol. 3C, "Virtualizing MSR-Based APIC Accesses" 30.5.

use super::apic_register::ApicRegister;

/// IA32_APIC_BASE.
pub const IA32_APIC_BASE: u32 = 0x1B;
/// First MSR of the x2APIC range.
pub const X2APIC_FIRST: u32 = 0x800;
/// Last MSR of the x2APIC range.
pub const X2APIC_LAST: u32 = 0x8FF;
/// IA32_X2APIC_APICID.
pub const X2APIC_ID: u32 = X2APIC_FIRST + 0x02;
/// IA32_X2APIC_TPR.
pub const X2APIC_TPR: u32 = X2APIC_FIRST + 0x08;
/// IA32_X2APIC_EOI.
pub const X2APIC_EOI: u32 = X2APIC_FIRST + 0x0B;
/// IA32_X2APIC_SIVR.
pub const X2APIC_SVR: u32 = X2APIC_FIRST + 0x0F;
/// IA32_X2APIC_ESR.
pub const X2APIC_ESR: u32 = X2APIC_FIRST + 0x28;
/// IA32_X2APIC_ICR.
pub const X2APIC_ICR: u32 = X2APIC_FIRST + 0x30;
/// IA32_X2APIC_SELF_IPI.
pub const X2APIC_SELF_IPI: u32 = X2APIC_FIRST + 0x3F;

/// Whether `msr` is of the x2APIC range, 800H to 8FFH. (30.5)
#[must_use]
pub const fn is_x2apic(msr: u32) -> bool {
    X2APIC_FIRST <= msr && msr <= X2APIC_LAST
}

/// The page offset behind an MSR of the x2APIC range: `(ECX & FFH) << 4`. (30.5)
#[must_use]
pub const fn page_offset(msr: u32) -> u16 {
    ((msr & 0xFF) << 4) as u16
}

/// The MSR of an APIC register: 800H + offset / 16.
#[must_use]
pub const fn of_register(register: ApicRegister) -> u32 {
    X2APIC_FIRST + (register.offset() >> 4) as u32
}

/// Where an MSR stands in the 4-KiB MSR bitmap (25.6.9, "MSR-Bitmap Address").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BitmapPosition {
    /// 64-bit word of the page.
    pub word: usize,
    /// The bit, as a mask.
    pub mask: u64,
}

/// The position of the read or write bit of `msr`, or none if no bitmap covers it: such an MSR always exits.
#[must_use]
pub const fn bitmap_position(msr: u32, write: bool) -> Option<BitmapPosition> {
    let (base, index) = match msr {
        0..=0x1FFF => (0, msr),
        0xC000_0000..=0xC000_1FFF => (1024, msr - 0xC000_0000),
        _ => return None,
    };
    let byte = base + if write { 2048 } else { 0 } + (index as usize >> 3);
    Some(BitmapPosition { word: byte >> 3, mask: 1 << (index & 0x3F) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitmap_positions() {
        assert_eq!(bitmap_position(0, false), Some(BitmapPosition { word: 0, mask: 1 }));
        assert_eq!(bitmap_position(0x830, true), Some(BitmapPosition { word: (2048 + 0x830 / 8) / 8, mask: 1 << 48 }));
        assert_eq!(bitmap_position(0xC000_0001, false), Some(BitmapPosition { word: 128, mask: 2 }));
        assert_eq!(bitmap_position(0xC000_1FFF, true), Some(BitmapPosition { word: 511, mask: 1 << 63 }));
        assert_eq!(bitmap_position(0x2000, false), None);
        assert_eq!(bitmap_position(0x4000_0000, true), None);
    }

    #[test]
    fn offsets_of_msrs() {
        assert_eq!(page_offset(X2APIC_ICR), 0x300);
        assert_eq!(page_offset(X2APIC_SELF_IPI), 0x3F0);
        assert_eq!(of_register(ApicRegister::ICR_LOW), X2APIC_ICR);
        assert_eq!(of_register(ApicRegister::TPR), X2APIC_TPR);
    }
}
