//! A set of numbers, of which the next one is found without a look at each.

/// A bit for each number, and one for each 64 of them of which some are in. Of pCPUs it is the kernel's `struct cpumask`.
#[derive(Debug)]
pub(super) struct Bitmap {
    pub(super) bits: Vec<u64>,
    /// Which of the bits' words are not 0.
    pub(super) words: Vec<u64>,
}

impl Bitmap {
    /// Of the numbers below `end` none is in.
    pub(super) fn new(end: usize) -> Self {
        let words = end.div_ceil(64);
        Self { bits: vec![0; words], words: vec![0; words.div_ceil(64)] }
    }

    /// Adds a number, or leaves it in. Returns whether it is below the end.
    #[inline]
    pub(super) fn set(&mut self, number: u32) -> bool {
        let at = number as usize / 64;
        let (Some(bits), Some(words)) = (self.bits.get_mut(at), self.words.get_mut(at / 64)) else { return false };
        *bits |= 1 << (number % 64);
        *words |= 1 << (at % 64);
        true
    }

    /// Takes a number out, if it is in.
    pub(super) fn clear(&mut self, number: u32) {
        let at = number as usize / 64;
        if let (Some(bits), Some(words)) = (self.bits.get_mut(at), self.words.get_mut(at / 64)) {
            *bits &= !(1 << (number % 64));
            if *bits == 0 {
                *words &= !(1 << (at % 64));
            }
        }
    }

    /// Adds a number, or takes it out.
    pub(super) fn put(&mut self, number: u32, is_in: bool) {
        if is_in {
            self.set(number);
        } else {
            self.clear(number);
        }
    }

    /// Whether a number is in.
    pub(super) fn has(&self, number: u32) -> bool {
        self.bits.get(number as usize / 64).is_some_and(|bits| bits >> (number % 64) & 1 != 0)
    }

    /// The first that is in from a number on, and after the last one from 0 on. (`cpumask_next_wrap`)
    pub(super) fn next_wrap(&self, from: u32) -> Option<u32> {
        let at = from as usize / 64;
        // The rest of its word; the words behind it, and all from the beginning.
        next_bit(&self.bits[..(at + 1).min(self.bits.len())], from as usize)
            .or_else(|| self.first_of_word(next_bit(&self.words, at + 1)?))
            .or_else(|| self.first_of_word(next_bit(&self.words, 0)?))
            .map(|number| number as u32)
    }

    fn first_of_word(&self, word: usize) -> Option<usize> {
        Some(word * 64 + self.bits.get(word)?.trailing_zeros() as usize)
    }
}

/// The first bit that is 1, from a number on.
fn next_bit(words: &[u64], from: usize) -> Option<usize> {
    let at = from / 64;
    let first = words.get(at)? & u64::MAX << (from % 64);
    let left = words.iter().copied().enumerate().skip(at + 1);
    let (word, bits) = std::iter::once((at, first)).chain(left).find(|&(_, bits)| bits != 0)?;
    Some(word * 64 + bits.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// As if each were looked at.
        #[test]
        fn the_next_is_the_first_that_is_found_in_turn(
            pcpus in prop_oneof![1..70u32, 4000..9000u32],
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<bool>()), 0..40),
            from in any::<proptest::sample::Index>(),
        ) {
            let (mut mask, mut plain) = (Bitmap::new(pcpus as usize), vec![false; pcpus as usize]);
            for (at, is_in) in changes {
                let at = at.index(plain.len());
                plain[at] = is_in;
                if is_in {
                    mask.set(at as u32);
                } else {
                    mask.clear(at as u32);
                }
            }
            let from = from.index(plain.len()) as u32;
            let found = (0..pcpus).map(|i| (from + i) % pcpus).find(|&pcpu| plain[pcpu as usize]);
            prop_assert_eq!(mask.next_wrap(from), found);
        }
    }

    #[test]
    fn nobody_is_beyond_the_last() {
        let mut mask = Bitmap::new(65);
        mask.set(500);
        assert_eq!((mask.next_wrap(0), mask.next_wrap(5000), Bitmap::new(0).next_wrap(0)), (None, None, None));
        mask.set(64);
        assert_eq!((mask.next_wrap(0), mask.next_wrap(64), mask.next_wrap(65)), (Some(64), Some(64), Some(64)));
        mask.clear(500);
    }
}
