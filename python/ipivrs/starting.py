"""Where `ipivrs` starts: Ctrl-C is one line from here on, also while modules are imported."""

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130
"""Exit code of what Ctrl-C ended."""


def start() -> None:
    """Run the command line of this process, and exit."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.default_int_handler:  # a shell's background jobs ignore it
        signal.signal(signal.SIGINT, _leave)
    from ipivrs.cli import app  # noqa: PLC0415 (takes longer than most commands)

    signal.signal(signal.SIGINT, before)
    try:
        app(prog_name="ipivrs")
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)  # noqa: T201 (as terminal.py does)
        sys.exit(INTERRUPTED)


def _leave(_: int, __: FrameType | None) -> None:
    """End at once: an import can swallow an exception, or make another of it, and nothing is open yet."""
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPTED)
