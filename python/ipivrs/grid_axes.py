"""What varies in a grid: its keys as paths of fields, and the values of each."""

import json
from dataclasses import dataclass
from math import prod
from typing import Any

from ipivrs.field_paths import Names, plain
from ipivrs.grid import MOST_POINTS, Found, Range, SweepError


@dataclass(frozen=True)
class Axis:
    """A key of the grid: the paths in it, and for each of its values one value for each path."""

    key: str
    paths: tuple[Names, ...]
    values: list[list[Any]]
    listed: bool

    @property
    def columns(self) -> list[str]:
        """The paths as they are written."""
        return [".".join(path) for path in self.paths]


def axes(found: Found) -> list[Axis]:
    """The keys of a grid, in its order.

    Raises:
        SweepError: A key is no path, or its values are not for it: file, line, and what is allowed.
    """
    all_axes = [_axis(found, key) for key in found.grid.grid]
    seen: dict[Names, str] = {}
    for axis in all_axes:
        for path in axis.paths:
            for other, key in seen.items():
                shorter = min(len(path), len(other))
                if path[:shorter] == other[:shorter]:
                    both = f"{'.'.join(path)} and {'.'.join(other)} (of {key})" if path != other else f"{key!r}"
                    what = "are parts of each other" if path != other else "has this field already"
                    raise SweepError(f"{found.place(axis.key)}: {both} {what}")
            seen[path] = axis.key
    number = prod(len(axis.values) for axis in all_axes)
    if number > MOST_POINTS:
        raise SweepError(f"{found.place()}: it has {number:,} points, and a sweep at most {MOST_POINTS:,}")
    return all_axes


def _axis(found: Found, key: str) -> Axis:
    columns = [part.strip() for part in key.split(",")]
    if not all(all(part for part in column.split(".")) for column in columns):
        raise SweepError(f"{found.place(key)}: write fields with dots, such as vm.0.vcpus, and commas between several")
    paths = tuple(tuple(column.split(".")) for column in columns)
    given = found.grid.grid[key]
    if isinstance(given, Range):
        if len(paths) > 1:
            raise SweepError(f"{found.place(key)}: must be a list of lists, {_one_each(columns)}; not a range")
        return Axis(key, paths, [[value] for value in given.values()], listed=False)
    seen: set[str] = set()
    values: list[list[Any]] = []
    for at, value in enumerate(given):
        if len(paths) > 1 and (not isinstance(value, list | tuple) or len(value) != len(paths)):
            raise SweepError(f"{found.place(key, at)}: each must be a list, {_one_each(columns)}; not {value!r}")
        row = [plain(part) for part in value] if len(paths) > 1 else [plain(value)]
        shown = json.dumps(row, sort_keys=True, default=repr)
        if shown in seen:
            raise SweepError(f"{found.place(key, at)}: {value!r} is there twice")
        seen.add(shown)
        values.append(row)
    return Axis(key, paths, values, listed=True)


def _one_each(columns: list[str]) -> str:
    return f"[{', '.join(columns)}]"
