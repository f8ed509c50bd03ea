"""Where the shell's answers go: results on stdout, diagnostics on stderr."""

import io
import json
import os
import sys
from pathlib import Path

from rich.console import Console, RenderableType

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


def is_terminal() -> bool:
    """Whether results go to a terminal."""
    return Console().is_terminal


def can_show(text: str) -> bool:
    """Whether stdout has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def complain(message: str) -> None:
    """Print one error, in a line or two, on stderr."""
    print(f"error: {message}", file=sys.stderr)  # noqa: T201


def remark(message: str) -> None:
    """Print what should be known about a result, on stderr."""
    print(f"note: {message}", file=sys.stderr)  # noqa: T201


def escape_what_cannot_be_shown() -> None:
    """A file name that is no text, or a terminal that knows ASCII only, must not end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def stand_in_for_closed_streams() -> None:
    """What a shell closed (`>&-`) is written to nowhere, and no file that is opened gets its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for good)
