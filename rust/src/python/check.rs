//! `check` and `replay`: the exhaustive engine.

use super::caller::Caller;
use super::dicts::dict;
use super::run::approximate;
use crate::engine::explore::{self, Bounds, CheckError, Counterexample, Kind, Limits, Model, TraceStep, Verdict};
use crate::hypervisor::policy::Policy;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::time::Instant;

const MOST_STATES: usize = 1_000_000_000;
const MOST_BYTES: usize = 4 << 30;

fn bad(error: impl std::fmt::Display) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn read(policy: &str, bounds: &str) -> PyResult<(Policy, Bounds)> {
    Ok((Policy::parse(policy).map_err(bad)?, serde_json::from_str(bounds).map_err(bad)?))
}

/// Explores every interleaving of a policy's steps within bounds.
///
/// Args:
///     policy: Text of the policy.
///     bounds: The bounds, JSON: the fields of `ipivrs.bounds.Bounds`.
///     threads: 1 to 256. None: as many as the machine runs at once. The result is the same with any number.
///     max_states: The search gives up beyond so many. None: 10^9.
///     max_bytes: The search gives up beyond so many bytes of memory. None: 4 GiB.
///     progress: Called some times a second with "states", how many were reached, and 0: nobody knows of how many.
///
/// Raises:
///     ValueError: The policy has a mistake, or cannot be checked within these bounds.
#[pyfunction]
#[pyo3(signature = (policy, bounds, *, threads=None, max_states=None, max_bytes=None, progress=None))]
pub(super) fn check<'py>(
    py: Python<'py>,
    policy: &str,
    bounds: &str,
    threads: Option<usize>,
    max_states: Option<usize>,
    max_bytes: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'py, PyDict>> {
    let (policy, bounds) = read(policy, bounds)?;
    let model = Model::new(&policy, &bounds).map_err(bad)?;
    let machine = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = threads.unwrap_or(machine);
    if !(1..=256).contains(&threads) {
        return Err(bad(format!("threads is {threads}: it can be 1 to 256")));
    }
    let limits =
        Limits { threads, max_states: max_states.unwrap_or(MOST_STATES), max_bytes: max_bytes.unwrap_or(MOST_BYTES) };
    let begin = Instant::now();
    let mut caller = Caller::new(progress);
    let verdict = py.detach(|| explore::check(&model, &limits, &mut |states| caller.goes_on("states", states, 0)));
    let seconds = begin.elapsed().as_secs_f64();
    let verdict = match (verdict, caller.raised()) {
        (_, Some(raised)) => return Err(raised),
        (verdict, None) => verdict.map_err(bad)?,
    };
    let counterexample = verdict.counterexample.as_ref();
    Ok(dict!(py,
        "policy" => &policy.name,
        "source" => &policy.source,
        "holds" => verdict.holds(),
        "states" => verdict.states,
        "transitions" => verdict.transitions,
        "depth" => verdict.depth,
        "seconds" => seconds,
        "bytes_per_state" => approximate(verdict.bytes as u64) / approximate(verdict.states.max(1) as u64),
        "threads" => threads,
        "properties" => properties(py, &verdict)?,
        "violation" => counterexample.map(|counterexample| violation(py, counterexample.kind)).transpose()?,
        "counterexample" => counterexample.map(|Counterexample { steps, .. }| self::steps(py, steps)).transpose()?,
        "cycle_from" => counterexample.and_then(|counterexample| counterexample.cycle_from),
        "diagnosis" => counterexample.map(|counterexample| &counterexample.diagnosis),
        "worst_case" => worst_case(py, &verdict)?,
        "undecided" => &verdict.undecided,
    ))
}

/// Makes the moves of a counterexample again.
///
/// Args:
///     policy: Text of the policy.
///     bounds: The bounds, JSON.
///     choices: The number of each move among those that can be made.
///     threads: Each actor is a thread, and the words of memory are real atomics between them.
///
/// Raises:
///     ValueError: The policy has a mistake, or the moves do not fit it.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "PyO3 makes a list anew for each call")]
#[pyo3(signature = (policy, bounds, choices, *, threads=false))]
pub(super) fn replay<'py>(
    py: Python<'py>,
    policy: &str,
    bounds: &str,
    choices: Vec<usize>,
    threads: bool,
) -> PyResult<Bound<'py, PyDict>> {
    let (policy, bounds) = read(policy, bounds)?;
    let model = Model::new(&policy, &bounds).map_err(bad)?;
    let replay = py.detach(|| explore::replay(&model, &choices, threads)).map_err(|error: CheckError| bad(error))?;
    Ok(dict!(py,
        "policy" => &policy.name,
        "violation" => replay.violation.map(|kind| violation(py, kind)).transpose()?,
        "counterexample" => steps(py, &replay.steps)?,
        "diagnosis" => &replay.diagnosis,
        "confirmed" => replay.confirmed,
    ))
}

fn violation(py: Python<'_>, kind: Kind) -> PyResult<Bound<'_, PyDict>> {
    Ok(dict!(py, "kind" => kind.name(), "message" => kind.message()))
}

/// Whether each property holds; none where the search ended before that was clear.
fn properties<'py>(py: Python<'py>, verdict: &Verdict) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for kind in Kind::ALL {
        let broken = verdict.counterexample.as_ref().is_some_and(|counterexample| counterexample.kind == kind);
        let holds = if broken { Some(false) } else { verdict.holds().filter(|&holds| holds) };
        list.append(dict!(py, "name" => kind.name(), "holds" => holds))?;
    }
    Ok(list)
}

fn steps<'py>(py: Python<'py>, steps: &[TraceStep]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for step in steps {
        let actor = match step.pcpu {
            Some(pcpu) => format!("{} on pCPU {pcpu}", step.actor),
            None => step.actor.clone(),
        };
        list.append(dict!(py,
            "actor" => actor,
            "column" => step.pcpu.map_or_else(|| step.actor.clone(), |pcpu| format!("pCPU {pcpu}")),
            "step" => &step.step,
            "routine" => step.line.map(|(routine, _)| routine.name()),
            "line" => step.line.map(|(_, line)| line),
            "changes" => &step.changes,
            "choice" => step.choice,
        ))?;
    }
    Ok(list)
}

fn worst_case<'py>(py: Python<'py>, verdict: &Verdict) -> PyResult<Option<Bound<'py, PyDict>>> {
    verdict
        .worst_case
        .map(|worst| {
            Ok(dict!(py,
                "spurious_notifications" => worst.spurious_notifications,
                "spurious_wakeups" => worst.spurious_wakeups,
            ))
        })
        .transpose()
}
