//! What a guest sent and was delivered since its last VM exit.

use super::pcpu::Pcpu;
use super::simulation::Simulation;
use crate::record::Traffic;
use std::cell::Cell;

/// Small, for it stands in a pCPU's first line.
pub(super) struct Stay {
    sent: Cell<u32>,
    delivered: Cell<u32>,
}

impl Stay {
    /// Nothing yet.
    pub(super) const fn new() -> Self {
        Self { sent: Cell::new(0), delivered: Cell::new(0) }
    }

    /// An IPI was sent. Returns whether it has to be [taken](Self::take) before another is.
    #[inline]
    pub(super) fn sent(&self) -> bool {
        one_more(&self.sent)
    }

    /// An interrupt was delivered. Returns the same.
    #[inline]
    pub(super) fn delivered(&self) -> bool {
        one_more(&self.delivered)
    }

    /// Takes all.
    pub(super) fn take(&self) -> Traffic {
        Traffic { sent: self.sent.take().into(), delivered: self.delivered.take().into() }
    }
}

#[inline]
fn one_more(count: &Cell<u32>) -> bool {
    let more = count.get() + 1;
    count.set(more);
    more > i32::MAX as u32
}

impl Simulation<'_, '_> {
    /// The guest on a pCPU sent an IPI.
    #[inline]
    pub(super) fn has_sent(&mut self, at: &Pcpu<'_>, slot: u32) {
        if at.stay.sent() {
            self.enter_traffic(at, slot);
        }
    }

    /// It was delivered an interrupt.
    #[inline]
    pub(super) fn was_delivered(&mut self, at: &Pcpu<'_>, slot: u32) {
        if at.stay.delivered() {
            self.enter_traffic(at, slot);
        }
    }

    /// What it sent and was delivered goes into the books.
    #[inline(never)]
    pub(super) fn enter_traffic(&mut self, at: &Pcpu<'_>, slot: u32) {
        self.account.ran(slot, at.stay.take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn none_is_lost_when_there_is_room_for_no_more() {
        let stay = Stay::new();
        assert!(!stay.sent() && !stay.delivered() && !stay.delivered());
        assert_eq!(stay.take(), Traffic { sent: 1, delivered: 2 });
        stay.sent.set(i32::MAX as u32 - 1);
        assert!(!stay.sent() && stay.sent());
        assert_eq!(stay.take(), Traffic { sent: 1 << 31, delivered: 0 });
        assert!(!stay.sent());
    }
}
