//! Ready-made guests.

use super::statement::{Branch, Delivery, Mode, Statement, Target};
use serde::Deserialize;

/// Linux's vectors (arch/x86/include/asm/irq_vectors.h).
const RESCHEDULE: u8 = 0xFD;
const CALL_FUNCTION_SINGLE: u8 = 0xFB;
/// Cycles of a round of a loop that does nothing: interrupts are taken within it, the end of the run is seen after it.
const BUSY: u32 = 1_000_000;

/// A guest by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Workload {
    /// kvm-unit-tests' `vmexit/ipi`: vCPU 0 sends to vCPU 1, which spins, and waits until it is handled.
    Ping {
        /// IPIs.
        rounds: u64,
        /// Vector.
        vector: u8,
    },
    /// The IPI benchmark of ynorov@caviumnetworks.com: vCPU 0 sends and waits, the others are idle.
    IpiMicrobenchmark {
        /// Which of its five measurements.
        case: Microbenchmark,
        /// Rounds.
        rounds: u64,
    },
    /// Every vCPU works, then has all others flush their TLB and waits for them.
    TlbShootdown {
        /// Rounds of each vCPU.
        rounds: u64,
        /// Cycles between shootdowns.
        work: u32,
        /// Cycles of a flush.
        flush: u32,
    },
    /// Message passing between pairs of vCPUs: an idle receiver gets a reschedule IPI.
    Hackbench {
        /// Messages of each pair.
        messages: u64,
        /// Cycles to write or read one.
        work: u32,
    },
    /// Everyone to everyone at random.
    Storm {
        /// Rounds of each vCPU; none: until the run ends.
        rounds: Option<u64>,
        /// Idle (HLT) now and then.
        halts: bool,
        /// Move between xAPIC and x2APIC mode now and then.
        mode_switches: bool,
    },
}

/// The five measurements of the IPI benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[allow(missing_docs, reason = "the names are the benchmark's")]
pub enum Microbenchmark {
    DryRun,
    SelfIpi,
    NormalIpi,
    BroadcastIpi,
    BroadcastLock,
}

/// The programs of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkloadPrograms {
    /// Of each vCPU.
    pub vcpus: Vec<Vec<Statement>>,
    /// Handlers by vector.
    pub handlers: Vec<(u8, Vec<Statement>)>,
}

fn repeat(times: u64, body: Vec<Statement>) -> Statement {
    Statement::Loop { times: Some(times), body }
}

fn send(vector: u8, to: Target) -> Statement {
    Statement::Send { vector, to, mode: Delivery::Fixed, logical: false }
}

const fn compute(cycles: u32) -> Statement {
    Statement::Compute { cycles }
}

impl Workload {
    /// Its programs for `vcpus` vCPUs.
    #[must_use]
    pub fn programs(self, vcpus: u32) -> WorkloadPrograms {
        let mut programs = WorkloadPrograms { vcpus: vec![Vec::new(); vcpus as usize], handlers: Vec::new() };
        match self {
            Self::Ping { rounds, vector } => {
                let handled = Statement::Signal { signal: 0 };
                let wait = Statement::Wait { signal: 0, count: 1 };
                programs.set(0, vec![repeat(rounds, vec![send(vector, Target::Vcpu(1)), wait])]);
                programs.set(1, vec![Statement::Loop { times: None, body: vec![compute(BUSY)] }]);
                programs.handlers.push((vector, vec![handled, Statement::Eoi]));
            }
            Self::IpiMicrobenchmark { case, rounds } => {
                let (body, handler) = case.programs();
                programs.set(0, vec![repeat(rounds, body)]);
                programs.handlers.push((CALL_FUNCTION_SINGLE, handler));
            }
            Self::TlbShootdown { rounds, work, flush } => {
                let call = Statement::Call { to: Target::Others, vector: CALL_FUNCTION_SINGLE };
                let body = vec![compute(work), call, Statement::AwaitCalls];
                programs.vcpus.fill(vec![repeat(rounds, body)]);
                let handler = vec![compute(flush), Statement::Answer, Statement::Eoi];
                programs.handlers.push((CALL_FUNCTION_SINGLE, handler));
            }
            Self::Hackbench { messages, work } => {
                for pair in 0..vcpus / 2 {
                    let message = Statement::Message { to: Target::Next, vector: RESCHEDULE };
                    programs.set(2 * pair, vec![repeat(messages, vec![compute(work), message])]);
                    programs.set(2 * pair + 1, vec![repeat(messages, vec![Statement::Receive, compute(work)])]);
                }
            }
            Self::Storm { rounds, halts, mode_switches } => {
                for vcpu in 0..vcpus {
                    // vCPU 0 never sleeps: somebody must wake the others.
                    let body = vec![Statement::Choose { branches: storm(halts && vcpu > 0, mode_switches) }];
                    programs.set(vcpu, vec![Statement::Loop { times: rounds, body }]);
                }
            }
        }
        programs
    }
}

impl WorkloadPrograms {
    fn set(&mut self, vcpu: u32, program: Vec<Statement>) {
        if let Some(slot) = self.vcpus.get_mut(vcpu as usize) {
            *slot = program;
        }
    }
}

impl Microbenchmark {
    /// The body of the sender's loop, and the handler.
    fn programs(self) -> (Vec<Statement>, Vec<Statement>) {
        let answer = vec![Statement::Answer, Statement::Eoi];
        let call = |to| vec![Statement::Call { to, vector: CALL_FUNCTION_SINGLE }, Statement::AwaitCalls];
        match self {
            Self::DryRun => (vec![compute(10)], answer),
            Self::SelfIpi => (
                vec![Statement::SelfIpi { vector: CALL_FUNCTION_SINGLE }, Statement::Wait { signal: 0, count: 1 }],
                vec![Statement::Signal { signal: 0 }, Statement::Eoi],
            ),
            Self::NormalIpi => (call(Target::Next), answer),
            Self::BroadcastIpi => (call(Target::Others), answer),
            Self::BroadcastLock => (
                call(Target::Others),
                [vec![Statement::Lock { lock: 1 }, compute(100), Statement::Unlock { lock: 1 }], answer].concat(),
            ),
        }
    }
}

/// One round of a storm. NMIs are not in it: they would wake a vCPU whose wake-up was lost, and hide the loss.
fn storm(halts: bool, mode_switches: bool) -> Vec<Branch> {
    let branch = |weight, statement| Branch { weight, body: vec![statement] };
    let lowest = Statement::Send { vector: 0x51, to: Target::Random, mode: Delivery::LowestPriority, logical: true };
    let mut branches = vec![
        branch(40, send(CALL_FUNCTION_SINGLE, Target::Random)),
        branch(25, send(RESCHEDULE, Target::Random)),
        branch(10, send(0x41, Target::Random)),
        branch(6, Statement::SelfIpi { vector: 0x31 }),
        branch(10, compute(500)),
        branch(2, lowest),
        branch(1, Statement::Broadcast { vector: 0xFC, mode: Delivery::Fixed, including_self: false }),
        Branch { weight: 1, body: vec![Statement::Tpr { value: 0x50 }, compute(200), Statement::Tpr { value: 0 }] },
    ];
    if halts {
        branches.push(branch(8, Statement::Hlt));
    }
    if mode_switches {
        branches.push(branch(1, Statement::Apic { mode: Mode::Xapic }));
        branches.push(branch(1, Statement::Apic { mode: Mode::X2apic }));
    }
    branches
}
