"""Bars and strips: in proportion, aggregated where there are more values than columns, ASCII where it must be."""

import pytest
from rich.console import Console

from conftest import Process, Shell
from ipivrs import heat, sections
from ipivrs.heat import bar, strip
from shipped import X2APIC_BOOT


@pytest.fixture
def encoding(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    monkeypatch.setattr(heat, "can_show", lambda text: name == "utf-8" or text.isascii())
    return name


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat, "is_terminal", lambda: True)
    monkeypatch.setattr(heat, "width", lambda: 120)


@pytest.mark.parametrize(("encoding", "cells"), [("utf-8", "·▁▄▅█"), ("ascii", ".1458")], indirect=["encoding"])
def test_a_strip_is_in_proportion(encoding: str, cells: str) -> None:
    assert encoding
    assert strip([0, 1, 40, 50, 100], 80).cells == cells


@pytest.mark.parametrize("encoding", ["utf-8"], indirect=True)
def test_more_values_than_columns_share_cells(encoding: str) -> None:
    assert encoding
    found = strip([8] * 50 + [0] * 50, 10)
    assert (found.cells, found.per_cell) == ("█████·····", 10)
    assert len(strip(range(101), 10).cells) <= 10


@pytest.mark.parametrize("encoding", ["utf-8"], indirect=True)
def test_nothing_at_all(encoding: str) -> None:
    assert encoding
    assert strip([0, 0], 10).cells == "··"
    assert strip([], 10).cells == ""


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("encoding", ["utf-8"], indirect=True)
def test_a_bar_is_as_long_as_the_share(encoding: str) -> None:
    assert encoding
    assert bar(100, 100) == "█" * 20
    assert bar(50, 100) == "█" * 10
    assert bar(1, 1_000_000) == "▏", "what is there can be seen"
    assert bar(0, 100) == ""


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("encoding", ["ascii"], indirect=True)
def test_a_bar_in_ascii(encoding: str) -> None:
    assert encoding
    assert bar(50, 100) == "#" * 10


@pytest.mark.parametrize("encoding", ["utf-8"], indirect=True)
def test_a_pipe_has_no_bars(encoding: str) -> None:
    assert encoding
    assert bar(50, 100) == ""


@pytest.mark.parametrize(
    ("vms", "said"),
    [([([1, 5], [5, 0])], False), ([([1, 5], [4, 0])], True), ([([7], [0])], False), ([([7], [7]), ([7], [8])], True)],
)
def test_rows_of_unlike_scales_are_said_to_have_such(vms: list[tuple[list[int], list[int]]], said: bool) -> None:
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(*sections.heat(vms, "received"))
    assert ("each row is to a scale of its own" in captured.get()) == said


@pytest.mark.parametrize("got", [0, 1, 10**9])
def test_a_vcpu_is_in_the_same_column_of_both_rows(got: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sections, "width", lambda: 100)
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(*sections.heat([([1] * 140, [got] * 140)], "received"))
    sent, received = (line.split()[1] for line in captured.get().splitlines()[:2])
    assert len(sent) == len(received)


def test_a_report_in_ascii_has_nothing_else(process: Process) -> None:
    done = process("run", X2APIC_BOOT, PYTHONIOENCODING="ascii")
    assert done.stdout.isascii()
    assert "sent          88" in done.stdout


def test_no_color_is_respected(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    coloured = shell("run", X2APIC_BOOT).stdout
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shell("run", X2APIC_BOOT).stdout
    assert "\x1b[1;32m" in coloured
    assert "\x1b[1;32m" not in plain
    assert "32m" not in plain
