//! What an access of a vCPU driven by hand came to.

use super::dicts::{self, dict};
use crate::arch::{Clause, Exit, ExitReason};
use crate::processor::{ExternalInterrupt, Notice, Outcome as Core, Posted, Read, SendUipi};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::fmt::Write;

/// What kind of outcome it is; the position is its code in columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Virtualized,
    Posted,
    SelfIpi,
    ApicWriteExit,
    ApicAccessExit,
    MsrExit,
    EoiExit,
    TprExit,
    ExternalInterruptExit,
    InterruptWindowExit,
    HltExit,
    Fault,
    NotVirtualized,
    OrdinaryIpi,
    Violation,
}

impl Kind {
    pub(super) const NAMES: [&'static str; 15] = [
        "virtualized",
        "posted",
        "self-ipi",
        "apic-write-exit",
        "apic-access-exit",
        "msr-exit",
        "eoi-exit",
        "tpr-exit",
        "external-interrupt-exit",
        "interrupt-window-exit",
        "hlt-exit",
        "fault",
        "not-virtualized",
        "ordinary-ipi",
        "violation",
    ];

    pub(super) const fn of_exit(reason: ExitReason) -> Self {
        match reason {
            ExitReason::ApicWrite => Self::ApicWriteExit,
            ExitReason::ApicAccess => Self::ApicAccessExit,
            ExitReason::MsrRead | ExitReason::MsrWrite => Self::MsrExit,
            ExitReason::VirtualizedEoi => Self::EoiExit,
            ExitReason::TprBelowThreshold => Self::TprExit,
            ExitReason::ExternalInterrupt => Self::ExternalInterruptExit,
            ExitReason::InterruptWindow => Self::InterruptWindowExit,
            ExitReason::Hlt => Self::HltExit,
        }
    }

    const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

/// What became of a notification, for reports: the position is its code in columns.
pub(super) const NOTIFICATIONS: [&str; 3] = ["sent", "suppressed", "outstanding"];

pub(super) const fn notification_code(notice: Notice) -> usize {
    match notice {
        Notice::Due(_) => 0,
        Notice::Suppressed => 1,
        Notice::Outstanding => 2,
    }
}

/// What came of an access: virtualized, a VM exit, a fault, or nothing that the processor virtualizes.
#[pyclass(frozen, module = "ipivrs._core")]
#[derive(Clone, Default)]
pub(super) struct Outcome {
    kind: Kind,
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
    /// One of `OUTCOMES`: "virtualized", "posted", "self-ipi", "apic-write-exit", "apic-access-exit", "msr-exit",
    /// "eoi-exit", "tpr-exit", "external-interrupt-exit", "interrupt-window-exit", "hlt-exit", "fault",
    /// "not-virtualized", "ordinary-ipi" (SENDUIPI without IPI virtualization) or "violation".
    #[getter]
    fn outcome(&self) -> &'static str {
        self.kind.name()
    }

    /// Whether the processor completed the access without a VM exit or a fault.
    #[getter]
    fn virtualized(&self) -> bool {
        matches!(self.kind, Kind::Posted | Kind::SelfIpi | Kind::Virtualized)
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
            "outcome" => self.outcome(),
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
        let mut text = format!("<Outcome {}", self.outcome());
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
        Self { kind: Kind::of_exit(exit.reason), exit: Some(exit), clause: Some(exit.clause), ..Self::default() }
    }

    /// A write; `explain_violation` puts a violation into words.
    pub(super) fn of_write(core: Core, explain_violation: impl FnOnce(crate::processor::Violation) -> String) -> Self {
        let plain = |kind, clause| Self { kind, clause: Some(clause), ..Self::default() };
        match core {
            Core::Virtualized(clause) => plain(Kind::Virtualized, clause),
            Core::Posted(posted) => Self::of_post(posted),
            Core::SelfIpi { vector, coalesced } => {
                Self { vector: Some(vector), coalesced: Some(coalesced), ..plain(Kind::SelfIpi, Clause::SelfIpi) }
            }
            Core::Exit(exit) => Self::of_exit(exit),
            Core::Fault(clause) => plain(Kind::Fault, clause),
            Core::NotVirtualized(clause) => plain(Kind::NotVirtualized, clause),
            Core::Violation(violation) => {
                Self { kind: Kind::Violation, violation: Some(explain_violation(violation)), ..Self::default() }
            }
        }
    }

    /// A post in a descriptor.
    pub(super) fn of_post(posted: Posted) -> Self {
        Self {
            kind: Kind::Posted,
            clause: Some(Clause::IpiPosted),
            vector: Some(posted.vector),
            destination: Some(posted.apic_id),
            coalesced: Some(posted.coalesced),
            notification: Some(NOTIFICATIONS[notification_code(posted.notice)]),
            ..Self::default()
        }
    }

    /// What came of the local APIC's pending interrupt; none was pending where this is none.
    pub(super) fn of_external_interrupt(
        interrupt: ExternalInterrupt,
        notification_vector: u8,
        explain_violation: impl FnOnce(crate::processor::Violation) -> String,
    ) -> Option<Self> {
        match interrupt {
            ExternalInterrupt::None => None,
            ExternalInterrupt::Processed(_) => Some(Self { vector: Some(notification_vector), ..Self::default() }),
            ExternalInterrupt::Exit(exit, vector) => Some(Self { vector, ..Self::of_exit(exit) }),
            ExternalInterrupt::Guest(vector) => {
                Some(Self { kind: Kind::NotVirtualized, vector: Some(vector), ..Self::default() })
            }
            ExternalInterrupt::Violation(violation) => {
                Some(Self::of_write(Core::Violation(violation), explain_violation))
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
            Read::Value(value) => Self { value: Some(value), clause: Some(clause), ..Self::default() },
            Read::Exit(exit) => Self::of_exit(exit),
            Read::NotVirtualized(clause) => {
                Self { kind: Kind::NotVirtualized, clause: Some(clause), ..Self::default() }
            }
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
            SendUipi::Quiet => Self { clause: Some(Clause::IpiPosted), ..Self::default() },
            SendUipi::OrdinaryIpi(due) => Self {
                kind: Kind::OrdinaryIpi,
                clause,
                vector: Some(due.vector),
                destination: Some(due.destination),
                ..Self::default()
            },
            SendUipi::Fault => Self { kind: Kind::Fault, clause, ..Self::default() },
            SendUipi::Violation(violation) => {
                Self { kind: Kind::Violation, violation: Some(explain_violation(violation)), ..Self::default() }
            }
        }
    }
}
