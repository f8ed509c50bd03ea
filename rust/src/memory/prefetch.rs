//! Reading ahead.

/// Asks for the cache line of `items[index]`, without waiting for it: who looks many places up one after the other does
/// not wait for memory at each. Outside the slice, and on machines for which it is not written, it does nothing.
#[inline]
pub fn prefetch<T>(items: &[T], index: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(index) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        #[expect(unsafe_code, reason = "PREFETCHT0 takes a pointer")]
        // SAFETY: PREFETCHT0 neither faults nor changes what a program can see (SDM Vol. 2B, PREFETCHh), and the pointer
        // comes from a reference.
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, index);
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
        assert_eq!(items, [1; 100]);
    }
}
