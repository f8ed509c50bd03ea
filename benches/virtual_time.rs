//! The virtual-time engine: IPIs a second, what they cost in large VMs, and what a large VM costs to build.

#![allow(missing_docs, reason = "criterion's macros make functions without documentation")]
#![allow(clippy::print_stdout, reason = "figures are printed beside what criterion prints")]
#![allow(clippy::unwrap_used, reason = "a benchmark of something else than it says must stop")]
#![allow(clippy::cast_precision_loss, reason = "rates for people")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ipivrs::engine::machine::MachineConfig;
use ipivrs::engine::virtual_time::{Costs, Options, VirtualRun, run};
use ipivrs::hypervisor::policy::Policy;
use ipivrs::scenario::Scenario;
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

const KVM: &str = include_str!("../python/ipivrs/policies/kvm.policy");

/// Costs of the size that they have on a processor.
fn costs() -> Costs {
    let cost = |name: &str| match name {
        "instruction" | "policy_look" => 4,
        "msr_write" | "policy_locked" | "spin" | "halt_poll_spin" => 40,
        "notification_flight" | "wake" | "context_switch" => 1000,
        "halt_poll" => 400_000,
        "halt_poll_start" => 20_000,
        _ => 300,
    };
    let mut costs: serde_json::Map<_, _> =
        Costs::FIELDS.iter().map(|&(name, ..)| (name.to_owned(), json!(cost(name)))).collect();
    costs.insert("hz".to_owned(), json!(2_000_000_000));
    Costs::from_json(&Value::Object(costs).to_string()).unwrap()
}

fn machine(vcpus: u32, pcpus: u32, workload: &Value, group: &Value) -> MachineConfig {
    let scenario = json!({
        "seed": 1,
        "processor": {"model": "sapphire-rapids", "pinbased_ctls": null, "procbased_ctls": null,
            "procbased_ctls2": null, "procbased_ctls3": null, "max_phys_addr_bits": null},
        "host": {"pcpus": pcpus, "time_slice": 10_000, "apic": "x2apic", "enable_apicv": true, "enable_ipiv": true,
            "apic_id_rewrite": "inhibit"},
        "chaos": {"preempt": false, "migrate": false, "toggle_apicv": false, "hot_add": 0},
        "vm": [{"vcpus": vcpus, "apic": "x2apic", "max_vcpu_ids": null, "last_index": null, "assigned_device": false,
            "wait_for_sipi": false, "workload": workload, "group": group, "handler": []}],
        "device": []
    });
    Scenario::from_json(&scenario.to_string()).unwrap().machine(Policy::parse(KVM).unwrap()).unwrap()
}

fn run_it(config: &MachineConfig, costs: &Costs) -> VirtualRun {
    let result = run(config, Options { costs, cycles: None, log: 0, keep_going: &mut |_| true }).unwrap();
    assert!(result.machine.violations.is_empty(), "{:?}", result.machine.violations);
    result
}

fn ipis(run: &VirtualRun) -> u64 {
    run.machine.account.counts.fates.iter().sum()
}

/// One vCPU sends to another and waits: IPIs a second, end to end.
fn ping(c: &mut Criterion) {
    const ROUNDS: u64 = 100_000;
    let (costs, config) =
        (costs(), machine(2, 2, &json!({"name": "ping", "rounds": ROUNDS, "vector": 0xE0}), &json!([])));
    let mut group = c.benchmark_group("virtual time");
    group.throughput(Throughput::Elements(ROUNDS)).sample_size(20);
    group.bench_function("ping", |b| b.iter(|| black_box(run_it(&config, &costs))));
    group.finish();
}

/// Everyone to everyone, each vCPU on a pCPU of its own: what an IPI costs beside its machine's making. Sizes take turns,
/// and medians are compared.
fn scale(_: &mut Criterion) {
    const SIZES: [u32; 3] = [64, 4096, 65_536];
    const ROUNDS: usize = 5;
    let costs = costs();
    let mut each = SIZES.map(|_| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        for (each, vcpus) in each.iter_mut().zip(SIZES) {
            each.push(ipi_in_storm(vcpus, &costs));
        }
    }
    let medians = each.map(|mut each| {
        each.sort_by(f64::total_cmp);
        each[ROUNDS / 2]
    });
    for (vcpus, median) in SIZES.iter().zip(medians) {
        let ratio = median / medians[0];
        println!("{vcpus} vCPUs, everyone to everyone: {:.0} ns an IPI, {ratio:.2} of 64 vCPUs'", median * 1e9);
    }
}

/// Seconds that an IPI takes.
fn ipi_in_storm(vcpus: u32, costs: &Costs) -> f64 {
    const IPIS: u64 = 500_000;
    let of = |rounds: u64| {
        let body = json!([{"op": "send", "vector": 0x41, "to": "random", "mode": "fixed", "logical": false},
            {"op": "compute", "cycles": 1000}]);
        let program = json!([{"op": "loop", "times": rounds, "body": body}]);
        let numbers: Vec<u32> = (0..vcpus).collect();
        let config = machine(vcpus, vcpus, &json!(null), &json!([{"vcpus": numbers, "program": program}]));
        let begin = Instant::now();
        let sent = ipis(&run_it(&config, costs));
        (begin.elapsed().as_secs_f64(), sent)
    };
    let (few, many) = (of(1), of(1 + IPIS / u64::from(vcpus)));
    (many.0 - few.0) / (many.1 - few.1) as f64
}

/// A VM of 65,536 vCPUs: what it takes until all are about to run.
fn large(_: &mut Criterion) {
    const VCPUS: u32 = 65_536;
    let config = machine(VCPUS, 64, &json!({"name": "ping", "rounds": 1, "vector": 0xE0}), &json!([]));
    let costs = costs();
    let before = resident();
    let mut made = (0.0, 0);
    let begin = Instant::now();
    // Asked for the first time when all is built.
    let mut keep_going = |_| {
        made = (begin.elapsed().as_secs_f64(), resident() - before);
        false
    };
    drop(run(&config, Options { costs: &costs, cycles: None, log: 0, keep_going: &mut keep_going }).unwrap());
    println!(
        "a VM of {VCPUS} vCPUs: {:.3} s to build, {:.0} bytes touched for each",
        made.0,
        made.1 as f64 / f64::from(VCPUS)
    );
}

/// Bytes of this process in memory.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

criterion_group!(virtual_time, large, ping, scale);
criterion_main!(virtual_time);
