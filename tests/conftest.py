"""The shell's face for the tests: run in this process, or in one of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import IO

import hypothesis
import pytest
from typer.testing import CliRunner, Result

from ipivrs.cli import app

Shell = Callable[..., Result]
Completed = subprocess.CompletedProcess[str]
Process = Callable[..., Completed]

# How long one example takes says more about the machine than about the code.
hypothesis.settings.register_profile("ipivrs", deadline=None)
hypothesis.settings.load_profile("ipivrs")


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the developer's terminal is like, reports look the same."""
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def shell() -> Shell:
    """Run an `ipivrs` command line in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="ipivrs")

    return run


@pytest.fixture
def process() -> Process:
    """Run an `ipivrs` command line in a process of its own: real exit codes, real streams."""

    def run(*arguments: object, stdout: int | IO[bytes] = subprocess.PIPE, **environment: str) -> Completed:
        command = [sys.executable, "-m", "ipivrs", *map(str, arguments)]
        env = os.environ | environment
        return subprocess.run(
            command, check=False, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120, env=env
        )

    return run
