//! The virtual-APIC page: the local APIC's registers as the guest sees them.
//!
//! SDM vol. 3C, "Virtual-APIC Registers" 30.1.1. They are in the first KiB of the page; the rest of it is memory like any
//! other, of which this model reads nothing but what RDMSR of an MSR above 83FH asks for. The page belongs to the processor that runs the vCPU; nobody else
//! writes it, so plain loads and stores do, ordered with nothing.

use crate::arch::vector::{highest_in_bank, highest_in_word};
use crate::arch::{ApicRegister, Icr, VectorBit};
use crate::memory::{Cache, Registers, Word, prefetch};

/// View of the registers of a virtual-APIC page.
#[derive(Debug)]
pub struct VirtualApic<'a, W>(&'a Registers<W>);

impl<W> Clone for VirtualApic<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for VirtualApic<'_, W> {}

/// Bits of a 64-bit word that a 32-bit register fills: registers stand on 16-byte boundaries.
const REGISTER: u64 = 0xFFFF_FFFF;

impl<'a, W: Word> VirtualApic<'a, W> {
    /// Views `registers`.
    #[must_use]
    pub const fn new(registers: &'a Registers<W>) -> Self {
        Self(registers)
    }

    #[inline]
    fn word(self, register: ApicRegister) -> &'a W {
        // Who has an offset of 400H or more does not ask here; the mask keeps the bounds check out of the way.
        debug_assert!(register.word() < self.0.len(), "no register");
        &self.0[register.word() % self.0.len()]
    }

    /// Asks for the lines that hold priorities, ISR and IRR.
    pub(super) fn read_ahead(self, cache: Cache) {
        let [isr, irr] = [ApicRegister::ISR, ApicRegister::IRR];
        for register in [ApicRegister::TPR, isr, isr.nth(4), irr, irr.nth(4)] {
            prefetch(self.0, register.word(), cache);
        }
    }

    /// Asks for the line that holds the ICR, for later.
    pub(super) fn read_ahead_of_icr(self) {
        prefetch(self.0, ApicRegister::ICR_LOW.word(), Cache::Second);
    }

    /// A 32-bit register.
    #[inline]
    #[must_use]
    pub fn get(self, register: ApicRegister) -> u32 {
        self.word(register).load_own() as u32
    }

    /// Writes a 32-bit register; the 4 bytes after it keep their value.
    #[inline]
    pub fn set(self, register: ApicRegister, value: u32) {
        let word = self.word(register);
        word.store_own(word.load_own() & !REGISTER | u64::from(value));
    }

    /// The 8 bytes at a register's offset, as RDMSR reads them.
    #[inline]
    #[must_use]
    pub fn get_64(self, register: ApicRegister) -> u64 {
        self.word(register).load_own()
    }

    /// Writes the 8 bytes at a register's offset, as WRMSR of the ICR does.
    #[inline]
    pub fn set_64(self, register: ApicRegister, value: u64) {
        self.word(register).store_own(value);
    }

    /// Reads `bytes` bytes (1, 2 or 4) at page offset `offset`, within one register.
    #[must_use]
    pub fn read_bytes(self, offset: u16, bytes: u32) -> u32 {
        let register = ApicRegister::containing(offset);
        let (shift, mask) = lane(offset, bytes);
        (self.get(register) >> shift) & mask
    }

    /// Writes `bytes` bytes (1, 2 or 4) at page offset `offset`, within one register.
    pub fn write_bytes(self, offset: u16, bytes: u32, value: u32) {
        let word = self.word(ApicRegister::containing(offset));
        let (shift, mask) = lane(offset, bytes);
        let others = !(u64::from(mask) << shift);
        word.store_own(word.load_own() & others | u64::from(value & mask) << shift);
    }

    /// VICR_LO and VICR_HI as xAPIC mode reads them.
    #[inline]
    #[must_use]
    pub fn icr_xapic(self) -> Icr {
        Icr::from_xapic(self.get(ApicRegister::ICR_LOW), self.get(ApicRegister::ICR_HIGH))
    }

    /// Sets a vector's bit in a bank (VISR, VTMR, VIRR). Returns whether it was set already.
    #[inline]
    #[allow(clippy::must_use_candidate, reason = "it is called for its effect")]
    pub fn set_bit(self, bank: ApicRegister, vector: u8) -> bool {
        let bit = VectorBit::of(vector);
        self.set_bits(bank.of_bank(bit), bit.bank_mask()) & bit.bank_mask() != 0
    }

    /// Sets bits of a register; returns the register before.
    #[inline]
    pub(super) fn set_bits(self, register: ApicRegister, bits: u32) -> u32 {
        let word = self.word(register);
        let before = word.load_own();
        word.store_own(before | u64::from(bits));
        before as u32
    }

    /// Clears a vector's bit in a bank.
    #[inline]
    pub fn clear_bit(self, bank: ApicRegister, vector: u8) {
        let bit = VectorBit::of(vector);
        let word = self.word(bank.of_bank(bit));
        word.store_own(word.load_own() & !u64::from(bit.bank_mask()));
    }

    /// Whether a vector's bit is set in a bank.
    #[must_use]
    pub fn bit(self, bank: ApicRegister, vector: u8) -> bool {
        let bit = VectorBit::of(vector);
        self.get(bank.of_bank(bit)) & bit.bank_mask() != 0
    }

    /// The highest vector of a bank, or none.
    #[inline(always)]
    #[allow(clippy::inline_always, reason = "as wrmsr")]
    #[must_use]
    pub fn highest(self, bank: ApicRegister) -> Option<u8> {
        // Nearly always empty: one branch tells. Whatever is found then is read again.
        let mut any = 0;
        for i in 0..8 {
            any |= self.get(bank.nth(i));
        }
        if any == 0 { None } else { self.highest_of_some(bank) }
    }

    /// The same where it is known that there is one: out of the way of the paths where there is none.
    #[inline(never)]
    fn highest_of_some(self, bank: ApicRegister) -> Option<u8> {
        (0..8).rev().find_map(|i| highest_in_bank(i, self.get(bank.nth(i))))
    }

    /// The 256 bits of a bank, lowest vectors first.
    #[must_use]
    pub fn bank(self, bank: ApicRegister) -> [u64; 4] {
        std::array::from_fn(|i| u64::from(self.get(bank.nth(2 * i + 1))) << 32 | u64::from(self.get(bank.nth(2 * i))))
    }

    /// The vectors of a bank, lowest first.
    #[must_use]
    pub fn vectors(self, bank: ApicRegister) -> Vec<u8> {
        vectors_of(self.bank(bank))
    }
}

