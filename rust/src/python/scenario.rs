//! `run_scenario`: a machine of VMs and pCPUs, on threads or in virtual time.

use super::MachineError;
use super::caller::Caller;
use super::dicts::{self, dict};
use super::run::approximate;
use crate::engine::machine::{MachineRun, VmResult};
use crate::engine::scheduler::{self, Watch};
use crate::engine::virtual_time::{self, Class, Costs, Latencies, Log, Options, VirtualRun};
use crate::hypervisor::Inhibit;
use crate::hypervisor::policy::Policy;
use crate::record::Fate;
use crate::scenario::{FieldStep, Scenario, ScenarioError};
use numpy::PyArray1;
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use std::time::{Duration, Instant};

/// Runs a scenario on the threads engine.
///
/// Args:
///     description: The scenario as `ipivrs.Scenario` writes it, JSON.
///     policy: Text of the policy.
///     seconds: After so many seconds endless loops end.
///     progress: Called some times a second with "milliseconds", how many went by, and of how many (0: nobody knows).
///
/// Raises:
///     MachineError: No machine can be made of it, or it would never end.
///     ValueError: The scenario or the policy cannot be used.
#[pyfunction]
#[pyo3(signature = (description, policy, *, seconds=None, progress=None))]
pub(super) fn run_scenario(
    py: Python<'_>,
    description: &str,
    policy: &str,
    seconds: Option<f64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<ScenarioResult> {
    let bad = |error: ScenarioError| refused(py, &error);
    let time = seconds.map(Duration::try_from_secs_f64).transpose();
    let time = time.map_err(|_| PyValueError::new_err("seconds must be 0 or more, and finite"))?;
    let scenario = Scenario::from_json(description).map_err(bad)?;
    let policy = Policy::parse(policy).map_err(ScenarioError::from).map_err(bad)?;
    let name = policy.name.clone();
    let machine = scenario.machine(policy).map_err(bad)?;
    if time.is_none() && !machine.ends() {
        return Err(bad(ScenarioError::Endless));
    }
    let mut caller = Caller::new(progress);
    let begin = Instant::now();
    let total = time.map_or(0, milliseconds);
    let run = py
        .detach(|| {
            let mut keep_going = || caller.goes_on("milliseconds", milliseconds(begin.elapsed()), total);
            scheduler::run(&machine, Watch { time, keep_going: &mut keep_going })
        })
        .map_err(|error| bad(error.into()))?;
    let interrupted = caller.interrupted(py)?;
    Ok(ScenarioResult { run, policy: name, seed: scenario.seed, interrupted, clock: None })
}

/// Runs a scenario in virtual time.
///
/// Args:
///     description: The scenario as `ipivrs.Scenario` writes it, JSON.
///     policy: Text of the policy.
///     costs: What acts cost, JSON: cycles by name, and `hz`.
///     profile: The name of these costs.
///     seconds: After so many simulated seconds endless loops end.
///     log: Events that are kept.
///     progress: Called some times a second with "cycles", how many were simulated, and of how many (0: nobody knows).
///
/// Raises:
///     MachineError: No machine can be made of it, or it would never end.
///     ValueError: The scenario, the policy or the costs cannot be used.
#[pyfunction]
#[pyo3(signature = (description, policy, costs, *, profile, seconds=None, log=0, progress=None))]
#[allow(clippy::too_many_arguments, reason = "keyword arguments of a Python function")]
pub(super) fn run_scenario_in_virtual_time(
    py: Python<'_>,
    description: &str,
    policy: &str,
    costs: &str,
    profile: &str,
    seconds: Option<f64>,
    log: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<ScenarioResult> {
    let bad = |error: ScenarioError| refused(py, &error);
    let costs = Costs::from_json(costs).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let time = seconds.filter(|seconds| *seconds <= 1e7).map(Duration::try_from_secs_f64).transpose();
    let (Ok(time), true) = (time, seconds.is_none_or(|seconds| seconds <= 1e7)) else {
        return Err(PyValueError::new_err("seconds must be 0 to 10000000"));
    };
    let hz = u128::from(costs.hz);
    let cycles = time.map(|time| u64::try_from(time.as_nanos() * hz / 1_000_000_000).unwrap_or(u64::MAX - 1));
    let scenario = Scenario::from_json(description).map_err(bad)?;
    let policy = Policy::parse(policy).map_err(ScenarioError::from).map_err(bad)?;
    let name = policy.name.clone();
    let machine = scenario.machine(policy).map_err(bad)?;
    if cycles.is_none() && !machine.ends() {
        return Err(bad(ScenarioError::Endless));
    }
    let mut caller = Caller::new(progress);
    let VirtualRun { machine: run, cycles, latencies, log, .. } = py
        .detach(|| {
            let mut keep_going = |now| caller.goes_on("cycles", now, cycles.unwrap_or(0));
            virtual_time::run(&machine, Options { costs: &costs, cycles, log, keep_going: &mut keep_going })
        })
        .map_err(|error| bad(error.into()))?;
    let clock = Clock { cycles, latencies, log, profile: profile.to_owned() };
    let interrupted = caller.interrupted(py)?;
    Ok(ScenarioResult { run, policy: name, seed: scenario.seed, interrupted, clock: Some(clock) })
}

/// Why no machine can be made, with the field that it is about.
fn refused(py: Python<'_>, error: &ScenarioError) -> PyErr {
    let message = error.to_string();
    let Some((steps, what)) = error.field() else { return PyValueError::new_err(message) };
    let refusal = MachineError::new_err(message);
    let steps = steps.iter().map(|step| match step {
        FieldStep::Name(name) => name.into_py_any(py),
        FieldStep::Place(place) => place.into_py_any(py),
    });
    let told = steps.collect::<PyResult<Vec<_>>>().and_then(|steps| {
        let value = refusal.value(py);
        value.setattr("where", PyTuple::new(py, steps)?)?;
        value.setattr("what", what)
    });
    told.err().unwrap_or(refusal)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// What only virtual time tells.
struct Clock {
    cycles: u64,
    latencies: Latencies,
    log: Log,
    profile: String,
}

/// What came of a scenario.
#[pyclass(frozen, module = "ipivrs._core")]
pub(super) struct ScenarioResult {
    run: MachineRun,
    policy: String,
    seed: u64,
    interrupted: bool,
    clock: Option<Clock>,
}

#[pymethods]
impl ScenarioResult {
    /// Ctrl-C ended the run; what it has is partial.
    #[getter]
    fn interrupted(&self) -> bool {
        self.interrupted
    }

    /// Everything, in plain types: what `ipivrs run --json` prints.
    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let account = &self.run.account;
        let counts = account.counts;
        let fate = |fate: Fate| counts.fates[usize::from(fate.code()) % Fate::ALL.len()];
        let total: u64 = counts.fates.iter().sum();
        let notifications = account.notifications;
        let scheduling = account.scheduling;
        let seconds = self.run.elapsed.as_secs_f64();
        let whole = dict!(py,
            "ipis" => dict!(py,
                "total" => total,
                "virtualized" => fate(Fate::Virtualized),
                "self" => fate(Fate::SelfIpi),
                "exited" => fate(Fate::Exited),
                "faulted" => fate(Fate::Faulted),
                "escaped" => fate(Fate::Escaped),
                "wild" => fate(Fate::Violation),
                "software_posts" => counts.software_posts,
                "device_posts" => counts.device_posts,
                "posted" => account.posts(),
                "delivered" => counts.delivered,
                "coalesced" => counts.coalesced,
                "discarded" => counts.discarded,
                "pending" => self.run.pending,
                "dropped" => counts.dropped,
                "signalled" => counts.signalled,
                "nmis" => counts.nmis,
            ),
            "exits" => self.exits(py)?,
            "faults" => self.faults(py)?,
            "notifications" => dicts::notifications(py, notifications)?,
            "scheduling" => dict!(py,
                "entries" => scheduling.entries,
                "preemptions" => scheduling.preemptions,
                "migrations" => scheduling.migrations,
                "blocks" => scheduling.blocks,
                "wakeups" => scheduling.wakeups,
                "spurious_wakeups" => scheduling.spurious_wakeups,
                "apicv_changes" => scheduling.apicv_changes,
            ),
            "vms" => self.vms(py)?,
            "violations" => self.violations(py)?,
            "partial" => self.run.partial,
            "unfinished" => self.run.unfinished,
            "engine" => if self.clock.is_some() { "virtual-time" } else { "threads" },
            "seed" => self.seed,
            "policy" => &self.policy,
            "seconds" => seconds,
            "ipis_per_second" => if seconds > 0.0 { approximate(total) / seconds } else { 0.0 },
            "version" => env!("CARGO_PKG_VERSION"),
        );
        if let Some(clock) = &self.clock {
            whole.set_item("cycles", clock.cycles)?;
            whole.set_item("profile", &clock.profile)?;
            whole.set_item("latency", latency(py, &clock.latencies)?)?;
        }
        Ok(whole)
    }

    /// The event log, a column each: cycles, cycles at which it began, pCPU, vCPU, what, vector, the other vCPU; and how many came after it was
    /// full. None: the threads engine keeps none.
    fn events<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyDict>>> {
        let Some(clock) = &self.clock else { return Ok(None) };
        let events = clock.log.events();
        Ok(Some(dict!(py,
            "time" => PyArray1::from_iter(py, events.iter().map(|event| event.time)),
            "since" => PyArray1::from_iter(py, events.iter().map(|event| event.since)),
            "pcpu" => PyArray1::from_iter(py, events.iter().map(|event| event.pcpu)),
            "vcpu" => PyArray1::from_iter(py, events.iter().map(|event| event.vcpu)),
            "what" => events.iter().map(|event| event.what.name()).collect::<Vec<_>>(),
            "vector" => PyArray1::from_iter(py, events.iter().map(|event| event.vector)),
            "other" => PyArray1::from_iter(py, events.iter().map(|event| event.other)),
            "more" => clock.log.more,
        )))
    }
}

/// Latencies of each class that has some, in cycles.
pub(super) fn latency<'py>(py: Python<'py>, latencies: &Latencies) -> PyResult<Bound<'py, PyDict>> {
    let all = PyDict::new(py);
    for class in Class::ALL {
        let histogram = latencies.of(class);
        if histogram.is_empty() {
            continue;
        }
        let row = dict!(py,
            "count" => histogram.len(),
            "mean" => histogram.mean(),
            "min" => histogram.min(),
            "p50" => histogram.value_at_quantile(0.5),
            "p90" => histogram.value_at_quantile(0.9),
            "p99" => histogram.value_at_quantile(0.99),
            "max" => histogram.max(),
        );
        all.set_item(class.name(), row)?;
    }
    Ok(all)
}

