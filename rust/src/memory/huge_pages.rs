//! Huge pages for large memories.

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;
/// Bytes from which on a memory is asked to have them: a smaller one is mapped by a few faults, and fits the TLB, anyway.
const LARGE: usize = 16 << 20;

/// Asks for huge pages (2 MiB on x86) under `words`, if they are many. A large VM then takes one page fault where it took
/// 512, and its virtual-APIC pages do not take an entry of the TLB each. It is a hint: what kernel, and system
/// administrator, make of it changes nothing but speed.
pub(super) fn ask_for<W>(words: &[W]) {
    if size_of_val(words) >= LARGE {
        advise(words);
    }
}

/// An empty vector with room for so many items, on huge pages if there may be one in it: for a table that is looked up all
/// over, where each look would miss the TLB.
#[must_use]
pub fn with_huge_pages<T>(capacity: usize) -> Vec<T> {
    let mut items = Vec::with_capacity(capacity);
    if capacity.saturating_mul(size_of::<T>()) >= HUGE_PAGE {
        advise(items.spare_capacity_mut());
    }
    items
}

#[cfg(target_os = "linux")]
fn advise<W>(words: &[W]) {
    use rustix::mm::{Advice, madvise};
    use rustix::param::page_size;

    let range = words.as_ptr_range();
    let (begin, end) = (range.start as usize, range.end as usize);
    // Whole pages, none of which anything else shares.
    let (first, last) = (begin.next_multiple_of(page_size()), end - end % page_size());
    if first >= last {
        return;
    }
    let pages = range.start.wrapping_byte_add(first - begin);
    #[expect(unsafe_code, reason = "madvise takes a pointer")]
    // SAFETY: `first..last` lies within `words`, which is mapped. MADV_HUGEPAGE changes by how large pages that is done,
    // not what is in them, nor whether they can be read or written: no reference to the words can tell.
    let _ = unsafe { madvise(pages.cast_mut().cast(), last - first, Advice::LinuxHugepage) };
}

/// There is nobody to ask.
#[cfg(not(target_os = "linux"))]
const fn advise<W>(_: &[W]) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_whatever_the_size() {
        for capacity in [0, 1, HUGE_PAGE, 3 * HUGE_PAGE + 1] {
            let mut items = with_huge_pages(capacity);
            items.extend((0..capacity).map(|item| item as u8));
            assert!(items.iter().enumerate().all(|(at, &item)| item == at as u8));
        }
        assert_eq!(with_huge_pages::<()>(usize::MAX).len(), 0);
    }
}
