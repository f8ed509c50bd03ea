//! The virtual-time engine: IPIs a second, what they cost in large VMs, and what a large VM costs to build.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "figures are printed beside what criterion prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark of something else than it says must stop")]

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use ipivrs::engine::virtual_time::Costs;
use ipivrs::measure::{self, PING_ROUNDS, Storm, large_vm, ping_machine, storm, timed};
use serde_json::{Value, json};
use std::time::Duration;
use toml::de::{DeTable, DeValue};

const KVM: &str = include_str!("../python/ipivrs/policies/kvm.policy");
const PROFILE: &str = include_str!("../python/ipivrs/profiles/sapphire-rapids.toml");

/// Those of `ipivrs run`, unless it is told others.
fn costs() -> Costs {
    let profile = DeTable::parse(PROFILE).unwrap().into_inner();
    let cycles = |value: &DeValue<'_>| value.as_integer().unwrap().as_str().replace('_', "").parse::<u64>().unwrap();
    let named = profile["cost"].get_ref().as_table().unwrap().iter();
    let mut costs: serde_json::Map<_, _> = named
        .map(|(name, cost)| (name.get_ref().to_string(), json!(cycles(cost.get_ref()["cycles"].get_ref()))))
        .collect();
    costs.insert("hz".to_owned(), json!(cycles(profile["hz"].get_ref())));
    Costs::from_json(&Value::Object(costs).to_string()).unwrap()
}

/// One vCPU sends to another and waits: IPIs a second, end to end. The first row is all the time that the thread had; the
/// second leaves out when the core had another thread to serve, which may be another guest's of this host.
fn ping(c: &mut Criterion) {
    let (costs, config) = (costs(), ping_machine(KVM, PING_ROUNDS.into()).unwrap());
    let mut group = c.benchmark_group("virtual time");
    group.throughput(Throughput::Elements(PING_ROUNDS.into())).sample_size(10).sampling_mode(SamplingMode::Flat);
    group.bench_function("ping", |b| {
        b.iter_custom(|times| (0..times).map(|_| Duration::from_secs_f64(timed(&config, &costs).unwrap().0)).sum());
    });
    let mut shared = 0;
    group.bench_function("ping on a core of its own", |b| {
        b.iter_custom(|times| {
            let pace = measure::ping(KVM, times, &costs).unwrap();
            shared += u32::from(pace.own.is_none());
            let a_run = Duration::from_secs_f64(pace.best_known() * f64::from(PING_ROUNDS));
            (0..times).map(|_| a_run).sum()
        });
    });
    group.finish();
    if shared > 0 {
        println!("{shared} times the core was hardly ever its own: what it took then is in the second row as it is");
    }
}

/// Each vCPU on a pCPU of its own: what an IPI costs beside its machine's making.
fn scale(_: &mut Criterion) {
    for (to, enable_ipiv, name) in [
        ("next", true, "each to the next"),
        ("random", true, "everyone to everyone"),
        ("random", false, "everyone to everyone without IPI virtualization"),
    ] {
        for vcpus in [4096, 65_536] {
            let figure = storm(KVM, Storm { vcpus, to, enable_ipiv }, &costs()).unwrap();
            let [few, many] = [figure.floor, figure.value].map(|seconds| seconds * 1e9);
            println!("{vcpus} vCPUs, {name}: {many:.0} ns an IPI, {:.2} of 64 vCPUs', {few:.0} ns", figure.ratio);
        }
    }
}

/// A VM of 65,536 vCPUs: what it takes until all are about to run.
fn large(_: &mut Criterion) {
    let (seconds, bytes) = large_vm(KVM, &costs()).unwrap();
    println!("a VM of 65,536 vCPUs: {seconds:.3} s to build, {bytes:.0} bytes touched for each");
}

criterion_group!(virtual_time, large, ping, scale);
criterion_main!(virtual_time);