impl ScenarioResult {
    fn exits<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut exits: Vec<_> = self.run.account.exits.iter().collect();
        exits.sort_by_key(|(exit, count)| (std::cmp::Reverse(**count), exit.reason, exit.qualification, exit.clause));
        let list = PyList::empty(py);
        for (exit, count) in exits {
            list.append(dict!(py,
                "reason" => exit.reason.number(),
                "qualification" => exit.qualification,
                "name" => exit.reason.name(),
                "clause" => exit.clause.to_string(),
                "count" => count,
            ))?;
        }
        Ok(list)
    }

    fn faults<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let mut faults: Vec<_> = self.run.account.faults.iter().collect();
        faults.sort();
        let list = PyList::empty(py);
        for (clause, count) in faults {
            list.append(dict!(py, "clause" => clause.to_string(), "count" => count))?;
        }
        Ok(list)
    }

    fn violations<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for violation in &self.run.violations {
            list.append(dict!(py,
                "kind" => violation.kind,
                "vcpu" => violation.vcpu,
                "message" => &violation.message,
            ))?;
        }
        let more = self.run.account.more_violations;
        if more > 0 {
            let message = format!("{more} more violations");
            list.append(dict!(py, "kind" => "more", "vcpu" => py.None(), "message" => message, "count" => more))?;
        }
        Ok(list)
    }

    fn vms<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let list = PyList::empty(py);
        for vm in &self.run.vms {
            let VmResult { vcpus, table, last_index, ipi_virtualization, apicv, inhibits, traffic } = vm;
            list.append(dict!(py,
                "vcpus" => vcpus,
                "table" => dict!(py, "entries" => table.entries, "order" => table.order, "bytes" => table.bytes),
                "last_index" => last_index,
                "ipi_virtualization" => ipi_virtualization,
                "apicv" => apicv,
                "inhibits" => inhibits.iter().map(|inhibit| Inhibit::name(*inhibit)).collect::<Vec<_>>(),
                "sent" => traffic.iter().map(|vcpu| vcpu.sent).collect::<Vec<_>>(),
                "delivered" => traffic.iter().map(|vcpu| vcpu.delivered).collect::<Vec<_>>(),
            ))?;
        }
        Ok(list)
    }
}

/// The costs of a profile: name, the least that it can be, what it is.
#[pyfunction]
pub(super) fn cost_names() -> Vec<(&'static str, u32, &'static str)> {
    Costs::FIELDS.iter().map(|&(name, least, what)| (name, least, what.trim())).collect()
}
