//! How long interrupts take, from the write that sends them to their delivery through the guest's IDT.

use super::simulation::Whereabouts;
use crate::memory::{Cache, prefetch};
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

    /// Of an interrupt that the processor posts for a vCPU that is there.
    #[inline]
    pub(super) const fn met(whereabouts: Option<Whereabouts>) -> Self {
        match whereabouts {
            Some(Whereabouts::Asleep) => Self::Blocked,
            Some(Whereabouts::Queued) => Self::Preempted,
            _ => Self::Running,
        }
    }

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
    /// Of each class, what is not in the histogram yet.
    repeated: [Repeated; Class::ALL.len()],
}

/// So many times the same latency. Many interrupts take exactly as long as the one before, and a histogram takes longer to
/// record one than the rest of a delivery does.
#[derive(Clone, Copy, Debug, Default)]
struct Repeated {
    cycles: u64,
    times: u64,
}

impl Stopwatch {
    pub(super) fn new(slots: usize) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            sent: vec![0; slots * VECTORS],
            slots,
            latencies: Latencies::new()?,
            repeated: [Repeated::default(); Class::ALL.len()],
        })
    }

    #[inline]
    fn place(&mut self, slot: u32, vector: u8) -> Option<&mut u64> {
        self.sent.get_mut(usize::from(vector) * self.slots + slot as usize)
    }

    /// Asks for the memory that sending or delivering an interrupt uses, for later.
    #[inline]
    pub(super) fn ask_for(&self, slot: u32, vector: u8) {
        prefetch(&self.sent, usize::from(vector) * self.slots + slot as usize, Cache::Second);
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
        let cycles = time.saturating_sub(since);
        if let Some(repeated) = self.repeated.get_mut(class) {
            if repeated.cycles == cycles {
                repeated.times += 1;
            } else {
                let before = std::mem::replace(repeated, Repeated { cycles, times: 1 });
                self.record(class, before);
            }
        }
        Some(since)
    }

    #[inline(never)]
    fn record(&mut self, class: usize, Repeated { cycles, times }: Repeated) {
        if let Some(histogram) = self.latencies.histograms.get_mut(class).filter(|_| times > 0) {
            // What is beyond the greatest is kept as the greatest.
            histogram.saturating_record_n(cycles, times);
        }
    }

    /// They will not be delivered: the local APIC was reset or disabled.
    pub(super) fn discarded(&mut self, slot: u32, vectors: [u64; 4]) {
        for vector in crate::processor::vectors_of(vectors) {
            if let Some(sent) = self.place(slot, vector) {
                *sent = 0;
            }
        }
    }

    pub(super) fn into_latencies(mut self) -> Latencies {
        for (class, repeated) in self.repeated.into_iter().enumerate() {
            self.record(class, repeated);
        }
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

    #[test]
    fn the_same_latency_is_recorded_as_often_as_it_comes() {
        let mut watch = Stopwatch::new(1).unwrap();
        for (class, cycles) in
            [(Class::Running, 0), (Class::Running, 5), (Class::Device, 5), (Class::Running, 5), (Class::Running, 9)]
        {
            watch.sent(0, 0x41, class, 100);
            assert_eq!(watch.delivered(0, 0x41, 100 + cycles), Some(100));
        }
        let latencies = watch.into_latencies();
        let counts =
            |class, cycles: &[u64]| cycles.iter().map(|&at| latencies.of(class).count_at(at)).collect::<Vec<_>>();
        assert_eq!(counts(Class::Running, &[0, 5, 9]), [1, 2, 1]);
        assert_eq!((counts(Class::Device, &[5]), latencies.of(Class::Device).len()), (vec![1], 1));
    }
}
