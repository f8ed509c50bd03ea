"""Results as tables: for pandas, Polars, and whatever else takes Arrow's C stream."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl


_WITH_NULLS = {"int64": "Int64", "uint64": "UInt64"}


@dataclass(frozen=True)
class Named:
    """A column of codes, each the position of a name: a dictionary in Arrow, a category in pandas and Polars."""

    codes: NDArray[Any]
    names: Sequence[str]


Column = NDArray[Any] | Sequence[Any] | Named
"""One column; None in a list is a value that is missing."""


class Tabular:
    """What has rows."""

    def _columns(self) -> Mapping[str, Column]:
        """The columns by name, all of one length."""
        raise NotImplementedError

    def to_pandas(self) -> "pd.DataFrame":
        """The rows as a pandas DataFrame; names are categories.

        Raises:
            ImportError: pandas or pyarrow is missing: `pip install 'ipivrs[frames]'`.
        """
        _imported("pandas")
        table = _table(self._columns())
        # A whole number that may be missing stays one.
        whole = {
            field.name: _WITH_NULLS[str(field.type)]
            for field in table.schema
            if str(field.type) in _WITH_NULLS and table[field.name].null_count
        }
        frame: pd.DataFrame = table.to_pandas(integer_object_nulls=True)
        return frame.astype(whole)

    def to_polars(self) -> "pl.DataFrame":
        """The rows as a Polars DataFrame; names are categories.

        Raises:
            ImportError: Polars or pyarrow is missing: `pip install 'ipivrs[frames]'`.
        """
        frame: pl.DataFrame = _imported("polars").from_arrow(_table(self._columns()))
        return frame

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The rows as an Arrow C stream: `pyarrow.table(result)`, DuckDB and others take the result as it is.

        Raises:
            ImportError: pyarrow is missing: `pip install 'ipivrs[frames]'`.
        """
        return _table(self._columns()).__arrow_c_stream__(requested_schema)


def _imported(name: str) -> Any:  # noqa: ANN401 (a module that may not be there)
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"tables of results need {name}: pip install 'ipivrs[frames]'") from error


def _table(columns: Mapping[str, Column]) -> Any:  # noqa: ANN401
    pa = _imported("pyarrow")
    return pa.table({name: _array(pa, column) for name, column in columns.items()})


def _array(pa: Any, column: Column) -> Any:  # noqa: ANN401
    if isinstance(column, Named):
        # Two codes may have one name, as clauses that are cited in two places; a dictionary has each once.
        places = {name: place for place, name in enumerate(dict.fromkeys(column.names))}
        codes = np.array([places[name] for name in column.names], column.codes.dtype)[column.codes]
        return pa.DictionaryArray.from_arrays(pa.array(codes), pa.array(places, pa.string()))
    return mixed(pa, column) if isinstance(column, list) else pa.array(column)


def mixed(pa: Any, values: list[Any]) -> Any:  # noqa: ANN401
    """An Arrow array of what may be of several types, such as the workloads of a VM: then it is text.

    Whole numbers are int64, or uint64 where one of them needs it, such as a seed.
    """
    if not any(isinstance(value, list | dict) for value in values):
        counts = all(value is None or (type(value) is int and value >= 0) for value in values)
        for kind in (None, pa.uint64()) if counts else (None,):
            with suppress(pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                return pa.array(values, kind)
    return pa.array([None if value is None else _text(value) for value in values])


def _text(value: object) -> str:
    return json.dumps(value) if isinstance(value, bool | list | dict) else str(value)
