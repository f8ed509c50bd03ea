//! How long interrupts take, from the write that sends them to their delivery through the guest's IDT.

use hdrhistogram::Histogram;

/// Significant decimal digits that a histogram keeps.
const DIGITS: u8 = 3;
/// Cycles that a histogram can tell apart from more.
const MOST: u64 = 1 << 40;
const VECTORS: usize = 256;
const CLASS_BITS: u32 = 3;

/// What an interrupt met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// Posted by the processor, for a vCPU that was on a pCPU.
    Running,
    /// Posted by the processor, for a vCPU that could run and had no pCPU.
    Preempted,
    /// Posted by the processor, for a vCPU that slept.
    Blocked,
    /// Sent through an exit, whatever its vCPU did.
    Exited,
    /// Self-IPI virtualization.
    OwnIpi,
    /// Posted by a device.
    Device,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Running, Self::Preempted, Self::Blocked, Self::Exited, Self::OwnIpi, Self::Device];

    /// The name in results.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Preempted => "preempted",
            Self::Blocked => "blocked",
            Self::Exited => "exited",
            Self::OwnIpi => "self",
            Self::Device => "device",
        }
    }
}

/// Latencies of a run, in cycles.
#[derive(Clone, Debug)]
pub struct Latencies {
    histograms: [Histogram<u64>; Class::ALL.len()],
}

impl Latencies {
    /// No interrupts yet.
    ///
    /// # Errors
    /// The library does not take the number of digits, which is a defect of ipivrs.
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        let empty = Histogram::new_with_max(MOST, DIGITS)?;
        Ok(Self { histograms: std::array::from_fn(|_| empty.clone()) })
    }

    /// The latencies of a class.
    #[must_use]
    pub fn of(&self, class: Class) -> &Histogram<u64> {
        &self.histograms[class as usize]
    }
}

/// Interrupts that were sent and not delivered yet, and how long those took that were.
#[derive(Debug)]
pub(super) struct Stopwatch {
    /// For each vector and vCPU: 1 + when the first that is still pending was sent, and its class. A guest uses a few of
    /// the vectors: what large VMs touch stands together, by vector.
    sent: Vec<u64>,
    slots: usize,
    latencies: Latencies,
}

impl Stopwatch {
    pub(super) fn new(slots: usize) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self { sent: vec![0; slots * VECTORS], slots, latencies: Latencies::new()? })
    }

    #[inline]
    fn place(&mut self, slot: u32, vector: u8) -> Option<&mut u64> {
        self.sent.get_mut(usize::from(vector) * self.slots + slot as usize)
    }

    /// An interrupt is sent. One that joins another that is still pending has no latency of its own.
    #[inline]
    pub(super) fn sent(&mut self, to: u32, vector: u8, class: Class, time: u64) {
        if let Some(sent) = self.place(to, vector)
            && *sent == 0
        {
            *sent = (time + 1) << CLASS_BITS | class as u64;
        }
    }

    /// It is delivered. Returns when it was sent, if that is known.
    #[inline]
    pub(super) fn delivered(&mut self, slot: u32, vector: u8, time: u64) -> Option<u64> {
        let sent = self.place(slot, vector)?;
        let word = std::mem::take(sent);
        let since = (word >> CLASS_BITS).checked_sub(1)?;
        let class = word as usize & ((1 << CLASS_BITS) - 1);
        if let Some(histogram) = self.latencies.histograms.get_mut(class) {
            // What is beyond the greatest is kept as the greatest.
            histogram.saturating_record(time.saturating_sub(since));
        }
        Some(since)
    }

    /// They will not be delivered: the local APIC was reset or disabled.
    pub(super) fn discarded(&mut self, slot: u32, vectors: [u64; 4]) {
        for vector in crate::processor::vectors_of(vectors) {
            if let Some(sent) = self.place(slot, vector) {
                *sent = 0;
            }
        }
    }

    pub(super) fn into_latencies(self) -> Latencies {
        self.latencies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_is_pending_counts() {
        let mut watch = Stopwatch::new(2).unwrap();
        watch.sent(1, 0x41, Class::Running, 0);
        watch.sent(1, 0x41, Class::Exited, 50);
        assert_eq!(watch.delivered(1, 0x41, 100), Some(0));
        assert_eq!(watch.delivered(1, 0x41, 200), None);
        watch.sent(1, 0x42, Class::Blocked, 7);
        watch.discarded(1, [0, 1 << 2, 0, 0]);
        watch.delivered(1, 0x42, 9);
        let latencies = watch.into_latencies();
        let counts: Vec<_> = Class::ALL.iter().map(|&class| latencies.of(class).len()).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 0]);
        assert_eq!(latencies.of(Class::Running).max(), 100);
    }
}
