"""Whether a results file is as it was written: a row for each point, nothing missing, all in its place."""

import json
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from ipivrs import __version__
from ipivrs.grid import SweepError
from ipivrs.grid_points import Plan
from ipivrs.names import Engine
from ipivrs.rows import EXITS, NOT_IN_ROWS, POINT, Row, called
from ipivrs.scenario_text import shortened, shown
from ipivrs.tables import TOO_MANY, cell, in_the_way

_Kind = tuple[tuple[type, ...], str]

_KINDS: dict[str, _Kind] = {
    "integer": ((int,), "a whole number of 0 or more"),
    "number": ((int, float), "a number of 0 or more"),
    "boolean": ((bool,), "true or false"),
}
_TOTAL = f"{EXITS}total"
_WITH_EXPONENT = re.compile(r"-?\d+(\.\d+)?E[-+]?\d+")
_MOST_EXACT = 2**53
_ROUNDED = 1e-9
_IN_VIRTUAL_TIME = ("cycles", "profile")

# Of these a row has all fields or none: another point may have more VMs, or interrupts that met something else.
_PART = re.compile(r"(?P<of>vms|latency)\.\w+\.")


def checked_rows(path: Path, rows: Mapping[str, Row], plan: Plan) -> list[Row]:
    """The rows of a results file, with the values of the grid, and with the types that they were written with.

    Args:
        path: The file.
        rows: Its rows, by where they stand; all are of points of the grid.
        plan: The grid.

    Raises:
        SweepError: It was changed: a row that is there twice or is not whole, a column that is missing, a value that
            cannot be. File, line, column, and what to do.
    """
    if wrong := [*_cut(rows), *_twice(rows)]:
        raise _changed(wrong)
    varied = plan.columns
    needed = [name for column in _always(plan.engine) if (name := called(column, varied))]
    there = next(iter(rows.values()), {"error": None})
    has_results = any(row.get("error") is None for row in rows.values())
    if missing := [name for name in ("error", *(needed if has_results else ())) if name not in there]:
        raise in_the_way(f"{path}: its column {missing[0]} is missing: put it back, ", "begin anew")
    kinds = {name: _KINDS[kind] for name in there if (kind := _kind(name, varied)) in _KINDS}
    parts = _parts(there)
    points = {point.key: point for point in plan.points}
    wrong = []
    read: list[Row] = []
    for at, found in rows.items():
        values = plan.values(points[found[POINT]])
        row = found | {name: _meant(found[name], types) for name, (types, _) in kinds.items()}
        read.append(values | row | values)
        mistakes = _elsewhere(found, {"engine": plan.engine, "version": __version__} | values)
        if row["error"] is None:
            mistakes += _mistakes(row, kinds, needed, parts) or _violations(row)
        wrong += [f"{at}: {what}" for what in mistakes]
    if wrong:
        raise _changed(wrong)
    return read


def _changed(wrong: list[str]) -> SweepError:
    what = "put that right, or delete these rows, and what is not there is run again; or else "
    return in_the_way(f"{shortened(wrong)}\n{what}", "begin anew")


def _cut(rows: Mapping[str, Row]) -> Iterator[str]:
    for at, row in rows.items():
        if row.get(POINT) is None:
            yield f"{at}: this row has no {POINT}"
        elif isinstance(row.get(TOO_MANY), list):
            yield f"{at}: this row has more cells than there are columns"


def _twice(rows: Mapping[str, Row]) -> Iterator[str]:
    seen: dict[str, str] = {}
    for at, row in rows.items():
        if first := seen.get(row[POINT]):
            yield f"{at}: the point of this row has one already: {first}"
        seen.setdefault(row[POINT], at)


def _meant(value: object, types: tuple[type, ...]) -> object:
    """A value as it was before a spreadsheet or pandas wrote it in its own way: TRUE, 3488.0, 2.5E-05."""
    if bool in types and isinstance(value, str):
        return {"true": True, "false": False}.get(value.lower(), value)
    if isinstance(value, str) and _WITH_EXPONENT.fullmatch(value):
        value = float(value)
    if float not in types and isinstance(value, float) and value.is_integer() and value <= _MOST_EXACT:
        return int(value)
    return value


def _elsewhere(row: Row, known: Row) -> list[str]:
    """The values of a row that are not those of its point; a column that is gone is put back."""
    return [
        f"{name} must be {shown(value)} at this point of the grid, not {shown(row[name])}"
        for name, value in known.items()
        if name in row and not _is(row[name], value)
    ]


