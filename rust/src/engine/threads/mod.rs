//! The threads engine for recordings: each pCPU is an OS thread.
//!
//! vCPU k of the run has pCPU k for itself and is always in guest mode; [`scheduler`](super::scheduler) is the form in which
//! vCPUs share pCPUs. Senders write their interrupt
//! commands; the processor posts; notifications go to the target's local APIC, whose thread is woken, processes them,
//! delivers to the guest and ends with an EOI. Between threads there are only the words of memory (descriptors, table,
//! local-APIC requests) and the pacing below.

mod pacing;
mod pcpu;

use crate::guest::Sends;
use crate::hypervisor::{Vcpu, Vm, VmConfig, VmError};
use crate::memory::{OutOfMemory, Owner, PhysicalMemory};
use crate::processor::{descriptor, local_apic};
use crate::record::{Ledger, Summary, ViolationRecord};
use pacing::Shared;
use pcpu::Pcpu;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Most vCPUs of a run: each has a thread.
pub const MAX_THREADS: usize = 4096;

/// How senders are held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// Interrupts are sent in the order of the run, over all senders, each when the one before it has been delivered
    /// or has exited. Fates and counts are the same each time.
    Recorded,
    /// Each sender keeps its own order and goes as fast as it can: posts race and coalesce.
    Free,
}

/// Why a run cannot be made.
#[derive(Debug, Error)]
pub enum RunError {
    /// A VM is impossible.
    #[error(transparent)]
    Vm(#[from] VmError),
    /// Too many vCPUs.
    #[error("{0} vCPUs: the threads engine has a thread for each and takes at most {MAX_THREADS}")]
    TooManyVcpus(usize),
    /// The operating system gives no more threads.
    #[error("cannot start a thread for pCPU {pcpu}: {source}")]
    Thread {
        /// Which one.
        pcpu: usize,
        /// What the operating system says.
        source: std::io::Error,
    },
}

impl From<OutOfMemory> for RunError {
    fn from(error: OutOfMemory) -> Self {
        Self::Vm(VmError::Memory(error))
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What happened.
    pub summary: Summary,
    /// Wall-clock time, without set-up.
    pub elapsed: Duration,
    /// It was stopped before its end.
    pub partial: bool,
}

/// The words of memory in this engine.
pub(crate) type Memory = PhysicalMemory<AtomicU64>;

/// Runs `programs` (one for each vCPU, over all VMs in order) on the VMs that `configs` describe.
///
/// `keep_going` is asked about ten times a second, on the calling thread, and told how many interrupts were sent (0 at
/// the free pace, which does not count); when it says no the run stops where it is.
///
/// # Errors
/// An impossible VM, too many vCPUs, or no threads.
pub fn run(
    configs: &[VmConfig],
    programs: &[Sends],
    pace: Pace,
    keep_going: &mut dyn FnMut(u64) -> bool,
) -> Result<Run, RunError> {
    let count = configs.iter().map(|config| config.apic_ids.len()).sum();
    if count > MAX_THREADS {
        return Err(RunError::TooManyVcpus(count));
    }
    let local_apics = (count as u64 + 1) * 256;
    let memory = Memory::new(configs.iter().map(VmConfig::memory_bytes).sum::<u64>() + local_apics);
    let mut vcpus: Vec<(Vm, Vcpu)> = Vec::with_capacity(count);
    for config in configs {
        let (vm, created) = Vm::create(&memory, config)?;
        vcpus.extend(created.into_iter().map(|vcpu| (vm.clone(), vcpu)));
    }
    let requests = (0..count)
        .map(|pcpu| memory.allocate(Owner::LocalApic { pcpu: pcpu as u32 }, 64, 64))
        .collect::<Result<Vec<_>, _>>()?;
    let shared = Shared::new(&memory, &requests, programs, pace);

    let start = Instant::now();
    let mut stalled = None;
    let ledgers = std::thread::scope(|scope| {
        let mut handles = Vec::with_capacity(count);
        for (pcpu, (vm, vcpu)) in vcpus.iter_mut().enumerate() {
            let program = programs.get(pcpu).map_or(&[][..], Vec::as_slice);
            let shared = &shared;
            let body = move || {
                let ledger = Pcpu::new(shared, pcpu, vm, vcpu, program).map(Pcpu::run);
                shared.wake_caller();
                ledger
            };
            let builder = std::thread::Builder::new().name(format!("pcpu{pcpu}")).stack_size(256 << 10);
            match builder.spawn_scoped(scope, body) {
                Ok(handle) => {
                    shared.register(pcpu, handle.thread().clone());
                    handles.push(handle);
                }
                Err(source) => {
                    shared.stop();
                    return Err(RunError::Thread { pcpu, source });
                }
            }
        }
        shared.begin();
        let mut watchdog = Watchdog::new(&shared);
        while !handles.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            // A thread that ends wakes this one just before it is finished: look again soon, ask rarely.
            std::thread::park_timeout(Duration::from_millis(if shared.all_sent() { 1 } else { 100 }));
            stalled = stalled.or_else(|| watchdog.stalled(&shared));
            if stalled.is_some() || !keep_going(shared.turn_now().unwrap_or(0) as u64) {
                shared.stop();
            }
        }
        let mut ledgers = Vec::with_capacity(count);
        for (pcpu, handle) in handles.into_iter().enumerate() {
            ledgers.push(handle.join().ok().flatten().unwrap_or_else(|| broken(pcpu)));
        }
        Ok(ledgers)
    })?;
    let elapsed = start.elapsed();
    let partial = shared.stopped() && stalled.is_none();

