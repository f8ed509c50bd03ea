"""Workers that die in the middle of a sweep: nothing is lost, nothing is done twice."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

import ipivrs
from ipivrs import workers
from ipivrs.dask_workers import DaskWorkers
from ipivrs.grid import find_grid
from ipivrs.grid_points import Plan
from ipivrs.rows import run_point
from ipivrs.workers import LocalWorkers
from sweeps import SLOW, workers_of, write_grid

TEN = "seed = { from = 1, to = 10 }"
FATAL = """
import json, os, sys
sys.path[:] = json.loads(sys.argv[1])
from ipivrs import point_worker
run = point_worker.run_point
point_worker.run_point = lambda each: os._exit(7) if each["grid"]["seed"] == 3 else run(each)
point_worker.work()
"""


def is_whole(result: ipivrs.SweepResult) -> bool:
    return [row["seed"] for row in result.rows] == list(range(1, 11)) and len(result.errors) == 0


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    killed: list[int] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))
        if done > 0 and not killed:
            killed.extend(workers_of(os.getpid())[:1])
            os.kill(killed[0], signal.SIGKILL)

    result = ipivrs.sweep(write_grid(tmp_path, TEN, SLOW), out=tmp_path / "r.csv", workers=2, progress=progress)
    assert killed
    assert is_whole(result)
    assert result.ran == 10
    assert (seen[0], seen[-1]) == ((0, 10), (10, 10))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert workers_of(os.getpid()) == []


def test_a_point_that_kills_its_worker_is_given_up_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", FATAL)
    result = ipivrs.sweep(write_grid(tmp_path, TEN), out=tmp_path / "r.csv", workers=2)
    assert [(row["seed"], row["error"]) for row in result.errors] == [
        (3, "given up after 3 tries: its worker process ended with exit code 7")
    ]
    assert [row["seed"] for row in result.rows] == list(range(1, 11))


def test_workers_that_do_not_start_are_no_points_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_PROGRAM", "raise SystemExit(5)")
    with pytest.raises(ipivrs.SweepError, match="worker processes do not start: worker process ended with exit code 5"):
        ipivrs.sweep(write_grid(tmp_path, TEN), out=tmp_path / "r.csv", workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.toml", "g.toml"]


def test_no_more_points_are_in_flight_than_two_for_each_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    most = 0
    submit = LocalWorkers.submit

    def counted(self: LocalWorkers, description: dict[str, Any]) -> None:
        nonlocal most
        submit(self, description)
        most = max(most, sum(len(each.points) for each in self._workers))

    monkeypatch.setattr(LocalWorkers, "submit", counted)
    endless = '[[vm]]\nworkload = { name = "storm" }\n'
    ipivrs.sweep(write_grid(tmp_path, "seed = { from = 1, to = 50 }", endless), out=tmp_path / "r.csv", workers=2)
    assert most == 4


def test_a_policy_goes_with_its_point(tmp_path: Path) -> None:
    """A worker on another machine does not have the file."""
    policy = tmp_path / "mine.policy"
    policy.write_text("policy mine\n  load:\n    control nv=notify, ndst=here, sn=0\n")
    plan = Plan(find_grid(write_grid(tmp_path, f'"host.policy" = ["{policy}"]')))
    description = plan.description(plan.points[0])
    policy.unlink()
    assert run_point(description)["policy"] == "mine"


def test_dask_with_a_worker_that_is_killed(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    killed: list[int] = []
    there: list[bool] = []
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster:

        def progress(done: int, _: int) -> None:
            there.append((tmp_path / "r.csv").exists())
            if done > 0 and not killed:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)

        result = ipivrs.sweep(
            write_grid(tmp_path, TEN, SLOW), out=tmp_path / "r.csv", dask=cluster.scheduler_address, progress=progress
        )
    assert killed
    assert there == [number > 1 for number in range(len(there))], "from the first rows on"
    assert is_whole(result)
    assert (result.ran, len(result.rows), (tmp_path / "r.csv.journal").exists()) == (10, 10, False)


def test_a_row_that_goes_with_its_worker_is_waited_for() -> None:
    pytest.importorskip("distributed")

    class Future:
        def __init__(self, status: str) -> None:
            self.status = status

    cluster = DaskWorkers.__new__(DaskWorkers)
    cluster._address = "tcp://127.0.0.1:9"  # noqa: SLF001 (none is connected)
    # Done when it was waited for; its worker has died since, and dask makes the row again.
    for status in ("lost", "pending"):
        assert cluster._outcome(Future(status)) is None  # noqa: SLF001
    with pytest.raises(ipivrs.SweepError, match="the scheduler has gone"):
        cluster._outcome(Future("cancelled"))  # noqa: SLF001


def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("ipivrs.dask_workers._PATIENCE", 0.2)
    with pytest.raises(ipivrs.SweepError, match=r"^dask tcp://127\.0\.0\.1:9: no scheduler answers there"):
        ipivrs.sweep(write_grid(tmp_path, TEN), out=tmp_path / "r.csv", dask="tcp://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ipivrs.SweepError, match=r"pip install 'ipivrs\[distributed\]'"):
        ipivrs.sweep(write_grid(tmp_path, TEN), out=tmp_path / "r.csv", dask="tcp://127.0.0.1:9")


@pytest.mark.parametrize("address", ["", "nosuch", "host:port", "tcp://", "http://host:8786"])
def test_what_is_no_address_of_a_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "Client", None)  # it is not asked
    with pytest.raises(ipivrs.SweepError) as caught:
        ipivrs.sweep(write_grid(tmp_path, TEN), out=tmp_path / "r.csv", dask=address)
    wanted = f"dask must be a scheduler's address such as tcp://10.0.0.1:8786, not {address!r}: "
    assert str(caught.value).startswith(wanted)
    assert caught.value.in_shell == f"--{caught.value}"
