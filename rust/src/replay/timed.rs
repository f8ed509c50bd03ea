//! A recording in virtual time: who sends, who halts and who is preempted at the recorded times, with IPI virtualization
//! and without it.

use super::{Machines, programs};
use crate::arch::ApicMode;
use crate::engine::machine::{Chaos, Guest, MachineConfig, MachineError};
use crate::engine::virtual_time::{Costs, Options, Preemption, VirtualRun, run_recorded};
use crate::guest::{GuestCode, Program, RecordedLife, Sends};
use crate::hypervisor::policy::Policy;
use crate::hypervisor::{Apicv, VmConfig};
use crate::intake::{Absence, Evidence, Recording};
use crate::record::{Delivery, Ledger, Summary};

/// Before the first record and behind the last, so that all vCPUs are in their guests first and all interrupts arrive: in
/// parts of a second.
const MARGIN: u64 = 10_000;
const NS: u128 = 1_000_000_000;

/// How a recording is run.
pub struct TimedOptions<'a> {
    /// What acts cost.
    pub costs: &'a Costs,
    /// The posted-interrupt protocol.
    pub policy: Policy,
    /// Last PID-pointer index of each VM; the highest APIC ID if none is given.
    pub last_index: Option<u16>,
    /// Asked some times a second; when it says no the run stops where it is.
    pub keep_going: &'a mut dyn FnMut(u64) -> bool,
}

/// One of both runs.
#[derive(Clone, Debug)]
pub struct Side {
    /// The interrupts, as of a run on threads.
    pub summary: Summary,
    /// The whole.
    pub run: VirtualRun,
}

/// A recording, run both ways.
#[derive(Clone, Debug)]
pub struct Timed {
    /// With IPI virtualization.
    pub with: Side,
    /// Without it: KVM's `enable_ipiv=0`.
    pub without: Side,
    /// What the recording does not show and was assumed, one sentence each.
    pub notes: Vec<String>,
}

/// Runs a recording in virtual time, with IPI virtualization and without it.
///
/// # Errors
/// VMs that cannot be made of the recording's vCPUs.
pub fn timed(recording: &Recording, options: TimedOptions<'_>) -> Result<Timed, MachineError> {
    let TimedOptions { costs, policy, last_index, keep_going } = options;
    let machines = Machines::new(recording, last_index);
    let sends = programs(recording, &machines.position);
    let clock = Clock { hz: u128::from(costs.hz), start_ns: recording.start_ns };
    let mut side = |enable_ipiv| -> Result<Side, MachineError> {
        let config = machine(recording, &machines, &sends, clock, &policy, enable_ipiv);
        let preemptions = preemptions(recording, &machines.position, clock);
        let run = run_recorded(&config, Options { costs, cycles: None, log: 0, keep_going }, preemptions)?;
        Ok(Side { summary: summary(&sends, &run), run })
    };
    Ok(Timed { with: side(true)?, without: side(false)?, notes: notes(recording) })
}

/// From the recording's clock to cycles.
#[derive(Clone, Copy)]
struct Clock {
    hz: u128,
    start_ns: u64,
}

impl Clock {
    const fn margin(self) -> u64 {
        self.hz as u64 / MARGIN
    }

    fn cycles(self, time_ns: u64) -> u64 {
        let since = u128::from(time_ns.saturating_sub(self.start_ns));
        self.margin().saturating_add(u64::try_from(since * self.hz / NS).unwrap_or(u64::MAX / 4))
    }
}

fn machine(
    recording: &Recording,
    machines: &Machines,
    sends: &[Sends],
    clock: Clock,
    policy: &Policy,
    enable_ipiv: bool,
) -> MachineConfig {
    let end = clock.cycles(recording.start_ns.saturating_add(recording.span_ns)) + clock.margin();
    let mut halts = vec![Vec::new(); sends.len()];
    for absence in recording.absences.list.iter().filter(|absence| absence.halted) {
        if let Some(of) = machines.position.get(absence.vcpu as usize).and_then(|&at| halts.get_mut(at)) {
            of.push(*absence);
        }
    }
    let mut place = 0;
    let guest = |config: &VmConfig| {
        let mut programs = vec![Program::end_of_interrupt(), Program::start_up()];
        let mut main = Vec::new();
        for _ in &config.apic_ids {
            main.push(programs.len() as u32);
            let (sends, halts) = (&sends[place], &halts[place]);
            programs.push(life(recording, config.mode, sends, halts, clock, end));
            place += 1;
        }
        let code = GuestCode::new(&programs, main, &[0; 256], Some(1));
        let apicv = Apicv { active: true, enable_ipiv };
        let config = VmConfig { apicv, scheduled: true, first_pcpu: 0, ..config.clone() };
        Guest { config, code, device: false, wait_for_sipi: false, names: Vec::new() }
    };
    MachineConfig {
        pcpus: sends.len() as u32,
        // No time slice ends: nobody waits for another's pCPU.
        time_slice: 1,
        host_apic: ApicMode::X2Apic,
        naive_apic_ids: false,
        policy: policy.clone(),
        guests: machines.configs.iter().map(guest).collect(),
        devices: Vec::new(),
        chaos: Chaos::default(),
        seed: 0,
    }
}

