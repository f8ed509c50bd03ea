"""Results files of sweeps that somebody changed: nothing that is wrong is taken for a result, and nothing is lost."""

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ipivrs
from conftest import Shell
from ipivrs.schema_command import schemas
from ipivrs.tables import read_table, write_table
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


def swapped(table: Table) -> None:
    table[1][-1], table[2][-1] = table[2][-1], table[1][-1]


def called_otherwise(name: str, instead: str) -> Callable[[Table], None]:
    def edit(table: Table) -> None:
        table[0][table[0].index(name)] = instead

    return edit


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
        (put(4, "vms.1.apicv", "YES"), "{out}:4: vms.1.apicv must be true or false, not 'YES'\n"),
        (put(4, "vms.1.apicv", "0"), "{out}:4: vms.1.apicv must be true or false, not 0\n"),
        (put(4, "ipis.total", "1E-3"), "{out}:4: ipis.total must be a whole number of 0 or more, not 0.001\n"),
        (put(3, "seed", "3"), "{out}:3: seed must be 2 at this point of the grid, not '3'\n" + ROWS),
        (put(3, "seed", ""), "{out}:3: seed must be 2 at this point of the grid, not None\n" + ROWS),
        (swapped, "{out}:2: seed must be 2 at this point of the grid, not '1'\n{out}:3: seed must be 1 "),
        (
            put(4, "engine", "threads"),
            "{out}:4: engine must be 'virtual-time' at this point of the grid, not 'threads'\n" + ROWS,
        ),
        (put(4, "version", "9.9"), "{out}:4: version must be '"),
        (put(2, "violations.first", "cosmic-ray"), "{out}:2: violations.first must be one of wild-post, "),
        (put(2, "violations.first", "stall"), "{out}:2: violations is 0, and violations.first is stall\n"),
        (put(2, "violations", "1"), "{out}:2: violations is 1, and violations.first is empty\n"),
        (called_otherwise("exits.12", "exits.13"), "{out}:2: exits.total is "),
        (put(2, "ipis.posted", ""), "{out}:2: ipis.posted is empty\n"),
        (put(2, "engine", ""), "{out}:2: engine must be 'virtual-time' at this point of the grid, not None\n"),
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


