"""Results files: CSV, or Parquet with pyarrow. Written whole and put into place at once."""

import csv
import json
import re
from collections.abc import Collection
from itertools import zip_longest
from pathlib import Path
from typing import IO, Any

from ipivrs.frames import mixed
from ipivrs.grid import SweepError
from ipivrs.replacing import replace
from ipivrs.rows import POINT, Row

_SUFFIXES = (".csv", ".parquet")
_DELIMITERS = {";": "semicolons", "\t": "tabs"}
_WORDS = ("engine", "profile", "policy", "version", "violations.first", "error", POINT)


def check_name(path: Path) -> None:
    """Refuse a results file that could not be written in the end.

    Raises:
        SweepError: What to give instead, or to install.
    """
    if path.suffix not in _SUFFIXES:
        suffixes = " or ".join(_SUFFIXES)
        raise SweepError.naming(lambda named: f"{named('out')} must end in {suffixes}, not {path.name!r}")
    if not path.parent.is_dir():
        raise SweepError.naming(lambda named: f"{named('out')} {path}: there is no folder {path.parent}")
    if path.is_dir():
        raise SweepError.naming(lambda named: f"{named('out')} {path}: it is a folder")
    if path.suffix == ".parquet":
        _pyarrow()


def in_the_way(what: str, anew: str) -> SweepError:
    """What to do about files from before that a sweep cannot go on from."""
    return SweepError.naming(
        lambda named: f"{what}give {named('out')} another name, or {named('restart=True')} to {anew}"
    )


def _pyarrow() -> Any:  # noqa: ANN401 (a module that may not be there)
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        import pyarrow.parquet  # noqa: PLC0415
    except ImportError as error:
        raise SweepError(
            "Parquet needs pyarrow: pip install 'ipivrs[frames]', or give a file that ends in .csv"
        ) from error
    return pa


def write_table(path: Path, rows: list[Row]) -> None:
    """Write rows that have the same columns; whoever reads the file meanwhile sees the old one or the new one.

    Raises:
        SweepError: The file cannot be written.
    """
    write = _write_parquet if path.suffix == ".parquet" else _write_csv
    try:
        replace(path, lambda file: write(file, rows))
    except OSError as error:
        raise SweepError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_csv(file: IO[bytes], rows: list[Row]) -> None:
    class Text:
        def write(self, text: str) -> None:
            file.write(text.encode())

    writer = csv.writer(Text(), lineterminator="\n")
    writer.writerow(rows[0] if rows else [POINT])
    writer.writerows([cell(value) for value in row.values()] for row in rows)


def cell(value: object) -> object:
    """What is written of a value."""
    if isinstance(value, bool | list | dict):
        return json.dumps(value)
    return "" if value is None else value


def _write_parquet(file: IO[bytes], rows: list[Row]) -> None:
    pa = _pyarrow()
    columns = {name: mixed(pa, [row[name] for row in rows]) for name in (rows[0] if rows else ())}
    pa.parquet.write_table(pa.table(columns), file)


TOO_MANY = ""
"""The column of cells that are beyond the last column of a CSV file."""


def read_table(path: Path, varied: Collection[str] = ()) -> dict[str, Row]:
    """The rows of a results file by where they stand there, file and line; none if it is not there.

    Args:
        path: The file.
        varied: The fields of the grid; in CSV their values stay text.

    Raises:
        SweepError: It is no results file.
    """
    if not path.exists():
        return {}
    try:
        columns, rows = _read_parquet(path) if path.suffix == ".parquet" else _read_csv(path, varied)
    except (OSError, ValueError, csv.Error) as error:
        raise in_the_way(f"{path} cannot be read: {error}\n", "replace it") from error
    if path.suffix == ".csv" and len(columns) == 1 and (delimiter := _delimiter(columns[0])):
        what = f"{path}:1: between its columns are {delimiter}, not commas: save it with commas, "
        raise in_the_way(f"{what}and it is read; or else ", "replace it")
    if columns and POINT not in columns:
        raise in_the_way(f"{path} is there and is no result of a sweep: ", "replace it")
    return rows


def _read_parquet(path: Path) -> tuple[list[str], dict[str, Row]]:
    table = _pyarrow().parquet.read_table(path)
    return table.column_names, {f"{path}: row {number}": row for number, row in enumerate(table.to_pylist(), 1)}


def _delimiter(header: str) -> str | None:
    """What is between the columns of a header that has no commas: spreadsheets take what their language has."""
    return next((words for sign, words in _DELIMITERS.items() if POINT in header.split(sign)[1:]), None)


def _read_csv(path: Path, varied: Collection[str]) -> tuple[list[str], dict[str, Row]]:
    rows: dict[str, Row] = {}
    words = {*_WORDS, *varied}
    # Spreadsheets put a byte order mark before the first column.
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        columns = next(reader, [])
        line = reader.line_num + 1
        for cells in reader:
            # Of a row that was emptied, they leave the commas.
            if any(cells):
                row = {
                    name: (text or None) if name in words else _value(text)
                    for name, text in zip_longest(columns, cells[: len(columns)])
                }
                rest = cells[len(columns) :]
                rows[f"{path}:{line}"] = row | {TOO_MANY: rest} if any(rest) else row
            line = reader.line_num + 1
    return columns, rows


def _value(text: str | None) -> Any:  # noqa: ANN401
    if not text:
        return None
    if text in ("true", "false"):
        return text == "true"
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return float(text) if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", text) else text
