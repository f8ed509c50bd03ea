"""Ctrl-C and SIGTERM as a question to ask, so that nothing is left half done."""

import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from types import FrameType, TracebackType
from typing import Any, TypeVar

_Given = TypeVar("_Given")

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


def interruptible(work: Callable[[], _Given]) -> _Given:
    """What `work` gives, though it asks for no signal: it has a thread of its own, and the process may end before it.

    Raises:
        KeyboardInterrupt: Ctrl-C, at once; `work` goes on.
    """
    given: Future[_Given] = Future()

    def run() -> None:
        try:
            given.set_result(work())
        except BaseException as error:
            given.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return given.result()
