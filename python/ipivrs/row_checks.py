"""Whether a results file is as it was written: a row for each point, nothing missing, numbers where they belong."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import Any

from ipivrs.grid import SweepError
from ipivrs.names import Engine
from ipivrs.rows import EXITS, NOT_IN_ROWS, POINT, Row, called
from ipivrs.scenario_text import shortened, shown
from ipivrs.tables import TOO_MANY, in_the_way

_Kind = tuple[tuple[type, ...], str]

_KINDS: dict[str, _Kind] = {
    "integer": ((int,), "a whole number of 0 or more"),
    "number": ((int, float), "a number of 0 or more"),
    "boolean": ((bool,), "true or false"),
}
_TOTAL = f"{EXITS}total"
_IN_VIRTUAL_TIME = ("cycles", "profile")

# Of these a row has all fields or none: another point may have more VMs, or interrupts that met something else.
_PART = re.compile(r"(?P<of>vms|latency)\.\w+\.")


def check_rows(path: Path, rows: Mapping[str, Row], varied: Sequence[str], engine: Engine) -> None:
    """Refuse a results file that was changed: rows that are there twice or are not whole, a column that is missing.

    Args:
        path: The file.
        rows: Its rows, by where they stand.
        varied: The fields of the grid. Their values are known, whatever the file has.
        engine: What ran the points.

    Raises:
        SweepError: File, line, column, and what to do.
    """
    if wrong := [*_cut(rows), *_twice(rows)]:
        raise _changed(wrong)
    whole = {at: row for at, row in rows.items() if row.get("error") is None}
    needed = [name for column in _always(engine) if (name := called(column, varied))] if whole else []
    there = next(iter(rows.values()), {"error": None})
    if missing := [name for name in ("error", *needed) if name not in there]:
        raise in_the_way(f"{path}: its column {missing[0]} is missing: put it back, ", "begin anew")
    kinds = {name: _KINDS[kind] for name in there if (kind := _kind(name, varied)) in _KINDS}
    parts = _parts(there)
    if wrong := [f"{at}: {what}" for at, row in whole.items() for what in _mistakes(row, kinds, needed, parts)]:
        raise _changed(wrong)


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
    return name.startswith(EXITS) and name != _TOTAL


def _kind(name: str, varied: Sequence[str]) -> str:
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
def _columns() -> dict[str, str]:
    """The columns that a result with one VM may have, and the kind of each, by the schema of results."""
    text = (files("ipivrs") / "schemas" / "run-scenario.json").read_text(encoding="utf-8")
    schema = json.loads(text)
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
