"""What runs points: the face that all kinds of workers have, and processes of this machine."""

import json
import os
import selectors
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from ipivrs.grid import SweepError
from ipivrs.rows import Row

_PREFETCHED = 2
_QUICK = 0.05
_MOST_FALSE_STARTS = 3
_CHUNK = 2**16
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from ipivrs.point_worker import work; work()"

Description = dict[str, Any]
"""A point as `ipivrs.rows.run_point` takes it."""


@dataclass(frozen=True)
class Outcome:
    """What came of a point: its row, or why there is none; `blamed` if it was running when its worker ended."""

    description: Description
    row: Row | None = None
    why: str = ""
    blamed: bool = True


class Workers(Protocol):
    """Runs points somewhere else, and gives back each of them once."""

    @property
    def room(self) -> int:
        """How many more points it takes now, so that no worker waits for its next one."""

    @property
    def busy(self) -> bool:
        """Whether it has points that it did not give back."""

    def submit(self, description: Description) -> None:
        """Begin a point, or put it in line."""

    def finished(self, seconds: float) -> Sequence[Outcome]:
        """What came back, waiting at most so long for the first.

        Raises:
            SweepError: There will be no more.
        """

    def close(self) -> None:
        """End everything at once; points that are not given back are lost."""


@dataclass
class _Worker:
    """A process and its points: the first is running, the others are in its pipe."""

    process: "subprocess.Popen[bytes]"
    points: deque[Description] = field(default_factory=deque)
    ready: bool = False
    unread: bytes = b""
    since: float = 0

    def lines(self) -> list[bytes] | None:
        """What it has said since, in whole lines; None if it has ended."""
        assert self.process.stdout is not None  # noqa: S101 (it was started with a pipe)
        text = os.read(self.process.stdout.fileno(), _CHUNK)
        if not text:
            return None
        *lines, self.unread = (self.unread + text).split(b"\n")
        return lines


class LocalWorkers:
    """Processes of this machine, in a session of their own: Ctrl-C is not for them.

    Not `concurrent.futures`: when one of its workers dies, its points all fail alike, and which one was at fault is
    not known; it has no public way to end a point that is running; and it runs the caller's main module again.
    """

    def __init__(self, count: int) -> None:
        """Have up to so many processes; each is started when there is work for it."""
        self._count = count
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._false_starts = 0
        self._quick = False

    @property
    def room(self) -> int:
        """Points for workers that are idle; quick ones for workers that have no next one, too."""
        return self._count * (_PREFETCHED if self._quick else 1) - sum(len(worker.points) for worker in self._workers)

    @property
    def busy(self) -> bool:
        """Whether a worker has points."""
        return any(worker.points for worker in self._workers)

    def submit(self, description: Description) -> None:
        """Give a point to the worker that has the fewest."""
        worker = min(self._workers, key=lambda each: len(each.points), default=None)
        if worker is None or (worker.points and len(self._workers) < self._count):
            worker = self._start()
        if not worker.points:
            worker.since = time.monotonic()
        worker.points.append(description)
        # If it has ended, `finished` will meet its end.
        with suppress(BrokenPipeError):
            assert worker.process.stdin is not None  # noqa: S101 (it was started with a pipe)
            worker.process.stdin.write(json.dumps(description).encode() + b"\n")
            worker.process.stdin.flush()

    def _start(self) -> _Worker:
        command = [sys.executable, "-c", _PROGRAM, json.dumps(sys.path)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True)  # noqa: S603 (our own)
        worker = _Worker(process)
        self._workers.append(worker)
        self._selector.register(process.stdout or 0, selectors.EVENT_READ, worker)
        return worker

    def finished(self, seconds: float) -> list[Outcome]:
        """Rows that arrived, and the points of workers that ended."""
        outcomes: list[Outcome] = []
        for key, _ in self._selector.select(seconds):
            worker: _Worker = key.data
            lines = worker.lines()
            if lines is None:
                outcomes += self._ended(worker)
                continue
            if not worker.ready and lines:
                # The first line says that it is there.
                lines.pop(0)
                worker.ready, self._false_starts = True, 0
            for line in lines:
                outcomes.append(Outcome(worker.points.popleft(), json.loads(line)))
                now = time.monotonic()
                # What waits behind a slow point could be run by another worker.
                self._quick = now - worker.since < _QUICK
                worker.since = now
        return outcomes

    def _ended(self, worker: _Worker) -> list[Outcome]:
        self._workers.remove(worker)
        self._selector.unregister(worker.process.stdout or 0)
        code = _end(worker)
        why = (
            f"its worker process ended with exit code {code}"
            if code >= 0
            else f"signal {-code} ended its worker process"
        )
        if not worker.ready:
            self._false_starts += 1
            if self._false_starts == _MOST_FALSE_STARTS:
                raise SweepError(f"worker processes do not start: {why.removeprefix('its ')}")
        return [
            Outcome(description, why=why, blamed=worker.ready and at == 0)
            for at, description in enumerate(worker.points)
        ]

    def close(self) -> None:
        """Kill the processes."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            _end(worker)
        self._workers.clear()
        self._selector.close()


def _end(worker: _Worker) -> int:
    # A description that it did not read may be left in the pipe.
    with suppress(BrokenPipeError), worker.process:
        pass
    return worker.process.wait()
