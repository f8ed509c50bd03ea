"""Where the shell's answers go: results on stdout, diagnostics on stderr."""

import io
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

_UNLIMITED = 100_000
_WIDTH_OF_A_PIPE = 120


def show(*parts: RenderableType) -> None:
    """Print a report: coloured and folded to the width of a terminal, or plain, unfolded lines in a pipe."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal:
        console.print(*parts, sep="\n")
        return
    console.width = _UNLIMITED
    with console.capture() as captured:
        console.print(*parts, sep="\n", crop=False)
    for line in captured.get().splitlines():
        print(line.rstrip())  # noqa: T201


def show_json(value: object) -> None:
    """Print a result as JSON."""
    print(json.dumps(value, indent=2))  # noqa: T201


def width() -> int:
    """Columns for what is drawn side by side: those of the terminal, or a page's in a pipe."""
    console = Console()
    return console.width if console.is_terminal else _WIDTH_OF_A_PIPE


@contextmanager
def progress(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr, if that is a terminal; what it gives is called with a name as each of `total` parts begins."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        begun = False

        def begin(name: str) -> None:
            nonlocal begun
            bar.update(task, description=name, advance=int(begun))
            begun = True

        yield begin


@contextmanager
def meter(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, if that is a terminal; what it gives is called with how many are done, of how many."""
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), _Rate(what), TextColumn("left:"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task: TaskID | None = None

        def show_progress(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                # What was done before says nothing about the rate.
                task = bar.add_task("", total=total, completed=done)
            bar.update(task, completed=done)

        yield show_progress


class _Rate(TextColumn):
    """How many a second."""

    def __init__(self, what: str) -> None:
        super().__init__("")
        self._what = what

    def render(self, task: Task) -> Text:
        """The rate of the last seconds."""
        return Text("" if task.speed is None else f"{task.speed:.1f} {self._what}/s")


def complain(message: str) -> None:
    """Print one error, in a line or two, on stderr."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201


def escape_what_cannot_be_shown() -> None:
    """A file name that is no text, or a terminal that knows ASCII only, must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
