//! A vCPU with all that moves with it from pCPU to pCPU.

use super::{TrailEntry, What};
use crate::guest::Cursor;
use crate::hypervisor::Task;
use crate::processor::{VirtualProcessor, Vmcs};
use std::mem::offset_of;
use std::ops::Range;

/// Entries of a trail.
const ENTRIES: usize = 8;

/// It shares no cache line with another: each may be on a thread of its own.
///
/// Fields stand in this order, those of the task and of the cursor too: what its guest's acts use is in [few
/// lines](Self::ACTS).
#[repr(C, align(64))]
pub(in crate::engine) struct Runner {
    pub(in crate::engine) task: Task,
    pub(in crate::engine) progress: Progress,
    pub(in crate::engine) cursor: Cursor,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    const LINE: usize = 64;
    // The virtual processor is the vCPU's first field.
    let vmcs = offset_of!(Runner, task.vcpu) + offset_of!(VirtualProcessor, vmcs);
    let acts = vmcs + offset_of!(Vmcs, pid_table)..offset_of!(Runner, cursor) + Cursor::PROGRAM;
    assert!(acts.start / LINE == Runner::ACTS.start && acts.end.div_ceil(LINE) == Runner::ACTS.end);
    let interrupts = vmcs + offset_of!(Vmcs, eoi_exit)..offset_of!(Runner, cursor) + Cursor::HANDLERS;
    assert!(interrupts.start / LINE == Runner::INTERRUPTS.start);
    assert!(interrupts.end.div_ceil(LINE) == Runner::INTERRUPTS.end);
};

/// How far a vCPU has come.
pub(in crate::engine) struct Progress {
    /// Cycles of a computation that are left.
    pub(in crate::engine) computing: u32,
    /// Its program has been at its end.
    pub(in crate::engine) finished: bool,
    /// It slept, and goes on.
    pub(in crate::engine) woken: bool,
    pub(in crate::engine) trail: Trail,
}

/// The last things that happened to a vCPU, column by column.
pub(in crate::engine) struct Trail {
    whats: [What; ENTRIES],
    vectors: [u8; ENTRIES],
    others: [u32; ENTRIES],
    /// How many there ever were.
    count: usize,
}

impl Runner {
    /// The lines that the acts of a guest use, its sending among them.
    pub(in crate::engine) const ACTS: Range<usize> = 3..6;
    /// The same, and those that its interrupts use: of the EOI-exit bitmaps, and what handlers interrupt.
    pub(in crate::engine) const INTERRUPTS: Range<usize> = 2..7;
    /// All lines.
    pub(in crate::engine) const ALL: Range<usize> = 0..size_of::<Self>() / 64;

    pub(in crate::engine) fn new(task: Task, cursor: Cursor) -> Self {
        let trail = Trail { whats: [What::Nothing; ENTRIES], vectors: [0; ENTRIES], others: [0; ENTRIES], count: 0 };
        Self { task, cursor, progress: Progress { computing: 0, finished: false, woken: false, trail } }
    }
}

impl Trail {
    #[inline]
    pub(in crate::engine) fn note(&mut self, what: What, vector: u8, other: u32) {
        let at = self.count % ENTRIES;
        (self.whats[at], self.vectors[at], self.others[at]) = (what, vector, other);
        self.count = self.count.wrapping_add(1);
    }

    /// How many things ever happened.
    pub(in crate::engine) const fn count(&self) -> usize {
        self.count
    }

    /// The last things, oldest first.
    fn entries(&self) -> impl Iterator<Item = TrailEntry> {
        let places = (0..ENTRIES).map(|i| self.count.wrapping_add(i) % ENTRIES);
        places.map(|at| TrailEntry { what: self.whats[at], vector: self.vectors[at], other: self.others[at] })
    }

    /// The last things, oldest first, in words.
    pub(in crate::engine) fn words(&self) -> String {
        let words: Vec<_> =
            self.entries().filter(|entry| entry.what != What::Nothing).map(|entry| entry.to_string()).collect();
        if words.is_empty() { "nothing yet".to_owned() } else { words.join(", ") }
    }

    /// Whether one of the last things was a post for this slot.
    pub(in crate::engine) fn posted_to(&self, slot: u32) -> bool {
        self.entries().any(|entry| entry.what == What::Posted && entry.other == slot)
    }
}
