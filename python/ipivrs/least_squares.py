"""Least squares over whole numbers within bounds, of residuals that go up in steps.

Slopes over a long step lead near the least sum of squares, and from there a search that needs no slopes to it.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
"""One for each of the unknowns, or for each of the residuals."""

_ROUNDS = 12
# Waiting loops look now and then: what is measured goes up in steps, over which this one is long.
_STEP = 400
# The search tries these, the long ones first; the steps of what is measured are shorter than the longest.
_TRIED = (64, 32, 16, 8, 4, 2, 1)
# Each finds something better: it ends by itself, and long before.
_MOST_MOVES = 1000
# Sums of squares that differ by less are one: what the order of additions makes of it.
_DIGITS = 6


class LeastSquares:
    """Residuals as a function of some unknowns, and what makes the sum of their squares least.

    Nothing is computed twice.
    """

    def __init__(self, residuals: Callable[[list[int]], Sequence[float]], least: Sequence[int], most: int) -> None:
        """Make it of the function, the least that each unknown can be, and the most that all of them can be."""
        self._function = residuals
        self._least = np.array(least, dtype=float)
        self._most = np.full(len(least), most, dtype=float)
        self._known: dict[tuple[int, ...], Numbers] = {}

    def residuals(self, at: Numbers) -> Numbers:
        """What the function gives there."""
        key = tuple(int(value) for value in at)
        if key not in self._known:
            self._known[key] = np.array(self._function(list(key)), dtype=float)
        return self._known[key]

    def squares(self, at: Numbers) -> float:
        """Their sum of squares."""
        return _squares(self.residuals(at))

    def slopes(self, at: Numbers) -> Numbers:
        """What each residual gets more by with one more of an unknown: a row for each unknown."""
        steps = np.diag(np.where(at + _STEP > self._most, -_STEP, _STEP))
        return np.array([(self.residuals(at + step) - self.residuals(at)) / step.sum() for step in steps])

    def solve(self, start: Numbers, look: Callable[[Numbers, float], None]) -> Numbers:
        """Where the sum of squares is least; of several such places the nearest to the start that is found.

        The slopes are followed as long as that makes the sum less; `look` is called with them and the sum before each
        step. Then the search goes on until nothing near is better.
        """
        best = start
        for _ in range(_ROUNDS):
            slopes = self.slopes(best)
            look(slopes, self.squares(best))
            moved = self._within(best + self._change(best, slopes, self.residuals(best)))
            if self.squares(moved) >= self.squares(best):
                break
            best = moved
        # What the slopes would take beyond a bound stays there, if nothing else is better.
        goal = np.where((best == self._least) | (best == self._most), best, start)
        for _ in range(_MOST_MOVES):
            rank = self._rank(best, goal)
            better = (near for near in self._near(best, slopes) if self._rank(near, goal) < rank)
            if (found := next(better, None)) is None:
                break
            best = found
        return best

    def as_good(self, at: Numbers) -> list[tuple[int, int]]:
        """The least and the most of each unknown, of all that were tried and have the sum of squares of this place."""
        squares = self.squares(at)
        equal = [key for key, residuals in self._known.items() if _squares(residuals) == squares]
        return [(min(values), max(values)) for values in zip(*equal, strict=True)]

    def _rank(self, at: Numbers, goal: Numbers) -> tuple[float, float]:
        """The less the better: the sum of squares, and then how far it is from the goal."""
        return self.squares(at), float((at - goal) @ (at - goal))

    def _near(self, at: Numbers, slopes: Numbers) -> Iterator[Numbers]:
        """Each of the unknowns a little more or less, alone, and with the others making up for it."""
        for step in _TRIED:
            for number in range(len(at)):
                others = np.arange(len(at)) != number
                for one in (step, -step):
                    near = at.copy()
                    near[number] += one
                    near = self._within(near)
                    yield near
                    change = self._change(near, slopes, self.residuals(near), others)
                    yield self._within(near + change)

    def _within(self, at: Numbers) -> Numbers:
        return np.clip(np.round(at), self._least, self._most)

    def _change(
        self, at: Numbers, slopes: Numbers, residuals: Numbers, free: NDArray[np.bool_] | None = None
    ) -> Numbers:
        """What brings the residuals nearest to 0, within the bounds.

        Where an unknown would be beyond one, it is held there, and the others make up for it.
        """
        change = np.zeros(len(at))
        free = np.ones(len(at), dtype=bool) if free is None else free.copy()
        while free.any():
            left = residuals + change[~free] @ slopes[~free]
            change[free], *_ = np.linalg.lstsq(slopes[free].T, -left, rcond=None)
            low, high = self._least - at, self._most - at
            beyond = free & ((change < low) | (change > high))
            if not beyond.any():
                break
            change[beyond] = np.clip(change, low, high)[beyond]
            free &= ~beyond
        return change


def _squares(residuals: Numbers) -> float:
    return round(float(residuals @ residuals), _DIGITS)
