"""docs/sweeps.md: its example does what stands there."""

import re
import shlex
from pathlib import Path

import pytest

from conftest import Shell

PAGE = (Path(__file__).parent.parent / "docs" / "sweeps.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_worked_example(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (grid,), (console,), programs = blocks("toml"), blocks("console"), blocks("python")
    Path("shootdown.toml").write_text(grid, encoding="utf-8")
    command, _, expected = console.removeprefix("$ ipivrs ").partition("\n")
    result = shell(*shlex.split(command))
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(expected.partition("[...]")[0])
    for program in programs:
        exec(compile(program, "sweeps.md", "exec"), {})  # noqa: S102 (our own page)
    assert len(capsys.readouterr().out.splitlines()) == 17
