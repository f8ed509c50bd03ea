//! The Python face: `ipivrs._core`. It turns values into Python objects and back; nothing here decides anything.
#![allow(unsafe_code, reason = "PyO3's macros expand to unsafe code of their own; none is written here")]

mod batch;
mod caller;
mod check;
mod dicts;
mod explain;
mod measure;
mod outcome;
mod parse;
mod policy;
mod run;
mod scenario;
mod timed;
mod toml;
mod vcpu;
mod vm;

use pyo3::prelude::*;

pyo3::create_exception!(
    ipivrs._core,
    RecordingError,
    pyo3::exceptions::PyValueError,
    "A file that cannot be read as a recording. The message says what is wrong and what to do, in one or two lines."
);

pyo3::create_exception!(
    ipivrs._core,
    MachineError,
    pyo3::exceptions::PyValueError,
    "A scenario that no machine can be made of. `what` is wrong with the field at `where`, a tuple of names and places."
);

/// The Rust core of ipivrs.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    use super::check::{check, replay};
    #[pymodule_export]
    use super::explain::{Explanation, compose_icr, explain};
    #[pymodule_export]
    use super::measure::{count, measure, time_wrmsr};
    #[pymodule_export]
    use super::outcome::Outcome;
    #[pymodule_export]
    use super::policy::{policy_steps, read_policy};
    #[pymodule_export]
    use super::run::{RunResult, run};
    #[pymodule_export]
    use super::scenario::{ScenarioResult, cost_names, run_scenario, run_scenario_in_virtual_time};
    #[pymodule_export]
    use super::timed::run_in_virtual_time;
    #[pymodule_export]
    use super::toml::read_toml;
    #[pymodule_export]
    use super::vcpu::{Descriptor, Vcpu};
    #[pymodule_export]
    use super::vm::Vm;
    #[pymodule_export]
    use super::{MachineError, RecordingError};

    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    /// How this module was built: version, profile, commit ("unknown" if it was not built in a checkout), rustc.
    #[pyfunction]
    fn build_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
        let info = PyDict::new(py);
        info.set_item("version", env!("CARGO_PKG_VERSION"))?;
        info.set_item("profile", if cfg!(debug_assertions) { "debug" } else { "release" })?;
        info.set_item("commit", env!("IPIVRS_COMMIT"))?;
        info.set_item("rustc", env!("IPIVRS_RUSTC"))?;
        Ok(info)
    }

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("OUTCOMES", super::outcome::Kind::NAMES)?;
        module.add("NOTIFICATIONS", super::outcome::NOTIFICATIONS)?;
        module.add("CLAUSES", super::run::clause_names())?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
