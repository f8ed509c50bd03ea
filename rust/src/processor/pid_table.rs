//! The PID-pointer table: from a virtual APIC ID to a descriptor.
//!
//! SDM vol. 3C, "IPI Virtualization" 30.1.6 steps 2 and 3.

use super::VirtualProcessor;
use super::outcome::Violation;
use crate::arch::posted_interrupt::ENTRY_BYTES;
use crate::arch::{Clause, PidPointerEntry};
use crate::memory::{Line, PhysicalMemory, Word};

/// Why an ID leads to no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Miss {
    /// The clause that calls for an APIC-write exit.
    Exit(Clause),
    /// The entry is in nobody's table.
    Violation(Violation),
    /// The entry leads to this address, where no live descriptor is.
    NoDescriptor(u64),
}

/// Address of the entry of `apic_id` in the table at `table`.
#[inline]
#[must_use]
pub const fn entry_address(table: u64, apic_id: u32) -> u64 {
    table.wrapping_add(apic_id as u64 * ENTRY_BYTES)
}

/// The entry that was used last, and the descriptor behind it: who sends to the same vCPU again need not look for them.
///
/// Only where the two are is remembered. Each time the entry is read, and must be what it was; and no memory may have been
/// freed since. The VMCS does not change in non-root operation.
#[derive(Debug)]
pub struct Recent<'a, W> {
    apic_id: u32,
    word: &'a W,
    entry: PidPointerEntry,
    pid: &'a Line<W>,
    /// [`PhysicalMemory::freed`] before entry and descriptor were found.
    freed: u64,
}

impl<W> Clone for Recent<'_, W> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W> Copy for Recent<'_, W> {}

/// What is remembered of the table, since VM entry at the earliest.
#[derive(Debug)]
pub(super) struct Remembered<'a, W> {
    pub(super) recent: Option<Recent<'a, W>>,
    /// It was looked for, and not only reminded of.
    pub(super) learnt: bool,
}

impl<W> Remembered<'_, W> {
    pub(super) const EMPTY: Self = Self { recent: None, learnt: false };
}

impl VirtualProcessor {
    /// Asks for the memory of the entry of virtual APIC ID `apic_id`, for later.
    pub fn ask_for_entry<W: Word>(&self, memory: &PhysicalMemory<W>, apic_id: u32) {
        memory.ask_for(entry_address(self.vmcs.pid_table, apic_id));
    }

    /// Asks for that of the descriptor behind the entry, which has been asked for.
    pub fn ask_for_descriptor<W: Word>(&self, memory: &PhysicalMemory<W>, apic_id: u32) {
        if let Some(entry) = memory.word(entry_address(self.vmcs.pid_table, apic_id)) {
            memory.ask_for(PidPointerEntry::from_bits(entry.load()).address());
        }
    }
}

/// The descriptor of virtual APIC ID `apic_id`, and its address. (30.1.6 steps 2 and 3)
///
/// # Errors
/// Beyond the last PID-pointer index (step 2), an entry with bits beyond the physical-address width or not valid (step 3);
/// or what no processor would notice: an entry that is read outside of any table, or leads to something else than a
/// descriptor.
#[inline(always)]
#[allow(clippy::inline_always, reason = "as wrmsr")]
pub(super) fn descriptor<'a, W: Word>(
    memory: &'a PhysicalMemory<W>,
    vp: &VirtualProcessor,
    remembered: &mut Remembered<'a, W>,
    apic_id: u32,
) -> Result<(u64, &'a Line<W>), Miss> {
    let freed = memory.freed();
    if let Some(recent) = remembered.recent
        && recent.apic_id == apic_id
        && recent.freed == freed
        // Acquire load, as in `find`. With the same bits it is as usable as it was.
        && recent.word.load() == recent.entry.into_bits()
    {
        return Ok((recent.entry.address(), recent.pid));
    }
    let found = find(memory, vp, apic_id, freed)?;
    *remembered = Remembered { recent: Some(found), learnt: true };
    Ok((found.entry.address(), found.pid))
}

/// The same from the start. Out of the way: inlined, it costs the other way registers.
#[inline(never)]
fn find<'a, W: Word>(
    memory: &'a PhysicalMemory<W>,
    vp: &VirtualProcessor,
    apic_id: u32,
    freed: u64,
) -> Result<Recent<'a, W>, Miss> {
    if apic_id > u32::from(vp.vmcs.last_pid_index) {
        return Err(Miss::Exit(Clause::IpiBeyondTable));
    }
    let address = entry_address(vp.vmcs.pid_table, apic_id);
    // Acquire load, one 64-bit access: pairs with the single store that publishes an entry.
    let Some(word) = memory.table_entry(address) else {
        return Err(Miss::Violation(Violation::TableRead { apic_id, address }));
    };
    let entry = PidPointerEntry::from_bits(word.load());
    let checked_bits = PidPointerEntry::checked_bits(vp.max_phys_addr_bits);
    if !entry.usable(checked_bits) {
        return Err(not_usable(memory, apic_id, address, entry.address() & checked_bits != 0));
    }
    let pid = memory.descriptor(entry.address()).ok_or(Miss::NoDescriptor(entry.address()))?;
    Ok(Recent { apic_id, word, entry, pid, freed })
}

