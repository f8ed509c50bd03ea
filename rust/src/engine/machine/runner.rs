//! A vCPU with all that moves with it from pCPU to pCPU.

use super::{TrailEntry, What};
use crate::guest::Cursor;
use crate::hypervisor::Task;

/// Entries of a trail.
const ENTRIES: usize = 8;

/// It shares no cache line with another: each may be on a thread of its own.
#[repr(align(64))]
pub(in crate::engine) struct Runner {
    pub(in crate::engine) task: Task,
    pub(in crate::engine) cursor: Cursor,
    pub(in crate::engine) progress: Progress,
}

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

/// The last things that happened to a vCPU.
pub(in crate::engine) struct Trail {
    entries: [TrailEntry; ENTRIES],
    /// How many there ever were.
    count: usize,
}

impl Runner {
    pub(in crate::engine) fn new(task: Task, cursor: Cursor) -> Self {
        let trail = Trail { entries: [TrailEntry::NOTHING; ENTRIES], count: 0 };
        Self { task, cursor, progress: Progress { computing: 0, finished: false, woken: false, trail } }
    }
}

impl Trail {
    #[inline]
    pub(in crate::engine) fn note(&mut self, what: What, vector: u8, other: u32) {
        self.entries[self.count % ENTRIES] = TrailEntry { what, vector, other };
        self.count = self.count.wrapping_add(1);
    }

    /// How many things ever happened.
    pub(in crate::engine) const fn count(&self) -> usize {
        self.count
    }

    /// The last things, oldest first, in words.
    pub(in crate::engine) fn words(&self) -> String {
        let entries = (0..ENTRIES).map(|i| self.entries[self.count.wrapping_add(i) % ENTRIES]);
        let words: Vec<_> =
            entries.filter(|entry| entry.what != What::Nothing).map(|entry| entry.to_string()).collect();
        if words.is_empty() { "nothing yet".to_owned() } else { words.join(", ") }
    }

    /// Whether one of the last things was a post for this slot.
    pub(in crate::engine) fn posted_to(&self, slot: u32) -> bool {
        self.entries.iter().any(|entry| entry.what == What::Posted && entry.other == slot)
    }
}
