"""Ctrl-C before there is a command to interrupt."""

import signal
import subprocess
import sys

import pytest

import ipivrs
from conftest import Shell

# Both ways to start `ipivrs`.
MODULE = "import runpy; runpy.run_module('ipivrs', run_name='__main__')"
SCRIPT = "(entry,) = importlib.metadata.entry_points(group='console_scripts', name='ipivrs'); entry.load()()"


def interrupted_in_the_imports(start: str, handler: str) -> "subprocess.CompletedProcess[str]":
    """`ipivrs --version` to which Ctrl-C comes as numpy is looked for, where something swallows exceptions."""
    program = f"""
import contextlib, importlib.metadata, signal, sys

class Interrupting:
    def find_spec(name, path, target=None):
        if name == "numpy":
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, {handler})
sys.meta_path.insert(0, Interrupting)
sys.argv = ["ipivrs", "--version"]
{start}
"""
    return subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("start", [MODULE, SCRIPT], ids=["module", "script"])
def test_ctrl_c_during_the_imports_is_one_line_and_exit_code_130(start: str) -> None:
    done = interrupted_in_the_imports(start, "signal.default_int_handler")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_a_background_job_ignores_ctrl_c_during_the_imports_too() -> None:
    done = interrupted_in_the_imports(MODULE, "signal.SIG_IGN")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ipivrs {ipivrs.__version__} ")


def test_ctrl_c_while_the_command_is_made_is_one_line_and_exit_code_130() -> None:
    program = """
import signal, typer
from ipivrs import starting
signal.signal(signal.SIGINT, signal.default_int_handler)
typer.main.get_command = lambda _: signal.raise_signal(signal.SIGINT)
starting.start()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_ctrl_c_while_words_are_read_is_one_line_and_exit_code_130(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("typer.core.TyperGroup.parse_args", interrupt)
    result = shell("--version")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")
