//! Floors: the locked operations of a path and nothing else.

use crate::memory::{Line, Owner, PhysicalMemory};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

type Memory = PhysicalMemory<AtomicU64>;

/// The two lines that an interrupt goes through: a descriptor, and the requests of a local APIC.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines<'m> {
    pid: &'m Line<AtomicU64>,
    requests: &'m Line<AtomicU64>,
}

impl<'m> Lines<'m> {
    /// A memory with room for those of `pairs` pairs.
    pub(super) fn memory(pairs: u32) -> Memory {
        let lines = u64::from(pairs) * 2;
        Memory::new(Memory::size_for((0..lines).map(|_| (64, 64))))
    }

    pub(super) fn of(memory: &'m Memory, pcpu: u32) -> Option<Self> {
        let line = || memory.line(memory.allocate(Owner::LocalApic { pcpu }, 64, 64).ok()?);
        Some(Self { pid: line()?, requests: line()? })
    }

    /// One interrupt: PIR, ON, request, acknowledge, ON, PIR.
    #[inline]
    pub(super) fn interrupt(self) {
        let Self { pid, requests } = self;
        black_box(pid[3].fetch_or(black_box(1 << 59), Ordering::SeqCst));
        let control = black_box(pid[4].load(Ordering::Relaxed));
        let _ = black_box(pid[4].compare_exchange(control, control | 1, Ordering::SeqCst, Ordering::SeqCst));
        black_box(requests[3].fetch_or(black_box(1 << 50), Ordering::SeqCst));
        black_box(requests[3].fetch_and(black_box(!(1 << 50)), Ordering::SeqCst));
        black_box(pid[4].fetch_and(black_box(!1), Ordering::SeqCst));
        black_box(pid[3].swap(0, Ordering::SeqCst));
    }

    /// A post that is coalesced: PIR is changed, ON is looked at.
    #[inline]
    pub(super) fn post(self) {
        black_box(self.pid[3].fetch_or(black_box(1 << 59), Ordering::SeqCst));
        black_box(self.pid[4].load(Ordering::Relaxed));
    }

    /// Waits for `turn` in the line and takes it from there.
    pub(super) fn pass(self, turn: u64, next: u64) {
        while self.pid[0].load(Ordering::Acquire) != turn {
            std::hint::spin_loop();
        }
        self.pid[0].store(next, Ordering::Release);
    }
}
