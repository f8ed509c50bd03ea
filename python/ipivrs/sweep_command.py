"""`ipivrs sweep`: a scenario at every point of a grid, from the shell.

Exit codes: 0 fine; 1 a violation was found, or a point has no result; 2 bad input; 130 and 143 interrupted.
"""

from typing import Annotated, cast, get_args

import typer
from rich.text import Text

from ipivrs import completion
from ipivrs.bars import meter
from ipivrs.engines import DEFAULT_ENGINE
from ipivrs.grid import find_grid, shipped_grids
from ipivrs.names import Engine
from ipivrs.options import BadInputError, choice, number, refusals_are_bad_input
from ipivrs.sweeping import MOST_WORKERS, SweepResult
from ipivrs.sweeping import sweep as run_sweep
from ipivrs.terminal import complain, remark, show, show_json
from ipivrs.wording import noun

_FAILED = 1
_SIGNALLED = 128
_MOST_SHOWN = 5


def sweep(
    grid: Annotated[
        str | None,
        typer.Argument(
            metavar="GRID",
            help="A TOML file, or the name of a shipped grid.",
            show_default=False,
            autocompletion=completion.sweep_grid,
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE", help="Results, .csv or .parquet; by default the grid's name .csv.")
    ] = None,
    workers: Annotated[str | None, typer.Option(metavar="N", help="Processes, by default one for each CPU.")] = None,
    dask: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Scheduler whose workers run the points.")] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(get_args(Engine)),
            help=f"Instead of the grid's engine, which is {DEFAULT_ENGINE} if it names none.",
            autocompletion=completion.one_of(Engine),
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead of the grid's profile of costs.", autocompletion=completion.profile),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew although there are results.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> int:
    """Run a scenario at every point of a grid, one row for each.

    Rows are on the disk as they come in, and the file may be read meanwhile; the same command again runs what is left.
    """
    if grid is None:
        raise BadInputError(f"give a grid: a TOML file, or one of the shipped: {', '.join(shipped_grids())}")
    count = None if workers is None else number("--workers", workers, 1, MOST_WORKERS)
    named = None if engine is None else cast("Engine", choice("--engine", engine, get_args(Engine)))
    with refusals_are_bad_input(), meter("points") as progress:
        result = run_sweep(
            grid,
            out=out,
            workers=count,
            dask=dask,
            engine=named,
            profile=profile,
            restart=restart,
            progress=progress,
        )
    if named == "threads" and profile is None and find_grid(grid).grid.profile is not None:
        remark(f"the engine {named} takes no profile: that of the grid is not used")
    if json:
        show_json(result.as_dict())
    elif result.rows:
        show(*_report(result))
    if result.partial:
        complain(_interrupted(len(result.rows), result.points))
        return _SIGNALLED + (result.stopped_by or 0)
    return _FAILED if result.errors or result.violations else 0


def _interrupted(done: int, points: int) -> str:
    if done == 0:
        return f"interrupted before the first of {points} points was done: nothing is written"
    return f"interrupted: {done} of {points} points are done; the same command runs the rest"


def _report(result: SweepResult) -> list[Text]:
    before = len(result.rows) - result.ran
    rate = f", {result.ran / result.seconds:.1f} points/s" if result.ran else ""
    known = f"; {before} were done before" if before else ""
    lines = [Text(result.title, style="dim")] if result.title else []
    lines.append(Text(f"{result.out}: {len(result.rows)} of {result.points} points, {len(result.columns)} columns"))
    lines.append(Text(f"{result.ran} {noun(result.ran, 'point')} in {result.seconds:.1f} s{rate}{known}"))
    if result.violations:
        kinds = ", ".join(dict.fromkeys(str(row["violations.first"]) for row in result.violations))
        many = len(result.violations)
        lines.append(Text(f"violations at {many} {noun(many, 'point')}: {kinds}", style="bold red"))
    if result.errors:
        many = len(result.errors)
        lines.append(Text(f"{many} {noun(many, 'point has', 'points have')} no result:", style="bold red"))
        reasons = list(dict.fromkeys(str(row["error"]) for row in result.errors))
        lines += [Text(f"  {reason}") for reason in reasons[:_MOST_SHOWN]]
    return lines
