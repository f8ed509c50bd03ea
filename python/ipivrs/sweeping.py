"""`sweep`: every point of a grid, one row each, in one file that a crash does not harm."""

import os
import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from ipivrs import notebook
from ipivrs.frames import Column, Tabular
from ipivrs.grid import Grid, SweepError, find_grid
from ipivrs.grid_points import Plan
from ipivrs.journal import Journal, journal_path
from ipivrs.names import Engine
from ipivrs.options import whole_number
from ipivrs.row_checks import checked_rows
from ipivrs.rows import POINT, Row, columns_of, failed, filled
from ipivrs.stopping import Stop
from ipivrs.tables import check_name, in_the_way, read_table, write_table
from ipivrs.wording import noun
from ipivrs.workers import LocalWorkers, Outcome, Workers

Progress = Callable[[int, int], None]
"""Called with how many points are done, and how many there are."""

MOST_WORKERS = 4096

_TRIES = 3
_SECONDS_BETWEEN_LOOKS = 0.2
_SECONDS_BETWEEN_WRITES = 2
_LAST_WRITES_BETWEEN_WRITES = 20


class SweepResult(Tabular):
    """What came of a sweep; `as_dict` is the JSON that `ipivrs sweep --json` prints.

    Attributes:
        title: The grid's.
        out: The results file.
        rows: A row for each point that is done, in the grid's order, all with the same columns.
        points: How many points the grid has.
        ran: How many of them were run now; the others were there from before.
        seconds: How long that took.
        stopped_by: The signal that ended the sweep early, or None.
    """

    def __init__(
        self,
        title: str,
        out: Path,
        rows: list[Row],
        *,
        points: int,
        ran: int,
        seconds: float,
        stopped_by: int | None,
    ) -> None:
        """Made by `ipivrs.sweep`, not by hand."""
        self.title = title
        self.out = out
        self.rows = rows
        self.points = points
        self.ran = ran
        self.seconds = seconds
        self.stopped_by = stopped_by

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns: the fields that vary, then the results."""
        return columns_of(self.rows)

    @property
    def partial(self) -> bool:
        """A signal ended it before all points were done; the same call again goes on from there."""
        return len(self.rows) < self.points

    @property
    def errors(self) -> list[Row]:
        """The rows of points that have no result; `error` says why."""
        return [row for row in self.rows if row["error"] is not None]

    @property
    def violations(self) -> list[Row]:
        """The rows of points at which something happened that must never happen."""
        return [row for row in self.rows if row.get("violations")]

    def as_dict(self) -> dict[str, Any]:
        """The whole result in plain types, ready for `json.dumps`."""
        return {
            "title": self.title,
            "out": str(self.out),
            "points": self.points,
            "done": len(self.rows),
            "ran": self.ran,
            "errors": len(self.errors),
            "violations": len(self.violations),
            "partial": self.partial,
            "seconds": self.seconds,
            "rows": self.rows,
        }

    def _columns(self) -> dict[str, Column]:
        return {name: [row[name] for row in self.rows] for name in self.columns}

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return notebook.sweep(self)

    def __repr__(self) -> str:
        """One line: how much of it is done."""
        return (
            f"<SweepResult {self.out}: {len(self.rows)} of {self.points} points, "
            f"{len(self.errors)} {noun(len(self.errors), 'error')}, {len(self.violations)} with violations>"
        )


def sweep(
    grid: "Grid | str | os.PathLike[str]",
    *,
    out: "str | os.PathLike[str] | None" = None,
    workers: int | None = None,
    dask: str | None = None,
    engine: Engine | None = None,
    profile: str | None = None,
    restart: bool = False,
    progress: Progress | None = None,
) -> SweepResult:
    """Run a scenario at every point of a grid, and write a row for each into one file.

    Rows are on the disk as they come in: after a crash, or Ctrl-C, the same call runs what is left. No point is run
    twice, and none is left out. The results file is there from the first rows on, and may be read meanwhile.

    Args:
        grid: A TOML file, the name of a shipped grid, or an `ipivrs.Grid`.
        out: The results file, `.csv` or `.parquet`; by default the grid's name with `.csv`, in the current directory.
        workers: How many processes run points, 1 to 4096; by default one for each CPU.
        dask: Address of a dask scheduler whose workers run the points instead; without `workers`.
        engine: What runs each scenario; by default what the grid says, or virtual-time.
        profile: Virtual time's profile of costs; by default what the grid says, which `engine="threads"` does without.
        restart: Begin anew although there are results from before.
        progress: Called with the number of points that are done and the number of all, as rows come in.

    Returns:
        All rows. Ctrl-C and SIGTERM end a sweep with a partial result.

    Raises:
        SweepError: The grid has a mistake (file, line, field, and what is allowed), or the results file, or `workers`
            is out of its range, or there are none.
    """
    plan = Plan(find_grid(grid), engine, profile)
    path = Path(f"{plan.stem}.csv" if out is None else out)
    check_name(path)
    if workers is not None:
        whole_number("workers", workers, 1, MOST_WORKERS, SweepError)
    if workers is not None and dask is not None:
        raise SweepError.naming(
            lambda named: (
                f"{named('workers')} is about processes of this machine: "
                f"give either {named('workers')} or {named('dask')}, not both"
            )
        )
    journal = Journal(journal_path(path), restart=restart)
    try:
        return _Sweep(plan, path, journal).run(workers, dask, progress or _silently)
    finally:
        if not journal.rows and not journal.restarted:
            journal.remove()
        journal.close()


def _silently(_: int, __: int) -> None:
    """No progress is shown."""


class _Sweep:
    """A sweep that is going on: what is left to do, and how often a worker died of each point."""

    def __init__(self, plan: Plan, out: Path, journal: Journal) -> None:
        self._plan = plan
        self._out = out
        self._journal = journal
        self._unwritten = bool(journal.rows)
        self._next_write = 0.0
        self._deaths: dict[str, int] = {}
        self._points = {point.key: point for point in plan.points}
        self._refuse_strange(journal.path, list(journal.rows))
        self._before = {} if journal.restarted else self._read()
        self._left = deque(point for point in plan.points if point.key not in self._done())
        self._again: deque[dict[str, Any]] = deque()

    def _done(self) -> dict[str, Row]:
        """All rows that are there; those of the results file lose their types in CSV, so the journal's come first."""
        return {**self._before, **self._journal.rows}

    def _read(self) -> dict[str, Row]:
        """What the results file has from before."""
        rows = read_table(self._out, self._plan.columns)
        self._refuse_strange(self._out, [row[POINT] for row in rows.values() if row[POINT] is not None])
        return {row[POINT]: row for row in checked_rows(self._out, rows, self._plan)}

    def _refuse_strange(self, path: Path, points: list[str]) -> None:
        if strange := sum(point not in self._points for point in points):
            raise in_the_way(
                f"{path}: {strange} of its {len(points)} points are not of this grid as it is now "
                "(values, scenario, policy, engine and the version of ipivrs count):\n",
                "begin anew",
            )

    def run(self, workers: int | None, dask: str | None, progress: Progress) -> SweepResult:
        before, begun = len(self._done()), time.monotonic()
        progress(before, len(self._plan.points))
        with Stop() as stop:
            if self._left:
                self._run_all(workers, dask, progress, stop)
            rows = self._write()
        if self._journal.rows and len(rows) == len(self._plan.points):
            self._journal.remove()
        ran = len(rows) - before
        seconds = time.monotonic() - begun
        return SweepResult(
            self._plan.title,
            self._out,
            rows,
            points=len(self._plan.points),
            ran=ran,
            seconds=seconds,
            stopped_by=stop.signal,
        )

    def _run_all(self, workers: int | None, dask: str | None, progress: Progress, stop: Stop) -> None:
        pool = _pool(workers, dask)
        try:
            while stop.signal is None and (self._left or self._again or pool.busy):
                for _ in range(min(pool.room, len(self._left) + len(self._again))):
                    pool.submit(self._next())
                rows = [row for outcome in pool.finished(_SECONDS_BETWEEN_LOOKS) if (row := self._row(outcome))]
                if rows:
                    self._journal.append(rows)
                    self._unwritten = True
                    progress(len(self._done()), len(self._plan.points))
                if self._unwritten and time.monotonic() >= self._next_write:
                    self._write()
        except SweepError:
            self._write()
            raise
        finally:
            pool.close()

    def _next(self) -> dict[str, Any]:
        return self._again.popleft() if self._again else self._plan.description(self._left.popleft())

    def _row(self, outcome: Outcome) -> Row | None:
        """The row of a point that is done; a point that its worker died of is begun again, but not for ever."""
        if outcome.row is not None:
            return outcome.row
        key = outcome.description[POINT]
        self._deaths[key] = self._deaths.get(key, 0) + outcome.blamed
        if self._deaths[key] == _TRIES:
            return failed(outcome.description, f"given up after {_TRIES} tries: {outcome.why}")
        self._again.append(outcome.description)
        return None

    def _write(self) -> list[Row]:
        """Put what is done into the results file, in the grid's order.

        The next time is far enough away that writing takes a small part of the sweep's time, however long the file is.
        """
        begun = time.monotonic()
        done = self._done()
        rows = filled([done[point.key] for point in self._plan.points if point.key in done])
        if self._unwritten:
            write_table(self._out, rows)
            self._unwritten = False
        now = time.monotonic()
        self._next_write = now + max(_SECONDS_BETWEEN_WRITES, _LAST_WRITES_BETWEEN_WRITES * (now - begun))
        return rows


def _pool(workers: int | None, dask: str | None) -> Workers:
    if dask is None:
        return LocalWorkers(workers or _cpus())
    from ipivrs.dask_workers import DaskWorkers  # noqa: PLC0415 (asyncio, a tenth of what a command takes to begin)

    return DaskWorkers(dask)


def _cpus() -> int:
    return len(os.sched_getaffinity(0))
