//! Machines that run for a moment: balance, verdicts, and what only many threads can break.

use super::{Watch, run};
use crate::engine::machine::{MachineConfig, MachineRun};
use crate::hypervisor::policy::Policy;
use crate::record::Fate;
use crate::scenario::Scenario;
use serde_json::{Value, json};
use std::time::Duration;

const KVM: &str = include_str!("../../../../python/ipivrs/policies/kvm.policy");
const KVM_5_14: &str = include_str!("../../../../python/ipivrs/policies/kvm-5.14.policy");
const PRE_IPIV: &str = include_str!("../../../../python/ipivrs/policies/kvm-pre-ipiv.policy");
const SN_IN_HOST: &str = include_str!("../../../../python/ipivrs/policies/kvm-sn-in-host.policy");

/// A scenario of one VM with all the defaults.
fn scenario(vm: &Value) -> Value {
    let mut whole = json!({
        "vcpus": 2, "apic": "x2apic", "max_vcpu_ids": null, "last_index": null, "assigned_device": false,
        "wait_for_sipi": false, "workload": null, "group": [], "handler": []
    });
    merge(&mut whole, vm);
    json!({
        "seed": 1,
        "processor": {"model": "sapphire-rapids", "pinbased_ctls": null, "procbased_ctls": null,
            "procbased_ctls2": null, "procbased_ctls3": null, "max_phys_addr_bits": null},
        "host": {"pcpus": 2, "time_slice": 500, "apic": "x2apic", "enable_apicv": true, "enable_ipiv": true,
            "apic_id_rewrite": "inhibit"},
        "chaos": {"preempt": false, "migrate": false, "toggle_apicv": false, "hot_add": 0},
        "vm": [whole],
        "device": []
    })
}

fn merge(into: &mut Value, from: &Value) {
    if let (Some(into), Some(from)) = (into.as_object_mut(), from.as_object()) {
        for (key, value) in from {
            if value.is_object() && into.get(key).is_some_and(Value::is_object) {
                merge(&mut into[key], value);
            } else {
                into.insert(key.clone(), value.clone());
            }
        }
    }
}

fn with(mut scenario: Value, changes: &Value) -> Value {
    merge(&mut scenario, changes);
    scenario
}

fn machine(scenario: &Value, policy: &str) -> MachineConfig {
    Scenario::from_json(&scenario.to_string()).unwrap().machine(Policy::parse(policy).unwrap()).unwrap()
}

fn run_for(scenario: &Value, policy: &str, milliseconds: u64) -> MachineRun {
    let time = Some(Duration::from_millis(milliseconds));
    run(&machine(scenario, policy), Watch { time, keep_going: &mut || true }).unwrap()
}

fn fine(scenario: &Value, policy: &str, milliseconds: u64) -> MachineRun {
    let run = run_for(scenario, policy, milliseconds);
    assert!(run.violations.is_empty(), "{:#?}", run.violations);
    assert!(!run.partial);
    let counts = run.account.counts;
    assert_eq!(run.account.posts(), counts.delivered + counts.coalesced + counts.discarded + run.pending);
    run
}

fn fate(run: &MachineRun, fate: Fate) -> u64 {
    run.account.counts.fates[usize::from(fate.code())]
}

fn storm(rounds: Option<u64>, vcpus: u32, modes: bool) -> Value {
    let workload = json!({"name": "storm", "rounds": rounds, "halts": true, "mode_switches": modes});
    scenario(&json!({"vcpus": vcpus, "workload": workload}))
}

const ALL_CHAOS: fn() -> Value =
    || json!({"chaos": {"preempt": true, "migrate": true, "toggle_apicv": true, "hot_add": 4}});

#[test]
fn a_ping_needs_no_exit_for_its_interrupts() {
    let ping = json!({"workload": {"name": "ping", "rounds": 2000, "vector": 0xE0}});
    let run = fine(&scenario(&ping), KVM, 60_000);
    assert_eq!((fate(&run, Fate::Virtualized), run.account.counts.delivered), (2000, 2000));
    assert_eq!(run.account.counts.software_posts, 0);
}

