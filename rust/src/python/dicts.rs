//! Values as plain dictionaries: what `as_dict` returns and `--json` prints.

use crate::arch::{Exit, IcrLow, PidControl};
use crate::record::Notifications;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// `dict!(py, "name" => value, ...)`.
macro_rules! dict {
    ($py:expr, $($name:literal => $value:expr),* $(,)?) => {{
        let dict = pyo3::types::PyDict::new($py);
        $(dict.set_item($name, $value)?;)*
        dict
    }};
}
pub(super) use dict;

/// "assert" or "deassert".
pub(super) const fn level_name(assert: bool) -> &'static str {
    if assert { "assert" } else { "deassert" }
}

/// "level" or "edge".
pub(super) const fn trigger_name(level: bool) -> &'static str {
    if level { "level" } else { "edge" }
}

/// A VM exit.
pub(super) fn exit(py: Python<'_>, exit: Exit) -> PyResult<Bound<'_, PyDict>> {
    Ok(dict!(py,
        "reason" => exit.reason.number(),
        "qualification" => exit.qualification,
        "name" => exit.reason.name(),
    ))
}

/// What became of posted-interrupt notifications.
pub(super) fn notifications(py: Python<'_>, counts: Notifications) -> PyResult<Bound<'_, PyDict>> {
    Ok(dict!(py,
        "sent" => counts.sent,
        "suppressed" => counts.suppressed,
        "coalesced" => counts.coalesced,
        "spurious" => counts.spurious,
    ))
}

/// The fields of an interrupt command.
pub(super) fn icr_fields(py: Python<'_>, low: IcrLow, destination: u32) -> PyResult<Bound<'_, PyDict>> {
    let mut reserved = Vec::new();
    for (set, bits) in
        [(low.reserved_13(), "13"), (low.reserved_17_16() != 0, "17:16"), (low.reserved_31_20() != 0, "31:20")]
    {
        if set {
            reserved.push(bits);
        }
    }
    Ok(dict!(py,
        "vector" => low.vector(),
        "delivery_mode" => low.delivery_mode().name(),
        "destination_mode" => low.destination_mode().name(),
        "delivery_status" => low.delivery_status(),
        "level" => level_name(low.level_assert()),
        "trigger" => trigger_name(low.trigger_level()),
        "shorthand" => low.shorthand().name(),
        "destination" => destination,
        "reserved_bits_set" => reserved.join(", "),
    ))
}

/// The control word of a descriptor.
pub(super) fn control(py: Python<'_>, control: PidControl) -> PyResult<Bound<'_, PyDict>> {
    Ok(dict!(py,
        "on" => control.outstanding(),
        "sn" => control.suppress(),
        "nv" => control.vector(),
        "ndst" => control.destination(),
    ))
}
