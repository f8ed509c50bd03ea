"""Least squares of residuals that go up in steps."""

from collections.abc import Sequence

import numpy as np
import pytest

from ipivrs.least_squares import LeastSquares

MOST = 10_000


def unseen(_slopes: object, _squares: float) -> None:
    """What nobody looks at."""


def solve(problem: LeastSquares, *start: int) -> list[int]:
    return [int(value) for value in problem.solve(np.array(start, dtype=float), unseen)]


def stairs(at: Sequence[int]) -> list[float]:
    """The first unknown goes up in steps of 40 in all rows; the others are in one of them each."""
    step = 40 * (at[0] // 40)
    return [step - 1014, step + at[1] - 1300, step + at[2] - 1500]


@pytest.mark.parametrize("start", [(1000, 286, 486), (1, 1, 1), (960, 340, 540), (5000, 3, 4000), (MOST, MOST, MOST)])
def test_steps_do_not_stop_it(start: tuple[int, ...]) -> None:
    problem = LeastSquares(stairs, [0, 0, 0], MOST)
    first, second, third = solve(problem, *start)
    assert (first // 40, second, third) == (25, 300, 500)


def test_of_equals_the_nearest_to_the_start_is_taken() -> None:
    for start, nearest in ((900, 1000), (1020, 1020), (1300, 1039)):
        problem = LeastSquares(stairs, [0, 0, 0], MOST)
        found = solve(problem, start, 300, 500)
        assert found == [nearest, 300, 500]
        least, most = problem.as_good(np.array(found, dtype=float))[0]
        assert 1000 <= least <= nearest <= most < 1040
        assert least < most


def test_bounds_hold_and_the_others_make_up_for_them() -> None:
    def rows(at: Sequence[int]) -> list[float]:
        assert all(3 <= one <= MOST for one in at)
        return [at[0] + 50, at[0] + at[1] - 900, at[2] - 2 * MOST]

    assert solve(LeastSquares(rows, [3, 3, 3], MOST), 500, 500, 500) == [3, 897, MOST]


def test_what_is_led_to_a_bound_stays_there_though_others_are_as_good() -> None:
    assert solve(LeastSquares(lambda at: [40.0 * (at[0] // 40) + 900], [1], MOST), 3000) == [1]
    assert solve(LeastSquares(lambda at: [40.0 * (at[0] // 40) - 2 * MOST], [1], MOST + 7), 3000) == [MOST + 7]


def test_a_slope_at_the_most_that_can_be_is_taken_downwards() -> None:
    def rows(at: Sequence[int]) -> list[float]:
        assert at[0] <= MOST
        return [2.0 * at[0]]

    problem = LeastSquares(rows, [0], MOST)
    assert problem.slopes(np.array([float(MOST)])).tolist() == [[2.0]]


def test_nothing_is_computed_twice() -> None:
    seen: list[tuple[int, ...]] = []

    def rows(at: Sequence[int]) -> list[float]:
        seen.append(tuple(at))
        return stairs(at)

    solve(LeastSquares(rows, [0, 0, 0], MOST), 1, 1, 1)
    assert len(seen) == len(set(seen))
