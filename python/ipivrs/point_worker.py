"""A worker process: descriptions of points come in on stdin and rows go out on stdout, a line of JSON each."""

import json
import os
import signal
import sys
from queue import SimpleQueue
from threading import Thread

from ipivrs.rows import run_point


def work() -> None:
    """Run points until stdin ends; then end at once, because who asked is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # Whatever else prints goes to stderr.
    os.dup2(2, 1)
    asked: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(asked,), daemon=True).start()
    answers.write(b"ready\n")
    answers.flush()
    while True:
        row = run_point(json.loads(asked.get()))
        answers.write(json.dumps(row).encode() + b"\n")
        answers.flush()


def _listen(asked: "SimpleQueue[bytes]") -> None:
    for line in sys.stdin.buffer:
        asked.put(line)
    os._exit(0)
