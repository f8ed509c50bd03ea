//! How long interrupts take, from the write that sends them to their delivery through the guest's IDT.

use super::simulation::Whereabouts;
use hdrhistogram::Histogram;
use rustc_hash::FxHashMap;

/// Significant decimal digits that a histogram keeps.
const DIGITS: u8 = 3;
/// Cycles that a histogram can tell apart from more: longer than any run.
const MOST: u64 = 1 << 62;
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

/// A vCPU, by slot, and a vector.
type Pending = (u32, u8);

#[inline]
const fn word(class: Class, time: u64) -> Sent {
    (time + 1) << CLASS_BITS | class as u64
}

/// How long interrupts took that were delivered.
#[derive(Debug)]
pub(super) struct Stopwatch {
    latencies: Latencies,
    /// Where an interrupt is in VIRR, and another of the same vector in PIR: the second one.
    seconds: FxHashMap<Pending, Sent>,
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
        Ok(Self {
            latencies: Latencies::new()?,
            seconds: FxHashMap::default(),
            repeated: [Repeated::default(); 1 << CLASS_BITS],
        })
    }

    /// An interrupt is sent. One that joins another that is still pending has no latency of its own.
    #[inline]
    pub(super) fn begin(&mut self, of: Pending, sent: &mut Sent, joins: bool, (class, time): (Class, u64)) {
        if *sent == 0 {
            *sent = word(class, time);
        } else if !joins {
            self.begin_second(of, word(class, time));
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_second(&mut self, of: Pending, sent: Sent) {
        self.seconds.insert(of, sent);
    }

    /// The same for self-IPI virtualization, which sets VIRR: what waits in PIR comes behind it.
    pub(super) fn begin_own(&mut self, of: Pending, sent: &mut Sent, joins: bool, time: u64) {
        if *sent == 0 || !joins {
            let before = std::mem::take(sent);
            self.begin(of, sent, joins, (Class::OwnIpi, time));
            if before != 0 {
                self.begin_second(of, before);
            }
        }
    }

    /// The second of two that are pending joins the first after all.
    pub(super) fn ends_second(&mut self, of: Pending) {
        self.seconds.remove(&of);
    }

    /// One that was in VIRR is no longer there: it was delivered, or is lost. The second one is the first now, if there is one.
    pub(super) fn next(&mut self, of: Pending, sent: &mut Sent) {
        *sent = self.seconds.remove(&of).unwrap_or(0);
    }

    /// Whether behind some interrupt there is a second one, which comes [next](Self::next).
    #[inline]
    pub(super) fn has_seconds(&self) -> bool {
        !self.seconds.is_empty()
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

    fn delivered(watch: &mut Stopwatch, of: Pending, sent: &mut Sent, time: u64) -> Option<u64> {
        let since = watch.delivered(sent, time);
        watch.next(of, sent);
        since
    }

    #[test]
    fn the_first_that_is_pending_counts() {
        let (mut watch, mut sent) = (Stopwatch::new().unwrap(), 0);
        let of = (1, 0x41);
        watch.begin(of, &mut sent, false, (Class::Running, 0));
        watch.begin(of, &mut sent, true, (Class::Exited, 50));
        assert_eq!(delivered(&mut watch, of, &mut sent, 100), Some(0));
        assert_eq!(delivered(&mut watch, of, &mut sent, 200), None);
        let latencies = watch.into_latencies();
        let counts: Vec<_> = Class::ALL.iter().map(|&class| latencies.of(class).len()).collect();
        assert_eq!(counts, [1, 0, 0, 0, 0, 0]);
        assert_eq!(latencies.of(Class::Running).max(), 100);
    }

    #[test]
    fn none_is_too_long() {
        let (mut watch, mut sent) = (Stopwatch::new().unwrap(), 0);
        watch.begin((1, 0x41), &mut sent, false, (Class::Running, 0));
        let cycles = 1 << 60;
        delivered(&mut watch, (1, 0x41), &mut sent, cycles);
        let most = watch.into_latencies().of(Class::Running).max();
        assert!(most.abs_diff(cycles) <= cycles / 1000, "{most}");
    }

    #[test]
    fn a_second_one_behind_the_first_counts_too() {
        let (mut watch, mut sent, of) = (Stopwatch::new().unwrap(), 0, (1, 0x41));
        let mut others = 0;
        for time in [10, 20] {
            watch.begin(of, &mut sent, false, (Class::Running, time));
        }
        watch.begin((2, 0x41), &mut others, false, (Class::Running, 30));
        assert_eq!([60, 70, 80].map(|time| delivered(&mut watch, of, &mut sent, time)), [Some(10), Some(20), None]);
        assert_eq!(delivered(&mut watch, (2, 0x41), &mut others, 90), Some(30));
        for time in [110, 120] {
            watch.begin(of, &mut sent, false, (Class::Running, time));
        }
        watch.ends_second(of);
        assert_eq!([160, 170].map(|time| delivered(&mut watch, of, &mut sent, time)), [Some(110), None]);
        for time in [210, 220] {
            watch.begin(of, &mut sent, false, (Class::Running, time));
        }
        watch.next(of, &mut sent);
        assert_eq!([260, 270].map(|time| delivered(&mut watch, of, &mut sent, time)), [Some(220), None]);
    }

    #[test]
    fn an_own_ipi_comes_before_what_is_in_pir() {
        let (mut watch, mut sent, of) = (Stopwatch::new().unwrap(), 0, (1, 0x41));
        watch.begin(of, &mut sent, false, (Class::Running, 10));
        watch.begin_own(of, &mut sent, false, 20);
        watch.begin_own(of, &mut sent, true, 30);
        assert_eq!([60, 70, 80].map(|time| delivered(&mut watch, of, &mut sent, time)), [Some(20), Some(10), None]);
        let latencies = watch.into_latencies();
        let counts =
            [Class::OwnIpi, Class::Running].map(|class| (latencies.of(class).len(), latencies.of(class).max()));
        assert_eq!(counts, [(1, 40), (1, 60)]);
    }

    #[test]
    fn the_same_latency_is_recorded_as_often_as_it_comes() {
        let (mut watch, mut sent) = (Stopwatch::new().unwrap(), 0);
        for (class, cycles) in
            [(Class::Running, 0), (Class::Running, 5), (Class::Device, 5), (Class::Running, 5), (Class::Running, 9)]
        {
            watch.begin((0, 0), &mut sent, false, (class, 100));
            assert_eq!(delivered(&mut watch, (0, 0), &mut sent, 100 + cycles), Some(100));
        }
        let latencies = watch.into_latencies();
        let counts =
            |class, cycles: &[u64]| cycles.iter().map(|&at| latencies.of(class).count_at(at)).collect::<Vec<_>>();
        assert_eq!(counts(Class::Running, &[0, 5, 9]), [1, 2, 1]);
        assert_eq!((counts(Class::Device, &[5]), latencies.of(Class::Device).len()), (vec![1], 1));
    }
}
