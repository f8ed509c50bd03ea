//! Huge pages for large memories.

/// Bytes from which on a memory is asked to have them: a smaller one is mapped by a few faults, and fits the TLB, anyway.
const LARGE: usize = 16 << 20;

/// Asks for huge pages (2 MiB on x86) under `words`, if they are many. A large VM then takes one page fault where it took
/// 512, and its virtual-APIC pages do not take an entry of the TLB each. It is a hint: what kernel, and system
/// administrator, make of it changes nothing but speed.
#[cfg(target_os = "linux")]
pub(super) fn ask_for<W>(words: &[W]) {
    use rustix::mm::{Advice, madvise};
    use rustix::param::page_size;

    let range = words.as_ptr_range();
    let (begin, end) = (range.start as usize, range.end as usize);
    if end - begin < LARGE {
        return;
    }
    // Whole pages, none of which anything else shares.
    let (first, last) = (begin.next_multiple_of(page_size()), end - end % page_size());
    let pages = range.start.wrapping_byte_add(first - begin);
    #[expect(unsafe_code, reason = "madvise takes a pointer")]
    // SAFETY: `first..last` lies within `words`, which is mapped. MADV_HUGEPAGE changes by how large pages that is done,
    // not what is in them, nor whether they can be read or written: no reference to the words can tell.
    let _ = unsafe { madvise(pages.cast_mut().cast(), last - first, Advice::LinuxHugepage) };
}

/// There is nobody to ask.
#[cfg(not(target_os = "linux"))]
pub(super) const fn ask_for<W>(_: &[W]) {}
