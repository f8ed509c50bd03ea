//! How long interrupts take, from the write that sends them to their delivery through the guest's IDT.

use super::simulation::Whereabouts;
use hdrhistogram::Histogram;

/// Significant decimal digits that a histogram keeps.
const DIGITS: u8 = 3;
/// Cycles that a histogram can tell apart from more.
const MOST: u64 = 1 << 40;
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
            Some(Whereabouts::OnPcpu(_)) => Self::Running,
            other => Self::met_elsewhere(other),
        }
    }

    #[cold]
    #[inline(never)]
    const fn met_elsewhere(whereabouts: Option<Whereabouts>) -> Self {
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

/// When the first of a vCPU's interrupts of one vector that are still pending was sent, + 1, and its class; 0 if none is.
pub(super) type Sent = u64;

/// An interrupt is sent. One that joins another that is still pending has no latency of its own.
#[inline]
pub(super) const fn begin(sent: &mut Sent, class: Class, time: u64) {
    if *sent == 0 {
        *sent = (time + 1) << CLASS_BITS | class as u64;
    }
}

/// How long interrupts took that were delivered.
#[derive(Debug)]
pub(super) struct Stopwatch {
    latencies: Latencies,
    /// Of each class, what is not in the histogram yet.
    repeated: [Repeated; 1 << CLASS_BITS],
}

/// So many times the same latency. Many interrupts take exactly as long as the one before, and a histogram takes longer to
/// record one than the rest of a delivery does.
#[derive(Clone, Copy, Debug, Default)]
struct Repeated {
    cycles: u64,
    times: u64,
}

impl Stopwatch {
    pub(super) fn new() -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self { latencies: Latencies::new()?, repeated: [Repeated::default(); 1 << CLASS_BITS] })
    }

    /// It is delivered. Returns when it was sent, if that is known.
    #[inline]
    pub(super) fn delivered(&mut self, sent: &mut Sent, time: u64) -> Option<u64> {
        let word = std::mem::take(sent);
        let since = (word >> CLASS_BITS).checked_sub(1)?;
        let class = word as usize & ((1 << CLASS_BITS) - 1);
        let cycles = time.saturating_sub(since);
        let repeated = &mut self.repeated[class];
        if repeated.cycles == cycles {
            repeated.times += 1;
        } else {
            let before = std::mem::replace(repeated, Repeated { cycles, times: 1 });
            self.record(class, before);
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
        let (mut watch, mut sent) = (Stopwatch::new().unwrap(), 0);
        begin(&mut sent, Class::Running, 0);
        begin(&mut sent, Class::Exited, 50);
        assert_eq!(watch.delivered(&mut sent, 100), Some(0));
        assert_eq!(watch.delivered(&mut sent, 200), None);
        let latencies = watch.into_latencies();
        let counts: Vec<_> = Class::ALL.iter().map(|&class| latencies.of(class).len()).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 0]);
        assert_eq!(latencies.of(Class::Running).max(), 100);
    }

    #[test]
    fn the_same_latency_is_recorded_as_often_as_it_comes() {
        let (mut watch, mut sent) = (Stopwatch::new().unwrap(), 0);
        for (class, cycles) in
            [(Class::Running, 0), (Class::Running, 5), (Class::Device, 5), (Class::Running, 5), (Class::Running, 9)]
        {
            begin(&mut sent, class, 100);
            assert_eq!(watch.delivered(&mut sent, 100 + cycles), Some(100));
        }
        let latencies = watch.into_latencies();
        let counts =
            |class, cycles: &[u64]| cycles.iter().map(|&at| latencies.of(class).count_at(at)).collect::<Vec<_>>();
        assert_eq!(counts(Class::Running, &[0, 5, 9]), [1, 2, 1]);
        assert_eq!((counts(Class::Device, &[5]), latencies.of(Class::Device).len()), (vec![1], 1));
    }
}
