//! Many writes of one vCPU in one call: arrays in, columns out.

use super::dicts::dict;
use super::outcome::{Kind, notification_code};
use crate::arch::Clause;
use crate::processor::Outcome;
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::collections::HashMap;

/// Stands for "none" in signed columns.
const NONE: i8 = -1;

/// The position of each clause in `CLAUSES`. Most rows have the clause of the row before.
struct Codes {
    all: HashMap<Clause, u8>,
    last: (Option<Clause>, u8),
}

impl Codes {
    fn new() -> Self {
        Self { all: Clause::all().zip(1..).collect(), last: (None, 0) }
    }

    fn of(&mut self, clause: Option<Clause>) -> u8 {
        if clause != self.last.0 {
            let code = clause.and_then(|clause| self.all.get(&clause).copied());
            self.last = (clause, code.unwrap_or(0));
        }
        self.last.1
    }
}

/// Columns of outcomes, a row for each write.
pub(super) struct Columns {
    outcome: Vec<u8>,
    clause: Vec<u8>,
    reason: Vec<u16>,
    qualification: Vec<u64>,
    vector: Vec<i16>,
    destination: Vec<i64>,
    coalesced: Vec<i8>,
    notification: Vec<i8>,
    codes: Codes,
}

impl Columns {
    /// Columns with room for `rows` rows.
    pub(super) fn with_room(rows: usize) -> Self {
        Self {
            outcome: Vec::with_capacity(rows),
            clause: Vec::with_capacity(rows),
            reason: Vec::with_capacity(rows),
            qualification: Vec::with_capacity(rows),
            vector: Vec::with_capacity(rows),
            destination: Vec::with_capacity(rows),
            coalesced: Vec::with_capacity(rows),
            notification: Vec::with_capacity(rows),
            codes: Codes::new(),
        }
    }

    /// One row more.
    pub(super) fn push(&mut self, outcome: Outcome) {
        let (mut vector, mut destination, mut coalesced, mut notification) = (NONE.into(), NONE.into(), NONE, NONE);
        let (mut reason, mut qualification) = (0, 0);
        let (kind, clause) = match outcome {
            Outcome::Virtualized(clause) => (Kind::Virtualized, Some(clause)),
            Outcome::Posted(posted) => {
                (vector, destination) = (posted.vector.into(), posted.apic_id.into());
                (coalesced, notification) = (posted.coalesced.into(), notification_code(posted.notice) as i8);
                (Kind::Posted, Some(Clause::IpiPosted))
            }
            Outcome::SelfIpi { vector: own, coalesced: already } => {
                (vector, coalesced) = (own.into(), already.into());
                (Kind::SelfIpi, Some(Clause::SelfIpi))
            }
            Outcome::Exit(exit) => {
                (reason, qualification) = (exit.reason.number(), exit.qualification);
                (Kind::of_exit(exit.reason), Some(exit.clause))
            }
            Outcome::Fault(clause) => (Kind::Fault, Some(clause)),
            Outcome::NotVirtualized(clause) => (Kind::NotVirtualized, Some(clause)),
            Outcome::Violation(_) => (Kind::Violation, None),
        };
        self.outcome.push(kind as u8);
        self.clause.push(self.codes.of(clause));
        self.reason.push(reason);
        self.qualification.push(qualification);
        self.vector.push(vector);
        self.destination.push(destination);
        self.coalesced.push(coalesced);
        self.notification.push(notification);
    }

    pub(super) fn into_dict(self, py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        Ok(dict!(py,
            "outcome" => PyArray1::from_vec(py, self.outcome),
            "clause" => PyArray1::from_vec(py, self.clause),
            "reason" => PyArray1::from_vec(py, self.reason),
            "qualification" => PyArray1::from_vec(py, self.qualification),
            "vector" => PyArray1::from_vec(py, self.vector),
            "destination" => PyArray1::from_vec(py, self.destination),
            "coalesced" => PyArray1::from_vec(py, self.coalesced),
            "notification" => PyArray1::from_vec(py, self.notification),
        ))
    }
}
