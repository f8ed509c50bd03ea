//! Machines in virtual time.

use super::*;
use crate::engine::machine::{Chaos, Device, Guest, MachineConfig, What};
use crate::hypervisor::VmConfig;
use crate::hypervisor::policy::Policy;
use crate::record::Fate;
use crate::scenario::Scenario;
use serde_json::{Value, json};

mod scheduling;

const KVM: &str = include_str!("../../../../python/ipivrs/policies/kvm.policy");
const KVM_5_14: &str = include_str!("../../../../python/ipivrs/policies/kvm-5.14.policy");
const SN_IN_HOST: &str = include_str!("../../../../python/ipivrs/policies/kvm-sn-in-host.policy");
const WEDGES: &str = include_str!("../../../../python/ipivrs/policies/acrn-1462.policy");
const PRE_IPIV: &str = include_str!("../../../../python/ipivrs/policies/kvm-pre-ipiv.policy");

/// Each cost a prime of its own, so that a sum of them tells what is in it.
fn costs() -> Costs {
    Costs::from_json(
        &json!({
            "hz": 1_000_000_000,
            "instruction": 2, "spin": 3, "line_transfer": 101, "msr_write": 41, "mmio_write": 331, "post": 53,
            "delivery": 211, "interrupt_return": 59, "notification_flight": 1009, "notification_processing": 307,
            "vm_exit": 503, "vm_entry": 509, "exit_msr_icr": 173, "exit_apic_write": 811, "exit_apic_access": 1511,
            "exit_msr": 401, "exit_hlt": 409, "exit_interrupt": 419, "exit_other": 421, "host_interrupt": 601,
            "host_ipi": 103, "policy_look": 5, "policy_locked": 19, "context_switch": 1201, "wake": 907,
            "idle_exit": 1301, "halt_poll": 200_000, "halt_poll_start": 10_000, "halt_poll_spin": 61,
            "time_slice_unit": 1000
        })
        .to_string(),
    )
    .unwrap()
}

fn machine(vm: &Value, host: &Value, policy: &str) -> MachineConfig {
    let mut whole = json!({
        "vcpus": 2, "apic": "x2apic", "max_vcpu_ids": null, "last_index": null, "assigned_device": false,
        "wait_for_sipi": false, "workload": null, "group": [], "handler": []
    });
    let mut of_host = json!({"pcpus": 2, "time_slice": 500, "apic": "x2apic", "enable_apicv": true, "enable_ipiv": true,
        "apic_id_rewrite": "inhibit"});
    for (into, from) in [(&mut whole, vm), (&mut of_host, host)] {
        for (key, value) in from.as_object().unwrap() {
            into[key] = value.clone();
        }
    }
    let scenario = json!({
        "seed": 1,
        "processor": {"model": "sapphire-rapids", "pinbased_ctls": null, "procbased_ctls": null,
            "procbased_ctls2": null, "procbased_ctls3": null, "max_phys_addr_bits": null},
        "host": of_host,
        "chaos": {"preempt": false, "migrate": false, "toggle_apicv": false, "hot_add": 0},
        "vm": [whole],
        "device": []
    });
    Scenario::from_json(&scenario.to_string()).unwrap().machine(Policy::parse(policy).unwrap()).unwrap()
}

fn run_with(config: &MachineConfig, costs: &Costs, cycles: Option<u64>) -> VirtualRun {
    run(config, Options { costs, cycles, log: 1 << 16, keep_going: &mut |_| true }).unwrap()
}

fn fine(config: &MachineConfig, cycles: Option<u64>) -> VirtualRun {
    let run = run_with(config, &costs(), cycles);
    assert!(run.machine.violations.is_empty(), "{:#?}", run.machine.violations);
    let (account, pending) = (&run.machine.account, run.machine.pending);
    let counts = account.counts;
    assert_eq!(account.posts(), counts.delivered + counts.coalesced + counts.discarded + pending);
    let latencies = Class::ALL.iter().map(|&class| run.latencies.of(class).len());
    assert_eq!(latencies.sum::<u64>(), counts.delivered, "each delivery has a latency");
    assert!(run.log.events().is_sorted_by_key(|event| event.time), "the log is in order");
    who_is_woken_slept(&run);
    run
}

