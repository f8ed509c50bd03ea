//! Recordings in virtual time.

use super::*;
use crate::engine::virtual_time::Class;
use crate::intake::{self, read};
use crate::record::Fate;
use std::path::Path;

const KVM: &str = include_str!("../../../python/ipivrs/policies/kvm.policy");

/// Costs of the size that they have on a processor.
fn costs() -> Costs {
    let cost = |name: &str| match name {
        "instruction" | "policy_look" => 4,
        "policy_locked" | "spin" | "halt_poll_spin" => 40,
        "halt_poll" => 400_000,
        "halt_poll_start" => 20_000,
        _ => 300,
    };
    let mut costs: serde_json::Map<_, _> =
        Costs::FIELDS.iter().map(|&(name, ..)| (name.to_owned(), cost(name).into())).collect();
    costs.insert("hz".to_owned(), 2_000_000_000_u64.into());
    Costs::from_json(&serde_json::Value::from(costs).to_string()).unwrap()
}

fn run(recording: &Recording) -> Timed {
    let costs = costs();
    let options = TimedOptions {
        costs: &costs,
        policy: Policy::parse(KVM).unwrap(),
        last_index: None,
        keep_going: &mut |_| true,
    };
    let timed = timed(recording, options).unwrap();
    for side in [&timed.with, &timed.without] {
        let machine = &side.run.machine;
        assert!(machine.violations.is_empty(), "{:#?}", machine.violations);
        let counts = machine.account.counts;
        assert_eq!(machine.account.posts(), counts.delivered + counts.coalesced + counts.discarded + machine.pending);
        assert!(side.run.fates.iter().flatten().count() == recording.ipis.len() && machine.unfinished == 0);
    }
    timed
}

fn options() -> intake::Options {
    intake::Options { absences: true, ..intake::Options::default() }
}

fn text(lines: &[&str]) -> Recording {
    let text = lines.join("\n") + "\n";
    let path =
        std::env::temp_dir().join(format!("ipivrs-timed-{}-{:?}.txt", std::process::id(), std::thread::current().id()));
    std::fs::write(&path, text).unwrap();
    let recording = read(&path, &options());
    std::fs::remove_file(&path).unwrap();
    recording.unwrap()
}

const ENTRY_0: &str = "q 7 [000] 1.000000: kvm:kvm_entry: vcpu 0, rip 0x1";
const ENTRY_1: &str = "q 8 [001] 1.000000: kvm:kvm_entry: vcpu 1, rip 0x1";

fn ipi(time: &str) -> [String; 2] {
    [
        format!("q 7 [000] {time}0: kvm:kvm_apic_ipi: dst 1 vec 251 (Fixed|physical|de-assert|edge|dst)"),
        format!("q 7 [000] {time}1: kvm:kvm_msr: msr_write 830 = 0x1000000fb"),
    ]
}