#[test]
fn every_workload_ends_and_balances_on_every_processor() {
    let workloads = [
        json!({"name": "ping", "rounds": 200, "vector": 0x41}),
        json!({"name": "ipi-microbenchmark", "case": "dry-run", "rounds": 200}),
        json!({"name": "ipi-microbenchmark", "case": "self-ipi", "rounds": 200}),
        json!({"name": "ipi-microbenchmark", "case": "normal-ipi", "rounds": 200}),
        json!({"name": "ipi-microbenchmark", "case": "broadcast-ipi", "rounds": 200}),
        json!({"name": "ipi-microbenchmark", "case": "broadcast-lock", "rounds": 200}),
        json!({"name": "tlb-shootdown", "rounds": 50, "work": 1000, "flush": 200}),
        json!({"name": "hackbench", "messages": 200, "work": 500}),
        json!({"name": "storm", "rounds": 500, "halts": true, "mode_switches": false}),
    ];
    for workload in &workloads {
        for model in ["sapphire-rapids", "ice-lake", "pre-apicv"] {
            for apic in ["xapic", "x2apic"] {
                let vm = scenario(&json!({"vcpus": 4, "apic": apic, "workload": workload}));
                let run = fine(&with(vm, &json!({"processor": {"model": model}})), KVM, 60_000);
                let virtualized = fate(&run, Fate::Virtualized);
                assert!(model == "sapphire-rapids" || virtualized == 0, "{model} {apic} {workload}");
            }
        }
    }
}

/// No call may be lost between the caller, who finds that the other polls, and the other, who stops polling.
#[test]
fn every_call_to_who_polls_is_answered() {
    let to = json!({"vcpu": 0});
    let round =
        json!([{"op": "call", "to": to, "vector": 0x41}, {"op": "await-calls"}, {"op": "compute", "cycles": 300}]);
    let idle = json!([{"op": "poll"}, {"op": "answer"}, {"op": "compute", "cycles": 200}]);
    let vm = json!({
        "vcpus": 3,
        "group": [{"vcpus": [0], "program": [{"op": "loop", "times": null, "body": idle}]},
                  {"vcpus": [1, 2], "program": [{"op": "loop", "times": 5000, "body": round}]}],
        "handler": [{"vector": 0x41, "program": [{"op": "answer"}, {"op": "eoi"}]}]});
    let run = fine(&scenario(&vm), KVM, 60_000);
    assert_eq!(run.unfinished, 0);
    assert!(fate(&run, Fate::Virtualized) < 10_000, "some calls need no IPI");
}

#[test]
fn a_storm_with_everything_at_random_loses_nothing() {
    for policy in [KVM, KVM_5_14, SN_IN_HOST] {
        let storm = with(storm(None, 8, true), &ALL_CHAOS());
        let run = fine(&storm, policy, 700);
        assert_eq!(run.vms[0].vcpus, 12, "four were added");
        let scheduling = run.account.scheduling;
        assert!(scheduling.preemptions > 0 && scheduling.migrations > 0 && scheduling.blocks > 0);
        assert!(scheduling.apicv_changes > 0, "{scheduling:?}");
    }
}

/// Without v4's hunks a vCPU that sleeps is notified by a vector whose handler does nothing.
#[test]
fn a_vcpu_that_sleeps_is_lost_without_the_wakeup_vector() {
    let run = run_for(&storm(None, 8, false), PRE_IPIV, 20_000);
    let lost = run.violations.iter().find(|violation| violation.kind == "lost-wakeup").expect("it is found");
    assert!(lost.message.contains("NV=F2H"), "{}", lost.message);
    assert!(lost.message.contains("on no wakeup list"), "{}", lost.message);
    let device = with(storm(None, 8, false), &json!({}));
    let assigned = {
        let mut device = device;
        device["vm"][0]["assigned_device"] = json!(true);
        device
    };
    fine(&assigned, PRE_IPIV, 300);
}

#[test]
fn each_step_that_the_policy_needs_is_missed() {
    // One line dropped; what goes wrong may need luck, so only lines whose loss shows every time.
    for line in ["control nv=wakeup", "list_add", "for_listed: if on: wake"] {
        assert!(KVM.contains(line), "{line}");
        let broken = KVM.replacen(line, "fence", 1);
        let run = run_for(&storm(None, 8, false), &broken, 20_000);
        assert!(run.violations.iter().any(|violation| violation.kind == "lost-wakeup"), "without {line}: {run:?}");
    }
}

