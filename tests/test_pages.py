"""README.md, CONTRIBUTING.md and docs/: what stands there in blocks works as it stands there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from conftest import Shell
from ipivrs import _core
from ipivrs.cli import app
from pages import PAGES, ROOT, Command, anchors, blocks, links, matches, unfenced_commands

BIN = Path(sys.executable).parent
# What only the shell can do: pipes, redirections, several commands.
NEEDS_SHELL = re.compile(r"[|<>;&$`]")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
EXTRAS = _core.read_toml((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[0]["project"]["optional-dependencies"]
# The tracepoints that intake knows.
TRACEPOINTS = set(re.findall(r'b"(\w+)" => Self::', (ROOT / "rust/src/intake/names.rs").read_text(encoding="utf-8")))

# How many lines the programs of a page print, where it says so in words.
PRINTED = {"docs/sweeps.md": 17}


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


WITH_BLOCKS = [page for page in PAGES if blocks(page)]


def test_there_is_something_to_run() -> None:
    assert sum(len(block.commands) for page in PAGES for block in blocks(page)) > 50


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_stands_in_a_block(page: Path) -> None:
    assert unfenced_commands(page) == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), link
        assert not anchor or file.name == "reference.md" or anchor in anchors(file), link


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name)
def test_a_page_works_from_top_to_bottom(
    page: Path, tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("examples", "scenarios"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "toml":
            _core.read_toml(block.text)
        elif block.language == "python":
            exec(compile("\n" * (block.number - 1) + block.text, name(page), "exec"), names)  # noqa: S102 (our own page)
        for command in block.commands:
            run = check_elsewhere if block.elsewhere else run_here
            run(shell, command, f"{name(page)}:{command.number}: {command.line}")
    if name(page) in PRINTED:
        assert len(capsys.readouterr().out.splitlines()) == PRINTED[name(page)]


def run_here(shell: Shell, command: Command, where: str) -> None:
    program, *words = command.words
    if program in NOT_RUN_HERE:
        CHECKS[program](words, where)
        return
    in_process = program == "ipivrs" and not NEEDS_SHELL.search(command.line)
    code, printed, complaint = _called(shell, command) if in_process else _shelled(command)
    assert (code, complaint) == (command.exit_code, ""), f"{where}\n{printed}{complaint}"
    if command.prints is not None:
        assert matches(printed, command.prints), f"{where}\n{printed}"


def _called(shell: Shell, command: Command) -> tuple[int, str, str]:
    """In this process, which takes a tenth of the time."""
    result = shell(*command.words[1:])
    return result.exit_code, result.stdout, result.stderr


def _shelled(command: Command) -> tuple[int, str, str]:
    environment = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    words = ["bash", "-o", "pipefail", "-c", command.line]
    done = subprocess.run(words, env=environment, check=False, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def check_elsewhere(_: Shell, command: Command, where: str) -> None:
    """For another machine: programs that are not here, files that are not here."""
    for words in _simple_commands(command.line):
        program, *rest = words[1:] if words[0] == "sudo" else words
        assert program in CHECKS, f"{where}: nobody knows how to check {program}"
        CHECKS[program](rest, where)


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The commands of a line that the shell runs one after the other or side by side, redirections left out."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word.strip("|;&"):
            words.append(word)
        elif words:
            yield words[: words.index(">")] if ">" in words else words
            words = []


def _check_ipivrs(words: list[str], where: str) -> None:
    """The command and its options are there; the files need not be."""
    command = typer.main.get_command(app)
    context = command.make_context("ipivrs", list(words), resilient_parsing=True)
    assert words, where
    while words and hasattr(command, "commands"):
        command = command.commands[words[0]]
        words = words[1:]
    known = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    assert unknown == [], f"{where}: no option {unknown} ({context.command_path})"


def _check_recorder(words: list[str], where: str) -> None:
    """perf and trace-cmd: events that ipivrs reads, by their systems' names."""
    if "record" not in words:
        return
    events = [event for at, word in enumerate(words) if word == "-e" for event in words[at + 1].split(",")]
    assert events, where
    for event in events:
        system, _, rest = event.partition(":")
        assert system in {"kvm", "ipi"}, f"{where}: {event}"
        # `trace-cmd record -e kvm` and `-e ipi` take all of a system; filters and modifiers follow in trace-cmd only.
        assert rest in TRACEPOINTS | {""}, f"{where}: ipivrs does not read {event}"


def _check_make(words: list[str], where: str) -> None:
    for target in (word for word in words if "=" not in word):
        assert re.search(rf"^{target}:.*##", MAKEFILE, re.MULTILINE), f"{where}: no target {target}"


def _check_pip(words: list[str], where: str) -> None:
    assert words[0] == "install", where
    for word in words[1:]:
        package, _, extras = word.partition("[")
        assert package in {"ipivrs", "."}, where
        wanted = {extra for extra in extras.rstrip("]").split(",") if extra}
        assert wanted <= EXTRAS.keys(), f"{where}: no extra {wanted}"


def _check_script(words: list[str], where: str) -> None:
    assert words == [] or Path(words[0]).parts[0] == ".venv", where


def _anything(_: list[str], __: str) -> None:
    """Programs of the machine's own, about which there is nothing to check."""


CHECKS: dict[str, Callable[[list[str], str], None]] = {
    "ipivrs": _check_ipivrs,
    "perf": _check_recorder,
    "trace-cmd": _check_recorder,
    "make": _check_make,
    "pip": _check_pip,
    "source": _check_script,
    ".ci/run": _anything,
    "cat": _anything,
    "dask": _anything,
    "modprobe": _anything,
}
# Too long for a test, or about the whole environment: their own tests run them.
NOT_RUN_HERE = {"make", "pip", "source", ".ci/run"}
