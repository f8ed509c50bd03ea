//! The event log: what happened when, the first events of a run.

use crate::engine::machine::What;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Logged {
    /// When, in cycles.
    pub time: u64,
    /// When what led to it began: the write that sent an interrupt, the VM entry or VM exit. For the others, `time`.
    pub since: u64,
    /// On which pCPU; a number that no pCPU has is a device's.
    pub pcpu: u32,
    /// To which vCPU, by slot.
    pub vcpu: u32,
    /// What.
    pub what: What,
    /// Vector, if there is one.
    pub vector: u8,
    /// The other vCPU's slot, if there is one; the basic exit reason of a VM exit.
    pub other: u32,
}

/// Events up to a number of them.
#[derive(Clone, Debug, Default)]
pub struct Log {
    events: Vec<Logged>,
    /// So many may follow.
    room: usize,
    /// Events that came after the log was full.
    pub more: u64,
}

impl Log {
    pub(super) const fn new(most: usize) -> Self {
        Self { events: Vec::new(), room: most, more: 0 }
    }

    #[inline]
    pub(super) fn note(&mut self, event: impl FnOnce() -> Logged) {
        if self.room > 0 {
            self.keep(event());
        } else {
            self.more += 1;
        }
    }

    #[inline(never)]
    fn keep(&mut self, event: Logged) {
        self.room -= 1;
        self.events.push(event);
    }

    /// Puts the events in order: by time, those of one time as they were acted on. Acts that are done ahead stood before
    /// others whose time is earlier.
    pub(super) fn in_order(mut self) -> Self {
        self.events.sort_by_key(|event| event.time);
        self
    }

    /// The events that were acted on first, in the order of time.
    #[must_use]
    pub fn events(&self) -> &[Logged] {
        &self.events
    }
}
