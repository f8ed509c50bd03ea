"""Fitting a profile to measurements: least squares over named costs, with virtual time as the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ipivrs.profiles import Profile, ProfileError, cost_names, unknown_cost
from ipivrs.published import Measurements, Row, RowsError, predict

_ROUNDS = 12
# Waiting loops look now and then: what is measured goes up in steps, over which this one is long.
_STEP = 400
# What comes once in a run, and not in each of its rounds, changes a row by less.
_LEAST_SLOPE = 0.01
# The steps make slopes inexact by a tenth: what is nearer to 0 than that may be 0.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Fit:
    """What came of a fit.

    `cycles` are the fitted costs; `residuals` what each of the rows named in `rows` is off by, in cycles (predicted
    less measured). `at_least` names the costs that are as low as they can be: others took their part. The rows tell
    only what the costs in a group of `not_told_apart` come to together: how it is divided follows from the start.
    """

    profile: Profile
    cycles: dict[str, int]
    rows: list[str]
    residuals: list[float]
    at_least: list[str]
    not_told_apart: list[list[str]]


def fit(
    measurements: Measurements,
    start: Profile,
    costs: Sequence[str],
    *,
    progress: Callable[[float], None] = lambda _: None,
) -> Fit:
    """Fit the named costs to the rows that are measured in cycles and marked `fitted`; all others stay as they are.

    Args:
        measurements: Where the rows are.
        start: The other costs, and where the search begins.
        costs: Names of the costs to fit, not more than there are rows.
        progress: Called with the sum of squared residuals after each round.

    Raises:
        ProfileError: No such cost.
        RowsError: No rows to fit to, more costs than rows, a cost that no row depends on, or a row's scenario that
            cannot be run.
    """
    known = cost_names()
    _are_costs(costs)
    rows = [row for row in measurements.row if row.fitted and row.quantity == "cycles" and row.measured is not None]
    if not rows:
        raise RowsError("no row is marked fitted = true and has a measured quantity in cycles: none to fit to")
    if not costs or len(costs) > len(rows):
        few = f"1 to {len(rows)} costs can be fitted to {len(rows)} rows in cycles, not {len(costs)}"
        raise RowsError.naming(lambda named: f"{few}: give other {named('costs')}, or mark more rows fitted = true")
    least = np.array([known[name][0] for name in costs], dtype=float)
    at = np.array([start.cost[name].cycles for name in costs], dtype=float)
    best, best_residuals = at, _residuals(rows, start, costs, at)
    for _ in range(_ROUNDS):
        residuals = _residuals(rows, start, costs, at)
        slopes = _slopes(rows, start, costs, at, residuals)
        _are_told(costs, slopes)
        change = _least_squares(slopes.T, residuals, least - at)
        at = np.maximum(np.round(at + change), least)
        found = _residuals(rows, start, costs, at)
        progress(float(found @ found))
        if found @ found < best_residuals @ best_residuals:
            best, best_residuals = at, found
    cycles = {name: int(value) for name, value in zip(costs, best, strict=True)}
    off = [float(value) for value in best_residuals]
    at_least = [name for name, cycle in cycles.items() if cycle == known[name][0]]
    mixed = _not_told_apart(costs, _slopes(rows, start, costs, best, best_residuals))
    return Fit(start.with_cycles(cycles), cycles, [row.name for row in rows], off, at_least, mixed)


def _slopes(
    rows: Sequence[Row], start: Profile, costs: Sequence[str], at: NDArray[np.float64], residuals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What each of the rows gets longer by with a cycle more of a cost, cost by cost."""
    steps = _STEP * np.eye(len(costs))
    return np.array([(_residuals(rows, start, costs, at + step) - residuals) / _STEP for step in steps])


def _least_squares(
    slopes: NDArray[np.float64], residuals: NDArray[np.float64], lowest: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What brings the residuals nearest to 0, none of it below the lowest.

    Where one would be, it is held there, and the others make up for it.
    """
    change, free = np.zeros(len(lowest)), np.ones(len(lowest), dtype=bool)
    while free.any():
        left = residuals + slopes[:, ~free] @ change[~free]
        change[free], *_ = np.linalg.lstsq(slopes[:, free], -left, rcond=None)
        below = free & (change < lowest)
        if not below.any():
            break
        change[below] = lowest[below]
        free &= ~below
    return change


def _are_costs(names: Sequence[str]) -> None:
    for name in names:
        if name not in cost_names():
            raise ProfileError(unknown_cost(name))


def _are_told(costs: Sequence[str], slopes: NDArray[np.float64]) -> None:
    for name, slope in zip(costs, slopes, strict=True):
        if np.abs(slope).max() < _LEAST_SLOPE:
            raise RowsError(f"no row changes when {name} does: it cannot be fitted to them")


def _not_told_apart(costs: Sequence[str], slopes: NDArray[np.float64]) -> list[list[str]]:
    """Groups of costs that can change together, and no row with them: the null space of the slopes."""
    lengths = np.linalg.norm(slopes, axis=1, keepdims=True)
    directions, shares, _ = np.linalg.svd(slopes / np.maximum(lengths, _LEAST_SLOPE))
    free = directions[:, shares < _LEAST_SHARE]
    together = np.abs(free @ free.T) > _LEAST_SHARE
    groups: list[set[int]] = []
    for row in together:
        group = set(np.flatnonzero(row).tolist())
        touched = [other for other in groups if other & group]
        groups = [other for other in groups if other not in touched] + [group.union(*touched)]
    return [[costs[at] for at in sorted(group)] for group in groups if len(group) > 1]


def _residuals(
    rows: Sequence[Row], start: Profile, costs: Sequence[str], at: NDArray[np.float64]
) -> NDArray[np.float64]:
    profile = start.with_cycles({name: round(value) for name, value in zip(costs, at, strict=True)})
    return np.array([predict(row, profile) - (row.measured or 0) for row in rows])