def _is(found: object, value: object) -> bool:
    """Whether this, which may be its text, is the value; spreadsheets round fractions."""
    text = str(cell(found))
    if isinstance(value, str):
        return text == value
    if isinstance(value, bool) or value is None:
        return text.lower() == cell(value)
    try:
        if not isinstance(value, int | float):
            return bool(json.loads(text) == value)
        if isinstance(value, int) and text.isdecimal():
            return int(text) == value
        return math.isclose(float(text), value, rel_tol=_ROUNDED)
    except ValueError:
        return False


def _violations(row: Row) -> list[str]:
    """What is wrong with the kind of the first violation."""
    first, many, known = row.get("violations.first"), row["violations"], _kinds_of_violations()
    if first is not None and first not in known:
        return [f"violations.first must be one of {', '.join(known)}, not {shown(first)}"]
    if (first is None) != (many == 0):
        return [f"violations is {many}, and violations.first is {'empty' if first is None else first}"]
    return []


def _mistakes(row: Row, kinds: dict[str, _Kind], needed: list[str], parts: list[list[str]]) -> list[str]:
    """What is wrong with the row of a point that has a result."""
    there = [part for part in parts if any(row.get(name) is not None for name in part) and row.get(part[0]) != 0]
    empty = [name for name in dict.fromkeys(chain(needed, *there)) if row.get(name) is None]
    wrong = [f"{name} is {'empty' if name in row else 'missing'}" for name in empty]
    wrong += [
        f"{name} must be {words}, not {shown(row[name])}"
        for name, (types, words) in kinds.items()
        if row[name] is not None and not (type(row[name]) in types and row[name] >= 0)
    ]
    if not wrong:
        by_reason = sum(row[name] or 0 for name in kinds if _is_exit(name))
        if by_reason != row[_TOTAL]:
            wrong.append(f"{_TOTAL} is {row[_TOTAL]}, and the exits by reason are {by_reason} together")
    return wrong


def _is_exit(name: str) -> bool:
    return name.startswith(EXITS) and name.removeprefix(EXITS) in _reasons()


def _kind(name: str, varied: Collection[str]) -> str:
    """The kind of a column, if it is one of a result."""
    column = name.removeprefix("result.")
    if called(column, varied) != name:
        return ""
    if _is_exit(column):
        return "integer"
    return _columns().get(re.sub(r"^vms\.\d+\.", "vms.0.", column), "")


def _parts(names: Iterable[str]) -> list[list[str]]:
    """The columns of each VM and each latency that some of the columns are of, in the schema's order: `count` first."""
    parts: dict[str, list[str]] = {}
    for found in filter(None, map(_PART.match, names)):
        alike = (part for part in map(_PART.match, _columns()) if part and part["of"] == found["of"])
        fields = dict.fromkeys(part.string[part.end() :] for part in alike)
        parts[found[0]] = [found[0] + field for field in fields]
    return list(parts.values())


def _always(engine: Engine) -> list[str]:
    """The columns that every result has."""
    return [
        name
        for name in _columns()
        if not name.startswith("latency.") and (engine == "virtual-time" or name not in _IN_VIRTUAL_TIME)
    ]


@cache
def _schema() -> dict[str, Any]:
    text = (files("ipivrs") / "schemas" / "run-scenario.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def _kinds_of_violations() -> list[str]:
    kinds: list[str] = _schema()["$defs"]["violation"]["properties"]["kind"]["enum"]
    return kinds


@cache
def _reasons() -> frozenset[str]:
    return frozenset(map(str, _schema()["$defs"]["exit"]["properties"]["reason"]["enum"]))


@cache
def _columns() -> dict[str, str]:
    """The columns that a result with one VM may have, and the kind of each, by the schema of results."""
    schema = _schema()
    own = schema["properties"]
    properties = {name: own[name] for name in own if name not in (*NOT_IN_ROWS, "exits", "violations", "vms")}
    properties["vms.0"] = own["vms"]["items"]
    whole = {"type": "integer"}
    properties |= {_TOTAL: whole, "violations": whole}
    return dict(_flattened("", {"type": "object", "properties": properties}, schema["$defs"]))


def _flattened(name: str, part: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, str]]:
    part = definitions[part["$ref"].rpartition("/")[2]] if "$ref" in part else part
    if part["type"] == "object":
        for inner, field in part["properties"].items():
            yield from _flattened(f"{name}.{inner}" if name else inner, field, definitions)
    elif part["type"] != "array":
        yield name, part["type"]