/// No vCPU goes on before it is woken.
fn who_is_woken_slept(run: &VirtualRun) {
    let mut on_pcpus = std::collections::BTreeSet::new();
    for event in run.log.events() {
        match event.what {
            What::Loaded => _ = on_pcpus.insert(event.vcpu),
            What::Slept | What::Preempted => _ = on_pcpus.remove(&event.vcpu),
            What::Runnable => assert!(!on_pcpus.contains(&event.vcpu), "{event:?}"),
            _ => {}
        }
    }
}

fn fate(run: &VirtualRun, fate: Fate) -> u64 {
    run.machine.account.counts.fates[usize::from(fate.code())]
}

fn ping(rounds: u64) -> Value {
    json!({"workload": {"name": "ping", "rounds": rounds, "vector": 0xE0}})
}

/// What a ping costs is the sum of its acts, whichever way its interrupt goes.
#[test]
fn a_ping_is_the_sum_of_its_acts() {
    const ROUNDS: u64 = 1000;
    let cost = costs();
    let sum = |costs: &[u32]| costs.iter().copied().map(u64::from).sum::<u64>();
    let run = fine(&machine(&ping(ROUNDS), &json!({}), KVM), None);
    assert_eq!((fate(&run, Fate::Virtualized), run.machine.account.counts.delivered), (ROUNDS, ROUNDS));
    let sent = sum(&[cost.msr_write, cost.post, cost.notification_flight]);
    let taken = sum(&[cost.notification_processing, cost.delivery]);
    let latency = run.latencies.of(Class::Running);
    assert_eq!((latency.len(), latency.min(), latency.max()), (ROUNDS, sent + taken, sent + taken));
    // The handler counts the signal; the sender sees it, and goes round its loop.
    let round = sent + taken + sum(&[cost.instruction, cost.line_transfer]);
    let each = run.cycles / ROUNDS;
    assert!((round..round + 3 * sum(&[cost.instruction, cost.spin])).contains(&each), "{each} cycles, not {round}");

    let run = fine(&machine(&ping(ROUNDS), &json!({"enable_ipiv": false}), KVM), None);
    assert_eq!((fate(&run, Fate::Exited), run.machine.account.counts.software_posts), (ROUNDS, ROUNDS));
    let exits = sum(&[cost.msr_write, cost.vm_exit, cost.exit_msr_icr, cost.host_ipi, cost.notification_flight]);
    let least = run.latencies.of(Class::Exited).min();
    let policy = 10 * u64::from(cost.policy_locked);
    assert!((exits + taken..exits + taken + policy).contains(&least), "{least} cycles, not {}", exits + taken);
}

/// The receiver's computation takes as long as it says, and the handler's time on top.
#[test]
fn an_interrupted_computation_is_resumed() {
    let vm = |interrupted: bool| {
        let send = json!({"op": "send", "vector": 0x41, "to": {"vcpu": 1}, "mode": "fixed", "logical": false});
        let sender = if interrupted { json!([{"op": "compute", "cycles": 50_000}, send]) } else { json!([]) };
        json!({"group": [{"vcpus": [0], "program": sender},
                         {"vcpus": [1], "program": [{"op": "compute", "cycles": 200_000}]}],
               "handler": [{"vector": 0x41, "program": [{"op": "compute", "cycles": 7000}, {"op": "eoi"}]}]})
    };
    let alone = fine(&machine(&vm(false), &json!({}), KVM), None);
    let both = fine(&machine(&vm(true), &json!({}), KVM), None);
    assert_eq!(both.machine.account.counts.delivered, 1);
    let cost = costs();
    let handler = cost.notification_processing + cost.delivery + 7000 + cost.msr_write + cost.interrupt_return;
    assert_eq!(both.cycles - alone.cycles, u64::from(handler));
}

