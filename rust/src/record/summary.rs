//! A run put together: totals that must balance, exits by clause, kinds of interrupt.

use super::ledger::{Ledger, Notifications, ViolationRecord};
use super::{Fate, FateColumns};
use crate::arch::{Clause, DeliveryMode, DestinationMode, Exit, Shorthand};
use crate::guest::{Send, Sends, Via};
use rustc_hash::FxHashMap;

/// How many interrupts had which fate, and what the receivers made of those that were posted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IpiTotals {
    /// Interrupt commands sent.
    pub total: u64,
    /// Posted by IPI virtualization.
    pub virtualized: u64,
    /// Self-IPI virtualization.
    pub self_ipi: u64,
    /// VM exits.
    pub exited: u64,
    /// #GP(0).
    pub faulted: u64,
    /// Gone to the physical local APIC.
    pub escaped: u64,
    /// Led to wrong memory.
    pub violations: u64,
    /// Not sent: the run was stopped.
    pub unsent: u64,
    /// Delivered through a guest's IDT.
    pub delivered: u64,
    /// Merged with one of the same vector that was still pending.
    pub coalesced: u64,
    /// Still in PIR or VIRR at the end.
    pub pending: u64,
}

impl IpiTotals {
    /// Whether what was posted is what was delivered, merged or is pending.
    #[must_use]
    pub const fn balanced(&self) -> bool {
        self.virtualized + self.self_ipi == self.delivered + self.coalesced + self.pending
    }
}

/// Exits of one sort.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitCount {
    /// The exit.
    pub exit: Exit,
    /// How many.
    pub count: u64,
}

/// Interrupts that are alike, and their fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// How they were written.
    pub via: Via,
    /// Vector.
    pub vector: u8,
    /// Delivery mode.
    pub delivery_mode: DeliveryMode,
    /// Destination mode.
    pub destination_mode: DestinationMode,
    /// Shorthand.
    pub shorthand: Shorthand,
    /// Level: assert.
    pub level_assert: bool,
    /// Trigger mode: level.
    pub trigger_level: bool,
    /// Fate.
    pub fate: Fate,
    /// The clause that decided.
    pub clause: Option<Clause>,
}

/// Totals of one vCPU as a sender.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VcpuTotals {
    /// Interrupt commands sent.
    pub sent: u64,
    /// Of these, without a VM exit.
    pub without_exit: u64,
}

/// A run put together.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Totals.
    pub ipis: IpiTotals,
    /// Exits, most frequent first.
    pub exits: Vec<ExitCount>,
    /// Notifications.
    pub notifications: Notifications,
    /// Violations, the first of each thread.
    pub violations: Vec<ViolationRecord>,
    /// Violations beyond those that are kept.
    pub more_violations: u64,
    /// What was sent, most frequent first.
    pub kinds: Vec<(Kind, u64)>,
    /// Senders.
    pub vcpus: Vec<VcpuTotals>,
    /// The fate of each interrupt.
    pub columns: FateColumns,
}

impl Summary {
    /// Puts together what the threads saw of `programs` (one per vCPU); `pending` interrupts were left at the end.
    #[must_use]
    pub fn new(programs: &[Sends], ledgers: Vec<Ledger>, pending: u64) -> Self {
        let count = programs.iter().map(Vec::len).sum();
        let mut columns = FateColumns::unsent(count);
        let mut all = Ledger::default();
        for ledger in ledgers {
            all.absorb(ledger);
        }
        for &(order, fate, clause) in &all.fates {
            if let (Some(at), Some(why)) =
                (columns.fate.get_mut(order as usize), columns.clause.get_mut(order as usize))
            {
                *at = fate;
                *why = clause;
            }
        }
        let mut ipis = IpiTotals {
            delivered: all.delivery.delivered,
            coalesced: all.delivery.coalesced,
            pending,
            ..IpiTotals::default()
        };
        for fate in &columns.fate {
            ipis.count(*fate);
        }
        let mut exits: Vec<_> = all.exits.into_iter().map(|(exit, count)| ExitCount { exit, count }).collect();
        exits.sort_by_key(|e| (std::cmp::Reverse(e.count), e.exit.reason, e.exit.qualification, e.exit.clause));
        Self {
            ipis,
            exits,
            notifications: all.notifications,
            violations: all.violations,
            more_violations: all.more_violations,
            kinds: kinds(programs, &columns),
            vcpus: programs.iter().map(|program| totals_of(program, &columns)).collect(),
            columns,
        }
    }
}

impl IpiTotals {
    fn count(&mut self, fate: Fate) {
        let field = match fate {
            Fate::Unsent => &mut self.unsent,
            Fate::Virtualized => &mut self.virtualized,
            Fate::SelfIpi => &mut self.self_ipi,
            Fate::Exited => &mut self.exited,
            Fate::Faulted => &mut self.faulted,
            Fate::Escaped => &mut self.escaped,
            Fate::Violation => &mut self.violations,
        };
        *field += 1;
        if fate != Fate::Unsent {
            self.total += 1;
        }
    }
}

fn fate_of(send: &Send, columns: &FateColumns) -> (Fate, Option<Clause>) {
    let at = send.order as usize;
    let fate = columns.fate.get(at).copied().unwrap_or(Fate::Unsent);
    (fate, columns.clause.get(at).copied().flatten())
}

fn totals_of(program: &Sends, columns: &FateColumns) -> VcpuTotals {
    let mut totals = VcpuTotals::default();
    for send in program {
        let (fate, _) = fate_of(send, columns);
        totals.sent += u64::from(fate != Fate::Unsent);
        totals.without_exit += u64::from(matches!(fate, Fate::Virtualized | Fate::SelfIpi));
    }
    totals
}

fn kinds(programs: &[Sends], columns: &FateColumns) -> Vec<(Kind, u64)> {
    let mut counts: FxHashMap<Kind, (u64, u32)> = FxHashMap::default();
    for send in programs.iter().flatten() {
        let (fate, clause) = fate_of(send, columns);
        let low = send.icr.low;
        let kind = Kind {
            via: send.via,
            vector: low.vector(),
            delivery_mode: low.delivery_mode(),
            destination_mode: low.destination_mode(),
            shorthand: low.shorthand(),
            level_assert: low.level_assert(),
            trigger_level: low.trigger_level(),
            fate,
            clause,
        };
        let (count, first) = counts.entry(kind).or_insert((0, send.order));
        *count += 1;
        *first = (*first).min(send.order);
    }
    let mut kinds: Vec<_> = counts.into_iter().collect();
    // Most frequent first; what came first in the run decides between equals, so that the order is always the same.
    kinds.sort_by_key(|&(_, (count, first))| (std::cmp::Reverse(count), first));
    kinds.into_iter().map(|(kind, (count, _))| (kind, count)).collect()
}
