//! A flat array of words behind physical addresses.

use super::apic_pages::{self, ApicPages, REGISTER_WORDS, Registers};
use super::owner::{Allocation, LineKind, Owner};
use super::{Cache, Word, huge_pages, prefetch};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use thiserror::Error;

/// 64-bit words of a 64-byte line.
pub const LINE_WORDS: usize = 8;
/// 64-bit words of a 4-KiB page.
pub const PAGE_WORDS: usize = 512;

/// A 64-byte line of memory: what a posted-interrupt descriptor fills.
pub type Line<W> = [W; LINE_WORDS];
/// A 4-KiB page of memory.
pub type Page<W> = [W; PAGE_WORDS];

const WORD_BYTES: u64 = 8;
const LINE_BYTES: u64 = WORD_BYTES * LINE_WORDS as u64;
pub(super) const PAGE_BYTES: usize = WORD_BYTES as usize * PAGE_WORDS;
/// The first allocation stands above page 0, so that a null address is nobody's.
const FIRST_ADDRESS: u64 = 4096;

/// The memory is smaller than what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{asked} bytes asked of a physical memory of {size} bytes, of which {free} are free")]
pub struct OutOfMemory {
    /// Bytes asked for, alignment and red zone included.
    pub asked: u64,
    /// Bytes left.
    pub free: u64,
    /// Bytes in all.
    pub size: u64,
}

/// Physical memory: words, and who owns which.
///
/// Words are reached by plain index, without a lock. The ledger of owners is locked, and read only to allocate and to
/// explain a violation; the one question of the hot path, "is this line a live descriptor?", is one byte per line.
#[derive(Debug)]
pub struct PhysicalMemory<W> {
    words: Box<[W]>,
    /// Which word is at physical address 0; it stands on a page boundary of the machine.
    base: usize,
    /// A [`LineKind`] for each 64-byte line.
    kinds: Box<[AtomicU8]>,
    /// Pieces that were taken back.
    freed: AtomicU64,
    ledger: Mutex<Ledger>,
    /// Behind all that.
    apic_pages: ApicPages<W>,
}

#[derive(Debug)]
struct Ledger {
    /// In the order of their addresses.
    allocations: Vec<Allocation>,
    next: u64,
}

