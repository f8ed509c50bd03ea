"""What the README shows works as it stands there."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from conftest import Shell

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")

# Command lines on examples of the project; those on the reader's own recording cannot be run here.
COMMANDS = [line for line in re.findall(r"^    ipivrs (.+)$", README, re.MULTILINE) if " perf.data" not in line]
PROGRAMS = [block for block in re.findall(r"(?:^    .*\n|^\n)+", README, re.MULTILINE) if "    import ipivrs" in block]


def test_there_is_something_to_run() -> None:
    assert COMMANDS
    assert PROGRAMS


@pytest.mark.parametrize("words", COMMANDS)
def test_commands(shell: Shell, monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.chdir(ROOT)
    result = shell(*shlex.split(words, comments=True))
    finds_a_violation = any(part in words for part in ("kvm-pre-ipiv", "--without", "acrn-4778"))
    assert (result.exit_code, result.stderr) == (int(finds_a_violation), "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(textwrap.dedent(program), "README.md", "exec"), {})  # noqa: S102 (our own README)
