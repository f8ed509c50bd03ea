//! What an access of a vCPU driven by hand came to.

use super::dicts::{self, dict};
use crate::arch::{Clause, Exit, ExitReason};
use crate::processor::{Notice, Outcome as Core, Read, SendUipi};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::fmt::Write;

/// What came of an access: virtualized, a VM exit, a fault, or nothing that the processor virtualizes.
#[pyclass(frozen, module = "ipivrs._core")]
#[derive(Clone, Default)]
pub(super) struct Outcome {
    /// "posted", "self-ipi", "virtualized", "apic-write-exit", "apic-access-exit", "msr-exit", "eoi-exit", "tpr-exit",
    /// "fault", "not-virtualized", "ordinary-ipi" or "violation".
    #[pyo3(get, name = "outcome")]
    kind: &'static str,
    exit: Option<Exit>,
    clause: Option<Clause>,
    /// The vector posted or set in VIRR, or None.
    #[pyo3(get)]
    vector: Option<u8>,
    /// The virtual APIC ID it was posted to, or None.
    #[pyo3(get)]
    destination: Option<u32>,
    /// Whether the vector was pending there already, or None where nothing was sent.
    #[pyo3(get)]
    coalesced: Option<bool>,
    /// "sent", "suppressed" (SN = 1), "outstanding" (ON = 1 already), or None where nothing was posted.
    #[pyo3(get)]
    notification: Option<&'static str>,
    /// The value that a read returned, or None.
    #[pyo3(get)]
    value: Option<u64>,
    violation: Option<String>,
}

#[pymethods]
impl Outcome {
    /// Whether the processor completed the access without a VM exit or a fault.
    #[getter]
    fn virtualized(&self) -> bool {
        matches!(self.kind, "posted" | "self-ipi" | "virtualized")
    }

    /// The VM exit as a dictionary of reason, qualification and name, or None.
    #[getter]
    fn exit<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        self.exit.map(|exit| dicts::exit(py, exit)).transpose()
    }

    /// The basic exit reason, or None.
    #[getter]
    fn reason(&self) -> Option<u16> {
        self.exit.map(|exit| exit.reason.number())
    }

    /// The exit qualification, or None.
    #[getter]
    fn qualification(&self) -> Option<u64> {
        self.exit.map(|exit| exit.qualification)
    }

    /// The clause of the manual that decided, or what a violation was.
    #[getter]
    fn citation(&self) -> String {
        self.violation.clone().or_else(|| self.clause.map(|clause| clause.to_string())).unwrap_or_default()
    }

    /// Everything, in plain types.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        Ok(dict!(py,
            "outcome" => self.kind,
            "virtualized" => self.virtualized(),
            "exit" => self.exit(py)?,
            "citation" => self.citation(),
            "vector" => self.vector,
            "destination" => self.destination,
            "coalesced" => self.coalesced,
            "notification" => self.notification,
            "value" => self.value,
        ))
    }

    fn __repr__(&self) -> String {
        let mut text = format!("<Outcome {}", self.kind);
        if let Some(value) = self.value {
            let _ = write!(text, " {value:#x}");
        }
        if let Some(vector) = self.vector {
            let _ = write!(text, " vector={vector:#x}");
        }
        if let Some(destination) = self.destination {
            let _ = write!(text, " destination={destination}");
        }
        if let Some(notification) = self.notification {
            let _ = write!(text, " notification={notification}");
        }
        if let Some(exit) = self.exit {
            let _ = write!(text, " reason={} qualification={:#x}", exit.reason.number(), exit.qualification);
        }
        let _ = write!(text, ", {}>", self.citation());
        text
    }
}

impl Outcome {
    /// A VM exit.
    pub(super) fn of_exit(exit: Exit) -> Self {
        let kind = match exit.reason {
            ExitReason::ApicWrite => "apic-write-exit",
            ExitReason::ApicAccess => "apic-access-exit",
            ExitReason::MsrRead | ExitReason::MsrWrite => "msr-exit",
            ExitReason::VirtualizedEoi => "eoi-exit",
            ExitReason::TprBelowThreshold => "tpr-exit",
            ExitReason::ExternalInterrupt => "external-interrupt-exit",
            ExitReason::InterruptWindow => "interrupt-window-exit",
            ExitReason::Hlt => "hlt-exit",
        };
        Self { kind, exit: Some(exit), clause: Some(exit.clause), ..Self::default() }
    }

    /// A write; `explain_violation` puts a violation into words.
    pub(super) fn of_write(core: Core, explain_violation: impl FnOnce(crate::processor::Violation) -> String) -> Self {
        let plain = |kind, clause| Self { kind, clause: Some(clause), ..Self::default() };
        match core {
            Core::Virtualized(clause) => plain("virtualized", clause),
            Core::Posted(posted) => Self {
                vector: Some(posted.vector),
                destination: Some(posted.apic_id),
                coalesced: Some(posted.coalesced),
                notification: Some(match posted.notice {
                    Notice::Due(_) => "sent",
                    Notice::Suppressed => "suppressed",
                    Notice::Outstanding => "outstanding",
                }),
                ..plain("posted", Clause::IpiPosted)
            },
            Core::SelfIpi { vector, coalesced } => {
                Self { vector: Some(vector), coalesced: Some(coalesced), ..plain("self-ipi", Clause::SelfIpi) }
            }
            Core::Exit(exit) => Self::of_exit(exit),
            Core::Fault(clause) => plain("fault", clause),
            Core::NotVirtualized(clause) => plain("not-virtualized", clause),
            Core::Violation(violation) => {
                Self { kind: "violation", violation: Some(explain_violation(violation)), ..Self::default() }
            }
        }
    }

    /// The same with the value that the hypervisor answered with, if it did.
    pub(super) fn answered(mut self, value: Option<u64>) -> Self {
        self.value = self.value.or(value);
        self
    }

    /// A read.
    pub(super) fn of_read(read: Read, clause: Clause) -> Self {
        match read {
            Read::Value(value) => {
                Self { kind: "virtualized", value: Some(value), clause: Some(clause), ..Self::default() }
            }
            Read::Exit(exit) => Self::of_exit(exit),
            Read::NotVirtualized(clause) => Self { kind: "not-virtualized", clause: Some(clause), ..Self::default() },
        }
    }

    /// SENDUIPI.
    pub(super) fn of_senduipi(
        sent: SendUipi,
        explain_violation: impl FnOnce(crate::processor::Violation) -> String,
    ) -> Self {
        let clause = Some(Clause::SendUipiNotVirtualized);
        match sent {
            SendUipi::Notified(outcome) => Self::of_write(outcome, explain_violation),
            SendUipi::Quiet => Self { kind: "virtualized", clause: Some(Clause::IpiPosted), ..Self::default() },
            SendUipi::OrdinaryIpi(due) => Self {
                kind: "ordinary-ipi",
                clause,
                vector: Some(due.vector),
                destination: Some(due.destination),
                ..Self::default()
            },
            SendUipi::Fault => Self { kind: "fault", clause, ..Self::default() },
            SendUipi::Violation(violation) => {
                Self { kind: "violation", violation: Some(explain_violation(violation)), ..Self::default() }
            }
        }
    }
}
