//! `run_in_virtual_time`: a recording in virtual time, with IPI virtualization and without it.

use super::caller::Caller;
use super::dicts::{self, dict};
use super::parse;
use super::run::{How, RunResult, options, read};
use super::scenario::latency;
use crate::engine::threads::Run;
use crate::engine::virtual_time::Costs;
use crate::hypervisor::policy::Policy;
use crate::intake::Options;
use crate::record::Fate;
use crate::replay::{Side, Timed, TimedOptions, timed};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;

/// Drives every inter-processor interrupt of a recording through the emulated machine at its recorded time, once with IPI
/// virtualization and once without it.
///
/// Args:
///     path: perf.data, `perf script` text, ftrace text or `trace-cmd report` text.
///     policy: Text of the policy.
///     costs: What acts cost, JSON: cycles by name, and `hz`.
///     profile: The name of these costs.
///     apic: "x2apic" or "xapic": the mode where the recording does not show it; by default x2APIC.
///     apic_ids: APIC ID of vCPU 0, 1, ... where the recording does not show it; by default 0, 1, ...
///     vcpus: Number of vCPUs, if more than the recording shows.
///     last_index: Last PID-pointer index, 0 to 65535; by default the highest APIC ID.
///     process: Only the VM of this process id.
///     progress: Called some times a second with what is counted ("bytes", then "cycles" of both runs), how many are done,
///         and of how many; what it raises ends the call.
///
/// Raises:
///     RecordingError: The file cannot be used; the message says what to do.
///     ValueError: An option, the policy or the costs cannot be used.
///     KeyboardInterrupt: Ctrl-C.
#[pyfunction]
#[pyo3(signature = (path, policy, costs, *, profile, apic=None, apic_ids=None, vcpus=None, last_index=None, process=None,
    progress=None))]
#[allow(clippy::too_many_arguments, clippy::needless_pass_by_value, reason = "keyword arguments of a Python function")]
pub(super) fn run_in_virtual_time(
    py: Python<'_>,
    path: PathBuf,
    policy: &str,
    costs: &str,
    profile: &str,
    apic: Option<&str>,
    apic_ids: Option<Vec<i128>>,
    vcpus: Option<i128>,
    last_index: Option<i128>,
    process: Option<u32>,
    progress: Option<Py<PyAny>>,
) -> PyResult<RunResult> {
    let bad = |error: &dyn std::fmt::Display| PyValueError::new_err(error.to_string());
    let costs = Costs::from_json(costs).map_err(|error| bad(&error))?;
    let policy = Policy::parse(policy).map_err(|error| bad(&error))?;
    let options = Options { process, absences: true, ..options(apic, apic_ids, vcpus)? };
    let last_index = last_index.map(|last| parse::ranged("last_index", last, 65_535)).transpose()?;
    let (policy_name, hz) = (policy.name.clone(), costs.hz);
    let mut caller = Caller::new(progress);
    let mut recording = read(py, &path, &options, &mut caller)?;
    let span = u64::try_from(u128::from(recording.span_ns) * u128::from(hz) / 1_000_000_000).unwrap_or(u64::MAX / 2);
    let (mut latest, mut first_run) = (0, 0);
    let run = py.detach(|| {
        let mut keep_going = |now| {
            // Time begins anew with the second run.
            first_run = if now < latest { span } else { first_run };
            latest = now;
            caller.goes_on("cycles", first_run + now.min(span), 2 * span)
        };
        timed(&recording, TimedOptions { costs: &costs, policy, last_index, keep_going: &mut keep_going })
    });
    let Timed { with, without, notes } = run.map_err(|error| bad(&error))?;
    if let Some(raised) = caller.raised() {
        return Err(raised);
    }
    recording.notes.extend(notes);
    let mut summary = with.summary.clone();
    // What goes wrong without IPI virtualization is as wrong.
    summary.violations.extend(without.summary.violations.iter().cloned().map(|mut violation| {
        violation.message = format!("without IPI virtualization: {}", violation.message);
        violation
    }));
    summary.more_violations += without.summary.more_violations;
    let run = Run { summary, elapsed: with.run.machine.elapsed, partial: false };
    let comparison = Comparison { policy: policy_name, profile: profile.to_owned(), hz, with, without };
    let how = How::VirtualTime(Box::new(comparison));
    Ok(RunResult { path: path.to_string_lossy().into_owned(), recording, run, how })
}

