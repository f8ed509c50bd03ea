"""What the shell completes, asked as bash and zsh ask it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import ipivrs
from conftest import Process
from ipivrs import names, policies, profiles, published

BIN = Path(sys.executable).parent


def asked_by_bash(process: Process, *words: str) -> list[str]:
    """The completions of the last word; each is a line."""
    done = process(
        _IPIVRS_COMPLETE="complete_bash", COMP_WORDS=" ".join(["ipivrs", *words]), COMP_CWORD=str(len(words))
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def asked_by_zsh(process: Process, line: str) -> str:
    """What zsh is told to evaluate."""
    done = process(_IPIVRS_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=f"ipivrs {line}")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(
    ("words", "completed"),
    [
        (["ch"], ["check"]),
        (["in"], ["info"]),
        (["run", "--engine", ""], list(get_args(names.Engine))),
        (["run", "--engine", "vir"], ["virtual-time"]),
        (["run", "--apic-"], ["--apic-ids"]),
        (["run", "--policy", "kvm-p"], ["kvm-pre-ipiv"]),
        (["explain", "--shorthand", "all"], ["all", "all-but-self"]),
        (["check", "acrn-4"], ["acrn-4778", "acrn-4978"]),
        (["profile", "s"], ["show"]),
        (["profile", "show", ""], list(profiles.shipped())),
        (["bench", "published", ""], list(published.shipped())),
        (["sweep", "over"], ["overcommit"]),
    ],
    ids=" ".join,
)
def test_bash(process: Process, words: list[str], completed: list[str]) -> None:
    assert asked_by_bash(process, *words) == completed


def test_every_protocol_is_completed(process: Process) -> None:
    known = {entry.name for entry in ipivrs.collection()} | policies.shipped().keys()
    assert set(asked_by_bash(process, "check", "")) == known


@pytest.mark.parametrize("words", [["rum", "--js"], ["run", "zz"], ["run", "--engine", "zz"]], ids=" ".join)
def test_what_nobody_knows_is_left_to_the_shell(process: Process, words: list[str]) -> None:
    assert asked_by_bash(process, *words) == []


def test_zsh(process: Process) -> None:
    assert '"check":' in asked_by_zsh(process, "ch")
    assert '"virtual-time"' in asked_by_zsh(process, "run --engine v")
    # zsh itself completes files.
    assert asked_by_zsh(process, "run zz") == "_files\n"


def test_the_script_of_zsh(process: Process) -> None:
    done = process(_IPIVRS_COMPLETE="source_zsh")
    assert done.returncode == 0
    assert done.stdout.lstrip().startswith("#compdef ipivrs\n")


def test_bash_itself_completes_after_show_completion() -> None:
    """As a user does it: the script that `--show-completion` prints, and the function that bash then calls."""
    commands = """
        eval "$(ipivrs --show-completion)"
        complete -p ipivrs
        COMP_WORDS=(ipivrs check pir-); COMP_CWORD=2
        "$(complete -p ipivrs | sed 's/.*-F \\([^ ]*\\).*/\\1/')" ipivrs
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "--norc", "-c", commands],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    registered, *completed = done.stdout.splitlines()
    assert registered.startswith("complete -o default -F ")
    assert completed == sorted(entry.name for entry in ipivrs.collection() if entry.name.startswith("pir-"))
    assert completed


def test_install_completion_writes_to_the_home_of_the_user(tmp_path: Path) -> None:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "--norc", "-c", "ipivrs --install-completion; exit $?"],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "completion installed" in done.stdout
    assert (tmp_path / ".bashrc").read_text(encoding="utf-8")