/// An exit; or a violation where the line holds a table's end and the entry lies behind it.
#[cold]
#[inline(never)]
fn not_usable<W: Word>(memory: &PhysicalMemory<W>, apic_id: u32, address: u64, beyond_width: bool) -> Miss {
    match memory.owner_of(address) {
        _ if beyond_width => Miss::Exit(Clause::EntryBeyondWidth),
        Some(_) => Miss::Exit(Clause::EntryNotValid),
        None => Miss::Violation(Violation::TableRead { apic_id, address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Owner;
    use crate::processor::{Capabilities, Vmcs};
    use std::cell::Cell;

    type Memory = PhysicalMemory<Cell<u64>>;

    fn table_of(entries: u64) -> (Memory, u64) {
        let memory = Memory::new(1 << 16);
        let table = memory.allocate(Owner::PidPointerTable { vm: 0 }, entries * 8, 8).unwrap();
        for id in 0..entries {
            let entry = PidPointerEntry::to_descriptor(0x8000 + id * 64);
            memory.word(table + id * 8).unwrap().store(entry.into_bits());
        }
        (memory, table)
    }

    /// With physical addresses of 46 bits.
    fn with_table(pid_table: u64, last_pid_index: u16) -> VirtualProcessor {
        let capabilities = Capabilities { max_phys_addr_bits: 46, ..Capabilities::default() };
        VirtualProcessor::new(Vmcs { pid_table, last_pid_index, ..Vmcs::default() }, capabilities)
    }

    /// Where an ID leads: no descriptors are there.
    fn look_up(memory: &Memory, table: u64, last_index: u16, apic_id: u32) -> Result<u64, Miss> {
        let mut remembered = Remembered::EMPTY;
        match descriptor(memory, &with_table(table, last_index), &mut remembered, apic_id) {
            Err(Miss::NoDescriptor(address)) => Ok(address),
            other => other.map(|(address, _)| address),
        }
    }

    #[test]
    fn ids_up_to_the_last_index_are_found() {
        let (memory, table) = table_of(5);
        for id in 0..5 {
            assert_eq!(look_up(&memory, table, 4, id), Ok(0x8000 + u64::from(id) * 64));
        }
        for id in [5, 6, 0xFFFF, 0x1_0000, u32::MAX] {
            assert_eq!(look_up(&memory, table, 4, id), Err(Miss::Exit(Clause::IpiBeyondTable)));
        }
    }

    /// Step 3, each of the bits 5:0 and the first bit beyond the width.
    #[test]
    fn malformed_entries_exit() {
        let (memory, table) = table_of(1);
        let word = memory.word(table).unwrap();
        let good = word.load();
        for bit in 0..6 {
            word.store(good ^ (1 << bit));
            assert_eq!(look_up(&memory, table, 0, 0), Err(Miss::Exit(Clause::EntryNotValid)), "bit {bit}");
        }
        for bit in 46..64 {
            word.store(good | 1 << bit);
            assert_eq!(look_up(&memory, table, 0, 0), Err(Miss::Exit(Clause::EntryBeyondWidth)), "bit {bit}");
        }
        word.store(good | 1 << 45);
        assert_eq!(look_up(&memory, table, 0, 0), Ok(0x8000 | 1 << 45));
    }

    /// v4 of the series wrote the number of entries as the last index: the processor then reads one past the end.
    #[test]
    fn one_past_the_end_is_a_violation() {
        let (memory, table) = table_of(5);
        let past = Violation::TableRead { apic_id: 5, address: table + 40 };
        assert_eq!(look_up(&memory, table, 5, 5), Err(Miss::Violation(past)), "inside the table's last line");
        let (memory, table) = table_of(8);
        let past = Violation::TableRead { apic_id: 8, address: table + 64 };
        assert_eq!(look_up(&memory, table, 8, 8), Err(Miss::Violation(past)), "in the red line");
    }

    /// What is remembered of the last ID is not used where entry, table or descriptor have changed.
    #[test]
    fn the_second_time_is_like_the_first() {
        let memory = Memory::new(1 << 16);
        let owner = Owner::PidPointerTable { vm: 0 };
        let base = memory.allocate(owner, 16, 8).unwrap();
        let [first, second] = [0, 1].map(|vcpu| memory.allocate(Owner::Descriptor { vm: 0, vcpu }, 64, 64).unwrap());
        let entries = [0, 1].map(|id| memory.word(entry_address(base, id)).unwrap());
        for (entry, pid) in entries.iter().zip([first, second]) {
            entry.store(PidPointerEntry::to_descriptor(pid).into_bits());
        }
        let (vp, mut remembered) = (with_table(base, 1), Remembered::EMPTY);
        let mut find = |apic_id| {
            descriptor(&memory, &vp, &mut remembered, apic_id).map(|(address, pid)| (address, std::ptr::from_ref(pid)))
        };
        let at = |address| Ok((address, std::ptr::from_ref(memory.line(address).unwrap())));
        for id in [0, 0, 1, 0] {
            assert_eq!(find(id), at([first, second][id as usize]));
        }
        assert_eq!(find(2), Err(Miss::Exit(Clause::IpiBeyondTable)));
        assert_eq!(find(0), at(first));
        entries[0].store(PidPointerEntry::to_descriptor(second).into_bits());
        assert_eq!(find(0), at(second), "the entry leads elsewhere");
        entries[0].store(0);
        assert_eq!(find(0), Err(Miss::Exit(Clause::EntryNotValid)), "the entry is taken out");
        entries[0].store(PidPointerEntry::to_descriptor(second).into_bits());
        assert_eq!(find(0), at(second));
        memory.free(second);
        assert_eq!(find(0), Err(Miss::NoDescriptor(second)), "the descriptor is freed");
        assert_eq!(find(0), Err(Miss::NoDescriptor(second)));
        entries[0].store(PidPointerEntry::to_descriptor(first).into_bits());
        assert_eq!(find(0), at(first));
        memory.free(base);
        let address = base;
        assert_eq!(find(0), Err(Miss::Violation(Violation::TableRead { apic_id: 0, address })), "the table is freed");
    }
}
