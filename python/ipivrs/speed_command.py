"""`ipivrs bench speed`: every path beside its floor and its target."""

import json as json_text
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.text import Text

from ipivrs import speed
from ipivrs.bars import steps
from ipivrs.options import BadInputError, check_writable, did_you_mean
from ipivrs.replacing import replace_text
from ipivrs.sections import table
from ipivrs.speed import Row
from ipivrs.starting import INTERRUPTED
from ipivrs.terminal import complain, show, show_json
from ipivrs.wording import difference

_SAVED = "give a file that `ipivrs bench speed --save` wrote"
_NEEDED = {"name", "value", "ratio"}


def bench_speed(
    only: Annotated[
        list[str] | None, typer.Option(metavar="A,B,...", help="Only these rows; give it again for more.")
    ] = None,
    save: Annotated[str | None, typer.Option(metavar="FILE", help="Write the rows as JSON.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="OLD.json", help="Rows saved before: show what changed.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> int:
    """How fast it is here: each path beside its floor and its target.

    A floor is what no implementation can beat. Path and floor take turns in one process; figures are medians. A missed
    target is no error. Ctrl-C ends it with the rows that are measured by then.
    """
    names = _names(only)
    before = {} if against is None else _saved(against)
    if save is not None:
        check_writable("--save", Path(save))
    rows, interrupted = _measured(names)
    if save is not None:
        _write(save, rows)
    if json:
        show_json(rows)
    else:
        show(_report(rows, before, compared=against is not None))
    if interrupted:
        complain(f"interrupted: {len(rows)} of {len(names)} rows are measured")
        return INTERRUPTED
    return 0


def _measured(names: list[str]) -> tuple[list[Row], bool]:
    """The rows, and whether Ctrl-C came before the last of them; before the first there is nothing to give."""
    rows: list[Row] = []
    with steps(len(names)) as begin:
        try:
            for name in names:
                begin(speed.PATHS[name].what.partition(" / ")[0])
                rows.extend(speed.measure([name]))
        except KeyboardInterrupt:
            if not rows:
                raise
            return rows, True
    return rows, False


def _names(only: list[str] | None) -> list[str]:
    known = list(speed.PATHS)
    names = [name.strip() for part in only or [] for name in part.split(",") if name.strip()]
    for name in names:
        if name not in known:
            question = did_you_mean(name, known)
            raise BadInputError(f"--only: no row {name!r}{question}; the rows are {', '.join(known)}")
    if only and not names:
        raise BadInputError(f"--only names no row; the rows are {', '.join(known)}")
    return [name for name in known if name in names] if only else known


def _saved(file: str) -> dict[str, Any]:
    """The rows of a file that --save wrote, by name."""
    try:
        rows = json_text.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"--against {file}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"--against {file} is not JSON ({error}): {_SAVED}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _NEEDED for row in rows):
        raise BadInputError(f"--against {file} has no rows: {_SAVED}")
    return {row["name"]: row for row in rows}


def _write(file: str, rows: list[Row]) -> None:
    try:
        replace_text(Path(file), json_text.dumps(rows, indent=2) + "\n")
    except OSError as error:
        raise BadInputError(f"--save {file}: {error.strerror}") from error


def _report(rows: list[Row], before: dict[str, Any], *, compared: bool) -> Group:
    then = (">before", ">change") if compared else ()
    lines = table("", ">figure", "", ">floor", ">ratio", *then, "target", "", "")
    for row in rows:
        sign = "<=" if row["sense"] == "at most" else ">="
        by = "x" if row["ratio"] is not None else row["unit"]
        lines.add_row(
            row["name"],
            _digits(row["value"]),
            row["unit"],
            _digits(row["floor"]),
            _digits(row["ratio"]),
            *(_change(row, before.get(row["name"])) if compared else ()),
            f"{sign} {row['target']:g} {by}",
            Text("met", style="green") if row["met"] else Text("missed", style="red"),
            Text(row["what"], style="dim"),
        )
    return Group(lines, *_why_missed(rows), Text(f"\n{speed.where()}", style="dim"))


def _why_missed(rows: list[Row]) -> Iterator[Text]:
    missed = [row["name"] for row in rows if not row["met"]]
    if missed:
        yield Text("\nWhy they are missed (docs/performance.md has what was tried):", style="bold")
        yield from (Text(f"  {name}: {speed.PATHS[name].missed}") for name in missed)


def _change(row: Row, old: dict[str, Any] | None) -> tuple[str, str]:
    """What was held to the target then, and how much more or less it is now."""
    held = "value" if row["ratio"] is None else "ratio"
    was = None if old is None else old[held]
    if not isinstance(was, int | float) or was == 0:
        return "", ""
    now = row["value"] if row["ratio"] is None else row["ratio"]
    return _digits(was), f"{difference(100 * (now / was - 1), 1)} %"


def _digits(value: float | None) -> str:
    """Three digits that count."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 (what three digits are)