impl<W: Word> PhysicalMemory<W> {
    /// Memory of at least `bytes` bytes in whole pages, all 0. Only what is used costs real memory.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self::with_apic_pages(bytes, 0)
    }

    /// The same, and behind it so many virtual-APIC pages of which only the [registers](Self::registers) are kept.
    #[must_use]
    pub fn with_apic_pages(bytes: u64, pages: usize) -> Self {
        let lines = (bytes.next_multiple_of(PAGE_BYTES as u64) / LINE_BYTES) as usize;
        let words = W::zeroed(lines * LINE_WORDS + W::SLACK);
        huge_pages::ask_for(&words);
        Self {
            base: page_boundary(&words),
            words,
            kinds: bytemuck::allocation::zeroed_slice_box(lines),
            freed: AtomicU64::new(0),
            ledger: Mutex::new(Ledger { allocations: Vec::new(), next: FIRST_ADDRESS }),
            apic_pages: ApicPages::new(pages),
        }
    }

    /// The size in bytes that holds `pieces` of (bytes, alignment), red zones included.
    #[must_use]
    pub fn size_for(pieces: impl IntoIterator<Item = (u64, u64)>) -> u64 {
        pieces.into_iter().fold(FIRST_ADDRESS, |next, (bytes, align)| next_piece(next, bytes, align).1 + LINE_BYTES)
    }

    /// Size in bytes, without the virtual-APIC pages behind it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kinds.len() as u64 * LINE_BYTES
    }

    /// Hands `bytes` bytes, aligned on `align` (a power of two), to `owner`; returns the physical address.
    ///
    /// The line after the piece is a red zone, but for virtual-APIC pages: nobody gets out of one by an offset, and with a line
    /// between them each would take two pages. May be called while other threads use the memory.
    ///
    /// # Errors
    /// [`OutOfMemory`] when the array is used up.
    pub fn allocate(&self, owner: Owner, bytes: u64, align: u64) -> Result<u64, OutOfMemory> {
        if let Owner::VirtualApicPage { .. } = owner
            && let Some(behind) = self.apic_pages.allocate(owner)
        {
            return Ok(self.bytes() + behind);
        }
        let mut ledger = self.ledger();
        let (address, behind) = next_piece(ledger.next, bytes, align);
        let end = if owner.has_red_zone() { behind + LINE_BYTES } else { behind };
        if end > self.bytes() {
            return Err(OutOfMemory { asked: end - ledger.next, free: self.bytes() - ledger.next, size: self.bytes() });
        }
        ledger.next = end;
        ledger.allocations.push(Allocation { address, bytes, owner });
        // Lines are of no special kind to begin with, and most stay so: their tags then cost no memory.
        if owner.line_kind() != LineKind::Other {
            self.tag(address, bytes, owner.line_kind());
        }
        Ok(address)
    }

    /// Takes back the piece that begins at `address`: whoever reaches it from now on is in nobody's memory.
    /// Returns what it was, or none if no piece begins there; virtual-APIC pages behind the others stay. The addresses are not
    /// handed out again.
    pub fn free(&self, address: u64) -> Option<Allocation> {
        let mut ledger = self.ledger();
        let at = ledger.allocations.binary_search_by_key(&address, |piece| piece.address).ok()?;
        let allocation = ledger.allocations.remove(at);
        self.tag(address, allocation.bytes, LineKind::Other);
        self.freed.fetch_add(1, Ordering::Release);
        Some(allocation)
    }

    /// The piece that holds `address`, or none if it is nobody's.
    #[must_use]
    pub fn owner_of(&self, address: u64) -> Option<Allocation> {
        if let Some(behind) = address.checked_sub(self.bytes()) {
            let (address, bytes) = (address - behind % apic_pages::PAGE_BYTES, apic_pages::PAGE_BYTES);
            return self.apic_pages.owner_of(behind).map(|owner| Allocation { address, bytes, owner });
        }
        let ledger = self.ledger();
        let behind = ledger.allocations.partition_point(|piece| piece.address <= address);
        let piece = ledger.allocations.get(behind.checked_sub(1)?)?;
        (address - piece.address < piece.bytes).then_some(*piece)
    }

    /// The word at `address`, or none if it is unaligned or outside of the memory.
    #[inline]
    #[must_use]
    pub fn word(&self, address: u64) -> Option<&W> {
        if !address.is_multiple_of(WORD_BYTES) {
            return None;
        }
        self.words.get(self.index(address)?)
    }

    /// The 64-byte line at `address`, or none if it is unaligned or outside of the memory.
    #[inline]
    #[must_use]
    pub fn line(&self, address: u64) -> Option<&Line<W>> {
        self.piece(address)
    }

    /// The 64-byte lines from `address` on, none if it is unaligned; as many of `count` as are in the memory.
    #[must_use]
    pub fn lines(&self, address: u64, count: usize) -> &[Line<W>] {
        let first = if address.is_multiple_of(LINE_BYTES) { self.index(address) } else { None };
        let behind = first.and_then(|first| self.words.get(first..)).unwrap_or_default();
        behind[..behind.len().min(count * LINE_WORDS)].as_chunks().0
    }

    /// The page at `address`, or none if it is unaligned or outside of the memory.
    #[inline]
    #[must_use]
    pub fn page(&self, address: u64) -> Option<&Page<W>> {
        self.piece(address)
    }

    /// The registers of the virtual-APIC page at `address`, or none if it is unaligned or outside of the memory.
    #[must_use]
    pub fn registers(&self, address: u64) -> Option<&Registers<W>> {
        if !address.is_multiple_of(apic_pages::PAGE_BYTES) {
            return None;
        }
        match address.checked_sub(self.bytes()) {
            Some(behind) => self.apic_pages.registers(behind),
            None => self.words.get(self.index(address)?..)?.first_chunk::<REGISTER_WORDS>(),
        }
    }

    /// The line at `address` if it is a live posted-interrupt descriptor.
    #[inline]
    #[must_use]
    pub fn descriptor(&self, address: u64) -> Option<&Line<W>> {
        let line = self.owned(address, LineKind::Descriptor)?;
        if !address.is_multiple_of(LINE_BYTES) {
            return None;
        }
        self.words.get(self.base + line * LINE_WORDS..)?.first_chunk()
    }

    /// The word at `address` if it lies in a line of a PID-pointer table.
    #[inline]
    #[must_use]
    pub fn table_entry(&self, address: u64) -> Option<&W> {
        self.owned(address, LineKind::Table)?;
        if !address.is_multiple_of(WORD_BYTES) {
            return None;
        }
        self.words.get(self.base + (address / WORD_BYTES) as usize)
    }

    /// Asks for the line that holds `address`, and what says what it is, for later.
    #[inline]
    pub fn ask_for(&self, address: u64) {
        prefetch(&self.words, self.base.wrapping_add((address / WORD_BYTES) as usize), Cache::Second);
        prefetch(&self.kinds, (address / LINE_BYTES) as usize, Cache::Second);
    }

    /// How many pieces have been taken back. While it stays as it was before a [`descriptor`](Self::descriptor) or a
    /// [`table_entry`](Self::table_entry) was found, that is still one.
    #[inline]
    #[must_use]
    pub fn freed(&self) -> u64 {
        // Acquire pairs with the release in `free`: what is looked for afterwards is found as that free left it.
        self.freed.load(Ordering::Acquire)
    }

    /// The number of the line that holds `address`, if it is of this kind.
    #[inline]
    fn owned(&self, address: u64, kind: LineKind) -> Option<usize> {
        let line = (address / LINE_BYTES) as usize;
        // Acquire pairs with the release in `tag`: who sees the tag sees the zeroed, owned line.
        (self.kinds.get(line)?.load(Ordering::Acquire) == kind as u8).then_some(line)
    }

    #[inline]
    fn piece<const N: usize>(&self, address: u64) -> Option<&[W; N]> {
        if !address.is_multiple_of(WORD_BYTES * N as u64) {
            return None;
        }
        let first = self.index(address)?;
        self.words.get(first..first + N)?.try_into().ok()
    }

    /// The index of the word at `address`, or none if the address is outside of the memory.
    #[inline]
    fn index(&self, address: u64) -> Option<usize> {
        (address < self.bytes()).then(|| self.base + (address / WORD_BYTES) as usize)
    }

    fn tag(&self, address: u64, bytes: u64, kind: LineKind) {
        let first = (address / LINE_BYTES) as usize;
        let lines = bytes.div_ceil(LINE_BYTES) as usize;
        for tag in self.kinds.iter().skip(first).take(lines) {
            tag.store(kind as u8, Ordering::Release);
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change of the ledger is complete before anything can panic, so a poisoned one is as good.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which of the words stands on a page boundary of the machine, in the slack before the first that is used.
pub(super) fn page_boundary<W: Word>(words: &[W]) -> usize {
    // `align_offset` may decline; the base then only costs speed.
    if W::SLACK == 0 { 0 } else { words.as_ptr().align_offset(PAGE_BYTES).min(W::SLACK) }
}

/// Where a piece goes, and where its lines end.
fn next_piece(next: u64, bytes: u64, align: u64) -> (u64, u64) {
    let address = next.next_multiple_of(align.max(LINE_BYTES));
    (address, address + bytes.next_multiple_of(LINE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Memory = PhysicalMemory<AtomicU64>;
    const VCPU: Owner = Owner::Descriptor { vm: 0, vcpu: 7 };

    #[test]
    fn a_descriptor_is_one_only_while_it_is_allocated() {
        let memory = Memory::new(1 << 16);
        let table = memory.allocate(Owner::PidPointerTable { vm: 0 }, 4096, 4096).unwrap();
        let pid = memory.allocate(VCPU, 64, 64).unwrap();
        assert!(memory.descriptor(pid).is_some());
        assert!(memory.descriptor(table).is_none(), "a table is no descriptor");
        assert!(memory.descriptor(pid + 64).is_none(), "the red zone is nobody's");
        assert!(memory.descriptor(pid + 8).is_none(), "unaligned");
        assert!(memory.descriptor(0).is_none(), "null");
        assert!(memory.descriptor(1 << 40).is_none(), "outside");
        assert_eq!(memory.freed(), 0);
        assert_eq!(memory.free(pid).unwrap().owner, VCPU);
        assert_eq!(memory.freed(), 1);
        assert!(memory.descriptor(pid).is_none(), "freed");
        assert_eq!(memory.owner_of(pid), None);
    }

    #[test]
    fn owners_are_found_from_any_byte() {
        let memory = Memory::new(1 << 16);
        let table = memory.allocate(Owner::PidPointerTable { vm: 3 }, 40, 8).unwrap();
        assert_eq!(memory.owner_of(table + 39).unwrap().owner, Owner::PidPointerTable { vm: 3 });
        assert_eq!(memory.owner_of(table + 40), None);
        assert_eq!(memory.owner_of(table - 1), None);
    }

    #[test]
    fn virtual_apic_pages_stand_side_by_side() {
        let memory = Memory::new(1 << 16);
        let page = |vcpu| memory.allocate(Owner::VirtualApicPage { vm: 0, vcpu }, 4096, 4096).unwrap();
        let (first, second) = (page(0), page(1));
        assert_eq!(second, first + 4096);
        assert_eq!(memory.owner_of(first + 4095).unwrap().owner, Owner::VirtualApicPage { vm: 0, vcpu: 0 });
        assert!(memory.allocate(VCPU, 64, 64).unwrap() >= second + 4096);
    }

    #[test]
    fn of_virtual_apic_pages_behind_the_others_registers_are_kept() {
        let memory = Memory::with_apic_pages(1 << 16, 2);
        let owner = |vcpu| Owner::VirtualApicPage { vm: 0, vcpu };
        let page = memory.allocate(owner(0), 4096, 4096).unwrap();
        let other = memory.allocate(owner(1), 4096, 4096).unwrap();
        assert_eq!((page, other), (1 << 16, (1 << 16) + 4096));
        assert_eq!(memory.owner_of(other + 4095), Some(Allocation { address: other, bytes: 4096, owner: owner(1) }));
        memory.registers(other).unwrap()[127].store_own(7);
        assert_eq!(
            (memory.registers(page).unwrap()[127].load_own(), memory.registers(other).unwrap()[127].load_own()),
            (0, 7)
        );
        assert!(memory.registers(page + 64).is_none() && memory.registers(u64::MAX - 4095).is_none());
        assert!(memory.word(page).is_none() && memory.page(page).is_none() && memory.descriptor(page).is_none());
        assert!(memory.free(page).is_none());
        // In flat memory they are the beginning of the page.
        let flat = Memory::new(1 << 16);
        let page = flat.allocate(owner(0), 4096, 4096).unwrap();
        flat.page(page).unwrap()[127].store_own(9);
        assert_eq!(flat.registers(page).unwrap()[127].load_own(), 9);
        assert!(flat.registers(1 << 16).is_none());
    }

    #[test]
    fn running_out_says_how_much_there_is() {
        let memory = Memory::new(8192);
        let error = memory.allocate(VCPU, 1 << 20, 64).unwrap_err();
        assert_eq!((error.free, error.size), (4096, 8192));
        assert!(memory.allocate(VCPU, 64, 64).is_ok(), "a failed request takes nothing");
    }

    #[test]
    fn addresses_out_of_range_or_unaligned_are_refused() {
        let memory = Memory::new(4096);
        assert!(memory.word(4088).is_some());
        assert!(memory.word(4096).is_none() && memory.word(u64::MAX - 7).is_none() && memory.word(4).is_none());
        assert!(memory.page(0).is_some() && memory.page(4096).is_none() && memory.page(64).is_none());
    }

    #[test]
    fn lines_are_the_machines_cache_lines() {
        for bytes in [4096, 1 << 20, 1 << 26] {
            let memory = Memory::new(bytes);
            let address = std::ptr::from_ref(memory.line(64).unwrap()) as usize;
            assert_eq!(address % 64, 0);
        }
    }

    proptest! {
        /// Pieces never overlap, each is aligned, and a red line stands between any two.
        #[test]
        fn pieces_keep_their_distance(asked in prop::collection::vec((1u64..9000, 0u32..13), 1..40)) {
            let pieces: Vec<_> = asked.iter().map(|&(bytes, shift)| (bytes, 1u64 << shift)).collect();
            let memory = Memory::new(Memory::size_for(pieces.iter().copied()));
            let mut end = 0;
            for (bytes, align) in pieces {
                let address = memory.allocate(VCPU, bytes, align).unwrap();
                prop_assert!(address.is_multiple_of(align));
                prop_assert!(address >= end + 64);
                end = address + bytes;
            }
        }
    }
}