# Of whatever a grid may have as a value: numbers, fractions, words, words that look like numbers, tables, lists.
AXES: dict[str, list[Any]] = {
    "host.pcpus": [2, 3, 4],
    "host.policy": ["kvm", "kvm-sn-in-host", "kvm"],
    "host.enable_ipiv": [True, False, True],
    "seconds": [0.1 + 0.2, 1e-5, 3],
    "seed": [2**64 - 1, 2**64 - 3, 0],
    "vm": [[{"workload": {"name": "ping", "rounds": rounds}}] for rounds in (5, 6, 7)],
    "title": ["1", "007", ""],
    "chaos": [{"hot_add": 0}, {"migrate": False}, {"hot_add": 0, "preempt": False}],
}


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_values_of_the_grid_that_were_changed_are_refused(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    scenario = ipivrs.Scenario.model_validate({"vm": AXES["vm"][0]})
    together = [list(values) for values in zip(*AXES.values(), strict=True)]
    grid = ipivrs.Grid(scenario=scenario, grid={", ".join(AXES): together})
    out = tmp_path / f"r.{suffix}"
    ipivrs.sweep(grid, out=out, workers=1)
    assert ipivrs.sweep(grid, out=out).ran == 0
    for axis in AXES:
        rows = [dict(row) for row in read_table(out, AXES).values()]
        rows[0][axis], rows[1][axis] = rows[1][axis], rows[0][axis]
        wrong = tmp_path / f"wrong.{suffix}"
        write_table(wrong, rows)
        before = wrong.read_bytes()
        with pytest.raises(
            ipivrs.SweepError, match=rf"wrong.*: {axis} must be .* at this point of the grid, not "
        ) as e:
            ipivrs.sweep(grid, out=wrong)
        assert str(e.value).count(" must be ") == 2
        assert wrong.read_bytes() == before


def test_values_of_a_grid_that_was_made_in_python_are_known_again(tmp_path: Path) -> None:
    """Tuples, and what stands for tables, are in the file as a grid's file would have them."""
    group = ipivrs.Group(vcpus=[0], program=ipivrs.Program().compute(5).hlt())
    vms = [(ipivrs.VM(vcpus=2, group=(group,)),), [{"vcpus": 2, "group": (group,)}, ipivrs.VM(group=[group])]]
    grid, out = ipivrs.Grid(scenario="ping", grid={"vm": vms}), tmp_path / "r.csv"
    first = ipivrs.sweep(grid, out=out, workers=1)
    assert not first.errors
    again = ipivrs.sweep(grid, out=out)
    assert (again.ran, again.rows) == (0, first.rows)


@pytest.mark.parametrize(("true", "false"), [("TRUE", "FALSE"), ("True", "False")])
def test_what_spreadsheets_and_pandas_make_of_numbers_and_booleans_is_read(
    tmp_path: Path, true: str, false: str
) -> None:
    values = 'seed = [1, 2]\nseconds = [0.00002, 1.5]\n"host.enable_ipiv" = [true, false]'
    grid, out = write_grid(tmp_path, values), tmp_path / "r.csv"
    first = ipivrs.sweep(grid, out=out)
    before, table = out.read_text(), read(out)
    for row in table[1:]:
        for at, text in enumerate(row[:-1]):
            if text in ("true", "false"):
                row[at] = {"true": true, "false": false}[text]
            elif text.isdecimal():
                row[at] = f"{text}.0"
            elif table[0][at].endswith("seconds") and text:
                row[at] = f"{float(text):.16E}"
    write(out, [*table, [""] * len(table[0])])
    assert out.read_text() != before
    again = ipivrs.sweep(grid, out=out)
    assert (again.ran, again.rows) == (0, first.rows)
    write(out, [*table[:-1], [""] * len(table[0])])
    assert ipivrs.sweep(grid, out=out).ran == 1
    assert out.read_text() == before


def test_parquet_that_went_through_pandas_is_read(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    values = '"vm.0.workload" = [{ name = "ping", rounds = 3 }, { name = "storm" }]'
    grid, out = write_grid(tmp_path, values), tmp_path / "r.parquet"
    first = ipivrs.sweep(grid, out=out)
    assert len(first.errors) == 1
    frame = pd.read_parquet(out)
    assert str(frame["ipis.total"].dtype) == "float64"
    frame.to_parquet(out)
    again = ipivrs.sweep(grid, out=out)
    assert (again.ran, again.rows) == (0, first.rows)
    assert type(again.rows[0]["ipis.total"]) is int


@pytest.mark.parametrize(("delimiter", "words"), [(";", "semicolons"), ("\t", "tabs")])
def test_a_delimiter_that_is_no_comma_is_named(
    done: tuple[Path, Path], shell: Shell, delimiter: str, words: str
) -> None:
    grid, out = done
    with out.open() as file:
        table = list(csv.reader(file))
    with out.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(table)
    before = out.read_bytes()
    result = shell("sweep", grid, "--out", out)
    assert (result.exit_code, result.stdout, out.read_bytes()) == (2, "", before)
    assert result.stderr == (
        f"error: {out}:1: between its columns are {words}, not commas: save it with commas, and it is read; "
        "or else give --out another name, or --restart to replace it\n"
    )


def test_the_kinds_of_violations_and_of_exits_are_those_of_the_core() -> None:
    source = Path(__file__).parent.parent / "rust/src"
    folders = ("processor", "engine/machine", "engine/scheduler", "engine/threads", "engine/virtual_time", "python")
    files = [file for folder in folders for file in (source / folder).rglob("*.rs") if file.name != "tests.rs"]
    patterns = (
        r'(?:\.violation\(|\brecord\(|ViolationRecord \{ kind:)\s*"([a-z-]+)"',  # that are noted
        r'Self::\w+ \{ \.\. \} => "([a-z-]+)",',  # the processor's
        r'"kind" => "(more)"',
    )
    kinds = {kind for file in files for pattern in patterns for kind in re.findall(pattern, file.read_text())}
    for schema in ("run-scenario", "run-recording"):
        assert set(schemas()[schema]["$defs"]["violation"]["properties"]["kind"]["enum"]) == kinds
    reasons = re.findall(r"^    [A-Z]\w+ = (\d+),$", (source / "arch/exit.rs").read_text(), re.MULTILINE)
    assert schemas()["run-scenario"]["$defs"]["exit"]["properties"]["reason"]["enum"] == list(map(int, reasons))


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
