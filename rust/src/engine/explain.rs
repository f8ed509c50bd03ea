//! One interrupt command, step by step: which rule it meets, which condition decides, where it ends.
//!
//! The answer comes from the processor itself, which executes the command on a small VM; the steps are walked beside
//! it, condition by condition, and a test holds the two together for every value of the ICR.

use crate::arch::clause::IcrCondition;
use crate::arch::posted_interrupt::MAX_ENTRIES;
use crate::arch::{ApicMode, Clause, Exit, Icr, PidControl, Shorthand, vector};
use crate::guest::{Send, Via};
use crate::hypervisor::{Apicv, Vm, VmConfig, VmError};
use crate::memory::PhysicalMemory;
use crate::processor::{IcrRule, NonRoot, Notification, Outcome, Posted, descriptor, x2apic_reserved};
use std::cell::Cell;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// The interrupt command.
    pub icr: Icr,
    /// How the guest writes it.
    pub via: Via,
    /// APIC virtualization, as KVM sets it up.
    pub apicv: Apicv,
    /// Number of vCPUs, with APIC IDs from 0; none: do not look at table and descriptor.
    pub vcpus: Option<u32>,
    /// Last PID-pointer index; the highest APIC ID if only `vcpus` is given.
    pub last_index: Option<u16>,
}

/// One step of the walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Which rule the step belongs to.
    pub rule: &'static str,
    /// Whether what the clause asks for holds.
    pub holds: bool,
    /// The clause.
    pub clause: Clause,
}

/// The descriptor that the interrupt was posted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Virtual APIC ID.
    pub apic_id: u32,
    /// Control word after the post.
    pub control: PidControl,
    /// The notification that is due, if one is.
    pub notification: Option<Notification>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// What becomes of the command.
    pub outcome: Outcome,
    /// The clause that decided.
    pub clause: Clause,
    /// The walk.
    pub steps: Vec<Step>,
    /// Where it was posted, if table and descriptor were asked for.
    pub target: Option<Target>,
}

impl Explanation {
    /// The outcome's name: "posted", "self-ipi", "apic-write-exit", "apic-access-exit", "msr-exit", "fault" or
    /// "not-virtualized".
    #[must_use]
    pub const fn outcome_name(&self) -> &'static str {
        use crate::arch::ExitReason as R;
        match self.outcome {
            Outcome::Posted(_) => "posted",
            Outcome::SelfIpi { .. } => "self-ipi",
            Outcome::Exit(Exit { reason: R::ApicAccess, .. }) => "apic-access-exit",
            Outcome::Exit(Exit { reason: R::MsrWrite | R::MsrRead, .. }) => "msr-exit",
            Outcome::Exit(_) => "apic-write-exit",
            Outcome::Fault(_) => "fault",
            Outcome::NotVirtualized(_) | Outcome::Virtualized(_) | Outcome::Violation(_) => "not-virtualized",
        }
    }

    /// The VM exit, if there is one.
    #[must_use]
    pub const fn exit(&self) -> Option<Exit> {
        match self.outcome {
            Outcome::Exit(exit) => Some(exit),
            _ => None,
        }
    }
}

/// Executes the command and walks its steps.
///
/// # Errors
/// An impossible VM: no vCPU, or more than a table can hold.
pub fn explain(question: &Question) -> Result<Explanation, VmError> {
    let config = question.vm()?;
    let memory = PhysicalMemory::<Cell<u64>>::new(config.memory_bytes());
    let (_, mut vcpus) = Vm::create(&memory, &config)?;
    let sender = vcpus.first_mut().ok_or(VmError::NoVcpus)?;
    let send = Send { order: 0, icr: question.icr, via: question.via };
    let outcome = match NonRoot::resume(&memory, sender.vp_mut()) {
        Ok(mut guest) => send.execute(&mut guest),
        Err(violation) => Outcome::Violation(violation),
    };
    let clause = match outcome {
        Outcome::Posted(_) | Outcome::Violation(_) => Clause::IpiPosted,
        Outcome::SelfIpi { .. } => Clause::SelfIpi,
        Outcome::Exit(exit) => exit.clause,
        Outcome::Fault(clause) | Outcome::NotVirtualized(clause) | Outcome::Virtualized(clause) => clause,
    };
    let target = match outcome {
        Outcome::Posted(posted) if question.asks_for_table() => target(&memory, posted),
        _ => None,
    };
    Ok(Explanation { outcome, clause, steps: question.steps(clause), target })
}

