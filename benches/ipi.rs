//! One interrupt end to end, on one thread and between two. `ipivrs bench speed` has the ratios of the same code to its
//! floors.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "the ratios are printed beside what criterion prints")]
#![allow(clippy::expect_used, reason = "a benchmark of something else than it says must stop")]

use criterion::{Criterion, criterion_group, criterion_main};
use ipivrs::arch::ApicMode;
use ipivrs::measure::{self, Figure, NotMeasured, PairMachine};

fn one_thread(c: &mut Criterion) {
    for (name, mode) in
        [("one IPI, x2APIC, WRMSR to EOI", ApicMode::X2Apic), ("one IPI, xAPIC, two writes to EOI", ApicMode::XApic)]
    {
        let mut machine = PairMachine::new(mode).expect("a VM of two vCPUs");
        let mut pair = machine.pair().expect("a pair");
        assert!(pair.ipi(), "an IPI takes the whole way");
        c.bench_function(name, |b| b.iter(|| pair.ipi()));
    }
    let mut machine = PairMachine::new(ApicMode::X2Apic).expect("a VM of two vCPUs");
    let mut pair = machine.pair().expect("a pair");
    pair.coalesced();
    c.bench_function("a post where ON is set", |b| b.iter(|| pair.coalesced()));
}

/// Ratios, from rounds that take turns: whatever slows the machine down for a while slows both sides of each.
fn ratios(_: &mut Criterion) {
    let show = |name: &str, figure: Result<Figure, NotMeasured>| {
        let figure = figure.expect(name);
        println!("{name}: {:.2} x its floor", figure.ratio);
    };
    show("one IPI, x2APIC", measure::one_ipi(ApicMode::X2Apic));
    show("one IPI, xAPIC", measure::one_ipi(ApicMode::XApic));
    show("a post where ON is set", measure::coalesced());
    show("a round trip between two threads", measure::round_trip());
    show("two pairs on two threads, one on one", measure::pairs());
    show("locked operations alone on two threads, one on one", measure::bare());
    show("plain arithmetic on two threads, one on one", Ok(measure::arithmetic()));
}

criterion_group!(ipi, one_thread, ratios);
criterion_main!(ipi);
