"""From a grid to its points: every scenario is made and checked before anything runs."""

import copy
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ipivrs import __version__
from ipivrs.engines import known_engine, profile_for
from ipivrs.field_paths import Names, PathError, known_paths, plain, put, unknown
from ipivrs.grid import Found, SweepError
from ipivrs.grid_axes import Axis, axes
from ipivrs.names import Engine
from ipivrs.options import did_you_mean
from ipivrs.policies import PolicyError, find, shipped
from ipivrs.profiles import Profile
from ipivrs.running import shipped_path, shipped_scenarios
from ipivrs.scenario import Scenario
from ipivrs.scenario_text import OtherKindError, ScenarioError, mistakes, read, shortened

_KEY_DIGITS = 20

Place = tuple[str | int, ...]


@dataclass(frozen=True)
class Point:
    """One point: a digest of all that its result comes of, and the number of its value on each axis."""

    key: str
    at: tuple[int, ...]


class Plan:
    """The points of a grid in its order.

    Raises:
        SweepError: A field is unknown, or a value cannot be: file, line, key, value, and what is allowed.
    """

    def __init__(self, found: Found, engine: str | None = None, profile: str | None = None) -> None:
        """Make and check every point."""
        self._found = found
        self.stem = found.stem
        self.title = found.grid.title
        try:
            self.engine = known_engine(engine or found.grid.engine)
            self.profile, self._costs = _profile(found, self.engine, profile, without=engine == "threads")
        except ValueError as error:
            raise SweepError(str(error)) from error
        self._base, self._scenario, self._base_folder = _base(found)
        self._axes = axes(found)
        self._policies: dict[str, str] = {}
        self._policy_folder = self._where_policies_are()
        self.points = self._checked()

    @property
    def columns(self) -> list[str]:
        """The fields that vary."""
        return [column for axis in self._axes for column in axis.columns]

    def values(self, point: Point) -> dict[str, Any]:
        """The value of each field at a point."""
        return {
            column: value
            for axis, at in zip(self._axes, point.at, strict=True)
            for column, value in zip(axis.columns, axis.values[at], strict=True)
        }

    def description(self, point: Point) -> dict[str, Any]:
        """All that a worker needs to run a point, in plain types."""
        table, _ = self._table(point.at)
        policy = Scenario.model_validate(table).host.policy
        return {
            "point": point.key,
            "grid": self.values(point),
            "scenario": table,
            "policy": policy,
            # A worker on another machine has the shipped policies, but not the user's files.
            "policy_text": None if policy in shipped() else self._policies[policy],
            "engine": self.engine,
            "profile": self.profile,
            "costs": self._costs and self._costs.model_dump(),
        }

    def _where_policies_are(self) -> Path:
        """Where a policy's path begins: at the folder of the file in which it stands, if it stands in one."""
        if any(path == ("host", "policy")[: len(path)] for axis in self._axes for path in axis.paths):
            return Path() if self._found.source is None else self._found.source.path.parent
        return self._base_folder

    def _table(self, at: Sequence[int]) -> tuple[dict[str, Any], list[Place]]:
        """The table of a point's scenario, and the place of each field of the grid in it."""
        table = copy.deepcopy(self._base)
        places = [
            self._put(table, axis, path, value)
            for axis, number in zip(self._axes, at, strict=True)
            for path, value in zip(axis.paths, axis.values[number], strict=True)
        ]
        return table, places

    def _put(self, table: dict[str, Any], axis: Axis, path: Names, value: object) -> Place:
        try:
            return put(table, path, copy.deepcopy(value))
        except PathError as error:
            raise SweepError(f"{self._found.place(axis.key)}: {error}") from error

    @cached_property
    def _known(self) -> list[str]:
        return known_paths(self._scenario)

    def _checked(self) -> list[Point]:
        points: list[Point] = []
        wrong: dict[str, None] = {}
        for at in product(*(range(len(axis.values)) for axis in self._axes)):
            for message in self._mistakes(at, points):
                wrong[message] = None
        if wrong:
            raise SweepError(shortened(wrong))
        return points

    def _mistakes(self, at: tuple[int, ...], points: list[Point]) -> Iterator[str]:
        """What is wrong with a point; it is added to the others if nothing is."""
        table, places = self._table(at)
        try:
            scenario = Scenario.model_validate(table)
        except ValidationError as error:
            yield from (self._explained(at, places, where, what) for where, what in mistakes(error, table))
            return
        if refused := scenario.refused_by(self.engine):
            yield self._explained(at, places, *refused)
            return
        try:
            points.append(Point(self._key(at, scenario), at))
        except PolicyError as error:
            yield self._explained(at, places, ("host", "policy"), str(error))

    def _key(self, at: tuple[int, ...], scenario: Scenario) -> str:
        policy = scenario.host.policy
        if policy not in self._policies:
            self._policies[policy] = find(policy, self._policy_folder).text
        whole = {
            "values": self.values(Point("", at)),
            "scenario": json.loads(scenario.description()),
            "seconds": scenario.seconds,
            "policy": self._policies[policy],
            "engine": self.engine,
            "costs": self._costs and json.loads(self._costs.costs()),
            "version": __version__,
        }
        return sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()[:_KEY_DIGITS]

    def _explained(self, at: tuple[int, ...], places: list[Place], where: Place, what: str) -> str:
        """A mistake in a point's scenario as one of the grid."""
        columns = [(axis, number, column) for axis, number in enumerate(at) for column in self._axes[axis].columns]
        for (axis, number, column), place in zip(columns, places, strict=True):
            if what.startswith("no such field") and place[: len(where)] == where:
                return f"{self._at(axis, number, column)}: {unknown(column, self._known)}"
            if where[: len(place)] == place:
                field = ".".join(map(str, (column, *where[len(place) :])))
                return f"{self._at(axis, number, field)}: {what}"
        # Fields that do not go together: name those that have to do with it, in a VM any of that VM.
        about = where[:2] if where[:1] == ("vm",) else where
        involved = [each for each, place in zip(columns, places, strict=True) if place[: len(about)] == about]
        values = self.values(Point("", at))
        shown = ", ".join(f"{column} = {values[column]}" for _, _, column in involved or columns)
        axis, number, _ = (involved or columns)[0]
        field = ".".join(map(str, where))
        return f"{self._at(axis, number)}: {f'{field}: ' if field else ''}{what} (with {shown})"

    def _at(self, axis: int, number: int, field: str = "") -> str:
        """Where a value stands, and the field that it is about if that is not the key."""
        key, listed = self._axes[axis].key, self._axes[axis].listed
        return self._found.place(key, *([number] if listed else [])) + (f": {field}" if field not in {"", key} else "")


