//! Reading ahead.

use std::ops::Range;

/// Bytes of a cache line.
const LINE: usize = 64;

/// Into which of a processor's caches a line is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// The nearest, for what is used at once. It has few requests under way at a time, and when it has no place for
    /// another one, all that it misses waits.
    First,
    /// The one behind it, for what is used in a while, and where much is asked for. Requests may be under way there, by the
    /// measure of a processor, for twice as many lines.
    Second,
}

/// Asks for the cache line of `items[index]`, without waiting for it: who looks many places up one after the other does
/// not wait for memory at each. Outside the slice it asks for what nobody uses; on machines for which it is not written it
/// does nothing.
#[inline]
pub fn prefetch<T>(items: &[T], index: usize, cache: Cache) {
    line(items.as_ptr().wrapping_add(index).cast(), cache);
}

/// The same for some lines of an item, which stands at the beginning of one.
#[inline]
pub fn prefetch_lines<T>(item: &T, lines: Range<usize>, cache: Cache) {
    let first = std::ptr::from_ref(item).cast::<i8>();
    for at in lines.start..lines.end.min(size_of::<T>().div_ceil(LINE)) {
        line(first.wrapping_add(at * LINE), cache);
    }
}

#[inline]
fn line(address: *const i8, cache: Cache) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        #[expect(unsafe_code, reason = "PREFETCHh takes a pointer")]
        // SAFETY: PREFETCHh neither faults nor changes what a program can see (SDM Vol. 2B, PREFETCHh), whatever the
        // address.
        unsafe {
            match cache {
                Cache::First => _mm_prefetch::<_MM_HINT_T0>(address),
                Cache::Second => _mm_prefetch::<_MM_HINT_T1>(address),
            }
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, cache);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_index_may_be_asked_for() {
        let items = [1u64; 100];
        for cache in [Cache::First, Cache::Second] {
            for index in [0, 99, 100, usize::MAX] {
                prefetch(&items, index, cache);
            }
            for lines in [0..2, 5..20, 20..30] {
                prefetch_lines(&items, lines, cache);
            }
        }
        assert_eq!(items, [1; 100]);
    }
}
