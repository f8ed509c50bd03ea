//! The other engines: IPIs a second in virtual time, states a second in the explorer, what a large VM costs.

use super::{Figure, NotMeasured, clock, median};
use crate::engine::explore::{self, Bounds, Limits, Model, Verdict};
use crate::engine::machine::MachineConfig;
use crate::engine::virtual_time::{self, Costs, Options, VirtualRun};
use crate::hypervisor::policy::Policy;
use crate::scenario::Scenario;
use serde_json::{Value, json};

const STORM_IPIS: u64 = 1_000_000;
const LEAST_ROUNDS: u64 = 32;
/// About as long takes a round of a storm.
const ROUND_CYCLES: u64 = 1500;
/// So many rounds before what is measured vCPUs enter their guests, and fall out of step.
const FIRST_ROUNDS: u64 = 4;
const LARGE_VCPUS: u32 = 65_536;
const TIMES: usize = 3;

pub(super) fn reason(error: impl std::fmt::Display) -> NotMeasured {
    NotMeasured(error.to_string())
}

/// A machine of one VM with KVM's usual set-up, with IPI virtualization or without it.
pub(super) fn machine(
    policy: &str,
    enable_ipiv: bool,
    vcpus: u32,
    pcpus: u32,
    workload: &Value,
    group: &Value,
) -> Result<MachineConfig, NotMeasured> {
    let scenario = json!({
        "seed": 1,
        "processor": {"model": "sapphire-rapids", "pinbased_ctls": null, "procbased_ctls": null,
            "procbased_ctls2": null, "procbased_ctls3": null, "max_phys_addr_bits": null},
        "host": {"pcpus": pcpus, "time_slice": 10_000, "apic": "x2apic", "enable_apicv": true, "enable_ipiv": enable_ipiv,
            "apic_id_rewrite": "inhibit"},
        "chaos": {"preempt": false, "migrate": false, "toggle_apicv": false, "hot_add": 0},
        "vm": [{"vcpus": vcpus, "apic": "x2apic", "max_vcpu_ids": null, "last_index": null, "assigned_device": false,
            "wait_for_sipi": false, "workload": workload, "group": group, "handler": []}],
        "device": []
    });
    let policy = Policy::parse(policy).map_err(reason)?;
    Scenario::from_json(&scenario.to_string()).map_err(reason)?.machine(policy).map_err(reason)
}

/// Seconds of a run in virtual time, and its IPIs.
///
/// # Errors
/// The machine cannot be made, or something happened that must not.
pub fn timed(config: &MachineConfig, costs: &Costs) -> Result<(f64, f64), NotMeasured> {
    let begin = clock();
    let ipis = ipis(config, costs, None, &mut |_| true)?;
    Ok((clock() - begin, ipis))
}

/// IPIs of a run, whose endless loops end after so many cycles.
fn ipis(
    config: &MachineConfig,
    costs: &Costs,
    cycles: Option<u64>,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<f64, NotMeasured> {
    Ok(ipis_and_cycles(config, costs, cycles, keep_going)?.0)
}

/// The same, and the cycles until its end.
pub(super) fn ipis_and_cycles(
    config: &MachineConfig,
    costs: &Costs,
    cycles: Option<u64>,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<(f64, f64), NotMeasured> {
    let run: VirtualRun = virtual_time::run(config, Options { costs, cycles, log: 0, keep_going }).map_err(reason)?;
    if let Some(violation) = run.machine.violations.first() {
        return Err(reason(&violation.message));
    }
    let sent: u64 = run.machine.account.counts.fates.iter().sum();
    Ok((sent as f64, run.cycles as f64))
}

/// Seconds of a machine that is made from its first turn to so many cycles, when its loops end, and its IPIs.
fn timed_turns(config: &MachineConfig, costs: &Costs, cycles: u64) -> Result<(f64, f64), NotMeasured> {
    let (mut first, mut last) = (None, 0.0);
    let ipis = ipis(config, costs, Some(cycles), &mut |now| {
        // It is asked before the first turn, and then once in so many.
        if now < cycles {
            last = clock();
            first.get_or_insert(last);
        }
        true
    })?;
    Ok((last - first.unwrap_or(last), ipis))
}

/// Each vCPU sends, on a pCPU of its own.
#[derive(Clone, Copy, Debug)]
pub struct Storm<'a> {
    /// How many they are.
    pub vcpus: u32,
    /// To everyone at `"random"`, or to the `"next"`.
    pub to: &'a str,
    /// With IPI virtualization; without it each IPI exits.
    pub enable_ipiv: bool,
}

impl Storm<'_> {
    /// Everyone to everyone, with IPI virtualization.
    #[must_use]
    pub const fn of(vcpus: u32) -> Self {
        Self { vcpus, to: "random", enable_ipiv: true }
    }
}