fn storm(vcpus: u32, rounds: impl Into<Option<u64>>, modes: bool) -> Value {
    let rounds: Option<u64> = rounds.into();
    let workload = json!({"name": "storm", "rounds": rounds, "halts": true, "mode_switches": modes});
    json!({"vcpus": vcpus, "workload": workload})
}

fn with_chaos(mut config: MachineConfig, seed: u64) -> MachineConfig {
    config.chaos.preempt = true;
    config.chaos.migrate = true;
    config.chaos.toggle_apicv = true;
    config.seed = seed;
    config
}

#[test]
fn every_policy_carries_a_storm() {
    for (policy, urgent) in [(KVM, false), (KVM_5_14, false), (SN_IN_HOST, false), (KVM, true)] {
        for seed in 0..3 {
            let mut config = with_chaos(machine(&storm(8, 300, true), &json!({"pcpus": 3}), policy), seed);
            config.guests[0].device = true;
            config.devices.push(Device { vm: 0, vcpu: None, vectors: vec![0x61], posts: Some(500), urgent, gap: 100 });
            let run = fine(&config, None);
            let counts = run.machine.account.counts;
            assert!(counts.device_posts == 500 && counts.delivered > 1000, "{counts:?}");
            assert_eq!(run.machine.unfinished, 0);
        }
    }
}

#[test]
fn one_seed_is_one_run() {
    let run = |seed| {
        let config = with_chaos(machine(&storm(6, 200, false), &json!({"pcpus": 2}), KVM), seed);
        let run = fine(&config, None);
        (run.cycles, run.log.events().to_vec())
    };
    let (first, again, other) = (run(7), run(7), run(8));
    assert!(first.1.len() > 1000);
    assert_eq!(first, again);
    assert_ne!(first, other);
}

/// The same on every machine, and before and after what makes it faster. A change of the figures is a change of what is
/// modelled, and is said in the changelog.
#[test]
fn one_seed_is_one_run_everywhere() {
    let host = json!({"pcpus": 4, "time_slice": 20});
    let config = with_chaos(machine(&storm(16, 4000, true), &host, KVM), 1);
    let run = fine(&config, None);
    let account = &run.machine.account;
    let (counts, notifications) = (account.counts, account.notifications);
    let figures = [run.cycles, counts.delivered, counts.coalesced, notifications.sent, account.scheduling.entries];
    assert_eq!(figures, [35_326_852, 30_210, 27_726, 7831, 31_802]);
}

/// The wakeup of a vCPU that sleeps may be on its way for longer than the usual time between two looks for lost ones.
#[test]
fn slow_acts_lose_nothing() {
    let config = machine(&storm(6, 100, false), &json!({"pcpus": 6}), KVM);
    for slow in [
        Costs { vm_exit: 10_000_000, ..costs() },
        Costs { post: 10_000_000, ..costs() },
        Costs { notification_flight: 10_000_000, ..costs() },
        Costs { host_ipi: 10_000_000, policy_locked: 10_000_000, ..costs() },
    ] {
        let options = Options { costs: &slow, cycles: None, log: 0, keep_going: &mut |_| true };
        let run = run(&config, options).unwrap();
        assert!(run.machine.violations.is_empty(), "{:?}", run.machine.violations);
    }
}

/// Everyone to everyone at random, so often or without end. `handler`: of a vector that nobody sends.
fn crowd(handler: &Value, times: Option<u64>) -> MachineConfig {
    let body = json!([{"op": "send", "vector": 0x41, "to": "random", "mode": "fixed", "logical": false},
        {"op": "compute", "cycles": 700}]);
    let program = json!([{"op": "loop", "times": times, "body": body}]);
    let group = json!([{"vcpus": (0..48).collect::<Vec<_>>(), "program": program}]);
    let handler = json!([{"vector": 0xF1, "program": handler}]);
    machine(&json!({"vcpus": 48, "group": group, "handler": handler}), &json!({"pcpus": 40}), KVM)
}

