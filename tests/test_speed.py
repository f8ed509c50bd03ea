"""`ipivrs bench speed`: the table, what is saved and compared; and what the core does while Python runs."""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import ipivrs
from conftest import Shell
from ipivrs import _core, speed, stopwatch

TABLE = {
    "ipi-x2apic", "ipi-xapic", "post-coalesced", "round-trip", "pairs", "virtual-time-ping", "virtual-time-storm",
    "explorer", "intake", "vm-build", "vm-memory", "python-wrmsr", "python-batch", "python-threads", "import",
}  # fmt: skip


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Two rows with figures that are known: a ratio, and one without a floor."""
    ratio = [1.25]
    paths = {
        "fast": speed.Path("fast", "work / floor", "ns", 1.5, measure=lambda: (5e-9, 4e-9, ratio[0])),
        "many": speed.Path("many", "a rate", "million/s", 15, "at least", lambda: (3e6, None, None), "of what it is"),
    }
    monkeypatch.setattr(speed, "PATHS", paths)
    return ratio


def test_every_path_of_the_table_is_measured() -> None:
    assert set(speed.PATHS) == TABLE
    assert all(path.unit in {"ns", "ms", "s", "bytes", "million/s"} for path in speed.PATHS.values())


def test_rows_say_what_was_held_to_the_target(shell: Shell, measured: list[float]) -> None:
    result = shell("bench", "speed", "--json")
    assert result.exit_code == 0
    fast, many = json.loads(result.stdout)
    assert (fast["value"], fast["floor"], fast["ratio"]) == (pytest.approx(5), pytest.approx(4), measured[0])
    assert (fast["target"], fast["sense"], fast["met"], fast["unit"]) == (1.5, "at most", True, "ns")
    assert (many["value"], many["floor"], many["ratio"], many["met"]) == (pytest.approx(3), None, None, False)
    assert ipivrs.__version__ in fast["machine"]
    assert ipivrs.build_info()["profile"] in fast["machine"]


def test_a_missed_target_is_no_error(shell: Shell, measured: list[float]) -> None:
    measured[0] = 1.6
    result = shell("bench", "speed")
    assert result.exit_code == 0
    lines = result.stdout.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines if "missed" in line] == ["fast", "many"]


def test_a_missed_row_says_why(shell: Shell, measured: list[float]) -> None:
    report = shell("bench", "speed").stdout
    head, _, why = report.partition("Why they are missed")
    assert "missed" in head
    assert "docs/performance.md" in why
    assert "\n  many: of what it is\n" in why
    assert "fast" not in why, "it is met"
    measured[0] = 1.6
    assert "\n  fast: met where nothing else runs" in shell("bench", "speed").stdout
    measured[0] = 1.4
    assert "Why they are missed" not in shell("bench", "speed", "--only", "fast").stdout


def test_what_changed_since_a_saved_run(shell: Shell, measured: list[float], tmp_path: Path) -> None:
    saved = tmp_path / "old.json"
    assert shell("bench", "speed", "--save", saved, "--only", "fast").exit_code == 0
    assert [row["name"] for row in json.loads(saved.read_text(encoding="utf-8"))] == ["fast"]
    measured[0] = 1.5
    result = shell("bench", "speed", "--against", saved)
    fast, many = (line for line in result.stdout.splitlines() if line.startswith(("fast", "many")))
    assert "1.25" in fast
    assert "+20.0 %" in fast
    assert "%" not in many, "it was not in the saved run"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("{", "`ipivrs bench speed --save` wrote"),
        ("{}", "has no rows"),
        ('[{"name": "fast"}]', "has no rows"),
    ],
)
def test_a_bad_file_to_compare_with(shell: Shell, tmp_path: Path, text: str | None, message: str) -> None:
    old = tmp_path / "old.json"
    if text is not None:
        old.write_text(text, encoding="utf-8")
    result = shell("bench", "speed", "--against", old)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "old.json" in result.stderr


def test_bad_options_are_found_before_anything_is_measured(shell: Shell, tmp_path: Path) -> None:
    result = shell("bench", "speed", "--only", "ipi-x2apci")
    assert (result.exit_code, "did you mean ipi-x2apic?" in result.stderr) == (2, True)
    result = shell("bench", "speed", "--only", "")
    assert (result.exit_code, "names no row; the rows are ipi-x2apic, " in result.stderr) == (2, True)
    result = shell("bench", "speed", "--save", tmp_path / "nowhere" / "new.json")
    assert (result.exit_code, "there is no folder" in result.stderr) == (2, True)


@pytest.mark.parametrize("only", ["fast,long", "long"])
def test_ctrl_c_waits_for_no_row_and_shows_those_that_are_measured(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, measured: list[float], only: str
) -> None:
    release = threading.Event()
    ended: list[bool] = []

    def long(*_: str) -> stopwatch.Measured:
        with contextlib.suppress(KeyboardInterrupt):  # the core asks for no signal
            os.kill(os.getpid(), signal.SIGINT)
            release.wait(60)
        ended.append(True)
        return 1e-9, None, None

    monkeypatch.setattr(_core, "measure", long)
    paths = {"fast": speed.PATHS["fast"], "long": speed.Path("long", "the core measures it", "ns", 1)}
    monkeypatch.setattr(speed, "PATHS", paths)
    result = shell("bench", "speed", "--only", only)
    assert not ended
    release.set()
    assert result.exit_code == 130
    if only == "long":
        assert (result.stdout, result.stderr) == ("", "error: interrupted\n")
        return
    assert result.stderr == "error: interrupted: 1 of 2 rows are measured\n"
    lines = result.stdout.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["fast"]
    assert str(measured[0]) in lines[1]


def test_what_a_row_fails_with_is_told(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: str) -> stopwatch.Measured:
        raise RuntimeError("nothing was measured")

    monkeypatch.setattr(_core, "measure", fail)
    monkeypatch.setattr(speed, "PATHS", {"bad": speed.Path("bad", "", "ns", 1)})
    assert str(shell("bench", "speed").exception) == "nothing was measured"


def test_one_path_for_real(shell: Shell) -> None:
    (row,) = json.loads(shell("bench", "speed", "--only", "ipi-x2apic", "--json").stdout)
    assert row["value"] > row["floor"] > 0
    with pytest.raises(ValueError, match='no path "nothing"'):
        _core.measure("nothing", "", ipivrs.Profile.load(ipivrs.profiles.shipped()["sapphire-rapids"]).costs())


def test_another_python_thread_runs_during_a_batch() -> None:
    """Threads change only where one lets go: the other is seen within the batch, or never."""
    vcpu, values = ipivrs.Vm().vcpu(0), np.full(1_000_000, 1 << 32 | 0xFB, dtype=np.uint64)
    inside: list[bool] = []

    def work() -> None:
        inside.append(True)
        vcpu.wrmsr_batch(0x830, values)
        inside.pop()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    try:
        seen = False
        for _ in range(100):
            thread = threading.Thread(target=work)
            thread.start()
            seen = seen or bool(inside)
            thread.join()
            if seen:
                break
    finally:
        sys.setswitchinterval(interval)
    assert seen


def test_two_threads_with_a_vm_each_do_not_meet() -> None:
    values = np.full(1000, 1 << 32 | 0xFB, dtype=np.uint64)
    vms = [ipivrs.Vm() for _ in range(2)]
    posted: list[int] = []

    def work(vm: ipivrs.Vm) -> None:
        rows = vm.vcpu(0).wrmsr_batch(0x830, values)
        posted.append(int((rows["outcome"] == ipivrs.OUTCOMES.index("posted")).sum()))

    threads = [threading.Thread(target=work, args=(vm,)) for vm in vms]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert posted == [1000, 1000]
    assert [vm.vcpu(1).deliver() for vm in vms] == [0xFB, 0xFB]
