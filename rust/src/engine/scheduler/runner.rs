//! A vCPU with all that moves with it from pCPU to pCPU.

use crate::engine::machine::{TrailEntry, What};
use crate::guest::Cursor;
use crate::hypervisor::Task;

/// Entries of a trail.
const ENTRIES: usize = 8;

pub(super) struct Runner {
    pub(super) task: Task,
    pub(super) cursor: Cursor,
    /// Cycles of a computation that are left.
    pub(super) computing: u32,
    /// Its program has been at its end.
    pub(super) finished: bool,
    /// It slept, and goes on.
    pub(super) woken: bool,
    pub(super) trail: Trail,
}

/// The last things that happened to a vCPU.
pub(super) struct Trail {
    entries: [TrailEntry; ENTRIES],
    /// How many there ever were.
    count: usize,
}

impl Runner {
    pub(super) fn new(task: Task, cursor: Cursor) -> Self {
        let trail = Trail { entries: [TrailEntry::NOTHING; ENTRIES], count: 0 };
        Self { task, cursor, computing: 0, finished: false, woken: false, trail }
    }
}

impl Trail {
    #[inline]
    pub(super) fn note(&mut self, what: What, vector: u8, other: u32) {
        self.entries[self.count % ENTRIES] = TrailEntry { what, vector, other };
        self.count = self.count.wrapping_add(1);
    }

    /// How many things ever happened.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// The last things, oldest first, in words.
    pub(super) fn words(&self) -> String {
        let entries = (0..ENTRIES).map(|i| self.entries[self.count.wrapping_add(i) % ENTRIES]);
        let words: Vec<_> =
            entries.filter(|entry| entry.what != What::Nothing).map(|entry| entry.to_string()).collect();
        if words.is_empty() { "nothing yet".to_owned() } else { words.join(", ") }
    }

    /// Whether one of the last things was a post for this slot.
    pub(super) fn posted_to(&self, slot: u32) -> bool {
        self.entries.iter().any(|entry| entry.what == What::Posted && entry.other == slot)
    }
}
