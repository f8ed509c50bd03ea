"""What a result has to draw: interrupts from vCPU to vCPU, and what vCPUs and pCPUs did meanwhile, in columns."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FATES = ("virtualized", "self", "exited", "faulted", "escaped", "violation", "device")
"""Fates by code: those of IPIs, and posts of devices."""

STATES = ("guest", "root", "waiting", "blocked")
"""What a vCPU does, by code: in its guest; on a pCPU in root mode; without a pCPU, though it could run; asleep."""

NOBODY = 2**32 - 1
"""A sender that is no vCPU, or a target that is not known."""

NEVER = 2**64 - 1
"""The delivery of an interrupt that had none of its own, or of which the time is not known."""

Times = NDArray[np.uint64]
Numbers = NDArray[np.uint32]
Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Sends:
    """Commands by time: one row for each write that sent something, whomever it meant."""

    time: Times
    sender: Numbers
    fate: Codes


@dataclass(frozen=True)
class Interrupts:
    """Interrupts by the time of the write that sent them: one row for each target.

    `delivered` is `NEVER` where the result has no delivery of this interrupt itself.
    """

    time: Times
    delivered: Times
    sender: Numbers
    target: Numbers
    fate: Codes
    vector: Codes

    def __len__(self) -> int:
        """How many."""
        return len(self.time)


@dataclass(frozen=True)
class Slices:
    """Stretches of time, by lane and then by time: `what` is a state of a vCPU, or the vCPU that a pCPU ran."""

    lane: Numbers
    start: Times
    end: Times
    what: Numbers

    @classmethod
    def none(cls) -> "Slices":
        """No stretches: the result does not tell."""
        numbers, times = np.empty(0, np.uint32), np.empty(0, np.uint64)
        return cls(numbers, times, times, numbers)


@dataclass(frozen=True)
class Pairs:
    """Who interrupts whom: how many interrupts from one vCPU to another. Pairs with none are left out."""

    sender: Numbers
    target: Numbers
    count: NDArray[np.int64]


@dataclass(frozen=True)
class Exits:
    """VM exits by time; `reason` is the basic exit reason."""

    time: Times
    vcpu: Numbers
    reason: Numbers

    @classmethod
    def none(cls) -> "Exits":
        """No exits: the result has no times of them."""
        numbers = np.empty(0, np.uint32)
        return cls(np.empty(0, np.uint64), numbers, numbers)


@dataclass(frozen=True)
class Story:
    """All of it.

    `unit` is "ns" or "cycles", `per_second` so many of them, and all times begin at 0. `labels` are numbers of vCPUs,
    "3" or with the VM's before it "0.3", `vcpus` their names. `delivery_known`: deliveries have
    times of their own. `remarks` say what a reader must know of these columns, `missing` interrupts and events that are
    not in them.
    """

    unit: str
    per_second: float
    end: int
    labels: Sequence[str]
    vcpus: Sequence[str]
    pcpus: int
    sends: Sends
    interrupts: Interrupts
    pairs: Pairs
    states: Slices
    residence: Slices
    exits: Exits
    delivery_known: bool
    remarks: Sequence[str]
    missing: int


def pairs_of(sender: Numbers, target: Numbers, weight: "NDArray[np.int64] | None" = None) -> Pairs:
    """Count pairs. Rows without a known sender or target are left out."""
    known = (sender != NOBODY) & (target != NOBODY)
    keys = sender[known].astype(np.uint64) << np.uint64(32) | target[known]
    unique, place = np.unique(keys, return_inverse=True)
    weights = None if weight is None else weight[known]
    count = np.bincount(place, weights=weights, minlength=len(unique)).astype(np.int64)
    return Pairs((unique >> np.uint64(32)).astype(np.uint32), unique.astype(np.uint32), count)
