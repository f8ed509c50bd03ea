//! The exhaustive engine: states a second and core, and bytes a state.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "states a second are printed beside what criterion prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark of something else than it says must stop")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use ipivrs::engine::explore::Bounds;
use ipivrs::measure::explored;
use std::hint::black_box;
use std::time::Instant;

const KVM: &str = include_str!("../python/ipivrs/policies/kvm.policy");

/// A space that fits into the caches: what the moves themselves cost.
fn small(c: &mut Criterion) {
    let bounds = Bounds { senders: 1, preemptions: 0, exits: 0, ..Bounds::default() };
    let states = explored(KVM, &bounds, 1).unwrap().states;
    c.bench_function(&format!("kvm, {states} states"), |b| {
        b.iter_batched(|| (), |()| black_box(explored(KVM, &bounds, 1)), BatchSize::PerIteration);
    });
}

/// `ipivrs check kvm --senders 3 --preemptions 2 --migrations 1`, proof and worst case.
fn large(_: &mut Criterion) {
    let bounds = Bounds { senders: 3, preemptions: 2, migrations: 1, ..Bounds::default() };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    for threads in [1, cores] {
        let begin = Instant::now();
        let verdict = explored(KVM, &bounds, threads).unwrap();
        let seconds = begin.elapsed().as_secs_f64();
        println!(
            "kvm --senders 3 --preemptions 2 --migrations 1, {threads} thread(s): {} states in {seconds:.1} s, {:.2} million \
             states a second and thread, {:.1} bytes a state",
            verdict.states,
            verdict.states as f64 / seconds / threads as f64 / 1e6,
            verdict.bytes as f64 / verdict.states as f64
        );
    }
}

criterion_group!(explore, small, large);
criterion_main!(explore);
