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
    /// Rows that are filled.
    filled: usize,
    codes: Codes,
}

impl Columns {
    /// Columns of `rows` rows, all 0.
    pub(super) fn of_rows(rows: usize) -> Self {
        Self {
            outcome: vec![0; rows],
            clause: vec![0; rows],
            reason: vec![0; rows],
            qualification: vec![0; rows],
            vector: vec![0; rows],
            destination: vec![0; rows],
            coalesced: vec![0; rows],
            notification: vec![0; rows],
            filled: 0,
            codes: Codes::new(),
        }
    }

    /// Fills the next row; there must be one.
    #[inline]
    pub(super) fn push(&mut self, outcome: Outcome) {
        let row = self.filled;
        self.filled += 1;
        let (mut vector, mut destination, mut coalesced, mut notification) = (NONE.into(), NONE.into(), NONE, NONE);
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
                // Written where there are any: what stays 0 need not be touched.
                (self.reason[row], self.qualification[row]) = (exit.reason.number(), exit.qualification);
                (Kind::of_exit(exit.reason), Some(exit.clause))
            }
            Outcome::Fault(clause) => (Kind::Fault, Some(clause)),
            Outcome::NotVirtualized(clause) => (Kind::NotVirtualized, Some(clause)),
            Outcome::Violation(_) => (Kind::Violation, None),
        };
        self.outcome[row] = kind as u8;
        self.clause[row] = self.codes.of(clause);
        self.vector[row] = vector;
        self.destination[row] = destination;
        self.coalesced[row] = coalesced;
        self.notification[row] = notification;
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
