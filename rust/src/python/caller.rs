//! Who waits for a long call: Ctrl-C ends it, and a callable is told how far it is.

use pyo3::exceptions::PyException;
use pyo3::prelude::*;
use std::time::{Duration, Instant};

/// Time between two calls of the callable: more often is of no use to people.
const PAUSE: Duration = Duration::from_millis(100);

/// The Python caller of a call that runs without the interpreter.
pub(super) struct Caller {
    progress: Option<Py<PyAny>>,
    told: Option<Instant>,
    raised: Option<PyErr>,
}

impl Caller {
    pub(super) const fn new(progress: Option<Py<PyAny>>) -> Self {
        Self { progress, told: None, raised: None }
    }

    /// Looks for signals, and tells that `done` of `total` (0: nobody knows) of `what` are done. No: end the call.
    pub(super) fn goes_on(&mut self, what: &str, done: u64, total: u64) -> bool {
        if self.raised.is_none() {
            let due = self.progress.is_some() && self.told.is_none_or(|told| told.elapsed() >= PAUSE);
            self.raised = Python::attach(|py| {
                py.check_signals()?;
                if let (true, Some(progress)) = (due, &self.progress) {
                    progress.call1(py, (what, done, total))?;
                }
                Ok(())
            })
            .err();
            if due {
                self.told = Some(Instant::now());
            }
        }
        self.raised.is_none()
    }

    /// Whether Ctrl-C or another signal ended the call, for a result that is worth something without its rest.
    ///
    /// # Errors
    /// An error that the callable raised, or a signal's handler.
    pub(super) fn interrupted(&mut self, py: Python<'_>) -> PyResult<bool> {
        match self.raised() {
            // Who ends a program raises what is not an error: KeyboardInterrupt, SystemExit.
            Some(raised) if raised.is_instance_of::<PyException>(py) => Err(raised),
            raised => Ok(raised.is_some()),
        }
    }

    /// What a signal handler or the callable raised.
    pub(super) fn raised(&mut self) -> Option<PyErr> {
        self.raised.take()
    }
}