    let mut ledgers = ledgers;
    let pending = ledgers
        .iter_mut()
        .zip(&vcpus)
        .enumerate()
        .map(|(pcpu, (ledger, (_, vcpu)))| left_over(&memory, ledger, pcpu as u32, vcpu, partial))
        .sum();
    let mut summary = Summary::new(programs, ledgers, pending);
    check_balance(&mut summary);
    if let Some(order) = stalled {
        summary.violations.push(stall(programs, order));
    }
    Ok(Run { summary, elapsed, partial })
}

/// Notices that the recorded pace does not go on: the interrupt under way was lost, and nobody would ever say so.
struct Watchdog {
    turn: Option<usize>,
    since: Instant,
}

impl Watchdog {
    /// An interrupt takes microseconds; on an overloaded machine it may take a while.
    const PATIENCE: Duration = Duration::from_secs(10);

    fn new(shared: &Shared<'_>) -> Self {
        Self { turn: shared.turn_now(), since: Instant::now() }
    }

    /// The place in the order that is stuck, if it has been for too long.
    fn stalled(&mut self, shared: &Shared<'_>) -> Option<usize> {
        let turn = shared.turn_now();
        if turn != self.turn {
            *self = Self { turn, since: Instant::now() };
        }
        turn.filter(|_| self.since.elapsed() > Self::PATIENCE && !shared.all_sent())
    }
}

/// The violation that names the interrupt at place `order`.
fn stall(programs: &[Sends], order: usize) -> ViolationRecord {
    let find = |(vcpu, program): (u32, &Sends)| {
        program.iter().find(|send| send.order as usize == order).map(|send| (vcpu, send.icr))
    };
    let (vcpu, message) = match (0..).zip(programs).find_map(find) {
        Some((vcpu, icr)) => (
            vcpu,
            format!(
                "IPI {order} (vector {:02X}H to {:X}H) never arrived: the run was given up",
                icr.low.vector(),
                icr.destination
            ),
        ),
        None => (0, format!("IPI {order} never arrived: the run was given up")),
    };
    ViolationRecord { kind: "stall", vcpu, message }
}

/// A ledger for a thread that did not bring one back.
fn broken(pcpu: usize) -> Ledger {
    let mut ledger = Ledger::default();
    let message = format!("the thread of pCPU {pcpu} ended early: please report this as a defect of ipivrs");
    ledger.violation("engine", pcpu as u32, message);
    ledger
}

/// Interrupts that are still in PIR or VIRR; unless the run was stopped that is a lost interrupt.
fn left_over(memory: &Memory, ledger: &mut Ledger, pcpu: u32, vcpu: &Vcpu, partial: bool) -> u64 {
    let vmcs = &vcpu.vp().vmcs;
    let pir = memory.descriptor(vmcs.descriptor).map(descriptor::requests).unwrap_or_default();
    let virr = memory
        .registers(vmcs.virtual_apic)
        .map_or([0; 4], |page| crate::processor::VirtualApic::new(page).bank(crate::arch::ApicRegister::IRR));
    let pending: u32 = pir.iter().chain(&virr).map(|word| word.count_ones()).sum();
    if pending > 0 && !partial {
        let message = format!(
            "{pending} interrupts of vCPU {} (APIC ID {}) were posted and never delivered",
            vcpu.vcpu(),
            vcpu.apic_id()
        );
        ledger.violation("lost-interrupt", pcpu, message);
    }
    u64::from(pending)
}

/// Posted = delivered + coalesced + pending, or something was lost or made up.
fn check_balance(summary: &mut Summary) {
    let ipis = summary.ipis;
    if !ipis.balanced() {
        let message = format!(
            "{} interrupts were posted but {} delivered, {} coalesced and {} pending",
            ipis.virtualized + ipis.self_ipi,
            ipis.delivered,
            ipis.coalesced,
            ipis.pending
        );
        summary.violations.push(ViolationRecord { kind: "imbalance", vcpu: 0, message });
    }
}

/// Carries a notification to the local APIC it names and wakes its thread. Returns whether there is such a pCPU.
pub(crate) fn carry(shared: &Shared<'_>, destination: u32, vector: u8) -> bool {
    let Some(requests) = shared.requests(destination) else { return false };
    local_apic::request(requests, vector);
    shared.wake(destination as usize);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::{ApicMode, Icr};
    use crate::guest::{Send, Via};
    use proptest::prelude::*;

    /// Programs over `vcpus` vCPUs from (sender, destination, vector, via) in order.
    fn programs(vcpus: u32, sends: &[(u32, u32, u8, Via)]) -> Vec<Sends> {
        let mut programs = vec![Sends::new(); vcpus as usize];
        for (order, &(sender, destination, vector, via)) in (0..).zip(sends) {
            let icr = Icr::from_x2apic(u64::from(destination) << 32 | u64::from(vector));
            programs[sender as usize].push(Send { order, icr, via });
        }
        programs
    }

    fn run_all(vcpus: u32, sends: &[(u32, u32, u8, Via)], pace: Pace) -> Summary {
        let config = VmConfig::new(vcpus, ApicMode::X2Apic);
        let run = run(&[config], &programs(vcpus, sends), pace, &mut |_| true).unwrap();
        assert!(!run.partial);
        run.summary
    }

    #[test]
    fn a_storm_at_full_speed_loses_nothing() {
        let sends: Vec<_> =
            (0..20_000u32).map(|i| (i % 4, (i * 7 + i / 13) % 4, 32 + (i % 200) as u8, Via::X2ApicIcr)).collect();
        let summary = run_all(4, &sends, Pace::Free);
        let ipis = summary.ipis;
        assert_eq!((ipis.total, ipis.virtualized), (20_000, 20_000));
        assert_eq!(ipis.delivered + ipis.coalesced, 20_000);
        assert_eq!((ipis.pending, summary.violations.len()), (0, 0), "{:?}", summary.violations);
        assert_eq!(summary.notifications.sent + summary.notifications.coalesced, 20_000);
    }

    #[test]
    fn the_recorded_pace_delivers_each_on_its_own() {
        let sends: Vec<_> = (0..600u32).map(|i| (i % 3, (i / 2) % 3, 0xFB, Via::X2ApicIcr)).collect();
        let summary = run_all(3, &sends, Pace::Recorded);
        assert_eq!((summary.ipis.delivered, summary.ipis.coalesced), (600, 0));
        assert_eq!(summary.notifications.sent, 600);
    }

    #[test]
    fn nothing_to_send_ends_at_once() {
        assert_eq!(run_all(3, &[], Pace::Free).ipis.total, 0);
    }

    #[test]
    fn a_turn_that_does_not_pass_is_named() {
        let programs = programs(2, &[(1, 0, 0xFB, Via::X2ApicIcr)]);
        let memory = Memory::new(1 << 16);
        let shared = Shared::new(&memory, &[4096, 4160], &programs, Pace::Recorded);
        let mut watchdog = Watchdog::new(&shared);
        assert_eq!(watchdog.stalled(&shared), None);
        watchdog.since = Instant::now().checked_sub(2 * Watchdog::PATIENCE).unwrap();
        assert_eq!(watchdog.stalled(&shared), Some(0));
        let violation = stall(&programs, 0);
        assert_eq!((violation.kind, violation.vcpu), ("stall", 1));
        assert!(violation.message.contains("vector FBH to 0H"), "{}", violation.message);
        shared.arrived();
        assert_eq!(watchdog.stalled(&shared), None, "it goes on");
    }

    #[test]
    fn a_stopped_run_is_partial_and_counts_what_was_sent() {
        let config = VmConfig::new(2, ApicMode::X2Apic);
        let sends = vec![(0, 1, 0xFB, Via::X2ApicIcr); 300_000];
        let run = run(&[config], &programs(2, &sends), Pace::Recorded, &mut |_| false).unwrap();
        let ipis = run.summary.ipis;
        assert!(run.partial);
        assert_eq!(ipis.total + ipis.unsent, 300_000);
        assert!(run.summary.violations.is_empty(), "{:?}", run.summary.violations);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Whatever is sent however, to whomever: each has one fate, and what was posted is accounted for.
        #[test]
        fn accounts_balance(
            free: bool,
            sends in prop::collection::vec((0u32..3, 0u32..6, 0u8.., 0u8..3), 0..400),
        ) {
            let via = |i| [Via::Mmio, Via::X2ApicIcr, Via::SelfIpiMsr][usize::from(i)];
            let sends: Vec<_> = sends.into_iter().map(|(s, d, v, i)| (s, d, v, via(i))).collect();
            let summary = run_all(3, &sends, if free { Pace::Free } else { Pace::Recorded });
            let ipis = summary.ipis;
            prop_assert_eq!(ipis.total, sends.len() as u64);
            prop_assert_eq!(ipis.virtualized + ipis.self_ipi + ipis.exited, ipis.total);
            prop_assert!(ipis.balanced() && ipis.pending == 0 && summary.violations.is_empty(), "{:?}", summary);
            let exits = sends.iter().filter(|(_, d, v, i)| *v < 16 || *i != Via::SelfIpiMsr && *d > 2).count();
            prop_assert_eq!(ipis.exited, exits as u64);
        }
    }
}
