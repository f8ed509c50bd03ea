//! Some of many numbers, taken in order.

use super::bitmap::Bitmap;

/// Marks in a bitmap: a few of many numbers are put in order in a look at each, where a sort compares each with several others.
#[derive(Debug)]
pub(super) struct Marks {
    bitmap: Bitmap,
    /// Of its `words`, those from the first one that is not 0 to the last one.
    from: usize,
    to: usize,
}

impl Marks {
    /// Of the numbers below `end` none is marked.
    pub(super) fn new(end: usize) -> Self {
        Self { bitmap: Bitmap::new(end), from: usize::MAX, to: 0 }
    }

    /// Marks a number, or leaves it marked.
    #[inline]
    pub(super) fn mark(&mut self, number: u32) {
        if self.bitmap.set(number) {
            let at = number as usize / (64 * 64);
            (self.from, self.to) = (self.from.min(at), self.to.max(at + 1));
        }
    }

    /// Takes all that are marked, the lowest first. None is afterwards.
    #[inline]
    pub(super) fn take(&mut self, mut each: impl FnMut(u32)) {
        let Bitmap { bits: all, words } = &mut self.bitmap;
        for (i, words) in words.iter_mut().enumerate().take(self.to).skip(self.from) {
            let mut left = std::mem::take(words);
            while left != 0 {
                let at = i * 64 + left.trailing_zeros() as usize;
                left &= left - 1;
                let mut bits = all.get_mut(at).map_or(0, std::mem::take);
                while bits != 0 {
                    each((at * 64) as u32 + bits.trailing_zeros());
                    bits &= bits - 1;
                }
            }
        }
        (self.from, self.to) = (usize::MAX, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Each comes once and in order, and only the next time if it is marked again.
        #[test]
        fn they_are_taken_in_order(
            rounds in proptest::collection::vec(proptest::collection::vec(0..20_000u32, 0..60), 1..5),
        ) {
            let mut marks = Marks::new(20_000);
            for numbers in rounds {
                let mut taken = Vec::new();
                for &number in &numbers {
                    marks.mark(number);
                }
                marks.take(|number| taken.push(number));
                let expected: std::collections::BTreeSet<u32> = numbers.into_iter().collect();
                prop_assert_eq!(taken, expected.into_iter().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn what_is_beyond_the_end_is_not_marked() {
        let mut marks = Marks::new(65);
        for number in [64, 63, 0, 5000, u32::MAX] {
            marks.mark(number);
        }
        let mut taken = Vec::new();
        marks.take(|number| taken.push(number));
        assert_eq!(taken, [0, 63, 64]);
    }
}
