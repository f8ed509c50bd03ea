"""Fitting a profile to measurements: least squares over named costs, with virtual time as the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from ipivrs.least_squares import LeastSquares, Numbers
from ipivrs.profiles import MOST_CYCLES, Cost, Profile, ProfileError, cost_names, unknown_cost
from ipivrs.published import Measurements, Row, RowsError, predict
from ipivrs.wording import difference

# What comes once in a run, and not in each of its rounds, changes a row by less.
_LEAST_SLOPE = 0.01
# The steps make slopes inexact by a tenth: what is nearer to 0 than that may be 0.
_LEAST_SHARE = 0.1


@dataclass(frozen=True)
class Fit:
    """What came of a fit.

    `profile` has the fitted costs, and says in their `source` what they were fitted to; all other costs are as at the
    start. `cycles` are the fitted costs alone; `residuals` what each of the rows named in `rows` is off by, in cycles
    (predicted less measured). `at_least` and `at_most` name the costs that are as low, or as high, as they can be:
    others took their part. The rows tell only what the costs in a group of `not_told_apart` come to together: how it
    is divided follows from the start. `as_good` has the other costs that may be something else with the same sum of
    squared residuals: from the least to the most of what was tried, which depends on the start and need not be all.
    Taken is what of it is nearest to the start.
    """

    profile: Profile
    cycles: dict[str, int]
    rows: list[str]
    residuals: list[float]
    at_least: list[str]
    at_most: list[str]
    not_told_apart: list[list[str]]
    as_good: dict[str, tuple[int, int]]

    @property
    def fixed(self) -> dict[str, int]:
        """The costs that were not fitted, in cycles."""
        return {name: self.profile.cost[name].cycles for name in cost_names() if name not in self.cycles}

    @property
    def sum_of_squares(self) -> float:
        """Of the residuals, in cycles squared."""
        return sum(off * off for off in self.residuals)


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
        progress: Called with the sum of squared residuals before each step along the slopes.

    Raises:
        ProfileError: No such cost.
        RowsError: No rows to fit to, more costs than rows, a cost that no row depends on, or a row's scenario that
            cannot be run.
        KeyboardInterrupt: Ctrl-C.
    """
    known = cost_names()
    _are_costs(costs)
    rows = [row for row in measurements.row if row.fitted and row.quantity == "cycles" and row.measured is not None]
    if not rows:
        raise RowsError("no row is marked fitted = true and has a measured quantity in cycles: none to fit to")
    if not costs or len(costs) > len(rows):
        few = f"{_how_many(len(rows))} in cycles, not {len(costs)}"
        raise RowsError.naming(lambda named: f"{few}: give other {named('costs')}, or mark more rows fitted = true")
    names = list(costs)
    least = [known[name][0] for name in names]
    model = LeastSquares(lambda at: _residuals(rows, start, names, at), least, MOST_CYCLES)

    def look(slopes: Numbers, squares: float) -> None:
        _are_told(names, slopes)
        progress(squares)

    best = model.solve(np.array([start.cost[name].cycles for name in names], dtype=float), look)
    cycles = {name: int(value) for name, value in zip(names, best, strict=True)}
    residuals = [float(off) for off in model.residuals(best)]
    mixed = _not_told_apart(names, model.slopes(best))
    as_good = dict(zip(names, model.as_good(best), strict=True))
    return Fit(
        profile=_fitted(measurements, start, cycles, list(zip(rows, residuals, strict=True))),
        cycles=cycles,
        rows=[row.name for row in rows],
        residuals=residuals,
        at_least=[name for name, cycle in cycles.items() if cycle == known[name][0]],
        at_most=[name for name, cycle in cycles.items() if cycle == MOST_CYCLES],
        not_told_apart=mixed,
        as_good={name: ends for name, ends in as_good.items() if ends[0] < ends[1] and name not in chain(*mixed)},
    )


def _fitted(
    measurements: Measurements, start: Profile, cycles: dict[str, int], off: Sequence[tuple[Row, float]]
) -> Profile:
    """The start with the fitted costs, which say what they come from."""
    rows = "; ".join(f"{row.name} ({difference(residual, 1)})" for row, residual in off)
    begun = start.title or "a profile without a title"
    fitted = (
        f"Fitted by `ipivrs profile fit` to {measurements.title} ({measurements.source}), "
        f"rows with what each is off by in cycles: {rows}."
    )
    costs = {
        name: Cost(cycles=value, source=f"{fitted} From {start.cost[name].cycles} in: {begun}", fitted=True)
        for name, value in cycles.items()
    }
    return start.model_copy(update={"title": f"Fitted to {measurements.title}", "cost": start.cost | costs})


def _how_many(rows: int) -> str:
    """How many costs can be fitted to so many rows."""
    return "1 cost can be fitted to 1 row" if rows == 1 else f"1 to {rows} costs can be fitted to {rows} rows"


def _are_costs(names: Sequence[str]) -> None:
    for name in names:
        if name not in cost_names():
            raise ProfileError(unknown_cost(name))


def _are_told(costs: Sequence[str], slopes: Numbers) -> None:
    for name, slope in zip(costs, slopes, strict=True):
        if np.abs(slope).max() < _LEAST_SLOPE:
            raise RowsError(f"no row changes when {name} does: it cannot be fitted to them")


def _not_told_apart(costs: Sequence[str], slopes: Numbers) -> list[list[str]]:
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


def _residuals(rows: Sequence[Row], start: Profile, costs: Sequence[str], at: Sequence[int]) -> list[float]:
    profile = start.with_cycles(dict(zip(costs, at, strict=True)))
    return [predict(row, profile) - (row.measured or 0) for row in rows]
