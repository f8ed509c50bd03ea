//! `run`: a recording through the emulated processor.

use super::caller::Caller;
use super::dicts::{self, dict, level_name};
use super::timed::Comparison;
use super::{RecordingError, parse};
use crate::arch::{ApicMode, Clause, IcrLow};
use crate::engine::threads::{Pace, Run};
use crate::guest::Via;
use crate::hypervisor::{Apicv, MAX_VCPUS};
use crate::intake::{self, HypercallIpis, InhibitChange, Options, Recording};
use crate::record::{Fate, Kind, Summary};
use crate::replay::{ReplayOptions, replay};
use crate::targets::targets_of;
use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rustc_hash::FxHashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Drives every inter-processor interrupt of a recording through the emulated processor, one thread per vCPU.
///
/// Args:
///     path: perf.data, `perf script` text, ftrace text or `trace-cmd report` text.
///     apic: "x2apic" or "xapic": the mode where the recording does not show it; by default x2APIC.
///     apic_ids: APIC ID of vCPU 0, 1, ... where the recording does not show it; by default 0, 1, ...
///     vcpus: Number of vCPUs, if more than the recording shows.
///     last_index: Last PID-pointer index, 0 to 65535; by default the highest APIC ID.
///     pace: "recorded": in the order of the recording, each when the one before it has arrived. "free": each sender
///         as fast as it can.
///     ipi_virtualization: KVM's enable_ipiv.
///     process: Only the VM of this process id.
///     progress: Called some times a second with what is counted ("bytes", then "IPIs"), how many are done, and of how
///         many; what it raises ends the call.
///
/// Raises:
///     RecordingError: The file cannot be used; the message says what to do.
///     ValueError: An option is out of its range.
///     KeyboardInterrupt: Ctrl-C; the threads have ended.
#[pyfunction]
#[pyo3(signature = (path, *, apic=None, apic_ids=None, vcpus=None, last_index=None, pace="recorded",
    ipi_virtualization=true, process=None, progress=None))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "keyword arguments of a Python function")]
pub(super) fn run(
    py: Python<'_>,
    path: PathBuf,
    apic: Option<&str>,
    apic_ids: Option<Vec<i128>>,
    vcpus: Option<i128>,
    last_index: Option<i128>,
    pace: &str,
    ipi_virtualization: bool,
    process: Option<u32>,
    progress: Option<Py<PyAny>>,
) -> PyResult<RunResult> {
    let options = Options { process, ..options(apic, apic_ids, vcpus)? };
    let how = ReplayOptions {
        pace: parse::pace(pace)?,
        last_index: last_index.map(|last| parse::ranged("last_index", last, 65_535)).transpose()?,
        apicv: Apicv { active: true, enable_ipiv: ipi_virtualization },
    };
    let mut caller = Caller::new(progress);
    let recording = read(py, &path, &options, &mut caller)?;
    let total = recording.ipis.len() as u64;
    let run = py
        .detach(|| replay(&recording, how, &mut |sent| caller.goes_on("IPIs", sent, total)))
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    if let Some(raised) = caller.raised() {
        return Err(raised);
    }
    Ok(RunResult { path: path.to_string_lossy().into_owned(), recording, run, how: How::Threads(how.pace) })
}

/// Reads a recording, and tells the caller how far it is.
pub(super) fn read(py: Python<'_>, path: &Path, options: &Options, caller: &mut Caller) -> PyResult<Recording> {
    py.detach(|| intake::read_watched(path, options, &mut |done, total| caller.goes_on("bytes", done, total)))
        .map_err(|error| caller.raised().unwrap_or_else(|| RecordingError::new_err(error.to_string())))
}

/// What the user knows of a recording.
pub(super) fn options(apic: Option<&str>, apic_ids: Option<Vec<i128>>, vcpus: Option<i128>) -> PyResult<Options> {
    let given = apic.map(parse::apic).transpose()?;
    let mut ids = None;
    if let Some(values) = apic_ids {
        let last = MAX_VCPUS as i128 - 1;
        let parsed =
            values.into_iter().map(|id| parse::ranged("an APIC ID", id, last)).collect::<PyResult<Vec<u32>>>()?;
        ids = Some(parsed);
    }
    Ok(Options {
        assume: given.unwrap_or(ApicMode::X2Apic),
        apic_mode_given: given.is_some(),
        apic_ids: ids,
        vcpus: vcpus.map(parse::vcpus).transpose()?,
        ..Options::default()
    })
}

/// The engine that ran it.
pub(super) enum How {
    Threads(Pace),
    VirtualTime(Box<Comparison>),
}

/// What became of every interrupt of a recording.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct RunResult {
    pub(super) path: String,
    pub(super) recording: Recording,
    pub(super) run: Run,
    pub(super) how: How,
}

