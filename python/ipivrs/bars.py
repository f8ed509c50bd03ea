"""Progress on stderr, if that is a terminal: what takes over a second says how far it is."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

_AT_ONCE = 0.8
"""Seconds that pass without a bar: what is over by then needs none."""

_UNITS = {"bytes": (1e6, "MB"), "milliseconds": (1e3, "s"), "cycles": (1e6, "Mcycles")}
_DOING = {
    "bytes": "reading",
    "IPIs": "emulating",
    "milliseconds": "running",
    "cycles": "simulating",
    "states": "exploring",
}


class Steps:
    """A bar over several parts: called with a name as each begins, and `tell` with how far the part is."""

    def __init__(self, bar: Progress | None, total: int) -> None:
        """A bar of `total` parts, or nothing at all."""
        self._bar = bar
        self._task = None if bar is None else bar.add_task("", total=total)
        self._begun = False
        self._name = ""

    def __call__(self, name: str) -> None:
        """A part begins."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=name, advance=int(self._begun))
        self._begun, self._name = True, name

    def tell(self, what: str, done: int, _total: int) -> None:
        """How far the part is."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=f"{self._name}, {_amount(what, done)}")


def _screen() -> Console | None:
    """Where bars go; not where stderr is a file that is only told to look like a terminal (FORCE_COLOR)."""
    console = Console(stderr=True)
    return console if console.is_terminal and sys.stderr.isatty() else None


@contextmanager
def steps(total: int) -> Iterator[Steps]:
    """A bar over `total` parts."""
    console = _screen()
    if console is None:
        yield Steps(None, total)
        return
    # The names have what room the numbers leave.
    names = _description(Column(ratio=1, no_wrap=True, overflow="ellipsis"))
    columns = (BarColumn(10), MofNCompleteColumn(), TimeElapsedColumn(), *_left(), names)
    with Progress(*columns, console=console, transient=True, expand=True) as bar:
        yield Steps(bar, total)


@contextmanager
def meter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar; what it gives is called with how many are done, of how many."""
    console = _screen()
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(what), *_left())
    with Progress(*columns, console=console, transient=True, disable=console is None) as bar:
        task: TaskID | None = None

        def show_progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                # What was done before says nothing about the rate.
                task = bar.add_task("", total=total, completed=done)
            bar.update(task, completed=done)

        yield show_progress


@contextmanager
def watching() -> Iterator[Callable[[str, int, int], None] | None]:
    """What a long call of the core is to tell its progress; None where nobody would see it."""
    console = _screen()
    if console is None:
        yield None
        return
    watcher = _Watcher(console)
    try:
        yield watcher
    finally:
        watcher.end()


class _Watcher:
    """A bar that comes when a call takes its time, and is made anew when something else is counted."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begin = time.monotonic()
        self._what = ""
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def __call__(self, what: str, done: int, total: int) -> None:
        if time.monotonic() - self._begin < _AT_ONCE:
            return
        divisor, unit = _UNITS.get(what, (1, what))
        if self._bar is None or what != self._what:
            self.end()
            self._what = what
            self._bar = self._new_bar(unit, total)
            # What came before the bar says nothing about the rate.
            whole = total / divisor if total else None
            self._task = self._bar.add_task(_DOING.get(what, what), total=whole, completed=int(done / divisor))
        self._bar.update(self._task, completed=done / divisor)

    def _new_bar(self, unit: str, total: int) -> Progress:
        known = (BarColumn(20), _Share(), _Rate(unit), *_left())
        unknown = (BarColumn(20), _Done(unit), _Rate(unit), TimeElapsedColumn())
        columns: tuple[ProgressColumn, ...] = (_description(), *(known if total else unknown))
        bar = Progress(*columns, console=self._console, transient=True)
        bar.start()
        return bar

    def end(self) -> None:
        """The bar goes."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _description(column: Column | None = None) -> TextColumn:
    return TextColumn("{task.description}", markup=False, table_column=column)


def _left() -> tuple[ProgressColumn, ...]:
    return TextColumn("left:"), TimeRemainingColumn()


def _amount(what: str, done: float) -> str:
    divisor, unit = _UNITS.get(what, (1, what))
    return f"{done / divisor:,.0f} {unit}"


class _Rate(TextColumn):
    """How many a second."""

    def __init__(self, what: str) -> None:
        super().__init__("")
        self._what = what

    def render(self, task: Task) -> Text:
        """The rate of the last seconds."""
        if task.speed is None:
            return Text()
        digits = 1 if task.speed < 10_000 else 0  # noqa: PLR2004 (a rate of four digits has no use for a fraction)
        return Text(f"{task.speed:,.{digits}f} {self._what}/s")


class _Share(TextColumn):
    """How much of the whole."""

    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: Task) -> Text:
        """In percent."""
        return Text(f"{task.percentage:3.0f} %")


class _Done(TextColumn):
    """How many."""

    def __init__(self, what: str) -> None:
        super().__init__("")
        self._what = what

    def render(self, task: Task) -> Text:
        """So far."""
        return Text(f"{task.completed:,.0f} {self._what}")