#[test]
fn two_vms_share_pcpus_and_nothing_else() {
    let mut both = storm(Some(2000), 3, true);
    let second = both["vm"][0].clone();
    both["vm"].as_array_mut().unwrap().push(second);
    let run = fine(&with(both, &json!({"chaos": {"preempt": true, "migrate": true}})), KVM, 60_000);
    assert_eq!(run.vms.len(), 2);
}

#[test]
fn devices_post_from_their_own_threads() {
    for urgent in [false, true] {
        let mut machine = storm(Some(3000), 4, false);
        machine["device"] =
            json!([{"vm": 0, "vcpu": null, "vectors": [0x61, 0x62], "posts": 5000, "urgent": urgent, "gap": 20}]);
        for policy in [KVM, PRE_IPIV, SN_IN_HOST] {
            let run = fine(&with(machine.clone(), &json!({"chaos": {"preempt": true}})), policy, 60_000);
            assert_eq!(run.account.counts.device_posts, 5000);
        }
    }
}

#[test]
fn init_and_start_up_start_a_vcpu_that_waits() {
    let start = json!([
        {"op": "send", "vector": 0, "to": {"vcpu": 1}, "mode": "init"},
        {"op": "send", "vector": 8, "to": {"vcpu": 1}, "mode": "sipi"},
        {"op": "wait", "signal": 0, "count": 1}
    ]);
    let vm = json!({"wait_for_sipi": true, "group": [
        {"vcpus": [0], "program": start},
        {"vcpus": [1], "program": [{"op": "signal", "signal": 0}]}
    ]});
    for apic in ["x2apic", "xapic"] {
        let run = fine(&with_vm(&vm, &json!({"apic": apic})), KVM, 60_000);
        assert_eq!((fate(&run, Fate::Exited), run.account.counts.signalled), (2, 2));
    }
}

fn with_vm(vm: &Value, changes: &Value) -> Value {
    scenario(&with(vm.clone(), changes))
}

/// A guest that idles because nobody sends is no violation; one that spins on what never comes is.
#[test]
fn a_program_that_cannot_end_is_named() {
    let waiting = scenario(&json!({"group": [{"vcpus": [0], "program": [{"op": "receive"}]}]}));
    assert_eq!(fine(&waiting, KVM, 60_000).unfinished, 1);
    let spinning = scenario(&json!({"group": [{"vcpus": [0], "program": [{"op": "wait", "signal": 0, "count": 1}]}]}));
    let run = run_for(&spinning, KVM, 60_000);
    assert_eq!(run.violations.len(), 1, "{:?}", run.violations);
    assert_eq!(run.violations[0].kind, "stall");
    let message = &run.violations[0].message;
    assert!(message.contains("vCPU 0: runs, where its program waits for signal 0"), "{message}");
}

#[test]
fn a_rewritten_id_inhibits_apicv_or_misleads() {
    let program = json!([
        {"op": "register", "offset": 0x20, "value": 0x0100_0000},
        {"op": "send", "vector": 0x41, "to": {"raw": 1}}
    ]);
    // vCPU 0 takes vCPU 1's ID, and vCPU 1 another.
    let vm = json!({"apic": "xapic", "vcpus": 3, "group": [
        {"vcpus": [1], "program": [{"op": "register", "offset": 0x20, "value": 0x0700_0000}, {"op": "signal", "signal": 0}]},
        {"vcpus": [2], "program": [{"op": "wait", "signal": 0, "count": 1}, program[0], program[1]]}
    ]});
    let run = fine(&scenario(&vm), KVM, 60_000);
    assert_eq!(run.vms[0].inhibits.iter().map(|inhibit| inhibit.name()).collect::<Vec<_>>(), ["APIC_ID_MODIFIED"]);
    assert_eq!((fate(&run, Fate::Exited), run.account.counts.delivered), (1, 1));
    let naive = with(scenario(&vm), &json!({"host": {"apic_id_rewrite": "naive"}}));
    let run = run_for(&naive, KVM, 60_000);
    assert_eq!(run.violations[0].kind, "misdelivery", "{:?}", run.violations);
}

#[test]
fn a_run_can_be_stopped() {
    let machine = machine(&storm(None, 4, false), KVM);
    let mut asked = 0;
    let mut keep_going = || {
        asked += 1;
        asked < 5
    };
    let run = run(&machine, Watch { time: None, keep_going: &mut keep_going }).unwrap();
    assert!(run.partial && run.violations.is_empty(), "{:?}", run.violations);
    assert!(run.account.posts() > 0);
}
