//! `explain`: one interrupt command, rule by rule.

use super::dicts::{self, dict};
use super::parse;
use crate::arch::{ApicMode, Icr, IcrLow};
use crate::engine::explain::{Explanation as Answer, Question, explain as answer};
use crate::guest::Via;
use crate::hypervisor::Apicv;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// An interrupt command register value from its fields.
///
/// In x2APIC mode the 64-bit register; in xAPIC mode ICR_HI in the upper 32 bits and ICR_LO in the lower. Reserved bits
/// and delivery status are 0. SDM vol. 3A, "Interrupt Command Register (ICR)" 11.6.1, "ICR Operation in x2APIC Mode" 11.12.9.
///
/// Args:
///     vector: 0 to 255.
///     dest: Destination field; 0 to 255 in xAPIC mode, 0 to 0xFFFFFFFF in x2APIC mode.
///     apic: "x2apic" or "xapic".
///     mode: Delivery mode: "fixed", "lowest-priority", "smi", "nmi", "init", "sipi", "reserved-3", "reserved-7".
///     destination_mode: "physical" or "logical".
///     level: "deassert" or "assert".
///     trigger: "edge" or "level".
///     shorthand: "none", "self", "all" or "all-but-self".
///
/// Raises:
///     ValueError: A value is out of its range; the message names the range or the choices.
#[pyfunction]
#[pyo3(signature = (vector, dest=0, *, apic="x2apic", mode="fixed", destination_mode="physical", level="deassert",
    trigger="edge", shorthand="none"))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(super) fn compose_icr(
    vector: i128,
    dest: i128,
    apic: &str,
    mode: &str,
    destination_mode: &str,
    level: &str,
    trigger: &str,
    shorthand: &str,
) -> PyResult<u64> {
    let apic = parse::apic(apic)?;
    let last = if apic == ApicMode::X2Apic { u32::MAX } else { u32::from(u8::MAX) };
    let low = IcrLow::new()
        .with_vector(parse::ranged("vector", vector, 255)?)
        .with_delivery_mode(parse::delivery_mode(mode)?)
        .with_destination_mode(parse::destination_mode(destination_mode)?)
        .with_level_assert(parse::level_assert(level)?)
        .with_trigger_level(parse::trigger_level(trigger)?)
        .with_shorthand(parse::shorthand(shorthand)?);
    Ok(Icr { low, destination: parse::ranged("dest", dest, i128::from(last))? }.to_u64(apic))
}

/// What the processor does with one interrupt command.
///
/// Args:
///     icr: The value written, 64 bits. In x2APIC mode the register; in xAPIC mode ICR_HI is the upper half. With
///         access="self-ipi" the value written to MSR 83FH.
///     apic: The mode of the guest's local APIC: "x2apic" (WRMSR 830H) or "xapic" (write to offset 300H).
///     access: "icr", or "self-ipi" for WRMSR 83FH (x2APIC only).
///     vcpus: Number of vCPUs, 1 to 65536, with APIC IDs from 0: the walk goes on through table and descriptor.
///     last_index: Last PID-pointer index, 0 to 65535; by default the highest APIC ID.
///     ipi_virtualization: KVM's enable_ipiv.
///     apicv: APICv is active: APIC-register virtualization, virtual-interrupt delivery, posted interrupts.
///
/// Returns:
///     The outcome, the clause that decided (SDM vol. 3C, chapter 30) and every step on the way.
///
/// Raises:
///     ValueError: A value is out of its range.
#[pyfunction]
#[pyo3(signature = (icr, *, apic="x2apic", access="icr", vcpus=None, last_index=None, ipi_virtualization=true,
    apicv=true))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(super) fn explain(
    icr: i128,
    apic: &str,
    access: &str,
    vcpus: Option<i128>,
    last_index: Option<i128>,
    ipi_virtualization: bool,
    apicv: bool,
) -> PyResult<Explanation> {
    let mode = parse::apic(apic)?;
    let value: u64 = parse::ranged("icr", icr, i128::from(u64::MAX))?;
    let via = match (mode, parse::self_ipi_access(access)?) {
        (ApicMode::X2Apic, true) => {
            parse::ranged::<u8>("the self-IPI register", icr, 255)?;
            Via::SelfIpiMsr
        }
        (_, true) => return Err(PyValueError::new_err("access \"self-ipi\" is MSR 83FH, which only x2APIC mode has")),
        (ApicMode::X2Apic, false) => Via::X2ApicIcr,
        (_, false) => Via::Mmio,
    };
    let vcpus: Option<u32> = vcpus.map(parse::vcpus).transpose()?;
    let last_index = last_index.map(|last| parse::ranged("last_index", last, 65_535)).transpose()?;
    let question = Question {
        icr: Icr::from_u64(value, mode),
        via,
        apicv: Apicv { active: apicv, enable_ipiv: ipi_virtualization },
        vcpus,
        last_index,
    };
    let answer = answer(&question).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(Explanation { question, value, answer })
}

/// The answer of `explain`.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct Explanation {
    question: Question,
    value: u64,
    answer: Answer,
}

#[pymethods]
impl Explanation {
    /// What becomes of the command: "posted", "self-ipi", "apic-write-exit", "apic-access-exit", "msr-exit", "fault" or
    /// "not-virtualized".
    #[getter]
    fn outcome(&self) -> &'static str {
        self.answer.outcome_name()
    }

    /// The clause of the manual that decided.
    #[getter]
    fn clause(&self) -> String {
        self.answer.clause.to_string()
    }

    /// Everything, in plain types: what `ipivrs explain --json` prints.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let answer = &self.answer;
        let steps = PyList::empty(py);
        for step in &answer.steps {
            steps.append(dict!(py,
                "rule" => format!("{}: {}", step.rule, step.clause.text()),
                "holds" => step.holds,
                "clause" => step.clause.to_string(),
            ))?;
        }
        let exit = answer.exit().map(|exit| dicts::exit(py, exit)).transpose()?;
        let icr = self.question.icr;
        Ok(dict!(py,
            "outcome" => answer.outcome_name(),
            "exit" => exit,
            "clause" => answer.clause.to_string(),
            "condition" => answer.clause.condition(),
            "apic" => self.question.via.mode().name().to_ascii_lowercase(),
            "icr" => format!("{:#x}", self.value),
            "access" => access_phrase(self.question.via),
            "fields" => dicts::icr_fields(py, icr.low, icr.destination)?,
            "steps" => steps,
            "target" => self.target(py)?,
            "version" => env!("CARGO_PKG_VERSION"),
        ))
    }

    fn __repr__(&self) -> String {
        format!("<Explanation {:#x}: {}, {}>", self.value, self.answer.outcome_name(), self.answer.clause)
    }
}

impl Explanation {
    fn target<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(target) = self.answer.target else { return Ok(None) };
        let dict = dict!(py, "apic_id" => target.apic_id);
        dict.update(dicts::control(py, target.control)?.as_mapping())?;
        dict.set_item(
            "notification",
            target
                .notification
                .map(|due| format!("vector {:02X}H to physical APIC ID {}", due.vector, due.destination)),
        )?;
        Ok(Some(dict))
    }
}

const fn access_phrase(via: Via) -> &'static str {
    match via {
        Via::Mmio => "write to offset 300H of the APIC-access page",
        Via::X2ApicIcr => "WRMSR 830H",
        Via::SelfIpiMsr => "WRMSR 83FH",
    }
}