/// A guest that could have many interrupts waiting does nothing ahead.
#[test]
fn what_is_done_ahead_changes_nothing_but_the_number_of_turns() {
    let run = |handler: &Value, (times, cycles): (Option<u64>, Option<u64>)| {
        let mut asked = 0;
        let (config, costs) = (crowd(handler, times), Costs { notification_flight: 2503, ..costs() });
        let keep_going = &mut |_| {
            asked += 1;
            true
        };
        let run = run(&config, Options { costs: &costs, cycles, log: 1 << 17, keep_going }).unwrap();
        let latencies: Vec<_> = Class::ALL.iter().map(|&class| run.latencies.of(class).clone()).collect();
        let account = run.machine.account;
        let events = run.log.events().to_vec();
        ((run.cycles, run.spent, account.counts, account.notifications, latencies, events), asked)
    };
    let sends: Vec<_> = (0x60..0x70)
        .map(|vector| json!({"op": "send", "vector": vector, "to": "next", "mode": "fixed", "logical": false}))
        .collect();
    for lasts in [(Some(200), None), (None, Some(300_000))] {
        let (ahead, plain) = (run(&json!([{"op": "eoi"}]), lasts), run(&json!(sends), lasts));
        assert!(ahead.1 < plain.1, "{} {}", ahead.1, plain.1);
        assert!(ahead.0.5.len() > 10_000);
        assert_eq!(ahead.0, plain.0);
    }
}

/// The largest machines have another calendar, which knows in order who acts, and ask for memory by it.
#[test]
fn idle_pcpus_change_nothing_however_many_they_are() {
    let run = |pcpus: u32| {
        let mut config = crowd(&json!([{"op": "eoi"}]), Some(200));
        config.pcpus = pcpus;
        let run = fine(&config, None);
        (run.cycles, run.spent, run.machine.account.counts, run.log.events().to_vec())
    };
    let (few, many) = (run(1000), run(9000));
    assert!(few.3.len() > 10_000);
    assert_eq!(few, many);
}

#[test]
fn events_are_logged_as_far_as_there_is_room() {
    let config = machine(&ping(100), &json!({}), KVM);
    let costs = costs();
    let run = run(&config, Options { costs: &costs, cycles: None, log: 10, keep_going: &mut |_| true }).unwrap();
    assert!(run.log.events().len() == 10 && run.log.more >= 190, "{}", run.log.more);
    let posted = run.log.events().iter().find(|event| event.what == What::Posted).unwrap();
    assert_eq!((posted.vcpu, posted.other, posted.vector), (0, 1, 0xE0));
}

/// A delivery knows the write that sent it; a vCPU is in its guest from each entry to the next exit.
#[test]
fn the_log_has_the_way_of_an_interrupt() {
    for ipiv in [true, false] {
        let config = machine(&ping(20), &json!({"enable_ipiv": ipiv}), KVM);
        let costs = costs();
        let run =
            run(&config, Options { costs: &costs, cycles: None, log: 10_000, keep_going: &mut |_| true }).unwrap();
        let of = |what| run.log.events().iter().filter(move |event| event.what == what).copied().collect::<Vec<_>>();
        let (sent, delivered) = (of(if ipiv { What::Posted } else { What::Routed }), of(What::Delivered));
        assert_eq!((sent.len(), delivered.len(), run.log.more), (20, 20, 0));
        for (sent, delivered) in sent.iter().zip(&delivered) {
            assert_eq!((sent.since, sent.other, sent.vector), (delivered.since, delivered.vcpu, delivered.vector));
            assert!(sent.since < sent.time && sent.time < delivered.time);
        }
        let latencies = run.latencies.of(if ipiv { Class::Running } else { Class::Exited });
        assert!(latencies.max() >= delivered.iter().map(|event| event.time - event.since).max().unwrap());
        for vcpu in 0..2 {
            let mine = run.log.events().iter().filter(|event| event.vcpu == vcpu);
            let turns: Vec<_> = mine.filter(|event| matches!(event.what, What::Entered | What::Left)).collect();
            assert!(turns.len() >= 2);
            for (at, turn) in turns.iter().enumerate() {
                assert_eq!(turn.what, if at % 2 == 0 { What::Entered } else { What::Left });
                let transition = if at % 2 == 0 { costs.vm_entry } else { costs.vm_exit };
                assert_eq!(turn.time - turn.since, u64::from(transition));
            }
        }
    }
}

