"""Results files of sweeps that somebody changed: nothing that is wrong is taken for a result, and nothing is lost."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest

import ipivrs
from conftest import Shell
from sweeps import write_grid

Table = list[list[str]]

SEEDS = "seed = [1, 2, 3]"
TWO_VMS = '[[vm]]\nworkload = { name = "ping", rounds = 5 }\n' * 2


@pytest.fixture
def done(tmp_path: Path) -> tuple[Path, Path]:
    """A grid of three points, and its results."""
    grid, out = write_grid(tmp_path, SEEDS, TWO_VMS), tmp_path / "r.csv"
    ipivrs.sweep(grid, out=out)
    return grid, out


def read(out: Path) -> Table:
    with out.open(newline="") as file:
        return list(csv.reader(file))


def write(out: Path, table: Table) -> None:
    with out.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(table)


def put(line: int, column: str, value: str) -> Callable[[Table], None]:
    def edit(table: Table) -> None:
        table[line - 1][table[0].index(column)] = value

    return edit


def without(*columns: str) -> Callable[[Table], None]:
    def edit(table: Table) -> None:
        for column in columns:
            at = table[0].index(column)
            for row in table:
                del row[at]

    return edit


def twice(table: Table) -> None:
    table.append(table[1])


def cut(table: Table) -> None:
    del table[3][20:]


def longer(table: Table) -> None:
    table[2].append("more")


ROWS = "put that right, or delete these rows, and what is not there is run again; or else give --out another name, or"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (twice, "{out}:5: the point of this row has one already: {out}:2\n" + ROWS),
        (cut, "{out}:4: this row has no point\n" + ROWS),
        (longer, "{out}:3: this row has more cells than there are columns\n" + ROWS),
        (
            put(3, "ipis.total", "banana"),
            "{out}:3: ipis.total must be a whole number of 0 or more, not 'banana'\n" + ROWS,
        ),
        (put(3, "ipis.total", "5.5"), "{out}:3: ipis.total must be a whole number of 0 or more, not 5.5\n"),
        (put(3, "ipis.total", "-5"), "{out}:3: ipis.total must be a whole number of 0 or more, not -5\n"),
        (put(4, "seconds", "0,5"), "{out}:4: seconds must be a number of 0 or more, not '0,5'\n"),
        (put(4, "vms.1.apicv", "TRUE"), "{out}:4: vms.1.apicv must be true or false, not 'TRUE'\n"),
        (put(2, "ipis.posted", ""), "{out}:2: ipis.posted is empty\n"),
        (put(2, "engine", ""), "{out}:2: engine is empty\n"),
        (put(2, "vms.1.table.bytes", ""), "{out}:2: vms.1.table.bytes is empty\n"),
        (put(2, "latency.running.p99", ""), "{out}:2: latency.running.p99 is empty\n"),
        (put(2, "exits.total", "77"), "{out}:2: exits.total is 77, and the exits by reason are "),
        (without("ipis.total"), "{out}: its column ipis.total is missing: put it back, give --out another name, or"),
        (without("cycles", "profile"), "{out}: its column cycles is missing: put it back, "),
        (without("error"), "{out}: its column error is missing: put it back, "),
        (without("latency.running.p50"), "{out}:2: latency.running.p50 is missing\n"),
        (without("exits.12"), "{out}:2: exits.total is "),
        (without("point"), "{out} is there and is no result of a sweep: "),
        (put(2, "point", "x"), "{out}: 1 of its 3 points are not of this grid as it is now"),
    ],
)
def test_what_was_changed_is_refused_and_left_alone(
    done: tuple[Path, Path], shell: Shell, edit: Callable[[Table], None], message: str
) -> None:
    grid, out = done
    table = read(out)
    edit(table)
    write(out, table)
    before = out.read_bytes()
    result = shell("sweep", grid, "--out", out)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("error: " + message.format(out=out))
    assert "--restart to " in result.stderr
    assert out.read_bytes() == before
    assert not out.with_name("r.csv.journal").exists()


def test_a_line_is_that_of_the_file(done: tuple[Path, Path]) -> None:
    """Cells may have several lines, and there may be empty ones."""
    grid, out = done
    table = read(out)
    for at, row in enumerate(table):
        row.append("my note" if at == 0 else "two\nlines")
    put(4, "ipis.total", "x")(table)
    write(out, table)
    out.write_text(out.read_text().replace("\n", "\n\n", 1))
    with pytest.raises(ipivrs.SweepError, match=r"r\.csv:7: ipis\.total must be "):
        ipivrs.sweep(grid, out=out)


def test_many_mistakes_are_not_all_told(done: tuple[Path, Path]) -> None:
    grid, out = done
    table = read(out)
    for column in ("ipis.total", "ipis.posted", "ipis.wild"):
        for line in (2, 3, 4):
            put(line, column, "x")(table)
    write(out, table)
    with pytest.raises(ipivrs.SweepError, match=r"(?s)^.*not 'x'\nand 4 more\nput that right, .* or restart=True to "):
        ipivrs.sweep(grid, out=out)


def test_rows_that_were_deleted_are_run_again(done: tuple[Path, Path]) -> None:
    grid, out = done
    before = out.read_bytes()
    table = read(out)
    twice(table)
    put(3, "ipis.total", "banana")(table)
    write(out, [table[0], table[3], table[4]])
    assert ipivrs.sweep(grid, out=out).ran == 1
    assert out.read_bytes() == before


def test_what_a_spreadsheet_writes_is_read(done: tuple[Path, Path]) -> None:
    grid, out = done
    before, table = out.read_text(), read(out)
    out.write_text("\ufeff" + before.replace("\n", "\r\n"), encoding="utf-8", newline="")
    again = ipivrs.sweep(grid, out=out)
    assert (again.ran, again.columns) == (0, table[0])
    out.write_text("\ufeff" + "\n".join(before.split("\n")[:3]) + "\n", encoding="utf-8")
    assert ipivrs.sweep(grid, out=out).ran == 1
    assert out.read_text() == before


def test_the_grids_values_are_the_grids_and_columns_of_ones_own_stay(done: tuple[Path, Path]) -> None:
    grid, out = done
    before = read(out)
    table = read(out)
    without("seed")(table)
    for at, row in enumerate(table):
        row.insert(0, "my note" if at == 0 else "fine")
    write(out, table[:3])
    result = ipivrs.sweep(grid, out=out)
    assert (result.ran, [row["seed"] for row in result.rows]) == (1, [1, 2, 3])
    assert [row["my note"] for row in result.rows] == ["fine", "fine", None]
    assert result.columns[:2] == ["seed", "my note"]
    without("my note")(table := read(out))
    assert table == before


def test_parquet_too(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    grid, out = write_grid(tmp_path, SEEDS), tmp_path / "r.parquet"
    ipivrs.sweep(grid, out=out)
    table = parquet.read_table(out)
    parquet.write_table(pa.concat_tables([table, table.slice(1, 1)]), out)
    with pytest.raises(
        ipivrs.SweepError, match=r"r\.parquet: row 4: the point of this row has one already: .*: row 2\n"
    ):
        ipivrs.sweep(grid, out=out)
    parquet.write_table(table.drop_columns(["ipis.total"]), out)
    with pytest.raises(
        ipivrs.SweepError, match=r"r\.parquet: its column ipis\.total is missing: put it back, give out"
    ):
        ipivrs.sweep(grid, out=out)
    parquet.write_table(table.drop_columns(["ipis.total"]).append_column("ipis.total", [["1", "2", "x"]]), out)
    with pytest.raises(ipivrs.SweepError, match=r"row 1: ipis\.total must be a whole number of 0 or more, not '1'\n"):
        ipivrs.sweep(grid, out=out)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("engine", ["threads", "virtual-time"])
def test_no_result_is_refused(tmp_path: Path, suffix: str, engine: str) -> None:
    """Of whatever a sweep may have in its rows: several VMs or one, seconds and seeds that vary, points that fail."""
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    ping, storm = [{"workload": {"name": "ping", "rounds": 5}}], [{"vcpus": 4, "workload": {"name": "storm"}}]
    last = 2**64 - 1
    for values in (
        {"vm": [ping, ping + storm, storm], "seconds": [0.01, 0.02], "seed": [1, last]},
        {"seed": [1]},
        {"host.pcpus": [1, 2]},
        {"vm.0.workload": [{"name": "storm"}]},
    ):
        grid = ipivrs.Grid.model_validate(
            {"scenario": ipivrs.Scenario.model_validate({"vm": ping, "seed": last}), "grid": values, "engine": engine}
        )
        out = tmp_path / f"{'-'.join(values)}.{suffix}"
        first = ipivrs.sweep(grid, out=out)
        again = ipivrs.sweep(grid, out=out)
        assert again.ran == 0
        assert len(again.rows) == len(first.rows) == first.points
        assert bool(first.errors) == ("vm.0.workload" in values)
