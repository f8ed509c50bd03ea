//! A physical local APIC, as far as it carries notifications: requests, acknowledgement, EOI.
//!
//! SDM vol. 3A, "Interrupt Acceptance for Fixed Interrupts" 11.8.4 and "Signaling Interrupt Servicing Completion" 11.8.5.
//! The request bits are shared memory; what is in service belongs to the processor. Task priority is 0 throughout.

use crate::arch::posted_interrupt::PIR_WORDS;
use crate::arch::{VectorBit, vector};
use crate::memory::{Line, Word};

/// Requests vector `vector` of the local APIC whose request bits are in `requests`. Returns whether it was requested
/// already: two physical interrupts became one.
///
/// Pairs with [`LocalApic::acknowledge`]: whoever acknowledges the vector sees all that was done before the request.
#[inline]
pub fn request<W: Word>(requests: &Line<W>, vector: u8) -> bool {
    let bit = VectorBit::of(vector);
    requests[bit.word()].fetch_or(bit.word_mask()) & bit.word_mask() != 0
}

/// Whether anything is requested.
#[inline]
pub fn pending<W: Word>(requests: &Line<W>) -> bool {
    requests.iter().take(PIR_WORDS).any(|word| word.load() != 0)
}

/// Whether this vector is requested.
#[must_use]
pub fn requested<W: Word>(requests: &Line<W>, vector: u8) -> bool {
    let bit = VectorBit::of(vector);
    requests[bit.word()].load() & bit.word_mask() != 0
}

/// The processor's end of its local APIC.
#[derive(Debug)]
pub struct LocalApic<'m, W> {
    requests: &'m Line<W>,
    in_service: [u64; PIR_WORDS],
    /// The lowest vector whose class is above everything in service.
    floor: u16,
}

impl<'m, W: Word> LocalApic<'m, W> {
    /// The local APIC whose request bits are in `requests`, with nothing in service.
    #[must_use]
    pub const fn new(requests: &'m Line<W>) -> Self {
        Self { requests, in_service: [0; PIR_WORDS], floor: 0 }
    }

    /// The request bits.
    #[must_use]
    pub const fn requests(&self) -> &'m Line<W> {
        self.requests
    }

    /// Whether a request waits that [`acknowledge`](Self::acknowledge) would take.
    #[inline]
    #[must_use]
    pub fn deliverable(&self) -> Option<u8> {
        let requested = (0..PIR_WORDS).rev().find_map(|i| vector::highest_in_word(i, self.requests[i].load()))?;
        (u16::from(requested) >= self.floor).then_some(requested)
    }

    /// Takes the highest request whose class is above everything in service, and puts it in service.
    #[inline]
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        self.take(vector);
        Some(vector)
    }

    /// Acknowledges `vector`, which [`deliverable`](Self::deliverable) has just named. Only this processor takes
    /// requests away, so it is still there.
    #[inline]
    pub(super) fn take(&mut self, vector: u8) {
        let bit = VectorBit::of(vector);
        self.requests[bit.word()].fetch_and(!bit.word_mask());
        self.in_service[bit.word()] |= bit.word_mask();
        self.floor = floor_above(vector);
    }

    /// The same, with the EOI for it.
    #[inline]
    pub(super) fn take_and_end(&mut self, vector: u8) {
        let bit = VectorBit::of(vector);
        self.requests[bit.word()].fetch_and(!bit.word_mask());
    }

    /// EOI: the highest interrupt in service is done.
    #[inline]
    pub fn eoi(&mut self) {
        if let Some(vector) = highest(self.in_service) {
            let bit = VectorBit::of(vector);
            self.in_service[bit.word()] &= !bit.word_mask();
            self.floor = highest(self.in_service).map_or(0, floor_above);
        }
    }
}

/// The lowest vector of the class above `vector`'s.
#[inline]
const fn floor_above(vector: u8) -> u16 {
    vector::class_floor(vector) as u16 + 16
}

/// The highest vector whose bit is set.
#[inline]
pub(super) fn highest(words: [u64; PIR_WORDS]) -> Option<u8> {
    (0..PIR_WORDS).rev().find_map(|i| vector::highest_in_word(i, words[i]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_request_is_seen_until_it_is_taken() {
        let requests: Line<Cell<u64>> = std::array::from_fn(|_| Cell::new(0));
        assert!(!requested(&requests, 0xF2));
        request(&requests, 0xF2);
        assert!(requested(&requests, 0xF2));
        assert!(!requested(&requests, 0xF1));
        LocalApic::new(&requests).acknowledge();
        assert!(!requested(&requests, 0xF2));
    }

    #[test]
    fn a_higher_class_interrupts_a_lower_one() {
        let requests: Line<Cell<u64>> = std::array::from_fn(|_| Cell::new(0));
        let mut apic = LocalApic::new(&requests);
        request(&requests, 0x31);
        assert_eq!(apic.acknowledge(), Some(0x31));
        request(&requests, 0xF2);
        assert_eq!(apic.acknowledge(), Some(0xF2));
        request(&requests, 0x32);
        apic.eoi();
        assert_eq!(apic.acknowledge(), None, "31H, of the same class, is still in service");
        apic.eoi();
        assert_eq!(apic.acknowledge(), Some(0x32));
    }

    #[test]
    fn the_highest_class_goes_first_and_masks_its_own() {
        let requests: Line<Cell<u64>> = std::array::from_fn(|_| Cell::new(0));
        let mut apic = LocalApic::new(&requests);
        assert!(!request(&requests, 0x31));
        assert!(request(&requests, 0x31));
        request(&requests, 0xF2);
        assert_eq!(apic.acknowledge(), Some(0xF2));
        request(&requests, 0xF1);
        assert_eq!(apic.acknowledge(), None, "F1H is of the class in service");
        apic.eoi();
        assert_eq!(apic.acknowledge(), Some(0xF1));
        apic.eoi();
        assert_eq!(apic.acknowledge(), Some(0x31));
        assert!(!pending(&requests));
        apic.eoi();
        apic.eoi();
        assert_eq!(apic.acknowledge(), None);
    }
}
