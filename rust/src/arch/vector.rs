//! Interrupt vectors: priority classes, and where a vector stands in the 256-bit registers.
//!
//! SDM vol. 3A, "Interrupt, Task, and Processor Priority" 11.8.3 and "Virtual-APIC Registers" (vol. 3C) 30.1.1.

/// Vectors below this one are the processor's exceptions; an IPI must not carry them (11.5.2, "Valid Interrupt Vectors").
pub const FIRST_LEGAL: u8 = 16;

/// Priority class: bits 7:4 of a vector or priority.
#[must_use]
pub const fn class(value: u8) -> u8 {
    value >> 4
}

/// The priority that a class has with sub-class 0: `value & F0H`.
#[must_use]
pub const fn class_floor(value: u8) -> u8 {
    value & 0xF0
}

/// Where a vector stands in a 256-bit register (VISR, VTMR, VIRR, PIR, EOI-exit bitmap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VectorBit(u8);

impl VectorBit {
    /// The position of `vector`.
    #[must_use]
    pub const fn of(vector: u8) -> Self {
        Self(vector)
    }

    /// Byte offset within a register bank of the APIC page: `(x & E0H) >> 1`. (30.1.1)
    #[must_use]
    pub const fn bank_offset(self) -> usize {
        (self.0 as usize & 0xE0) >> 1
    }

    /// Which of the bank's eight 32-bit registers.
    #[must_use]
    pub const fn bank(self) -> usize {
        self.0 as usize >> 5
    }

    /// The bit within the 32-bit register: `x & 1FH`, as a mask.
    #[must_use]
    pub const fn bank_mask(self) -> u32 {
        1 << (self.0 & 0x1F)
    }

    /// Which of four 64-bit words.
    #[must_use]
    pub const fn word(self) -> usize {
        self.0 as usize >> 6
    }

    /// The bit within the 64-bit word.
    #[must_use]
    pub const fn word_bit(self) -> u8 {
        self.0 & 0x3F
    }

    /// The same as a mask.
    #[must_use]
    pub const fn word_mask(self) -> u64 {
        1 << self.word_bit()
    }
}

/// The highest vector of a 64-bit word of a 256-bit register, or none if it is empty.
#[must_use]
pub const fn highest_in_word(word: usize, bits: u64) -> Option<u8> {
    match bits.checked_ilog2() {
        Some(bit) => Some((word * 64) as u8 + bit as u8),
        None => None,
    }
}

/// The highest vector of a 32-bit register of a bank, or none if it is empty.
#[must_use]
pub const fn highest_in_bank(bank: usize, bits: u32) -> Option<u8> {
    match bits.checked_ilog2() {
        Some(bit) => Some((bank * 32) as u8 + bit as u8),
        None => None,
    }
}

/// The two 32-bit registers of an APIC bank (lower first) that one 64-bit word of the posted requests covers.
#[must_use]
pub const fn banks_of_word(bits: u64) -> [u32; 2] {
    [bits as u32, (bits >> 32) as u32]
}

/// The 64-bit word with `bits` in its lower (0) or upper (1) 32-bit register.
#[must_use]
pub const fn word_of_banks(half: usize, bits: u32) -> u64 {
    if half == 0 { bits as u64 } else { (bits as u64) << 32 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_follow_the_formulas_for_every_vector() {
        for v in 0..=255u8 {
            let bit = VectorBit::of(v);
            assert_eq!(bit.bank_offset(), (usize::from(v) & 0xE0) >> 1);
            assert_eq!(bit.bank_offset(), bit.bank() * 16);
            assert_eq!(bit.bank_mask(), 1 << (v & 0x1F));
            assert_eq!(highest_in_word(bit.word(), bit.word_mask()), Some(v));
            assert_eq!(highest_in_bank(bit.bank(), bit.bank_mask()), Some(v));
            let banks = banks_of_word(bit.word_mask());
            assert_eq!(banks[bit.bank() & 1], bit.bank_mask());
        }
        assert_eq!(highest_in_word(3, 0), None);
    }
}