#[pymethods]
#[allow(clippy::unused_self, reason = "Python asks a result for the names of its codes")]
impl RunResult {
    /// Everything but the columns, in plain types: what `ipivrs run --json` prints.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let summary = &self.run.summary;
        let seconds = self.run.elapsed.as_secs_f64();
        let ipis = summary.ipis;
        let notifications = summary.notifications;
        let (engine, pace, policy) = match &self.how {
            How::Threads(Pace::Recorded) => ("threads", Some("recorded"), None),
            How::Threads(Pace::Free) => ("threads", Some("free"), None),
            How::VirtualTime(comparison) => ("virtual-time", None, Some(&comparison.policy)),
        };
        let whole = dict!(py,
            "ipis" => dict!(py,
                "total" => ipis.total,
                "virtualized" => ipis.virtualized,
                "self" => ipis.self_ipi,
                "exited" => ipis.exited,
                "faulted" => ipis.faulted,
                "escaped" => ipis.escaped,
                "wild" => ipis.violations,
                "delivered" => ipis.delivered,
                "coalesced" => ipis.coalesced,
                "pending" => ipis.pending,
            ),
            "exits" => exits(py, summary)?,
            "notifications" => dicts::notifications(py, notifications)?,
            "violations" => violations(py, summary)?,
            "kinds" => kinds(py, summary)?,
            "engine" => engine,
            "pace" => pace,
            "seed" => py.None(),
            "policy" => policy,
            "seconds" => seconds,
            "ipis_per_second" => if seconds > 0.0 { approximate(ipis.total) / seconds } else { 0.0 },
            "version" => env!("CARGO_PKG_VERSION"),
            "recording" => self.recording_dict(py)?,
        );
        if let How::VirtualTime(comparison) = &self.how {
            comparison.add_to(&whole)?;
        }
        Ok(whole)
    }

    /// One column for each property of an interrupt, in the order of the recording.
    fn ipis<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = &self.recording.ipis;
        let fates = &self.run.summary.columns;
        let codes = clause_codes();
        let vectors = columns.icr_low.iter().map(|&low| IcrLow::from_bits(low).vector());
        let clauses =
            fates.clause.iter().map(|clause| clause.map_or(0, |clause| codes.get(&clause).copied().unwrap_or(0)));
        Ok(dict!(py,
            "time_ns" => PyArray1::from_slice(py, &columns.time_ns),
            "sender" => PyArray1::from_slice(py, &columns.sender),
            "destination" => PyArray1::from_slice(py, &columns.destination),
            "vector" => PyArray1::from_iter(py, vectors),
            "icr_low" => PyArray1::from_slice(py, &columns.icr_low),
            "via" => PyArray1::from_iter(py, columns.via.iter().map(|&via| via as u8)),
            "fate" => PyArray1::from_iter(py, fates.fate.iter().map(|fate| fate.code())),
            "clause" => PyArray1::from_iter(py, clauses),
        ))
    }

    /// Whom each interrupt means: sets of vCPUs by their positions in the recording, and the set of each interrupt; and
    /// whether the flat model of logical destinations was assumed.
    fn targets<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let targets = targets_of(&self.recording);
        Ok(dict!(py,
            "sets" => targets.sets,
            "of" => PyArray1::from_vec(py, targets.of),
            "flat_assumed" => targets.flat_assumed,
        ))
    }

    /// Names of the codes in the column "fate".
    #[getter]
    fn fate_names(&self) -> Vec<&'static str> {
        Fate::ALL.iter().map(|fate| fate.name()).collect()
    }

    /// The clauses behind the codes in the column "clause"; code 0 is none.
    #[getter]
    fn clause_names(&self) -> Vec<String> {
        clause_names()
    }

    /// Names of the codes in the column "via".
    #[getter]
    fn via_names(&self) -> Vec<&'static str> {
        Via::ALL.iter().map(|via| via.name()).collect()
    }
}

/// The clauses behind codes in columns; code 0 is none.
pub(super) fn clause_names() -> Vec<String> {
    std::iter::once("none".to_owned()).chain(Clause::all().map(|clause| clause.to_string())).collect()
}

