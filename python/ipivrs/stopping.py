"""Ctrl-C and SIGTERM as a question to ask, so that nothing is left half done."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Within it these signals are only noted. Signals are the main thread's: in another one nothing changes.

    Attributes:
        signal: The first that came, or None.
    """

    def __init__(self) -> None:
        """Nothing has come."""
        self.signal: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        """Take the signals."""
        if threading.current_thread() is threading.main_thread():
            self._before = {each: signal.signal(each, self._note) for each in _SIGNALS}
        return self

    def _note(self, number: int, _: FrameType | None) -> None:
        self.signal = self.signal or number

    def __exit__(self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None) -> None:
        """Give the signals back."""
        for each, handler in self._before.items():
            signal.signal(each, handler)
