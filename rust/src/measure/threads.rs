//! Two threads: interrupts that go to and fro, and pairs that have nothing to do with each other.

use super::floor::Lines;
use super::ipi::{Pair, PairMachine};
use super::{Figure, NotMeasured, beside};
use crate::arch::ApicMode;
use std::hint::black_box;
use std::sync::Barrier;
use std::time::Instant;

/// Interrupts that each pair of vCPUs exchanges in one round.
const PAIR_CALLS: u32 = 200_000;
const PAIR_ROUNDS: usize = 20;
/// Round trips in a round.
const TRIPS: u32 = 20_000;
const TRIP_ROUNDS: usize = 40;

/// Does each of `work` so often on a thread of its own, all at once; the seconds of one call of the slowest.
fn at_once<F: FnMut() + Send>(calls: u32, work: impl IntoIterator<Item = F>) -> f64 {
    let work: Vec<F> = work.into_iter().collect();
    let ready = Barrier::new(work.len());
    let round = |mut each: F| {
        ready.wait();
        let begin = Instant::now();
        (0..calls).for_each(|_| each());
        begin.elapsed()
    };
    let slowest = std::thread::scope(|scope| {
        let threads: Vec<_> = work.into_iter().map(|each| scope.spawn(|| round(each))).collect();
        threads.into_iter().filter_map(|thread| thread.join().ok()).max().unwrap_or_default()
    });
    slowest.as_secs_f64() / f64::from(calls)
}

/// IPIs a second of independent pairs on two threads, beside those of one pair on one.
///
/// # Errors
/// An interrupt does not take the whole way.
pub fn pairs() -> Result<Figure, NotMeasured> {
    let mut machine = PairMachine::with_pairs(ApicMode::X2Apic, 2)?;
    let mut pairs = machine.pairs()?;
    let happened = pairs.iter_mut().all(Pair::ipi);
    if !happened {
        return Err(NotMeasured("an IPI was not posted, processed and delivered".to_owned()));
    }
    Ok(scaling(|threads| {
        at_once(
            PAIR_CALLS,
            pairs.iter_mut().take(threads).map(|pair| {
                || {
                    black_box(pair.ipi());
                }
            }),
        )
    }))
}

/// Locked operations a second of two threads that share nothing, beside those of one: how far the machine scales.
///
/// # Errors
/// There is no memory.
pub fn bare() -> Result<Figure, NotMeasured> {
    let memory = Lines::memory(2);
    let lines: Option<Vec<_>> = (0..2).map(|pcpu| Lines::of(&memory, pcpu)).collect();
    let lines = lines.ok_or_else(|| NotMeasured("no room for a line".to_owned()))?;
    Ok(scaling(|threads| at_once(PAIR_CALLS, lines.iter().take(threads).map(|lines| || lines.interrupt()))))
}

/// Independent additions of two threads, beside those of one. Two threads of one core, as many virtual machines have
/// them, do less than twice the work of one, and no pair can then do better.
#[must_use]
pub fn arithmetic() -> Figure {
    scaling(|threads| {
        at_once(
            PAIR_CALLS,
            (0..threads).map(|_| {
                let mut sums = [0u64; 6];
                move || {
                    for _ in 0..12 {
                        sums = sums.map(|sum| black_box(sum) + 1);
                    }
                }
            }),
        )
    })
}

/// Calls a second on two threads beside those on one; `seconds` of one call on so many threads.
fn scaling(seconds: impl FnMut(usize) -> f64) -> Figure {
    let seconds = std::cell::RefCell::new(seconds);
    let rate = |threads: usize| threads as f64 / (seconds.borrow_mut())(threads);
    beside(PAIR_ROUNDS, || rate(1), || rate(2))
}

/// An interrupt there and one back between two threads, beside a cache line that two threads hand to and fro. Seconds.
///
/// # Errors
/// An interrupt is not posted.
pub fn round_trip() -> Result<Figure, NotMeasured> {
    let mut machine = PairMachine::new(ApicMode::X2Apic)?;
    let mut pair = machine.pair()?;
    let memory = Lines::memory(1);
    let line = Lines::of(&memory, 0).ok_or_else(|| NotMeasured("no room for a line".to_owned()))?;
    let mut happened = true;
    let figure = beside(
        TRIP_ROUNDS,
        || handed_to_and_fro(line),
        || {
            let seconds = trips(&mut pair);
            happened &= seconds.is_some();
            seconds.unwrap_or_default()
        },
    );
    if happened { Ok(figure) } else { Err(NotMeasured("an IPI was not posted".to_owned())) }
}

fn handed_to_and_fro(line: Lines<'_>) -> f64 {
    at_once(TRIPS, [[0, 1], [1, 0]].map(|[turn, next]| move || line.pass(turn, next)))
}

/// Seconds of one trip; none if an interrupt was not posted.
fn trips(pair: &mut Pair<'_>) -> Option<f64> {
    let [first, second] = pair.apic_ids();
    let [to_first, to_second] = pair.requests;
    let Pair { sender, receiver, .. } = pair;
    let ready = Barrier::new(2);
    std::thread::scope(|scope| {
        let back = scope.spawn(|| {
            ready.wait();
            (0..TRIPS).all(|_| {
                while !receiver.receive() {
                    std::hint::spin_loop();
                }
                receiver.send_to(first, to_first)
            })
        });
        ready.wait();
        let begin = Instant::now();
        for _ in 0..TRIPS {
            if !sender.send_to(second, to_second) {
                return None;
            }
            while !sender.receive() {
                std::hint::spin_loop();
            }
        }
        let seconds = begin.elapsed().as_secs_f64() / f64::from(TRIPS);
        back.join().ok()?.then_some(seconds)
    })
}
