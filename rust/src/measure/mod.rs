//! How fast it is: each path beside a floor that no implementation can beat.
//!
//! Work and floor take turns within one run, so that whatever slows the machine down for a while slows both, and only
//! medians count. The benchmarks and `ipivrs bench speed` measure this same code. Seconds are of processor time where one
//! thread works, and of the host's clock where threads wait for each other or what is measured is short.

#![allow(clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "rates for people")]

mod count;
mod engines;
mod floor;
mod intake;
mod ipi;
mod own_core;
mod ping;
mod threads;

pub use count::count;
pub use engines::{Storm, explored, explorer, large_vm, storm, timed};
pub use intake::{intake, repeat};
pub use ipi::{Pair, PairMachine, coalesced, one_ipi};
pub use own_core::Pace;
pub use ping::{PING_ROUNDS, ping, ping_machine};
pub use threads::{arithmetic, bare, pairs, round_trip};

use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use thiserror::Error;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// Of the path.
    pub value: f64,
    /// Of its floor, in the same unit.
    pub floor: f64,
    /// The median of what the path took beside its floor, round by round.
    pub ratio: f64,
}

/// What was to be measured did not happen.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}: this is not measured, because it is not what happened")]
pub struct NotMeasured(pub String);

/// Calls in one round: long enough for the clock, short enough for what slows the machine down to meet both sides.
const CALLS: u32 = 20_000;

/// Seconds that one call takes, over a round of them.
pub(crate) fn seconds_of(mut work: impl FnMut()) -> f64 {
    let begin = clock();
    for _ in 0..CALLS {
        work();
    }
    (clock() - begin) / f64::from(CALLS)
}

/// Seconds of processor time that this thread has had: what else runs on the machine is not in them.
pub(crate) fn clock() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Rounds in which `floor` and `work` take turns; each gives what a round of it came to.
pub(crate) fn beside(rounds: usize, mut floor: impl FnMut() -> f64, mut work: impl FnMut() -> f64) -> Figure {
    let rounds: Vec<(f64, f64)> = (0..rounds).map(|_| (black_box(floor()), black_box(work()))).collect();
    Figure::of_rounds(&rounds)
}

impl Figure {
    /// Of rounds, each the floor's figure and the path's.
    fn of_rounds(rounds: &[(f64, f64)]) -> Self {
        Self {
            value: median(rounds.iter().map(|round| round.1)),
            floor: median(rounds.iter().map(|round| round.0)),
            ratio: median(rounds.iter().map(|round| round.1 / round.0)),
        }
    }
}

/// The middle one, 0 of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::ApicMode;

    #[test]
    fn medians_pass_over_what_is_far_off() {
        let mut slow = [1.0, 1.0, 90.0, 1.0, 1.0].into_iter();
        let figure = beside(5, || 0.5, || slow.next().unwrap());
        assert_eq!(figure, Figure { value: 1.0, floor: 0.5, ratio: 2.0 });
    }

    /// What is measured is what it says: an interrupt that is posted, notified, processed, delivered and ended.
    #[test]
    fn an_ipi_goes_the_whole_way() {
        for mode in [ApicMode::X2Apic, ApicMode::XApic] {
            let mut machine = PairMachine::new(mode).unwrap();
            let mut pair = machine.pair().unwrap();
            assert!((0..3).all(|_| pair.ipi()), "{mode:?}");
        }
    }

    #[test]
    fn a_post_is_coalesced_only_while_on_is_set() {
        let mut machine = PairMachine::new(ApicMode::X2Apic).unwrap();
        let mut pair = machine.pair().unwrap();
        assert!(!pair.coalesced(), "the first one sets ON");
        assert!(pair.coalesced() && pair.coalesced());
    }
}