fn classes(side: &Side) -> Vec<(&'static str, u64)> {
    let count = |class: Class| (class.name(), side.run.latencies.of(class).len());
    Class::ALL.into_iter().map(count).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn an_interrupt_meets_its_vcpu_where_the_recording_has_it() {
    let halt = [
        "q 8 [001] 1.000100: kvm:kvm_exit: vcpu 1 reason HLT rip 0x1 info1 0x0",
        "q 8 [001] 1.000400: kvm:kvm_entry: vcpu 1, rip 0x1",
    ];
    let out = "q 8 [001] 1.000500: sched:sched_switch: prev_comm=q prev_pid=8 prev_prio=120 prev_state=R ==> next_comm=x next_pid=9 next_prio=120";
    let back = "x 9 [001] 1.000900: sched:sched_switch: prev_comm=x prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=q next_pid=8 next_prio=120";
    let sends = [ipi("1.00005"), ipi("1.00030"), ipi("1.00045"), ipi("1.00070")];
    let [running, halted, between, preempted] = sends.each_ref().map(|pair| pair.each_ref().map(String::as_str));
    let lines =
        [&[ENTRY_0, ENTRY_1][..], &running, &halt[..1], &halted, &halt[1..], &between, &[out], &preempted, &[back]];
    let timed = run(&text(&lines.concat()));
    // A halt of 200 us is polled away the first time it seems short: the class is what the processor met.
    assert_eq!(timed.with.summary.ipis.virtualized, 4);
    assert_eq!(classes(&timed.with), [("running", 2), ("preempted", 1), ("blocked", 1)]);
    assert_eq!(classes(&timed.without), [("exited", 4)]);
    // Until it is back: 200 us, at the profile's cycles.
    let latency = timed.with.run.latencies.of(Class::Preempted).max();
    let least = costs().hz / 5000;
    assert!((least..least + least / 10).contains(&latency), "{latency} cycles, not {least}");
    assert_eq!(timed.with.run.machine.account.scheduling.preemptions, 1);
}

/// What the host does with the sender's pCPU is no part of the sending.
#[test]
fn a_sender_that_is_preempted_does_not_send_meanwhile() {
    let out = "q 7 [000] 1.000100500: sched:sched_switch: prev_comm=q prev_pid=7 prev_prio=120 prev_state=R ==> next_comm=x next_pid=9 next_prio=120";
    let back = "x 9 [000] 1.000900: sched:sched_switch: prev_comm=x prev_pid=9 prev_prio=120 prev_state=S ==> next_comm=q next_pid=7 next_prio=120";
    let send = ipi("1.00010");
    let timed = run(&text(&[ENTRY_0, ENTRY_1, &send[0], &send[1], out, back]));
    let [with, without] = [&timed.with, &timed.without].map(|side| side.run.spent.sending);
    assert_eq!(timed.without.run.machine.account.scheduling.preemptions, 1);
    assert!(with < without && without < 5000, "{without} cycles; it was away for 1,600,000");
}

#[test]
fn a_halt_that_no_interrupt_ends_ends_when_it_did() {
    let send = ipi("1.00090");
    let lines = [
        ENTRY_0,
        ENTRY_1,
        "q 7 [000] 1.000800: kvm:kvm_vcpu_wakeup: wait time 700000 ns, polling valid",
        &send[0],
        &send[1],
    ];
    let timed = run(&text(&lines));
    let counts = timed.with.run.machine.account.counts;
    assert_eq!((counts.device_posts, counts.delivered, counts.fates[usize::from(Fate::Virtualized.code())]), (1, 2, 1));
    let late = ipi("1.00050");
    let lines = [
        ENTRY_0,
        ENTRY_1,
        &late[0],
        &late[1],
        "q 8 [001] 1.000800: kvm:kvm_vcpu_wakeup: wait time 700000 ns, polling valid",
    ];
    let timed = run(&text(&lines));
    assert_eq!(timed.with.run.machine.account.counts.device_posts, 0, "the IPI ended it");
}

/// Timers that are due at the same time do not wait for each other: soon afterwards the last vCPU is in its guest too.
#[test]
fn timers_ring_at_their_times() {
    const VCPUS: u32 = 16;
    let entry = |vcpu: u32| format!("q {} [000] 1.000000: kvm:kvm_entry: vcpu {vcpu}, rip 0x1", 100 + vcpu);
    let wakeup =
        |vcpu: u32| format!("q {} [000] 1.000800: kvm:kvm_vcpu_wakeup: wait time 700000 ns, polling valid", 100 + vcpu);
    let send = [
        "q 100 [000] 1.00080150: kvm:kvm_apic_ipi: dst f vec 251 (Fixed|physical|de-assert|edge|dst)".to_owned(),
        "q 100 [000] 1.00080151: kvm:kvm_msr: msr_write 830 = 0xf000000fb".to_owned(),
    ];
    let lines: Vec<_> = (0..VCPUS).map(entry).chain((0..VCPUS).map(wakeup)).chain(send).collect();
    let timed = run(&text(&lines.iter().map(String::as_str).collect::<Vec<_>>()));
    assert_eq!(classes(&timed.with), [("running", 1), ("device", 16)]);
    // From when it rings: to post it and to wake a vCPU are parts of it, and so are ten steps of the policy on its way.
    let (costs, timers) = (costs(), timed.with.run.latencies.of(Class::Device));
    let way =
        [costs.wake, costs.idle_exit, costs.context_switch, costs.vm_entry, costs.delivery, 10 * costs.policy_locked];
    assert!(timers.min() >= way.into_iter().map(u64::from).sum(), "{} cycles", timers.min());
}

#[test]
fn what_is_saved_is_an_exit_for_each_interrupt() {
    let sends = [ipi("1.00010"), ipi("1.00020"), ipi("1.00030")];
    let lines: Vec<_> = [ENTRY_0, ENTRY_1].into_iter().chain(sends.iter().flatten().map(String::as_str)).collect();
    let Timed { with, without, .. } = run(&text(&lines));
    let exits = |side: &Side| side.run.machine.account.exits.values().sum::<u64>();
    assert_eq!(exits(&without) - exits(&with), 3);
    let costs = costs();
    let exit = u64::from(costs.vm_exit + costs.exit_msr_icr + costs.host_ipi + costs.vm_entry);
    let sending = without.run.spent.sending / 3 - u64::from(costs.msr_write);
    assert!((exit..exit + 20 * u64::from(costs.policy_locked)).contains(&sending), "{sending} cycles, not {exit}");
    assert_eq!(with.run.spent.sending, 3 * u64::from(costs.msr_write + costs.post));
    // To load a vCPU is some steps more with IPI virtualization.
    let more = 3 * sending - (without.run.spent.exits - with.run.spent.exits);
    assert!(more <= 20 * u64::from(costs.policy_locked), "{more} cycles");
}

#[test]
fn every_recording_runs_and_is_the_same_twice() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut files: Vec<_> = std::fs::read_dir(examples).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "data" || extension == "txt"));
    assert!(files.len() > 10);
    for path in files {
        let recording = read(&path, &options()).unwrap();
        let (once, again) = (run(&recording), run(&recording));
        assert_eq!(once.with.summary.columns.fate, again.with.summary.columns.fate);
        let sent = once.with.run.fates.iter().flatten();
        assert!(sent.clone().all(|(fate, clause)| clause.is_some() || *fate == Fate::Violation), "{}", path.display());
        assert_eq!((once.with.run.cycles, once.with.run.spent), (again.with.run.cycles, again.with.run.spent));
        assert_eq!(
            (once.without.run.cycles, once.without.run.spent),
            (again.without.run.cycles, again.without.run.spent)
        );
    }
}
