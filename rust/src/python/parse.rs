//! Words from Python to values, with errors that name what is allowed.

use crate::arch::{ApicMode, DeliveryMode, DestinationMode, Shorthand};
use crate::engine::threads::Pace;
use crate::hypervisor::MAX_VCPUS;
use crate::processor::Activity;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;

fn choose<T: Copy>(what: &str, word: &str, choices: &[(&str, T)]) -> PyResult<T> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(word));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        PyValueError::new_err(format!("{what} must be one of {}, not {word:?}", names.join(", ")))
    })
}

/// "xapic" or "x2apic".
pub(super) fn apic(word: &str) -> PyResult<ApicMode> {
    choose("apic", word, &[("x2apic", ApicMode::X2Apic), ("xapic", ApicMode::XApic)])
}

pub(super) fn pace(word: &str) -> PyResult<Pace> {
    choose("pace", word, &[("recorded", Pace::Recorded), ("free", Pace::Free)])
}

/// Whether the self-IPI register is meant.
pub(super) fn self_ipi_access(word: &str) -> PyResult<bool> {
    choose("access", word, &[("icr", false), ("self-ipi", true)])
}

pub(super) fn delivery_mode(word: &str) -> PyResult<DeliveryMode> {
    choose("mode", word, &DeliveryMode::ALL.map(|mode| (mode.name(), mode)))
}

pub(super) fn destination_mode(word: &str) -> PyResult<DestinationMode> {
    choose("destination_mode", word, &DestinationMode::ALL.map(|mode| (mode.name(), mode)))
}

pub(super) fn shorthand(word: &str) -> PyResult<Shorthand> {
    choose("shorthand", word, &Shorthand::ALL.map(|shorthand| (shorthand.name(), shorthand)))
}

pub(super) fn level_assert(word: &str) -> PyResult<bool> {
    choose("level", word, &[("assert", true), ("deassert", false)])
}

pub(super) fn trigger_level(word: &str) -> PyResult<bool> {
    choose("trigger", word, &[("edge", false), ("level", true)])
}

/// Names of the guest activity states.
pub(super) const ACTIVITIES: [(&str, Activity); 4] = [
    ("active", Activity::Active),
    ("hlt", Activity::Hlt),
    ("shutdown", Activity::Shutdown),
    ("wait-for-sipi", Activity::WaitForSipi),
];

pub(super) fn activity(word: &str) -> PyResult<Activity> {
    choose("activity", word, &ACTIVITIES)
}

/// A number of vCPUs.
pub(super) fn vcpus(value: i128) -> PyResult<u32> {
    match u32::try_from(value) {
        Ok(count) if (1..=MAX_VCPUS as u32).contains(&count) => Ok(count),
        _ => Err(PyValueError::new_err(format!("vcpus must be 1 to {MAX_VCPUS}, not {value}"))),
    }
}

/// An integer of a range, named in the error: in hexadecimal too where it is all that so many bits can be.
pub(super) fn ranged<T: TryFrom<i128>>(what: &str, value: i128, last: i128) -> PyResult<T> {
    let in_range = (0..=last).contains(&value).then(|| T::try_from(value).ok()).flatten();
    in_range.ok_or_else(|| {
        let bits = if last & (last + 1) == 0 { format!(" ({last:#x})") } else { String::new() };
        PyValueError::new_err(format!("{what} must be 0 to {last}{bits}, not {value}"))
    })
}

/// An unsigned number of a register's width; out of range it is a `ValueError` that names the range.
macro_rules! register_width {
    ($($name:ident($type:ty)),*) => {$(
        #[derive(Clone, Copy)]
        pub(super) struct $name(pub(super) $type);

        impl<'py> FromPyObject<'_, 'py> for $name {
            type Error = PyErr;

            fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                value.extract().map(Self).map_err(|error: PyErr| {
                    if !error.is_instance_of::<PyOverflowError>(value.py()) {
                        return error;
                    }
                    let (bits, last) = (<$type>::BITS, <$type>::MAX);
                    let value = value.to_owned();
                    PyValueError::new_err(format!("{value} is no unsigned {bits}-bit number: give 0 to {last:#x}"))
                })
            }
        }
    )*};
}

register_width!(U8(u8), U32(u32), U64(u64));
