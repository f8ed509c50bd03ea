"""What a table of comparisons is, and how its parts are run."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from conformance.pair import Pair

MOST_DIFFERENCES = 20
SEED = 0x1B1


@dataclass
class Tally:
    """What came of a part of a table."""

    cases: int = 0
    differences: list[str] = field(default_factory=list)
    clauses: set[spec.Key] = field(default_factory=set)

    def add(self, other: Tally) -> None:
        """Take in another part."""
        self.cases += other.cases
        self.differences += other.differences[: MOST_DIFFERENCES - len(self.differences)]
        self.clauses |= other.clauses


@dataclass(frozen=True)
class Table:
    """Cases by parts, so that several processes may share them.

    `parts(full)` lists the arguments of `check`: all of them, or the slice that every test run can afford.
    """

    name: str
    words: str
    parts: Callable[[bool], Sequence[tuple[Any, ...]]]
    check: Callable[..., Tally]

    def run(self, part: tuple[Any, ...]) -> Tally:
        """Compare one part, and say which clauses of the specification it went through."""
        spec.exercised.clear()
        tally = self.check(*part)
        tally.clauses = set(spec.exercised)
        return tally


def some(values: Sequence[Any], count: int) -> list[Any]:
    """The same few of many, on every run."""
    return random.Random(SEED).sample(values, min(count, len(values)))  # noqa: S311 - a sample, no secret


def entered(pair: Pair, *, register: bool, delivery: bool, ipi: bool, shadow: bool = True, **more: bool) -> Pair:
    """vCPU 0 enters its guest with these controls; posted interrupts go with virtual-interrupt delivery."""
    pair.set_controls(
        0,
        use_tpr_shadow=shadow,
        apic_register_virtualization=register,
        virtual_interrupt_delivery=delivery,
        process_posted_interrupts=delivery,
        ipi_virtualization=ipi,
        **more,
    )
    return pair
