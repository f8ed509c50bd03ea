//! What became of an interrupt that a guest sent.

use crate::arch::Clause;
use crate::processor::Outcome;

/// What became of one interrupt command. Every one has exactly one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Fate {
    /// The run ended before it was sent.
    Unsent,
    /// IPI virtualization posted it: no VM exit.
    Virtualized,
    /// Self-IPI virtualization: no VM exit.
    SelfIpi,
    /// VM exit: the hypervisor sends it in software.
    Exited,
    /// #GP(0).
    Faulted,
    /// It went to the physical local APIC.
    Escaped,
    /// The processor was led to memory that it should not touch.
    Violation,
}

impl Fate {
    /// All of them, in the order of their codes.
    pub const ALL: [Self; 7] =
        [Self::Unsent, Self::Virtualized, Self::SelfIpi, Self::Exited, Self::Faulted, Self::Escaped, Self::Violation];

    /// The code in columns.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// A short name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unsent => "unsent",
            Self::Virtualized => "virtualized",
            Self::SelfIpi => "self",
            Self::Exited => "exited",
            Self::Faulted => "faulted",
            Self::Escaped => "escaped",
            Self::Violation => "violation",
        }
    }

    /// What [`of`](Self::of) says of an interrupt that IPI virtualization posted.
    pub const POSTED: (Self, Option<Clause>) = (Self::Virtualized, Some(Clause::IpiPosted));

    /// The fate that an outcome is, and the clause that decided, if one did.
    #[must_use]
    pub const fn of(outcome: &Outcome) -> (Self, Option<Clause>) {
        match outcome {
            Outcome::Posted(_) => Self::POSTED,
            Outcome::SelfIpi { .. } => (Self::SelfIpi, Some(Clause::SelfIpi)),
            Outcome::Exit(exit) => (Self::Exited, Some(exit.clause)),
            Outcome::Fault(clause) => (Self::Faulted, Some(*clause)),
            // A write of the ICR that is virtualized and sends nothing is none of the above; it cannot happen, and if
            // it did the sum of the fates would show it as an escape.
            Outcome::NotVirtualized(clause) | Outcome::Virtualized(clause) => (Self::Escaped, Some(*clause)),
            Outcome::Violation(_) => (Self::Violation, None),
        }
    }
}

/// The fate of each interrupt of a run, by its place in the order of sending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FateColumns {
    /// Fate.
    pub fate: Vec<Fate>,
    /// The clause that decided.
    pub clause: Vec<Option<Clause>>,
}

impl FateColumns {
    /// `count` interrupts that are not sent yet.
    #[must_use]
    pub fn unsent(count: usize) -> Self {
        Self { fate: vec![Fate::Unsent; count], clause: vec![None; count] }
    }
}
