"""Sweeps: rows, results files, and going on after whatever ended one."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ipivrs
from conftest import Shell
from ipivrs import sweeping, tables
from ipivrs.grid import find_grid
from ipivrs.grid_points import Plan
from ipivrs.journal import Journal
from ipivrs.rows import columns_of, filled, row_of, run_point
from ipivrs.workers import Outcome
from sweeps import SLOW, is_there, workers_of, write_grid

SEEDS = "seed = [1, 2, 3, 4, 5, 6]"


def journal_of(out: Path) -> Path:
    return out.with_name(f"{out.name}.journal")


def journalled(out: Path) -> list[str]:
    """The points in a journal, line by line."""
    return [json.loads(line)["point"] for line in journal_of(out).read_text().splitlines()[1:]]


def saved_journal(grid: Path, out: Path) -> list[str]:
    """The lines of the journal of a whole sweep, which is done and forgotten when this returns."""
    copy = out.with_suffix(".copy")

    def keep(_: int, __: int) -> None:
        shutil.copy(journal_of(out), copy)

    ipivrs.sweep(grid, out=out, progress=keep)
    out.unlink()
    return copy.read_text().splitlines(keepends=True)


def test_a_row_has_the_grids_values_and_the_results(tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    result = ipivrs.sweep(write_grid(tmp_path, 'seed = [7, 8]\n"host.pcpus" = [1, 2]'), out=out, workers=2)
    assert (result.points, result.ran, result.partial) == (4, 4, False)
    assert result.columns[:3] == ["seed", "host.pcpus", "ipis.total"]
    assert result.columns[-2:] == ["error", "point"]
    assert {"exits.total", "notifications.sent", "scheduling.entries", "vms.0.table.bytes"} <= set(result.columns)
    assert [(row["seed"], row["host.pcpus"]) for row in result.rows] == [(7, 1), (7, 2), (8, 1), (8, 2)]
    for row in result.rows:
        assert (row["ipis.total"], row["violations"], row["violations.first"], row["error"]) == (5, 0, None, None)
        assert (row["engine"], row["policy"], row["version"]) == ("virtual-time", "kvm", ipivrs.__version__)
        assert row["exits.total"] == sum(
            value for name, value in row.items() if name.startswith("exits.") and name != "exits.total"
        )
    with out.open() as file:
        read = list(csv.DictReader(file))
    assert [{name: "" if value is None else value for name, value in row.items()} for row in result.rows] == [
        {name: _typed(text, like=row[name]) for name, text in written.items()}
        for written, row in zip(read, result.rows, strict=True)
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.toml", "g.toml", "r.csv"]


def _typed(text: str, like: object) -> object:
    if isinstance(like, bool):
        return text == "true"
    return type(like)(text) if isinstance(like, int | float) else text


def test_names_that_grid_and_result_share(tmp_path: Path) -> None:
    result = ipivrs.sweep(write_grid(tmp_path, "seconds = [0.05]\nseed = [3]", SLOW), out=tmp_path / "r.csv")
    assert (result.rows[0]["seconds"], result.rows[0]["seed"]) == (0.05, 3)
    assert result.rows[0]["result.seconds"] > 0
    assert "result.seed" not in result.columns


def test_any_result_is_flattened() -> None:
    description = {"grid": {"a": 1}, "point": "p"}
    exits = [{"reason": 12, "count": 2}, {"reason": 1, "count": 4}, {"reason": 12, "count": 3}]
    latency = {"deliver": {"median": 3.5, "worst": 9}}
    violations = [{"kind": "lost-wakeup"}, {"kind": "more"}]
    row = row_of(
        description,
        {"title": "", "exits": exits, "latency": latency, "cycles": 7, "violations": violations, "other": [{"x": 1}]},
    )
    assert row == {
        "a": 1,
        "exits.total": 9,
        "exits.1": 4,
        "exits.12": 5,
        "latency.deliver.median": 3.5,
        "latency.deliver.worst": 9,
        "cycles": 7,
        "violations": 2,
        "violations.first": "lost-wakeup",
        "error": None,
        "point": "p",
    }


def test_columns_of_different_rows_have_a_stable_order() -> None:
    failed = {"a": 1, "error": "x", "point": "p"}
    one = {"a": 2, "exits.total": 3, "exits.12": 3, "error": None, "point": "q"}
    other = {"a": 3, "exits.total": 4, "exits.1": 4, "z": 1, "error": None, "point": "r"}
    assert columns_of([failed, one, other]) == ["a", "exits.total", "exits.1", "z", "exits.12", "error", "point"]
    rows = filled([failed, one, other])
    assert [row["exits.1"] for row in rows] == [None, 0, 4]
    assert [row["z"] for row in rows] == [None, None, 1]


def test_what_did_not_happen_is_counted_as_0() -> None:
    met = {"a": 1, "exits.1": 2, "latency.blocked.count": 3, "latency.blocked.p50": 7.5, "cycles": 9, "error": None}
    other = {"a": 2, "exits.12": 4, "error": None}
    failed = {"a": 3, "error": "x"}
    _, row, none = filled([met, other, failed])
    assert row == dict.fromkeys(met) | {"a": 2, "exits.1": 0, "exits.12": 4, "latency.blocked.count": 0}
    assert none == dict.fromkeys(row) | {"a": 3, "error": "x"}


def test_a_latency_that_some_points_do_not_have(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, '"host.pcpus" = [1, 2]\nseed = [1]'), tmp_path / "r.csv"
    wanted = [False, True]
    for rows in (ipivrs.sweep(grid, out=out).rows, ipivrs.sweep(grid, out=out).rows):
        assert [row["latency.running.count"] > 0 for row in rows] == wanted
        assert [row["latency.running.p50"] is not None for row in rows] == wanted


def test_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "r.parquet"
    workloads = '"vm.0.workload" = [{ name = "ping", rounds = 3 }, { name = "ping", rounds = 4 }]'
    grid = write_grid(tmp_path, f'{workloads}\n"host.pcpus" = [1, 2]')
    result = ipivrs.sweep(grid, out=out)
    read = parquet.read_table(out).to_pylist()
    assert [row | {"vm.0.workload": json.dumps(row["vm.0.workload"])} for row in result.rows] == read
    assert ipivrs.sweep(grid, out=out).rows == result.rows
    table = tmp_path / "mixed.parquet"
    tables.write_table(table, [{"a": 1, "point": "p"}, {"a": "x", "point": "q"}, {"a": 2**63, "point": "r"}])
    assert [row["a"] for row in parquet.read_table(table).to_pylist()] == ["1", "x", str(2**63)]


def test_what_parquet_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ipivrs.SweepError, match=r"pip install 'ipivrs\[frames\]'"):
        ipivrs.sweep(write_grid(tmp_path, SEEDS), out=tmp_path / "r.parquet")
    assert not (tmp_path / "r.parquet.journal").exists()


def _written(path: Path) -> tuple[int, int, int]:
    """Which file it is, and its last write; a read changes other times."""
    file = path.stat()
    return file.st_ino, file.st_mtime_ns, file.st_size


def test_large_seeds_are_numbers_in_parquet(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    out = tmp_path / "r.parquet"
    grid = ipivrs.Grid(scenario=write_grid(tmp_path, "").with_name("base.toml"), grid={"seed": [1, 2**63, 2**64 - 1]})
    ipivrs.sweep(grid, out=out)
    read = parquet.read_table(out)
    assert str(read.schema.field("seed").type) == "uint64"
    assert read["seed"].to_pylist() == [1, 2**63, 2**64 - 1]
    assert str(read.schema.field("ipis.total").type) == "int64"
    table = tmp_path / "mixed.parquet"
    columns = {"a": [1, None, 2**63], "b": [-1, 0, 2**63], "c": [True, 1, 2**63], "d": [0, 1, 2**64]}
    tables.write_table(table, [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)])
    types = {field.name: str(field.type) for field in parquet.read_schema(table)}
    assert types == {"a": "uint64", "b": "string", "c": "string", "d": "string"}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_complete_sweep_is_not_repeated_and_a_larger_one_goes_on(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"r.{suffix}"
    first = ipivrs.sweep(write_grid(tmp_path, "seed = [1, 2]"), out=out)
    before = _written(out)
    again = ipivrs.sweep(write_grid(tmp_path, "seed = [1, 2]"), out=out)
    assert (again.ran, again.rows) == (0, first.rows)
    assert _written(out) == before
    more = ipivrs.sweep(write_grid(tmp_path, "seed = [2, 3, 1]"), out=out)
    assert (more.ran, [row["seed"] for row in more.rows]) == (1, [2, 3, 1])
    assert {row["point"]: row["seconds"] for row in first.rows}.items() <= {
        row["point"]: row["seconds"] for row in more.rows
    }.items()


@pytest.mark.parametrize("torn", ["", '{"point": "abc", "ro', "\0\0\0\0", '{"po\n'])
def test_after_a_crash_it_goes_on(tmp_path: Path, torn: str) -> None:
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    lines = saved_journal(grid, out)
    assert len(lines) == 7
    journal_of(out).write_text("".join(lines[:4]) + torn)
    result = ipivrs.sweep(grid, out=out)
    assert (result.ran, len(result.rows), result.partial) == (3, 6, False)
    before = {json.loads(line)["point"]: json.loads(line)["row"]["seconds"] for line in lines[1:4]}
    assert before.items() <= {row["point"]: row["seconds"] for row in result.rows}.items()
    assert not journal_of(out).exists()


def test_a_crash_before_the_first_line(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, "seed = [1]"), tmp_path / "r.csv"
    journal_of(out).write_text('{"journal": "ipiv')
    assert ipivrs.sweep(grid, out=out).ran == 1


def test_a_journal_of_another_grid_is_refused(tmp_path: Path, shell: Shell) -> None:
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    text = "".join(saved_journal(grid, out)[:4])
    journal_of(out).write_text(text)
    other = write_grid(tmp_path, "seed = [1, 20]")
    result = shell("sweep", other, "--out", out)
    assert result.exit_code == 2
    assert "points are not of this grid as it is now" in result.stderr
    assert "give --out another name, or --restart to begin anew" in result.stderr
    assert journal_of(out).read_text() == text
    assert shell("sweep", other, "--out", out, "--restart").exit_code == 0
    assert len(out.read_text().splitlines()) == 3
    # And so is a results file.
    before = out.read_text()
    assert (
        f"{out}: 1 of its 2 points are not of this grid"
        in shell("sweep", write_grid(tmp_path, SEEDS), "--out", out).stderr
    )
    assert (out.read_text(), journal_of(out).exists()) == (before, False)


def test_what_is_no_result_of_a_sweep_is_left_alone(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, "seed = [1]"), tmp_path / "r.csv"
    out.write_text("my,own\n1,2\n")
    with pytest.raises(ipivrs.SweepError, match="is no result of a sweep"):
        ipivrs.sweep(grid, out=out)
    assert (out.read_text(), journal_of(out).exists()) == ("my,own\n1,2\n", False)
    out.write_bytes(b"\xff")
    with pytest.raises(ipivrs.SweepError, match=r"cannot be read: .*\ngive out another name, or restart=True to"):
        ipivrs.sweep(grid, out=out)
    assert out.read_bytes() == b"\xff"
    out.unlink()
    journal_of(out).write_text("my own\n")
    with pytest.raises(ipivrs.SweepError, match="journal:1: this is no line of a sweep's journal"):
        ipivrs.sweep(grid, out=out)
    assert journal_of(out).read_text() == "my own\n"


def test_a_damaged_line_in_the_middle_is_refused(tmp_path: Path, shell: Shell) -> None:
    """What is to be done about it loses no row: not the other lines', and not those of the results file."""
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    lines = saved_journal(grid, out)
    damaged = "".join([*lines[:2], "garbage\n", *lines[3:]])
    journal_of(out).write_text(damaged)
    no_line = "this is no line of a sweep's journal"
    said = f"error: {journal_of(out)}:3: {no_line}: delete this line, and its point is run again; "
    rest = "or else give --out another name, or --restart to begin anew\n"
    assert shell("sweep", grid, "--out", out).stderr == said + rest
    journal_of(out).write_text("".join([*lines[:2], *lines[3:]]))
    assert ipivrs.sweep(grid, out=out).ran == 1
    journal_of(out).write_text(damaged)
    remove = f"if {out} has the rows, remove the journal, and only what is not there is run; "
    assert shell("sweep", grid, "--out", out).stderr == f"{said}or {remove}{rest}"
    journal_of(out).write_text("garbage\n")
    first = f"error: {journal_of(out)}:1: {no_line}: "
    assert shell("sweep", grid, "--out", out).stderr == f"{first}{remove}{rest}"
    journal_of(out).unlink()
    assert ipivrs.sweep(grid, out=out).ran == 0


