//! TOML text as Python objects, with the line of each value: errors of a scenario name the place.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Reads TOML.
///
/// Returns:
///     The table, and (path, line) of each key and element; a path is a tuple of keys and positions.
///
/// Raises:
///     ValueError: It is no TOML: "LINE:COLUMN: what is wrong".
#[pyfunction]
pub(super) fn read_toml<'py>(py: Python<'py>, text: &str) -> PyResult<(Bound<'py, PyDict>, Bound<'py, PyList>)> {
    let table = DeTable::parse(text).map_err(|error| {
        let (line, column) = place(text, error.span().map_or(0, |span| span.start));
        PyValueError::new_err(format!("{line}:{column}: {}", error.message()))
    })?;
    let mut reader = Reader { py, text, path: Vec::new(), lines: PyList::empty(py) };
    let table = reader.table(table.get_ref())?;
    Ok((table, reader.lines))
}

/// Line and column of a byte of the text, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
    (line, column)
}

struct Reader<'a, 'py> {
    py: Python<'py>,
    text: &'a str,
    path: Vec<Bound<'py, PyAny>>,
    lines: Bound<'py, PyList>,
}

impl<'py> Reader<'_, 'py> {
    fn table(&mut self, table: &DeTable<'_>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(self.py);
        for (key, value) in table {
            self.path.push(key.get_ref().as_ref().into_pyobject(self.py)?.into_any());
            self.line(key.span().start)?;
            dict.set_item(key.get_ref().as_ref(), self.value(value)?)?;
            self.path.pop();
        }
        Ok(dict)
    }

    fn line(&self, at: usize) -> PyResult<()> {
        self.lines.append((PyTuple::new(self.py, &self.path)?, place(self.text, at).0))
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match value.get_ref() {
            DeValue::String(text) => text.as_ref().into_pyobject(self.py)?.into_any(),
            DeValue::Integer(number) => {
                let parsed = i128::from_str_radix(number.as_str(), number.radix());
                parsed
                    .map_err(|error| PyValueError::new_err(format!("{number}: {error}")))?
                    .into_pyobject(self.py)?
                    .into_any()
            }
            DeValue::Float(number) => {
                let parsed: f64 = number.as_str().parse().unwrap_or(f64::NAN);
                parsed.into_pyobject(self.py)?.into_any()
            }
            DeValue::Boolean(flag) => flag.into_pyobject(self.py)?.to_owned().into_any(),
            DeValue::Datetime(date) => date.to_string().into_pyobject(self.py)?.into_any(),
            DeValue::Array(array) => {
                let list = PyList::empty(self.py);
                for (at, element) in array.iter().enumerate() {
                    self.path.push(at.into_pyobject(self.py)?.into_any());
                    self.line(element.span().start)?;
                    list.append(self.value(element)?)?;
                    self.path.pop();
                }
                list.into_any()
            }
            DeValue::Table(table) => self.table(table)?.into_any(),
        })
    }
}