#[test]
fn a_lost_wakeup_is_found() {
    let config = machine(&storm(16, 100_000, false), &json!({"pcpus": 4}), PRE_IPIV);
    let run = run_with(&config, &costs(), None);
    let kinds: Vec<_> = run.machine.violations.iter().map(|violation| violation.kind).collect();
    assert_eq!(kinds, ["lost-wakeup"], "{:?}", run.machine.violations);
}

#[test]
fn latencies_tell_what_an_interrupt_met() {
    let send = json!({"op": "send", "vector": 0x41, "to": {"vcpu": 1}, "mode": "fixed", "logical": false});
    let after = |cycles: u32, to: &Value| json!([{"op": "compute", "cycles": cycles}, to]);
    let one = |host: &Value, receiver: &Value| {
        let vm =
            json!({"group": [{"vcpus": [0], "program": after(1_000_000, &send)}, {"vcpus": [1], "program": receiver}]});
        let run = fine(&machine(&vm, host, KVM), None);
        Class::ALL.map(|class| run.latencies.of(class).len())
    };
    let busy = json!([{"op": "compute", "cycles": 3_000_000}]);
    assert_eq!(one(&json!({}), &busy), [1, 0, 0, 0, 0, 0]);
    assert_eq!(one(&json!({"pcpus": 1, "time_slice": 400}), &busy), [0, 1, 0, 0, 0, 0]);
    assert_eq!(one(&json!({}), &json!([])), [0, 0, 1, 0, 0, 0]);
    assert_eq!(one(&json!({"enable_ipiv": false}), &busy), [0, 0, 0, 1, 0, 0]);
}

/// A vCPU that sleeps shortly is not put to sleep the next time: its pCPU polls.
#[test]
fn short_sleeps_are_polled_away() {
    let token = |to: u32| json!({"op": "message", "vector": 0xFD, "to": {"vcpu": to}});
    let work = json!({"op": "compute", "cycles": 5000});
    let vm = json!({"group": [
        {"vcpus": [0], "program": [{"op": "loop", "times": 1000, "body": [work, token(1), {"op": "receive"}]}]},
        {"vcpus": [1], "program": [{"op": "loop", "times": 1000, "body": [{"op": "receive"}, work, token(0)]}]}]});
    let config = machine(&vm, &json!({}), KVM);
    let polled = fine(&config, None);
    let not = run_with(&config, &Costs { halt_poll: 0, ..costs() }, None);
    let blocks = |run: &VirtualRun| run.machine.account.scheduling.blocks;
    assert!(blocks(&polled) < 10 && blocks(&not) > 1500, "{} and {}", blocks(&polled), blocks(&not));
    assert!(polled.cycles < not.cycles);
    // Whose pCPU is in the host is not told: it sees PIR.
    let silent = fine(&machine(&vm, &json!({}), SN_IN_HOST), None);
    let sent = |run: &VirtualRun| run.machine.account.notifications.sent;
    assert!(sent(&silent) * 10 < sent(&polled), "{} and {}", sent(&silent), sent(&polled));
}

