//! Which pCPU a vCPU goes on with, and when an idle one is awake.

use super::*;

/// vCPU 1 sleeps until vCPU 0 sends it an interrupt, long after.
fn sleeper() -> Value {
    let send = json!({"op": "send", "vector": 0x41, "to": {"vcpu": 1}, "mode": "fixed", "logical": false});
    let after = json!({"op": "compute", "cycles": 5000});
    json!({"group": [{"vcpus": [0], "program": [{"op": "compute", "cycles": 4_000_000}, send, after]},
                     {"vcpus": [1], "program": [{"op": "hlt"}]}]})
}

/// Whichever way it is woken, by a notification or by its sender, an idle pCPU leaves its sleep first.
#[test]
fn an_idle_pcpu_takes_its_time() {
    for (enable_ipiv, class) in [(true, Class::Blocked), (false, Class::Exited)] {
        let config = machine(&sleeper(), &json!({"pcpus": 4, "enable_ipiv": enable_ipiv}), KVM);
        let latency = |idle_exit| {
            let run = run_with(&config, &Costs { idle_exit, ..costs() }, None);
            run.latencies.of(class).min()
        };
        let more = latency(1500).abs_diff(latency(700));
        // Above 2,047 cycles the histogram tells only so much apart.
        assert!((792..=808).contains(&more), "{class:?}: {more} of 800 cycles");
    }
}

/// A vCPU that is woken on an idle pCPU is run by it, though another idles as well, or begins to.
#[test]
fn who_is_woken_stays_where_it_was() {
    let works = json!({"op": "compute", "cycles": 400_000});
    let tells = |other: u32| json!({"op": "message", "to": {"vcpu": other}, "vector": 0xFD});
    let rounds = |body: Value| json!([{"op": "loop", "times": 50, "body": body}]);
    let vm = json!({"group": [
        {"vcpus": [0], "program": rounds(json!([works, tells(1), {"op": "receive"}]))},
        {"vcpus": [1], "program": rounds(json!([{"op": "receive"}, works, tells(0)]))}]});
    // Whoever wakes it is asleep before its pCPU is awake.
    let slow = Costs { halt_poll: 0, idle_exit: 100_000, ..costs() };
    for host in [json!({"enable_ipiv": false}), json!({})] {
        let run = run_with(&machine(&vm, &host, KVM), &slow, None);
        let scheduling = run.machine.account.scheduling;
        assert_eq!((scheduling.wakeups > 50, scheduling.migrations), (true, 0), "{scheduling:?}");
    }
}

/// A pCPU that becomes idle takes a vCPU that waits elsewhere; who is woken where somebody runs goes to a pCPU that is free.
#[test]
fn nobody_waits_while_a_pcpu_is_free() {
    let compute = |cycles: u32| json!([{"op": "compute", "cycles": cycles}]);
    let vm = json!({"vcpus": 3, "group": [{"vcpus": [0, 2], "program": compute(10_000_000)}, {"vcpus": [1], "program": compute(1000)}]});
    let run = fine(&machine(&vm, &json!({}), KVM), None);
    assert!(run.cycles < 11_000_000, "{} cycles, as if they had shared", run.cycles);

    // vCPU 2 slept on vCPU 0's pCPU.
    let wake = json!([{"op": "compute", "cycles": 3_000_000},
        {"op": "send", "vector": 0x41, "to": {"vcpu": 2}, "mode": "fixed", "logical": false}, {"op": "compute", "cycles": 9_000_000}]);
    let sleeps = json!([{"op": "hlt"}, {"op": "compute", "cycles": 9_000_000}]);
    let vm = json!({"vcpus": 3, "group": [{"vcpus": [0], "program": wake}, {"vcpus": [1], "program": compute(2_000_000)},
        {"vcpus": [2], "program": sleeps}]});
    let run = fine(&machine(&vm, &json!({}), KVM), None);
    assert_eq!(run.machine.account.scheduling.migrations, 1);
    assert!(run.cycles < 13_000_000, "{} cycles, as if they had shared", run.cycles);
}

/// Two pCPUs. A vCPU that computes so long sleeps about when the other pCPU's slice ends, and that pCPU's queue is taken over.
fn about_the_end_of_a_slice(cycles: u64) -> MachineConfig {
    let send = |vector: u8, to: u32| json!({"op": "send", "vector": vector, "to": {"vcpu": to}, "mode": "fixed", "logical": false});
    let vm = json!({"vcpus": 5, "group": [
        {"vcpus": [0], "program": [{"op": "hlt"}, send(0xF1, 2), {"op": "wait", "signal": 0, "count": 1}]},
        {"vcpus": [1], "program": [{"op": "hlt"}, send(0xF0, 0), {"op": "compute", "cycles": cycles}, {"op": "hlt"}]},
        {"vcpus": [2], "program": [{"op": "hlt"}, {"op": "signal", "signal": 0}]},
        {"vcpus": [3], "program": [send(0xF5, 1)]},
        {"vcpus": [4], "program": [{"op": "loop", "times": null, "body": [{"op": "compute", "cycles": 10_000}]}]}]});
    machine(&vm, &json!({}), KVM)
}