def test_ctrl_c_that_reaches_the_workers_ends_no_point(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, "seed = [1, 2, 3]", SLOW), tmp_path / "r.csv"
    process = begun(grid, out, "--workers", "1", "--json")
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGINT)
    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(stdout)["errors"]) == (0, 0)
    interrupted = out.read_bytes()
    ipivrs.sweep(grid, out=out, restart=True)
    assert out.read_bytes() == interrupted


def test_two_sweeps_do_not_write_one_file(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    journal = Journal(journal_of(out))
    with pytest.raises(ipivrs.SweepError, match="another sweep is writing it"):
        ipivrs.sweep(grid, out=out)
    journal.close()


def test_an_interrupted_restart_does_not_take_up_the_old_results(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, "seed = [1, 2]"), tmp_path / "r.csv"
    ipivrs.sweep(grid, out=out)
    Journal(journal_of(out), restart=True).close()
    assert ipivrs.sweep(grid, out=out).ran == 2


def test_a_point_that_fails_is_a_row(tmp_path: Path, shell: Shell) -> None:
    grid = write_grid(tmp_path, '"vm.0.workload.rounds" = [3, 4]\nseed = [1]')
    (tmp_path / "base.toml").write_text('[[vm]]\nworkload = { name = "storm" }\n')
    text = grid.read_text().replace(
        '"vm.0.workload.rounds" = [3, 4]', '"vm.0.workload" = [{ name = "storm" }, { name = "ping", rounds = 3 }]'
    )
    grid.write_text(text)
    result = shell("sweep", grid, "--out", tmp_path / "r.csv")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "2 of 2 points" in result.stdout
    assert (
        "1 point has no result:\n  seconds: no program and no device of this scenario ends by itself" in result.stdout
    )
    values = json.loads(shell("sweep", grid, "--out", tmp_path / "r.csv", "--json").stdout)
    assert (values["ran"], values["errors"], values["rows"][1]["ipis.total"]) == (0, 1, 3)
    assert "for how many seconds" in values["rows"][0]["error"]


def test_violations_are_told(tmp_path: Path, shell: Shell) -> None:
    policy = tmp_path / "mine.policy"
    policy.write_text("policy mine\n  load:\n    fence\n")
    grid = write_grid(tmp_path, f'"host.policy" = ["kvm", "{policy}"]', SLOW)
    result = shell("sweep", grid, "--out", tmp_path / "r.csv", "--json")
    values = json.loads(result.stdout)
    assert (result.exit_code, values["violations"], values["errors"]) == (1, 1, 0)
    assert [row["policy"] for row in values["rows"]] == ["kvm", "mine"]
    assert values["rows"][1]["violations.first"]
    assert "violations at 1 point: " in shell("sweep", grid, "--out", tmp_path / "r.csv").stdout


def test_json_and_the_default_name(tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = shell("sweep", write_grid(tmp_path, "seed = [1, 2]"), "--json", "--workers", "1")
    values = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (values["out"], values["points"], values["done"], values["ran"]) == ("g.csv", 2, 2, 2)
    assert (values["errors"], values["violations"], values["partial"]) == (0, 0, False)
    assert len(values["rows"]) == 2
    assert (tmp_path / "g.csv").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "r.txt"], "--out must end in .csv or .parquet, not 'r.txt'"),
        (["--out", "no/r.csv"], "--out no/r.csv: there is no folder no"),
        (["--workers", "0"], "--workers must be 1 to 4096"),
        (["--workers", "x"], "--workers must be a number"),
        (["--engine", "thread"], "--engine must be one of threads, virtual-time; not 'thread'; did you mean threads?"),
        (["--workers", "1", "--dask", "x"], "give either --workers or --dask, not both"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = shell("sweep", write_grid(tmp_path, SEEDS), *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr
    assert not list(tmp_path.glob("*.journal"))


def test_python_is_told_of_arguments(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    with pytest.raises(ipivrs.SweepError, match=r"^out must end in \.csv or \.parquet, not 'r\.txt'$"):
        ipivrs.sweep(grid, out=tmp_path / "r.txt")
    with pytest.raises(ipivrs.SweepError, match=r": give either workers or dask, not both$"):
        ipivrs.sweep(grid, out=out, workers=1, dask="tcp://127.0.0.1:9")
    journal_of(out).write_text("my own\n")
    with pytest.raises(ipivrs.SweepError, match=r": give out another name, or restart=True to begin anew$"):
        ipivrs.sweep(grid, out=out)
    journal_of(out).unlink()
    out.write_text("point\nstrange\n")
    with pytest.raises(ipivrs.SweepError, match=r"of this grid (.|\n)*give out another name, or restart=True to begin"):
        ipivrs.sweep(grid, out=out)
    out.write_text("my,own\n1,2\n")
    with pytest.raises(ipivrs.SweepError, match=r": give out another name, or restart=True to replace it$"):
        ipivrs.sweep(grid, out=out)
    journal = Journal(journal_of(out))
    with pytest.raises(ipivrs.SweepError, match=r"wait for it, or give out another name$"):
        ipivrs.sweep(grid, out=out)
    journal.close()


def test_every_mistake_is_found_before_anything_runs(tmp_path: Path, shell: Shell) -> None:
    result = shell("sweep", write_grid(tmp_path, '"host.pcpus" = [1, 0]'), "--out", tmp_path / "r.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"error: {tmp_path}/g.toml:3: grid.host.pcpus: must be 1 or more, not 0\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.toml", "g.toml"]


def begun(grid: Path, out: Path, *options: str) -> "subprocess.Popen[str]":
    """A sweep in a process of its own, that has done some of its points."""
    command = [sys.executable, "-m", "ipivrs", "sweep", str(grid), "--out", str(out), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (
        journal_of(out).exists() and len(journal_of(out).read_text().splitlines()) > 2
    ):
        time.sleep(0.01)
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_it_goes_on(tmp_path: Path, shell: Shell, number: int, code: int) -> None:
    grid, out = write_grid(tmp_path, "seed = { from = 1, to = 10 }", SLOW), tmp_path / "r.csv"
    process = begun(grid, out, "--workers", "2")
    workers = workers_of(process.pid)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    done = journalled(out)
    assert (process.returncode, stderr) == (
        code,
        f"error: interrupted: {len(done)} of 10 points are done; the same command runs the rest\n",
    )
    assert 2 <= len(done) < 10
    assert workers
    assert not any(is_there(worker) for worker in workers)
    with out.open() as file:
        assert {row["point"] for row in csv.DictReader(file)} == set(done)
    result: dict[str, Any] = json.loads(shell("sweep", grid, "--out", out, "--json").stdout)
    assert (result["ran"], result["done"], result["partial"]) == (10 - len(done), 10, False)
    assert [row["seed"] for row in result["rows"]] == list(range(1, 11))
    assert len({row["point"] for row in result["rows"]}) == 10
    assert not journal_of(out).exists()


def test_a_signal_before_the_first_point_leaves_nothing(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, "seed = [1, 2]", SLOW.replace("0.3", "1e6")), tmp_path / "r.csv"
    command = [sys.executable, "-m", "ipivrs", "sweep", str(grid), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not workers_of(process.pid):
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = "error: interrupted before the first of 2 points was done: nothing is written\n"
    assert (*process.communicate(timeout=60), process.returncode) == ("", said, 130)
    assert not out.exists()
    assert not journal_of(out).exists()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_after_a_kill_it_goes_on_and_no_worker_is_left(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    grid, out = write_grid(tmp_path, "seed = { from = 1, to = 10 }", SLOW), tmp_path / f"r.{suffix}"
    process = begun(grid, out, "--workers", "2")
    while process.poll() is None and not out.exists():
        time.sleep(0.01)
    workers = workers_of(process.pid)
    process.kill()
    process.communicate(timeout=60)
    end = time.monotonic() + 30
    while any(is_there(worker) for worker in workers) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(is_there(worker) for worker in workers)
    done = journalled(out)
    assert len(done) < 10
    read = points_in(out)
    assert read
    assert set(read) <= set(done)
    out.with_name(f".{out.name}.tmp").write_text("half of a fi")  # killed while it was written
    result = ipivrs.sweep(grid, out=out)
    assert (result.ran, len(result.rows)) == (10 - len(done), 10)
    assert out.read_bytes() == whole(grid, suffix)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base.toml", "g.toml", out.name, f"whole.{suffix}"]


def points_in(out: Path) -> list[str]:
    """The points that a results file has rows of."""
    return [row["point"] for row in tables.read_table(out).values()]


def whole(grid: Path, suffix: str) -> bytes:
    """The results file of a sweep that nothing ended."""
    out = grid.with_name(f"whole.{suffix}")
    assert not ipivrs.sweep(grid, out=out).partial
    return out.read_bytes()


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_the_results_can_be_read_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(sweeping, "_SECONDS_BETWEEN_WRITES", 0)
    monkeypatch.setattr(sweeping, "_LAST_WRITES_BETWEEN_WRITES", 0)
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / f"r.{suffix}"
    before: list[str] = []
    seen: list[int] = []

    def look(_: int, __: int) -> None:
        """What was in the journal when something was done last is in the file now, in the grid's order."""
        if before:
            read = points_in(out)
            assert sorted(read) == sorted(before)
            assert [point for point in order if point in read] == read
            seen.append(len(read))
        before[:] = journalled(out) if journal_of(out).exists() else []

    order = [point.key for point in Plan(find_grid(grid)).points]
    ipivrs.sweep(grid, out=out, workers=1, progress=look)
    assert seen
    assert min(seen) < 6
    assert points_in(out) == order
    assert out.read_bytes() == whole(grid, suffix)


@pytest.mark.parametrize(("write_takes", "least"), [(0.0, 2), (0.0625, 2), (1.0, 20), (30.0, 600)])
def test_writing_takes_a_small_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_takes: float, least: float
) -> None:
    clock = 0.0
    writes: list[float] = []
    ends: list[float] = []

    def write(path: Path, rows: list[dict[str, Any]]) -> None:
        nonlocal clock
        writes.append(clock)
        clock += write_takes
        ends.append(clock)
        tables.write_table(path, rows)

    def go_on(_: int, __: int) -> None:
        nonlocal clock
        clock += least / 8

    monkeypatch.setattr(sweeping, "time", SimpleNamespace(monotonic=lambda: clock))
    monkeypatch.setattr(sweeping, "write_table", write)
    monkeypatch.setattr(sweeping, "LocalWorkers", OneByOne)
    ipivrs.sweep(write_grid(tmp_path, "seed = { from = 1, to = 40 }"), out=tmp_path / "r.csv", progress=go_on)
    waits = [begin - end for begin, end in zip(writes[1:-1], ends, strict=False)]
    assert len(waits) > 2, "the first rows, some in between, and all in the end"
    assert least <= min(waits)
    assert max(waits) < least * 1.5


class OneByOne:
    """Workers that give back a row at a time."""

    busy = False
    room = 1

    def __init__(self, _: int) -> None:
        self.rows: list[Outcome] = []

    def submit(self, description: dict[str, Any]) -> None:
        self.rows.append(Outcome(description, run_point(description)))

    def finished(self, _: float) -> list[Outcome]:
        done, self.rows = self.rows, []
        return done

    def close(self) -> None:
        """Nothing was begun."""


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("in_file", "in_journal", "left"), [(3, 4, 2), (0, 4, 2), (3, None, 3), (6, 6, 0), (6, None, 0), (6, 2, 0)]
)
def test_wherever_it_was_killed_the_rest_is_run_and_the_file_is_the_same(
    tmp_path: Path, suffix: str, in_file: int, in_journal: int | None, left: int
) -> None:
    """A file that is older than the journal, one without a journal, and all that is between the two."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / f"r.{suffix}"
    wanted = whole(grid, suffix)
    lines = saved_journal(grid, out)
    rows = {json.loads(line)["point"]: json.loads(line)["row"] for line in lines[1:]}
    first = [rows[point.key] for point in Plan(find_grid(grid)).points]
    if in_file:
        tables.write_table(out, filled(first[:in_file]))
    if in_journal is not None:
        done = [json.dumps({"point": row["point"], "row": row}) + "\n" for row in first[:in_journal]]
        journal_of(out).write_text("".join([lines[0], *done]))
    result = ipivrs.sweep(grid, out=out)
    assert (result.ran, len(result.rows)) == (left, 6)
    assert out.read_bytes() == wanted
    assert not journal_of(out).exists()


def test_a_restart_that_is_killed_does_not_mix_old_results_with_new_ones(tmp_path: Path) -> None:
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.csv"
    lines = saved_journal(grid, out)
    wanted = whole(grid, "csv")
    out.write_bytes(wanted)
    header = json.dumps(json.loads(lines[0]) | {"restarted": True}) + "\n"
    journal_of(out).write_text("".join([header, *lines[1:3]]))
    assert ipivrs.sweep(grid, out=out).ran == 4
    assert out.read_bytes() == wanted