#[test]
fn who_waits_for_nobody_is_a_stall() {
    let vm = json!({"group": [{"vcpus": [0], "program": [{"op": "wait", "signal": 0, "count": 1}]}]});
    let run = run_with(&machine(&vm, &json!({}), KVM), &costs(), None);
    let [violation] = &run.machine.violations[..] else { panic!("{:?}", run.machine.violations) };
    assert_eq!((violation.kind, run.machine.unfinished), ("stall", 1));
    let [_, first, second] = violation.message.lines().collect::<Vec<_>>()[..] else { panic!("{}", violation.message) };
    assert!(first.contains("vCPU 0: runs, where its program waits for signal 0, PIR"), "{first}");
    assert!(second.contains("vCPU 1: sleeps, at its program's end"), "{second}");
}

/// While both sides spin, nobody acts before an interrupt on its way arrives: that is not the end.
#[test]
fn an_interrupt_on_its_way_is_waited_for() {
    let round = json!([{"op": "call", "to": {"vcpu": 1}, "vector": 0x41}, {"op": "await-calls"}]);
    let vm = json!({
        "group": [{"vcpus": [0], "program": [{"op": "loop", "times": 10_000, "body": round}, {"op": "signal", "signal": 0}]},
                  {"vcpus": [1], "program": [{"op": "wait", "signal": 0, "count": 1}]}],
        "handler": [{"vector": 0x41, "program": [{"op": "answer"}, {"op": "eoi"}]}]});
    let run = fine(&machine(&vm, &json!({}), KVM), None);
    assert_eq!((run.machine.unfinished, run.machine.account.counts.delivered), (0, 10_000));
}

/// A call to a vCPU that polls needs no IPI. While it is on its way back to polling it does not say that it polls: if the
/// next call comes then, that one sends an IPI, which finds it polling, and every second call does.
#[test]
fn calls_to_who_polls_need_no_ipi() {
    const CALLS: u64 = 1000;
    let ipis = |back: u32| {
        let round = json!([{"op": "compute", "cycles": 1000}, {"op": "call", "to": {"vcpu": 1}, "vector": 0x41},
                           {"op": "await-calls"}]);
        let idle = json!([{"op": "poll"}, {"op": "answer"}, {"op": "compute", "cycles": back}]);
        let vm = json!({
            "group": [{"vcpus": [0], "program": [{"op": "loop", "times": CALLS, "body": round}]},
                      {"vcpus": [1], "program": [{"op": "loop", "times": null, "body": idle}]}],
            "handler": [{"vector": 0x41, "program": [{"op": "answer"}, {"op": "eoi"}]}]});
        let run = fine(&machine(&vm, &json!({}), KVM), None);
        assert_eq!(run.machine.unfinished, 0);
        (fate(&run, Fate::Virtualized), run.cycles / CALLS)
    };
    let (none, quick) = ipis(500);
    let (half, slow) = ipis(1500);
    assert!(none <= 1 && half.abs_diff(CALLS / 2) <= 1, "{none} and {half}");
    assert!(quick < 1300 && slow > 1700, "{quick} and {slow} cycles for each call");
}

/// A policy that takes what it does not deliver for a reason to wake: the vCPU halts and goes on for ever.
#[test]
fn who_halts_and_wakes_for_ever_is_a_stall() {
    let halts = json!([{"op": "loop", "times": null, "body": [{"op": "hlt"}]}]);
    let send = json!({"op": "send", "vector": 0xFD, "to": {"vcpu": 1}, "mode": "fixed", "logical": false});
    let sends = json!([{"op": "loop", "times": 100, "body": [{"op": "compute", "cycles": 2_000_000}, send]}]);
    let vm = json!({"group": [{"vcpus": [0], "program": sends}, {"vcpus": [1], "program": halts}]});
    let run = run_with(&machine(&vm, &json!({}), WEDGES), &costs(), None);
    let [violation] = &run.machine.violations[..] else { panic!("{:?}", run.machine.violations) };
    assert_eq!(violation.kind, "stall");
    assert!(violation.message.contains("vCPU 1: runs, at its program's end, PIR [FDH]"), "{}", violation.message);
}