fn target(memory: &PhysicalMemory<Cell<u64>>, posted: Posted) -> Option<Target> {
    let notification = match posted.notice {
        crate::processor::Notice::Due(due) => Some(due),
        _ => None,
    };
    let control = descriptor::control(memory.descriptor(posted.descriptor)?);
    Some(Target { apic_id: posted.apic_id, control, notification })
}

impl Question {
    const fn asks_for_table(&self) -> bool {
        self.vcpus.is_some() || self.last_index.is_some()
    }

    /// The destination that the processor sees: in xAPIC mode the field has 8 bits.
    const fn destination(&self) -> u32 {
        match self.via {
            Via::Mmio => Icr::from_u64(self.icr.to_u64(ApicMode::XApic), ApicMode::XApic).destination,
            Via::X2ApicIcr | Via::SelfIpiMsr => self.icr.destination,
        }
    }

    /// The smallest VM that has what the command needs: a sender, and the target if it exists.
    fn vm(&self) -> Result<VmConfig, VmError> {
        let most = MAX_ENTRIES as u32;
        match self.vcpus {
            Some(0) => return Err(VmError::NoVcpus),
            Some(vcpus) if vcpus > most => return Err(VmError::TooManyVcpus(vcpus as usize)),
            _ => {}
        }
        let destination = self.destination();
        let last = match (self.last_index, self.vcpus) {
            (Some(last), _) => last,
            (None, Some(vcpus)) => (vcpus - 1) as u16,
            (None, None) => destination.min(most - 1) as u16,
        };
        // FFH is no vCPU's ID in xAPIC mode: it means all, and its entry in the table stays empty.
        let broadcast = self.via == Via::Mmio && destination == u32::from(u8::MAX);
        let exists = !broadcast && destination <= u32::from(last) && self.vcpus.is_none_or(|vcpus| destination < vcpus);
        // The sender's own ID does not matter; it is 0 or, where the target is 0, the target's.
        let apic_ids = if exists && destination != 0 { vec![0, destination] } else { vec![0] };
        let mode = self.via.mode();
        let config = VmConfig { last_pid_index: Some(last), apicv: self.apicv, ..VmConfig::new(1, mode) };
        // Each vCPU on the pCPU of its APIC ID, as far as two vCPUs can show it.
        Ok(VmConfig { first_pcpu: if exists { destination.saturating_sub(1) } else { 0 }, apic_ids, ..config })
    }

    /// The walk, up to the step that decides.
    fn steps(&self, decided: Clause) -> Vec<Step> {
        let mut steps = Vec::new();
        let low = self.icr.low;
        let ipi = self.apicv.ipiv_active();
        match self.via {
            Via::X2ApicIcr => {
                let intercepted = decided == Clause::MsrIntercepted;
                push(&mut steps, "MSR bitmap", !intercepted, Clause::MsrIntercepted);
                if !intercepted {
                    push(&mut steps, "reserved bits", !x2apic_reserved(low), Clause::X2ApicIcrReserved);
                    if !x2apic_reserved(low) {
                        walk(&mut steps, "IPI rule", IcrRule::X2ApicIpi, low, ipi);
                    }
                }
            }
            Via::SelfIpiMsr => {
                let intercepted = decided == Clause::MsrIntercepted;
                push(&mut steps, "MSR bitmap", !intercepted, Clause::MsrIntercepted);
                if !intercepted {
                    push(&mut steps, "self-IPI vector", vector::class(low.vector()) != 0, Clause::SelfIpiVector);
                }
            }
            Via::Mmio if decided == Clause::WriteNotListed => {
                push(&mut steps, "offset 300H", false, Clause::WriteNotListed);
            }
            Via::Mmio if low.shorthand() == Shorthand::Self_ => {
                walk(&mut steps, "self-IPI rule", IcrRule::XApicSelfIpi, low, self.apicv.active);
            }
            Via::Mmio => {
                let clause = IcrRule::XApicSelfIpi.clause(IcrCondition::Shorthand);
                push(&mut steps, "self-IPI rule", false, clause);
                walk(&mut steps, "IPI rule", IcrRule::XApicIpi, low, ipi);
            }
        }
        self.table_steps(&mut steps, decided);
        steps
    }