/// Both runs of a recording, and how they were made.
pub(super) struct Comparison {
    pub(super) policy: String,
    profile: String,
    hz: u64,
    with: Side,
    without: Side,
}

impl Comparison {
    /// Adds what only virtual time tells.
    pub(super) fn add_to(&self, whole: &Bound<'_, PyDict>) -> PyResult<()> {
        let py = whole.py();
        let (with, without) = (Cost::of(&self.with), Cost::of(&self.without));
        let saved = without.exit_cycles - with.exit_cycles;
        let comparison = dict!(py,
            "with" => side(py, &self.with)?,
            "without" => side(py, &self.without)?,
            "saved" => dict!(py,
                "exits" => without.exits - with.exits,
                "exit_cycles" => saved,
                "exit_seconds" => ratio(saved, self.hz),
                "cycles_per_ipi" => without.per_ipi() - with.per_ipi(),
            ),
        );
        whole.set_item("cycles", self.with.run.cycles)?;
        whole.set_item("profile", &self.profile)?;
        whole.set_item("latency", latency(py, &self.with.run.latencies)?)?;
        whole.set_item("comparison", comparison)
    }
}

/// What a run cost. Signed: something may cost more.
struct Cost {
    exits: i64,
    exit_cycles: i64,
    sending_cycles: i64,
    sent: u64,
}

impl Cost {
    fn of(side: &Side) -> Self {
        let account = &side.run.machine.account;
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let sent = [Fate::Virtualized, Fate::SelfIpi, Fate::Exited]
            .iter()
            .map(|fate| account.counts.fates.get(usize::from(fate.code())).copied().unwrap_or_default());
        Self {
            exits: number(account.exits.values().sum()),
            exit_cycles: number(side.run.spent.exits),
            sending_cycles: number(side.run.spent.sending),
            sent: sent.sum(),
        }
    }

    fn per_ipi(&self) -> f64 {
        ratio(self.sending_cycles, self.sent)
    }
}

#[allow(clippy::cast_precision_loss, reason = "a mean for people")]
fn ratio(of: i64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
}

/// One of both runs.
fn side<'py>(py: Python<'py>, side: &Side) -> PyResult<Bound<'py, PyDict>> {
    let account = &side.run.machine.account;
    let (counts, notifications, scheduling) = (account.counts, account.notifications, account.scheduling);
    let cost = Cost::of(side);
    let ipis = side.summary.ipis;
    Ok(dict!(py,
        "ipis" => dict!(py,
            "total" => ipis.total,
            "virtualized" => ipis.virtualized,
            "self" => ipis.self_ipi,
            "exited" => ipis.exited,
            "faulted" => ipis.faulted,
            "software_posts" => counts.software_posts,
            "timer_posts" => counts.device_posts,
            "delivered" => counts.delivered,
            "coalesced" => counts.coalesced,
            "discarded" => counts.discarded,
            "pending" => side.run.machine.pending,
            "dropped" => counts.dropped,
            "signalled" => counts.signalled,
        ),
        "exits" => cost.exits,
        "exit_cycles" => cost.exit_cycles,
        "cycles_per_ipi" => cost.per_ipi(),
        "notifications" => dicts::notifications(py, notifications)?,
        "preemptions" => scheduling.preemptions,
        "blocks" => scheduling.blocks,
        "unfinished" => side.run.machine.unfinished,
        "latency" => latency(py, &side.run.latencies)?,
    ))
}