/// A slice whose end finds nobody waiting is followed by another: whoever comes then does not wait for ever.
#[test]
fn nobody_waits_for_longer_than_a_slice() {
    for cycles in (470_000..500_000).step_by(100) {
        let run = fine(&about_the_end_of_a_slice(cycles), Some(5_000_000));
        let most = Class::ALL.iter().map(|&class| run.latencies.of(class).max()).max().unwrap_or(0);
        assert!(most < 550_000, "{most} cycles after a computation of {cycles}");
    }
}

/// How long a vCPU's pCPU polls is learnt from its own sleeps, whoever else halts there meanwhile.
#[test]
fn each_vcpu_learns_from_its_own_halts() {
    let send = |to: u32| json!({"op": "send", "vector": 0x41, "to": {"vcpu": to}, "mode": "fixed", "logical": false});
    let compute = |cycles: u32| json!({"op": "compute", "cycles": cycles});
    let round = json!([compute(1_900_000), send(2), compute(100_000), send(1), compute(150_000), send(1)]);
    let sleeps = json!([{"op": "loop", "times": null, "body": [{"op": "hlt"}]}]);
    let vm = json!({"vcpus": 3, "group": [
        {"vcpus": [0], "program": [compute(3_000_000), {"op": "loop", "times": 50, "body": round}]},
        {"vcpus": [1, 2], "program": sleeps}]});
    let run = fine(&machine(&vm, &json!({}), KVM), Some(1_000_000_000));
    let [polled, slept] = [Class::Running, Class::Blocked].map(|class| run.latencies.of(class).len());
    assert_eq!((polled, slept), (0, 150), "after 2,000,000 cycles nobody polls for 150,000");
}

/// Who polls gives way to whom somebody else wakes there. (`kvm_vcpu_can_poll`)
#[test]
fn nobody_waits_for_the_end_of_polling() {
    let send = |vector: u8, to: u32| json!({"op": "send", "vector": vector, "to": {"vcpu": to}, "mode": "fixed", "logical": false});
    let compute = |cycles: u32| json!({"op": "compute", "cycles": cycles});
    let teaches = json!({"op": "loop", "times": 12, "body": [send(0xF2, 3), compute(150_000)]});
    let program = json!([compute(1_000_000), teaches, send(0xF2, 3), compute(20_000), send(0xF1, 1), compute(500_000)]);
    let sleeps = json!([{"op": "loop", "times": null, "body": [{"op": "hlt"}]}]);
    let vm = json!({"vcpus": 4, "group": [{"vcpus": [0], "program": program}, {"vcpus": [1, 3], "program": sleeps}]});
    let run = fine(&machine(&vm, &json!({"enable_ipiv": false}), KVM), Some(10_000_000));
    let exited = run.latencies.of(Class::Exited);
    assert!(exited.len() == 14 && exited.max() < 20_000, "{} cycles", exited.max());
}

/// Where a program waits for what never comes the run lasts until the last act, whatever ended before.
#[test]
fn a_run_lasts_as_long_as_somebody_acts() {
    let send = json!({"op": "send", "vector": 0x41, "to": {"vcpu": 1}, "mode": "fixed", "logical": false});
    let sends = json!([{"op": "loop", "times": 100, "body": [send, {"op": "compute", "cycles": 5000}]}, {"op": "hlt"}]);
    let ends = json!([{"op": "compute", "cycles": 100}]);
    let vm = json!({"vcpus": 3, "group": [{"vcpus": [0], "program": sends}, {"vcpus": [1, 2], "program": ends}]});
    for cycles in [None, Some(2000), Some(100_000)] {
        let run = fine(&machine(&vm, &json!({}), KVM), cycles);
        let last = run.log.events().last().map_or(0, |event| event.time);
        assert!((last..last + 10_000).contains(&run.cycles) && last > 500_000, "{} cycles, {last}", run.cycles);
    }
    let run = fine(&machine(&vm, &json!({}), KVM), Some(7_000_000));
    assert_eq!(run.cycles, 7_000_000, "all sleep until then");
}
