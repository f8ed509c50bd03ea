//! What a path takes while its thread has a core to itself.
//!
//! Two threads share a core on many machines. In a virtual machine the other one may be somebody else's: it takes up to half
//! of what the core does, and no clock shows it. A loop that fills the core is slowed down by it too, so one before each
//! stretch of the path and one behind it tell which stretches had the core to themselves. The loop knows nothing of the path:
//! what a stretch took does not decide whether it counts. A core that is shared all the time this process runs is not told from
//! a slower one.

use super::median;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng, SeedableRng};
use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Passes of the loop: some 40 us.
const PASSES: u32 = 20_000;
/// A loop that took so many times the shortest one did not have the core to itself.
const SHARED: f64 = 1.05;
/// With a smaller part of all stretches than this nothing is said.
const ENOUGH: f64 = 0.1;
/// Nanoseconds of the shortest loop so far: neighbours come and go, some stay for seconds.
static SHORTEST: AtomicU64 = AtomicU64::new(u64::MAX);

/// A stretch of a path, long beside the loop and short beside what a neighbour does at a time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stretch {
    /// Seconds that a piece of the work took.
    pub(super) seconds: f64,
    /// Seconds of the loop, before or behind it: the longer.
    pub(super) filled: f64,
}

/// How long a piece of work takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Seconds where the thread has a core to itself; None if it had not for a tenth of the time.
    pub own: Option<f64>,
    /// Seconds, over all stretches.
    pub all: f64,
    /// The part of stretches that had the core to themselves, 0 to 1.
    pub share: f64,
}

impl Pace {
    /// Medians over stretches.
    pub(super) fn of(stretches: &[Stretch]) -> Self {
        Self::beside(stretches, Duration::from_nanos(SHORTEST.load(Ordering::Relaxed)).as_secs_f64())
    }

    /// `shortest`: seconds of the loop on a core of its own.
    fn beside(stretches: &[Stretch], shortest: f64) -> Self {
        let own = stretches.iter().filter(|stretch| stretch.filled < shortest * SHARED);
        let share = own.clone().count() as f64 / stretches.len().max(1) as f64;
        let seconds = |stretch: &Stretch| stretch.seconds;
        Self {
            own: (share >= ENOUGH).then(|| median(own.map(seconds))),
            all: median(stretches.iter().map(seconds)),
            share,
        }
    }

    /// Seconds on a core of its own, where that is known.
    #[must_use]
    pub fn best_known(&self) -> f64 {
        self.own.unwrap_or(self.all)
    }
}

/// Cuts a run into stretches.
#[derive(Debug, Default)]
pub(super) struct Cutter {
    /// When the stretch that is under way began, the loop before it, and how much of the work was done.
    begun: Option<(Instant, f64, u64)>,
    /// Seconds, the loop, and the work of each.
    cut: Vec<(f64, f64, u64)>,
}

impl Cutter {
    /// So much of the work is done: a stretch ends, and another begins.
    pub(super) fn cut(&mut self, done: u64) {
        let ended = Instant::now();
        let filled = fill();
        if let Some((begun, before, from)) = self.begun {
            self.cut.push(((ended - begun).as_secs_f64(), filled.max(before), done.saturating_sub(from)));
        }
        self.begun = Some((Instant::now(), filled, done));
    }

    /// The stretches, in which a unit of the work is so many pieces.
    pub(super) fn stretches(self, pieces: f64) -> impl Iterator<Item = Stretch> {
        let worked = self.cut.into_iter().filter(|&(.., work)| work > 0);
        worked.map(move |(seconds, filled, work)| Stretch { seconds: seconds / (work as f64 * pieces), filled })
    }
}

/// Seconds of a loop that a core can hardly do more of at a time: two chains of many short instructions.
fn fill() -> f64 {
    let mut chains = [1, 2].map(Xoshiro256PlusPlus::seed_from_u64);
    let begin = Instant::now();
    let mut sum = 0;
    for _ in 0..PASSES {
        for chain in &mut chains {
            sum ^= chain.next_u64();
        }
    }
    black_box(sum);
    let took = begin.elapsed();
    SHORTEST.fetch_min(took.as_nanos() as u64, Ordering::Relaxed);
    took.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretches(of: &[(f64, f64)]) -> Vec<Stretch> {
        of.iter().map(|&(seconds, filled)| Stretch { seconds, filled }).collect()
    }

    #[test]
    fn only_the_loop_tells_whose_the_core_was() {
        let pace =
            Pace::beside(&stretches(&[(9.0, 1.0), (1.0, 1.7), (3.0, 1.04), (2.0, 1.06), (4.0, 1.0), (1.0, 1.5)]), 1.0);
        assert_eq!(pace, Pace { own: Some(4.0), all: 3.0, share: 0.5 });
        assert_eq!(Some(pace.best_known()), pace.own);
    }

    #[test]
    fn nothing_is_said_of_a_core_that_was_seldom_ones_own() {
        let mut shared = stretches(&[(2.0, 1.7); 10]);
        shared.push(Stretch { seconds: 1.0, filled: 1.0 });
        let pace = Pace::beside(&shared, 1.0);
        assert_eq!((pace.own, pace.all, pace.best_known()), (None, 2.0, 2.0));
        assert_eq!(Pace::beside(&[], 1.0).own, None);
    }

    #[test]
    fn stretches_are_what_lies_between_cuts() {
        let mut cutter = Cutter::default();
        for done in [0, 10, 10, 30] {
            cutter.cut(done);
        }
        let works: Vec<u64> = cutter.cut.iter().map(|&(.., work)| work).collect();
        assert_eq!(works, [10, 0, 20], "what came before the first cut is none");
        let seconds: Vec<f64> = cutter.cut.iter().map(|&(seconds, ..)| seconds).collect();
        let of: Vec<f64> = cutter.stretches(0.5).map(|stretch| stretch.seconds).collect();
        assert_eq!(of, [seconds[0] / 5.0, seconds[2] / 10.0], "one without work is left out");
    }
}