/// Two vCPUs on one pCPU wait for a third that nobody lets go on: they take turns for ever.
#[test]
fn who_waits_and_is_preempted_for_ever_is_a_stall() {
    let waits = json!([{"op": "wait", "signal": 0, "count": 1}]);
    let vm = json!({"vcpus": 3, "group": [{"vcpus": [0, 1, 2], "program": waits}]});
    let run = run_with(&machine(&vm, &json!({"pcpus": 1}), KVM), &costs(), None);
    let [violation] = &run.machine.violations[..] else { panic!("{:?}", run.machine.violations) };
    assert_eq!((violation.kind, run.machine.unfinished), ("stall", 3));
}

/// A vCPU waits for another that never gets its interrupt, and computes until all is over.
#[test]
fn who_waits_for_one_that_only_computes_is_a_stall() {
    const TOLD: u64 = 250_000_000_000;
    let run = |program: Value| {
        let waits = json!([{"op": "wait", "signal": 0, "count": 1}]);
        let endless = json!([{"op": "loop", "times": null, "body": program}]);
        let vm = json!({"group": [{"vcpus": [0], "program": waits}, {"vcpus": [1], "program": endless}]});
        run_with(&machine(&vm, &json!({}), KVM), &costs(), Some(TOLD))
    };
    let stuck = run(json!([{"op": "compute", "cycles": 1_000_000}]));
    let [violation] = &stuck.machine.violations[..] else { panic!("{:?}", stuck.machine.violations) };
    assert_eq!((violation.kind, stuck.machine.unfinished), ("stall", 1));
    assert!(stuck.cycles < TOLD, "{} cycles", stuck.cycles);
    // One that does anything else may yet let it go on: the run lasts until it is told to end.
    let other = run(json!([{"op": "compute", "cycles": 50_000_000}, {"op": "tpr", "value": 0}]));
    assert!(other.cycles >= TOLD, "{} cycles", other.cycles);
}

#[test]
fn endless_loops_end_when_they_are_told() {
    let run = fine(&machine(&storm(4, None, false), &json!({}), KVM), Some(3_000_000));
    let late = run.cycles - 3_000_000;
    assert!(late > 0 && late < 20_000 && run.machine.account.counts.delivered > 100, "{late} cycles");
    // Who polls for a call is told too, and one that calls without end still gets its answer.
    for round in [
        json!([{"op": "compute", "cycles": 1000}]),
        json!([{"op": "call", "to": {"vcpu": 1}, "vector": 0x41}, {"op": "await-calls"}]),
    ] {
        let program = |body: &Value| json!([{"op": "loop", "times": null, "body": body}]);
        let vm = json!({
            "group": [{"vcpus": [0], "program": program(&round)},
                      {"vcpus": [1], "program": program(&json!([{"op": "poll"}, {"op": "answer"}]))}],
            "handler": [{"vector": 0x41, "program": [{"op": "answer"}, {"op": "eoi"}]}]});
        let cycles = fine(&machine(&vm, &json!({}), KVM), Some(3_000_000)).cycles;
        assert!((3_000_001..3_020_000).contains(&cycles), "{cycles}");
    }
}

#[test]
fn it_can_be_stopped() {
    let config = machine(&ping(1000), &json!({}), KVM);
    let costs = costs();
    let run = run(&config, Options { costs: &costs, cycles: None, log: 0, keep_going: &mut |_| false }).unwrap();
    assert!(run.machine.partial && run.machine.unfinished == 1);
}

