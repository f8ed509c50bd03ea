"""Progress: what the core tells, and what is shown of it."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

import ipivrs
from ipivrs import bars, speed
from ipivrs.laboratory import subject
from ipivrs.names import Engine


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal where bars go, and no patience."""
    screen = io.StringIO()
    monkeypatch.setattr(bars, "_screen", lambda: Console(file=screen, force_terminal=True, width=100))
    monkeypatch.setattr(bars, "_AT_ONCE", 0)
    return screen


def test_a_pipe_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with bars.watching() as progress:
        assert progress is None


def test_a_known_end_has_a_share_and_a_rate(stderr: io.StringIO) -> None:
    with bars.watching() as progress:
        assert progress is not None
        progress("bytes", 1_000_000, 4_000_000)
        progress("bytes", 3_000_000, 4_000_000)
    shown = stderr.getvalue()
    assert "reading" in shown
    assert "75 %" in shown
    assert "left:" in shown


def test_an_unknown_end_has_a_count(stderr: io.StringIO) -> None:
    with bars.watching() as progress:
        assert progress is not None
        progress("states", 12_345, 0)
    assert "exploring" in stderr.getvalue()
    assert "12,345 states" in stderr.getvalue()


def test_another_thing_that_is_counted_is_another_bar(stderr: io.StringIO) -> None:
    with bars.watching() as progress:
        assert progress is not None
        progress("bytes", 1, 4)
        progress("IPIs", 1, 4)
    assert re.search(r"reading.*emulating", stderr.getvalue(), re.DOTALL)


def test_steps_name_the_part_and_what_it_counts(stderr: io.StringIO) -> None:
    with bars.steps(2) as bar:
        bar("first")
        bar.tell("states", 5, 0)
        bar("second")
    assert "second" in stderr.getvalue()


def test_in_80_columns_numbers_are_whole_and_names_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(path.what.partition(" / ")[0] for path in speed.PATHS.values()), "a name as long as a line" * 9):
        screen = io.StringIO()
        console = Console(file=screen, force_terminal=True, color_system=None, width=80)
        monkeypatch.setattr(bars, "_screen", lambda console=console: console)
        with bars.steps(29) as bar:
            bar(name)
        assert re.search(rf"0/29 0:00:00 left: -:--:-- {re.escape(name[:30])}", screen.getvalue())
        assert name in screen.getvalue() or "…" in screen.getvalue()


def test_the_core_tells_how_far_it_is(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []

    def progress(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, workload={"name": "ping"})])
    scenario.run(engine="virtual-time", progress=progress)
    scenario.run(progress=progress)
    line = "q 9 [0] 1.0: kvm:kvm_apic_ipi: dst 0 vec 251 (Fixed|physical|de-assert|edge|dst)\n"
    file = tmp_path / "perf.txt"
    file.write_text(line * (9_000_000 // len(line)), encoding="utf-8")
    ipivrs.run(file, progress=progress)
    assert {what for what, _, _ in told} >= {"cycles", "milliseconds", "bytes"}
    assert all(done <= total for what, done, total in told if what == "bytes")


@pytest.mark.parametrize("engine", ["threads", "virtual-time"])
def test_what_progress_raises_ends_a_run(engine: Engine) -> None:
    def progress(*_: object) -> None:
        raise LookupError("no more")

    scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, workload={"name": "ping", "rounds": 1_000_000})])
    with pytest.raises(LookupError, match="no more"):
        scenario.run(engine=engine, progress=progress)


def test_ctrl_c_in_progress_leaves_what_is_done() -> None:
    def progress(*_: object) -> None:
        raise KeyboardInterrupt

    scenario = ipivrs.Scenario(vm=[ipivrs.VM(vcpus=2, workload={"name": "ping", "rounds": 1_000_000})])
    assert scenario.run(engine="virtual-time", progress=progress).partial


def test_what_progress_raises_ends_a_check() -> None:
    def progress(what: str, done: int, total: int) -> None:
        raise RuntimeError(f"{what} {done} {total}")

    with pytest.raises(RuntimeError, match=r"states \d+ 0"):
        subject("kvm").check(progress=progress, threads=1)