/// A storm in which each vCPU sends so often, or without end.
pub(super) fn storm_machine(
    policy: &str,
    Storm { vcpus, to, enable_ipiv }: Storm<'_>,
    rounds: Option<u64>,
) -> Result<MachineConfig, NotMeasured> {
    let body = json!([{"op": "send", "vector": 0x41, "to": to, "mode": "fixed", "logical": false},
        {"op": "compute", "cycles": 1000}]);
    let program = json!([{"op": "loop", "times": rounds, "body": body}]);
    let numbers: Vec<u32> = (0..vcpus).collect();
    machine(policy, enable_ipiv, vcpus, vcpus, &json!(null), &json!([{"vcpus": numbers, "program": program}]))
}

/// The policy with all its states within `bounds`, found by so many threads.
///
/// # Errors
/// The policy cannot be explored.
pub fn explored(policy: &str, bounds: &Bounds, threads: usize) -> Result<Verdict, NotMeasured> {
    let policy = Policy::parse(policy).map_err(reason)?;
    let model = Model::new(&policy, bounds).map_err(reason)?;
    let limits = Limits { threads, max_states: usize::MAX, max_bytes: usize::MAX };
    explore::check(&model, &limits, &mut |_| true).map_err(reason)
}

/// Seconds of one IPI in a storm in virtual time, beside one in the same storm of 64 vCPUs. Neither the machine's making is in
/// them, nor that vCPUs enter their guests for the first time, nor the end.
///
/// # Errors
/// The machine cannot be made.
pub fn storm(policy: &str, storm: Storm<'_>, costs: &Costs) -> Result<Figure, NotMeasured> {
    let each = |vcpus: u32| {
        let config = storm_machine(policy, Storm { vcpus, ..storm }, None)?;
        let of = |rounds: u64| timed_turns(&config, costs, rounds * ROUND_CYCLES);
        let rounds = (STORM_IPIS / u64::from(vcpus)).max(LEAST_ROUNDS);
        let (few, many) = (of(FIRST_ROUNDS)?, of(FIRST_ROUNDS + rounds)?);
        Ok((many.0 - few.0) / (many.1 - few.1))
    };
    let rounds: Result<Vec<_>, NotMeasured> = (0..TIMES).map(|_| Ok((each(64)?, each(storm.vcpus)?))).collect();
    Ok(Figure::of_rounds(&rounds?))
}

/// States a second of the explorer on one core: the policy with two senders and one preemption.
///
/// # Errors
/// The policy cannot be explored.
pub fn explorer(policy: &str) -> Result<f64, NotMeasured> {
    let bounds = Bounds { senders: 2, preemptions: 1, ..Bounds::default() };
    let rate = |_| {
        let begin = clock();
        let states = explored(policy, &bounds, 1)?.states;
        Ok(states as f64 / (clock() - begin))
    };
    let rates: Result<Vec<_>, _> = (0..TIMES).map(rate).collect();
    Ok(median(rates?.into_iter()))
}

/// A VM of 65,536 vCPUs: seconds until all are about to run, and the bytes of memory touched for each.
///
/// # Errors
/// The machine cannot be made, or this system does not tell how much memory a process has.
pub fn large_vm(policy: &str, costs: &Costs) -> Result<(f64, f64), NotMeasured> {
    let workload = json!({"name": "ping", "rounds": 1, "vector": 0xE0});
    let config = machine(policy, true, LARGE_VCPUS, 64, &workload, &json!([]))?;
    let builds: Result<Vec<_>, _> = (0..TIMES).map(|_| build(&config, costs)).collect();
    let builds = builds?;
    // The first finds least memory that was given back before; and it may wait until the kernel has huge pages together.
    let bytes = builds.iter().map(|&(_, bytes)| bytes).fold(0.0, f64::max);
    Ok((median(builds.into_iter().map(|(seconds, _)| seconds)), bytes / f64::from(LARGE_VCPUS)))
}

/// Seconds until all vCPUs are about to run, and bytes that this process has more then.
fn build(config: &MachineConfig, costs: &Costs) -> Result<(f64, f64), NotMeasured> {
    let before = resident()?;
    let begin = clock();
    let mut made = None;
    // Asked for the first time when all is built.
    let mut keep_going = |_| {
        made.get_or_insert_with(|| (clock() - begin, resident()));
        false
    };
    virtual_time::run(config, Options { costs, cycles: None, log: 0, keep_going: &mut keep_going }).map_err(reason)?;
    let (seconds, after) = made.ok_or_else(|| NotMeasured("the machine did not begin to run".to_owned()))?;
    Ok((seconds, after? - before))
}

/// Bytes of this process in memory.
fn resident() -> Result<f64, NotMeasured> {
    let status = std::fs::read_to_string("/proc/self/status").map_err(reason)?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.map(|kib| kib * 1024.0).ok_or_else(|| NotMeasured("no VmRSS in /proc/self/status".to_owned()))
}