def _base(found: Found) -> tuple[dict[str, Any], Scenario, Path]:
    """The scenario that the points are variants of, as a table and whole, and where paths in the table begin."""
    what = found.grid.scenario
    if isinstance(what, Scenario):
        return plain(what), what, Path()
    path = _scenario_path(found, what)
    try:
        return read(path).table, Scenario.load(path), path.parent
    except OtherKindError as error:
        what = f"must be a scenario, a file with [[vm]], and {os.fspath(path)} is {error.kind}"
        message = f"scenario: {what}" if found.source is None else found.source.about(("scenario",), what)
        raise SweepError(message) from error
    except ScenarioError as error:
        raise SweepError(str(error)) from error


def _profile(found: Found, engine: Engine, instead: str | None, *, without: bool) -> tuple[str | None, Profile | None]:
    """The costs of virtual time: a relative path is from the grid's folder if it stands in the grid.

    `without`: an engine that takes none is given instead of the grid's, and the grid's profile goes with it.
    """
    if without:
        return profile_for(engine, instead, Path())
    if instead is not None or found.source is None:
        return profile_for(engine, instead or found.grid.profile, Path())
    try:
        return profile_for(engine, found.grid.profile, found.source.path.parent)
    except ValueError as error:
        raise SweepError(found.source.about(("profile",), str(error))) from error


def _scenario_path(found: Found, name: str) -> Path:
    known = list(shipped_scenarios())
    if name in known:
        return Path(shipped_path(name))
    path = Path(name) if found.source is None else found.source.path.parent / name
    if path.exists():
        return path
    before = "" if found.source is None else f"{found.source.place(('scenario',))}: "
    stem = Path(name).stem
    hint = f"; the shipped scenario of this name is {stem!r}" if stem in known else _nearest(stem, known)
    raise SweepError(f"{before}scenario: no scenario {name!r}: there is no file {os.fspath(path)}{hint}")


def _nearest(word: str, known: list[str]) -> str:
    return did_you_mean(word, known) or f"; shipped are {', '.join(known)}"
