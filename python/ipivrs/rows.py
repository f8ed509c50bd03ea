"""One row for each point: the values that vary, and every number of the result by a flat name."""

import re
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ipivrs import __version__
from ipivrs.profiles import Profile
from ipivrs.scenario import Scenario
from ipivrs.simulation import whole
from ipivrs.wording import how_many

Row = dict[str, Any]
"""Values by column."""

POINT = "point"
"""The column that says which point a row is of."""

EXITS = "exits."
"""How the columns of VM exits begin."""

# What a result names only where it happened.
_COUNTED = re.compile(rf"{re.escape(EXITS)}\d+|latency\.\w+\.count")

NOT_IN_ROWS = ("title", "faults", "partial", "unfinished")
"""What a result has and a row has not."""


def run_point(description: dict[str, Any]) -> Row:
    """Run one point. What the engine refuses is in the row's `error`.

    Args:
        description: As `Plan.description` makes it, in plain types.

    Raises:
        KeyboardInterrupt: Ctrl-C: the point has no row.
    """
    try:
        scenario = Scenario.model_validate(description["scenario"])
        costs = description["costs"] and Profile.model_validate(description["costs"])
        with _policy(description) as policy:
            result = whole(scenario.run(policy=policy, engine=description["engine"], profile=costs)).as_dict()
        return row_of(description, result if costs is None else result | {"profile": description["profile"]})
    except Exception as error:  # a point that fails is a row too, and the sweep goes on
        return failed(description, str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}")


@contextmanager
def _policy(description: dict[str, Any]) -> Iterator[str]:
    """The point's policy as `Scenario.run` takes it: a shipped one's name, or a file with its text."""
    if description["policy_text"] is None:
        yield description["policy"]
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(description["policy"]).name
        path.write_text(description["policy_text"], encoding="utf-8")
        yield str(path)


def failed(description: dict[str, Any], error: str) -> Row:
    """The row of a point that has no result."""
    values = {"engine": description["engine"], "version": __version__}
    return {**description["grid"], **values, "error": error, POINT: description["point"]}


def row_of(description: dict[str, Any], result: dict[str, Any]) -> Row:
    """The row of a point that has one; where a result has the name of a field of the grid, `result.` is before it."""
    grid: Row = description["grid"]
    row = dict(grid)
    for name, value in _result_columns(result):
        if column := called(name, grid):
            row[column] = value
    return {**row, "error": None, POINT: description["point"]}


def called(name: str, varied: Collection[str]) -> str | None:
    """What the column of a result is called beside the fields that vary; None: it is one of them."""
    if name not in varied:
        return name
    return None if name == "seed" else f"result.{name}"


def _result_columns(result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in result.items():
        if name == "exits":
            yield from _exits(value)
        elif name == "violations":
            yield "violations", how_many(value)
            yield "violations.first", value[0]["kind"] if value else None
        elif name == "vms":
            for number, vm in enumerate(value):
                yield from flattened(f"vms.{number}", vm)
        elif name not in NOT_IN_ROWS:
            yield from flattened(name, value)


def _exits(exits: list[dict[str, Any]]) -> Iterator[tuple[str, int]]:
    counts: dict[int, int] = {}
    for each in exits:
        counts[each["reason"]] = counts.get(each["reason"], 0) + each["count"]
    yield f"{EXITS}total", sum(counts.values())
    for reason in sorted(counts):
        yield f"{EXITS}{reason}", counts[reason]


def flattened(name: str, value: object) -> Iterator[tuple[str, Any]]:
    """Names with dots for what tables have in them; of lists, only words are kept, with spaces between."""
    if isinstance(value, dict):
        for inner, element in value.items():
            yield from flattened(f"{name}.{inner}", element)
    elif not isinstance(value, list):
        yield name, value
    elif all(isinstance(element, str) for element in value):
        yield name, " ".join(value) or None


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The columns of all rows. One that is new in a row stands behind its neighbour there."""
    columns: dict[str, None] = {}
    for row in rows:
        if row.keys() <= columns.keys():
            continue
        order = list(columns)
        at = 0
        for name in row:
            if name in columns:
                at = order.index(name) + 1
            else:
                order.insert(at, name)
                at += 1
        columns = dict.fromkeys(order)
    return list(columns)


def filled(rows: list[Row]) -> list[Row]:
    """The rows with the columns of all. Of exits and interrupts that did not happen there were 0; the rest is None."""
    columns = columns_of(rows)
    return [{name: row[name] if name in row else _absent(name, row) for name in columns} for row in rows]


def _absent(name: str, row: Row) -> int | None:
    return 0 if _COUNTED.fullmatch(name) and row.get("error") is None else None
