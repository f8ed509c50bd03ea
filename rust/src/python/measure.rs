//! `measure` and `time_wrmsr`: what `ipivrs bench speed` prints.

use super::vcpu::Vcpu;
use crate::arch::ApicMode;
use crate::engine::virtual_time::Costs;
use crate::measure as paths;
use crate::measure::{Figure, NotMeasured, Storm};
use numpy::PyReadonlyArray1;
use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// What was measured, its floor and their ratio, as far as the path has them.
type Measured = (f64, Option<f64>, Option<f64>);

/// Runs of a ping, each of a tenth of a second.
const PINGS: u64 = 5;

fn beside(figure: Figure) -> Measured {
    (figure.value, Some(figure.floor), Some(figure.ratio))
}

/// Measures one path beside its floor, in rounds that take turns.
///
/// Args:
///     path: "ipi-x2apic", "ipi-xapic", "post-coalesced", "round-trip": seconds. "pairs", "bare-threads",
///         "arithmetic-threads": calls a second on two threads beside one. "virtual-time-ping": IPIs a second in virtual time,
///         on a core of its own where there was one. "virtual-time-storm": seconds of an IPI among 4096 vCPUs beside 64. "explorer": states a second. "intake": events a
///         second. "vm-build": seconds for 65,536 vCPUs. "vm-memory": bytes for each of them.
///     policy: Text of the policy that the engines run.
///     costs: What acts cost in virtual time, JSON, as `run_scenario_in_virtual_time` takes it.
///
/// Returns:
///     The median, that of the floor, and the median of their ratios; None for what the path does not have.
///
/// Raises:
///     ValueError: There is no such path, or the policy or the costs cannot be used.
///     RuntimeError: What was to be measured did not happen.
#[pyfunction]
pub(super) fn measure(py: Python<'_>, path: &str, policy: &str, costs: &str) -> PyResult<Measured> {
    let costs = Costs::from_json(costs).map_err(|error| PyValueError::new_err(error.to_string()))?;
    let alone = |value: Result<f64, NotMeasured>| value.map(|value| (value, None, None));
    let measured = py.detach(|| {
        Some(match path {
            "ipi-x2apic" => paths::one_ipi(ApicMode::X2Apic).map(beside),
            "ipi-xapic" => paths::one_ipi(ApicMode::XApic).map(beside),
            "post-coalesced" => paths::coalesced().map(beside),
            "round-trip" => paths::round_trip().map(beside),
            "pairs" => paths::pairs().map(beside),
            "bare-threads" => paths::bare().map(beside),
            "arithmetic-threads" => Ok(beside(paths::arithmetic())),
            "virtual-time-ping" => alone(paths::ping(policy, PINGS, &costs).map(|pace| 1.0 / pace.best_known())),
            "virtual-time-storm" => paths::storm(policy, Storm::of(4096), &costs).map(beside),
            "explorer" => alone(paths::explorer(policy)),
            "intake" => alone(paths::intake()),
            "vm-build" => alone(paths::large_vm(policy, &costs).map(|(seconds, _)| seconds)),
            "vm-memory" => alone(paths::large_vm(policy, &costs).map(|(_, bytes)| bytes)),
            _ => return None,
        })
    });
    measured
        .ok_or_else(|| PyValueError::new_err(format!("no path {path:?} to measure")))?
        .map_err(|error| PyRuntimeError::new_err(error.to_string()))
}

/// Seconds that WRMSRs of `values` to one MSR of `vcpu` take in Rust, without anything of Python between them.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "PyO3 hands arrays over by value")]
pub(super) fn time_wrmsr(py: Python<'_>, vcpu: &Vcpu, msr: u32, values: PyReadonlyArray1<'_, u64>) -> f64 {
    let values = values.as_array();
    py.detach(|| vcpu.time_wrmsr(msr, values.iter().copied()))
}

/// Takes a path that is counted, of `benches/instructions.toml`; what is counted is what runs in the function `counted`.
///
/// Returns:
///     How often the path was taken there.
///
/// Raises:
///     ValueError: The costs cannot be used.
///     RuntimeError: There is no such path, or it was not taken.
#[pyfunction]
pub(super) fn count(py: Python<'_>, path: &str, policy: &str, costs: &str) -> PyResult<u64> {
    let costs = Costs::from_json(costs).map_err(|error| PyValueError::new_err(error.to_string()))?;
    py.detach(|| paths::count(path, policy, &costs)).map_err(|error| PyRuntimeError::new_err(error.to_string()))
}