    /// Steps of 30.1.6, up to the one that decides.
    fn table_steps(&self, steps: &mut Vec<Step>, decided: Clause) {
        let order = [Clause::IpiVector, Clause::IpiBeyondTable, Clause::EntryNotValid, Clause::IpiPosted];
        let Some(last) = order.iter().position(|&clause| clause == decided) else { return };
        for (i, &clause) in order.iter().enumerate().take(last + 1) {
            let looked_at = self.asks_for_table() || matches!(clause, Clause::IpiVector | Clause::IpiPosted);
            if looked_at || i == last {
                push(steps, "IPI virtualization", clause != decided || clause == Clause::IpiPosted, clause);
            }
        }
    }
}

fn push(steps: &mut Vec<Step>, rule: &'static str, holds: bool, clause: Clause) {
    steps.push(Step { rule, holds, clause });
}

fn walk(steps: &mut Vec<Step>, name: &'static str, rule: IcrRule, low: crate::arch::IcrLow, control: bool) {
    for condition in IcrCondition::ALL.into_iter().filter(|&condition| rule.asks(condition)) {
        push(steps, name, rule.holds(condition, low, control), rule.clause(condition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::IcrLow;

    fn question(low: u32, destination: u32, via: Via) -> Question {
        let icr = Icr { low: IcrLow::from_bits(low), destination };
        Question { icr, via, apicv: Apicv::FULL, vcpus: Some(4), last_index: None }
    }

    /// The walk and the processor agree: the clause that decided is the first step that does not hold, but for the
    /// self-IPI rule's line that only says why the other rule is the one to look at.
    #[test]
    fn the_walk_ends_where_the_processor_ended() {
        for via in [Via::Mmio, Via::X2ApicIcr, Via::SelfIpiMsr] {
            for low in
                (0..1 << 20).step_by(997).chain((8..32).flat_map(|a| (8..=a).map(move |b| 0xFB | 1 << a | 1 << b)))
            {
                for destination in [1, 9] {
                    let answer = explain(&question(low, destination, via)).unwrap();
                    let skipped = Clause::XApicSelfIpi(IcrCondition::Shorthand);
                    let failed = answer.steps.iter().find(|step| !step.holds && step.clause != skipped);
                    match answer.outcome {
                        Outcome::Posted(_) | Outcome::SelfIpi { .. } => assert_eq!(failed, None, "{low:X}H {via:?}"),
                        _ => assert_eq!(failed.map(|step| step.clause), Some(answer.clause), "{low:X}H {via:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn table_and_descriptor_are_shown_when_asked_for() {
        let answer = explain(&question(0xFB, 3, Via::X2ApicIcr)).unwrap();
        let target = answer.target.unwrap();
        assert_eq!(answer.outcome_name(), "posted");
        assert_eq!(target.apic_id, 3);
        assert!(target.control.outstanding() && target.notification.is_some());
        let unasked = Question { vcpus: None, ..question(0xFB, 3, Via::X2ApicIcr) };
        assert_eq!(explain(&unasked).unwrap().target, None);
    }

    #[test]
    fn ids_without_an_entry_exit() {
        let clause = |question| explain(&question).unwrap().clause;
        assert_eq!(clause(question(0xFB, 4, Via::X2ApicIcr)), Clause::IpiBeyondTable);
        let wider = Question { last_index: Some(9), ..question(0xFB, 4, Via::X2ApicIcr) };
        assert_eq!(clause(wider), Clause::EntryNotValid);
        let unasked = Question { vcpus: None, ..question(0xFB, u32::MAX, Via::X2ApicIcr) };
        assert_eq!(clause(unasked), Clause::IpiBeyondTable, "no table has FFFFFFFFH");
        let bound = Question { vcpus: None, last_index: Some(u16::MAX), ..question(0xFB, 0xFFFF, Via::X2ApicIcr) };
        assert_eq!(explain(&bound).unwrap().outcome_name(), "posted");
    }

    #[test]
    fn controls_that_are_off() {
        let off = Apicv { active: true, enable_ipiv: false };
        let name = |question| explain(&question).unwrap().outcome_name();
        assert_eq!(name(Question { apicv: off, ..question(0xFB, 1, Via::X2ApicIcr) }), "msr-exit");
        assert_eq!(name(Question { apicv: off, ..question(0xFB, 1, Via::Mmio) }), "apic-write-exit");
        let inhibited = Apicv { active: false, enable_ipiv: true };
        assert_eq!(name(Question { apicv: inhibited, ..question(0xFB, 1, Via::Mmio) }), "apic-access-exit");
        assert_eq!(name(Question { apicv: inhibited, ..question(0xFB, 1, Via::SelfIpiMsr) }), "msr-exit");
    }
}
