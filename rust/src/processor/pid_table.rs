//! The PID-pointer table: from a virtual APIC ID to a descriptor.
//!
//! SDM vol. 3C, "IPI Virtualization" 30.1.6 steps 2 and 3.

use super::outcome::Violation;
use crate::arch::posted_interrupt::ENTRY_BYTES;
use crate::arch::{Clause, PidPointerEntry};
use crate::memory::{PhysicalMemory, Word};

/// Why an ID leads to no descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// The clause that calls for an APIC-write exit.
    Exit(Clause),
    /// The entry is in nobody's table.
    Violation(Violation),
}

/// Address of the entry of `apic_id` in the table at `table`.
#[inline]
#[must_use]
pub const fn entry_address(table: u64, apic_id: u32) -> u64 {
    table.wrapping_add(apic_id as u64 * ENTRY_BYTES)
}

/// Address of the descriptor of virtual APIC ID `apic_id`. (30.1.6 steps 2 and 3) [`PidPointerEntry::checked_bits`] says which bits of the
/// entry count.
///
/// # Errors
/// Beyond `last_index` (step 2), an entry with bits beyond the physical-address width or not valid (step 3), or an
/// entry that is read outside of any table, which no processor would notice.
#[inline]
pub fn lookup<W: Word>(
    memory: &PhysicalMemory<W>,
    table: u64,
    last_index: u16,
    apic_id: u32,
    checked_bits: u64,
) -> Result<u64, Miss> {
    if apic_id > u32::from(last_index) {
        return Err(Miss::Exit(Clause::IpiBeyondTable));
    }
    let address = entry_address(table, apic_id);
    // Acquire load, one 64-bit access: pairs with the single store that publishes an entry.
    let Some(word) = memory.table_entry(address) else {
        return Err(Miss::Violation(Violation::TableRead { apic_id, address }));
    };
    let entry = PidPointerEntry::from_bits(word.load());
    if entry.usable(checked_bits) {
        return Ok(entry.address());
    }
    Err(not_usable(memory, apic_id, address, entry.address() & checked_bits != 0))
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
    use std::cell::Cell;

    const WIDTH: u64 = PidPointerEntry::checked_bits(46);
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

    #[test]
    fn ids_up_to_the_last_index_are_found() {
        let (memory, table) = table_of(5);
        for id in 0..5 {
            assert_eq!(lookup(&memory, table, 4, id, WIDTH), Ok(0x8000 + u64::from(id) * 64));
        }
        for id in [5, 6, 0xFFFF, 0x1_0000, u32::MAX] {
            assert_eq!(lookup(&memory, table, 4, id, WIDTH), Err(Miss::Exit(Clause::IpiBeyondTable)));
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
            assert_eq!(lookup(&memory, table, 0, 0, WIDTH), Err(Miss::Exit(Clause::EntryNotValid)), "bit {bit}");
        }
        for bit in 46..64 {
            word.store(good | 1 << bit);
            assert_eq!(lookup(&memory, table, 0, 0, WIDTH), Err(Miss::Exit(Clause::EntryBeyondWidth)), "bit {bit}");
        }
        word.store(good | 1 << 45);
        assert_eq!(lookup(&memory, table, 0, 0, WIDTH), Ok(0x8000 | 1 << 45));
    }

    /// v4 of the series wrote the number of entries as the last index: the processor then reads one past the end.
    #[test]
    fn one_past_the_end_is_a_violation() {
        let (memory, table) = table_of(5);
        let past = Violation::TableRead { apic_id: 5, address: table + 40 };
        assert_eq!(lookup(&memory, table, 5, 5, WIDTH), Err(Miss::Violation(past)), "inside the table's last line");
        let (memory, table) = table_of(8);
        let past = Violation::TableRead { apic_id: 8, address: table + 64 };
        assert_eq!(lookup(&memory, table, 8, 8, WIDTH), Err(Miss::Violation(past)), "in the red line");
    }
}
