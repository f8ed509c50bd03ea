//! Virtual-APIC pages of which only the registers are kept.

use super::owner::Owner;
use super::{Word, huge_pages};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// 64-bit words of a virtual-APIC page in which its registers are: those below offset 400H.
pub(super) const REGISTER_WORDS: usize = 128;
/// The registers of a virtual-APIC page.
pub type Registers<W> = [W; REGISTER_WORDS];

/// Bytes that each takes of the physical address space.
pub(super) const PAGE_BYTES: u64 = super::physical::PAGE_BYTES as u64;

/// Pages that stand behind the flat part of a memory. In a large machine three quarters of all its memory would be what is
/// behind the registers, where nobody writes: it is not there, and reads as 0.
#[derive(Debug)]
pub(super) struct ApicPages<W> {
    words: Box<[W]>,
    /// Which word is the first of page 0; it stands on a page boundary of the machine.
    base: usize,
    /// Whose each is that has been handed out.
    owners: Mutex<Vec<Owner>>,
}

impl<W: Word> ApicPages<W> {
    /// Room for so many, all 0.
    pub(super) fn new(pages: usize) -> Self {
        let words = W::zeroed(pages * REGISTER_WORDS + if pages == 0 { 0 } else { W::SLACK });
        huge_pages::ask_for(&words);
        let base = if words.is_empty() { 0 } else { super::physical::page_boundary(&words) };
        Self { words, base, owners: Mutex::default() }
    }

    fn count(&self) -> usize {
        (self.words.len() - self.base) / REGISTER_WORDS
    }

    /// Hands one to `owner`: at which byte behind the flat part it stands. None if all are handed out.
    pub(super) fn allocate(&self, owner: Owner) -> Option<u64> {
        let mut owners = self.owners();
        let page = owners.len();
        if page >= self.count() {
            return None;
        }
        owners.push(owner);
        Some(page as u64 * PAGE_BYTES)
    }

    /// The registers of the page at this byte behind the flat part, or none if none stands there.
    pub(super) fn registers(&self, at: u64) -> Option<&Registers<W>> {
        let first = (at / PAGE_BYTES) as usize * REGISTER_WORDS + self.base;
        self.words.get(first..)?.first_chunk()
    }

    /// Whose the page is in which this byte is.
    pub(super) fn owner_of(&self, at: u64) -> Option<Owner> {
        self.owners().get((at / PAGE_BYTES) as usize).copied()
    }

    fn owners(&self) -> MutexGuard<'_, Vec<Owner>> {
        // Each change is one push, so a poisoned list is as good.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn each_page_has_registers_and_an_owner() {
        let pages = ApicPages::<Cell<u64>>::new(2);
        let owner = |vcpu| Owner::VirtualApicPage { vm: 1, vcpu };
        let handed_out = [0, 1].map(|vcpu| pages.allocate(owner(vcpu)).unwrap());
        assert_eq!(handed_out, [0, PAGE_BYTES]);
        assert_eq!(pages.owner_of(PAGE_BYTES + 4095), Some(owner(1)));
        assert_eq!(pages.owner_of(2 * PAGE_BYTES), None);
        for at in handed_out {
            pages.registers(at).unwrap()[REGISTER_WORDS - 1].set(7 + at);
        }
        assert_eq!(pages.registers(0).unwrap()[REGISTER_WORDS - 1].get(), 7);
        assert_eq!(pages.registers(0).unwrap().as_ptr() as usize % PAGE_BYTES as usize, 0);
        assert!(pages.registers(1 << 40).is_none());
        let more = (0..).map_while(|vcpu| pages.allocate(owner(vcpu))).count();
        assert!(more <= Cell::<u64>::SLACK / REGISTER_WORDS);
        assert_eq!(ApicPages::<Cell<u64>>::new(0).allocate(owner(0)), None);
    }
}
