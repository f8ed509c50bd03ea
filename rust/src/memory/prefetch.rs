//! Reading ahead.

use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache line of `items[index]`, without waiting for it: who looks many places up one after the other does
/// not wait for memory at each. Outside the slice, and on machines for which it is not written, it does nothing.
#[inline]
pub fn prefetch<T>(items: &[T], index: usize) {
    if let Some(item) = items.get(index) {
        line(std::ptr::from_ref(item).cast());
    }
}

/// The same for some lines of an item, which stands at the beginning of one.
#[inline]
pub fn prefetch_lines<T>(item: &T, lines: Range<usize>) {
    let first = std::ptr::from_ref(item).cast::<i8>();
    for at in lines.start..lines.end.min(size_of::<T>().div_ceil(LINE)) {
        line(first.wrapping_add(at * LINE));
    }
}

#[inline]
fn line(address: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "PREFETCHT0 takes a pointer")]
        // SAFETY: PREFETCHT0 neither faults nor changes what a program can see (SDM Vol. 2B, PREFETCHh), whatever the
        // address.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(address);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_index_may_be_asked_for() {
        let items = [1u64; 100];
        for index in [0, 99, 100, usize::MAX] {
            prefetch(&items, index);
        }
        prefetch_lines(&items, 0..2);
        prefetch_lines(&items, 5..20);
        prefetch_lines(&items, 20..30);
        assert_eq!(items, [1; 100]);
    }
}
