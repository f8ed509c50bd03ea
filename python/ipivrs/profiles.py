"""Cost profiles: what acts cost in virtual time, each cost with its source."""

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from ipivrs import _core
from ipivrs.options import ArgumentError, did_you_mean, whole_number
from ipivrs.scenario_text import ScenarioError, load
from ipivrs.statements import Flag, Table

DEFAULT = "sapphire-rapids"
"""The profile that virtual time uses unless it is told another."""


class ProfileError(ArgumentError):
    """A profile that cannot be used. The message names the file, the line, the field, and what is allowed."""


MOST_CYCLES = 2**32 - 1
"""The most that a cost can be."""


class Cost(Table):
    """One cost: cycles of the time-stamp counter, where the number comes from, and whether it was fitted."""

    cycles: Annotated[int, Field(ge=0, le=MOST_CYCLES, strict=True)]
    source: Annotated[str, Field(min_length=1)]
    fitted: Flag = False


@cache
def cost_names() -> dict[str, tuple[int, str]]:
    """Every cost that a profile has: the least that it can be, and what it is."""
    return {name: (least, what) for name, least, what in _core.cost_names()}


def unknown_cost(name: str) -> str:
    """That there is no such cost, and which is most like it."""
    known = list(cost_names())
    hint = did_you_mean(name, known) or f": it is one of {', '.join(known)}"
    return f"no cost {name!r}{hint}"


class Profile(Table):
    """What acts cost. `hz` are the cycles in a second; `cost` has each of `cost_names()`."""

    title: str = ""
    hz: Annotated[int, Field(ge=1_000_000, le=10**11, strict=True)]
    cost: dict[str, Cost]

    @model_validator(mode="after")
    def _whole(self) -> "Profile":
        known = cost_names()
        for name, cost in self.cost.items():
            at = ("cost", name)
            if name not in known:
                raise PydanticCustomError("cost", "{what}", {"what": unknown_cost(name), "at": at})
            if cost.cycles < known[name][0]:
                context = {"name": name, "least": known[name][0], "cycles": cost.cycles, "at": (*at, "cycles")}
                raise PydanticCustomError("cost", "{name} must cost {least} or more, not {cycles}", context)
        if missing := [name for name in known if name not in self.cost]:
            context = {"names": ", ".join(missing), "at": ("cost",)}
            raise PydanticCustomError("cost", "these costs are missing: {names}", context)
        return self

    @classmethod
    def load(cls, path: "str | Path") -> "Profile":
        """Read a profile from a TOML file.

        Raises:
            ProfileError: The file, the line, the field, and what is allowed.
        """
        try:
            return load(cls, Path(path), "a profile")
        except ScenarioError as error:
            raise ProfileError(str(error)) from error

    def costs(self) -> str:
        """The costs as the core reads them, JSON."""
        return json.dumps({"hz": self.hz} | {name: cost.cycles for name, cost in self.cost.items()})

    def toml(self) -> str:
        """The file that `load` reads it from."""
        parts = [f"title = {_quoted(self.title)}\nhz = {self.hz}\n"]
        for name in cost_names():
            cost = self.cost[name]
            fitted = "fitted = true\n" if cost.fitted else ""
            parts.append(f"[cost.{name}]\ncycles = {cost.cycles}\nsource = {_quoted(cost.source)}\n{fitted}")
        return "\n".join(parts)

    def with_cycles(self, cycles: Mapping[str, int]) -> "Profile":
        """The same with other costs, as whole cycles.

        Raises:
            ProfileError: There is no such cost, or it is out of its range.
        """
        for name, value in cycles.items():
            if name not in cost_names():
                raise ProfileError(unknown_cost(name))
            whole_number(name, value, cost_names()[name][0], MOST_CYCLES, ProfileError)
        changed = {name: self.cost[name].model_copy(update={"cycles": value}) for name, value in cycles.items()}
        return self.model_copy(update={"cost": self.cost | changed})


def _quoted(text: str) -> str:
    """A text as TOML has it: as JSON has it, which lets DEL be."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def shipped() -> dict[str, Path]:
    """The files of the shipped profiles, by name."""
    folder = Path(str(files("ipivrs") / "profiles"))
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find(name: str, folder: Path = Path()) -> Profile:
    """The shipped profile of this name, or the one in this file, from this folder.

    Raises:
        ProfileError: There is none, or it has a mistake.
    """
    known = shipped()
    if name in known:
        return Profile.load(known[name])
    path = folder / name
    if not path.exists():
        hint = did_you_mean(name, list(known)) or f"; shipped are {', '.join(known)}"
        raise ProfileError(f"no profile {name!r}, and no file of this name{hint}")
    return Profile.load(path)
