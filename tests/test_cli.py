"""What all commands share: help, version, `python -m ipivrs`, and `ipivrs info`."""

import json
import platform
import re

import numpy as np
import pytest

import ipivrs
from conftest import Process, Shell
from ipivrs.machine import Machine


@pytest.mark.parametrize("words", ["", "--help", "-h"])
def test_help_lists_the_commands(shell: Shell, words: str) -> None:
    result = shell(*words.split())
    assert result.exit_code == 0
    assert all(f"\n  {command} " in result.stdout for command in ("run", "explain", "info"))


@pytest.mark.parametrize("group", ["", "bench", "profile"])
def test_no_description_of_a_command_is_cut_off(shell: Shell, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    _, _, commands = shell(*group.split(), "--help").stdout.partition("Commands:\n")
    assert commands.count("\n") >= 2
    assert all(line.endswith(".") and not line.endswith("...") for line in commands.splitlines())


@pytest.mark.parametrize("command", ["run", "explain", "info"])
def test_every_option_has_help(shell: Shell, command: str) -> None:
    result = shell(command, "--help")
    assert result.exit_code == 0
    text = result.stdout.partition("Options:")[2]
    assert text.count("  --") > 0
    assert not [line for line in text.splitlines() if line.rstrip().endswith("|")]


def test_version(process: Process) -> None:
    done = process("--version")
    build = ipivrs.build_info()
    told = f"ipivrs {ipivrs.__version__} (commit {build['commit']}, {build['profile']} build)\n"
    assert (done.returncode, done.stdout) == (0, told)
    assert re.fullmatch("[0-9a-f]{12}|unknown", build["commit"])
    assert build["profile"] in {"debug", "release"}


def test_info_says_what_this_build_is_made_of(shell: Shell) -> None:
    result = shell("info")
    assert result.exit_code == 0
    for value in (ipivrs.__version__, platform.python_version(), np.__version__, ipivrs.build_info()["profile"]):
        assert value in result.stdout
    assert "kvm_intel is" in result.stdout


def test_info_as_json(shell: Shell) -> None:
    printed = json.loads(shell("info", "--json").stdout)
    assert printed.items() >= ipivrs.build_info().items()
    assert printed["python"] == platform.python_version()
    assert set(printed["machine"]) == set(Machine.__annotations__)
