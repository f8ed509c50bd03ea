//! What one thread saw.

use super::Fate;
use crate::arch::{Clause, Exit};
use crate::processor::{Harvest, Notice, Outcome};
use rustc_hash::FxHashMap;

/// Notifications of posted interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// Sent: ON went from 0 to 1.
    pub sent: u64,
    /// Not sent because SN was 1.
    pub suppressed: u64,
    /// Not sent because ON was 1: one was under way.
    pub coalesced: u64,
    /// Processed with nothing in PIR.
    pub spurious: u64,
}

/// Interrupts on the receiving side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivery {
    /// Delivered through a guest's IDT.
    pub delivered: u64,
    /// Became one with an interrupt of the same vector that was still pending.
    pub coalesced: u64,
}

/// Something that should not have happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViolationRecord {
    /// A short name for the kind.
    pub kind: &'static str,
    /// The vCPU it happened on, counted over all VMs of the run.
    pub vcpu: u32,
    /// One sentence.
    pub message: String,
}

/// Violations of one thread that are kept word for word; the rest are counted.
const KEPT_VIOLATIONS: usize = 100;

/// What one thread saw. Nobody else touches it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// (place in the order, fate, clause) of each interrupt sent here.
    pub fates: Vec<(u32, Fate, Option<Clause>)>,
    /// Exits by what they were.
    pub exits: FxHashMap<Exit, u64>,
    /// Notifications.
    pub notifications: Notifications,
    /// Interrupts taken here.
    pub delivery: Delivery,
    /// Violations, the first of them.
    pub violations: Vec<ViolationRecord>,
    /// Violations beyond those.
    pub more_violations: u64,
}

impl Ledger {
    /// An empty ledger that can take `sends` fates without growing.
    #[must_use]
    pub fn with_capacity(sends: usize) -> Self {
        Self { fates: Vec::with_capacity(sends), ..Self::default() }
    }

    /// Notes what became of the interrupt at place `order`.
    #[inline]
    pub fn sent(&mut self, order: u32, outcome: &Outcome) {
        let (fate, clause) = Fate::of(outcome);
        self.fates.push((order, fate, clause));
        match outcome {
            Outcome::Posted(posted) => {
                self.delivery.coalesced += u64::from(posted.coalesced);
                match posted.notice {
                    Notice::Due(_) => self.notifications.sent += 1,
                    Notice::Suppressed => self.notifications.suppressed += 1,
                    Notice::Outstanding => self.notifications.coalesced += 1,
                }
            }
            Outcome::SelfIpi { coalesced, .. } => self.delivery.coalesced += u64::from(*coalesced),
            Outcome::Exit(exit) => self.exit(*exit),
            _ => {}
        }
    }

    /// Notes an exit.
    #[cold]
    pub fn exit(&mut self, exit: Exit) {
        *self.exits.entry(exit).or_default() += 1;
    }

    /// Notes posted-interrupt processing.
    #[inline]
    pub fn processed(&mut self, harvest: Harvest) {
        self.notifications.spurious += u64::from(harvest.taken == 0);
        self.delivery.coalesced += u64::from(harvest.merged);
    }

    /// Notes a violation.
    #[cold]
    pub fn violation(&mut self, kind: &'static str, vcpu: u32, message: String) {
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(ViolationRecord { kind, vcpu, message });
        } else {
            self.more_violations += 1;
        }
    }

    /// Adds what another thread saw; its fates go to `columns`.
    pub(super) fn absorb(&mut self, other: Self) {
        let Self { fates, exits, notifications, delivery, violations, more_violations } = other;
        self.fates.extend(fates);
        for (exit, count) in exits {
            *self.exits.entry(exit).or_default() += count;
        }
        self.notifications.sent += notifications.sent;
        self.notifications.suppressed += notifications.suppressed;
        self.notifications.coalesced += notifications.coalesced;
        self.notifications.spurious += notifications.spurious;
        self.delivery.delivered += delivery.delivered;
        self.delivery.coalesced += delivery.coalesced;
        self.violations.extend(violations);
        self.more_violations += more_violations;
    }
}
