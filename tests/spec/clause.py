"""The register of the manual's clauses, and of those that have been exercised."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

Key = tuple[str, str]


@dataclass(frozen=True)
class Entry:
    """One clause: where the manual has it, which function says it, and what it demands."""

    section: str
    step: str
    function: str
    demand: str


REGISTRY: dict[Key, Entry] = {}
exercised: set[Key] = set()


def clause(section: str, step: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register the decorated function as the clause (section, step) and note each call of it."""
    key = (section, step)

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        if key in REGISTRY:
            raise ValueError(f"clause {key} is defined twice")
        if not function.__doc__:
            raise ValueError(f"clause {key} does not say what it demands")
        demand = function.__doc__.strip().splitlines()[0]
        REGISTRY[key] = Entry(section, step, function.__name__, demand)

        @functools.wraps(function)
        def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
            exercised.add(key)
            return function(*args, **kwargs)

        return wrapper

    return decorate