/// The vectors whose bits are set in 256 bits, lowest first.
#[must_use]
pub fn vectors_of(words: [u64; 4]) -> Vec<u8> {
    let mut vectors = Vec::new();
    for (i, word) in words.into_iter().enumerate().rev() {
        let mut left = word;
        while let Some(vector) = highest_in_word(i, left) {
            vectors.push(vector);
            left &= !VectorBit::of(vector).word_mask();
        }
    }
    vectors.reverse();
    vectors
}

/// Where bytes of an access stand in its register: shift and mask.
const fn lane(offset: u16, bytes: u32) -> (u32, u32) {
    let shift = (offset as u32 & 3) * 8;
    let mask = if bytes >= 4 { u32::MAX } else { (1 << (bytes * 8)) - 1 };
    (shift, mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn page() -> Box<Registers<Cell<u64>>> {
        Cell::<u64>::zeroed(128).try_into().unwrap()
    }

    #[test]
    fn a_vectors_bit_is_where_the_manual_says() {
        let page = page();
        let apic = VirtualApic::new(&page);
        apic.set_bit(ApicRegister::ISR, 0x41);
        assert!(apic.bit(ApicRegister::ISR, 0x41));
        assert!(!apic.bit(ApicRegister::ISR, 0x42));
        assert!(!apic.bit(ApicRegister::IRR, 0x41));
        // VISR begins at 100H; vector 41H is bit 1 of its third register.
        let words: Vec<_> = page.iter().map(Cell::get).enumerate().filter(|&(_, word)| word != 0).collect();
        assert_eq!(words, [(0x120 / 8, 2)]);
    }

    #[test]
    fn banks_are_laid_out_as_the_manual_says() {
        let page = page();
        let apic = VirtualApic::new(&page);
        for v in 0..=255u8 {
            assert!(!apic.set_bit(ApicRegister::IRR, v));
            assert!(apic.set_bit(ApicRegister::IRR, v));
            let offset = 0x200 + ((usize::from(v) & 0xE0) >> 1);
            assert_eq!(page[offset / 8].get() as u32, 1 << (v & 0x1F), "vector {v:02X}H");
            assert_eq!(apic.highest(ApicRegister::IRR), Some(v));
            assert_eq!(apic.vectors(ApicRegister::IRR), vec![v]);
            apic.clear_bit(ApicRegister::IRR, v);
        }
        assert_eq!(apic.highest(ApicRegister::IRR), None);
    }

    #[test]
    fn bytes_of_a_register() {
        let page = page();
        let apic = VirtualApic::new(&page);
        apic.set_64(ApicRegister::ICR_LOW, 0xFFFF_FFFF_1122_3344);
        assert_eq!(apic.read_bytes(0x301, 2), 0x2233);
        apic.write_bytes(0x303, 1, 0xAB);
        assert_eq!(apic.get(ApicRegister::ICR_LOW), 0xAB22_3344);
        assert_eq!(apic.get_64(ApicRegister::ICR_LOW) >> 32, 0xFFFF_FFFF, "the next 4 bytes keep their value");
    }

    #[test]
    fn vectors_of_words() {
        assert_eq!(vectors_of([1 | 1 << 63, 0, 1 << 5, 1 << 63]), vec![0, 63, 133, 255]);
    }
}
