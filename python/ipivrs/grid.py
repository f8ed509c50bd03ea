"""Grids: a scenario, the fields of it to vary, and the values of each; from a TOML file or made in Python."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, InstanceOf, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from ipivrs.engines import DEFAULT_ENGINE
from ipivrs.names import Engine
from ipivrs.options import ArgumentError, did_you_mean, nearest
from ipivrs.running import shipped_path, shipped_scenarios
from ipivrs.scenario import Scenario
from ipivrs.scenario_text import ScenarioError, Source, read, shortened, shown
from ipivrs.statements import Table

MOST_POINTS = 1_000_000
"""More than so many points are a slip."""

_EXAMPLE = 'under [grid] fields and their values, such as "host.pcpus" = [1, 2, 4]'


class SweepError(ArgumentError):
    """A sweep that cannot be made: its grid, its results file or its workers. The message says what to change."""


def _number(value: Any) -> int | float:  # noqa: ANN401 (whatever the file has)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise PydanticCustomError("number", "must be a number, not {value}", {"value": shown(value)})
    return value


_RANGE_KEYS = ["from", "to", "step", "factor", "first", "last"]

_Number = Annotated[int | float, BeforeValidator(_number)]


class Range(Table):
    """Evenly spaced values, `to` included if it is met: { from = 1, to = 16, step = 1 }, or with a `factor` instead."""

    first: _Number = Field(alias="from")
    last: _Number = Field(alias="to")
    step: _Number | None = None
    factor: _Number | None = None

    @model_validator(mode="after")
    def _ends(self) -> "Range":
        if self.step is not None and self.factor is not None:
            raise PydanticCustomError("range", "give either step or factor, not both")
        if self.step is not None and self.step <= 0:
            raise PydanticCustomError("range", "step must be above 0, not {step}", {"step": self.step})
        if self.factor is not None and self.factor <= 1:
            raise PydanticCustomError("range", "factor must be above 1, not {factor}", {"factor": self.factor})
        if self.factor is not None and self.first <= 0:
            raise PydanticCustomError(
                "range", "with a factor, from must be above 0, not {value}", {"value": self.first}
            )
        if self.first > self.last:
            context = {"first": self.first, "last": self.last}
            raise PydanticCustomError("range", "from ({first}) must not exceed to ({last})", context)
        if len(list(islice(self._all(), MOST_POINTS + 1))) > MOST_POINTS:
            raise PydanticCustomError("range", "has more than {most} values", {"most": f"{MOST_POINTS:,}"})
        return self

    def values(self) -> list[int | float]:
        """The values in ascending order; whole numbers as long as all that it is made of are."""
        return list(self._all())

    def _all(self) -> Iterator[int | float]:
        parts = [self.first, self.last, self.step or 1, self.factor or 2]
        # Fractions such as 0.1 are not exact: the last value may lie beyond the end by a hair.
        hair = 0 if all(isinstance(part, int) for part in parts) else 1e-9 * max(abs(self.last), 1e-9)
        end = self.last + hair
        value, number = self.first, 0
        while value <= end:
            yield value
            number += 1
            value = self.first + number * (self.step or 1) if self.factor is None else value * self.factor


def _values(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Range):
        return value
    if isinstance(value, dict) and value:
        return Range.model_validate(value)
    if isinstance(value, list | range | tuple):
        if not value:
            raise PydanticCustomError("too_short", "must be a list with something in it")
        return list(value)
    message = "must be a list of values, or a range such as {{ from = 1, to = 16 }}, not {value}"
    raise PydanticCustomError("values", message.replace("{{", "{").replace("}}", "}"), {"value": repr(value)})


def _scenario(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Scenario | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    message = "must be the path of a scenario, or the name of a shipped one, in quotes; not {value}"
    raise PydanticCustomError("scenario", message, {"value": repr(value)})


def _fields(value: Any) -> Any:  # noqa: ANN401
    if value == {}:
        raise PydanticCustomError("empty", f"nothing varies: write {_EXAMPLE}")
    return value


_Values = Annotated[InstanceOf[Range] | list[Any], BeforeValidator(_values)]


class Grid(Table):
    """A scenario, and values for some of its fields: the sweep has a point for each combination of them.

    ipivrs.Grid(scenario="hackbench", grid={"host.pcpus": [1, 2, 4], "vm.0.vcpus, seed": [[4, 1], [8, 2]]})

    `scenario`: a path, the name of a shipped one, or a `Scenario`. `grid`: by dotted path of a field, a list of its
    values or {"from": 1, "to": 64, "factor": 2}; by several paths with commas between, a list of lists. The last key
    varies fastest.

    Raises:
        ValueError: A field is missing, unknown or no list of values.
    """

    title: str = ""
    scenario: Annotated[str | InstanceOf[Scenario], BeforeValidator(_scenario)]
    engine: Engine = DEFAULT_ENGINE
    profile: str | None = None
    grid: Annotated[dict[str, _Values], BeforeValidator(_fields)]


@dataclass(frozen=True)
class Found:
    """A grid, the file that it is from if it is from one, and what its results are called."""

    grid: Grid
    source: Source | None
    stem: str

    def place(self, *where: str | int) -> str:
        """Where a mistake is, to put before its description; keys and positions below `grid`."""
        before = "" if self.source is None else f"{self.source.place(('grid', *where))}: "
        return f"{before}grid.{where[0]}" if where else f"{before}grid"


def shipped_grids() -> dict[str, Path]:
    """Where the shipped grids are, by name."""
    folder = Path(str(files("ipivrs") / "sweeps"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def find_grid(what: "Grid | str | os.PathLike[str]") -> Found:
    """The grid in this file, or the shipped one of this name.

    Raises:
        SweepError: There is none, or it has a mistake: file, line, field, and what is allowed.
    """
    if isinstance(what, Grid):
        return Found(what, None, "sweep")
    known = shipped_grids()
    if not os.fspath(what):
        raise SweepError(f"the name of the grid is empty: give a TOML file, or one of the shipped: {', '.join(known)}")
    path = known.get(os.fspath(what), Path(what))
    if not path.exists() and path.stem in shipped_scenarios():
        raise SweepError(
            f"no grid {os.fspath(what)!r}: {path.stem} is a scenario; `ipivrs run {shipped_path(path.stem)}` runs it, "
            f'and a grid of it is a file with scenario = "{path.stem}" and {_EXAMPLE}'
        )
    if not path.exists():
        hint = did_you_mean(path.stem, list(known)) or f"; shipped are {', '.join(known)}"
        raise SweepError(f"no grid {os.fspath(what)!r}: there is no such file{hint}")
    try:
        source = _with_dotted_keys(read(path, "a grid"))
    except ScenarioError as error:
        raise SweepError(str(error)) from error
    try:
        grid = Grid.model_validate(source.table)
    except ValidationError as error:
        raise SweepError(shortened(source.mistakes(error))) from error
    return Found(grid, source, path.stem)


def _with_dotted_keys(source: Source) -> Source:
    """TOML makes tables of keys that are not in quotes: put `vm.0.vcpus = [1]` back together, top to bottom."""
    written = source.table.get("grid", {})  # one that is missing is as one with nothing in it
    if not isinstance(written, dict):
        return source
    lines = dict(source.lines)
    found: dict[str, Any] = {}
    for names, value in _leaves(written, ()):
        key = ".".join(names)
        if key in found:
            raise SweepError(f"{source.place(('grid', *names))}: grid.{key}: it is there twice")
        found[key] = value
        for where, line in source.lines.items():
            if where[: 1 + len(names)] == ("grid", *names):
                lines[("grid", key, *where[1 + len(names) :])] = line
    in_order = dict(sorted(found.items(), key=lambda item: lines["grid", item[0]]))
    return Source(source.path, source.table | {"grid": in_order}, lines)


def _leaves(table: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for name, value in table.items():
        if isinstance(value, dict) and not _is_range(value):
            yield from _leaves(value, (*above, name))
        else:
            yield (*above, name), value


def _is_range(table: dict[str, Any]) -> bool:
    """A range has numbers in it, a table of further keys has lists and ranges; mistaken ones go by their keys."""
    if not table:
        return True  # not one without further keys, or it would be lost
    further = all(isinstance(inner, dict | list) for inner in table.values())
    return not further and any(nearest(name, _RANGE_KEYS) for name in table)
