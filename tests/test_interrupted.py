"""Ctrl-C: no figure is made of a part of a run, and no file is left half written."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from conftest import Shell
from ipivrs import _core, profiles, published
from ipivrs.fitting import fit
from ipivrs.grid import find_grid
from ipivrs.grid_points import Plan
from ipivrs.replacing import replace, replace_text
from ipivrs.rows import run_point
from shipped import X2APIC_BOOT
from sweeps import write_grid

Interrupt = Callable[[int], list[int]]

PING = '[[vm]]\nworkload = { name = "ping", rounds = 200 }\n'


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Iterator[Interrupt]:
    """Ctrl-C while the run of this number goes on; gives a list that has the numbers of all that began."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    run = _core.run_scenario_in_virtual_time

    def arrange(number: int) -> list[int]:
        begun: list[int] = []

        def counted(*words: str, **options: Any) -> _core.ScenarioResult:  # noqa: ANN401 (as the core takes them)
            begun.append(len(begun) + 1)
            if len(begun) == number:
                options["progress"] = lambda *_: signal.raise_signal(signal.SIGINT)
            return run(*words, **options)

        monkeypatch.setattr(_core, "run_scenario_in_virtual_time", counted)
        return begun

    yield arrange
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [1, 4, 9])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_no_row_is_printed_of_measurements_that_are_not_all_predicted(
    shell: Shell, interrupt: Interrupt, number: int, options: list[str]
) -> None:
    begun = interrupt(number)
    result = shell("bench", "published", "ipiv-v4", *options)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")
    assert begun[-1] == number


@pytest.mark.parametrize("number", [1, 10])
def test_a_fit_that_is_interrupted_ends_at_once_and_writes_no_file(
    shell: Shell, interrupt: Interrupt, tmp_path: Path, number: int
) -> None:
    begun = interrupt(number)
    result = shell("profile", "fit", "ipiv-v4", "--out", tmp_path / "fitted.toml")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "error: interrupted\n")
    assert begun[-1] == number
    assert list(tmp_path.iterdir()) == []


def test_in_python_the_caller_gets_the_interrupt(interrupt: Interrupt, tmp_path: Path) -> None:
    rows, profile = published.find("ipiv-v4"), profiles.find(profiles.DEFAULT)
    compared = next(row for row in rows.row if row.baseline)
    (point,) = (plan := Plan(find_grid(write_grid(tmp_path, "seed = [1]")), engine="virtual-time")).points
    calls: list[tuple[int, Callable[[], object]]] = [
        (1, lambda: published.predict(rows.row[0], profile)),
        (2, lambda: published.predict(compared, profile)),
        (2, lambda: published.compare(rows, profile)),
        (2, lambda: fit(rows, profile, ["vm_exit"])),
        (1, lambda: run_point(plan.description(point))),
    ]
    for number, call in calls:
        interrupt(number)
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (1, "result 1 is partial, 2 of 3 files were not run"),
        (2, "result 2 is partial, 1 of 3 files was not run"),
        (3, "result 3 is partial, all others are whole"),
    ],
)
def test_of_several_files_none_begins_after_ctrl_c(
    shell: Shell, interrupt: Interrupt, tmp_path: Path, number: int, said: str
) -> None:
    files = [tmp_path / f"{name}.toml" for name in "abc"]
    for file in files:
        file.write_text(PING, encoding="utf-8")
    begun = interrupt(number)
    words = ("run", *files, "--engine", "virtual-time")
    result = shell(*words)
    assert (result.exit_code, result.stderr) == (130, f"error: interrupted: {said}\n")
    assert begun[-1] == result.stdout.count("all accounted for") == number
    interrupt(number)
    result = shell(*words, "--json")
    assert result.exit_code == 130
    assert [done["partial"] for done in json.loads(result.stdout)] == [False] * (number - 1) + [True]


def half(file: IO[bytes], *_: object) -> None:
    file.write(b"half of a fi")
    raise KeyboardInterrupt


def test_a_trace_that_is_interrupted_leaves_what_was_there(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trace = pytest.importorskip("ipivrs.reports.perfetto_trace")
    monkeypatch.setattr(trace, "write", half)
    out = tmp_path / "out.pftrace"
    result = shell("run", X2APIC_BOOT, "--perfetto", out)
    assert (result.exit_code, result.stderr) == (130, "error: interrupted\n")
    assert list(tmp_path.iterdir()) == []
    out.write_text("before", encoding="utf-8")
    assert shell("run", X2APIC_BOOT, "--perfetto", out).exit_code == 130
    assert [(file, file.read_text()) for file in tmp_path.iterdir()] == [(out, "before")]


@pytest.mark.parametrize("words", [("run", X2APIC_BOOT, "--report"), ("check", "kvm", "--save")])
def test_what_is_written_beside_an_answer_is_put_into_place_whole(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[object, ...]
) -> None:
    pytest.importorskip("jinja2")

    def no_sync(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", no_sync)
    assert shell(*words, tmp_path / "out").exit_code == 130
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_replaced_keeps_its_permissions_and_its_link(tmp_path: Path) -> None:
    out, link = tmp_path / "out", tmp_path / "link"
    out.write_text("before", encoding="utf-8")
    out.chmod(0o640)
    link.symlink_to(out)
    replace_text(link, "\u00e4fter")
    found = (out.read_text(encoding="utf-8"), out.stat().st_mode & 0o777, link.is_symlink())
    assert found == ("\u00e4fter", 0o640, True)
    replace_text(tmp_path / "new", "")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["link", "new", "out"]


def test_a_stream_is_written_and_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace(pipe, lambda file: file.write(b"text"))
    with (tmp_path / "out").open("wb") as out:
        replace(Path(f"/dev/fd/{out.fileno()}"), lambda file: file.write(b"text"))
        assert (tmp_path / "out").stat().st_ino == os.fstat(out.fileno()).st_ino
    assert (os.read(reader, 10), pipe.is_fifo()) == (b"text", True)
    os.close(reader)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["out", "pipe"]