/// What one vCPU does until the end.
fn life(recording: &Recording, mode: ApicMode, sends: &Sends, halts: &[Absence], clock: Clock, end: u64) -> Program {
    let mut life = RecordedLife::new(mode);
    let mut halts = halts.iter().peekable();
    let times = &recording.ipis.time_ns;
    for send in sends {
        let time_ns = times.get(send.order as usize).copied().unwrap_or_default();
        while let Some(halt) = halts.next_if(|halt| halt.from_ns < time_ns) {
            // Who sends does not sleep.
            life.halt(clock.cycles(halt.from_ns), clock.cycles(halt.until_ns.min(time_ns)));
        }
        life.send(clock.cycles(time_ns), send);
    }
    for halt in halts {
        life.halt(clock.cycles(halt.from_ns), clock.cycles(halt.until_ns));
    }
    life.until(end);
    life.program()
}

fn preemptions(recording: &Recording, position: &[usize], clock: Clock) -> Vec<Preemption> {
    let preempted = recording.absences.list.iter().filter(|absence| !absence.halted);
    let preemption = |absence: &Absence| {
        let slot = *position.get(absence.vcpu as usize)? as u32;
        Some(Preemption { slot, from: clock.cycles(absence.from_ns), until: clock.cycles(absence.until_ns) })
    };
    preempted.filter_map(preemption).collect()
}

/// The interrupts of a run, put together as those of a run on threads are.
fn summary(sends: &[Sends], run: &VirtualRun) -> Summary {
    let machine = &run.machine;
    let fates = sends
        .iter()
        .zip(&run.fates)
        .flat_map(|(sends, fates)| sends.iter().zip(fates).map(|(send, &(fate, clause))| (send.order, fate, clause)));
    let ledger = Ledger {
        fates: fates.collect(),
        exits: machine.account.exits.clone(),
        notifications: machine.account.notifications,
        delivery: Delivery { delivered: machine.account.counts.delivered, coalesced: machine.account.counts.coalesced },
        violations: machine.violations.clone(),
        more_violations: machine.account.more_violations,
    };
    Summary::new(sends, vec![ledger], machine.pending)
}

fn notes(recording: &Recording) -> Vec<String> {
    let absences = &recording.absences;
    let halted = absences.list.iter().filter(|absence| absence.halted).count();
    let preempted = absences.list.len() - halted;
    let halts = match absences.halts {
        Some(Evidence::Waits) => format!(
            "{halted} times the thread of a vCPU waited (sched_switch): in HLT, it is assumed; an interrupt that comes earlier ends the wait"
        ),
        Some(evidence) => format!(
            "{halted} halts of vCPUs, by {}; an interrupt that comes earlier ends one earlier",
            evidence.records()
        ),
        None => {
            "the recording does not show when vCPUs halted (kvm_vcpu_wakeup, or kvm_exit and kvm_entry): each is taken \
                 to be in its guest all the time"
                .to_owned()
        }
    };
    let preemptions = if preempted > 0 {
        format!("{preempted} times a vCPU was preempted, by {}", Evidence::Preempted.records())
    } else if recording.records.contains_key("sched_switch") {
        "no vCPU was preempted".to_owned()
    } else {
        "the recording does not show when vCPUs were preempted (sched_switch): each is taken to have a pCPU of its own"
            .to_owned()
    };
    let handlers =
        "what guests do in interrupt handlers is not recorded: an EOI is assumed, and nothing else".to_owned();
    vec![halts, preemptions, handlers]
}

#[cfg(test)]
#[path = "timed_tests.rs"]
mod tests;