impl RunResult {
    fn recording_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let recording = &self.recording;
        let vcpus = PyList::empty(py);
        for (vcpu, totals) in recording.vcpus.iter().zip(self.vcpu_totals()) {
            vcpus.append(dict!(py,
                "vm" => vcpu.vm,
                "vcpu" => vcpu.vcpu_id,
                "apic_id" => vcpu.apic_id,
                "thread" => vcpu.thread,
                "process" => vcpu.process,
                "name" => &vcpu.name,
                "ipis_sent" => totals.0,
                "virtualized" => totals.1,
                "received" => totals.2,
                "id_written" => vcpu.id_written,
            ))?;
        }
        let skipped = PyList::empty(py);
        for skip in &recording.skipped {
            skipped.append(dict!(py, "reason" => &skip.reason, "count" => skip.count))?;
        }
        Ok(dict!(py,
            "path" => &self.path,
            "format" => recording.format.name(),
            "side" => recording.side.name(),
            "identified_by" => recording.identified_by.describe(),
            "vcpus" => vcpus,
            "records" => &recording.records,
            "skipped" => skipped,
            "lost_events" => recording.lost,
            "notes" => &recording.notes,
            "hypercalls" => self.hypercalls(py)?,
            "inhibits" => self.inhibits(py)?,
            "machine" => dict!(py,
                "kernel" => &recording.machine.kernel,
                "processor" => &recording.machine.processor,
                "cpuid" => &recording.machine.cpuid,
            ),
            "span_seconds" => Duration::from_nanos(recording.span_ns).as_secs_f64(),
        ))
    }

    fn hypercalls<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for HypercallIpis { icr_low, calls, targets } in &self.recording.hypercalls {
            list.append(dict!(py, "icr_low" => icr_low, "calls" => calls, "targets" => targets))?;
        }
        Ok(list)
    }

    fn inhibits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for InhibitChange { time_ns, process, reason, set, inhibits } in &self.recording.inhibits {
            list.append(dict!(py,
                "time_ns" => time_ns,
                "process" => process,
                "reason" => reason,
                "set" => set,
                "inhibits" => inhibits,
            ))?;
        }
        Ok(list)
    }

    /// IPIs sent, of these without a VM exit, and IPIs received without one, for each vCPU of the recording.
    fn vcpu_totals(&self) -> Vec<(u64, u64, u64)> {
        let vcpus = &self.recording.vcpus;
        let by_id: FxHashMap<_, _> =
            vcpus.iter().zip(0_u32..).map(|(vcpu, at)| ((vcpu.vm, vcpu.apic_id), at)).collect();
        let mut totals = vec![(0, 0, 0); vcpus.len()];
        let ipis = &self.recording.ipis;
        for ((&sender, &destination), fate) in
            ipis.sender.iter().zip(&ipis.destination).zip(&self.run.summary.columns.fate)
        {
            let mut receiver = None;
            if let Some((sent, without_exit, _)) = totals.get_mut(sender as usize) {
                *sent += u64::from(*fate != Fate::Unsent);
                *without_exit += u64::from(matches!(fate, Fate::Virtualized | Fate::SelfIpi));
                receiver = match fate {
                    Fate::Virtualized => by_id.get(&(vcpus[sender as usize].vm, destination)).copied(),
                    Fate::SelfIpi => Some(sender),
                    _ => None,
                };
            }
            if let Some((_, _, received)) = receiver.and_then(|receiver| totals.get_mut(receiver as usize)) {
                *received += 1;
            }
        }
        totals
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate for people")]
pub(super) fn approximate(count: u64) -> f64 {
    count as f64
}

fn exits<'py>(py: Python<'py>, summary: &Summary) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for entry in &summary.exits {
        list.append(dict!(py,
            "reason" => entry.exit.reason.number(),
            "qualification" => entry.exit.qualification,
            "name" => entry.exit.reason.name(),
            "clause" => entry.exit.clause.to_string(),
            "count" => entry.count,
        ))?;
    }
    Ok(list)
}

fn violations<'py>(py: Python<'py>, summary: &Summary) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for violation in &summary.violations {
        list.append(dict!(py,
            "kind" => violation.kind,
            "vcpu" => violation.vcpu,
            "message" => &violation.message,
        ))?;
    }
    let more = summary.more_violations;
    if more > 0 {
        let message = format!("{more} more violations");
        list.append(dict!(py, "kind" => "more", "vcpu" => py.None(), "message" => message, "count" => more))?;
    }
    Ok(list)
}

fn kinds<'py>(py: Python<'py>, summary: &Summary) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for (kind, count) in &summary.kinds {
        let Kind { via, vector, delivery_mode, destination_mode, shorthand, level_assert, fate, clause, .. } = *kind;
        list.append(dict!(py,
            "apic" => via.mode().name(),
            "access" => via.name(),
            "vector" => vector,
            "delivery_mode" => delivery_mode.name(),
            "destination_mode" => destination_mode.name(),
            "shorthand" => shorthand.name(),
            "level" => level_name(level_assert),
            "trigger" => dicts::trigger_name(kind.trigger_level),
            "fate" => fate.name(),
            "clause" => clause.map(|clause| clause.to_string()),
            "condition" => clause.and_then(Clause::condition),
            "count" => count,
        ))?;
    }
    Ok(list)
}

/// The code of each clause in columns: its place among all, from 1.
fn clause_codes() -> FxHashMap<Clause, u16> {
    Clause::all().zip(1..).collect()
}