#[test]
fn vcpus_are_added_and_start_with_sipi() {
    let send = |mode: &str, vector: u8| json!({"op": "send", "vector": vector, "to": {"vcpu": 1}, "mode": mode, "logical": false});
    let vm = json!({"wait_for_sipi": true, "group": [
        {"vcpus": [0], "program": [send("init", 0), send("sipi", 8), {"op": "wait", "signal": 0, "count": 1}]},
        {"vcpus": [1], "program": [{"op": "signal", "signal": 0}]}]});
    let run = fine(&machine(&vm, &json!({}), KVM), None);
    assert_eq!((run.machine.unfinished, run.machine.account.counts.signalled), (0, 2));
    let mut vm = storm(4, None, false);
    vm["max_vcpu_ids"] = json!(16);
    let scenario = machine(&vm, &json!({}), KVM);
    let config = MachineConfig { chaos: Chaos { hot_add: 3, ..Chaos::default() }, ..scenario };
    let config = MachineConfig {
        guests: vec![Guest {
            config: VmConfig { spare_vcpus: 3, ..config.guests[0].config.clone() },
            ..config.guests[0].clone()
        }],
        ..config
    };
    assert_eq!(fine(&config, Some(20_000_000)).machine.vms[0].vcpus, 7);
}

#[test]
fn a_profile_with_a_mistake_is_refused() {
    let text = |change: &dyn Fn(&mut Value)| {
        let mut whole: Value = Costs::FIELDS
            .iter()
            .map(|&(name, ..)| (name.to_owned(), json!(7)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        whole["hz"] = json!(1_000_000);
        change(&mut whole);
        Costs::from_json(&whole.to_string()).map_err(|error| error.to_string())
    };
    assert!(text(&|_| {}).is_ok());
    assert_eq!(text(&|it| it["vm_exit"] = json!(0)).unwrap_err(), "vm_exit must be 1 or more");
    assert_eq!(text(&|it| it["hz"] = json!(999)).unwrap_err(), "hz must be 1000000 or more");
    assert!(text(&|it| it["vm_exits"] = json!(1)).unwrap_err().contains("vm_exits"));
    assert!(text(&|it| it["policy_look"] = json!(0)).is_ok());
}

/// Whom handlers keep busy for ever the end of the run does not wait for: neither for programs that have ended nor for those
/// that come to nothing.
#[test]
fn handlers_that_send_each_other_interrupts_do_not_keep_the_run_going() {
    let send = |to: Value| json!({"op": "send", "vector": 0x41, "to": to, "mode": "fixed", "logical": false});
    let own = json!({"op": "self-ipi", "vector": 0x41});
    let endless = json!({"op": "loop", "times": null, "body": [{"op": "compute", "cycles": 100}]});
    let cases = [
        (json!([send(json!({"vcpu": 1})), endless]), json!([{"op": "eoi"}, send(json!("next"))]), None),
        (json!([send(json!({"vcpu": 1}))]), json!([{"op": "eoi"}, send(json!("next"))]), None),
        (json!([own, endless]), json!([own, {"op": "eoi"}]), Some(100_000)),
    ];
    for (program, handler, told) in cases {
        let vm =
            json!({"group": [{"vcpus": [0], "program": program}], "handler": [{"vector": 0x41, "program": handler}]});
        let run = fine(&machine(&vm, &json!({}), KVM), told.or(Some(1_000_000)));
        assert!(run.machine.account.counts.delivered > 10 && run.cycles < 50_000_000, "{}", run.cycles);
    }
}

/// Nothing more happens, and time goes on until the run is told to end; where it is not, it is over.
#[test]
fn a_run_whose_guests_all_sleep_lasts_as_long_as_it_is_told() {
    let send = json!({"op": "send", "vector": 0x41, "to": "next", "mode": "fixed", "logical": false});
    let sleeps = json!([send, {"op": "hlt"}, {"op": "hlt"}, {"op": "hlt"}]);
    let config = machine(&json!({"group": [{"vcpus": [0, 1], "program": sleeps}]}), &json!({}), KVM);
    for told in [300_000_000, 20_000_000] {
        let run = fine(&config, Some(told));
        assert_eq!((run.cycles, run.machine.unfinished), (told, 2));
    }
    let run = fine(&config, None);
    let last = run.log.events().last().unwrap().time;
    assert!((last..last + 2000).contains(&run.cycles), "{} cycles, {last}", run.cycles);
}
